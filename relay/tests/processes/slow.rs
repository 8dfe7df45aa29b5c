//! Slow readers: they get gaps, cost no memory and hold up nobody.

use std::collections::BTreeMap;

use protocol::{Page, Start, centrifuge, native};
use serde_json::json;

use crate::client::Client;
use crate::event::{Event, Line};
use crate::process::Relay;

const STALLED: usize = 40;
const BODY_BYTES: usize = 8 * 1024;
const LINES: u64 = 800;
/// The smallest buffers the kernel gives, so that little fits between the relay and a reader that stopped.
const TINY: usize = 4096;
const FLAGS: [&str; 6] = ["--send-buffer-bytes", "4096", "--feed-bytes-max", "262144", "--tail-messages-max", "32"];

fn stalled(relay: &Relay, path: &str) -> Client {
    Client::try_open(relay.address, path, Some(TINY)).unwrap()
}

/// Publishes messages `from..=to` in steps that a `keen` reader follows.
fn busy(publisher: &mut Client, keen: &mut Client, from: u64, to: u64) {
    for first in (from..=to).step_by(8) {
        let seqs = first..=to.min(first + 7);
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
fn readers_that_stall_get_exact_gaps_and_cost_neither_memory_nor_others_messages() {
    let relay = Relay::in_memory(&FLAGS);
    let mut readers: Vec<Client> =
        (0..STALLED).map(|n| stalled(&relay, native::PATH).connected(&format!("stalled-{n}"))).collect();
    for reader in &mut readers {
        reader.join("busy", Start::Recent(0));
    }
    let mut publisher = Client::native(relay.address, "publisher");
    let mut keen = Client::native(relay.address, "keen");
    keen.join("busy", Start::Recent(0));
    busy(&mut publisher, &mut keen, 1, 200);
    let before = relay.resident_bytes();
    busy(&mut publisher, &mut keen, 201, LINES);
    let grown = relay.resident_bytes().saturating_sub(before);
    let written = (LINES - 200) as usize * BODY_BYTES;
    // The memory engine keeps what was written; a queue for each reader would be forty times that.
    assert!(grown < 6 * written, "{STALLED} stalled readers cost {grown} bytes while {written} were written");

    for reader in &mut readers[..10] {
        let (mut got, gaps) = read_to(reader, LINES);
        assert!(!gaps.is_empty(), "a stalled reader cannot have everything");
        for (from, to) in gaps {
            while let Some(after) = (from - 1..to).find(|seq| !got.contains_key(&(seq + 1))) {
                let limit = (to - after) as u32;
                got.extend(reader.history("busy", Page::After(after), limit).into_iter().map(|line| (line.seq, line)));
            }
        }
        assert!(got.keys().copied().eq(1..=LINES));
        assert!(got.values().all(|line| line.text() == body(line.seq)));
    }
    busy(&mut publisher, &mut keen, LINES + 1, LINES + 1);
    assert_eq!(readers[0].lines(1)[0].seq, LINES + 1, "after its gap a reader goes on like everybody");
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
    let mut reader = stalled(&relay, centrifuge::PATH);
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
    let mut reader = stalled(&relay, native::PATH).connected("stalled");
    reader.join("busy", Start::Recent(0));
    let mut publisher = Client::native(relay.address, "publisher");
    let mut keen = Client::native(relay.address, "keen");
    keen.join("busy", Start::Recent(0));
    busy(&mut publisher, &mut keen, 1, 100);
    // It reads nothing, so only what it writes can tell that the relay has let go. Pings of the relay to somebody else
    // are the clock.
    while reader.try_send(protocol::Command::Ping).is_ok() {
        keen.ping();
    }
    let exit = relay.stop();
    let stats = exit.said.last().unwrap();
    assert!(stats.contains("slow_closed: 1") && stats.contains("idle_closed: 0"), "{exit:?}");
}
