//! What became of every planned message, shared by all threads: one writer per entry, read by every thread whose users
//! receive the message.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::plan::Plan;

/// Times of sending and seqs of acks, by (user, k). 16 bytes a message.
#[derive(Debug)]
pub struct Sends {
    /// The messages of users, `per_user` each, then those of the history: message n is that of historian n modulo their
    /// number.
    per_user: usize,
    users: usize,
    historians: Vec<u32>,
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

/// In a time of sending: the message waited for its sender.
const HELD_UP: u64 = 1 << 63;

const OPEN: u64 = 0;
const REFUSED: u64 = u64::MAX;

impl Sends {
    /// An empty table for all messages of the plan.
    pub fn new(plan: &Plan) -> Self {
        let table = |len: usize| (0..len).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let (per_user, users) = (plan.per_user as usize, plan.shape.users as usize);
        let messages = users * per_user + plan.shape.scenario.history as usize;
        Self {
            per_user,
            users,
            historians: plan.historians.clone(),
            sent_ns: table(messages),
            acked_seq: table(messages),
            highest: table(plan.sizes.len()),
        }
    }

    /// Notes the actual time of the first sending (nanoseconds of the run's clock, not 0).
    pub fn sent(&self, user: u32, k: u32, now_ns: u64) {
        self.sent_ns[self.known(user, k)].store(now_ns, Relaxed);
    }

    /// When the message was first sent; `None` when it was not, or never planned.
    pub fn sent_ns(&self, user: u32, k: u32) -> Option<u64> {
        self.at(user, k).map(|at| self.sent_ns[at].load(Relaxed) & !HELD_UP).filter(|&sent| sent != 0)
    }

    /// Notes that the message waited for its sender, who had lost its connection: its times say nothing about the
    /// server.
    pub fn hold_up(&self, user: u32, k: u32) {
        self.sent_ns[self.known(user, k)].fetch_or(HELD_UP, Relaxed);
    }

    /// Whether the message waited for its sender.
    pub fn was_held_up(&self, user: u32, k: u32) -> bool {
        self.at(user, k).is_some_and(|at| self.sent_ns[at].load(Relaxed) & HELD_UP != 0)
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
        from_number(self.acked_seq[self.known(user, k)].swap(number, Relaxed))
    }

    /// The answer to a message.
    pub fn answer_of(&self, user: u32, k: u32) -> Answer {
        from_number(self.acked_seq[self.known(user, k)].load(Relaxed))
    }

    /// The highest acked seq of a room, 0 when none was.
    pub fn highest(&self, room: u32) -> u64 {
        self.highest[room as usize].load(Relaxed)
    }

    /// All messages that were sent, as (user, k).
    pub fn all_sent(&self) -> impl Iterator<Item = (u32, u32)> {
        let sent = self.sent_ns.iter().enumerate().filter(|(_, sent)| sent.load(Relaxed) != 0);
        sent.map(|(at, _)| match at.checked_sub(self.users * self.per_user) {
            None => ((at / self.per_user) as u32, (at % self.per_user) as u32),
            Some(line) => {
                let (round, writer) = (line / self.historians.len(), line % self.historians.len());
                (self.historians[writer], (self.per_user + round) as u32)
            }
        })
    }

    fn at(&self, user: u32, k: u32) -> Option<usize> {
        let (user_at, k) = (user as usize, k as usize);
        let at = if k < self.per_user {
            (user_at < self.users).then_some(user_at * self.per_user + k)?
        } else {
            let writer = self.historians.binary_search(&user).ok()?;
            self.users * self.per_user + (k - self.per_user) * self.historians.len() + writer
        };
        (at < self.sent_ns.len()).then_some(at)
    }

    fn known(&self, user: u32, k: u32) -> usize {
        self.at(user, k).expect("the message is planned")
    }
}

fn from_number(number: u64) -> Answer {
    match number {
        OPEN => Answer::Open,
        REFUSED => Answer::Refused,
        seq => Answer::Acked(seq),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Distribution, Shape, tests::shape};
    use crate::scenario::Scenario;

    #[test]
    fn every_planned_message_has_a_place_of_its_own_and_nothing_else_has_one() {
        let scenario = Scenario { history: 250, ..Scenario::default() };
        let plan = Plan::new(Shape { scenario, ..shape(300, 2, Distribution::Uniform) });
        let sends = Sends::new(&plan);
        let all = (0..300).flat_map(|user| (0..plan.per_user).chain(plan.history_of(user)).map(move |k| (user, k)));
        let mut planned: Vec<(u32, u32)> = all.collect();
        for (nth, &(user, k)) in (1..).zip(&planned) {
            sends.sent(user, k, nth);
        }
        for (nth, &(user, k)) in (1..).zip(&planned) {
            assert_eq!(sends.sent_ns(user, k), Some(nth));
        }
        let mut sent: Vec<_> = sends.all_sent().collect();
        sent.sort_unstable();
        planned.sort_unstable();
        assert_eq!(sent, planned);
        let stranger = (0..300).find(|user| !plan.historians.contains(user)).expect("100 of 300 write");
        for (user, k) in [(300, 0), (u32::MAX, 0), (stranger, plan.per_user), (plan.historians[99], plan.per_user + 2)]
        {
            assert_eq!(sends.sent_ns(user, k), None);
        }
    }
}
