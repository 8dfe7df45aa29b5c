//! Level one: [`relay::persist`] driven as a shard drives it, without connections.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::Content;
use protocol::snowflake::Snowflake;
use relay::persist::{self, ReplyTo, wall_ms};
use relay::shard::{StoreReply, StoreRequest};
use storage::{Append, Kind, Record, Store};
use uring::Wake;

use crate::chat;
use crate::counted::Counted;
use crate::meter::{Arrivals, Load, Measured, Meter};

/// Records a room's append takes at most, as in a shard.
const APPEND_RECORDS_MAX: usize = 1024;
/// How long the thread rests when nothing is due and nothing comes.
const REST: Duration = Duration::from_micros(500);
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
                key: Some(u128::from(self.last_id) << 64 | u128::from(self.last_seq)),
            })
        });
        Some(Append { room: self.name.clone(), epoch: self.epoch, records: records.collect() })
    }
}

/// Runs one load on the store.
pub fn run(store: &Arc<Counted>, load: &Load) -> anyhow::Result<Measured> {
    let began_ms = wall_ms();
    let mut rooms = Vec::with_capacity(load.rooms);
    for n in 0..load.rooms {
        let name: Arc<str> = format!("bench-{began_ms}-{n}").into();
        let state = store.open_log(&name)?;
        let (pending, flight) = (VecDeque::new(), Vec::new());
        rooms.push(Room { name, epoch: state.epoch, last_seq: 0, last_id: 0, pending, flight });
    }
    let by_name: HashMap<_, _> = rooms.iter().zip(0..).map(|(room, n)| (room.name.clone(), n)).collect();
    let lines: Vec<Arc<[u8]>> = chat::lines().into_iter().map(|line| line.into_bytes().into()).collect();
    let mut bodies = lines.iter().cloned().cycle();

    let (to, replies) = flume::unbounded();
    let shared: Arc<dyn Store> = store.clone();
    let reply_to = ReplyTo { replies: to, wake: Wake::new()? };
    let (persist, threads, ids_after_ms) = persist::start(&shared, 1, &[reply_to], |error| {
        eprintln!("bench_store: {error}");
        std::process::exit(1);
    })?;
    let mut ids = Snowflake::new(0, 0, ids_after_ms);
    store.take();

    let mut meter = Meter::new(load, std::process::id(), ME);
    let mut arrivals = Arrivals::of(load);
    let (mut appends, mut records) = (0u64, 0u64);
    let mut requests = Vec::new();
    let mut ready: Vec<usize> = Vec::new();
    let mut came: Option<Vec<StoreReply>> = None;
    for room in load.at_first() {
        rooms[room].pending.push_back(0);
        meter.published();
        ready.push(room);
    }
    loop {
        let now_ns = meter.now_ns();
        for reply in came.take().into_iter().chain(replies.try_iter()).flatten() {
            let StoreReply::Appended { room } = reply else { continue };
            let room = &mut rooms[by_name[&room]];
            ready.push(by_name[&room.name]);
            for intended_ns in room.flight.drain(..) {
                meter.acked(intended_ns, now_ns);
                if load.is_flat_out() && meter.is_open(now_ns) {
                    room.pending.push_back(now_ns);
                    meter.published();
                }
            }
        }
        while let Some((intended_ns, room)) = arrivals.due(now_ns).filter(|(at_ns, _)| meter.is_open(*at_ns)) {
            rooms[room].pending.push_back(intended_ns);
            meter.published();
            ready.push(room);
        }
        for room in ready.drain(..) {
            if let Some(append) = rooms[room].form(&mut ids, &mut bodies) {
                appends += 1;
                records += append.records.len() as u64;
                requests.push(StoreRequest::Append(append));
            }
        }
        if !requests.is_empty() {
            persist.send(0, &mut requests);
        }
        if meter.is_over(now_ns) {
            break;
        }
        let due = Duration::from_nanos(arrivals.next_ns().saturating_sub(now_ns));
        came = replies.recv_timeout(due.max(REST).min(Duration::from_millis(10))).ok();
    }
    drop(persist);
    threads.stop(Instant::now() + STOP);
    let writes = store.take();
    let mut measured = meter.finish();
    measured.records_per_append = Some(records as f64 / appends.max(1) as f64);
    if let Some(times) = writes.times.summary() {
        measured.records_per_write = Some(writes.records as f64 / writes.times.count() as f64);
        measured.write_ms = Some(times.p50_ns as f64 / 1e6);
    }
    Ok(measured)
}
