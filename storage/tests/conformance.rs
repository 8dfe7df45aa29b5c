//! What every engine must do. Each behaviour is one function over `dyn Store`, run for each engine.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;
#[path = "cql/node.rs"]
mod node;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{append, assert_whole, fill, id, open_keyspace, record, sized};
use node::Node;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestCaseResult};
use protocol::snowflake::EPOCH_MS;
use protocol::{ClientId, NewParts};
use storage::{Append, EmbeddedStore, FaultyStore, Key, MemoryStore, Options, Record, Store, StoreError, StoredKey};

/// Runs each behaviour once per engine.
macro_rules! conformance {
    ($($behaviour:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $behaviour() { super::$behaviour(&super::MemoryStore::default()); })*
        }
        mod faulty {
            $(#[test] fn $behaviour() { super::$behaviour(&super::FaultyStore::new(9)); })*
        }
        mod embedded {
            $(#[test] fn $behaviour() {
                let dir = tempfile::tempdir().unwrap();
                super::$behaviour(&super::EmbeddedStore::open(&dir, super::Options::default()).unwrap());
            })*
        }
        mod scylla {
            $(#[test] fn $behaviour() {
                // The name of a keyspace may have 48 bytes.
                let keyspace = stringify!($behaviour).get(..40).unwrap_or(stringify!($behaviour));
                super::$behaviour(&super::open_keyspace(super::Node::shared().address(), keyspace));
            })*
        }
    };
}

conformance!(
    an_empty_log_has_an_epoch_and_nothing_else,
    what_was_appended_is_read_back_field_by_field,
    ranges_and_limits_give_exactly_what_they_name,
    ranges_cross_blocks_and_buckets_without_a_seam,
    a_repeat_is_ok_and_stores_nothing_twice,
    a_repeat_of_a_part_stores_the_rest,
    an_append_that_does_not_follow_is_refused_and_changes_nothing,
    several_logs_go_into_one_call,
    a_refused_log_refuses_the_whole_call,
    an_empty_append_begins_no_log,
    readers_see_only_dense_prefixes_that_grow,
    the_first_append_fixes_the_epoch,
    reserved_ids_never_go_back,
    ids_are_reserved_with_an_append,
    ids_that_were_not_used_are_given_back,
    any_room_name_is_a_log_of_its_own,
    bodies_of_nothing_and_of_64_kib,
    unknown_kinds_pass_through,
    all_that_is_optional_is_kept,
    keys_are_found_back_to_where_and_when_they_are_wanted,
    keys_of_a_log_that_grew_in_repeats_are_each_found_once,
    rooms_are_listed_page_by_page_each_once,
);

fn an_empty_log_has_an_epoch_and_nothing_else(store: &dyn Store) {
    let state = store.open_log("nowhere").unwrap();
    assert_ne!(state.epoch, 0);
    assert_eq!((state.last_seq, state.last_id), (0, 0));
    assert_eq!(store.read("nowhere", 1, u64::MAX, 10).unwrap(), []);
    assert_eq!(store.open_log("nowhere").unwrap(), state, "opening writes nothing");
}

fn what_was_appended_is_read_back_field_by_field(store: &dyn Store) {
    fill(store, "room", 1, 3);
    assert_whole(store, "room", 3);
    let state = store.open_log("room").unwrap();
    assert_eq!((state.last_seq, state.last_id), (3, id(3)));
}

fn seqs(store: &dyn Store, first: u64, last: u64, limit: usize) -> Vec<u64> {
    store.read("room", first, last, limit).unwrap().iter().map(|record| record.seq).collect()
}

