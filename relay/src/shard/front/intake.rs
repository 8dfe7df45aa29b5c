//! What connections send, and how much of it a turn takes in.
//!
//! A turn has so much work for bytes that just came and as much for what earlier turns left, and nobody gets more than a
//! share before others had theirs: a connection that sends without end waits for itself. What does not fit is kept,
//! and as long as more comes than fits, its ring does not receive. Work is counted, for a shard knows no clock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::mem;

use foldhash::HashMap;
use protocol::{Close, Command, ErrorCode, Start};

use super::Front;
use crate::ids::SessionId;
use crate::session::{Phase, Session, Speaks};
use crate::shard::turn::Turn;

/// Work of a turn for bytes that just came, and for those of earlier turns, nanoseconds.
const FRESH_NS: i64 = 1_000_000;
const LEFT_OVERS_NS: i64 = 1_000_000;
/// Work of one connection before it is another's turn.
const SHARE_NS: i64 = 100_000;
/// While so many bytes are left over, nothing new is taken apart: what is kept as it came is never more than was sent.
const LEFT_OVERS_BYTES_MAX: usize = 16 * 1024 * 1024;

// What it costs, after what the example `intake` prints.
pub(super) const BYTE_NS: i64 = 3;
pub(super) const INFLATED_BYTE_NS: i64 = 2;
pub(super) const FRAME_NS: i64 = 100;
const HEAD_NS: i64 = 3_000;
const CHATTER_NS: i64 = 200;
const COMMAND_NS: i64 = 1_500;
pub(super) const MESSAGE_NS: i64 = 300;

/// What one connection sent and nobody has read yet.
#[derive(Default)]
struct LeftOver {
    /// The rest of a message that holds several commands, and how much of that was read.
    message: Option<Rest>,
    /// Frames behind it, and how much of these.
    bytes: Vec<u8>,
    at: usize,
}

impl LeftOver {
    /// What it holds in memory, bytes.
    fn held(&self) -> usize {
        self.bytes.capacity() + self.message.as_ref().map_or(0, |rest| rest.text.len())
    }
    fn len(&self) -> usize {
        self.bytes.len() + self.message.as_ref().map_or(0, |rest| rest.text.len())
    }
    fn is_empty(&self) -> bool {
        self.at == self.bytes.len() && self.message.is_none()
    }
}

/// A text message of which the first bytes were read.
pub(super) struct Rest {
    pub text: Box<str>,
    pub at: usize,
}

/// What waits to be read, and what may be read in this turn.
#[derive(Default)]
pub(in crate::shard) struct Intake {
    left: HashMap<SessionId, LeftOver>,
    left_bytes: usize,
    /// Connections that had no share yet of what they say, in order: most are read at once, so that they wait apart.
    first: VecDeque<SessionId>,
    is_firsts_turn: bool,
    /// Connections of which something is left, in the order of their turns.
    queue: VecDeque<SessionId>,
    /// Connections that owe work, and when it is paid, microseconds.
    resting: BinaryHeap<Reverse<(u64, SessionId)>>,
    /// What this turn may spend on bytes that just come; below zero it is owed by the next one.
    fresh_ns: i64,
    /// What the connection at work may spend.
    share_ns: i64,
}

impl Intake {
    /// A turn begins.
    pub(in crate::shard) fn begin(&mut self) {
        self.fresh_ns = FRESH_NS;
    }

