use std::time::Duration;

use flume::unbounded;
use protocol::{Content, OwnedParts};
use storage::{Append, Concurrent, Done, Fault, FaultyStore, Key, Kind, LogState, MemoryStore, Record};

use super::read::read;
use super::*;
use crate::dedupe::WINDOW_MS;
use crate::ids::SessionId;
use crate::room::{Log, Wanted};
use crate::shard::Found;
use crate::sizes::sent_bytes;

const TEN: Most = Most { messages: 10, bytes: usize::MAX };

/// Nothing takes this long unless it hangs.
const DEADLINE: Duration = Duration::from_secs(30);
/// The room whose reads wait until the test lets go of [`Fake::gate`].
const STUCK: &str = "stuck";

/// An engine for many logs at once that leaves the outcome of each append to the test.
struct Fake {
    memory: MemoryStore,
    submitted: Sender<(Append, Done)>,
    lost: Mutex<Option<OnLost>>,
    reserve_failures: Mutex<u32>,
    gate: Receiver<()>,
}

/// What a test holds: both ends.
struct Rig {
    fake: Arc<Fake>,
    submitted: Receiver<(Append, Done)>,
    gate: Sender<()>,
    persist: Persist,
    threads: Threads,
    replies: Receiver<Vec<StoreReply>>,
    lost: Receiver<StoreError>,
}

impl Store for Fake {
    fn open_log(&self, room: &str) -> Result<LogState, StoreError> {
        if room == STUCK {
            // Ends when the test lets go.
            let _ = self.gate.recv();
        }
        self.memory.open_log(room)
    }

    fn append(&self, _: &[Append]) -> Result<(), StoreError> {
        unreachable!("appends are submitted")
    }

    fn read(&self, room: &str, first: u64, last: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.memory.read(room, first, last, limit)
    }

    fn reserved_ids(&self) -> Result<u64, StoreError> {
        self.memory.reserved_ids()
    }

    fn reserve_ids(&self, until_ms: u64) -> Result<(), StoreError> {
        let mut failures = self.reserve_failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return Err(StoreError::Unavailable { message: "told to fail".into() });
        }
        self.memory.reserve_ids(until_ms)
    }

    fn release_ids(&self, used_ms: u64) -> Result<(), StoreError> {
        self.memory.release_ids(used_ms)
    }

    fn rooms(&self, after: Option<&str>, limit: usize) -> Result<Vec<Arc<str>>, StoreError> {
        self.memory.rooms(after, limit)
    }

    fn concurrent(&self) -> Option<&dyn Concurrent> {
        Some(self)
    }
}

impl Concurrent for Fake {
    fn submit(&self, append: Append, done: Done) {
        // A test that has ended wants none.
        let _ = self.submitted.send((append, done));
    }

    fn reserve_ahead(&self, until_ms: u64, done: Done) {
        done(self.reserve_ids(until_ms));
    }

    fn on_lost(&self, told: OnLost) {
        *self.lost.lock().unwrap() = Some(told);
    }
}

fn rig(reserve_failures: u32) -> Rig {
    let ((submit, submitted), (gate, gated)) = (unbounded(), unbounded());
    let fake = Arc::new(Fake {
        memory: MemoryStore::default(),
        submitted: submit,
        lost: Mutex::default(),
        reserve_failures: Mutex::new(reserve_failures),
        gate: gated,
    });
    let store: Arc<dyn Store> = fake.clone();
    let (persist, threads, replies, lost) = start_on(&store);
    Rig { fake, submitted, gate, persist, threads, replies, lost }
}

/// The storage threads of one shard.
fn start_on(store: &Arc<dyn Store>) -> (Persist, Threads, Receiver<Vec<StoreReply>>, Receiver<StoreError>) {
    let ((replies, incoming), (tell, lost)) = (unbounded(), unbounded());
    let reply_to = ReplyTo { replies, wake: Wake::new().unwrap() };
    let (persist, threads, _) = start(store, TEN, &[reply_to], move |error| tell.send(error).unwrap()).unwrap();
    (persist, threads, incoming, lost)
}