fn ranges_and_limits_give_exactly_what_they_name(store: &dyn Store) {
    fill(store, "room", 1, 10);
    assert_eq!(seqs(store, 3, 5, 100), [3, 4, 5]);
    assert_eq!(seqs(store, 0, 2, 100), [1, 2]);
    assert_eq!(seqs(store, 9, u64::MAX, 100), [9, 10]);
    assert_eq!(seqs(store, 2, 9, 3), [2, 3, 4]);
    assert_eq!(seqs(store, 10, 10, 1), [10]);
    for nothing in
        [seqs(store, 11, 20, 5), seqs(store, 5, 4, 5), seqs(store, 1, 10, 0), seqs(store, u64::MAX, u64::MAX, 9)]
    {
        assert_eq!(nothing, [0; 0]);
    }
}

fn ranges_cross_blocks_and_buckets_without_a_seam(store: &dyn Store) {
    const LAST: u64 = 66_600;
    for first in (1..=LAST).step_by(3_000) {
        fill(store, "room", first, (first + 2_999).min(LAST));
    }
    for edge in [1, 1_023, 1_024, 2_048, 65_535, 65_536, 65_537, 66_560, LAST] {
        for first in edge.saturating_sub(2).max(1)..=edge + 1 {
            let expected: Vec<u64> = (first..=LAST).take(5).collect();
            assert_eq!(seqs(store, first, LAST, 5), expected, "from {first}");
        }
    }
    assert_eq!(seqs(store, 64_000, 66_000, usize::MAX), (64_000..=66_000).collect::<Vec<_>>());
    assert_eq!(store.read("room", 65_536, 65_536, 1).unwrap(), [record(65_536)]);
    assert_whole(store, "room", LAST);
}

fn a_repeat_is_ok_and_stores_nothing_twice(store: &dyn Store) {
    fill(store, "room", 1, 5);
    let call = [append(store, "room", 6, 8), append(store, "other", 1, 2)];
    for _ in 0..3 {
        store.append(&call).unwrap();
    }
    assert_whole(store, "room", 8);
    assert_whole(store, "other", 2);
    fill(store, "room", 2, 4);
    assert_whole(store, "room", 8);
}

fn a_repeat_of_a_part_stores_the_rest(store: &dyn Store) {
    fill(store, "room", 1, 1_030);
    fill(store, "room", 1_020, 1_040);
    assert_whole(store, "room", 1_040);
}

fn refused(store: &dyn Store, append: Append, expected: u64, found: u64) {
    match store.append(&[append]) {
        Err(StoreError::OutOfOrder { expected: e, found: f, .. }) => assert_eq!((e, f), (expected, found)),
        other => panic!("{other:?} instead of a refusal of {found}"),
    }
}

fn an_append_that_does_not_follow_is_refused_and_changes_nothing(store: &dyn Store) {
    refused(store, append(store, "room", 2, 3), 1, 2);
    fill(store, "room", 1, 4);
    refused(store, append(store, "room", 6, 6), 5, 6);
    let mut zero = append(store, "room", 1, 1);
    zero.records = vec![Arc::new(record(0))];
    refused(store, zero, 5, 0);
    let mut hole = append(store, "room", 5, 7);
    hole.records.remove(1);
    refused(store, hole, 5, 7);
    let mut other_id = append(store, "room", 4, 5);
    Arc::make_mut(&mut other_id.records[0]).id += 1;
    refused(store, other_id, 5, 4);
    let mut falling_id = append(store, "room", 5, 5);
    Arc::make_mut(&mut falling_id.records[0]).id = id(4);
    refused(store, falling_id, 5, 5);
    assert_whole(store, "room", 4);
    fill(store, "room", 5, 5);
    assert_whole(store, "room", 5);
}

fn several_logs_go_into_one_call(store: &dyn Store) {
    let rooms: Vec<String> = (0..50).map(|room| format!("room{room}")).collect();
    for round in 0..3 {
        let call: Vec<_> = rooms
            .iter()
            .zip(1..)
            .map(|(room, length)| append(store, room, round * length + 1, (round + 1) * length))
            .collect();
        store.append(&call).unwrap();
    }
    for (room, length) in rooms.iter().zip(1..) {
        assert_whole(store, room, 3 * length);
    }
    store.append(&[]).unwrap();
}

