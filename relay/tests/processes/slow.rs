//! Slow readers: they get gaps, cost no memory and hold up nobody.

use std::collections::BTreeMap;

use protocol::{Command, Page, Start, centrifuge, native};
use serde_json::json;

use crate::client::Client;
use crate::event::{Event, Line};
use crate::process::Relay;

const STALLED: usize = 3;
const TRICKLING: usize = 3;
/// What a trickling reader reads a step, bytes.
const SIP_BYTES: usize = 4_000;
const HEALTHY: usize = 100;
const BODY_BYTES: usize = 8 * 1024;
const LINES: u64 = 2_560;
/// Lines that are published at once.
const STEP: usize = 16;
/// Slots of a shard are looked at in so many parts, one after the other.
const ALL_PARTS: usize = 40;
/// The smallest buffers the kernel gives, so that little fits between the relay and a reader that stopped.
const TINY: usize = 4096;
const FLAGS: [&str; 6] = ["--send-buffer-bytes", "4096", "--feed-bytes-max", "262144", "--tail-messages-max", "32"];

fn slow_reader(relay: &Relay, path: &str) -> Client {
    Client::try_open(relay.address, path, Some(TINY)).unwrap()
}

/// Publishes messages `from..=to` in steps that a `keen` reader follows.
fn busy(publisher: &mut Client, keen: &mut Client, from: u64, to: u64) {
    for first in (from..=to).step_by(STEP) {
        let seqs = first..=to.min(first + STEP as u64 - 1);
        let tags: Vec<_> = seqs.clone().map(|seq| publisher.publish("busy", &body(seq), None)).collect();
        for (tag, seq) in tags.into_iter().zip(seqs.clone()) {
            assert_eq!(publisher.reply(tag).acked().0, seq);
        }
        let lines = keen.lines(seqs.clone().count());
        assert!(lines.iter().map(|line| line.seq).eq(seqs));
    }
}

fn body(seq: u64) -> String {
    format!("{seq:0>BODY_BYTES$}")
}

#[test]
fn slow_readers_get_exact_gaps_and_cost_neither_memory_nor_others_a_byte() {
    let dir = tempfile::tempdir().unwrap();
    // Without pings, which would make the streams differ.
    let quiet = ["--ping-interval-ms", "600000", "--idle-timeout-ms", "1200000"];
    let flags = ["--feed-bytes-max", "1048576", "--tail-messages-max", "32"];
    let relay = Relay::on(dir.path(), &[flags, quiet].concat());
    let connect = |n: usize| slow_reader(&relay, native::PATH).connected(&format!("slow-{n}"));
    let mut slow: Vec<Client> = (0..STALLED + TRICKLING).map(connect).collect();
    let mut healthy: Vec<Client> =
        (0..HEALTHY).map(|n| Client::native(relay.address, &format!("healthy-{n}"))).collect();
    for member in slow.iter_mut().chain(&mut healthy) {
        member.join("busy", Start::Recent(0));
    }
    let mut publisher = Client::native(relay.address, "publisher");
    let mut middle = 0;
    healthy[0].record();
    for first in (1..=LINES).step_by(STEP) {
        if first == 1 + LINES / 2 {
            middle = relay.resident_bytes();
        }
        let (keen, others) = healthy.split_first_mut().unwrap();
        busy(&mut publisher, keen, first, first + STEP as u64 - 1);
        let stream = keen.recorded();
        let mut same = vec![0; stream.len()];
        for (n, other) in others.iter_mut().enumerate() {
            other.read_bytes(&mut same);
            assert!(same == stream, "at line {first}, stream {n} is not that of the others");
        }
        slow[STALLED..].iter_mut().for_each(|trickling| trickling.sip(SIP_BYTES));
    }
    let grown = relay.resident_bytes().saturating_sub(middle);
    let written = LINES as usize / 2 * BODY_BYTES;
    // The engine keeps what was written in memory for a while; a queue for each slow reader would be six times that.
    assert!(grown < 3 * written, "{} slow readers cost {grown} bytes while {written} were written", slow.len());

    for reader in [0, STALLED - 1, STALLED, STALLED + TRICKLING - 1] {
        assert_everything(&mut slow[reader]);
    }
    busy(&mut publisher, &mut healthy[0], LINES + 1, LINES + 1);
    assert_eq!(slow[0].lines(1)[0].seq, LINES + 1, "after its gap a reader goes on like everybody");
}

/// A slow reader has every line: it got it, or was told of the gap and finds it in history.
fn assert_everything(reader: &mut Client) {
    let (mut got, gaps) = read_to(reader, LINES);
    assert!(!gaps.is_empty(), "a slow reader cannot have everything");
    for (from, to) in gaps {
        while let Some(after) = (from - 1..to).find(|seq| !got.contains_key(&(seq + 1))) {
            let limit = (to - after) as u32;
            got.extend(reader.history("busy", Page::After(after), limit).into_iter().map(|line| (line.seq, line)));
        }
    }
    assert!(got.keys().copied().eq(1..=LINES));
    assert!(got.values().all(|line| line.text() == body(line.seq)));
}