fn append(room: &str, seq: u64) -> StoreRequest {
    let record = Record {
        kind: Kind::Message,
        seq,
        id: seq << 22,
        time_ms: 0,
        sender: "s".into(),
        content: Content::Text,
        body: Box::default(),
        key: None,
        parts: OwnedParts::default(),
    };
    StoreRequest::Append(Append { room: room.into(), epoch: 1, records: vec![Arc::new(record)] })
}

/// The room of the next append that is told to be durable.
fn durable(replies: &Receiver<Vec<StoreReply>>) -> String {
    match replies.recv_timeout(DEADLINE).unwrap().pop() {
        Some(StoreReply::Appended { room }) => room.to_string(),
        other => panic!("{other:?}"),
    }
}

/// The room of the next open that is answered, and whether it succeeded.
fn opened(replies: &Receiver<Vec<StoreReply>>) -> (String, bool) {
    match replies.recv_timeout(DEADLINE).unwrap().pop() {
        Some(StoreReply::Opened { room, log }) => (room.to_string(), log.is_some()),
        other => panic!("{other:?}"),
    }
}

/// Why the next read that is answered was not done.
fn unread(replies: &Receiver<Vec<StoreReply>>) -> Unread {
    match replies.recv_timeout(DEADLINE).unwrap().pop() {
        Some(StoreReply::Read { found: Err(why), .. }) => why,
        other => panic!("{other:?}"),
    }
}

fn wanted(first: u64, last: u64, split: u64, bytes_max: usize) -> Wanted {
    Wanted { first, last, split, bytes_max }
}

fn seqs(found: &Found) -> Vec<u64> {
    found.records.iter().map(|record| record.seq).collect()
}

fn metric(counts: &Counts, name: &str) -> f64 {
    counts.metrics().into_iter().find(|metric| metric.name == name).unwrap().value
}

fn count(counts: &Counts, name: &str) -> u64 {
    metric(counts, name) as u64
}

#[test]
fn appends_of_a_concurrent_engine_complete_in_any_order() {
    let rig = rig(0);
    rig.persist.send(0, &mut vec![append("a", 1), append("b", 1), append("c", 1)]);
    let mut flying: Vec<(Append, Done)> = (0..3).map(|_| rig.submitted.recv_timeout(DEADLINE).unwrap()).collect();
    assert_eq!(rig.threads.counts().in_flight(), 3);
    for (at, room) in [(2, "c"), (0, "a"), (0, "b")] {
        let (append, done) = flying.remove(at);
        assert_eq!(&*append.room, room);
        assert!(rig.replies.is_empty(), "nothing is acked before it is done");
        done(Ok(()));
        assert_eq!(durable(&rig.replies), room);
    }
    let counts = rig.threads.counts();
    let done = ["relay_persist_appends_in_flight", "relay_persist_appends_total", "relay_persist_records_total"];
    assert_eq!(done.map(|name| count(&counts, name)), [0, 3, 3]);
}

#[test]
fn an_append_that_never_completes_holds_up_neither_other_rooms_nor_the_end() {
    let Rig { persist, threads, submitted, replies, .. } = rig(0);
    persist.send(0, &mut vec![append("never", 1)]);
    let never = submitted.recv_timeout(DEADLINE).unwrap();
    for seq in 1..100 {
        persist.send(0, &mut vec![append("b", seq)]);
        let (_, done) = submitted.recv_timeout(DEADLINE).unwrap();
        done(Ok(()));
        assert_eq!(durable(&replies), "b");
    }
    let counts = threads.counts();
    assert_eq!(counts.in_flight(), 1);
    assert!(metric(&counts, "relay_persist_append_oldest_seconds") > 0.0);
    drop(persist);
    threads.stop(Instant::now() + DEADLINE);
    assert_eq!(counts.in_flight(), 1, "it was never done");
    assert!(replies.is_empty(), "and never acked");
    drop(never);
}

