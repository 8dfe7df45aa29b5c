//! One shard and connections that make it hold what it may not free: replies that nobody takes, and messages that are begun
//! and never ended. All of them together keep within the relay's memory, and others are served.

use protocol::frame::{self, Opcode};
use protocol::{Command, Content, ErrorCode, Page};
use relay::budget::Share;
use relay::config::Limits;
use relay::ids::{SessionId, owner_of};
use relay::mesh::{Answer, Answered, Ask, Asked, Mesh};

use crate::rig::{MASK, Rig, closed_with, records, said, text};

const MIB: usize = 1 << 20;
/// Bytes of each message that is never ended.
const BEGUN: usize = 200 * 1024;
/// What those who hold less than a share may add in a turn, bytes.
const SLACK: usize = MIB;
/// Its place among the counts of refusals.
const BUSY: usize = ErrorCode::Busy as usize - 1;

/// A connection that has said `connect`.
fn connect(rig: &mut Rig, slot: u16, user: &str) -> SessionId {
    let (id, mut up) = rig.open(slot);
    up.extend(said(1, Command::Connect { user: Some(user.to_owned().into()), device: None }));
    rig.turn(&[(id, &up)]);
    id
}

/// All but the end of a message.
fn begun() -> Vec<u8> {
    let mut message = text(&" ".repeat(BEGUN + 1));
    message.pop();
    message
}

