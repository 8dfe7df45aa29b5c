//! One relay at a time writes to a keyspace, and what a former one sends late is never seen.

use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use scylla_proxy::{Condition, Reaction, RequestReaction};
use storage::{Append, ScyllaStore, Store, StoreError};

use crate::common::{append, assert_whole, child, fill, keyspace, open_keyspace, record, sized};
use crate::load::{Load, name};
use crate::node::Node;
use crate::proxy::{self, Proxy};

const ROOMS: usize = 32;

#[test]
fn a_second_store_is_refused_while_the_first_lives_and_opens_after_it() {
    let node = Node::shared().address();
    let first = open_keyspace(node, "held");
    fill(&first, "room", 1, 3);
    match ScyllaStore::open(keyspace(node, "held")) {
        Err(StoreError::Held { store, holder }) => {
            assert_eq!(store, format!("scylla://{node}/held"));
            assert!(holder.contains(&std::process::id().to_string()), "{holder}");
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("two stores are open"),
    }
    fill(&first, "room", 4, 6);
    drop(first);
    assert_whole(&open_keyspace(node, "held"), "room", 6);
}

/// Records with other bodies than those of [`append`].
fn other(store: &dyn Store, room: &str, first: u64, last: u64) -> Append {
    let mut append = append(store, room, first, last);
    append.records = (first..=last).map(|seq| Arc::new(sized(seq, 7))).collect();
    append
}

/// A log with what another owner found in it, and where it ends after that one appended.
struct Taken {
    room: String,
    end: u64,
    last: u64,
}

/// Opens each room of a [`Load`] and appends to most of them.
fn take_over(next: &ScyllaStore) -> Vec<Taken> {
    let take = |room: usize| {
        let (room, more) = (name(room), room as u64 % 4);
        let end = next.open_log(&room).unwrap().last_seq;
        let last = end + more;
        next.append(&[other(next, &room, end + 1, last)]).unwrap();
        Taken { room, end, last }
    };
    (0..ROOMS).map(take).collect()
}

/// Checks that the former owner, which acked these seqs, added nothing after it was followed: not for the next owner, and
/// not for one after that.
fn assert_followed(logs: &[Taken], acked: &[u64], next: ScyllaStore, open: impl Fn() -> ScyllaStore) {
    for (Taken { room, end, .. }, acked) in logs.iter().zip(acked) {
        assert!(acked <= end, "{room}: {acked} were acked, {end} were stored when another took over");
    }
    let assert_unseen = |store: &ScyllaStore| {
        for Taken { room, end, last } in logs {
            assert_taken_over(store, room, *end, *last);
        }
    };
    assert_unseen(&next);
    drop(next);
    assert_unseen(&open());
}

/// Checks that a log is what a former owner wrote up to `end`, then [`other`] records up to `last`.
fn assert_taken_over(store: &dyn Store, room: &str, end: u64, last: u64) {
    assert_eq!(store.open_log(room).unwrap().last_seq, last, "{room}");
    let expected: Vec<_> = (1..=last).map(|seq| if seq <= end { record(seq) } else { sized(seq, 7) }).collect();
    assert_eq!(store.read(room, 1, u64::MAX, usize::MAX).unwrap(), expected, "{room}");
}

#[test]
fn writes_that_arrive_after_a_takeover_are_never_seen_or_acked() {
    let node = Node::shared().address();
    let proxy = Proxy::start(node);
    let former = ScyllaStore::open(keyspace(proxy.address(), "late_writes")).unwrap();
    let (telling, lost) = channel();
    let concurrent = former.concurrent().unwrap();
    concurrent.on_lost(Box::new(move |error| telling.send(error).unwrap()));
    // What the next owner does in each: append less than the late writes, as much, more, or only look.
    let rooms = [("less", 4), ("as much", 8), ("more", 12), ("only looked at", 3)];
    for (room, _) in rooms {
        fill(&former, room, 1, 3);
    }
    // Longer than a lease lasts: they arrive when another one holds it.
    let delayed = proxy.delay(Duration::from_secs(16));
    let (done, outcomes) = channel();
    for (room, _) in rooms {
        let done = done.clone();
        concurrent.submit(append(&former, room, 4, 8), Box::new(move |outcome| done.send(outcome).unwrap()));
    }

    let next = open_keyspace(node, "late_writes");
    for (room, last) in rooms {
        assert_whole(&next, room, 3);
        next.append(&[other(&next, room, 4, last)]).unwrap();
    }
    assert!(outcomes.try_recv().is_err(), "an append was decided while its writes were on their way");
    assert!(delayed.wait() >= rooms.len(), "there were no late writes");
    let assert_unseen =
        |store: &dyn Store| rooms.iter().for_each(|(room, last)| assert_taken_over(store, room, 3, *last));
    assert_unseen(&next);
    proxy.calm();
    assert!(matches!(lost.recv().unwrap(), StoreError::Lost { .. }));
    for _ in rooms {
        assert!(matches!(outcomes.recv().unwrap(), Err(StoreError::Lost { .. })));
    }
    drop(former);
    fill(&next, "after", 1, 3);
    drop(next);
    let third = open_keyspace(node, "late_writes");
    assert_unseen(&third);
    assert_whole(&third, "after", 3);
}

#[test]
fn an_owner_that_cannot_renew_acks_nothing_that_is_carried_out_after_a_takeover() {
    let node = Node::shared().address();
    let proxy = Arc::new(Proxy::start(node));
    let former = ScyllaStore::open(keyspace(proxy.address(), "cut_off")).unwrap();
    let mut load = Load::new(&former, ROOMS);
    load.run_until(|| true);
    let mut options = keyspace(node, "cut_off");
    let faults = proxy.clone();
    options.log = Arc::new(move |line| {
        if line.contains("waiting to see") {
            // From the last moment on in which the next owner would see a renewal, none arrives, and writes take up to
            // almost as long as the store waits for them: some are sent before the lease ends and carried out after it.
            let [some, others] = [500, 1_700].map(|ms| proxy::late(Duration::from_millis(ms)));
            faults.on_requests([
                (proxy::about_leases(), RequestReaction::drop_frame()),
                (proxy::statements().and(Condition::RandomWithProbability(0.5)), some),
                (proxy::statements(), others),
            ]);
        }
    });
    let (ready, taken) = channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let next = loop {
                match ScyllaStore::open(options.clone()) {
                    // A renewal was under way in that moment.
                    Err(StoreError::Held { .. }) => (),
                    opened => break opened.unwrap(),
                }
            };
            let logs = take_over(&next);
            // What was on its way arrives, and is answered.
            thread::sleep(Duration::from_secs(2));
            proxy.calm();
            ready.send((next, logs)).unwrap();
        });
        load.run(|_, _, outcome| match outcome {
            Ok(()) => true,
            Err(StoreError::Lost { .. }) => false,
            Err(error) => panic!("{error}"),
        });
    });
    let acked = load.acked;
    drop(former);
    let (next, logs) = taken.recv().unwrap();
    assert_followed(&logs, &acked, next, || open_keyspace(node, "cut_off"));
}

