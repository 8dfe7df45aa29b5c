//! Request heads: from HTTP to a WebSocket, or to an answer that says why not.

use protocol::handshake::{self, Upgrade};
use protocol::{Close, Dialect, centrifuge};

use super::Front;
use super::frames::decoder;
use crate::session::{Phase, Session, Speaks};
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
    pub(super) fn on_head(&mut self, turn: &mut Turn, session: &mut Session, head: Vec<u8>) -> usize {
        match handshake::read_request(&head, HEAD_BYTES_MAX) {
            handshake::Request::Partial => {
                let all = head.len();
                session.phase = Phase::Handshake(head);
                all
            }
            handshake::Request::Refused { response } => {
                refuse(turn, session, response);
                head.len()
            }
            handshake::Request::Upgrade { upgrade, used } => {
                self.on_upgrade(turn, session, &upgrade);
                used
            }
        }
    }

    fn on_upgrade(&mut self, turn: &mut Turn, session: &mut Session, upgrade: &Upgrade) {
        if session.refused {
            turn.stats.full += 1;
            return turn_down(turn, session, 503, FULL, Some(FULL_RETRY_S));
        }
        let subprotocol = if turn.setup.echo {
            if upgrade.path != ECHO_PATH {
                return turn_down(turn, session, 404, &format!("Only {ECHO_PATH} is served here."), None);
            }
            session.speaks = Speaks::Echo;
            None
        } else if let Some(dialect) = Dialect::of_path(&upgrade.path) {
            session.speaks = Speaks::Dialect(dialect);
            match dialect.choose_subprotocol(&upgrade.subprotocols) {
                Ok((dialect, subprotocol)) => {
                    session.speaks = Speaks::Dialect(dialect);
                    subprotocol
                }
                Err(malformed) => return turn_down(turn, session, 400, &malformed.0, None),
            }
        } else {
            let body = format!("No WebSocket here. Use {} or {}.\n", protocol::native::PATH, centrifuge::PATH);
            return turn_down(turn, session, 404, &body, None);
        };
        session.alive.hear(turn.now.ds());
        session.deflate = upgrade.deflate;
        session.decoder = decoder(turn, session.deflate);
        handshake::accept(upgrade, subprotocol, session.deflate, &mut session.out.replies);
        session.phase = Phase::Open;
        if let Speaks::Dialect(dialect) = session.speaks
            && let Some(why) = dialect.unserved(subprotocol, &upgrade.query)
        {
            self.close_because(turn, session, Close::WrongEncoding, why);
        }
    }
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
