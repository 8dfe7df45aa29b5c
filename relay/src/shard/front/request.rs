//! Request heads: from HTTP to a WebSocket, or to an answer that says why not.

use protocol::dialect::Agreed;
use protocol::handshake::{self, Upgrade};
use protocol::{Close, Dialect};

use super::Front;
use super::frames::decoder;
use crate::session::{Arrival, Phase, Session, Speaks};
use crate::shard::turn::Turn;

/// Where conformance suites find the echo.
const ECHO_PATH: &str = "/echo";
/// What a client reads when the relay is full, and when it may try again, seconds.
pub const FULL: &str = "This relay has as many connections as it may (--max-connections).\n";
pub const FULL_RETRY_S: u32 = 5;
/// …and when too many requests are half-way.
const SHORT: &str = "This relay has as much in memory as it may (--memory-bytes-max).\n";
/// Size of a request head, bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;

impl Front {
    /// A request head, as far as it has come. Returns how many of its bytes are no WebSocket yet.
    pub(super) fn on_head(&mut self, turn: &mut Turn, session: &mut Session, mut arrival: Box<Arrival>) -> usize {
        let all = arrival.head.len();
        match handshake::read_request(&arrival.head, HEAD_BYTES_MAX) {
            handshake::Request::Partial => {
                session.phase = Phase::Handshake(arrival);
                all
            }
            handshake::Request::Refused { response } => {
                refuse(turn, session, response);
                all
            }
            handshake::Request::Upgrade { upgrade, used } => {
                arrival.head.truncate(used);
                self.on_upgrade(turn, session, &upgrade, arrival);
                used
            }
        }
    }

    fn on_upgrade(&mut self, turn: &mut Turn, session: &mut Session, upgrade: &Upgrade, arrival: Box<Arrival>) {
        if session.refused {
            turn.stats.full += 1;
            return turn_down(turn, session, 503, FULL, Some(FULL_RETRY_S));
        }
        let agreed = match agree(turn, upgrade) {
            Ok(agreed) => agreed,
            Err((status, body)) => return turn_down(turn, session, status, &body, None),
        };
        session.speaks = agreed.map_or(Speaks::Echo, |agreed| Speaks::Dialect(agreed.dialect));
        session.alive.hear(turn.now.ds());
        session.deflate = upgrade.deflate;
        session.decoder = decoder(turn, session.deflate);
        let subprotocol = agreed.and_then(|agreed| agreed.subprotocol);
        handshake::accept(upgrade, subprotocol, session.deflate, &mut session.out.replies);
        session.phase = Phase::Open(agreed.map(|_| arrival));
        if let Some(why) = agreed.and_then(|agreed| agreed.unserved) {
            self.close_because(turn, session, Close::WrongEncoding, why);
        }
    }
}

/// What a connection will speak, none for an echo; or the status and the sentence that refuse it.
fn agree(turn: &Turn, upgrade: &Upgrade) -> Result<Option<Agreed>, (u16, String)> {
    if !turn.setup.echo {
        return Dialect::negotiate(upgrade).map(Some);
    }
    if upgrade.path == ECHO_PATH { Ok(None) } else { Err((404, format!("Only {ECHO_PATH} is served here."))) }
}

/// A request that does not come in time.
pub(super) fn time_out(turn: &Turn, session: &mut Session) {
    turn_down(turn, session, 408, "No whole request came in time (--connect-timeout-ms).\n", None);
}

/// There is no memory for requests that stay half-way.
pub(super) fn turn_away(turn: &Turn, session: &mut Session) {
    turn_down(turn, session, 503, SHORT, Some(FULL_RETRY_S));
}

/// Answers a request with this status, and with when to try again, seconds.
fn turn_down(turn: &Turn, session: &mut Session, status: u16, body: &str, retry_after_s: Option<u32>) {
    let mut response = Vec::new();
    handshake::refuse(status, body, retry_after_s, &mut response);
    refuse(turn, session, response);
}

fn refuse(turn: &Turn, session: &mut Session, response: Vec<u8>) {
    session.alive.hear(turn.now.ds());
    session.out.replies = response;
    session.out.close_when_sent = true;
    session.phase = Phase::Closing;
}
