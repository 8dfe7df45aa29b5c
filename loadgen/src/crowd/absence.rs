//! Users that lose their connection and come back: their ledger goes on over the absence.

use super::{Action, Crowd, Joined};
use crate::sends::Answer;
use crate::user::Phase;

impl Crowd<'_> {
    /// Drops the connections of up to `max` of those who are to drop out, and returns their places.
    pub fn drop_out(&mut self, max: usize) -> Vec<u32> {
        let chosen = self.leavers.split_off(self.leavers.len().saturating_sub(max));
        let mut dropped = Vec::with_capacity(chosen.len());
        for place in chosen {
            let user = &mut self.users[place as usize];
            if user.phase != Phase::Joined {
                self.away -= 1;
                continue;
            }
            (user.phase, user.returns) = (Phase::Away, true);
            drop(user.take_decoder());
            self.actions.push(Action::Close(place));
            self.counts.dropped_out += 1;
            dropped.push(place);
        }
        if !dropped.is_empty() {
            let users = &self.users;
            self.retries.retain(|again| users[again.0.1 as usize].phase != Phase::Away);
        }
        dropped
    }

    /// The user is a member again; what it missed follows. Says again what may not have been heard.
    pub(super) fn on_rejoined(&mut self, place: u32, joined: Joined, now_ns: u64) {
        let number = self.number(place);
        let user = &mut self.users[place as usize];
        if !joined.recovered {
            self.faults.count("came back and was not recovered".to_owned());
            let missed_from = user.next_seq;
            self.ledger.on_gap(number, &mut user.next_seq, missed_from, joined.from);
        } else if joined.from + 1 != user.next_seq {
            self.faults.count("came back and was recovered from another seq than asked".to_owned());
        }
        self.on_progress(place, now_ns);
        self.say_again(place);
    }

    /// A user that came back got something: notes when it has everything.
    pub(super) fn on_progress(&mut self, place: u32, now_ns: u64) {
        let user = &self.users[place as usize];
        if user.returns && self.catching_up.get(&place).is_some_and(|&acked| user.next_seq > acked) {
            self.catching_up.remove(&place);
            self.away -= 1;
            self.counts.caught_up += 1;
            self.times.resume.record(now_ns.saturating_sub(user.step_ns));
        }
    }

    /// Publishes what was due and has no answer: first what was not answered before the absence, with the same keys,
    /// then what became due in it.
    fn say_again(&mut self, place: u32) {
        let number = self.number(place);
        let (plan, sends) = (&self.world.plan, &self.world.sends);
        for k in 0..plan.per_user {
            let intended_ns = plan.intended_ns(number, k);
            if intended_ns > self.sent_until_ns || intended_ns >= plan.end_ns() {
                return;
            }
            if sends.answer_of(number, k) != Answer::Open {
                continue;
            }
            if sends.sent_ns(number, k).is_some() {
                self.counts.republished += 1;
                self.publish(place, k);
            } else {
                self.counts.sent_late += 1;
                self.send_first(place, k);
            }
            sends.hold_up(number, k);
        }
    }
}
