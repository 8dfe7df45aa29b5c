//! What time alone causes: timeouts, pings, rates, idle rooms, and stopping.

use std::mem;

use protocol::frame::{self, Opcode};
use protocol::{Close, Dialect, ErrorCode, Event};

use super::Shard;
use super::command::BUSY_RETRY_MS;
use super::member::SHORT_FEED_BYTES;
use super::table::Owned;
use crate::budget::Use;
use crate::ids::SessionId;
use crate::mesh::{Answer, Asked};
use crate::room::Room;
use crate::session::{Phase, Session, Speaks};
use crate::tempo::RATES_US;

/// How often upkeep runs, microseconds.
const UPKEEP_US: u64 = 100_000;
/// Each run looks at one of so many parts of the sessions, so that each is looked at every two seconds.
const PARTS: usize = 20;
/// Frames of a feed are kept this long, seconds.
const FEED_KEEP_S: u32 = 60;
/// By then everybody who takes what it is sent was visited, seconds.
const VISITED_S: u32 = 2;
/// After its close frame a connection is ended this much later, tenths of a second, if the peer does not answer.
const CLOSING_DS: u32 = 20;
/// So many times its send buffer's size (which the kernel doubles) tell as much of a client as an answered ping.
const FLOWING_BUFFERS: usize = 4;
/// Connections that are told to go away per turn while stopping.
const STOP_CHUNK: usize = 1024;

/// When what is due next, and whether the shard is stopping.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    next_us: u64,
    rates_us: u64,
    rounds: usize,
    /// The room that gave up its tail last.
    relieved: u32,
    stopping_us: Option<u64>,
    /// Nobody waits any more for storage or for other shards.
    impatient: bool,
    told: Option<Vec<SessionId>>,
}

impl Upkeep {
    pub(super) fn next_us(&self) -> u64 {
        self.next_us
    }
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping_us.is_some()
    }
}

enum Due {
    Close(Close),
    /// Its request never came.
    Refuse,
    End,
    Ping,
}

impl Shard {
    pub(super) fn keep_up(&mut self) {
        if self.upkeep.stopping_us.is_some() {
            self.stop_on();
        }
        if self.now.us < self.upkeep.next_us {
            return;
        }
        self.upkeep.next_us = self.now.us + UPKEEP_US;
        self.upkeep.rounds += 1;
        self.check_sessions(self.upkeep.rounds % PARTS);
        self.check_rooms();
        self.forget_rooms();
        self.relieve();
        let elapsed = self.now.us - self.upkeep.rates_us;
        if elapsed >= RATES_US {
            self.upkeep.rates_us = self.now.us;
            self.pace_feeds(elapsed);
            self.trim_feeds();
            self.measure_rooms(elapsed);
        }
    }

    fn check_sessions(&mut self, part: usize) {
        let (limits, now_us) = (&self.setup.limits, self.now.us);
        for session in self.sessions.slice_mut(part, PARTS) {
            session.allowance.take_if(|allowance| allowance.is_full(limits, now_us));
        }
        let due: Vec<(SessionId, Due)> =
            self.sessions.slice(part, PARTS).filter_map(|session| Some((session.id, self.due(session)?))).collect();
        for (id, due) in due {
            let Some(mut session) = self.sessions.take(id) else { continue };
            let mut over = false;
            match due {
                Due::End => over = true,
                Due::Refuse => self.time_out(&mut session),
                Due::Close(why) => {
                    match why {
                        Close::SlowConsumer => self.stats.slow_closed += 1,
                        _ => self.stats.idle_closed += 1,
                    }
                    self.close(&mut session, why);
                }
                Due::Ping => self.ping(&mut session),
            }
            self.sessions.put(session);
            if over {
                self.end(id);
            }
        }
    }

