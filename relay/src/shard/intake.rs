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

use super::Shard;
use crate::ids::SessionId;
use crate::session::{Phase, Session, Speaks};

/// Work of a turn for bytes that just came, and for those of earlier turns, nanoseconds.
const FRESH_NS: i64 = 1_000_000;
const LEFT_OVERS_NS: i64 = 1_000_000;
/// Work of one connection before it is another's turn.
const SHARE_NS: i64 = 100_000;
/// A connection is not read while more than this part of `--replies-bytes-max` waits for it.
const HELD_PART: usize = 4;
/// What an answer to a command under way will have at least, bytes.
const REPLY_BYTES: usize = 128;
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
pub(super) struct Intake {
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
    pub(super) fn begin(&mut self) {
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
    pub(super) fn left_bytes(&self) -> usize {
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
}

impl Shard {
    /// Bytes from a connection; they are unmasked in place.
    pub fn on_bytes(&mut self, id: SessionId, bytes: &mut [u8]) {
        let Some(mut session) = self.sessions.take(id) else { return };
        if session.close_when_sent {
            return self.sessions.put(session);
        }
        // A handshake, and a closed connection, end in their time however much the peer says.
        if session.is_open() {
            session.heard_ds = self.now.ds();
        }
        self.close_swamped(&mut session);
        let waits = session.reading.has_left || session.reading.resting || self.is_held(&session);
        if waits {
            session.reading.behind |= session.reading.has_left;
            self.keep(&mut session, None, bytes);
        } else if !self.intake.takes_fresh() {
            self.keep(&mut session, None, bytes);
            session.reading.queued = true;
            self.intake.first.push_back(id);
        } else {
            self.intake.share_ns = SHARE_NS;
            let (message, used) = self.read(&mut session, None, bytes);
            self.intake.fresh_ns -= SHARE_NS - self.intake.share_ns;
            self.keep(&mut session, message, &bytes[used..]);
        }
        self.regulate(&mut session);
        self.mark(&mut session);
        self.sessions.put(session);
    }

    /// Keeps what there is no time for now.
    fn keep(&mut self, session: &mut Session, message: Option<Rest>, bytes: &[u8]) {
        if message.is_some() || !bytes.is_empty() {
            self.intake.add(session.id, message, bytes);
            session.reading.has_left = true;
        }
    }

    /// Goes on with what earlier turns left, connection by connection.
    pub(super) fn read_left_overs(&mut self) {
        while let Some(Reverse((at_us, id))) = self.intake.resting.peek().copied()
            && at_us <= self.now.us
        {
            self.intake.resting.pop();
            self.with_session(id, |_, session| session.reading.resting = false);
        }
        let mut budget_ns = LEFT_OVERS_NS;
        while budget_ns > 0
            && let Some(id) = self.intake.next()
        {
            self.intake.share_ns = SHARE_NS;
            self.with_session(id, |shard, session| {
                session.reading.queued = false;
                shard.read_left_over(session);
            });
            budget_ns -= FRAME_NS + SHARE_NS - self.intake.share_ns;
        }
    }

    fn read_left_over(&mut self, session: &mut Session) {
        if self.is_held(session) {
            return;
        }
        let Some(mut left) = self.intake.take(session.id) else { return };
        let (message, used) = self.read(session, left.message.take(), &mut left.bytes[left.at..]);
        left.message = message;
        left.at += used;
        if !left.is_empty() && !session.close_when_sent {
            return self.intake.put(session.id, left);
        }
        session.reading.has_left = false;
        if session.reading.ended {
            self.part(session);
        }
    }

    /// Runs `work` on a session, which is taken out of the table meanwhile; then looks at what it may go on with.
    pub(super) fn with_session<T>(
        &mut self,
        id: SessionId,
        work: impl FnOnce(&mut Self, &mut Session) -> T,
    ) -> Option<T> {
        let mut session = self.sessions.take(id)?;
        let result = work(self, &mut session);
        self.regulate(&mut session);
        self.mark(&mut session);
        self.sessions.put(session);
        Some(result)
    }

    /// Whether a session goes on with what is left of it, and whether its ring receives.
    pub(super) fn regulate(&mut self, session: &mut Session) {
        self.account(session);
        let now_us = self.now.us;
        if let Some(allowance) = session.allowance.as_mut().filter(|_| !session.reading.resting)
            && let rest_us @ 1.. = allowance.rest_us(&self.setup.limits, now_us)
        {
            session.reading.resting = true;
            self.intake.resting.push(Reverse((now_us + rest_us, session.id)));
        }
        let waits = session.reading.resting || self.is_held(session);
        let has_enough = waits || (session.reading.has_left && self.memory_is_used_up());
        let reading = &mut session.reading;
        if reading.has_left && !waits && !reading.queued {
            reading.queued = true;
            self.intake.queue.push_back(session.id);
        }
        reading.behind &= reading.has_left;
        let pause = has_enough || reading.behind;
        if pause != reading.paused {
            reading.paused = pause;
            self.outbox.receives.push((session.id, !pause));
            if session.is_open() {
                // Whom nobody listened to was not silent.
                session.heard_ds = self.now.ds();
            }
        }
    }

    /// So many of its commands are under way, or so much waits for it, that it is not read before there is less. When
    /// the relay's memory is used up, more than its share is too much.
    fn is_held(&self, session: &Session) -> bool {
        let limits = &self.setup.limits;
        let owed_max = limits.replies_bytes_max / HELD_PART;
        let answers = session.pipeline.as_ref().map_or(0, |pipeline| REPLY_BYTES * pipeline.commands());
        let owed = self.owed_bytes(session) + answers;
        let is_too_much = owed > owed_max || (owed > self.share_bytes && self.memory_is_used_up());
        session.is_open() && (session.is_at_its_share(limits) || is_too_much)
    }

    pub(super) fn may_go_on(&self, session: &Session) -> bool {
        let has_work = session.allowance.as_ref().is_none_or(|allowance| allowance.has_work());
        self.intake.share_ns > 0 && has_work && !self.is_held(session)
    }

    /// Work for this connection: for its share of the turn, and for what it may cost altogether.
    pub(super) fn spend(&mut self, session: &mut Session, ns: i64) {
        self.intake.share_ns -= ns;
        if session.speaks != Speaks::Echo || !session.is_open() {
            session.allowance(&self.setup.limits, self.now.us).spend(ns);
        }
    }

    /// A command or frame without effect: a few are taken, a flood of them is not.
    pub(super) fn chatter(&mut self, session: &mut Session) {
        if session.speaks == Speaks::Echo {
            return;
        }
        if !session.allowance(&self.setup.limits, self.now.us).chatter(&self.setup.limits, self.now.us) {
            self.stats.flood_closed += 1;
            self.close(session, Close::Flood);
        }
    }

    /// What a command costs; `refused` says why it had no effect.
    pub(super) fn charge(&mut self, session: &mut Session, command: &Command<'_>, refused: Option<ErrorCode>) {
        let history_max = self.setup.limits.history_messages_max;
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
        self.spend(session, if is_chatter { CHATTER_NS } else { COMMAND_NS + i64::from(messages) * MESSAGE_NS });
        if is_chatter {
            self.chatter(session);
        } else if matches!(command, Command::Publish { .. }) && refused.is_none() {
            // It has a rate of its own.
            session.allowance(&self.setup.limits, self.now.us).spend(-COMMAND_NS);
        }
    }

    /// Goes on with a message, then with the frames in `bytes`, as far as the connection's share goes. Returns what is
    /// left of the message that was begun last, and how many of the bytes were used.
    fn read(&mut self, session: &mut Session, message: Option<Rest>, bytes: &mut [u8]) -> (Option<Rest>, usize) {
        if let Some(allowance) = &mut session.allowance {
            allowance.refill(&self.setup.limits, self.now.us);
        }
        let mut used = 0;
        if let Phase::Handshake(head) = &mut session.phase {
            let (had, mut head) = (head.len(), mem::take(head));
            head.extend_from_slice(bytes);
            used = self.on_head(session, head) - had;
            self.spend(session, HEAD_NS);
        }
        let rest = message.and_then(|rest| self.on_text(session, &rest.text, rest.at).map(|at| Rest { at, ..rest }));
        if rest.is_some() {
            return (rest, used);
        }
        let (rest, more) = self.on_frames(session, &mut bytes[used..]);
        (rest, used + more)
    }

    /// The peer has ended its direction, or the connection failed.
    pub fn on_ended(&mut self, id: SessionId, failed: Option<&io::Error>) {
        if failed.is_some() {
            return self.end(id);
        }
        self.with_session(id, |shard, session| {
            let has_ended = mem::replace(&mut session.reading.ended, true);
            if !has_ended && !session.reading.has_left {
                shard.part(session);
            }
        });
    }

    /// The peer has said everything: it is still sent what is ready, then the connection is over.
    fn part(&mut self, session: &mut Session) {
        self.leave_all(session);
        session.phase = Phase::Closing;
        session.heard_ds = self.now.ds();
        session.close_when_sent = true;
    }

    /// Forgets what is left of a connection that is gone.
    pub(super) fn forget_left_over(&mut self, session: &Session) {
        if session.reading.has_left {
            self.intake.take(session.id);
        }
    }
}
