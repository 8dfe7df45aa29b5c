//! What users say, and what they are answered.

use std::cmp::Reverse;

use protocol::{ErrorCode, Start};

use super::absence::End;
use super::{Action, Again, Crowd, MASK};
use crate::faults::without_numbers;
use crate::plan::Due;
use crate::sends::Answer;
use crate::target::{CONNECT, FIRST_PUBLISH, JOIN, Publish};
use crate::text;
use crate::unreached::JOIN as REFUSED;
use crate::user::Phase;

/// A server that asks for a retry without naming a time gets it after this long.
const RETRY_NS: u64 = 10_000_000;
/// In the place of a message's number: the join is to be sent again.
const JOIN_AGAIN: u32 = u32::MAX;

impl Crowd<'_> {
    /// When something has to be sent next, nanoseconds of the run's clock.
    pub fn next_send_ns(&self, has_traffic: bool) -> Option<u64> {
        let due = self.agenda.peek().map(|due| self.world.t0_ns() + due.intended_ns).filter(|_| has_traffic);
        let again = self.retries.peek().map(|Reverse(again)| again.at_ns);
        due.into_iter().chain(again).min()
    }

    /// Sends again what the server asked for.
    pub fn retry_due(&mut self, now_ns: u64) {
        while let Some(&Reverse(Again { at_ns, place, k, step_ns })) = self.retries.peek()
            && at_ns <= now_ns
        {
            self.retries.pop();
            let user = &self.users[place as usize];
            match user.phase {
                _ if user.step_ns != step_ns => {}
                Phase::Joining if k == JOIN_AGAIN => self.join(place),
                Phase::Joined if k != JOIN_AGAIN => self.publish(place, k),
                _ => {}
            }
        }
    }

    fn retry(&mut self, at_ns: u64, place: u32, k: u32) {
        let step_ns = self.users[place as usize].step_ns;
        self.retries.push(Reverse(Again { at_ns, place, k, step_ns }));
    }

    /// Sends everything that is due. Late messages are sent late, none is skipped.
    pub fn send_due(&mut self, now_ns: u64) {
        self.sent_until_ns = now_ns.saturating_sub(self.world.t0_ns());
        while let Some(due) = self.agenda.take_due(&self.world.plan, self.sent_until_ns) {
            self.send(due);
        }
    }

    fn send(&mut self, due: Due) {
        let place = self.numbers.binary_search(&due.user).expect("the agenda is that of these users") as u32;
        let user = &mut self.users[place as usize];
        let is_here = user.phase == Phase::Joined;
        let comes_back = user.returns && user.phase != Phase::Ended;
        if !(is_here || comes_back) {
            self.counts.unsent += 1;
            return;
        }
        user.in_flight += 1;
        self.in_flight += 1;
        if is_here {
            let now_ns = self.send_first(place, due.k);
            if self.world.plan.is_measured(due.intended_ns) {
                self.times.send_delay.record(now_ns.saturating_sub(self.world.t0_ns() + due.intended_ns));
            }
        }
    }

    /// Every writer of history begins with its first line; each ack brings the next.
    pub fn write_history(&mut self) {
        for place in 0..self.users.len() as u32 {
            self.write_line(place, self.world.plan.per_user);
        }
    }

    fn write_line(&mut self, place: u32, k: u32) {
        if self.world.plan.history_of(self.number(place)).contains(&k) {
            self.users[place as usize].in_flight += 1;
            self.in_flight += 1;
            self.send_first(place, k);
        }
    }

    /// Sends a message that was not sent before. Returns the time.
    pub(super) fn send_first(&mut self, place: u32, k: u32) -> u64 {
        let now_ns = self.world.now_ns();
        self.world.sends.sent(self.number(place), k, now_ns);
        self.counts.sent += 1;
        self.publish(place, k);
        now_ns
    }

    pub(super) fn publish(&mut self, place: u32, k: u32) {
        let number = self.number(place);
        self.body.clear();
        text::write_body(self.world.plan.shape.seed, number, k, &mut self.body);
        let key = format!("{}.{number}.{k}", self.world.run_id);
        let room = &self.world.room_names[self.users[place as usize].room as usize];
        let mut bytes = Vec::with_capacity(self.body.len() + 128);
        self.world.target.publish(&Publish { k, room, body: &self.body, key: &key }, MASK, &mut bytes);
        self.actions.push(Action::Send(place, bytes));
    }

    /// Says who the user is and joins its room: with the lines asked for, or where it left off.
    pub(super) fn say_hello(&mut self, place: u32, now_ns: u64) {
        let mut bytes = Vec::with_capacity(256);
        self.world.target.connect(&self.world.user_name(self.number(place)), MASK, &mut bytes);
        let user = &mut self.users[place as usize];
        (user.phase, user.step_ns) = (Phase::Joining, now_ns);
        self.append_join(place, &mut bytes);
        self.actions.push(Action::Send(place, bytes));
    }

    fn join(&mut self, place: u32) {
        let mut bytes = Vec::with_capacity(128);
        self.append_join(place, &mut bytes);
        self.actions.push(Action::Send(place, bytes));
    }

    fn append_join(&self, place: u32, out: &mut Vec<u8>) {
        let user = &self.users[place as usize];
        let room = user.room as usize;
        let start = if user.returns {
            Start::Since { seq: user.next_seq - 1, epoch: Some(self.epochs[room]) }
        } else {
            Start::Recent(self.world.plan.shape.scenario.recent)
        };
        self.world.target.join(&self.world.room_names[room], start, MASK, out);
    }

    pub(super) fn on_acked(&mut self, place: u32, tag: u32, seq: u64, now_ns: u64) {
        let Some(k) = self.message_of(place, tag) else {
            return self.fault(place, "an ack of nothing that was sent");
        };
        let (number, room) = (self.number(place), self.users[place as usize].room);
        match self.world.sends.answer(number, k, room, Answer::Acked(seq)) {
            Answer::Open => {
                self.answered(place);
                self.counts.acked += 1;
                let intended_ns = self.world.plan.intended_ns(number, k);
                if self.world.plan.is_measured(intended_ns) && !self.world.sends.was_held_up(number, k) {
                    self.times.ack.record(now_ns.saturating_sub(self.world.t0_ns() + intended_ns));
                }
                if k >= self.world.plan.per_user {
                    self.write_line(place, k + 1);
                }
            }
            Answer::Acked(before) if before == seq => self.fault(place, "a message was acked twice"),
            _ => self.fault(place, "a message was answered twice, differently"),
        }
    }

    pub(super) fn on_error(
        &mut self,
        place: u32,
        tag: u32,
        code: ErrorCode,
        message: &str,
        retry_ms: u64,
        now_ns: u64,
    ) {
        let wait_ns = if retry_ms > 0 { retry_ms * 1_000_000 } else { RETRY_NS };
        if tag == JOIN && code == ErrorCode::Busy {
            self.counts.joins_busy += 1;
            return self.retry(now_ns + wait_ns, place, JOIN_AGAIN);
        }
        if tag == CONNECT || tag == JOIN {
            return self.lose(place, End::Final(format!("{REFUSED}{code} ({})", without_numbers(message))));
        }
        let Some(k) = self.message_of(place, tag) else {
            return self.fault(place, format!("error: {code} ({})", without_numbers(message)));
        };
        let again = matches!(code, ErrorCode::Busy | ErrorCode::RateLimited | ErrorCode::Unknown) || retry_ms > 0;
        if again {
            let counts = &mut self.counts;
            *match code {
                ErrorCode::Busy => &mut counts.busy,
                ErrorCode::RateLimited if self.users[place as usize].returns => &mut counts.rate_limited_late,
                ErrorCode::RateLimited => &mut counts.rate_limited,
                _ => &mut counts.unknown,
            } += 1;
            return self.retry(now_ns + wait_ns, place, k);
        }
        self.fault(place, format!("publish refused: {code} ({})", without_numbers(message)));
        let (number, room) = (self.number(place), self.users[place as usize].room);
        if self.world.sends.answer(number, k, room, Answer::Refused) == Answer::Open {
            self.answered(place);
        }
    }

    /// The k that a reply's tag names, if that message was sent.
    fn message_of(&self, place: u32, tag: u32) -> Option<u32> {
        let k = tag.checked_sub(FIRST_PUBLISH)?;
        self.world.sends.sent_ns(self.number(place), k).map(|_| k)
    }

    fn answered(&mut self, place: u32) {
        let user = &mut self.users[place as usize];
        user.in_flight = user.in_flight.saturating_sub(1);
        self.in_flight = self.in_flight.saturating_sub(1);
    }
}