    fn due(&self, session: &Session) -> Option<Due> {
        let limits = &self.setup.limits;
        let ds = |ms: u64| (ms / 100) as u32;
        let now = self.now.ds();
        let silent = now - session.heard_ds;
        match session.phase {
            Phase::Handshake(_) => (silent >= ds(limits.connect_timeout_ms)).then_some(Due::Refuse),
            Phase::Closing => (silent >= CLOSING_DS).then_some(Due::End),
            Phase::Open => {
                let blocked =
                    session.blocked_ds != 0 && now - session.blocked_ds >= ds(limits.slow_consumer_timeout_ms);
                if blocked {
                    return Some(Due::Close(Close::SlowConsumer));
                }
                if session.is_nobody() {
                    // Not pinged yet: this is when it came.
                    return (now - session.pinged_ds >= ds(limits.connect_timeout_ms))
                        .then_some(Due::Close(Close::Stale));
                }
                let interval = ds(limits.ping_interval_ms);
                // Only after a ping was not answered in its time: when this process itself stood still, or nobody was
                // pinged because there was enough else to send, nobody had one to answer; and who is not read is not heard.
                let in_vain = session.asked_ds > session.heard_ds && !session.reading.paused;
                if in_vain && now - session.asked_ds >= ds(limits.idle_timeout_ms) - interval {
                    return Some(Due::Close(Close::Idle));
                }
                // The Centrifuge dialect's clients expect pings at their interval; others need them when silent.
                let since = match session.speaks {
                    Speaks::Dialect(Dialect::Centrifuge) => now - session.pinged_ds,
                    _ => silent.min(now - session.pinged_ds),
                };
                (since >= interval).then_some(Due::Ping)
            }
        }
    }

    fn ping(&mut self, session: &mut Session) {
        session.pinged_ds = self.now.ds();
        // More than its kernel buffer holds went out: somebody there acknowledges it. Where nobody does, the buffer is
        // full soon, and that has its own timeout.
        let is_flowing =
            mem::take(&mut session.taken) as usize >= FLOWING_BUFFERS * self.setup.limits.send_buffer_bytes;
        if is_flowing && session.speaks != Speaks::Dialect(Dialect::Centrifuge) {
            return;
        }
        if session.asked_ds <= session.heard_ds {
            session.asked_ds = session.pinged_ds;
        }
        match session.speaks {
            Speaks::Dialect(Dialect::Centrifuge) if session.user.is_some() => {
                Dialect::Centrifuge.encode(0, &Event::Ping, &mut session.replies);
            }
            _ => frame::write(Opcode::Ping, b"", &mut session.replies),
        }
        self.mark(session);
    }

    /// Tells those whose publish waits too long, and refuses what a silent storage holds up.
    fn check_rooms(&mut self) {
        let timeout_us = self.setup.limits.publish_timeout_ms * 1000;
        let now_us = self.now.us;
        for index in ((self.upkeep.rounds % PARTS) as u32..self.rooms.indices()).step_by(PARTS) {
            match self.rooms.get(index) {
                Some(Owned::Ready(_)) => self.with_room(index, |shard, room| shard.check_room(room, timeout_us)),
                Some(Owned::Loading { waiting, since_us }) if *since_us + timeout_us <= now_us => {
                    let waiting = mem::take(waiting);
                    self.memory.give(waiting.iter().map(Asked::bytes).sum());
                    for asked in waiting {
                        self.refuse(&asked, ErrorCode::Unavailable, BUSY_RETRY_MS);
                    }
                }
                _ => {}
            }
        }
    }

    fn check_room(&mut self, room: &mut Room, timeout_us: u64) {
        let name = room.name.clone();
        room.give_up(self.now.us, timeout_us, |origin, unknown| {
            let code = if unknown { ErrorCode::Unknown } else { ErrorCode::Busy };
            self.answer(origin, &name, Answer::Refused { code, retry_after_ms: BUSY_RETRY_MS, is_join: false });
        });
        room.tidy(self.rate, self.now.us, self.now.wall_ms);
    }