#[test]
fn a_lost_store_is_told_once_and_acks_nothing() {
    let rig = rig(0);
    let lost = || StoreError::Lost { store: "s".into(), holder: "h".into() };
    rig.persist.send(0, &mut vec![append("a", 1), append("b", 1)]);
    for _ in 0..2 {
        let (_, done) = rig.submitted.recv_timeout(DEADLINE).unwrap();
        done(Err(lost()));
    }
    let on_lost = rig.fake.lost.lock().unwrap().take().unwrap();
    on_lost(lost());
    assert!(matches!(rig.lost.recv_timeout(DEADLINE), Ok(StoreError::Lost { .. })));
    drop(rig.persist);
    rig.threads.stop(Instant::now() + DEADLINE);
    assert!(rig.lost.is_empty() && rig.replies.is_empty());
}

#[test]
fn a_store_that_is_lost_while_nothing_is_under_way_is_told_too() {
    let rig = rig(0);
    let on_lost = rig.fake.lost.lock().unwrap().take().unwrap();
    on_lost(StoreError::Closed);
    assert!(matches!(rig.lost.recv_timeout(DEADLINE), Ok(StoreError::Closed)));
}

#[test]
fn ids_are_reserved_before_an_append_is_submitted_however_often_that_fails() {
    let rig = rig(3);
    // An id that is later than what is reserved when nothing is appended.
    let seq = (wall_ms() + 60_000 - protocol::snowflake::EPOCH_MS).max(1);
    rig.persist.send(0, &mut vec![append("a", seq)]);
    let (append, _) = rig.submitted.recv_timeout(DEADLINE).unwrap();
    let time_ms = protocol::snowflake::time_ms(append.records[0].id);
    assert!(rig.fake.memory.reserved_ids().unwrap() >= time_ms);
    assert_eq!(*rig.fake.reserve_failures.lock().unwrap(), 0);
}

#[test]
fn ids_are_reserved_ahead_of_any_append_and_given_back_at_the_end() {
    let rig = rig(0);
    let until = Instant::now() + DEADLINE;
    while rig.fake.memory.reserved_ids().unwrap() < wall_ms() {
        assert!(Instant::now() < until, "nothing was reserved");
        thread::yield_now();
    }
    rig.persist.send(0, &mut vec![append("a", 5)]);
    let (append, done) = rig.submitted.recv_timeout(DEADLINE).unwrap();
    done(Ok(()));
    drop(rig.persist);
    rig.threads.stop(Instant::now() + DEADLINE);
    let used_ms = protocol::snowflake::time_ms(append.records[0].id);
    assert_eq!(rig.fake.memory.reserved_ids().unwrap(), used_ms);
}

#[test]
fn a_group_brings_its_reservation_with_it_and_the_end_gives_back_what_was_not_used() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(1));
    let (persist, threads, replies, _lost) = start_on(&store);
    persist.send(0, &mut vec![append("a", 1)]);
    assert_eq!(durable(&replies), "a");
    let (reserved_ms, time_ms) = (store.reserved_ids().unwrap(), protocol::snowflake::time_ms(1 << 22));
    assert!(reserved_ms > time_ms && reserved_ms <= wall_ms() + 3_000, "{reserved_ms}");
    drop(persist);
    threads.stop(Instant::now() + DEADLINE);
    assert_eq!(store.reserved_ids().unwrap(), time_ms);
}

#[test]
fn reads_that_hang_do_not_hold_up_others_and_those_that_waited_too_long_are_refused_untried() {
    let rig = rig(0);
    let open = |room: &str| StoreRequest::Open { room: room.into() };
    rig.persist.send(0, &mut vec![open(STUCK), open("a"), open("b")]);
    let mut rooms = [opened(&rig.replies), opened(&rig.replies)];
    rooms.sort();
    assert_eq!(rooms, [("a".into(), true), ("b".into(), true)]);
    let since = Instant::now().checked_sub(DEADLINE).unwrap();
    let hand_over = |request| {
        assert!(rig.persist.shared.queue().push(Read { shard: 0, request, since }).is_ok());
        rig.persist.reads.send(()).unwrap();
    };
    hand_over(open("late"));
    assert_eq!(opened(&rig.replies), ("late".into(), false));
    hand_over(StoreRequest::Read { room: "late".into(), wanted: wanted(1, 9, 1, 1), asker: SessionId(1) });
    assert_eq!(unread(&rig.replies), Unread::Failed);
    assert_eq!(count(&rig.threads.counts(), "relay_persist_reads_refused_total"), 2);
    drop(rig.gate);
    assert_eq!(opened(&rig.replies), (STUCK.into(), true));
}

