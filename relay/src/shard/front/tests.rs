use std::sync::Arc;

use protocol::frame::{Decoder, Incoming, Opcode, Role, write_masked};
use protocol::{Command, Content, ErrorCode, Kind, OwnedParts, Request, Start, handshake, native};
use storage::Record;

use super::*;
use crate::ids::{Origin, owner_of, user_hash};
use crate::mesh::{Answer, Answered, Ask, Asked, Mesh};
use crate::shard::tests::setup;

const MASK: [u8; 4] = [1, 2, 3, 4];

/// The front of shard 0 of two, and a room that shard 1 owns.
struct Rig {
    turn: Turn,
    front: Front,
    room: Arc<str>,
    me: SessionId,
}

impl Rig {
    /// With a connection that has said who it is.
    fn new() -> Self {
        let setup = setup(2);
        let room = (0..99).map(|n| format!("room {n}")).find(|room| owner_of(room, 2) == 1).expect("half of them are");
        let me = SessionId::new(0, 0, 3, 9);
        let mut rig = Self { front: Front::new(&setup), turn: Turn::new(setup), room: room.into(), me };
        rig.front.held.intake.begin();
        rig.front.on_open(&mut rig.turn, me, None, true);
        let mut head = Vec::new();
        handshake::request("relay", native::PATH, None, false, [0; 16], &mut head);
        rig.front.on_bytes(&mut rig.turn, me, &mut head);
        assert!(rig.sent().starts_with(b"HTTP/1.1 101"));
        rig.say(1, Command::Connect { user: Some("ann".into()), device: None });
        rig.heard();
        rig
    }

    fn say(&mut self, tag: u32, command: Command<'_>) {
        let (mut payload, mut frame) = (Vec::new(), Vec::new());
        native::encode_request(&Request { tag, command }, &mut payload);
        write_masked(Opcode::Binary, &payload, MASK, &mut frame);
        self.front.on_bytes(&mut self.turn, self.me, &mut frame);
    }

    /// What the connection is sent, all of which it takes.
    fn sent(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        self.front.fan_out(&mut self.turn);
        while let Some((id, segment)) = self.turn.outbox.sends.pop() {
            all.extend_from_slice(segment.bytes());
            self.front.on_sent(&mut self.turn, id, Ok(segment.len()));
            self.front.fan_out(&mut self.turn);
        }
        all
    }

    /// The events among it, in short.
    fn heard(&mut self) -> Vec<String> {
        let mut bytes = self.sent();
        let (mut decoder, mut at, mut heard) = (Decoder::new(Role::Client, 1 << 20), 0, Vec::new());
        while let (used, Some(incoming)) = decoder.next(&mut bytes[at..]).expect("frames are sent") {
            at += used;
            let Incoming::Binary(payload) = incoming else { panic!("{incoming:?}") };
            let (tag, event) = native::decode_event(payload).expect("events are sent");
            heard.push(match event.expect("it is of this version") {
                native::Received::Batch { messages, .. } => format!("batch {}+{}", messages.first_seq, messages.count),
                native::Received::Joined { head, .. } => format!("{tag} joined {head}"),
                native::Received::Acked { seq, .. } => format!("{tag} acked {seq}"),
                native::Received::Error { code, .. } => format!("{tag} {code:?}"),
                native::Received::Gap { from, to, .. } => format!("gap {from} to {to}"),
                other => format!("{tag} {other:?}"),
            });
        }
        heard
    }

    /// What the owner is asked, in short.
    fn asked(&mut self) -> Vec<String> {
        let brief = |message| match message {
            Mesh::Ask(Asked { origin: Origin::Session(_, tag), ask, .. }) => match ask {
                Ask::Join { .. } => format!("{tag} join"),
                Ask::Publish { .. } => format!("{tag} publish"),
                Ask::History { .. } => format!("{tag} history"),
                Ask::Info => format!("{tag} info"),
            },
            Mesh::Leave { user, .. } => format!("leave {}", user == user_hash("ann")),
            other => panic!("a front does not say {other:?}"),
        };
        self.turn.outbox.mesh[1].drain(..).map(brief).collect()
    }

    fn answer(&mut self, tag: u32, answer: Answer) {
        let origin = Origin::Session(self.me, tag);
        self.front.on_answer(&mut self.turn, Answered { origin, room: self.room.clone(), answer });
    }

