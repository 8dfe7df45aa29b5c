//! What it costs to check what one thread's viewers of a giant room receive: no sockets, the same bytes for everybody.
//!
//! `cargo run --release -p loadgen --example receive -- [VIEWERS] [SECONDS] [FRAMES]`: each viewer gets one visit a
//! second with 1,167 lines in so many compressed frames, in a receive buffer of its own out of a few.

use std::env;
use std::io;
use std::time::{Duration, Instant};

use loadgen::crowd::{Action, Crowd};
use loadgen::plan::{Agenda, Distribution, Plan, Shape};
use loadgen::scenario::Scenario;
use loadgen::target::{JOIN, Url};
use loadgen::text;
use loadgen::world::{Route, World};
use protocol::frame::Deflater;
use protocol::snowflake::{EPOCH_MS, Snowflake, time_ms};
use protocol::{Content, Dialect, Event, Kind, Message, Parts, handshake, native};

const LINES_PER_S: u32 = 1_167;
const SECOND_NS: u64 = 1_000_000_000;
/// Receive buffers that are in use in turn.
const BUFFERS: usize = 64;
const BUFFER_BYTES: usize = 64 << 10;

fn main() -> io::Result<()> {
    let number = |nth, default| env::args().nth(nth).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (viewers, seconds, frames) = (number(1, 35_000), number(2, 5), number(3, 16));
    let world = world(viewers, seconds).map_err(io::Error::other)?;
    let mut crowd = Crowd::new(&world, (0..viewers).collect());
    (0..viewers).for_each(|place| join(&mut crowd, place));
    world.start_traffic(0);

    let agenda = Agenda::new(&world.plan, (0..viewers).collect());
    let mut log = Log { agenda, ids: Snowflake::new(0, 0, 0), last_seq: 0, deflater: Deflater::new(6) };
    let mut buffers = vec![vec![0; BUFFER_BYTES]; BUFFERS];
    let (mut busy, mut copying, mut bytes) = (Duration::ZERO, Duration::ZERO, 0);
    for second in 1..=u64::from(seconds) {
        let visit = log.visit(&world, second * SECOND_NS, frames);
        for place in 0..viewers {
            let now_ns = second * SECOND_NS + u64::from(place) * SECOND_NS / u64::from(viewers);
            let start = Instant::now();
            let buffer = &mut buffers[place as usize % BUFFERS][..visit.len()];
            buffer.copy_from_slice(&visit);
            let copied = Instant::now();
            crowd.on_received(place, buffer, now_ns);
            busy += copied.elapsed();
            copying += copied - start;
            bytes += visit.len();
        }
    }
    let start = Instant::now();
    crowd.record_heard();
    busy += start.elapsed();

    let (visits, deliveries) = (u64::from(viewers) * u64::from(seconds), crowd.ledger.deliveries);
    assert_eq!((deliveries.received, deliveries.lost, crowd.faults.total()), (log.last_seq * u64::from(viewers), 0, 0));
    let per = |n: u64| busy.as_nanos() as f64 / n as f64;
    println!("visit    {} bytes, {:.0} ns to copy", bytes as u64 / visits, copying.as_nanos() as f64 / visits as f64);
    println!(
        "checked  {:.0} ns a visit, {:.0} ns a frame, {:.2} ns a delivery",
        per(visits),
        per(crowd.counts.frames),
        per(deliveries.received)
    );
    println!(
        "         {:.2} GB/s, {:.0} million deliveries/s",
        bytes as f64 / busy.as_nanos() as f64,
        1e3 / per(deliveries.received)
    );
    println!(
        "         {:.2} inflated bytes a byte",
        crowd.counts.inflated_bytes as f64 / crowd.counts.batch_bytes as f64
    );
    Ok(())
}

/// All viewers together say the lines of the giant room, so that this thread's are as many as when there are others.
fn world(viewers: u32, seconds: u32) -> Result<World, String> {
    let shape = Shape {
        seed: 1,
        users: viewers,
        rooms: 1,
        distribution: Distribution::Uniform,
        slot_ns: u64::from(viewers) * SECOND_NS / u64::from(LINES_PER_S),
        warm_up_ns: 0,
        duration_ns: u64::from(seconds) * SECOND_NS,
        scenario: Scenario::default(),
    };
    let url = Url::parse("ws://127.0.0.1:1/native")?;
    let address = url.resolve()?;
    let (sources, users_per_source) = (Vec::new(), 1);
    let route = Route {
        url,
        address,
        sources,
        users_per_source,
        ramp: 1,
        threads: 1,
        ring_sockets: 8,
        dials: 512,
        deflate: true,
    };
    Ok(World::new(Plan::new(shape), route, "example".to_owned()))
}

fn join(crowd: &mut Crowd<'_>, place: u32) {
    crowd.begin(place, 0);
    crowd.on_connected(place, Ok(()));
    let Some(Action::Send(_, request)) = crowd.actions.pop() else { panic!("a request is sent") };
    let handshake::Request::Upgrade { upgrade, .. } = handshake::read_request(&request, 4_096) else {
        panic!("a whole request")
    };
    let mut answer = Vec::new();
    handshake::accept(&upgrade, Some(native::SUBPROTOCOL), true, &mut answer);
    let joined =
        Event::Joined { room: "load-example-0", epoch: 1, from: 0, head: 0, recovering: false, recovered: false };
    Dialect::Native.encode(JOIN, &joined, &mut answer);
    crowd.on_received(place, &mut answer, 0);
    crowd.actions.clear();
}

/// The room's log, as the relay would send it.
struct Log {
    agenda: Agenda,
    ids: Snowflake,
    last_seq: u64,
    deflater: Deflater,
}

impl Log {
    /// What is due until `until_ns`, in so many frames.
    fn visit(&mut self, world: &World, until_ns: u64, frames: u32) -> Vec<u8> {
        let mut lines = Vec::new();
        while let Some(due) = self.agenda.take_due(&world.plan, until_ns) {
            let mut body = String::new();
            text::write_body(world.plan.shape.seed, due.user, due.k, &mut body);
            world.sends.sent(due.user, due.k, due.intended_ns + 1);
            let id = self.ids.next(EPOCH_MS + due.intended_ns / 1_000_000, 0);
            lines.push((id, format!("example-{}", due.user), body));
        }
        let mut plain = Vec::new();
        for lines in lines.chunks(lines.len().div_ceil(frames as usize).max(1)) {
            let messages: Vec<_> = (self.last_seq + 1..).zip(lines).map(message).collect();
            self.last_seq += messages.len() as u64;
            Dialect::Native.encode(0, &Event::Batch { room: "load-example-0", messages: &messages }, &mut plain);
        }
        let mut packed = Vec::new();
        self.deflater.deflate(&plain, 64, &mut packed);
        packed
    }
}

fn message((seq, (id, user, body)): (u64, &(u64, String, String))) -> Message<'_> {
    let (content, kind, parts) = (Content::Text, Kind::Message, Parts::NONE);
    Message { seq, id: *id, time_ms: time_ms(*id), user, content, body: body.as_bytes(), kind, parts }
}
