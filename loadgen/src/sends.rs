//! What became of every planned message, shared by all threads: one writer per entry, read by every thread whose users
//! receive the message.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::plan::Plan;

/// Times of sending and seqs of acks, by (user, k). 16 bytes a message.
#[derive(Debug)]
pub struct Sends {
    per_user: usize,
    sent_ns: Vec<AtomicU64>,
    acked_seq: Vec<AtomicU64>,
    /// By room: the highest seq in an ack, which every member must reach.
    highest: Vec<AtomicU64>,
}

/// The answer to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// None came (yet).
    Open,
    /// Stored at this seq.
    Acked(u64),
    /// The server refused it for good.
    Refused,
}

const OPEN: u64 = 0;
const REFUSED: u64 = u64::MAX;

impl Sends {
    /// An empty table for all messages of the plan.
    pub fn new(plan: &Plan) -> Self {
        let table = |len: usize| (0..len).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let per_user = plan.per_user as usize;
        let messages = plan.shape.users as usize * per_user;
        Self { per_user, sent_ns: table(messages), acked_seq: table(messages), highest: table(plan.sizes.len()) }
    }

    /// Notes the actual time of the first sending (nanoseconds of the run's clock, not 0).
    pub fn sent(&self, user: u32, k: u32, now_ns: u64) {
        self.sent_ns[self.at(user, k)].store(now_ns, Relaxed);
    }

    /// When the message was first sent; `None` when it was not, or never planned.
    pub fn sent_ns(&self, user: u32, k: u32) -> Option<u64> {
        if k as usize >= self.per_user {
            return None;
        }
        self.sent_ns.get(self.at(user, k)).map(|sent| sent.load(Relaxed)).filter(|&sent| sent != 0)
    }

    /// Notes the answer and returns the one before.
    pub fn answer(&self, user: u32, k: u32, room: u32, answer: Answer) -> Answer {
        let number = match answer {
            Answer::Open => OPEN,
            Answer::Refused => REFUSED,
            Answer::Acked(seq) => {
                self.highest[room as usize].fetch_max(seq, Relaxed);
                seq
            }
        };
        from_number(self.acked_seq[self.at(user, k)].swap(number, Relaxed))
    }

    /// The answer to a message.
    pub fn answer_of(&self, user: u32, k: u32) -> Answer {
        from_number(self.acked_seq[self.at(user, k)].load(Relaxed))
    }

    /// The highest acked seq of a room, 0 when none was.
    pub fn highest(&self, room: u32) -> u64 {
        self.highest[room as usize].load(Relaxed)
    }

    /// All messages that were sent, as (user, k).
    pub fn all_sent(&self) -> impl Iterator<Item = (u32, u32)> {
        let sent = self.sent_ns.iter().enumerate().filter(|(_, sent)| sent.load(Relaxed) != 0);
        sent.map(|(at, _)| ((at / self.per_user) as u32, (at % self.per_user) as u32))
    }

    fn at(&self, user: u32, k: u32) -> usize {
        user as usize * self.per_user + k as usize
    }
}

fn from_number(number: u64) -> Answer {
    match number {
        OPEN => Answer::Open,
        REFUSED => Answer::Refused,
        seq => Answer::Acked(seq),
    }
}
