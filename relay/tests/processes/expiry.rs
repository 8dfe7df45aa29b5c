//! Messages that are kept for a set time only.

use std::sync::Arc;

use protocol::snowflake::EPOCH_MS;
use protocol::{Content, OwnedParts, Page, Start};
use storage::scylla::Options;
use storage::{Append, Kind, Record, ScyllaStore, Store};

use crate::client::Client;
use crate::event::Line;
use crate::node::Node;
use crate::process::Relay;

const ROOM: &str = "r";
/// Those up to here expire, the others stay.
const EXPIRED: u64 = 1_500;
const LAST: u64 = 1_520;

fn open(node: &Node, keyspace: &str, retention_s: u32) -> ScyllaStore {
    let address = format!("scylla://{}/{keyspace}", node.address()).parse().unwrap();
    let replication = Some("1".parse().unwrap());
    ScyllaStore::open(Options { replication, retention_s: Some(retention_s), ..Options::new(address) }).unwrap()
}

fn append(store: &ScyllaStore, seqs: std::ops::RangeInclusive<u64>) {
    let epoch = store.open_log(ROOM).unwrap().epoch;
    let record = |seq| Record {
        kind: Kind::Message,
        seq,
        id: seq << 22,
        time_ms: EPOCH_MS + seq,
        sender: "ann".into(),
        content: Content::Text,
        body: seq.to_string().into_bytes().into(),
        key: None,
        parts: OwnedParts::default(),
    };
    let records: Vec<Record> = seqs.map(record).collect();
    for part in records.chunks(500) {
        let records = part.iter().cloned().map(Arc::new).collect();
        store.append(&[Append { room: ROOM.into(), epoch, records }]).unwrap();
    }
}

#[test]
fn what_is_kept_of_a_log_is_found_by_whoever_asks_for_more() {
    const KEYSPACE: &str = "expiring";
    let node = Node::shared();
    append(&open(node, KEYSPACE, 2), 1..=EXPIRED);
    let store = open(node, KEYSPACE, 86_400);
    append(&store, EXPIRED + 1..=LAST);
    while !store.read(ROOM, EXPIRED, EXPIRED, 1).unwrap().is_empty() {}
    drop(store);

    // Most of what is kept is not in memory.
    let relay = Relay::on_cql(node.address(), KEYSPACE, &["--tail-messages-max", "4"]);
    let mut ann = Client::native(relay.address, "ann");
    let seqs = |lines: Vec<Line>| lines.iter().map(|line| line.seq).collect::<Vec<_>>();
    for (page, first, last) in [
        (Page::After(0), 1501, 1505),
        (Page::After(1503), 1504, 1508),
        (Page::After(1517), 1518, 1520),
        (Page::Around(700), 1501, 1505),
        (Page::Before(1504), 1501, 1503),
        (Page::Newest, 1516, 1520),
    ] {
        assert_eq!(seqs(ann.history(ROOM, page, 5)), (first..=last).collect::<Vec<_>>(), "{page:?}");
    }
    assert_eq!(ann.history(ROOM, Page::Before(1501), 5), []);

    let joined = ann.join(ROOM, Start::Recent(100));
    assert_eq!((joined.from, joined.head), (EXPIRED, LAST));
    assert_eq!(seqs(ann.lines(20)), (EXPIRED + 1..=LAST).collect::<Vec<_>>());
    for (seq, recovered) in [(EXPIRED - 1, false), (EXPIRED, true)] {
        let mut ben = Client::native(relay.address, "ben");
        let joined = ben.join(ROOM, Start::Since { seq, epoch: Some(joined.epoch) });
        assert_eq!((joined.recovered, joined.from), (recovered, if recovered { seq } else { LAST }));
    }
    assert_eq!(ann.say(ROOM, "goes on").0, LAST + 1);
    assert_eq!(relay.stop().code, Some(0));
}

#[test]
fn a_room_goes_on_when_messages_expired_behind_older_ones() {
    const KEYSPACE: &str = "shortened";
    let node = Node::shared();
    append(&open(node, KEYSPACE, 0), 1..=10);
    let store = open(node, KEYSPACE, 2);
    append(&store, 11..=15);
    while !store.read(ROOM, 15, 15, 1).unwrap().is_empty() {}
    drop(store);
    drop(open(node, KEYSPACE, 86_400));

    for start in 0..2 {
        let relay = Relay::on_cql(node.address(), KEYSPACE, &[]);
        let mut ann = Client::native(relay.address, "ann");
        let joined = ann.join(ROOM, Start::Recent(100));
        assert_eq!((joined.from, joined.head), (15, 15 + start));
        ann.lines(start as usize);
        let mut ben = Client::native(relay.address, "ben");
        let late = ben.join(ROOM, Start::Since { seq: 12, epoch: Some(joined.epoch) });
        assert_eq!((late.recovered, late.from), (false, late.head), "what expired is not passed over silently");
        assert_eq!(ann.say(ROOM, "goes on").0, 16 + start);
        let seqs: Vec<u64> = ann.history(ROOM, Page::After(10), 100).iter().map(|line| line.seq).collect();
        assert_eq!(seqs, (16..=16 + start).collect::<Vec<_>>());
        assert_eq!(relay.stop().code, Some(0));
    }
}
