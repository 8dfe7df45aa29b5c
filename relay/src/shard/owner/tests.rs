use protocol::{Content, OwnedParts, Page, Start};
use storage::LogState;

use super::*;
use crate::budget::Budget;
use crate::ids::{Origin, Principal, Rights, SessionId, owner_of, user_hash};
use crate::mesh::{Answered, Mesh};
use crate::shard::outbox::StoreRequest;
use crate::shard::tests::setup;
use crate::tempo::Tempo;

const SHARDS: usize = 2;

/// The owner of a room on shard 0 of two, and what is said to shard 1, where everybody is who asks.
struct Rig {
    turn: Turn,
    owner: Owner,
    room: Arc<str>,
    tag: u32,
}

impl Rig {
    fn new() -> Self {
        Self::of(setup(SHARDS))
    }

    fn of(setup: Setup) -> Self {
        let room =
            (0..99).map(|n| format!("room {n}")).find(|room| owner_of(room, SHARDS) == 0).expect("half of them are");
        Self { owner: Owner::new(&setup), turn: Turn::new(setup), room: room.into(), tag: 0 }
    }

    fn ask(&mut self, user: &str, ask: Ask) {
        self.tag += 1;
        let origin = Origin::Session(SessionId::new(1, 0, 7, 0), self.tag);
        let principal = Principal { user: user.into(), address: 1, rights: Rights::ALL };
        self.owner.on_ask(&mut self.turn, Asked { origin, principal, room: self.room.clone(), ask });
    }

    fn open(&mut self, last_seq: u64) {
        let state = LogState { epoch: 5, last_seq, last_id: last_seq };
        let log = Log { state, tail: Vec::new(), keys: Vec::new() };
        self.owner.on_stored(&mut self.turn, StoreReply::Opened { room: self.room.clone(), log: Some(log) });
    }

    fn join(&mut self, user: &str) {
        self.ask(user, Ask::Join { start: Start::Recent(0), shared: None });
    }

    fn publish(&mut self, user: &str, text: &str) {
        let body = text.as_bytes().into();
        self.ask(user, Ask::Publish { content: Content::Text, body, key: None, parts: OwnedParts::default() });
    }

    /// The turn's end, as far as the owner has a part in it. What the other shard is told, and storage.
    fn flush(&mut self) -> (Vec<String>, Vec<String>) {
        self.owner.form_appends(&mut self.turn);
        self.owner.cut_due(&mut self.turn, &Tempo::fixed(0));
        let said = self.turn.outbox.mesh[1].drain(..).map(|message| match message {
            Mesh::Answer(Answered { origin: Origin::Session(_, tag), answer, .. }) => match answer {
                Answer::Joined { epoch, from, head, .. } => format!("{tag} joined {epoch} {from} {head}"),
                Answer::Acked { seq, .. } => format!("{tag} acked {seq}"),
                Answer::Page { records, .. } => format!("{tag} page of {}", records.len()),
                other => format!("{tag} {other:?}"),
            },
            Mesh::Deliver { records, .. } => format!("deliver {:?}", records.iter().map(|r| r.seq).collect::<Vec<_>>()),
            other => panic!("an owner does not say {other:?}"),
        });
        let said = said.collect();
        let stored = self.turn.outbox.store.drain(..).map(|request| match request {
            StoreRequest::Open { .. } => "open".to_owned(),
            StoreRequest::Append(append) => format!("append {}", append.records.len()),
            StoreRequest::Read { wanted, .. } => format!("read {}..={}", wanted.first, wanted.last),
            StoreRequest::Forget { .. } => "forget".to_owned(),
        });
        (said, stored.collect())
    }

    fn appended(&mut self) {
        self.owner.on_stored(&mut self.turn, StoreReply::Appended { room: self.room.clone() });
    }
}

fn lines<const SAID: usize, const STORED: usize>(
    said: [&str; SAID],
    stored: [&str; STORED],
) -> (Vec<String>, Vec<String>) {
    (said.map(str::to_owned).to_vec(), stored.map(str::to_owned).to_vec())
}