#[test]
fn what_nobody_waits_for_any_more_is_not_read() {
    let rig = rig(0);
    let stuck = (0..READERS.1).map(|_| StoreRequest::Open { room: STUCK.into() });
    let read = StoreRequest::Read { room: "a".into(), wanted: wanted(1, 9, 1, 1), asker: SessionId(1) };
    rig.persist.send(0, &mut stuck.chain([read]).collect());
    rig.persist.send(0, &mut vec![StoreRequest::Forget { session: SessionId(1) }]);
    assert_eq!(unread(&rig.replies), Unread::Gone(SessionId(1)));
    drop(rig.gate);
    assert_eq!(opened(&rig.replies), (STUCK.into(), true));
}

#[test]
fn a_group_that_fails_is_repeated_unchanged_and_acked_once() {
    let faulty = Arc::new(FaultyStore::new(1));
    for fault in [Fault::Lost, Fault::Partial(1), Fault::Stored] {
        faulty.plan_append(Some(fault));
    }
    let store: Arc<dyn Store> = faulty.clone();
    let (persist, threads, replies, _) = start_on(&store);
    persist.send(0, &mut vec![append("a", 1), append("b", 1)]);
    assert!(matches!(
        replies.recv_timeout(DEADLINE).unwrap()[..],
        [StoreReply::Appended { .. }, StoreReply::Appended { .. }]
    ));
    assert_eq!(["a", "b"].map(|room| faulty.open_log(room).unwrap().last_seq), [1, 1]);
    drop(persist);
    threads.stop(Instant::now() + DEADLINE);
    assert!(replies.is_empty());
}

/// A log of 1,000 messages of this time of which those before `kept_from` have expired.
fn expired(kept_from: u64, time_ms: u64) -> MemoryStore {
    let store = MemoryStore::new(1);
    for seq in 1..=1000 {
        let StoreRequest::Append(mut append) = append("r", seq) else { unreachable!() };
        let record = Arc::make_mut(&mut append.records[0]);
        (record.time_ms, record.key) = (time_ms, Some(Key { hash: u128::from(seq), body: None }));
        store.append(&[append]).unwrap();
    }
    store.expire("r", 1..kept_from);
    store
}

#[test]
fn a_read_finds_what_is_kept_wherever_the_expired_part_ends() {
    for (kept_from, (first, last), found) in [
        (1, (1, 10), (1, Some(10))),
        (5, (1, 10), (5, Some(10))),
        (11, (1, 10), (11, Some(10 + 10 + 256))),
        (700, (1, 10), (700, Some(699 + 10 + 256))),
        (1000, (1, 10), (1000, Some(1000))),
        (1001, (1, 10), (1001, None)),
        (1001, (1000, 1000), (1001, None)),
        (300, (400, 400), (400, Some(400))),
    ] {
        for split in [first, last, last + 1] {
            let read = read(&expired(kept_from, 0), "r", wanted(first, last, split, usize::MAX)).unwrap();
            let (from, end) = (read.first, read.records.last().map(|record| record.seq));
            assert_eq!((from, end), found, "{first}..={last} kept from {kept_from}");
            assert!(seqs(&read).into_iter().eq(from..from + read.records.len() as u64));
            assert_eq!((read.has_expired, read.more_before, read.more_after), (from > first, false, false));
        }
    }
}

