//! kill -9: what was acked is there, once, and what was not can be repeated.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use protocol::Start;
use storage::{EmbeddedStore, Options, Store};

use crate::client::{Client, publish};
use crate::event::{Event, Line};
use crate::process::{DEADLINE, Relay};

const ROOMS: usize = 3;
const WRITERS: usize = 4;
/// Publishes a writer has on their way.
const WINDOW: usize = 16;

/// A publish; its body is said once in all rounds, and is its idempotency key too.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Said {
    user: String,
    room: String,
    body: String,
}

/// What a writer knows when its connection is gone.
#[derive(Default)]
struct Known {
    acked: HashMap<Said, (u64, u64)>,
    unknown: Vec<Said>,
}

#[test]
fn every_ack_is_in_history_once_after_each_of_several_kills() {
    let dir = tempfile::tempdir().unwrap();
    let (acked, epochs) = survive_kills(&|| Relay::on(dir.path(), &[]), &[1, 200, 1500, 600]);
    let store = EmbeddedStore::open(dir.path(), Options::default()).unwrap();
    assert_stored(&store, &acked, &epochs);
}

/// Places by what was acked, epochs by room.
type Acked = (HashMap<Said, (u64, u64)>, HashMap<String, u64>);

/// Kills a relay after each of these numbers of acks, and checks that the next one has all of them.
pub fn survive_kills(start: &dyn Fn() -> Relay, acks_before_kills: &[usize]) -> Acked {
    let mut acked: HashMap<Said, (u64, u64)> = HashMap::new();
    let mut epochs: HashMap<String, u64> = HashMap::new();
    for (round, &acks_before_kill) in acks_before_kills.iter().enumerate() {
        let known = write_until_killed(start(), round, acks_before_kill);
        assert!(known.acked.len() >= acks_before_kill);
        acked.extend(known.acked);

        let relay = start();
        let before = read_all(relay.address, &mut epochs);
        assert_holds(&before, &acked);
        repeat(relay.address, &known.unknown, &before, &mut acked);
        let after = read_all(relay.address, &mut epochs);
        assert_holds(&after, &acked);
        if round % 2 == 0 {
            relay.kill();
        } else {
            assert_eq!(relay.stop().code, Some(0));
        }
    }
    (acked, epochs)
}

/// Reads the logs without a relay: they are dense and have every acked message once.
pub fn assert_stored(store: &dyn Store, acked: &HashMap<Said, (u64, u64)>, epochs: &HashMap<String, u64>) {
    for room in rooms() {
        let state = store.open_log(&room).unwrap();
        let records = store.read(&room, 1, state.last_seq, usize::MAX).unwrap();
        assert!(records.iter().map(|record| record.seq).eq(1..=state.last_seq), "the store is dense");
        assert_eq!(state.epoch, epochs[&room]);
        let lines = records.iter().map(|record| (record.seq, record.id, str::from_utf8(&record.body).unwrap()));
        assert_once(&room, lines, acked);
    }
}

fn rooms() -> impl Iterator<Item = String> {
    (0..ROOMS).map(|n| format!("crash-{n}"))
}

/// Writers publish until the relay is killed, which is after so many acks.
fn write_until_killed(relay: Relay, round: usize, acks_before_kill: usize) -> Known {
    let (on_ack, acks) = channel();
    // All are connected before the first writes: the relay may be killed soon after.
    let clients: Vec<_> =
        (0..WRITERS).map(|writer| Client::native(relay.address, &format!("writer-{writer}"))).collect();
    let writers: Vec<_> = (0..)
        .zip(clients)
        .map(|(writer, client)| {
            let on_ack = on_ack.clone();
            thread::spawn(move || write(client, round, writer, &on_ack))
        })
        .collect();
    drop(on_ack);
    for _ in 0..acks_before_kill {
        acks.recv_timeout(DEADLINE).expect("the writers get acks");
    }
    relay.kill();
    let mut known = Known::default();
    for writer in writers {
        let part = writer.join().unwrap();
        known.acked.extend(part.acked);
        known.unknown.extend(part.unknown);
    }
    known
}

