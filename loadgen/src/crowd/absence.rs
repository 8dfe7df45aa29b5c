//! Users that lose their connection and come back: their ledger goes on over the absence.

use super::{Action, Crowd, Joined};
use crate::dice::{mix, scale};
use crate::plan::Role;
use crate::sends::Answer;
use crate::user::Phase;
use crate::world;

/// Before a user whose connection ended without advice tries again, nanoseconds. Long enough to see that all others of
/// a server that was killed have ended too.
const RETURN_AFTER_NS: u64 = 1_000_000_000;
/// Before it tries again after an attempt that failed: twice as long each time, up to the last, half as much more or less.
const AGAIN_AFTER_NS: u64 = 500_000_000;
const AGAIN_AFTER_MAX_NS: u64 = 5_000_000_000;

/// From the loss of a connection until its user has everything again.
#[derive(Debug)]
pub(super) struct Absence {
    since_ns: u64,
    /// Attempts to come back that failed.
    attempts: u32,
    /// An error, unless every connection ended then: the server had gone.
    fault: Option<String>,
    /// When it is a member again: the seq with which it has everything.
    whole_at: Option<u64>,
}

/// Why a connection is over.
#[derive(Debug)]
pub(super) enum End {
    /// The server said that it goes away, and perhaps when to come back.
    Announced { after_ms: Option<u64> },
    /// Without a word, or closed for a reason that lets the user come back.
    Broken(String),
    /// Closed for good.
    Final(String),
}

