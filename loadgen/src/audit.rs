//! The check over all threads when a run ends: what was acked against what members received, message by message.

use std::collections::{BTreeMap, HashMap};

use crate::room::{self, Entry, Room, State};
use crate::sends::Answer;
use crate::world::World;

/// How many examples of each thing found are kept for people to look at.
const EXAMPLES_MAX: usize = 5;

/// Counts of messages (not of deliveries).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Messages {
    pub sent: u64,
    pub acked: u64,
    /// Refused by the server for good, with an error.
    pub refused: u64,
    /// Neither acked nor refused when the drain was over.
    pub unacked: u64,
    /// The same of slow readers, who may not have read the answer.
    pub unacked_slow: u64,
    /// Acked, and received by nobody.
    pub acked_missing: u64,
    /// Acked with one seq, received under another.
    pub misplaced: u64,
    /// Further copies of a message in its room's log.
    pub stored_twice: u64,
    /// Received by some member with a body, sender or seq that was not sent.
    pub altered: u64,
    /// In a room's log, and not one that we sent to this room.
    pub unknown: u64,
    /// Seqs under which two members received different messages.
    pub disputed: u64,
}

/// A receiver that lacks messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub user: u32,
    /// The first range of seqs it never received.
    pub seqs: std::ops::Range<u64>,
}

impl Missing {
    /// For a person.
    pub fn in_words(&self, world: &World) -> String {
        let (user, room) = (world.user_name(self.user), &world.room_names[world.plan.room_of(self.user) as usize]);
        let (first, last) = (self.seqs.start, self.seqs.end - 1);
        format!("user {user} never received seqs {first} to {last} of room {room}")
    }
}

/// The result: counts, and the first cases of each kind in words.
#[derive(Debug, Default)]
pub struct Audit {
    pub messages: Messages,
    pub examples: Vec<String>,
}

/// Checks the logs that all threads saw, `logs[thread][room]`, against the answers.
pub fn audit(world: &World, logs: &[Vec<Room>]) -> Audit {
    let mut audit = Audit::default();
    let mut places: HashMap<(u32, u32), Vec<u64>, foldhash::fast::FixedState> = HashMap::default();
    for (room, name) in world.room_names.iter().enumerate() {
        for (seq, entry) in merged(logs.iter().map(|rooms| &rooms[room])) {
            audit.entry(world, name, seq, &entry);
            if entry.state == State::Ours {
                places.entry((entry.user, entry.k)).or_default().push(seq);
            }
        }
    }
    for (user, k) in world.sends.all_sent() {
        let places = places.get(&(user, k)).map_or(&[][..], Vec::as_slice);
        audit.message(world, user, k, places);
    }
    audit
}

fn merged<'a>(threads: impl Iterator<Item = &'a Room>) -> BTreeMap<u64, Entry> {
    let mut log = BTreeMap::new();
    for (seq, &entry) in threads.flat_map(Room::seen) {
        log.entry(seq).and_modify(|known| room::merge(known, entry)).or_insert(entry);
    }
    log
}

impl Audit {
    fn entry(&mut self, world: &World, room: &str, seq: u64, entry: &Entry) {
        if entry.state == State::Unknown {
            self.messages.unknown += 1;
            self.example(self.messages.unknown, || {
                format!("{room} has as seq {seq} a message that was not sent there")
            });
        }
        if entry.altered {
            self.messages.altered += 1;
            self.example(self.messages.altered, || {
                let what = in_words(world, entry.user, entry.k);
                format!("{what} reached a member altered, as seq {seq}")
            });
        }
        if entry.disputed {
            self.messages.disputed += 1;
            self.example(self.messages.disputed, || {
                format!("{room} has several messages as seq {seq}: members disagree")
            });
        }
    }

    fn message(&mut self, world: &World, user: u32, k: u32, places: &[u64]) {
        let what = || in_words(world, user, k);
        self.messages.sent += 1;
        let copies = (places.len() as u64).saturating_sub(1);
        if copies > 0 {
            self.messages.stored_twice += copies;
            self.example(self.messages.stored_twice, || {
                format!("{} was stored more than once, as {}", what(), seqs(places))
            });
        }
        match world.sends.answer_of(user, k) {
            Answer::Refused => self.messages.refused += 1,
            Answer::Open if world.plan.role_of(user).is_slow() => self.messages.unacked_slow += 1,
            Answer::Open => {
                self.messages.unacked += 1;
                self.example(self.messages.unacked, || {
                    let received = if places.is_empty() {
                        "nobody received it".to_owned()
                    } else {
                        format!("it was received as {}", seqs(places))
                    };
                    format!("{} was never acked; {received}", what())
                });
            }
            Answer::Acked(seq) => {
                self.messages.acked += 1;
                if places.is_empty() {
                    self.messages.acked_missing += 1;
                    self.example(self.messages.acked_missing, || {
                        format!("{} was acked as seq {seq} and received by nobody", what())
                    });
                } else if !places.contains(&seq) {
                    self.messages.misplaced += 1;
                    self.example(self.messages.misplaced, || {
                        format!("{} was acked as seq {seq} and received as {}", what(), seqs(places))
                    });
                }
            }
        }
    }

    fn example(&mut self, found: u64, words: impl FnOnce() -> String) {
        if found as usize <= EXAMPLES_MAX {
            self.examples.push(words());
        }
    }
}

/// A message as a person would name it, with the names that the server knows.
fn in_words(world: &World, user: u32, k: u32) -> String {
    let room = &world.room_names[world.plan.room_of(user) as usize];
    format!("message {} of user {} in room {room}", k + 1, world.user_name(user))
}

fn seqs(places: &[u64]) -> String {
    let all: Vec<_> = places.iter().map(|seq| format!("seq {seq}")).collect();
    all.join(" and ")
}
