use super::*;
use crate::ids::SessionId;

const RATE: Rate = Rate { per_s: 1000, burst: 1000 };
const FOUR: Most = most(4);
const TEN: Most = most(10);

const fn most(messages: usize) -> Most {
    Most { messages, bytes: usize::MAX }
}

fn room() -> Room {
    let state = LogState { epoch: 7, last_seq: 0, last_id: 0 };
    Room::load("r".into(), Log { state, tail: Vec::new(), keys: Vec::new() }, 1, FOUR)
}

fn publish(user: &str, key: Option<u128>, tag: u32) -> Publish {
    let origin = Origin::Session(SessionId(1), tag);
    let key = key.map(|hash| Key { hash, body: Some(1) });
    let parts = OwnedParts::default();
    Publish { user: user.into(), content: Content::Text, body: (*b"x").into(), key, parts, origin }
}

/// The same key for another body.
fn other(hash: u128, tag: u32) -> Publish {
    Publish { key: Some(Key { hash, body: Some(2) }), ..publish("a", None, tag) }
}

fn tag(origin: Origin) -> u32 {
    let Origin::Session(_, tag) = origin;
    tag
}

fn acked(room: &mut Room) -> Vec<(u32, u64)> {
    let mut acks = Vec::new();
    room.stored(0, FOUR, |origin, known| {
        assert!(!known.differs);
        acks.push((tag(origin), known.seq));
    });
    acks
}

#[test]
fn one_append_flies_at_a_time_and_acks_come_in_order() {
    let (mut room, mut ids) = (room(), Snowflake::new(0, 0, 0));
    assert_eq!(room.publish(publish("a", None, 1), RATE, TEN, 0), Verdict::Pending);
    let append = room.form_append(&mut ids, (0, 0), TEN).unwrap();
    assert_eq!((append.epoch, append.records.len(), append.records[0].seq), (7, 1, 1));
    assert_eq!(room.publish(publish("b", None, 2), RATE, TEN, 0), Verdict::Pending);
    assert!(room.form_append(&mut ids, (0, 0), TEN).is_none());
    assert_eq!(acked(&mut room), [(1, 1)]);
    assert_eq!(room.form_append(&mut ids, (0, 0), TEN).unwrap().records[0].seq, 2);
    assert_eq!(acked(&mut room), [(2, 2)]);
}

#[test]
fn a_repeated_key_waits_for_the_first_whether_pending_flying_or_stored() {
    let (mut room, mut ids) = (room(), Snowflake::new(0, 0, 0));
    for tag in [1, 2] {
        assert_eq!(room.publish(publish("a", Some(9), tag), RATE, TEN, 0), Verdict::Pending);
    }
    assert_eq!(room.form_append(&mut ids, (0, 0), TEN).unwrap().records.len(), 1);
    assert_eq!(room.publish(publish("a", Some(8), 3), RATE, TEN, 0), Verdict::Pending);
    assert_eq!(room.publish(publish("a", Some(9), 4), RATE, TEN, 0), Verdict::Pending);
    assert_eq!(acked(&mut room), [(1, 1), (2, 1), (4, 1)]);
    assert!(matches!(room.publish(publish("a", Some(9), 5), RATE, TEN, 0), Verdict::Repeat { seq: 1, .. }));
    room.form_append(&mut ids, (0, 0), TEN).unwrap();
    assert_eq!(acked(&mut room), [(3, 2)]);
}

#[test]
fn a_key_with_another_body_hears_where_the_first_is_stored_and_what_became_of_it() {
    let (mut room, mut ids) = (room(), Snowflake::new(0, 0, 0));
    room.publish(publish("a", Some(9), 1), RATE, TEN, 0);
    assert_eq!(room.publish(other(9, 2), RATE, TEN, 0), Verdict::Pending);
    room.form_append(&mut ids, (0, 0), TEN).unwrap();
    assert_eq!(room.publish(other(9, 3), RATE, TEN, 0), Verdict::Pending);
    let mut told = Vec::new();
    room.stored(0, FOUR, |origin, Known { seq, differs, .. }| told.push((tag(origin), seq, differs)));
    assert_eq!(told, [(1, 1, false), (2, 1, true), (3, 1, true)]);
    assert!(matches!(room.publish(other(9, 4), RATE, TEN, 0), Verdict::KeyTaken { seq: 1, .. }));
    assert!(matches!(room.publish(publish("a", Some(9), 5), RATE, TEN, 0), Verdict::Repeat { seq: 1, .. }));
    assert!(!room.has_pending(), "nothing more was taken");

    room.publish(publish("a", Some(8), 6), RATE, TEN, 0);
    room.publish(other(8, 7), RATE, TEN, 0);
    let mut told = Vec::new();
    room.give_up(10, 10, |origin, unknown| told.push((tag(origin), unknown)));
    assert_eq!(told, [(6, false), (7, false)], "without the first, nobody knows where the key is");
    assert_eq!(room.publish(other(8, 8), RATE, TEN, 0), Verdict::Pending, "and it is free");
}

