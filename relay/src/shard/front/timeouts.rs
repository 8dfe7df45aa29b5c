//! Who was silent, slow or idle for too long: what time alone causes for connections.

use protocol::frame::{self, Opcode};
use protocol::{Close, Event};

use super::Front;
use super::request::time_out;
use crate::ids::SessionId;
use crate::session::{Phase, Session, Speaks};
use crate::shard::turn::Turn;
use crate::shard::upkeep::PARTS;

/// After its close frame a connection is ended this much later, tenths of a second, if the peer does not answer.
const CLOSING_DS: u32 = 20;
/// A client that received this many times its send buffer's size (which the kernel doubles) is as surely there as one that
/// answered a ping.
const FLOWING_BUFFERS: usize = 4;

enum Due {
    Close(Close),
    /// Its request never came.
    Refuse,
    End,
    Ping,
}

impl Front {
    pub(in crate::shard) fn check_sessions(&mut self, turn: &mut Turn, part: usize) {
        let (limits, now_us) = (&turn.setup.limits, turn.now.us);
        for session in self.sessions.slice_mut(part, PARTS) {
            session.allowance.take_if(|allowance| allowance.is_full(limits, now_us));
        }
        let due: Vec<(SessionId, Due)> =
            self.sessions.slice(part, PARTS).filter_map(|session| Some((session.id, due(turn, session)?))).collect();
        for (id, due) in due {
            let Some(mut session) = self.sessions.take(id) else { continue };
            let mut over = false;
            match due {
                Due::End => over = true,
                Due::Refuse => {
                    time_out(turn, &mut session);
                    self.fanout.mark(&mut session);
                }
                Due::Close(why) => {
                    match why {
                        Close::SlowConsumer => turn.stats.slow_closed += 1,
                        _ => turn.stats.idle_closed += 1,
                    }
                    self.close(turn, &mut session, why);
                }
                Due::Ping => {
                    if ping(turn, &mut session) {
                        self.fanout.mark(&mut session);
                    }
                }
            }
            self.sessions.put(session);
            if over {
                self.end(turn, id);
            }
        }
    }
}

fn due(turn: &Turn, session: &Session) -> Option<Due> {
    let limits = &turn.setup.limits;
    let ds = |ms: u64| (ms / 100) as u32;
    let now = turn.now.ds();
    let silent = session.alive.silent_ds(now);
    match session.phase {
        Phase::Handshake(_) => (silent >= ds(limits.connect_timeout_ms)).then_some(Due::Refuse),
        Phase::Closing => (silent >= CLOSING_DS).then_some(Due::End),
        Phase::Open(_) => {
            let blocked =
                session.out.blocked_ds != 0 && now - session.out.blocked_ds >= ds(limits.slow_consumer_timeout_ms);
            if blocked {
                return Some(Due::Close(Close::SlowConsumer));
            }
            if session.is_nobody() {
                // Not pinged yet: this is when it came.
                return (now - session.alive.pinged_ds >= ds(limits.connect_timeout_ms))
                    .then_some(Due::Close(Close::Stale));
            }
            let interval = ds(limits.ping_interval_ms);
            // Whoever is not read is not heard.
            let unanswered = session.alive.unanswered_ds(now).filter(|_| !session.reading.paused);
            if unanswered.is_some_and(|unanswered| unanswered >= ds(limits.idle_timeout_ms) - interval) {
                return Some(Due::Close(Close::Idle));
            }
            let pinged = now - session.alive.pinged_ds;
            let since = if session.expects_pings() { pinged } else { silent.min(pinged) };
            (since >= interval).then_some(Due::Ping)
        }
    }
}

/// A connection is due to be pinged. Returns whether it is.
fn ping(turn: &Turn, session: &mut Session) -> bool {
    // More than its kernel buffer holds went out: somebody there acknowledges it. Where nobody does, the buffer is full soon,
    // and that has its own timeout.
    let is_flowing = session.alive.taken() >= FLOWING_BUFFERS * turn.setup.limits.send_buffer_bytes;
    let asks = !is_flowing || session.expects_pings();
    session.alive.ping(turn.now.ds(), asks);
    if asks {
        match session.speaks {
            Speaks::Dialect(dialect) if dialect.has_pings() && session.user.is_some() => {
                dialect.encode(0, &Event::Ping, &mut session.out.replies);
            }
            _ => frame::write(Opcode::Ping, b"", &mut session.out.replies),
        }
    }
    asks
}
