//! What it costs a shard to take in what connections send: `cargo run --release -p relay --example intake`. The prices
//! in `relay/src/shard/intake.rs` come from these figures.
#![allow(clippy::unwrap_used, reason = "an example ends by panicking")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::frame::{self, Deflater, Opcode};
use protocol::{Content, OwnedParts, centrifuge, handshake};
use relay::config::Limits;
use relay::ids::SessionId;
use relay::room::Log;
use relay::shard::{Now, Setup, Shard, StoreReply, StoreRequest};
use storage::{Kind, LogState, Record};

const MASK: [u8; 4] = [1, 2, 3, 4];
const LINES: u64 = 1000;
/// What a ring hands over at once.
const RECEIVE_BYTES: usize = 2048;
const LONG: Duration = Duration::from_millis(200);

struct Rig {
    shard: Shard,
    began: Instant,
    id: SessionId,
}

impl Rig {
    fn new() -> Self {
        let limits = Limits { session_chatter_rate: 4_000_000, session_work_percent: 1_000_000, ..Limits::defaults() };
        let setup = Setup::first_of(1, limits);
        let mut rig = Self { shard: Shard::new(setup), began: Instant::now(), id: SessionId::new(0, 0, 0, 0) };
        let mut hello = Vec::new();
        handshake::request("relay", centrifuge::PATH, None, true, [0; 16], &mut hello);
        frame::write_masked(
            Opcode::Text,
            br#"{"id":1,"connect":{}}{"id":2,"subscribe":{"channel":"deep"}}"#,
            MASK,
            &mut hello,
        );
        rig.shard.on_open(rig.id, None, true);
        rig.turn(&mut hello);
        rig
    }

    /// One turn; what it causes is carried out at once.
    fn turn(&mut self, bytes: &mut [u8]) {
        let us = self.began.elapsed().as_micros() as u64;
        self.shard.begin(Now { us, wall_ms: 1_800_000_000_000 + us / 1000, cpu_us: us });
        self.shard.on_bytes(self.id, bytes);
        self.shard.flush();
        for (id, segment) in std::mem::take(&mut self.shard.turn.outbox.sends) {
            self.shard.on_sent(id, Ok(segment.len()));
        }
        for request in std::mem::take(&mut self.shard.turn.outbox.store) {
            if let StoreRequest::Open { room } = request {
                let state = LogState { epoch: 1, last_seq: LINES, last_id: LINES };
                let log = Some(Log { state, tail: records(), keys: Vec::new() });
                self.shard.on_stored(StoreReply::Opened { room, log });
            }
        }
        self.shard.turn.outbox.receives.clear();
    }

    /// Runs `piece` again and again, of which each has so many units of work; gives nanoseconds a unit.
    fn measure(&mut self, piece: &[u8], units: usize) -> f64 {
        let (mut done, mut busy) = (0, Duration::ZERO);
        while busy < LONG {
            let mut piece = piece.to_vec();
            let start = Instant::now();
            for bytes in piece.chunks_mut(RECEIVE_BYTES) {
                self.turn(bytes);
            }
            while self.shard.gauges().left_bytes > 0 {
                self.turn(&mut []);
            }
            busy += start.elapsed();
            done += units;
        }
        busy.as_nanos() as f64 / done as f64
    }
}

fn records() -> Vec<Arc<Record>> {
    let record = |seq| Record {
        kind: Kind::Message,
        seq,
        id: seq,
        time_ms: 1_800_000_000_000,
        sender: "somebody".into(),
        content: Content::Text,
        body: "something that somebody says in a chat".as_bytes().into(),
        key: None,
        parts: OwnedParts::default(),
    };
    (1..=LINES).map(|seq| Arc::new(record(seq))).collect()
}

fn text(payload: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write_masked(Opcode::Text, payload.as_bytes(), MASK, &mut out);
    out
}

fn main() {
    let history = |limit| format!(r#"{{"id":7,"history":{{"channel":"deep","limit":{limit},"reverse":true}}}}"#);
    let mut deflated = Vec::new();
    Deflater::new(9).write_masked(Opcode::Text, "{}".repeat(32_700).as_bytes(), MASK, &mut deflated);
    let mut pong = Vec::new();
    frame::write_masked(Opcode::Pong, b"", MASK, &mut pong);
    let fragments =
        [&[0x01, 0x80, 0, 0, 0, 0][..], &[0x00, 0x80, 0, 0, 0, 0].repeat(990), &[0x80, 0x80, 0, 0, 0, 0]].concat();
    let blank = " ".repeat(60_000);
    let long = text(&format!(r#"{{"id":3,"ping":{{}}{blank}}}"#));
    for (what, piece, units) in [
        ("a pong of many in a message", text(&"{}".repeat(1000)), 1000),
        ("a pong of 32,700 in a deflated message", deflated, 32_700),
        ("a WebSocket pong", pong.repeat(300), 300),
        ("an empty fragment", fragments, 992),
        ("a byte of a long message", long, 60_000),
        ("a ping", text(&r#"{"id":3,"ping":{}}"#.repeat(100)), 100),
        ("an unsubscribe that is refused", text(&r#"{"id":3,"unsubscribe":{"channel":"no"}}"#.repeat(50)), 50),
        (
            "a publish that is refused",
            text(&r#"{"id":3,"publish":{"channel":"deep","data":"xxxxxxxxxxxxxx"}}"#.repeat(30)),
            30,
        ),
        ("an empty page", text(&history(0).repeat(30)), 30),
        ("a message of a page of 1000", text(&history(1000).repeat(4)), 4000),
    ] {
        println!("{what:42} {:9.1} ns", Rig::new().measure(&piece, units));
    }
}