#[test]
fn a_full_room_is_busy_and_a_fast_user_is_limited() {
    let mut room = room();
    assert_eq!(room.publish(publish("a", None, 1), RATE, most(1), 0), Verdict::Pending);
    assert_eq!(room.publish(publish("a", None, 2), RATE, most(1), 0), Verdict::Busy);
    let slow = Rate { per_s: 2, burst: 1 };
    assert_eq!(room.publish(publish("b", None, 3), slow, TEN, 0), Verdict::Pending);
    assert_eq!(room.publish(publish("b", None, 4), slow, TEN, 0), Verdict::RateLimited { retry_after_ms: 500 });
    assert_eq!(room.publish(publish("b", None, 5), slow, TEN, 500_000), Verdict::Pending);
}

#[test]
fn who_waits_too_long_hears_busy_before_a_seq_and_unknown_after() {
    let (mut room, mut ids) = (room(), Snowflake::new(0, 0, 0));
    room.publish(publish("a", Some(1), 1), RATE, TEN, 0);
    room.form_append(&mut ids, (0, 0), TEN).unwrap();
    room.publish(publish("a", Some(2), 2), RATE, TEN, 0);
    let mut told = Vec::new();
    room.give_up(10, 10, |origin, unknown| told.push((tag(origin), unknown)));
    assert_eq!(told, [(2, false), (1, true)]);
    assert_eq!(acked(&mut room), []);
    assert!(matches!(room.publish(publish("a", Some(1), 3), RATE, TEN, 0), Verdict::Repeat { seq: 1, .. }));
    assert_eq!(room.publish(publish("a", Some(2), 4), RATE, TEN, 0), Verdict::Pending);
}

#[test]
fn the_tail_keeps_what_is_not_cut() {
    let (mut room, mut ids) = (room(), Snowflake::new(0, 0, 0));
    for tag in 0..10 {
        room.publish(publish("a", None, tag), RATE, most(100), 0);
    }
    room.form_append(&mut ids, (0, 0), most(100)).unwrap();
    acked(&mut room);
    assert_eq!((room.tail_first(), room.durable, room.cut), (1, 10, 0));
    room.cut = 10;
    room.publish(publish("a", None, 1), RATE, most(100), 0);
    room.form_append(&mut ids, (0, 0), most(100)).unwrap();
    acked(&mut room);
    assert_eq!(room.tail_first(), 8);
    assert_eq!(room.tail(9, 11).iter().map(|r| r.seq).collect::<Vec<_>>(), [9, 10, 11]);
}

#[test]
fn what_waits_flies_and_stays_is_bounded_by_bytes_and_counted() {
    let (mut room, mut ids) = (room(), Snowflake::new(0, 0, 0));
    let empty = room.bytes();
    let one = publish("a", None, 0).bytes();
    let two = Most { messages: 100, bytes: 2 * one };
    let said: Vec<_> = (0..3).map(|tag| room.publish(publish("a", None, tag), RATE, two, 0)).collect();
    assert_eq!(said, [Verdict::Pending, Verdict::Pending, Verdict::Busy]);
    assert_eq!(room.bytes(), empty + 2 * one);
    let append = room.form_append(&mut ids, (0, 0), Most { messages: 100, bytes: 1 }).unwrap();
    assert_eq!(append.records.len(), 1, "one always goes");
    assert_eq!((record_bytes(&append.records[0]), room.bytes()), (one, empty + 2 * one));
    room.stored(0, Most { messages: 100, bytes: 1 }, |_, _| ());
    assert_eq!(room.bytes(), empty + 2 * one, "what is not cut stays");
    room.cut = 1;
    room.form_append(&mut ids, (0, 0), TEN).unwrap();
    room.stored(0, Most { messages: 100, bytes: one }, |_, _| ());
    assert_eq!((room.tail_first(), room.bytes()), (2, empty + one));
    room.cut = 2;
    room.audience.join(0, 7, 1);
    room.drop_tail();
    assert_eq!(room.tail_first(), 2, "a core with a member was not sent it");
    room.audience.sent(0, 2);
    room.drop_tail();
    assert_eq!((room.tail_first(), room.bytes()), (3, empty + room.audience.bytes()));
}