fn a_refused_log_refuses_the_whole_call(store: &dyn Store) {
    let call = [append(store, "good", 1, 2), append(store, "bad", 2, 2)];
    assert!(matches!(store.append(&call), Err(StoreError::OutOfOrder { .. })));
    assert_whole(store, "good", 0);
    store.append(&call[..1]).unwrap();
    assert_whole(store, "good", 2);
}

fn an_empty_append_begins_no_log(store: &dyn Store) {
    let mut empty = append(store, "room", 1, 1);
    empty.records.clear();
    empty.epoch = 77;
    store.append(&[empty]).unwrap();
    assert_ne!(store.open_log("room").unwrap().epoch, 77);
}

fn readers_see_only_dense_prefixes_that_grow(store: &dyn Store) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0;
            let mut rounds = 0;
            while !done.load(Ordering::Acquire) || rounds == 0 {
                let finished_before = done.load(Ordering::Acquire);
                let state = store.open_log("room").unwrap();
                let records = store.read("room", 1, u64::MAX, usize::MAX).unwrap();
                assert!(records.iter().zip(1..).all(|(record, seq)| record.seq == seq));
                assert!(records.len() as u64 >= state.last_seq.max(seen), "a record that was seen is gone");
                seen = records.len() as u64;
                let newest = store.read("room", (seen + 1).saturating_sub(3), u64::MAX, 10).unwrap();
                assert!(
                    newest.iter().zip((seen + 1).saturating_sub(3).max(1)..).all(|(record, seq)| record.seq == seq)
                );
                rounds += 1;
                if finished_before {
                    break;
                }
            }
            rounds
        });
        for seq in (1..=1_500).step_by(10) {
            fill(store, "room", seq, seq + 9);
        }
        done.store(true, Ordering::Release);
        assert!(reader.join().unwrap() > 0);
    });
    assert_whole(store, "room", 1_500);
}

fn the_first_append_fixes_the_epoch(store: &dyn Store) {
    let mut first = append(store, "room", 1, 1);
    first.epoch = 4_711;
    store.append(&[first]).unwrap();
    fill(store, "room", 2, 2);
    assert_eq!(store.open_log("room").unwrap().epoch, 4_711);
}

fn reserved_ids_never_go_back(store: &dyn Store) {
    assert_eq!(store.reserved_ids().unwrap(), 0);
    for (until, expected) in [(1_000, 1_000), (500, 1_000), (1_000, 1_000), (u64::MAX, u64::MAX)] {
        store.reserve_ids(until).unwrap();
        assert_eq!(store.reserved_ids().unwrap(), expected);
    }
}

fn ids_are_reserved_with_an_append(store: &dyn Store) {
    for (seq, until, expected) in [(1, 1_000, 1_000), (2, 500, 1_000), (3, 2_000, 2_000)] {
        store.append_reserving(&[append(store, "room", seq, seq)], until).unwrap();
        assert_eq!(store.reserved_ids().unwrap(), expected);
    }
    assert_whole(store, "room", 3);
}

fn ids_that_were_not_used_are_given_back(store: &dyn Store) {
    store.reserve_ids(1_000).unwrap();
    for (used, expected) in [(2_000, 1_000), (700, 700)] {
        store.release_ids(used).unwrap();
        assert_eq!(store.reserved_ids().unwrap(), expected);
    }
    store.reserve_ids(800).unwrap();
    assert_eq!(store.reserved_ids().unwrap(), 800);
}

fn any_room_name_is_a_log_of_its_own(store: &dyn Store) {
    let long = "x".repeat(1_000);
    let names = [
        "",
        " ",
        "a",
        "ab",
        "abc",
        "a\0",
        "a\0\0",
        "\u{10ffff}",
        "방/채팅:1",
        "../lock",
        "f",
        "m",
        "r",
        "s",
        &long,
        "\n",
    ];
    for (name, last) in names.iter().zip(1..) {
        fill(store, name, 1, last);
    }
    for (name, last) in names.iter().zip(1..) {
        assert_whole(store, name, last);
    }
}