    /// When bytes that wait are to be read, microseconds.
    pub(super) fn next_us(&self, now_us: u64) -> u64 {
        if !self.first.is_empty() || !self.queue.is_empty() {
            return now_us;
        }
        self.resting.peek().map_or(u64::MAX, |Reverse((at_us, _))| *at_us)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// Most bytes of one connection that wait to be read.
    pub(in crate::shard) fn left_bytes(&self) -> usize {
        self.left.values().map(LeftOver::len).max().unwrap_or(0)
    }

    /// What waits of one connection and the room for more of it, bytes.
    pub(super) fn left_of(&self, id: SessionId) -> usize {
        self.left.get(&id).map_or(0, LeftOver::held)
    }

    fn takes_fresh(&self) -> bool {
        self.fresh_ns > 0 && self.left_bytes < LEFT_OVERS_BYTES_MAX
    }

    fn add(&mut self, id: SessionId, message: Option<Rest>, bytes: &[u8]) {
        let left = self.left.entry(id).or_default();
        self.left_bytes += bytes.len() + message.as_ref().map_or(0, |rest| rest.text.len());
        left.message = left.message.take().or(message);
        left.bytes.extend_from_slice(bytes);
    }

    /// Whose turn it is: by turns of those who had no share yet and those who had some.
    fn next(&mut self) -> Option<SessionId> {
        self.is_firsts_turn = !self.is_firsts_turn;
        let (one, other) =
            if self.is_firsts_turn { (&mut self.first, &mut self.queue) } else { (&mut self.queue, &mut self.first) };
        one.pop_front().or_else(|| other.pop_front())
    }

    /// Takes out what is left of a connection, if it is to go on with it.
    fn take(&mut self, id: SessionId) -> Option<LeftOver> {
        let left = self.left.remove(&id)?;
        self.left_bytes -= left.len();
        Some(left)
    }

    fn put(&mut self, id: SessionId, mut left: LeftOver) {
        // What was read goes when it is most of it, so that no byte is moved more than once.
        if left.at > left.bytes.len() / 2 {
            left.bytes.drain(..left.at);
            left.at = 0;
        }
        self.left_bytes += left.len();
        self.left.insert(id, left);
    }

    /// Keeps what there is no time for now.
    fn keep(&mut self, session: &mut Session, message: Option<Rest>, bytes: &[u8]) {
        if message.is_some() || !bytes.is_empty() {
            self.add(session.id, message, bytes);
            session.reading.has_left = true;
        }
    }

    /// What is left of a connection is to be read when it is its turn.
    pub(super) fn queue(&mut self, session: &mut Session) {
        if !mem::replace(&mut session.reading.queued, true) {
            self.queue.push_back(session.id);
        }
    }

    /// A connection owes work until then.
    pub(super) fn rest(&mut self, id: SessionId, until_us: u64) {
        self.resting.push(Reverse((until_us, id)));
    }

    /// The connection at work may spend more in this turn.
    pub(super) fn has_share(&self) -> bool {
        self.share_ns > 0
    }

    /// Work for a connection: for its share of the turn, and for what it may cost altogether.
    pub(super) fn spend(&mut self, turn: &Turn, session: &mut Session, ns: i64) {
        self.share_ns -= ns;
        if session.speaks != Speaks::Echo || !session.is_open() {
            session.allowance(&turn.setup.limits, turn.now.us).spend(ns);
        }
    }

    /// Forgets what is left of a connection that is gone.
    pub(super) fn forget(&mut self, session: &Session) {
        if session.reading.has_left {
            self.take(session.id);
        }
    }
}

impl Front {
    /// Bytes from a connection; they are unmasked in place.
    pub(in crate::shard) fn on_bytes(&mut self, turn: &mut Turn, id: SessionId, bytes: &mut [u8]) {
        let Some(mut session) = self.sessions.take(id) else { return };
        if session.out.close_when_sent {
            return self.sessions.put(session);
        }
        // A handshake, and a closed connection, end in their time however much the peer says.
        if session.is_open() {
            session.alive.hear(turn.now.ds());
        }
        self.close_swamped(turn, &mut session);
        let waits = session.reading.has_left || session.reading.resting || self.held.is_held(turn, &session);
        if waits {
            session.reading.behind |= session.reading.has_left;
            self.held.intake.keep(&mut session, None, bytes);
        } else if !self.held.intake.takes_fresh() {
            self.held.intake.keep(&mut session, None, bytes);
            session.reading.queued = true;
            self.held.intake.first.push_back(id);
        } else {
            self.held.intake.share_ns = SHARE_NS;
            let (message, used) = self.read(turn, &mut session, None, bytes);
            self.held.intake.fresh_ns -= SHARE_NS - self.held.intake.share_ns;
            self.held.intake.keep(&mut session, message, &bytes[used..]);
        }
        self.held.regulate(turn, &mut session);
        self.fanout.mark(&mut session);
        self.sessions.put(session);
    }

    /// Goes on with what earlier turns left, connection by connection.
    pub(in crate::shard) fn read_left_overs(&mut self, turn: &mut Turn) {
        while let Some(Reverse((at_us, id))) = self.held.intake.resting.peek().copied()
            && at_us <= turn.now.us
        {
            self.held.intake.resting.pop();
            self.with_session(turn, id, |_, _, session| session.reading.resting = false);
        }
        let mut budget_ns = LEFT_OVERS_NS;
        while budget_ns > 0
            && let Some(id) = self.held.intake.next()
        {
            self.held.intake.share_ns = SHARE_NS;
            self.with_session(turn, id, |front, turn, session| {
                session.reading.queued = false;
                front.read_left_over(turn, session);
            });
            budget_ns -= FRAME_NS + SHARE_NS - self.held.intake.share_ns;
        }
    }

