//! The schedule of some users, worked out as time goes on.

use super::Plan;

/// A message that is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    pub intended_ns: u64,
    pub user: u32,
    pub k: u32,
}

/// The schedule of some users in order of time, worked out one slot at a time so that its size is that of the users.
#[derive(Debug)]
pub struct Agenda {
    users: Vec<u32>,
    slot: Vec<Due>,
    at: usize,
    next_k: u32,
    left: u64,
}

impl Agenda {
    /// The schedule of `users`.
    pub fn new(plan: &Plan, users: Vec<u32>) -> Self {
        let left = plan.sends(users.iter().copied());
        let mut agenda = Self { slot: Vec::with_capacity(users.len()), users, at: 0, next_k: 0, left };
        agenda.fill(plan);
        agenda
    }

    /// Messages not yet taken.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next message, without taking it.
    pub fn peek(&self) -> Option<Due> {
        self.slot.get(self.at).copied()
    }

    /// Takes the next message if it is due at `now_ns`.
    pub fn take_due(&mut self, plan: &Plan, now_ns: u64) -> Option<Due> {
        let due = self.peek().filter(|due| due.intended_ns <= now_ns)?;
        self.at += 1;
        self.left -= 1;
        if self.at == self.slot.len() {
            self.fill(plan);
        }
        Some(due)
    }

    /// Works out the next slot that has a message.
    fn fill(&mut self, plan: &Plan) {
        self.slot.clear();
        self.at = 0;
        while self.slot.is_empty() && self.next_k < plan.per_user {
            let k = self.next_k;
            self.next_k += 1;
            let all = self.users.iter().map(|&user| Due { intended_ns: plan.intended_ns(user, k), user, k });
            self.slot.extend(all.filter(|due| due.intended_ns < plan.end_ns()));
            self.slot.sort_unstable();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Distribution, tests::shape};

    #[test]
    fn an_agenda_gives_every_message_once_in_order_of_time_and_skips_none_when_late() {
        let plan = Plan::new(shape(101, 5, Distribution::Uniform));
        let users: Vec<u32> = (0..101).filter(|user| user % 2 == 1).collect();
        let mut agenda = Agenda::new(&plan, users.clone());
        let total = agenda.left();
        assert_eq!(agenda.take_due(&plan, 0), None, "nothing is due before its time");
        let mut taken = Vec::new();
        while let Some(due) = agenda.take_due(&plan, u64::MAX) {
            taken.push(due);
        }
        assert!(taken.is_sorted());
        assert_eq!(taken.len() as u64, total);
        assert_eq!(agenda.left(), 0);
        let all = users.iter().flat_map(|&user| (0..plan.per_user).map(move |k| (user, k)));
        let mut expected: Vec<Due> = all
            .map(|(user, k)| Due { intended_ns: plan.intended_ns(user, k), user, k })
            .filter(|due| due.intended_ns < plan.end_ns())
            .collect();
        expected.sort_unstable();
        assert_eq!(taken, expected);
    }
}