    /// While the relay is short of memory, rooms and feeds give up what can be had again.
    fn relieve(&mut self) {
        for _ in 0..self.rooms.indices() {
            if !self.memory.is_short() {
                break;
            }
            self.upkeep.relieved = (self.upkeep.relieved + 1) % self.rooms.indices();
            self.with_room(self.upkeep.relieved, |_, room| room.drop_tail());
        }
        if !self.memory.is_short() {
            return;
        }
        // Without memory for new work, frames are kept for no longer than visits to all members take.
        let before_s = if self.memory.allows(Use::Work, 0) { 0 } else { self.now.s().saturating_sub(VISITED_S) };
        for index in 0..self.feeds.len() as u32 {
            self.change_feed(index, |feed| {
                feed.shorten(SHORT_FEED_BYTES);
                feed.trim(before_s);
            });
        }
    }

    fn measure_rooms(&mut self, elapsed_us: u64) {
        for owned in self.rooms.iter_mut() {
            if let Owned::Ready(room) = owned {
                room.rate.measure(mem::take(&mut room.recent_cut), elapsed_us);
            }
        }
    }

    fn trim_feeds(&mut self) {
        let before_s = self.now.s().saturating_sub(FEED_KEEP_S);
        for index in 0..self.feeds.len() as u32 {
            self.change_feed(index, |feed| feed.trim(before_s));
        }
    }

    /// Begins to stop: what is pending is stored and acked, then everybody is told to go away.
    pub fn stop(&mut self) {
        self.upkeep.stopping_us.get_or_insert(self.now.us);
    }

    /// While stopping: what is not stored or answered by now never will be, and holds up nobody.
    pub fn await_nothing(&mut self) {
        self.upkeep.impatient = true;
    }

    /// Everybody is gone, and everything is stored and answered or was given up. Other shards may still need this one.
    pub fn is_stopped(&self) -> bool {
        self.upkeep.told.is_some() && self.sessions.is_empty() && !self.is_awaited()
    }

    /// Somebody waits for storage, for an owner's reply, for what is made of one, or to be read.
    fn is_awaited(&self) -> bool {
        let is_owed = !self.intake.is_empty() || !self.backlogs.is_empty();
        !self.upkeep.impatient && (self.unanswered > 0 || self.has_unstored() || is_owed)
    }

    fn has_unstored(&self) -> bool {
        self.rooms.iter().any(|owned| match owned {
            Owned::Ready(room) => room.has_pending() || room.is_flying(),
            Owned::Loading { waiting, .. } => !waiting.is_empty(),
        })
    }

    fn stop_on(&mut self) {
        let since = self.upkeep.stopping_us.unwrap_or(self.now.us);
        let patience_us = self.setup.limits.shutdown_timeout_ms * 1000 / 2;
        if self.upkeep.told.is_none() {
            if self.is_awaited() {
                if self.now.us < since + patience_us {
                    return;
                }
                self.upkeep.impatient = true;
            }
            self.upkeep.told = Some(self.sessions.slice(0, 1).map(|session| session.id).collect());
        }
        let Some(mut left) = self.upkeep.told.take() else { return };
        for id in left.split_off(left.len().saturating_sub(STOP_CHUNK)) {
            self.send_away(id);
        }
        self.upkeep.told = Some(left);
    }

    fn send_away(&mut self, id: SessionId) {
        let Some(mut session) = self.sessions.take(id) else { return };
        let reconnect_after_ms = self.random.u32(0..=self.setup.limits.reconnect_spread_ms);
        if session.is_open() {
            let (_, reason) = session.close_reason(Close::GoingAway);
            if let Speaks::Dialect(dialect) = session.speaks {
                dialect.encode(0, &Event::GoingAway { reason, reconnect_after_ms }, &mut session.replies);
            }
            let hint = format!("{reason}; reconnect after {reconnect_after_ms} ms");
            self.close_because(&mut session, Close::GoingAway, &hint);
            self.sessions.put(session);
        } else {
            self.sessions.put(session);
            self.end(id);
        }
    }
}