/// Reads until message `last` was seen or named by a gap; frames and gaps must continue each other exactly.
fn read_to(reader: &mut Client, last: u64) -> (BTreeMap<u64, Line>, Vec<(u64, u64)>) {
    let (mut got, mut gaps, mut next) = (BTreeMap::new(), Vec::new(), 1);
    while next <= last {
        match reader.next().1 {
            Event::Batch { lines, .. } => {
                for line in lines {
                    assert_eq!(line.seq, next);
                    next += 1;
                    got.insert(line.seq, line);
                }
            }
            Event::Gap { from, to, .. } => {
                assert_eq!(from, next);
                assert!(to >= from);
                gaps.push((from, to));
                next = to + 1;
            }
            other => panic!("{other:?}"),
        }
    }
    (got, gaps)
}

#[test]
fn a_stalled_centrifuge_client_is_unsubscribed_and_recovers_from_its_last_offset() {
    let relay = Relay::in_memory(&FLAGS);
    let mut reader = slow_reader(&relay, centrifuge::PATH);
    reader.call_json("connect", &json!({}));
    let subscribed = reader.call_json("subscribe", &json!({ "channel": "busy" }));
    let mut publisher = Client::native(relay.address, "publisher");
    let mut keen = Client::native(relay.address, "keen");
    keen.join("busy", Start::Recent(0));
    busy(&mut publisher, &mut keen, 1, 200);

    let mut offset = 0;
    let unsubscribe = loop {
        let push = reader.next().1.json()["push"].clone();
        match push["pub"]["offset"].as_u64() {
            Some(next) => {
                assert_eq!(next, offset + 1);
                offset = next;
            }
            None => break push,
        }
    };
    assert_eq!((&unsubscribe["channel"], &unsubscribe["unsubscribe"]["code"]), (&json!("busy"), &json!(2500)));
    assert!(offset < 200);
    let again = json!({
        "channel": "busy",
        "recover": true,
        "offset": offset,
        "epoch": subscribed["subscribe"]["epoch"],
    });
    let reply = reader.call_json("subscribe", &again);
    assert_eq!((&reply["subscribe"]["recovered"], &reply["subscribe"]["offset"]), (&json!(true), &json!(offset)));
    for seq in offset + 1..=200 {
        let push = reader.next().1.json()["push"].clone();
        assert_eq!((&push["pub"]["offset"], &push["pub"]["data"]), (&json!(seq), &json!(body(seq))));
    }
}

#[test]
fn a_reader_that_takes_nothing_for_the_timeout_is_closed_as_a_slow_consumer() {
    let flags = ["--slow-consumer-timeout-ms", "1000", "--ping-interval-ms", "1000"];
    let relay = Relay::in_memory(&[&FLAGS[..], &flags].concat());
    let mut reader = slow_reader(&relay, native::PATH).connected("stalled");
    reader.join("busy", Start::Recent(0));
    let mut publisher = Client::native(relay.address, "publisher");
    let mut keen = Client::native(relay.address, "keen");
    keen.join("busy", Start::Recent(0));
    busy(&mut publisher, &mut keen, 1, 100);
    // It reads nothing, so only what it writes can tell that the relay has let go. Pings of the relay to somebody else
    // are the clock.
    while reader.try_send(Command::Ping).is_ok() {
        keen.ping();
    }
    let exit = relay.stop();
    let stats = exit.said.last().unwrap();
    assert!(stats.contains("slow_closed: 1") && stats.contains("idle_closed: 0"), "{exit:?}");
}

#[test]
fn a_stalled_reader_that_reads_again_in_time_is_told_why_it_was_closed() {
    let flags = ["--slow-consumer-timeout-ms", "1000", "--ping-interval-ms", "1000"];
    let relay = Relay::in_memory(&[&FLAGS[..], &flags].concat());
    let mut publisher = Client::native(relay.address, "publisher");
    let mut keen = Client::native(relay.address, "keen");
    keen.join("busy", Start::Recent(0));
    let mut head = 0;
    // A reader is closed between one and three seconds after it stalled, and let go two seconds later. Each has a moment
    // of its own, and when the relay pings somebody who is silent, it is the moment of some.
    let is_told = (0..10).any(|_| {
        let mut readers: Vec<Client> =
            (0..ALL_PARTS).map(|n| slow_reader(&relay, native::PATH).connected(&format!("stalled-{n}"))).collect();
        for reader in &mut readers {
            reader.join("busy", Start::Recent(0));
        }
        busy(&mut publisher, &mut keen, head + 1, head + 100);
        head += 100;
        keen.ping();
        let ends: Vec<_> = readers.iter_mut().filter_map(end).collect();
        assert!(ends.iter().all(|end| *end == (Some(4001), "slow consumer".to_owned())), "{ends:?}");
        !ends.is_empty()
    });
    assert!(is_told, "nobody was told");
}

/// How a connection is closed, if that is said; None if it is open or simply ends.
fn end(reader: &mut Client) -> Option<(Option<u16>, String)> {
    let asked = reader.try_send(Command::Ping).ok()?;
    loop {
        match reader.next() {
            (_, Event::Closed { code, reason }) => return Some((code, reason)),
            (0, Event::Batch { .. } | Event::Gap { .. }) => {}
            (0, Event::Ended) => return None,
            (tag, Event::Pong) if tag == asked => return None,
            other => panic!("{other:?}"),
        }
    }
}
