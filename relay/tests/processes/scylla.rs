//! A relay whose messages are in a CQL server: crashes of either, a second relay, a paused one.

use std::time::Instant;

use protocol::{Command, ErrorCode, Page, Start};
use rustix::process::Signal;
use storage::ScyllaStore;
use storage::scylla::Options;

use crate::client::{Client, publish};
use crate::crash::{assert_stored, survive_kills};
use crate::event::{Event, Line};
use crate::node::{CommitLog, Node};
use crate::process::{Relay, refusal, serve_on_cql};

/// Short enough that a test can wait for it.
const PUBLISH_TIMEOUT: &[&str] = &["--publish-timeout-ms", "1500"];

fn open(node: &Node, keyspace: &str) -> ScyllaStore {
    let address = format!("scylla://{}/{keyspace}", node.address()).parse().unwrap();
    ScyllaStore::open(Options::new(address)).unwrap()
}

#[test]
fn every_ack_is_in_a_cql_store_once_after_each_of_several_kills_of_the_relay() {
    let node = Node::shared();
    let start = || Relay::on_cql(node.address(), "killed_relay", &[]);
    let (acked, epochs) = survive_kills(&start, &[1, 300, 900]);
    assert_stored(&open(node, "killed_relay"), &acked, &epochs);
}

#[test]
fn a_second_relay_on_the_keyspace_is_refused_and_the_first_goes_on() {
    let node = Node::shared();
    let relay = Relay::on_cql(node.address(), "two_relays", &[]);
    let mut ann = Client::native(relay.address, "ann");
    ann.say("r", "before");
    let second = refusal(&mut serve_on_cql(node.address(), "two_relays", &[]));
    assert_eq!(second.code, Some(1));
    let why = second.said.last().unwrap();
    assert!(why.contains("two_relays") && why.contains("is writing to it"), "{why}");
    assert_eq!(ann.say("r", "after").0, 2);
    assert_eq!(relay.stop().code, Some(0));
    // Stopped well, it leaves the keyspace free.
    let next = Relay::on_cql(node.address(), "two_relays", &[]);
    let (_, lines) = Client::native(next.address, "ben").whole_history("r");
    assert_eq!(lines.iter().map(Line::text).collect::<Vec<_>>(), ["before", "after"]);
}

#[test]
fn a_paused_owner_acks_nothing_after_another_took_over_and_ends() {
    let node = Node::shared();
    let former = Relay::on_cql(node.address(), "paused_owner", &[]);
    let mut ann = Client::native(former.address, "ann");
    assert_eq!(ann.say("r", "kept").0, 1);
    // Some of these are on their way to the database in the moment of the pause, others never leave.
    let tags: Vec<_> = (0..200).map(|n| ann.publish("r", &format!("late {n}"), None)).collect();
    former.signal(Signal::STOP);
    for n in 0..50 {
        ann.publish("r", &format!("never {n}"), None);
    }

    let next = Relay::on_cql(node.address(), "paused_owner", &[]);
    let mut ben = Client::native(next.address, "ben");
    let joined = ben.join("r", Start::Recent(0));
    let (seq, _) = ben.say("r", "the new owner's");
    assert_eq!(seq, joined.head + 1);
    assert_eq!(ben.lines(1)[0].text(), "the new owner's");

    former.signal(Signal::CONT);
    let acked = ann.rest().iter().filter(|event| matches!(event, Event::Acked { .. })).count() as u64;
    assert!(acked < joined.head && joined.head <= 1 + tags.len() as u64, "acks were sent before the pause");
    let exit = former.exit();
    assert_eq!(exit.code, Some(1));
    let why = exit.said.last().unwrap();
    assert!(why.contains("took over while this relay was paused"), "{why}");

    for keyspace_reader in [&mut ben, &mut Client::native(next.address, "eve")] {
        let (_, lines) = keyspace_reader.whole_history("r");
        assert_eq!(lines.len() as u64, seq, "nothing that came late is shown");
        assert_eq!(lines.last().unwrap().text(), "the new owner's");
    }
    assert_eq!(next.stop().code, Some(0));
    let third = Relay::on_cql(node.address(), "paused_owner", &[]);
    let (_, lines) = Client::native(third.address, "zoe").whole_history("r");
    assert_eq!(lines.len() as u64, seq, "nor to whoever opens the log after that");
}