/// Another process that appends to [`ROOMS`] rooms until it loses the lease.
struct Former {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Last acked seq of each room.
    acked: Vec<u64>,
    has_lost: bool,
}

const NODE: &str = "STORAGE_TEST_NODE";
const ENOUGH: usize = 500;

/// The node this process was started for by [`Former::start`].
fn node_of_child() -> Option<SocketAddr> {
    Some(std::env::var(NODE).ok()?.parse().unwrap())
}

/// What that process does.
fn append_until_lost(store: &ScyllaStore) {
    let (telling, lost) = channel();
    store.concurrent().unwrap().on_lost(Box::new(move |error| telling.send(error).unwrap()));
    Load::new(store, ROOMS).run(|room, last, outcome| {
        match outcome {
            Ok(()) => println!("\nacked {room} {last}"),
            Err(StoreError::Lost { .. }) => return false,
            Err(error) => panic!("{error}"),
        }
        true
    });
    println!("\n{}", lost.recv().unwrap());
    println!("\nlost");
}

impl Former {
    /// Runs the test `name` again in another process.
    fn start(name: &str, node: SocketAddr) -> Self {
        let mut command = child(name, Path::new(""));
        let mut process = command.env(NODE, node.to_string()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines, acked: vec![0; ROOMS], has_lost: false }
    }

    /// Reads what it says: so many acks, or all there are until it ends.
    fn listen(&mut self, acks: usize) {
        let mut count = 0;
        while count < acks
            && let Some(line) = self.lines.next()
        {
            let line = line.unwrap();
            self.has_lost |= line == "lost";
            let Some(ack) = line.strip_prefix("acked ") else { continue };
            let (room, last) = ack.split_once(' ').unwrap();
            self.acked[room.parse::<usize>().unwrap()] = last.parse().unwrap();
            count += 1;
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for Former {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_killed_owner_is_followed_at_once_and_nothing_it_acked_is_lost() {
    if let Some(node) = node_of_child() {
        return append_until_lost(&open_keyspace(node, "killed_owner"));
    }
    let node = Node::shared().address();
    let mut former = Former::start("lease::a_killed_owner_is_followed_at_once_and_nothing_it_acked_is_lost", node);
    former.listen(ENOUGH);
    former.process.kill().unwrap();
    former.listen(usize::MAX);
    former.process.wait().unwrap();
    let next = open_keyspace(node, "killed_owner");
    for (room, &acked) in former.acked.iter().enumerate() {
        let last = next.open_log(&name(room)).unwrap().last_seq;
        assert!(last >= acked, "{acked} were acked, {last} are stored");
        assert_whole(&next, &name(room), last);
    }
}

#[test]
fn a_paused_owner_hears_that_it_lost_and_what_it_had_under_way_is_never_seen_or_acked() {
    if let Some(node) = node_of_child() {
        return append_until_lost(&open_keyspace(node, "paused_owner"));
    }
    let node = Node::shared().address();
    let mut former = Former::start(
        "lease::a_paused_owner_hears_that_it_lost_and_what_it_had_under_way_is_never_seen_or_acked",
        node,
    );
    former.listen(ENOUGH);
    former.signal(Signal::STOP);
    let next = open_keyspace(node, "paused_owner");
    // Appends whose acks were under way are there, for they were carried out. Nothing is added to them any more.
    let logs = take_over(&next);
    former.signal(Signal::CONT);
    former.listen(usize::MAX);
    assert!(former.process.wait().unwrap().success());
    assert!(former.has_lost);
    assert_followed(&logs, &former.acked, next, || open_keyspace(node, "paused_owner"));
}