#[test]
fn what_lies_before_something_that_has_expired_counts_as_expired_however_it_is_read() {
    let store = expired(1, 0);
    store.expire("r", 300..400);
    for (split, last) in [(1, 1000), (200, 1000), (350, 1000), (400, 1000), (1001, 1000), (1, 500)] {
        let found = read(&store, "r", wanted(1, last, split, usize::MAX)).unwrap();
        assert!(seqs(&found).into_iter().eq(400..=last), "from {split} on: {:?}", seqs(&found));
        assert_eq!((found.first, found.has_expired, found.more_before, found.more_after), (400, true, false, false));
    }
    let found = read(&store, "r", wanted(1, 350, 1, usize::MAX)).unwrap();
    assert_eq!((found.first, found.has_expired), (400, true), "nothing of it is left");
}

#[test]
fn a_read_takes_as_many_bytes_as_are_wanted_and_not_all_messages() {
    let (store, mut each) = (MemoryStore::new(1), 0);
    for seq in 1..=1000 {
        let StoreRequest::Append(mut append) = append("r", seq) else { unreachable!() };
        Arc::make_mut(&mut append.records[0]).body = vec![b'x'; 100].into();
        each = sent_bytes("r", &append.records[0]);
        store.append(&[append]).unwrap();
    }
    let read = |first, last, split, bytes_max| read(&store, "r", wanted(first, last, split, bytes_max)).unwrap();
    for (bytes_max, count) in [(1, 1), (each, 1), (each + 1, 2), (300 * each, 300)] {
        let newest = read(1, 1000, 1001, bytes_max);
        assert!(seqs(&newest).into_iter().eq(1001 - count..=1000), "{count}: {:?}", seqs(&newest));
        assert_eq!((newest.more_before, newest.more_after, newest.has_expired), (true, false, false));
        let oldest = read(1, 1000, 1, bytes_max);
        assert!(seqs(&oldest).into_iter().eq(1..=count), "{count}: {:?}", seqs(&oldest));
        assert_eq!((oldest.more_before, oldest.more_after), (false, true));
        let around = read(1, 1000, 500, bytes_max);
        assert!(seqs(&around).into_iter().eq(500 - count..500 + count), "{count}: {:?}", seqs(&around));
        assert_eq!((around.more_before, around.more_after), (true, true));
    }
    let all = read(1, 1000, 500, 1000 * each);
    assert_eq!((all.records.len(), all.more_before, all.more_after), (1000, false, false));
    let exact = read(991, 1000, 1001, 10 * each);
    assert_eq!((exact.records.len(), exact.more_before), (10, false));
}

#[test]
fn a_log_is_opened_with_what_is_kept_of_its_tail_and_dedupe_window() {
    for (kept_from, time_ms, first, first_key) in [
        (1, 0, Some(991), None),
        (995, 0, Some(995), None),
        (1001, 0, None, None),
        (300, 9, Some(991), Some(300)),
        (995, 9, Some(995), Some(995)),
    ] {
        let Log { state, tail, keys } = open(&expired(kept_from, time_ms), "r", TEN, WINDOW_MS + 5).unwrap();
        assert_eq!(state.last_seq, 1000);
        assert_eq!(tail.first().map(|record| record.seq), first, "kept from {kept_from}");
        assert_eq!(keys.first().map(|stored| stored.seq), first_key, "kept from {kept_from}, taken at {time_ms}");
    }
}

#[test]
fn a_store_that_fails_for_ever_does_not_hold_up_the_end() {
    let faulty = Arc::new(FaultyStore::new(1));
    let store: Arc<dyn Store> = faulty.clone();
    let (persist, threads, replies, _) = start_on(&store);
    faulty.set_down(true);
    persist.send(0, &mut vec![append("a", 1)]);
    drop(persist);
    let counts = threads.counts();
    threads.stop(Instant::now() + DEADLINE);
    assert_eq!(counts.in_flight(), 1);
    assert!(replies.is_empty());
}

#[test]
fn a_call_that_never_returns_does_not_hold_up_the_end() {
    let Rig { persist, threads, gate, .. } = rig(0);
    persist.send(0, &mut vec![StoreRequest::Open { room: STUCK.into() }]);
    drop(persist);
    threads.stop(Instant::now());
    drop(gate);
}