impl Crowd<'_> {
    /// Users that are to drop out, or are away, or do not have everything again.
    pub(super) fn away(&self) -> u64 {
        (self.leavers.len() + self.absences.len()) as u64
    }

    /// Drops the connections of up to `max` of those who are to drop out in the storm that broke at `at_ns`; they come
    /// back at this rate.
    pub fn drop_out(&mut self, max: usize, at_ns: u64, ramp: Option<u32>) {
        for place in self.leavers.split_off(self.leavers.len().saturating_sub(max)) {
            if self.users[place as usize].phase != Phase::Joined {
                continue;
            }
            let nth = self.counts.dropped_out * self.world.threads as u64;
            let due_ns = at_ns + ramp.map_or(0, |per_s| nth * 1_000_000_000 / u64::from(per_s));
            self.counts.dropped_out += 1;
            self.leave(place, None, due_ns);
        }
    }

    /// The connection of the user at this place is over, or could not be made.
    pub(super) fn lose(&mut self, place: u32, end: End) {
        let user = &self.users[place as usize];
        let was_joined = user.phase == Phase::Joined;
        let is_stalled = self.world.plan.role_of(self.number(place)) == Role::Stalled;
        match (user.phase, end) {
            (Phase::Idle | Phase::Away | Phase::Ended, _) => {}
            // It finds out when the run is over, and nobody waits for it.
            (_, End::Announced { .. }) if is_stalled && was_joined => {
                self.end(place);
            }
            (_, End::Broken(_)) if is_stalled && was_joined && self.world.outages() > 0 => {
                self.end(place);
            }
            (Phase::Connecting | Phase::Handshaking | Phase::Joining, end) if user.returns => {
                self.try_again(place, end);
            }
            (_, End::Announced { after_ms }) if was_joined && self.has_traffic() => {
                self.counts.lost_announced += 1;
                let now_ns = self.world.now_ns();
                let due_ns = after_ms.map_or_else(|| self.return_ns(place), |ms| now_ns + ms * 1_000_000);
                self.leave(place, None, due_ns);
            }
            (_, End::Broken(class)) if was_joined && self.has_traffic() => {
                self.counts.lost += 1;
                let due_ns = self.return_ns(place);
                self.leave(place, Some(class), due_ns);
            }
            (_, End::Broken(class) | End::Final(class)) => self.fail(place, class),
            (_, End::Announced { .. }) => self.fail(place, "the server goes away".to_owned()),
        }
    }

    /// Every connection had ended at some moment: those that ended without a word did so because the server had gone.
    pub fn see_outages(&mut self) {
        let outages = self.world.outages();
        if outages > self.outages {
            self.outages = outages;
            self.absences
                .values_mut()
                .for_each(|absence| self.counts.outage += u64::from(absence.fault.take().is_some()));
        }
    }

    /// The user is a member again; what it missed follows. Says again what may not have been heard.
    pub(super) fn on_rejoined(&mut self, place: u32, joined: Joined, now_ns: u64) {
        let number = self.number(place);
        let user = &mut self.users[place as usize];
        if !joined.recovered {
            let missed_from = user.next_seq;
            self.ledger.on_gap(number, &mut user.next_seq, missed_from, joined.from);
            self.fault(place, "came back and was not recovered");
        } else if joined.from + 1 != user.next_seq {
            self.fault(place, "came back and was recovered from another seq than asked");
        }
        let acked = self.world.sends.highest(self.users[place as usize].room);
        if let Some(absence) = self.absences.get_mut(&place) {
            absence.whole_at = Some(joined.head.max(acked));
        }
        self.on_progress(place, now_ns);
        self.say_again(place);
    }

    /// A user that came back got something: notes when it has everything.
    pub(super) fn on_progress(&mut self, place: u32, now_ns: u64) {
        if !self.users[place as usize].returns {
            return;
        }
        let next_seq = self.users[place as usize].next_seq;
        let is_whole = |absence: &Absence| absence.whole_at.is_some_and(|seq| next_seq > seq);
        if !self.absences.get(&place).is_some_and(is_whole) {
            return;
        }
        self.close_absence(place, now_ns);
        self.counts.caught_up += 1;
        let is_leaver = self.world.plan.role_of(self.number(place)) == Role::Leaver;
        let user = &mut self.users[place as usize];
        user.is_timed = !is_leaver;
        self.times.resume.record(now_ns.saturating_sub(user.step_ns));
    }

    /// Closes the books on those who did not come back, and on the messages that they never said.
    pub(super) fn close_absences(&mut self, now_ns: u64) {
        let places: Vec<u32> = self.absences.keys().copied().collect();
        for place in places {
            self.close_absence(place, now_ns);
            if !matches!(self.users[place as usize].phase, Phase::Joined | Phase::Ended) {
                self.counts.gone += 1;
                self.counts.unsent +=
                    self.due(place).filter(|&(number, k)| self.world.sends.sent_ns(number, k).is_none()).count() as u64;
            }
        }
    }

    /// The absence is over, or the run is.
    pub(super) fn close_absence(&mut self, place: u32, now_ns: u64) {
        let Some(absence) = self.absences.remove(&place) else { return };
        if let Some(class) = absence.fault {
            self.fault(place, class);
        }
        self.times.absence.record(now_ns.saturating_sub(absence.since_ns));
        let t0_ns = self.world.t0_ns();
        let (from_ns, to_ns) = (t0_ns + self.world.plan.shape.warm_up_ns, t0_ns + self.world.plan.end_ns());
        self.counts.absent_ns += now_ns.min(to_ns).saturating_sub(absence.since_ns.max(from_ns));
    }

    fn has_traffic(&self) -> bool {
        self.world.phase() >= world::Phase::Traffic
    }

    /// The user's connection is gone; it may connect again at this time.
    fn leave(&mut self, place: u32, fault: Option<String>, due_ns: u64) {
        let user = &mut self.users[place as usize];
        // A slow reader hears late that its connection ended with all others.
        let is_late = user.step_ns < self.world.outage_ns() && fault.is_some();
        self.counts.outage += u64::from(is_late);
        let fault = fault.filter(|_| !is_late);
        (user.phase, user.returns, user.is_timed) = (Phase::Away, true, false);
        drop(user.take_decoder());
        self.connected -= 1;
        // One that had not everything yet is still in the same absence.
        let since_ns = self.world.now_ns();
        let fresh = Absence { since_ns, attempts: 0, fault: None, whole_at: None };
        let absence = self.absences.entry(place).or_insert(fresh);
        absence.whole_at = None;
        absence.fault = absence.fault.take().or(fault);
        self.actions.extend([Action::Close(place), Action::ComeBack(place, due_ns)]);
    }

    /// An attempt to come back failed.
    fn try_again(&mut self, place: u32, end: End) {
        let number = self.number(place);
        let why = match end {
            End::Announced { .. } => "the server goes away".to_owned(),
            End::Broken(class) | End::Final(class) => class,
        };
        self.attempts.count(number, why);
        let absence = self.absences.get_mut(&place).expect("who returns and is not joined is absent");
        absence.attempts += 1;
        let longest_ns = (AGAIN_AFTER_NS << absence.attempts.min(8)).min(AGAIN_AFTER_MAX_NS);
        let bits = mix(self.world.plan.shape.seed, u64::from(number), 1 << 42 | u64::from(absence.attempts));
        let due_ns = self.world.now_ns() + longest_ns / 2 + scale(bits, longest_ns);
        let user = &mut self.users[place as usize];
        user.phase = Phase::Away;
        drop(user.take_decoder());
        self.connecting -= 1;
        self.heads.remove(&place);
        self.actions.extend([Action::Close(place), Action::ComeBack(place, due_ns)]);
    }

    /// When a user comes back that was not told when: no more of them a second than connected at first.
    fn return_ns(&self, place: u32) -> u64 {
        let number = self.number(place);
        let span_ns = u64::from(self.world.plan.shape.users) * 1_000_000_000 / u64::from(self.world.ramp);
        let bits = mix(self.world.plan.shape.seed, u64::from(number), 1 << 42);
        self.world.now_ns() + RETURN_AFTER_NS + scale(bits, span_ns.max(1))
    }

    /// Publishes what was due and has no answer: first what was not answered before the absence, with the same keys,
    /// then what became due in it.
    fn say_again(&mut self, place: u32) {
        let sends = &self.world.sends;
        for (number, k) in self.due(place) {
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

    /// The messages of a user that have become due: (number, k).
    fn due(&self, place: u32) -> impl Iterator<Item = (u32, u32)> + use<> {
        let (plan, number) = (&self.world.plan, self.number(place));
        let until_ns = (self.sent_until_ns + 1).min(plan.end_ns());
        let count = (0..plan.per_user).take_while(|&k| plan.intended_ns(number, k) < until_ns).count();
        (0..count as u32).map(move |k| (number, k))
    }
}