fn write(mut client: Client, round: usize, writer: usize, on_ack: &Sender<()>) -> Known {
    let mut flying: HashMap<u32, Said> = HashMap::new();
    let mut acked = HashMap::new();
    for n in 0.. {
        let said = Said {
            user: format!("writer-{writer}"),
            room: format!("crash-{}", n % ROOMS),
            body: format!("{round}/{writer}/{n} {}", "ㅋ".repeat(n % 50)),
        };
        match client.try_send(publish(&said.room, &said.body, Some(&said.body))) {
            Ok(tag) => flying.insert(tag, said),
            Err(_) => break,
        };
        if flying.len() < WINDOW {
            continue;
        }
        match client.next() {
            (tag, Event::Acked { seq, id }) => {
                acked.insert(flying.remove(&tag).unwrap(), (seq, id));
                // Nobody counts any more once the relay is being killed.
                let _ = on_ack.send(());
            }
            (_, Event::Ended) => break,
            other => panic!("{other:?}"),
        }
    }
    // Acks that were on their way when the relay died count too.
    while let (tag, Event::Acked { seq, id }) = client.next() {
        acked.insert(flying.remove(&tag).unwrap(), (seq, id));
    }
    Known { acked, unknown: flying.into_values().collect() }
}

fn read_all(address: SocketAddr, epochs: &mut HashMap<String, u64>) -> HashMap<String, Vec<Line>> {
    let mut reader = Client::native(address, "reader");
    rooms()
        .map(|room| {
            let (epoch, lines) = reader.whole_history(&room);
            assert_eq!(*epochs.entry(room.clone()).or_insert(epoch), epoch, "{room} keeps its epoch");
            (room, lines)
        })
        .collect()
}

fn assert_holds(histories: &HashMap<String, Vec<Line>>, acked: &HashMap<Said, (u64, u64)>) {
    for (room, lines) in histories {
        assert_once(room, lines.iter().map(|line| (line.seq, line.id, line.text())), acked);
    }
}

/// Every acked message stands where its ack said, and no body stands twice.
fn assert_once<'a>(room: &str, lines: impl Iterator<Item = (u64, u64, &'a str)>, acked: &HashMap<Said, (u64, u64)>) {
    let mut places = HashMap::new();
    for (seq, id, body) in lines {
        assert_eq!(places.insert(body.to_owned(), (seq, id)), None, "{room} has {body:?} twice");
    }
    for (said, place) in acked.iter().filter(|(said, _)| said.room == room) {
        assert_eq!(places.get(&said.body), Some(place), "{room}: {said:?}");
    }
}

/// Publishes again what got no ack: what is stored already keeps its place.
fn repeat(
    address: SocketAddr,
    unknown: &[Said],
    before: &HashMap<String, Vec<Line>>,
    acked: &mut HashMap<Said, (u64, u64)>,
) {
    let mut clients: HashMap<&str, Client> = HashMap::new();
    for said in unknown {
        let client = clients.entry(&said.user).or_insert_with(|| Client::native(address, &said.user));
        let place = client.call(publish(&said.room, &said.body, Some(&said.body))).acked();
        match before[&said.room].iter().find(|line| line.text() == said.body) {
            Some(line) => assert_eq!(place, (line.seq, line.id), "stored before the kill"),
            None => assert!(place.0 > before[&said.room].len() as u64),
        }
        acked.insert(said.clone(), place);
    }
}

#[test]
fn a_key_repeated_after_kill_9_gets_the_first_ones_seq_and_id() {
    let dir = tempfile::tempdir().unwrap();
    let relay = Relay::on(dir.path(), &[]);
    let mut ann = Client::native(relay.address, "ann");
    let first = ann.call(publish("keys", "once", Some("k"))).acked();
    assert_eq!(ann.call(publish("keys", "once", Some("k"))).acked(), first, "before the kill too");
    ann.say("keys", "between");
    relay.kill();

    let relay = Relay::on(dir.path(), &[]);
    let mut ann = Client::native(relay.address, "ann");
    assert_eq!(ann.call(publish("keys", "once", Some("k"))).acked(), first);
    let mut ben = Client::native(relay.address, "ben");
    assert_eq!(ben.call(publish("keys", "ben's own", Some("k"))).acked().0, 3, "keys belong to their user");
    let joined = ben.join("keys", Start::Recent(10));
    assert_eq!((joined.from, joined.head), (0, 3));
    let texts: Vec<_> = ben.lines(3).iter().map(|line| line.text().to_owned()).collect();
    assert_eq!(texts, ["once", "between", "ben's own"]);
}
