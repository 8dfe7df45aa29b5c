//! The check over all threads when a run ends: what was acked against what members received, message by message.

use std::collections::{BTreeMap, HashMap};

use crate::plan::Plan;
use crate::room::{self, Entry, Room, State};
use crate::sends::{Answer, Sends};

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
    pub room: u32,
    pub user: u32,
    /// The first range of seqs it never received.
    pub seqs: std::ops::Range<u64>,
}

/// The result: counts, and the first cases of each kind in words.
#[derive(Debug, Default)]
pub struct Audit {
    pub messages: Messages,
    pub examples: Vec<String>,
}

/// Checks the logs that all threads saw, `logs[thread][room]`, against the answers.
pub fn audit(plan: &Plan, sends: &Sends, logs: &[Vec<Room>]) -> Audit {
    let mut audit = Audit::default();
    let mut places: HashMap<(u32, u32), Vec<u64>, foldhash::fast::FixedState> = HashMap::default();
    for room in 0..plan.sizes.len() {
        for (seq, entry) in merged(logs.iter().map(|rooms| &rooms[room])) {
            audit.entry(room, seq, &entry);
            if entry.state == State::Ours {
                places.entry((entry.user, entry.k)).or_default().push(seq);
            }
        }
    }
    for (user, k) in sends.all_sent() {
        let places = places.get(&(user, k)).map_or(&[][..], Vec::as_slice);
        let answer = sends.answer_of(user, k);
        audit.message(plan, user, k, answer, places);
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
    fn entry(&mut self, room: usize, seq: u64, entry: &Entry) {
        let who = (entry.user, entry.k);
        if entry.state == State::Unknown {
            self.messages.unknown += 1;
            self.example(self.messages.unknown, || format!("room {room} seq {seq}: a message that was not sent there"));
        }
        if entry.altered {
            self.messages.altered += 1;
            self.example(self.messages.altered, || format!("room {room} seq {seq}: {who:?} was altered"));
        }
        if entry.disputed {
            self.messages.disputed += 1;
            self.example(self.messages.disputed, || format!("room {room} seq {seq}: members disagree what it is"));
        }
    }

    fn message(&mut self, plan: &Plan, user: u32, k: u32, answer: Answer, places: &[u64]) {
        let what = format_args!("message {user}.{k} of room {}", plan.room_of(user)).to_string();
        self.messages.sent += 1;
        let copies = (places.len() as u64).saturating_sub(1);
        if copies > 0 {
            self.messages.stored_twice += copies;
            self.example(self.messages.stored_twice, || format!("{what} is in the log under {places:?}"));
        }
        match answer {
            Answer::Refused => self.messages.refused += 1,
            Answer::Open if plan.role_of(user).is_slow() => self.messages.unacked_slow += 1,
            Answer::Open => {
                self.messages.unacked += 1;
                self.example(self.messages.unacked, || format!("{what} was never acked (received under {places:?})"));
            }
            Answer::Acked(seq) => {
                self.messages.acked += 1;
                if places.is_empty() {
                    self.messages.acked_missing += 1;
                    self.example(self.messages.acked_missing, || {
                        format!("{what}, acked at {seq}, was received by nobody")
                    });
                } else if !places.contains(&seq) {
                    self.messages.misplaced += 1;
                    self.example(self.messages.misplaced, || format!("{what}, acked at {seq}, is under {places:?}"));
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
