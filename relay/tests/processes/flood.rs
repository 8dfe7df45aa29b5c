//! Connections that only make work, or let others hold what they do not read: they cost neither memory nor anybody's turn.

use std::io::Write;
use std::thread;

use protocol::frame::{self, Opcode};
use protocol::{Command, Start, centrifuge};

use crate::client::{Client, publish};
use crate::event::Event;
use crate::process::Relay;

/// What a relay may grow by whatever it is sent, bytes.
const GROWTH_MAX: usize = 96 * 1024 * 1024;
/// Lines of the rooms that are asked for.
const LINES: usize = 1000;

/// A room with a page full of messages; one on each shard.
fn fill(relay: &Relay, body: &str, lines: usize) -> Vec<String> {
    let rooms = crate::chat::rooms();
    let mut writer = Client::native(relay.address, "writer");
    for room in &rooms {
        let tags: Vec<_> = (0..lines).map(|_| writer.publish(room, body, None)).collect();
        for tag in tags {
            writer.reply(tag).acked();
        }
    }
    rooms
}

#[test]
fn frames_of_thirty_thousand_pongs_end_their_connections_and_hold_up_nobody() {
    let relay = Relay::in_memory(&["--shards", "1"]);
    let mut healthy = Client::native(relay.address, "healthy");
    let pongs = "{}".repeat(32_700);
    let flooders: Vec<_> = (0..4)
        .map(|_| {
            let mut flooder = Client::open_deflating(relay.address, centrifuge::PATH);
            let pongs = pongs.clone();
            thread::spawn(move || {
                // Nobody said `connect`. The relay may be gone from this connection before all is sent.
                let _ = (0..200).try_for_each(|_| flooder.deflated(Opcode::Text, pongs.as_bytes()));
                flooder.rest()
            })
        })
        .collect();
    for n in 0..50 {
        assert_eq!(healthy.say("room", "in between").0, n + 1);
    }
    for flooder in flooders {
        let rest = flooder.join().unwrap();
        assert!(rest.iter().all(|event| matches!(event, Event::Closed { code: Some(3013), .. })), "{rest:?}");
    }
    assert_eq!(relay.stop().count("flood_closed"), 4);
}

#[test]
fn pages_that_nobody_waits_for_are_made_as_they_are_read_and_a_newcomer_is_served() {
    let relay = Relay::in_memory(&[]);
    let rooms = fill(&relay, "x", LINES);
    let before = relay.resident_bytes();
    let flooder = Client::centrifuge(relay.address, "flooder");
    let mut writer = flooder.writer();
    let command = |room: &String| format!(r#"{{"id":7,"history":{{"channel":"{room}","limit":1000,"reverse":true}}}}"#);
    let batch = rooms.iter().map(command).collect::<Vec<_>>().join("\n").repeat(200);
    let mut frames = Vec::new();
    frame::write_masked(Opcode::Text, batch.as_bytes(), [1, 2, 3, 4], &mut frames);
    // It reads nothing, and is not read when too much waits for it: it ends with the relay.
    let flood = thread::spawn(move || while writer.write_all(&frames).is_ok() {});
    let mut grown = 0;
    for n in 0..100 {
        let mut newcomer = Client::native(relay.address, "newcomer");
        assert_eq!(newcomer.join(&rooms[0], Start::Recent(1)).head, (LINES + n) as u64);
        newcomer.say(&rooms[0], "hello");
        newcomer.leave();
        grown = grown.max(relay.resident_bytes().saturating_sub(before));
    }
    assert!(grown < GROWTH_MAX, "a flood of history commands cost {grown} bytes");
    drop(flooder);
    relay.kill();
    flood.join().unwrap();
}

#[test]
fn backlogs_that_nobody_reads_cost_a_piece_each() {
    const READERS: usize = 40;
    let relay = Relay::in_memory(&["--history-messages-max", "1000", "--replies-bytes-max", "33554432"]);
    // Each byte is six in JSON.
    let rooms = fill(&relay, &"\u{1}".repeat(8192), 250);
    let before = relay.resident_bytes();
    let mut readers: Vec<Client> = (0..READERS)
        .map(|n| {
            let mut reader = Client::try_open(relay.address, centrifuge::PATH, Some(4096)).unwrap();
            for (id, command) in [
                format!(r#""connect":{{"data":{{"user":"reader-{n}"}}}}"#),
                format!(r#""subscribe":{{"channel":"{}","recent":1000}}"#, rooms[n % 2]),
                format!(r#""unsubscribe":{{"channel":"{}"}}"#, rooms[n % 2]),
                format!(r#""subscribe":{{"channel":"{}","recent":1000}}"#, rooms[n % 2]),
            ]
            .iter()
            .enumerate()
            {
                reader.frame(Opcode::Text, format!(r#"{{"id":{},{command}}}"#, id + 1).as_bytes()).unwrap();
            }
            reader
        })
        .collect();
    let mut healthy = Client::native(relay.address, "healthy");
    (0..100).for_each(|_| assert_eq!(healthy.call(Command::Ping), Event::Pong));
    assert!(matches!(healthy.call(publish("elsewhere", "x", None)), Event::Acked { .. }));
    let grown = relay.resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "{READERS} backlogs of 12 MB, unread, cost {grown} bytes");
    // And they are whole for who reads after all.
    let last = readers.last_mut().unwrap();
    let mut seen = 0;
    while seen < 100 {
        match last.next().1 {
            Event::Json(said) if said["push"]["pub"]["offset"].is_u64() => seen += 1,
            Event::Json(_) => {}
            other => panic!("{other:?}"),
        }
    }
}
