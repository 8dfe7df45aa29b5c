//! What one thread's members of a room received, by seq: unpacked and checked once, then shared by all of them.
//!
//! The first copy of a frame is unpacked, and every body compared with the text that was generated for it; the frame is
//! then known ([`crate::frames`]). Whoever gets other bytes for the same seqs has them unpacked again.

use std::ops::Range;

use protocol::native::Packed;
use protocol::{Content, Message};

use crate::frames::Number;
use crate::latency::Latencies;
use crate::plan::Plan;
use crate::sends::Sends;
use crate::text;

/// The log of one room as one thread saw it.
#[derive(Debug)]
pub struct Room {
    index: u32,
    /// Seq of the first entry less one, from the first join's reply.
    base: Option<u64>,
    entries: Vec<Entry>,
}

/// One message of the log.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub state: State,
    /// Some receiver's body was not the generated one.
    pub altered: bool,
    /// Two receivers saw different messages under this seq.
    pub disputed: bool,
    pub user: u32,
    pub k: u32,
    intended_ns: u64,
    sent_ns: u64,
    /// The last known frame that starts here.
    frame: Option<Number>,
}

/// What is known of a seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody received it.
    Unseen,
    /// One of our messages, for this room.
    Ours,
    /// Not one that we sent to this room.
    Unknown,
}

const UNSEEN: Entry = Entry {
    state: State::Unseen,
    altered: false,
    disputed: false,
    user: 0,
    k: 0,
    intended_ns: 0,
    sent_ns: 0,
    frame: None,
};

/// Read-only things that checking a message needs.
pub struct Reference<'a> {
    pub plan: &'a Plan,
    pub sends: &'a Sends,
    pub run_id: &'a str,
}

/// Why a batch could not be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("seq {seq} is outside of what the room can have ({from}..{to})")]
    OutOfRange { seq: u64, from: u64, to: u64 },
    #[error("{0}")]
    Malformed(#[from] protocol::Malformed),
    #[error("a batch of {promised} messages held {held}")]
    Short { promised: u32, held: u32 },
}

impl Room {
    /// An empty log.
    pub fn new(index: u32) -> Self {
        Self { index, base: None, entries: Vec::new() }
    }

    /// Notes where a member starts; the first one's start is the start of the log.
    pub fn on_join(&mut self, from: u64) {
        self.base.get_or_insert(from);
    }

    /// Seq and entry of everything seen.
    pub fn seen(&self) -> impl Iterator<Item = (u64, &Entry)> {
        let first = self.base.map_or(1, |base| base + 1);
        (first..).zip(&self.entries).filter(|(_, entry)| entry.state != State::Unseen)
    }

    /// Checks a batch's contents.
    pub fn check(&mut self, batch: &Packed<'_>, reference: &Reference<'_>) -> Result<(), Refused> {
        let at = self.reserve(batch, reference.plan)?;
        self.unpack(at, batch, reference)
    }

    /// The last known frame that starts with this seq.
    pub fn frame_at(&self, seq: u64) -> Option<Number> {
        let at = seq.checked_sub(self.base.unwrap_or(0) + 1)?;
        self.entries.get(at as usize)?.frame
    }

    /// Notes a known frame that starts with this seq, which has been checked.
    pub fn set_frame(&mut self, seq: u64, frame: Number) {
        let at = self.at(seq);
        self.entries[at].frame = Some(frame);
    }

    /// Records the times of `seqs`, which have been checked, for `receivers` members.
    pub fn record(
        &self,
        seqs: Range<u64>,
        receivers: u32,
        now_ns: u64,
        plan: &Plan,
        t0_ns: u64,
        times: &mut Latencies,
    ) {
        if seqs.is_empty() {
            return;
        }
        let n = u64::from(receivers);
        for entry in &self.entries[self.at(seqs.start)..self.at(seqs.end)] {
            if entry.state == State::Ours && plan.is_measured(entry.intended_ns) {
                let delivery = times.of_delivery(entry.intended_ns, plan.is_pair(self.index));
                delivery.record_n(now_ns.saturating_sub(t0_ns + entry.intended_ns), n);
                times.delivery_from_send.record_n(now_ns.saturating_sub(entry.sent_ns), n);
            }
        }
    }

    /// Makes room for the batch and returns the index of its first message. The bound keeps a server that invents seqs
    /// from filling our memory.
    fn reserve(&mut self, batch: &Packed<'_>, plan: &Plan) -> Result<usize, Refused> {
        let base = self.base.unwrap_or(0);
        let planned = u64::from(plan.sizes[self.index as usize]) * u64::from(plan.per_user);
        let (from, to) = (base + 1, base + 4 * planned + 65_536);
        let last = batch.first_seq.saturating_add(u64::from(batch.count));
        if batch.first_seq < from || last > to || batch.count == 0 {
            return Err(Refused::OutOfRange { seq: batch.first_seq, from, to });
        }
        let (at, end) = (self.at(batch.first_seq), self.at(last));
        if self.entries.len() < end {
            self.entries.resize(end, UNSEEN);
        }
        Ok(at)
    }

    fn unpack(&mut self, at: usize, batch: &Packed<'_>, reference: &Reference<'_>) -> Result<(), Refused> {
        let mut held = 0;
        let mut expected = String::new();
        for message in batch.iter() {
            let message = message?;
            if held == batch.count {
                return Err(Refused::Short { promised: batch.count, held: held + 1 });
            }
            let seen = self.examine(&message, batch.first_seq + u64::from(held), reference, &mut expected);
            merge(&mut self.entries[at + held as usize], seen);
            held += 1;
        }
        if held < batch.count { Err(Refused::Short { promised: batch.count, held }) } else { Ok(()) }
    }

    /// What one message is, by itself.
    fn examine(&self, message: &Message<'_>, seq: u64, reference: &Reference<'_>, expected: &mut String) -> Entry {
        let unknown = Entry { state: State::Unknown, ..UNSEEN };
        let Reference { plan, sends, .. } = reference;
        let Some((user, k)) = text::read_tag(message.body) else { return unknown };
        if user >= plan.shape.users || plan.room_of(user) != self.index {
            return unknown;
        }
        let Some(sent_ns) = sends.sent_ns(user, k) else { return unknown };
        expected.clear();
        text::write_body(plan.shape.seed, user, k, expected);
        let altered = message.body != expected.as_bytes()
            || message.content != Content::Text
            || message.seq != seq
            || !is_name(message.user, reference.run_id, user);
        let intended_ns = if sends.was_held_up(user, k) { u64::MAX } else { plan.intended_ns(user, k) };
        Entry { state: State::Ours, altered, user, k, intended_ns, sent_ns, ..UNSEEN }
    }

    fn at(&self, seq: u64) -> usize {
        (seq - self.base.unwrap_or(0) - 1) as usize
    }
}

/// Whether this is how the run calls its user.
fn is_name(name: &str, run_id: &str, user: u32) -> bool {
    let number = name.strip_prefix(run_id).and_then(|rest| rest.strip_prefix('-'));
    number.and_then(|number| number.parse().ok()) == Some(user)
}

/// Adds what another receiver saw under the same seq.
pub fn merge(entry: &mut Entry, seen: Entry) {
    if entry.state == State::Unseen {
        *entry = seen;
        return;
    }
    entry.altered |= seen.altered;
    entry.disputed |= (entry.state, entry.user, entry.k) != (seen.state, seen.user, seen.k);
}
