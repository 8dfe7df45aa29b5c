//! Bytes in: nearly all of them are frames that this thread knows, and cost one comparison.

use protocol::frame::{Incoming, Opcode, write_masked};
use protocol::native::{Packed, Received};

use super::absence::End;
use super::{Action, Crowd, MASK};
use crate::faults::without_numbers;
use crate::frames::{Batch, Bytes, Number, Payload};
use crate::user::{MESSAGE_BYTES_MAX, Phase};

/// Close codes after which a user comes back: RFC 6455's registry, and the relay's own.
const GOING_AWAY: u16 = 1001;
const BROKEN: u16 = 1011;
const RESTARTING: u16 = 1012;
const TRY_LATER: u16 = 1013;
const IDLE: u16 = 4000;
const TOO_SLOW: u16 = 4001;

/// Times of receipt that are less than this apart are recorded together, as the last of them, nanoseconds.
const MOMENT_NS: u64 = 1_000_000;

/// Receipts that are recorded together: a frame then costs its messages once a moment, not once a receiver.
#[derive(Debug, Default)]
pub(super) struct Moment {
    first_ns: u64,
    last_ns: u64,
}

/// How a message of the server came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival<'a> {
    payload: Payload<'a>,
    inflated_bytes: usize,
    pub now_ns: u64,
}

