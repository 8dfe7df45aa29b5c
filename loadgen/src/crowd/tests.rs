use protocol::command::Command;
use protocol::frame::{Decoder, Incoming, Opcode, Role, write};
use protocol::{Content, Dialect, ErrorCode, Event, Kind, Message, Parts};

use super::*;
use crate::audit::{Messages, audit};
use crate::plan::{Distribution, Plan, Shape};
use crate::scenario::Scenario;
use crate::target::{JOIN, Url};
use crate::verify::Deliveries;
use crate::world::Route;

const SECOND: u64 = 1_000_000_000;

/// Three users of one room, each with two messages in two seconds.
fn world() -> World {
    world_of(3, 2)
}

/// Users of one room, each with a message a second for some seconds.
pub(super) fn world_of(users: u32, seconds: u64) -> World {
    let (distribution, scenario) = (Distribution::Uniform, Scenario::default());
    let (slot_ns, warm_up_ns, duration_ns) = (SECOND, 0, seconds * SECOND);
    let shape = Shape { seed: 3, users, rooms: 1, distribution, slot_ns, warm_up_ns, duration_ns, scenario };
    let url = Url::parse("ws://127.0.0.1:1/native").expect("it is valid");
    let address = ([127, 0, 0, 1], 1).into();
    let (sources, users_per_source) = (Vec::new(), 1);
    let route = Route {
        url,
        address,
        sources,
        users_per_source,
        ramp: 1,
        threads: 1,
        ring_sockets: 8,
        dials: 512,
        deflate: true,
    };
    World::new(Plan::new(shape), route, "test".to_owned())
}

/// One message: its sender's place, the tag it was sent with, the body.
pub(super) type Line = (u32, u32, String);

fn chatting(world: &World) -> (Crowd<'_>, Vec<Line>) {
    chatting_with(world, |_| true)
}

/// A crowd whose users have all joined an empty room, and their messages as the server got them. Which of them agree on
/// compression is given by place.
pub(super) fn chatting_with(world: &World, deflates: impl Fn(u32) -> bool) -> (Crowd<'_>, Vec<Line>) {
    let mut crowd = Crowd::new(world, world.users_of(0));
    for place in 0..crowd.users.len() as u32 {
        crowd.begin(place, 0);
        crowd.on_connected(place, Ok(()));
        let mut answer = answer_to(&sent(&mut crowd)[0].1, deflates(place));
        let (head, rest) = answer.split_at_mut(9);
        crowd.on_received(place, head, 0);
        crowd.on_received(place, rest, 0);
        assert_eq!(commands(&sent(&mut crowd)[0].1).len(), 2, "connect and join are sent together");
        let joined =
            Event::Joined { room: "load-test-0", epoch: 1, from: 0, head: 0, recovering: false, recovered: false };
        hear(&mut crowd, place, JOIN, &joined);
    }
    assert_eq!(crowd.counts.joined, crowd.users.len() as u64);
    world.start_traffic(world.now_ns());
    crowd.send_due(u64::MAX);
    let mut published = Vec::new();
    for (place, bytes) in sent(&mut crowd) {
        for (tag, command) in commands(&bytes) {
            let Command::Publish { body, .. } = command else { panic!("{command:?}") };
            published.push((place, tag, String::from_utf8_lossy(&body).into_owned()));
        }
    }
    (crowd, published)
}

fn answer_to(request: &[u8], deflate: bool) -> Vec<u8> {
    let mut answer = Vec::new();
    match handshake::read_request(request, 4_096) {
        handshake::Request::Upgrade { upgrade, .. } => {
            handshake::accept(&upgrade, Some(protocol::native::SUBPROTOCOL), deflate, &mut answer);
        }
        other => panic!("{other:?}"),
    }
    answer
}

fn sent(crowd: &mut Crowd<'_>) -> Vec<(u32, Vec<u8>)> {
    let actions = crowd.actions.drain(..);
    actions
        .filter_map(|action| match action {
            Action::Send(place, bytes) => Some((place, bytes)),
            Action::Close(_) | Action::ComeBack(..) => None,
        })
        .collect()
}

fn commands(bytes: &[u8]) -> Vec<(u32, Command<'static>)> {
    let mut bytes = bytes.to_vec();
    let mut decoder = Decoder::new(Role::Server, 1 << 20);
    let (mut at, mut found) = (0, Vec::new());
    while let Ok((used, Some(message))) = decoder.next(&mut bytes[at..]) {
        at += used;
        Dialect::Native
            .decode(&message, &mut |request| found.push((request.tag, owned(request.command))))
            .expect("readable");
    }
    found
}