fn bodies_of_nothing_and_of_64_kib(store: &dyn Store) {
    let mut call = append(store, "room", 1, 3);
    call.records = [(1, 0), (2, 64 << 10), (3, 0)].map(|(seq, bytes)| Arc::new(sized(seq, bytes))).into();
    let expected: Vec<_> = call.records.iter().map(|record| (**record).clone()).collect();
    store.append(&[call]).unwrap();
    assert_eq!(store.read("room", 1, 9, 9).unwrap(), expected);
}

fn unknown_kinds_pass_through(store: &dyn Store) {
    let mut call = append(store, "room", 1, 1);
    Arc::make_mut(&mut call.records[0]).kind = storage::Kind::Other(200);
    store.append(&[call.clone()]).unwrap();
    assert_eq!(store.read("room", 1, 1, 1).unwrap(), [(*call.records[0]).clone()]);
}

fn all_that_is_optional_is_kept(store: &dyn Store) {
    let parts = NewParts {
        client: Some(ClientId(u64::MAX)),
        info: Some(b"\x00\xff"),
        room_info: Some(b""),
        tags: &[("lang", "ko"), ("", "\u{1f600}")],
        target: Some(1),
    };
    let mut call = append(store, "room", 1, 2);
    let edit = Arc::make_mut(&mut call.records[1]);
    (edit.kind, edit.parts) = (storage::Kind::Other(9), parts.pack());
    edit.key = Some(Key { hash: u128::MAX, body: Some(0) });
    let expected: Vec<_> = call.records.iter().map(|record| (**record).clone()).collect();
    store.append(&[call]).unwrap();
    assert_eq!(store.read("room", 1, 9, 9).unwrap(), expected);
}

/// A time that no clock shows for long: from then on, engines that had logs without keys once have them all.
const LATER_MS: u64 = EPOCH_MS + (1 << 41) - 10_000_000;

/// The record `seq`, taken so many milliseconds later.
fn timed(seq: u64) -> Record {
    Record { id: (LATER_MS + seq - EPOCH_MS) << 22, time_ms: LATER_MS + seq, ..sized(seq, 3) }
}

/// Appends such records to "room".
fn fill_timed(store: &dyn Store, seqs: std::ops::RangeInclusive<u64>) {
    let epoch = store.open_log("room").unwrap().epoch;
    let records: Vec<_> = seqs.map(|seq| Arc::new(timed(seq))).collect();
    for records in records.chunks(3_000) {
        store.append(&[Append { room: "room".into(), epoch, records: records.to_vec() }]).unwrap();
    }
}

/// What [`Store::keys`] has to give of a log `1..=last` of such records, with any that are older left out.
fn assert_keys(store: &dyn Store, (first, last): (u64, u64), since_ms: u64) {
    let mut found = store.keys("room", first, since_ms).unwrap();
    assert!(found.iter().all(|stored| stored.seq >= first), "from {first}");
    found.retain(|stored| stored.time_ms > since_ms);
    let expected: Vec<_> = (first..=last).map(timed).filter_map(|record| StoredKey::of(&record)).collect();
    let expected: Vec<_> = expected.into_iter().filter(|stored| stored.time_ms > since_ms).collect();
    assert!(found == expected, "from {first} since {since_ms}: {} keys instead of {}", found.len(), expected.len());
}

fn keys_are_found_back_to_where_and_when_they_are_wanted(store: &dyn Store) {
    const LAST: u64 = 66_600;
    assert_eq!(store.keys("room", 1, 0).unwrap(), []);
    fill_timed(store, 1..=LAST);
    for first in [1, 2, 1_000, 65_535, 65_536, 65_537, LAST, LAST + 1] {
        assert_keys(store, (first, LAST), LATER_MS - 1);
    }
    for seq in [1, 1_024, 65_535, 65_536, LAST - 1, LAST, LAST + 1] {
        assert_keys(store, (1, LAST), LATER_MS + seq);
    }
    // Since a time when there may have been none beside the records.
    assert_keys(store, (LAST - 1_000, LAST), 0);
    assert_eq!(store.keys("other", 1, 0).unwrap(), []);
}

