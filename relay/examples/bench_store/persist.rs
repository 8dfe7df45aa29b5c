//! Level one: [`relay::persist`] driven as a shard drives it, without connections.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flume::Receiver;
use protocol::snowflake::Snowflake;
use protocol::{Content, OwnedParts};
use relay::persist::{self, Persist, ReplyTo, wall_ms};
use relay::room::Most;
use relay::shard::{StoreReply, StoreRequest};
use storage::{Append, Key, Kind, Record, Store, StoreError};
use uring::Wake;

use crate::chat;
use crate::counted::Counted;
use crate::meter::{Arrivals, Load, Measured, Meter};

/// Records a room's append takes at most, as in a shard.
const APPEND_RECORDS_MAX: usize = 1024;
/// How long the thread rests when nothing comes: at least, and at most.
const REST: Duration = Duration::from_micros(500);
const REST_MAX: Duration = Duration::from_millis(10);
/// How long the storage threads may take to end.
const STOP: Duration = Duration::from_secs(10);
/// The name of this thread, whose CPU does not count.
const ME: &str = "bench_store";

/// One room as its shard sees it: intended times of its publishes.
struct Room {
    name: Arc<str>,
    epoch: u64,
    last_seq: u64,
    last_id: u64,
    pending: VecDeque<u64>,
    flight: Vec<u64>,
}

impl Room {
    /// Makes an append of what is pending unless one is in flight.
    fn form(&mut self, ids: &mut Snowflake, bodies: &mut impl Iterator<Item = Arc<[u8]>>) -> Option<Append> {
        if !self.flight.is_empty() || self.pending.is_empty() {
            return None;
        }
        let count = self.pending.len().min(APPEND_RECORDS_MAX);
        self.flight.extend(self.pending.drain(..count));
        let time_ms = wall_ms();
        let records = bodies.take(count).map(|body| {
            self.last_seq += 1;
            self.last_id = ids.next(time_ms, self.last_id);
            Arc::new(Record {
                kind: Kind::Message,
                seq: self.last_seq,
                id: self.last_id,
                time_ms,
                sender: format!("user{}", self.last_seq % 1000).into(),
                content: Content::Text,
                body: (&*body).into(),
                key: Some(Key {
                    hash: u128::from(self.last_id) << 64 | u128::from(self.last_seq),
                    body: Some(self.last_id),
                }),
                parts: OwnedParts::default(),
            })
        });
        Some(Append { room: self.name.clone(), epoch: self.epoch, records: records.collect() })
    }
}

/// The thread in a shard's place.
struct Driver<'a> {
    load: &'a Load,
    meter: Meter,
    arrivals: Arrivals,
    rooms: Vec<Room>,
    by_name: HashMap<Arc<str>, usize>,
    /// Rooms with something pending and perhaps no append in flight.
    ready: Vec<usize>,
    ids: Snowflake,
    appends: u64,
    records: u64,
}

impl Driver<'_> {
    fn publish(&mut self, room: usize, intended_ns: u64) {
        self.rooms[room].pending.push_back(intended_ns);
        self.ready.push(room);
        self.meter.published();
    }

    fn take(&mut self, reply: StoreReply, now_ns: u64) {
        let StoreReply::Appended { room } = reply else { return };
        let room = self.by_name[&room];
        self.ready.push(room);
        for intended_ns in std::mem::take(&mut self.rooms[room].flight) {
            self.meter.acked(intended_ns, now_ns);
            if self.load.is_flat_out() && self.meter.is_open(now_ns) {
                self.publish(room, now_ns);
            }
        }
    }

    fn form(&mut self, bodies: &mut impl Iterator<Item = Arc<[u8]>>) -> Vec<StoreRequest> {
        let mut requests = Vec::new();
        for room in self.ready.drain(..) {
            if let Some(append) = self.rooms[room].form(&mut self.ids, bodies) {
                self.appends += 1;
                self.records += append.records.len() as u64;
                requests.push(StoreRequest::Append(append));
            }
        }
        requests
    }

    /// Until everything is answered.
    fn run(&mut self, persist: &Persist, replies: &Receiver<Vec<StoreReply>>) {
        let lines: Vec<Arc<[u8]>> = chat::lines().into_iter().map(|line| line.into_bytes().into()).collect();
        let mut bodies = lines.iter().cloned().cycle();
        self.load.at_first().for_each(|room| self.publish(room, 0));
        let mut came = None;
        loop {
            let now_ns = self.meter.now_ns();
            for reply in came.take().into_iter().chain(replies.try_iter()).flatten() {
                self.take(reply, now_ns);
            }
            while let Some((intended_ns, room)) = self.arrivals.due(now_ns, &self.meter) {
                self.publish(room, intended_ns);
            }
            persist.send(0, &mut self.form(&mut bodies));
            if self.meter.is_over(now_ns) {
                return;
            }
            let due = Duration::from_nanos(self.arrivals.next_ns().saturating_sub(now_ns));
            came = replies.recv_timeout(due.clamp(REST, REST_MAX)).ok();
        }
    }
}

/// Runs one load on the store.
pub fn run(store: &Arc<Counted>, load: &Load) -> anyhow::Result<Measured> {
    let began_ms = wall_ms();
    let open = |n| {
        let name: Arc<str> = format!("bench-{began_ms}-{n}").into();
        let epoch = store.open_log(&name)?.epoch;
        Ok(Room { name, epoch, last_seq: 0, last_id: 0, pending: VecDeque::new(), flight: Vec::new() })
    };
    let rooms = (0..load.rooms).map(open).collect::<Result<Vec<_>, StoreError>>()?;
    let (to, replies) = flume::unbounded();
    let reply_to = ReplyTo { replies: to, wake: Wake::new()? };
    let shared: Arc<dyn Store> = store.clone();
    let (persist, threads, ids_after_ms) =
        persist::start(&shared, Most { messages: 1, bytes: 1 }, &[reply_to], |error| {
            eprintln!("bench_store: {error}");
            std::process::exit(1);
        })?;
    store.take();
    let mut driver = Driver {
        load,
        meter: Meter::new(load, std::process::id(), ME),
        arrivals: Arrivals::of(load),
        by_name: rooms.iter().zip(0..).map(|(room, n)| (room.name.clone(), n)).collect(),
        rooms,
        ready: Vec::new(),
        ids: Snowflake::new(0, 0, ids_after_ms),
        appends: 0,
        records: 0,
    };
    driver.run(&persist, &replies);
    drop(persist);
    threads.stop(Instant::now() + STOP);
    let Driver { meter, appends, records, .. } = driver;
    let mut measured = meter.finish();
    measured.records_per_append = Some(records as f64 / appends.max(1) as f64);
    let writes = store.take();
    if let Some(times) = writes.times.summary() {
        measured.records_per_write = Some(writes.records as f64 / writes.times.count() as f64);
        measured.write_ms = Some(times.p50_ns as f64 / 1e6);
    }
    Ok(measured)
}