#[test]
fn pages_that_nobody_takes_are_refused_when_all_of_them_are_as_much_as_the_relay_may_hold() {
    let limits = Limits { memory_bytes_max: 16 * MIB, max_connections: 1000, ..Limits::defaults() };
    let mut rig = Rig::new(limits.clone());
    let healthy = connect(&mut rig, 0, "ann");
    let writer = connect(&mut rig, 61, "bo");
    let hoarders: Vec<_> = (1..=60).map(|slot| connect(&mut rig, slot, &format!("user-{slot}"))).collect();
    rig.stalled.extend(&hoarders);
    let pages: Vec<u8> = (2..10).flat_map(|tag| said(tag, Command::history("deep", Page::Newest, 1000))).collect();
    for turn in 0..200 {
        let inputs: Vec<_> = hoarders.iter().filter(|id| !rig.paused.contains(id)).map(|&id| (id, &*pages)).collect();
        rig.turn(&inputs);
        let (held, used) = (rig.shard.gauges().connections_bytes, rig.shard.memory_used());
        assert!(held <= limits.memory_bytes_max + SLACK, "turn {turn}: connections hold {held} bytes");
        assert!(used >= held as i64, "turn {turn}: connections hold {held} bytes and {used} are counted");
    }
    let held = rig.shard.gauges().connections_bytes;
    assert!(held > limits.memory_bytes_max / 2, "all is used up: {held}");
    rig.turn(&[]);
    rig.heard(healthy);
    rig.turn(&[(healthy, &said(7, Command::Ping))]);
    rig.turn(&[]);
    assert!(!rig.heard(healthy).is_empty(), "who holds nothing is served");
    rig.heard(writer);
    let publish =
        Command::Publish { room: "shallow".into(), content: Content::Json, body: b"1".as_slice().into(), key: None };
    rig.turn(&[(writer, &said(2, publish))]);
    (0..10).for_each(|_| rig.turn(&[]));
    let answer = rig.heard(writer);
    assert!(answer.windows(9).any(|part| part == br#""publish""#), "who writes is served: {answer:?}");
    // In time they are closed as slow consumers.
    for _ in 0..100 {
        rig.us += 1_000_000;
        rig.turn(&[(healthy, &said(7, Command::Ping))]);
    }
    rig.heard(healthy);
    let left = hoarders.iter().filter(|id| rig.open.contains(id)).count();
    assert!(left == 0 && rig.open.contains(&healthy), "{left} of the others are left");
    rig.turn(&[(healthy, &said(8, Command::history("deep", Page::Newest, 1000)))]);
    (0..5).for_each(|_| rig.turn(&[]));
    let page = rig.heard(healthy);
    assert!(page.len() > 1000 * 100, "{} bytes of a page", page.len());
}

#[test]
fn pages_from_other_cores_that_are_longer_as_they_are_sent_are_refused_when_they_come() {
    let limits = Limits { memory_bytes_max: 16 * MIB, max_connections: 1000, ..Limits::defaults() };
    let mut rig = Rig::first_of(2, limits.clone());
    let room = (0..100).map(|n| format!("room-{n}")).find(|room| owner_of(room, 2) == 1).unwrap();
    for slot in 0..60 {
        let id = connect(&mut rig, slot, "user");
        let page = Command::history(&*room, Page::Newest, 1000);
        rig.turn(&[(id, &said(2, page))]);
        rig.stalled.insert(id);
    }
    // As memory goes they are small. As JSON, each of them is as large as a page may be.
    let records = records(&[1; 700])[..200].to_vec();
    let mut owner = Share::new(&rig.budget);
    for asked in rig.shard.turn.outbox.mesh[1].drain(..).collect::<Vec<_>>() {
        let Mesh::Ask(Asked { origin, room, ask: Ask::History { .. }, .. }) = asked else { panic!("{asked:?}") };
        let answer = Answer::Page { epoch: 1, head: 200, spare: 0, records: records.clone() };
        let page = Mesh::Answer(Answered { origin, room, answer });
        owner.add(page.bytes());
        rig.shard.on_mesh(page);
    }
    rig.turn(&[]);
    let held = rig.shard.gauges().connections_bytes;
    let (some, most) = (limits.memory_bytes_max / 2, limits.memory_bytes_max + SLACK);
    assert!((some..most).contains(&held), "connections hold {held} bytes");
    assert!(rig.shard.turn.stats.refusals.0[BUSY] > 30, "{:?}", rig.shard.turn.stats.refusals);
}

#[test]
fn of_messages_that_are_begun_and_never_ended_the_oldest_are_given_up() {
    let limits = Limits { memory_bytes_max: 64 * MIB, max_connections: 1000, ..Limits::defaults() };
    let mut rig = Rig::new(limits.clone());
    let healthy = connect(&mut rig, 0, "ann");
    let slow: Vec<_> = (1..=100).map(|slot| connect(&mut rig, slot, &format!("user-{slot}"))).collect();
    let begun = begun();
    for &id in &slow {
        for part in begun.chunks(32 * 1024) {
            rig.turn(&[(id, part)]);
            let halfway = rig.shard.gauges().halfway_bytes;
            assert!(halfway <= limits.memory_bytes_max / 8, "{halfway} bytes are half-way");
        }
    }
    let given_up = slow.iter().filter(|id| !rig.open.contains(id)).count();
    assert!((60..=64).contains(&given_up), "{given_up} of 100 are given up");
    for (n, &id) in slow.iter().enumerate() {
        let code = closed_with(&rig.heard(id));
        assert_eq!(code, (n < given_up).then_some(3011), "number {n} of {given_up}");
    }
    // A whole one that comes in pieces is read among them.
    let mut message = Vec::new();
    let ping = format!("{}{}", " ".repeat(BEGUN), r#"{"id":7,"ping":{}}"#);
    frame::write_masked(Opcode::Text, ping.as_bytes(), MASK, &mut message);
    message.chunks(32 * 1024).for_each(|part| rig.turn(&[(healthy, part)]));
    rig.turn(&[]);
    let heard = rig.heard(healthy);
    assert!(heard.ends_with(br#"{"id":7,"ping":{}}"#) && rig.open.contains(&healthy));
}

#[test]
fn of_requests_that_are_begun_and_never_ended_the_oldest_are_given_up() {
    let limits = Limits { memory_bytes_max: 16 * MIB, max_connections: 10_000, ..Limits::defaults() };
    let mut rig = Rig::new(limits.clone());
    let head = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(8000));
    let slow: Vec<_> = (0..400).map(|slot| rig.open(slot).0).collect();
    for &id in &slow {
        rig.turn(&[(id, head.as_bytes())]);
        let halfway = rig.shard.gauges().halfway_bytes;
        assert!(halfway <= limits.memory_bytes_max / 8, "{halfway} bytes are half-way");
    }
    rig.turn(&[]);
    let open = slow.iter().filter(|id| rig.open.contains(id)).count();
    assert!((250..270).contains(&open), "{open} of 400 are open");
    assert!(rig.heard(slow[0]).starts_with(b"HTTP/1.1 503 ") && rig.open.contains(&slow[399]));
}
