//! SIGTERM.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use protocol::{ErrorCode, Start, native};
use rustix::process::Signal;

use crate::client::{Client, publish};
use crate::event::Event;
use crate::process::{DEADLINE, Relay, SHARDS};

const CLIENTS: usize = 24;
const ROOMS: usize = 3;
const ACKS_BEFORE_SIGTERM: usize = 500;

/// What a client had been told when its connection ended.
#[derive(Default)]
struct Told {
    /// Room and body → seq and id.
    acked: HashMap<(String, String), (u64, u64)>,
    reconnect_after_ms: Vec<u32>,
    close_codes: Vec<Option<u16>>,
}

#[test]
fn sigterm_under_load_keeps_every_ack_tells_everybody_and_exits_0() {
    let dir = tempfile::tempdir().unwrap();
    let relay = Relay::on(dir.path(), &[]);
    let (on_ack, acks) = channel();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let (address, on_ack) = (relay.address, on_ack.clone());
            thread::spawn(move || publish_until_told(address, n, &on_ack))
        })
        .collect();
    for _ in 0..ACKS_BEFORE_SIGTERM {
        acks.recv_timeout(DEADLINE).expect("the clients get acks");
    }
    let exit = relay.stop();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let told: Vec<Told> = clients.into_iter().map(|client| client.join().unwrap()).collect();

    assert!(told.iter().all(|told| told.close_codes == [Some(1001)]), "everybody is closed once, with 1001");
    assert!(told.iter().all(|told| told.reconnect_after_ms.len() == 1), "everybody is told once when to come back");
    let hints: HashSet<u32> = told.iter().flat_map(|told| told.reconnect_after_ms.clone()).collect();
    assert!(hints.len() > CLIENTS / 2, "spread over time: {hints:?}");
    assert!(hints.iter().all(|&ms| ms <= 5_000));

    let relay = Relay::on(dir.path(), &[]);
    let mut reader = Client::native(relay.address, "reader");
    for room in (0..ROOMS).map(|n| format!("stop-{n}")) {
        let (_, lines) = reader.whole_history(&room);
        let mut places = HashMap::new();
        for line in &lines {
            assert_eq!(places.insert(line.text(), (line.seq, line.id)), None, "{line:?} is there twice");
        }
        for ((_, body), place) in told.iter().flat_map(|told| &told.acked).filter(|((of, _), _)| *of == room) {
            assert_eq!(places.get(&**body), Some(place), "{room}: {body}");
        }
    }
}

/// One publish after the other, until the relay says that it goes.
fn publish_until_told(address: SocketAddr, n: usize, on_ack: &Sender<()>) -> Told {
    let mut client = Client::native(address, &format!("user-{n}"));
    let room = format!("stop-{}", n % ROOMS);
    client.join(&room, Start::Recent(0));
    let mut told = Told::default();
    let mut flying = HashMap::new();
    let mut number = 0;
    loop {
        if flying.is_empty() && told.reconnect_after_ms.is_empty() {
            let body = format!("{n}/{number}");
            number += 1;
            // A connection that has just ended shows when it is read.
            if let Ok(tag) = client.try_send(publish(&room, &body, None)) {
                flying.insert(tag, body);
            }
        }
        match client.next() {
            (tag, Event::Acked { seq, id }) => {
                let body = flying.remove(&tag).unwrap();
                told.acked.insert((room.clone(), body), (seq, id));
                // Nobody counts any more after SIGTERM.
                let _ = on_ack.send(());
            }
            // A stopping relay takes no more publishes; this one waits for its end.
            (_, Event::Error { code: ErrorCode::Busy, .. }) | (0, Event::Batch { .. }) => {}
            (0, Event::GoingAway { reconnect_after_ms }) => told.reconnect_after_ms.push(reconnect_after_ms),
            (0, Event::Closed { code, .. }) => told.close_codes.push(code),
            (_, Event::Ended) => return told,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_stopping_relay_takes_no_new_connection() {
    let relay = Relay::in_memory(&[]);
    let mut clients = Client::one_on_each_shard(relay.address, SHARDS);
    relay.signal(Signal::TERM);
    for client in &mut clients {
        // Unanswered, its close frame keeps the relay waiting.
        client.polite = false;
        assert!(matches!(client.next().1, Event::GoingAway { .. }));
        assert!(matches!(client.next().1, Event::Closed { code: Some(1001), .. }));
    }
    let late = Client::try_open(relay.address, native::PATH, None);
    assert!(late.is_err(), "a stopping relay shook hands");
    assert_eq!(relay.exit().code, Some(0));
}

#[test]
fn a_client_that_takes_nothing_does_not_hold_up_the_end() {
    let relay = Relay::in_memory(&["--shutdown-timeout-ms", "3000", "--send-buffer-bytes", "4096"]);
    let mut stalled = Client::try_open(relay.address, native::PATH, Some(4096)).unwrap().connected("stalled");
    stalled.join("busy", Start::Recent(0));
    let mut publisher = Client::native(relay.address, "publisher");
    for _ in 0..100 {
        publisher.say("busy", &"x".repeat(8000));
    }
    assert_eq!(relay.stop().code, Some(0));
}