impl Crowd<'_> {
    /// Bytes came. `now_ns` is the time of this turn.
    pub fn on_received(&mut self, place: u32, input: &mut [u8], now_ns: u64) {
        if now_ns >= self.moment.first_ns + MOMENT_NS {
            self.record_heard();
            self.moment.first_ns = now_ns;
        }
        self.moment.last_ns = now_ns;
        self.counts.chunks += 1;
        self.counts.bytes += input.len() as u64;
        match self.users[place as usize].phase {
            Phase::Handshaking => self.on_head(place, input, now_ns),
            Phase::Joining | Phase::Joined => self.decode(place, input, now_ns),
            Phase::Idle | Phase::Away | Phase::Connecting | Phase::Ended => {}
        }
    }

    /// Records the times of everything received so far.
    pub fn record_heard(&mut self) {
        let Self { world, rooms, frames, times, moment, .. } = self;
        let t0_ns = world.t0_ns();
        frames.drain_heard(moment.last_ns, |batch, receivers| {
            let seqs = batch.first_seq..batch.first_seq + u64::from(batch.count);
            rooms[batch.room as usize].record(seqs, receivers, moment.last_ns, &world.plan, t0_ns, times);
        });
    }

    pub(super) fn decode(&mut self, place: u32, input: &mut [u8], now_ns: u64) {
        let mut at = self.take_known(place, input, now_ns);
        let mut goes_on = at < input.len();
        while goes_on {
            let mut decoder = self.users[place as usize].take_decoder();
            match decoder.next(&mut input[at..]) {
                Ok((used, message)) => {
                    at += used;
                    goes_on = message.is_some();
                    message.inspect(|message| self.on_message(place, message, now_ns));
                }
                Err(error) => self.fail(place, format!("the server broke the WebSocket protocol: {error}")),
            }
            self.users[place as usize].decoder = decoder;
            goes_on &= self.users[place as usize].phase.has_connection();
            at += self.take_known(place, &input[at..], now_ns);
        }
    }

    /// Takes the frames at the front of `input` that continue what the user has and are known byte for byte. Returns
    /// how many bytes they were.
    fn take_known(&mut self, place: u32, input: &[u8], now_ns: u64) -> usize {
        let user = &self.users[place as usize];
        if user.phase != Phase::Joined || !user.decoder.is_idle() {
            return 0;
        }
        let (room, inflates) = (user.room as usize, user.deflate);
        let mut used = 0;
        while used < input.len()
            && let next = self.rooms[room].frame_at(self.users[place as usize].next_seq)
            && let Some(known) = self.frames.at_front(next, &input[used..], inflates)
        {
            used += self.hear(place, known);
        }
        if used > 0 {
            self.on_progress(place, now_ns);
        }
        used
    }

    /// Counts a known frame that continues what the user has. Returns its size on the wire.
    fn hear(&mut self, place: u32, known: Number) -> usize {
        let number = self.number(place);
        let is_timed = self.users[place as usize].is_timed;
        let frame = self.frames.hear(known, is_timed);
        self.counts.count_frame(frame.bytes);
        let Batch { first_seq, count, .. } = frame.batch;
        self.ledger.on_batch(number, &mut self.users[place as usize].next_seq, first_seq, count);
        frame.wire_bytes()
    }

    fn on_message(&mut self, place: u32, message: &Incoming<'_>, now_ns: u64) {
        match *message {
            Incoming::Binary(bytes) => self.on_payload(place, Payload { bytes, deflated: false }, now_ns),
            Incoming::Deflated { opcode: Opcode::Binary, payload } => {
                self.on_payload(place, Payload { bytes: payload, deflated: true }, now_ns);
            }
            Incoming::Ping(payload) => {
                let mut pong = Vec::with_capacity(payload.len() + 14);
                write_masked(Opcode::Pong, payload, MASK, &mut pong);
                self.actions.push(Action::Send(place, pong));
            }
            Incoming::Pong(_) => {}
            Incoming::Text(_) | Incoming::Deflated { .. } => {
                self.fail(place, "a text message from a binary dialect".to_owned());
            }
            Incoming::Close { code, reason } => {
                self.on_close(place, code, reason);
            }
        }
    }

    fn on_close(&mut self, place: u32, code: Option<u16>, reason: &str) {
        let number = code.map_or_else(|| "no code".to_owned(), |code| code.to_string());
        let class = format!("closed by the server: {number} {}", without_numbers(reason));
        let is_slow = self.world.plan.role_of(self.number(place)).is_slow();
        let end = match code {
            Some(GOING_AWAY | RESTARTING | TRY_LATER) => End::Announced { after_ms: self.advice.remove(&place) },
            // A slow reader was told so, and that is the end of it.
            Some(IDLE | TOO_SLOW) if is_slow => End::Final(class),
            Some(BROKEN | IDLE | TOO_SLOW) => End::Broken(class),
            _ => End::Final(class),
        };
        self.lose(place, end);
    }

    /// A message that did not come in one piece, or is not known: the bytes of the first kind may still be.
    fn on_payload(&mut self, place: u32, payload: Payload<'_>, now_ns: u64) {
        let user = &self.users[place as usize];
        let next = self.rooms[user.room as usize].frame_at(user.next_seq).filter(|_| user.phase == Phase::Joined);
        if let Some(known) = self.frames.with_payload(next, payload) {
            self.hear(place, known);
            return self.on_progress(place, now_ns);
        }
        if !payload.deflated {
            return self.on_plain(place, payload.bytes, payload, now_ns);
        }
        let mut inflater = self.inflater.take().unwrap_or_default();
        match inflater.inflate(Opcode::Binary, payload.bytes, MESSAGE_BYTES_MAX) {
            Ok(Incoming::Binary(plain)) => self.on_plain(place, plain, payload, now_ns),
            Ok(other) => unreachable!("a binary message inflates to a binary message, not to {other:?}"),
            Err(error) => self.fail(place, format!("the server broke the WebSocket protocol: {error}")),
        }
        self.inflater = Some(inflater);
    }

    fn on_plain(&mut self, place: u32, plain: &[u8], payload: Payload<'_>, now_ns: u64) {
        match self.world.target.read(&self.world.target.complete(plain)) {
            Ok((_, Some(Received::Batch { room, messages }))) => {
                self.on_batch(place, room, &messages, Arrival { payload, inflated_bytes: plain.len(), now_ns });
            }
            Ok((tag, Some(event))) => self.on_event(place, tag, &event, now_ns),
            Ok((_, None)) => {}
            Err(error) => self.fail(place, format!("unreadable event: {}", without_numbers(&error.to_string()))),
        }
    }

    /// Reads a batch in full. If it continues what the user has, its frame is known from now on.
    fn on_batch(&mut self, place: u32, room: &str, batch: &Packed<'_>, arrival: Arrival<'_>) {
        let Arrival { payload, inflated_bytes, now_ns } = arrival;
        self.counts.count_frame(Bytes { wire: payload.bytes.len() as u32, inflated: inflated_bytes as u32 });
        let number = self.number(place);
        let user = &mut self.users[place as usize];
        if user.phase != Phase::Joined || room != self.world.room_names[user.room as usize] {
            return self.fault(place, "a batch of a room where the user is not");
        }
        let plan = &self.world.plan;
        let log = &mut self.rooms[user.room as usize];
        if let Err(error) = log.check(batch, &self.world.reference()) {
            return self.fault(place, format!("unreadable batch: {}", without_numbers(&error.to_string())));
        }
        let Packed { first_seq, count, .. } = *batch;
        let fresh = self.ledger.on_batch(number, &mut user.next_seq, first_seq, count);
        let known = if fresh.end - fresh.start == u64::from(count) {
            let batch = Batch { room: user.room, first_seq, count };
            self.frames.keep(log.frame_at(first_seq), batch, payload, inflated_bytes, now_ns)
        } else {
            None
        };
        let is_timed = user.is_timed;
        match known {
            Some(known) => {
                log.set_frame(first_seq, known);
                self.frames.hear(known, is_timed);
            }
            None if !is_timed => {}
            None => log.record(fresh, 1, now_ns, plan, self.world.t0_ns(), &mut self.times),
        }
        self.on_progress(place, now_ns);
    }
}

#[cfg(test)]
mod tests;