    fn read_left_over(&mut self, turn: &mut Turn, session: &mut Session) {
        if self.held.is_held(turn, session) {
            return;
        }
        let Some(mut left) = self.held.intake.take(session.id) else { return };
        let (message, used) = self.read(turn, session, left.message.take(), &mut left.bytes[left.at..]);
        left.message = message;
        left.at += used;
        if !left.is_empty() && !session.out.close_when_sent {
            return self.held.intake.put(session.id, left);
        }
        session.reading.has_left = false;
        if session.reading.ended {
            self.part(turn, session);
        }
    }

    /// Runs `work` on a session, which is taken out of the table meanwhile; then looks at what it may go on with.
    pub(super) fn with_session<T>(
        &mut self,
        turn: &mut Turn,
        id: SessionId,
        work: impl FnOnce(&mut Self, &mut Turn, &mut Session) -> T,
    ) -> Option<T> {
        let mut session = self.sessions.take(id)?;
        let result = work(self, turn, &mut session);
        self.held.regulate(turn, &mut session);
        self.fanout.mark(&mut session);
        self.sessions.put(session);
        Some(result)
    }

    /// A command or frame without effect: a few are taken, a flood of them is not.
    pub(super) fn chatter(&mut self, turn: &mut Turn, session: &mut Session) {
        if session.speaks == Speaks::Echo {
            return;
        }
        if !session.allowance(&turn.setup.limits, turn.now.us).chatter(&turn.setup.limits, turn.now.us) {
            turn.stats.flood_closed += 1;
            self.close(turn, session, Close::Flood);
        }
    }

    /// What a command costs; `refused` says why it had no effect.
    pub(super) fn charge(
        &mut self,
        turn: &mut Turn,
        session: &mut Session,
        command: &Command<'_>,
        refused: Option<ErrorCode>,
    ) {
        let history_max = turn.setup.limits.history_messages_max;
        let messages = match command {
            _ if refused.is_some() => 0,
            Command::History { limit, .. } => (*limit).min(history_max),
            Command::Join { start: Start::Recent(recent), .. } => (*recent).min(history_max),
            _ => 0,
        };
        let is_chatter = match (command, refused) {
            (Command::Ping | Command::Pong | Command::Unsupported | Command::Refused { .. }, _) => true,
            (_, None | Some(ErrorCode::RateLimited | ErrorCode::Busy | ErrorCode::Unavailable)) => false,
            _ => true,
        };
        self.held.intake.spend(
            turn,
            session,
            if is_chatter { CHATTER_NS } else { COMMAND_NS + i64::from(messages) * MESSAGE_NS },
        );
        if is_chatter {
            self.chatter(turn, session);
        } else if matches!(command, Command::Publish { .. }) && refused.is_none() {
            // It has a rate of its own.
            session.allowance(&turn.setup.limits, turn.now.us).spend(-COMMAND_NS);
        }
    }

    /// Goes on with a message, then with the frames in `bytes`, as far as the connection's share goes. Returns what is
    /// left of the message that was begun last, and how many of the bytes were used.
    fn read(
        &mut self,
        turn: &mut Turn,
        session: &mut Session,
        message: Option<Rest>,
        bytes: &mut [u8],
    ) -> (Option<Rest>, usize) {
        if let Some(allowance) = &mut session.allowance {
            allowance.refill(&turn.setup.limits, turn.now.us);
        }
        let mut used = 0;
        if matches!(session.phase, Phase::Handshake(_))
            && let Phase::Handshake(mut arrival) = mem::replace(&mut session.phase, Phase::Closing)
        {
            let had = arrival.head.len();
            arrival.head.extend_from_slice(bytes);
            used = self.on_head(turn, session, arrival) - had;
            self.held.intake.spend(turn, session, HEAD_NS);
        }
        let rest =
            message.and_then(|rest| self.on_text(turn, session, &rest.text, rest.at).map(|at| Rest { at, ..rest }));
        if rest.is_some() {
            return (rest, used);
        }
        let (rest, more) = self.on_frames(turn, session, &mut bytes[used..]);
        (rest, used + more)
    }

    /// The peer has ended its direction, or the connection failed.
    pub(in crate::shard) fn on_ended(&mut self, turn: &mut Turn, id: SessionId, failed: Option<&io::Error>) {
        if failed.is_some() {
            return self.end(turn, id);
        }
        self.with_session(turn, id, |front, turn, session| {
            let has_ended = mem::replace(&mut session.reading.ended, true);
            if !has_ended && !session.reading.has_left {
                front.part(turn, session);
            }
        });
    }
}