#[test]
fn what_is_asked_of_a_room_that_is_not_in_memory_waits_for_it_and_goes_on_in_order() {
    let mut rig = Rig::new();
    rig.join("ann");
    rig.publish("ann", "hi");
    assert_eq!(rig.flush(), lines([], ["open"]), "it is asked for once");
    rig.open(41);
    assert_eq!(rig.flush(), lines(["1 joined 5 41 41"], ["append 1"]));
}

#[test]
fn a_message_is_acked_and_delivered_when_it_is_stored_and_not_before() {
    let mut rig = Rig::new();
    rig.join("ann");
    rig.open(0);
    rig.flush();
    rig.publish("bo", "one");
    rig.publish("bo", "two");
    assert_eq!(rig.flush(), lines([], ["append 2"]), "one append a turn");
    assert_eq!(rig.flush(), lines([], []));
    rig.appended();
    assert_eq!(rig.flush(), lines(["2 acked 1", "3 acked 2", "deliver [1, 2]"], []));
}

#[test]
fn a_core_without_members_is_sent_nothing_and_people_are_counted_once() {
    let mut rig = Rig::new();
    rig.join("ann");
    rig.open(3);
    rig.join("ann");
    rig.flush();
    let index = rig.owner.rooms.find(&rig.room).expect("it is in memory");
    let audience = |rig: &Rig| {
        let room = rig.owner.rooms.ready(index).expect("it is ready");
        (room.audience.members(), room.audience.people())
    };
    assert_eq!(audience(&rig), (2, 1));
    for _ in 0..2 {
        rig.owner.on_leave(&mut rig.turn, &rig.room.clone(), 1, user_hash("ann"));
    }
    rig.publish("bo", "to nobody");
    rig.flush();
    rig.appended();
    assert_eq!(rig.flush(), lines(["3 acked 4"], []));
}

#[test]
fn a_lane_that_is_full_is_brought_up_to_date_later() {
    let mut rig = Rig::new();
    rig.turn.setup.limits.lane_messages_max = 1;
    rig.join("ann");
    rig.open(0);
    rig.publish("bo", "one");
    rig.owner.form_appends(&mut rig.turn);
    rig.appended();
    // The lane has the answers to the join and the publish.
    rig.owner.cut_due(&mut rig.turn, &Tempo::fixed(0));
    assert!(rig.owner.is_behind());
    assert_eq!(rig.flush().0.len(), 2);
    assert_eq!(rig.flush(), lines(["deliver [1]"], []));
    assert!(!rig.owner.is_behind());
}

#[test]
fn a_page_that_is_not_in_memory_is_read_once_for_all_who_ask() {
    let mut rig = Rig::new();
    rig.join("ann");
    rig.open(9);
    rig.flush();
    let page = || Ask::History { page: Page::Newest, limit: 4, epoch: None, newest_first: false };
    rig.ask("ann", page());
    rig.ask("bo", page());
    assert_eq!(rig.flush(), lines([], ["read 6..=9"]));
    rig.ask("bo", Ask::History { page: Page::Newest, limit: 4, epoch: Some(6), newest_first: false });
    assert!(rig.flush().0[0].contains("Unrecoverable"), "it is of another life of the room");
}

#[test]
fn a_shard_whose_rooms_are_forgotten_first_has_its_part_of_the_places_all_the_same() {
    let mut setup = setup(SHARDS);
    setup.limits.max_rooms = 16;
    setup.limits.user_open_rate = 100_000;
    setup.limits.session_open_rate = 100_000;
    setup.limits.address_open_rate = 0;
    setup.budget = Budget::new(&setup.limits, SHARDS);
    let mut rigs = [Rig::of(setup.clone()), Rig::of(setup)];
    for n in 0..400 {
        for rig in &mut rigs {
            rig.room = format!("room {n}").into();
            rig.publish("ann", "hi");
            assert_eq!(rig.flush(), lines([], ["open"]), "round {n}");
            rig.open(0);
            rig.flush();
            rig.appended();
            assert_eq!(rig.flush().0.len(), 1, "round {n}");
        }
        // Its upkeep always comes when few places are free, and the other's after it.
        for rig in rigs.iter_mut().rev() {
            rig.owner.forget_rooms(&mut rig.turn);
        }
    }
    let rooms = rigs.each_ref().map(|rig| rig.owner.rooms());
    assert!(rooms[1] >= 6, "{rooms:?}");
}