    fn joined(&mut self, tag: u32, head: u64) {
        let user = user_hash("ann");
        let (from, resume, backlog) = (head, head, Vec::new());
        let (recovering, recovered) = (false, false);
        self.answer(tag, Answer::Joined { epoch: 5, from, head, recovering, recovered, resume, backlog, user });
    }

    fn join(&mut self, tag: u32) {
        let room = self.room.to_string();
        self.say(tag, Command::Join { room: room.into(), start: Start::Recent(0) });
    }

    fn deliver(&mut self, seqs: std::ops::RangeInclusive<u64>) {
        let record = |seq| Record {
            kind: Kind::Message,
            seq,
            id: seq,
            time_ms: 1,
            sender: "bo".into(),
            content: Content::Text,
            body: (*b"hi").into(),
            key: None,
            parts: OwnedParts::default(),
        };
        let records: Vec<_> = seqs.map(|seq| Arc::new(record(seq))).collect();
        let room = self.room.clone();
        self.front.on_deliver(&mut self.turn, &room, &records, 1);
    }
}

#[test]
fn a_member_gets_its_answer_and_then_what_is_delivered_behind_it() {
    let mut rig = Rig::new();
    rig.join(2);
    assert_eq!(rig.asked(), ["2 join"]);
    rig.joined(2, 40);
    rig.deliver(41..=43);
    assert_eq!(rig.heard(), ["2 joined 40", "batch 41+3"]);
    rig.deliver(42..=44);
    assert_eq!(rig.heard(), ["batch 44+1"], "what it has is not sent again");
    rig.deliver(47..=47);
    assert_eq!(rig.heard(), ["gap 45 to 47"], "what the owner left out is said, and it goes on at the head");
    rig.deliver(48..=48);
    assert_eq!(rig.heard(), ["batch 48+1"]);
}

#[test]
fn commands_on_a_room_wait_for_the_one_before_and_publishes_follow_each_other() {
    let mut rig = Rig::new();
    let room = rig.room.to_string();
    rig.join(2);
    for tag in [3, 4] {
        let (body, room) = (b"x".as_slice().into(), room.as_str().into());
        rig.say(tag, Command::Publish { room, content: Content::Text, body, key: None });
    }
    rig.say(5, Command::Leave { room: room.as_str().into() });
    assert_eq!(rig.asked(), ["2 join"]);
    rig.joined(2, 0);
    assert_eq!(rig.asked(), ["3 publish", "4 publish"]);
    rig.answer(3, Answer::Acked { seq: 1, id: 1 });
    assert!(rig.asked().is_empty());
    rig.answer(4, Answer::Refused { code: ErrorCode::Busy, retry_after_ms: 0, is_join: false });
    assert_eq!(rig.asked(), ["leave true"]);
    let heard = rig.heard();
    assert_eq!(heard[..3], ["2 joined 0", "3 acked 1", "4 Busy"]);
    assert!(heard[3].starts_with("5 Left"), "{heard:?}");
    assert_eq!((rig.front.feeds.len(), rig.front.is_awaited()), (0, false));
}

#[test]
fn who_is_gone_when_the_owner_answers_a_join_leaves_again() {
    let mut rig = Rig::new();
    rig.join(2);
    rig.asked();
    rig.front.end(&mut rig.turn, rig.me);
    assert!(rig.asked().is_empty(), "it was no member yet");
    rig.joined(2, 0);
    assert_eq!(rig.asked(), ["leave true"]);
    assert_eq!((rig.front.feeds.len(), rig.front.admitted, rig.front.is_awaited()), (0, 0, false));
}

#[test]
fn a_join_that_is_refused_leaves_nothing_behind() {
    let mut rig = Rig::new();
    rig.join(2);
    rig.asked();
    rig.answer(2, Answer::Refused { code: ErrorCode::Unavailable, retry_after_ms: 5, is_join: true });
    assert_eq!(rig.heard(), ["2 Unavailable"]);
    assert_eq!(rig.front.feeds.len(), 0);
    rig.join(3);
    assert_eq!(rig.asked(), ["3 join"], "it may try again");
}

#[test]
fn a_full_lane_refuses_commands_at_once() {
    let mut rig = Rig::new();
    rig.turn.setup.limits.lane_messages_max = 0;
    rig.join(2);
    assert_eq!((rig.asked().len(), rig.heard()), (0, vec!["2 Busy".to_owned()]));
}