fn keys_of_a_log_that_grew_in_repeats_are_each_found_once(store: &dyn Store) {
    for last in [40, 60, 90] {
        fill_timed(store, last - 39..=last);
        fill_timed(store, last - 39..=last);
        assert_keys(store, (1, last), LATER_MS - 1);
        assert_keys(store, (1, last), 0);
    }
}

fn rooms_are_listed_page_by_page_each_once(store: &dyn Store) {
    assert!(store.rooms(None, 10).unwrap().is_empty());
    let mut names: Vec<String> = ["", "a", "b", "ab", "방", "z/1"].map(String::from).into();
    names.extend((0..40).map(|n| format!("room {n}")));
    for name in &names {
        fill(store, name, 1, 2);
    }
    store.open_log("only looked at").unwrap();
    let mut found: Vec<Arc<str>> = Vec::new();
    loop {
        let page = store.rooms(found.last().map(|room| &**room), 7).unwrap();
        assert!(page.len() <= 7);
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    found.sort_unstable();
    names.sort_unstable();
    assert_eq!(found.iter().map(|room| &**room).collect::<Vec<_>>(), names);
}

/// Room, how far before the log's end, how many more records, and whether the store is opened anew after it.
type Call = (usize, u64, u64, bool);

fn calls(most: usize) -> impl Strategy<Value = Vec<Call>> {
    proptest::collection::vec((0usize..3, 0u64..30, 0u64..1_200, any::<bool>()), 1..most)
}

/// Any sequence of calls, with repeats and refusals, leaves the store as it leaves the one in memory.
fn agrees_with_memory<S: Store>(open: impl Fn() -> S, calls: Vec<Call>) -> TestCaseResult {
    let (memory, mut store) = (MemoryStore::new(1), Some(open()));
    for (room, back, count, reopen) in calls {
        let room = ["a", "aa", "b"][room];
        let first = (memory.open_log(room).unwrap().last_seq + 3).saturating_sub(back).max(1);
        let mut call = append(&memory, room, first, first + count);
        call.epoch = 1;
        if reopen {
            drop(store.take());
        }
        let store = store.get_or_insert_with(&open);
        let outcomes = [memory.append(std::slice::from_ref(&call)), store.append(&[call])];
        prop_assert_eq!(outcomes[0].is_ok(), outcomes[1].is_ok(), "{:?}", outcomes);
        let state = memory.open_log(room).unwrap();
        if state.last_seq > 0 {
            prop_assert_eq!(store.open_log(room).unwrap(), state);
        }
        let from = (state.last_seq / 2).saturating_sub(count);
        let [expected, found] =
            [&memory as &dyn Store, store].map(|store| store.read(room, from, state.last_seq, 700).unwrap());
        prop_assert_eq!(found, expected);
    }
    Ok::<(), TestCaseError>(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn embedded_agrees_with_memory(calls in calls(40)) {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { log_states_max: 2, ..Options::default() };
        agrees_with_memory(|| EmbeddedStore::open(&dir, options).unwrap(), calls)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, max_shrink_iters: 20, ..ProptestConfig::default() })]
    #[test]
    fn scylla_agrees_with_memory(calls in calls(16)) {
        // Each case, also of those that make a failure smaller, begins with nothing.
        static CASES: AtomicU64 = AtomicU64::new(0);
        let keyspace = format!("agrees_{}", CASES.fetch_add(1, Ordering::Relaxed));
        agrees_with_memory(|| open_keyspace(Node::shared().address(), &keyspace), calls)?;
    }
}