#[test]
fn while_the_database_is_gone_members_stay_and_publishes_hear_busy_and_it_goes_on_when_it_is_back() {
    let mut node = Node::start(CommitLog::Batch);
    let flags = [PUBLISH_TIMEOUT, &["--tail-messages-max", "10", "--pending-publishes-max", "50"]].concat();
    let relay = Relay::on_cql(node.address(), "gone", &flags);
    let mut ann = Client::native(relay.address, "ann");
    let mut ben = Client::native(relay.address, "ben");
    ben.join("r", Start::Recent(0));
    for n in 1..=30 {
        assert_eq!(ann.say("r", &format!("line {n}")).0, n);
    }
    assert_eq!(ben.lines(30).len(), 30);

    node.kill();
    let first = ann.publish("r", "on its way", Some("k"));
    // Answered after the publish before it was taken: what follows finds that on its way.
    assert_eq!(ann.history("r", Page::Newest, 10).len(), 10, "history comes from memory");
    let waiting: Vec<_> = (0..60).map(|n| ann.publish("r", &format!("waits {n}"), None)).collect();
    let told = waiting.refusals(&mut ann);
    assert!(told.iter().all(|code| *code == ErrorCode::Busy), "{told:?}");
    let unknown = ann.reply(first);
    assert!(matches!(unknown, Event::Error { code: ErrorCode::Unknown, .. }), "{unknown:?}");
    for command in [
        Command::history("r", Page::After(0), 5),
        Command::Join { room: "never opened".into(), start: Start::Recent(5) },
    ] {
        let refused = ann.call(command);
        assert!(matches!(refused, Event::Error { code: ErrorCode::Unavailable, .. }), "{refused:?}");
    }

    node.restart();
    let back = Instant::now();
    // What was on its way is retried unchanged and becomes the next message; its key is not stored twice.
    assert_eq!(ben.lines(1)[0].text(), "on its way");
    eprintln!("served again {:?} after the database", back.elapsed());
    assert_eq!(ann.call(publish("r", "on its way", Some("k"))).acked().0, 31);
    assert_eq!(ann.say("r", "goes on").0, 32);
    assert_eq!(ben.lines(1)[0].text(), "goes on");
    assert_eq!(ben.whole_history("r").1.len(), 32);
    assert_eq!(relay.stop().code, Some(0));
}

#[test]
fn a_stop_while_the_database_stands_still_ends_and_says_what_was_not_saved() {
    let node = Node::start(CommitLog::Batch);
    let relay = Relay::on_cql(node.address(), "stands_still", &["--shutdown-timeout-ms", "3000"]);
    let mut ann = Client::native(relay.address, "ann");
    ann.say("r", "saved");
    node.pause();
    ann.publish("r", "not saved", None);
    relay.signal(Signal::TERM);
    let heard = ann.rest();
    assert!(!heard.iter().any(|event| matches!(event, Event::Acked { .. })), "{heard:?}");
    assert!(heard.iter().any(|event| matches!(event, Event::Closed { code: Some(1001), .. })), "{heard:?}");
    let exit = relay.exit();
    assert_eq!(exit.code, Some(0));
    assert!(exit.said.iter().any(|line| line.contains("unsaved messages, none of them acked")), "{exit:?}");
    node.resume();
}

/// The errors that answer these publishes.
trait Refusals {
    fn refusals(self, client: &mut Client) -> Vec<ErrorCode>;
}

impl Refusals for Vec<u32> {
    fn refusals(self, client: &mut Client) -> Vec<ErrorCode> {
        let code = |tag| match client.reply(tag) {
            Event::Error { code, retry_after_ms } => {
                assert!(retry_after_ms > 0, "{code:?} says when to come back");
                code
            }
            other => panic!("{other:?}"),
        };
        self.into_iter().map(code).collect()
    }
}

#[test]
fn kill_9_of_the_database_under_load_loses_nothing_that_was_acked() {
    let mut node = Node::start(CommitLog::Batch);
    let relay = Relay::on_cql(node.address(), "killed_database", &["--publish-timeout-ms", "60000"]);
    let mut clients: Vec<_> = (0..8).map(|n| Client::native(relay.address, &format!("user-{n}"))).collect();
    let mut sent = Vec::new();
    for round in 0..40 {
        for (n, client) in clients.iter_mut().enumerate() {
            let text = format!("{n} says {round}");
            let room = format!("room-{}", (n + round) % 5);
            sent.push((n, client.publish(&room, &text, Some(&text)), room, text));
        }
    }
    // Half of it is acked, the rest is wherever it is.
    let half = sent.len() / 2;
    let mut acked: Vec<(String, String, (u64, u64))> = Vec::new();
    let mut take = |clients: &mut Vec<Client>, part: &[(usize, u32, String, String)]| {
        for (n, tag, room, text) in part {
            acked.push((room.clone(), text.clone(), clients[*n].reply(*tag).acked()));
        }
    };
    take(&mut clients, &sent[..half]);
    node.kill();
    node.restart();
    take(&mut clients, &sent[half..]);
    for room in (0..5).map(|n| format!("room-{n}")) {
        let (_, lines) = clients[0].whole_history(&room);
        let of_room: Vec<_> = acked.iter().filter(|(found, ..)| *found == room).collect();
        assert_eq!(lines.len(), of_room.len(), "{room} has each message once");
        for (_, text, (seq, id)) in of_room {
            let line = &lines[*seq as usize - 1];
            assert_eq!((line.text(), line.id), (text.as_str(), *id));
        }
    }
    assert_eq!(relay.stop().code, Some(0));
}