fn owned(command: Command<'_>) -> Command<'static> {
    match command {
        Command::Publish { content, body, .. } => {
            Command::Publish { room: "".into(), content, body: body.into_owned().into(), key: None }
        }
        _ => Command::Ping,
    }
}

fn hear(crowd: &mut Crowd<'_>, place: u32, tag: u32, event: &Event<'_>) {
    let mut bytes = Vec::new();
    Dialect::Native.encode(tag, event, &mut bytes);
    crowd.on_received(place, &mut bytes, 5 * SECOND);
}

fn deliver(crowd: &mut Crowd<'_>, place: u32, first: u64, lines: &[Line]) {
    crowd.on_received(place, &mut frame_of(first, lines), 5 * SECOND);
}

/// The frame with these lines from this seq on.
pub(super) fn frame_of(first: u64, lines: &[Line]) -> Vec<u8> {
    let users: Vec<String> = lines.iter().map(|(user, ..)| format!("test-{user}")).collect();
    let messages: Vec<Message<'_>> = (first..)
        .zip(lines)
        .zip(&users)
        .map(|((seq, (_, _, body)), user)| Message {
            seq,
            id: seq,
            time_ms: 1,
            user,
            content: Content::Text,
            body: body.as_bytes(),
            kind: Kind::Message,
            parts: Parts::NONE,
        })
        .collect();
    let mut bytes = Vec::new();
    Dialect::Native.encode(0, &Event::Batch { room: "load-test-0", messages: &messages }, &mut bytes);
    bytes
}

pub(super) fn ack_all(crowd: &mut Crowd<'_>, lines: &[Line]) {
    for (seq, (place, tag, _)) in (1..).zip(lines) {
        hear(crowd, *place, *tag, &Event::Acked { room: "load-test-0", seq, id: seq });
    }
}

fn audited(world: &World, crowd: Crowd<'_>) -> (Deliveries, Messages) {
    let deliveries = crowd.ledger.deliveries;
    assert_eq!(crowd.faults.by_frequency(), [], "no faults");
    (deliveries, audit(world, &[crowd.rooms]).messages)
}

const CLEAN: Messages = Messages {
    sent: 6,
    acked: 6,
    refused: 0,
    unacked: 0,
    unacked_slow: 0,
    acked_missing: 0,
    misplaced: 0,
    stored_twice: 0,
    altered: 0,
    unknown: 0,
    disputed: 0,
};

#[test]
fn a_faultless_server_leaves_nothing_to_complain_about() {
    let world = world();
    let (mut crowd, lines) = chatting(&world);
    assert_eq!(lines.len(), 6);
    ack_all(&mut crowd, &lines);
    for place in 0..3 {
        deliver(&mut crowd, place, 1, &lines[..4]);
        deliver(&mut crowd, place, 5, &lines[4..]);
    }
    crowd.record_heard();
    assert_eq!((crowd.outstanding(), crowd.behind()), (0, 0));
    assert_eq!((crowd.times.delivery.count(), crowd.times.ack.count()), (18, 6));
    crowd.settle();
    let (deliveries, messages) = audited(&world, crowd);
    assert_eq!(deliveries, Deliveries { received: 18, ..Deliveries::default() });
    assert_eq!(messages, CLEAN);
}

#[test]
fn members_that_get_the_same_messages_in_other_frames_are_checked_and_timed_as_well() {
    let world = world();
    let (mut crowd, lines) = chatting(&world);
    ack_all(&mut crowd, &lines);
    deliver(&mut crowd, 0, 1, &lines);
    (1..7).for_each(|seq| deliver(&mut crowd, 1, seq as u64, &lines[seq - 1..seq]));
    deliver(&mut crowd, 2, 1, &lines[..3]);
    deliver(&mut crowd, 2, 4, &lines[3..]);
    crowd.record_heard();
    crowd.settle();
    assert_eq!(crowd.times.delivery.count(), 18);
    let (deliveries, messages) = audited(&world, crowd);
    assert_eq!((deliveries.received, messages), (18, CLEAN));
}

#[test]
fn a_body_altered_for_one_member_only_is_found() {
    let world = world();
    let (mut crowd, lines) = chatting(&world);
    ack_all(&mut crowd, &lines);
    let mut altered = lines.clone();
    altered[2].2.insert(0, 'x');
    deliver(&mut crowd, 0, 1, &lines);
    deliver(&mut crowd, 1, 1, &altered);
    deliver(&mut crowd, 2, 1, &lines);
    assert_eq!(audited(&world, crowd).1, Messages { altered: 1, ..CLEAN });
}

#[test]
fn two_messages_that_change_places_for_one_member_are_disputed() {
    let world = world();
    let (mut crowd, lines) = chatting(&world);
    ack_all(&mut crowd, &lines);
    let mut swapped = lines.clone();
    swapped.swap(1, 2);
    deliver(&mut crowd, 0, 1, &lines);
    deliver(&mut crowd, 1, 1, &swapped);
    assert_eq!(audited(&world, crowd).1, Messages { disputed: 2, ..CLEAN });
}

#[test]
fn a_message_stored_twice_and_one_that_nobody_sent_are_found_in_the_log() {
    let world = world();
    let (mut crowd, mut lines) = chatting(&world);
    ack_all(&mut crowd, &lines);
    lines.push(lines[0].clone());
    lines.push((0, 0, "buy gold ·9.9".to_owned()));
    (0..3).for_each(|place| deliver(&mut crowd, place, 1, &lines));
    assert_eq!(audited(&world, crowd).1, Messages { stored_twice: 1, unknown: 1, ..CLEAN });
}

#[test]
fn an_ack_without_a_delivery_is_a_loss_for_every_member() {
    let world = world();
    let (mut crowd, lines) = chatting(&world);
    ack_all(&mut crowd, &lines);
    (0..3).for_each(|place| deliver(&mut crowd, place, 1, &lines[..5]));
    assert_eq!(crowd.behind(), 3);
    crowd.settle();
    let (deliveries, messages) = audited(&world, crowd);
    assert_eq!(deliveries, Deliveries { received: 15, lost: 3, ..Deliveries::default() });
    assert_eq!(messages, Messages { acked_missing: 1, ..CLEAN });
}

#[test]
fn a_busy_server_gets_the_same_message_again_after_the_time_it_named() {
    let world = world();
    let (mut crowd, lines) = chatting(&world);
    let (place, tag, body) = lines[0].clone();
    hear(&mut crowd, place, tag, &Event::Error { code: ErrorCode::Busy, message: "busy", retry_after_ms: 250 });
    crowd.retry_due(5 * SECOND + 249_000_000);
    assert!(sent(&mut crowd).is_empty(), "it is not time yet");
    crowd.retry_due(5 * SECOND + 250_000_000);
    let again = commands(&sent(&mut crowd)[0].1);
    let expected =
        Command::Publish { room: "".into(), content: Content::Text, body: body.into_bytes().into(), key: None };
    assert_eq!(again, [(tag, expected)]);
    ack_all(&mut crowd, &lines);
    assert_eq!((crowd.outstanding(), crowd.counts.busy, crowd.faults.total()), (0, 1, 0));
}

#[test]
fn a_refused_message_is_an_error_and_is_not_waited_for() {
    let world = world();
    let (mut crowd, lines) = chatting(&world);
    ack_all(&mut crowd, &lines[1..]);
    hear(
        &mut crowd,
        lines[0].0,
        lines[0].1,
        &Event::Error { code: ErrorCode::Denied, message: "no", retry_after_ms: 0 },
    );
    assert_eq!((crowd.outstanding(), crowd.faults.total()), (0, 1));
    assert_eq!(audit(&world, &[crowd.rooms]).messages.refused, 1);
}

#[test]
fn pings_are_answered_and_a_close_ends_the_user_with_its_reason() {
    let world = world();
    let (mut crowd, _) = chatting(&world);
    let mut bytes = Vec::new();
    write(Opcode::Ping, b"hi", &mut bytes);
    protocol::frame::write_close(1008, "slow", &mut bytes);
    crowd.on_received(1, &mut bytes, 5 * SECOND);
    let (place, pong) = &mut sent(&mut crowd)[0];
    let mut decoder = Decoder::new(Role::Server, 100);
    assert_eq!((*place, decoder.next(pong)), (1, Ok((8, Some(Incoming::Pong(b"hi"))))));
    assert_eq!(crowd.faults.by_frequency(), [("closed by the server: 1008 slow", 1)]);
    assert_eq!((crowd.users[1].phase, crowd.outstanding()), (Phase::Ended, 4));
}

#[test]
fn seqs_that_a_room_cannot_have_are_refused_without_taking_memory() {
    let world = world();
    let (mut crowd, lines) = chatting(&world);
    deliver(&mut crowd, 0, u64::MAX - 50, &lines);
    assert_eq!(crowd.faults.total(), 1);
    assert_eq!(crowd.rooms[0].seen().count(), 0);
}
