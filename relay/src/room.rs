//! A room as its owner sees it: the end of the log, what waits for storage, and what was cut for its members.
//!
//! Lives on the owner's core, does no I/O. Publishes become *pending*; one append at a time turns pending ones into
//! records with seq and id; what is stored is *durable* and acked; cutting makes it *visible*.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::HashMap;
use protocol::snowflake::Snowflake;
use protocol::{Content, OwnedParts};
use storage::{Append, Key, Kind, LogState, Record, StoredKey};

use crate::audience::Audience;
use crate::dedupe::{Dedupe, Known};
use crate::ids::Origin;
use crate::mesh::Asked;
use crate::rate::{Bucket, Rate, publish_tokens};
use crate::sizes::{message_bytes, record_bytes, records_bytes};
use crate::tempo::MessageRate;

/// A message that has no seq yet.
#[derive(Debug)]
pub struct Publish {
    pub user: Arc<str>,
    pub content: Content,
    pub body: Box<[u8]>,
    pub key: Option<Key>,
    pub parts: OwnedParts,
    /// Who waits for its outcome.
    pub origin: Origin,
}

impl Publish {
    /// What it takes in memory, bytes: as much as the record that it becomes.
    fn bytes(&self) -> usize {
        message_bytes(&self.user, &self.body, &self.parts)
    }
}

/// What becomes of a publish at once.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Waits for storage; the ack follows.
    Pending,
    /// The key is stored already, under this seq and id.
    Repeat { seq: u64, id: u64 },
    /// The key is stored already, with another body.
    KeyTaken { seq: u64, id: u64 },
    /// Nothing was given or stored: the room has too many pending ones.
    Busy,
    /// This user publishes too fast here; try again after so many milliseconds.
    RateLimited { retry_after_ms: u32 },
}

#[derive(Debug)]
struct Pending {
    publish: Publish,
    since_us: u64,
    /// Those that used its key while it waits.
    repeats: Vec<Waiting>,
}

/// Who waits until a message is stored.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    origin: Origin,
    /// It used the message's key for another body: it hears where the message is stored, and that its own is not.
    differs: bool,
}

/// An append on its way to storage: its records and who waits for each.
#[derive(Debug)]
struct Flight {
    /// How many messages the room had taken before the first of these.
    first: u64,
    records: Vec<Arc<Record>>,
    waiters: Vec<Vec<Waiting>>,
    since_us: u64,
    /// When each of the messages came, microseconds.
    came_us: Vec<u64>,
    /// The waiters were told that the outcome is unknown.
    overdue: bool,
}

/// So many messages, and so many bytes of memory.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    pub messages: usize,
    pub bytes: usize,
}

/// The records `first..=last`, as many as there is room for: so many bytes as they are sent from `split` on, and as many
/// before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wanted {
    pub first: u64,
    pub last: u64,
    pub split: u64,
    pub bytes_max: usize,
}

/// What storage knows of a room's log.
#[derive(Debug)]
pub struct Log {
    pub state: LogState,
    /// The newest records, ascending, dense, up to the log's end.
    pub tail: Vec<Arc<Record>>,
    /// The keys in the dedupe window, ascending.
    pub keys: Vec<StoredKey>,
}

/// One room's log, at its owner.
#[derive(Debug)]
pub struct Room {
    pub name: Arc<str>,
    pub epoch: u64,
    /// Last seq and id that are durable.
    pub durable: u64,
    last_id: u64,
    /// Last seq that members may see.
    pub cut: u64,
    /// When the oldest durable message that is not cut became durable.
    pub uncut_since_us: u64,
    /// When the oldest message of the last cut became durable, milliseconds since 1970.
    pub cut_durable_ms: u64,
    pending: VecDeque<Pending>,
    /// Keys of pending and flying messages: how many messages were taken when theirs was, and the hash of its body.
    pending_keys: HashMap<u128, (u64, Option<u64>)>,
    taken: u64,
    flight: Option<Flight>,
    /// Bytes of what is pending, flying, and in the tail.
    pending_bytes: usize,
    flight_bytes: usize,
    tail_bytes: usize,
    /// What came before this seq has expired; more may have, which storage says when it is asked.
    pub kept_from: u64,
    /// The newest durable records, dense, the last one being `durable`.
    tail: VecDeque<Arc<Record>>,
    dedupe: Dedupe,
    pub audience: Audience,
    /// Reads of storage that are under way, and the commands that wait for them: identical ones are done once.
    pub reads: HashMap<Wanted, Vec<Asked>>,
    buckets: HashMap<Arc<str>, Bucket>,
    /// Messages cut since the rate was last looked at, and that rate.
    pub recent_cut: u32,
    pub rate: MessageRate,
    pub used_us: u64,
    /// Tells it from others that had its index before.
    pub number: u64,
}

impl Room {
    /// A room as storage knows it.
    pub fn load(name: Arc<str>, log: Log, shards: usize, tail_max: Most) -> Self {
        let Log { state, tail, keys } = log;
        let mut dedupe = Dedupe::default();
        for key in &keys {
            dedupe.insert(key);
        }
        let mut room = Self {
            name,
            epoch: state.epoch,
            durable: state.last_seq,
            last_id: state.last_id,
            cut: state.last_seq,
            uncut_since_us: 0,
            cut_durable_ms: 0,
            pending: VecDeque::new(),
            pending_keys: HashMap::default(),
            taken: 0,
            flight: None,
            pending_bytes: 0,
            flight_bytes: 0,
            tail_bytes: records_bytes(&tail),
            kept_from: 1,
            tail: tail.into(),
            dedupe,
            audience: Audience::new(shards),
            reads: HashMap::default(),
            buckets: HashMap::default(),
            recent_cut: 0,
            rate: MessageRate::default(),
            used_us: 0,
            number: 0,
        };
        room.trim_tail(tail_max);
        room
    }

    /// What it holds in memory, bytes, beside the room itself.
    pub fn bytes(&self) -> usize {
        self.pending_bytes + self.flight_bytes + self.tail_bytes + self.dedupe.bytes() + self.audience.bytes()
    }

    /// Takes a publish, or says at once what becomes of it.
    pub fn publish(&mut self, publish: Publish, rate: Rate, pending_max: Most, now_us: u64) -> Verdict {
        if let Some(key) = publish.key {
            match self.dedupe.get(key) {
                Some(Known { seq, id, differs: false }) => return Verdict::Repeat { seq, id },
                Some(Known { seq, id, differs: true }) => return Verdict::KeyTaken { seq, id },
                None => {}
            }
            if let Some(&(number, body)) = self.pending_keys.get(&key.hash) {
                self.wait_for(number, Waiting { origin: publish.origin, differs: !key.repeats(body) });
                return Verdict::Pending;
            }
        }
        let bytes = publish.bytes();
        // One message always may, however large it is.
        let is_full = self.pending.len() >= pending_max.messages || self.pending_bytes + bytes > pending_max.bytes;
        if is_full && !self.pending.is_empty() {
            return Verdict::Busy;
        }
        let bucket = self.buckets.entry(publish.user.clone()).or_insert_with(|| Bucket::full(rate, now_us));
        if let Err(retry_after_ms) = bucket.take(rate, publish_tokens(publish.body.len()), now_us) {
            return Verdict::RateLimited { retry_after_ms };
        }
        if let Some(key) = publish.key {
            self.pending_keys.insert(key.hash, (self.taken, key.body));
        }
        self.taken += 1;
        self.pending_bytes += bytes;
        self.pending.push_back(Pending { publish, since_us: now_us, repeats: Vec::new() });
        Verdict::Pending
    }

    /// Adds a waiter to the message that was taken as number `number`, pending or flying.
    fn wait_for(&mut self, number: u64, waiter: Waiting) {
        let first_pending = self.taken - self.pending.len() as u64;
        if number >= first_pending {
            self.pending[(number - first_pending) as usize].repeats.push(waiter);
        } else if let Some(flight) = &mut self.flight {
            flight.waiters[(number - flight.first) as usize].push(waiter);
        }
    }

    /// Gives seqs and ids to what is pending, as much as one append may have, and the append to send to storage. None
    /// while one is on its way or nothing is pending.
    pub fn form_append(&mut self, ids: &mut Snowflake, now: (u64, u64), append_max: Most) -> Option<Append> {
        if self.flight.is_some() || self.pending.is_empty() {
            return None;
        }
        let (now_us, wall_ms) = now;
        let (count, bytes) = self.next_append(append_max);
        let first = self.taken - self.pending.len() as u64;
        let (mut records, mut waiters) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let came_us = self.pending.iter().take(count).map(|pending| pending.since_us).collect();
        let mut last_id = self.last_id;
        for (n, pending) in self.pending.drain(..count).enumerate() {
            last_id = ids.next(wall_ms, last_id);
            let Publish { user, content, body, key, parts, origin } = pending.publish;
            records.push(Arc::new(Record {
                kind: Kind::Message,
                seq: self.durable + 1 + n as u64,
                id: last_id,
                time_ms: wall_ms,
                sender: Box::from(&*user),
                content,
                body,
                key,
                parts,
            }));
            let mut all = pending.repeats;
            all.insert(0, Waiting { origin, differs: false });
            waiters.push(all);
        }
        self.pending_bytes -= bytes;
        self.flight_bytes = bytes;
        let flight = Flight { first, records: records.clone(), waiters, since_us: now_us, came_us, overdue: false };
        self.flight = Some(flight);
        Some(Append { room: self.name.clone(), epoch: self.epoch, records })
    }

    /// How many of the pending ones make one append, and their bytes.
    fn next_append(&self, append_max: Most) -> (usize, usize) {
        let mut taken = (0, 0);
        for pending in self.pending.iter().take(append_max.messages) {
            let bytes = taken.1 + pending.publish.bytes();
            if bytes > append_max.bytes && taken.0 > 0 {
                break;
            }
            taken = (taken.0 + 1, bytes);
        }
        taken
    }

    /// The append on its way is durable. Calls `tell` for everybody who waits for one of its messages: whether it has
    /// another body, seq and id.
    pub fn stored(&mut self, now_us: u64, tail_max: Most, mut tell: impl FnMut(Origin, Known)) {
        let Some(flight) = self.flight.take() else { return };
        if self.durable == self.cut {
            self.uncut_since_us = now_us;
        }
        for (record, waiters) in flight.records.into_iter().zip(flight.waiters) {
            self.durable = record.seq;
            self.last_id = record.id;
            if let Some(stored) = StoredKey::of(&record) {
                self.pending_keys.remove(&stored.key.hash);
                self.dedupe.insert(&stored);
            }
            for Waiting { origin, differs } in waiters {
                tell(origin, Known { seq: record.seq, id: record.id, differs });
            }
            self.tail.push_back(record);
        }
        self.tail_bytes += std::mem::take(&mut self.flight_bytes);
        self.trim_tail(tail_max);
    }

    /// Forgets the oldest messages that are too many. What is not cut yet must stay: the frames for the members are made
    /// from the tail.
    fn trim_tail(&mut self, tail_max: Most) {
        while self.tail.len() > tail_max.messages || self.tail_bytes > tail_max.bytes {
            let Some(front) = self.tail.pop_front_if(|record| record.seq <= self.cut) else { return };
            self.tail_bytes -= record_bytes(&front);
        }
    }

    /// Forgets all messages that every core with members was sent: they can be read from storage. Not while something
    /// is read, which goes on in the tail.
    pub fn drop_tail(&mut self) {
        if !self.reads.is_empty() {
            return;
        }
        let sent = self.audience.sent_to_all().unwrap_or(u64::MAX).min(self.cut);
        while let Some(front) = self.tail.pop_front_if(|record| record.seq <= sent) {
            self.tail_bytes -= record_bytes(&front);
        }
        self.tail.shrink_to_fit();
    }

    /// Tells those who have waited longer than `timeout_us`: `pending` ones got no seq (busy, dropped), `flying` ones may
    /// be stored (unknown).
    pub fn give_up(&mut self, now_us: u64, timeout_us: u64, mut tell: impl FnMut(Origin, bool)) {
        while self.pending.front().is_some_and(|p| p.since_us + timeout_us <= now_us) {
            let Some(pending) = self.pending.pop_front() else { break };
            self.pending_bytes -= pending.publish.bytes();
            if let Some(key) = pending.publish.key {
                self.pending_keys.remove(&key.hash);
            }
            tell(pending.publish.origin, false);
            pending.repeats.into_iter().for_each(|waiting| tell(waiting.origin, false));
        }
        if let Some(flight) = &mut self.flight
            && flight.since_us + timeout_us <= now_us
            && !flight.overdue
        {
            flight.overdue = true;
            flight.waiters.iter_mut().flat_map(|w| w.drain(..)).for_each(|waiting| tell(waiting.origin, true));
        }
    }

    /// When the messages came that are on their way to storage, microseconds.
    pub fn flying_since_us(&self) -> &[u64] {
        self.flight.as_ref().map_or(&[], |flight| &flight.came_us)
    }

    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }
    pub fn is_flying(&self) -> bool {
        self.flight.is_some()
    }
    /// First seq in memory, `durable + 1` when there is none.
    pub fn tail_first(&self) -> u64 {
        self.tail.front().map_or(self.durable + 1, |record| record.seq)
    }

    /// What comes before this seq is not in storage any more; what is in memory stays.
    pub fn expired(&mut self, kept_from: u64) {
        self.kept_from = self.kept_from.max(kept_from.min(self.tail_first()));
    }

    /// The records `first..=last`, all of which must be in the tail.
    pub fn tail(&self, first: u64, last: u64) -> Vec<Arc<Record>> {
        if first > last {
            return Vec::new();
        }
        let start = (first - self.tail_first()) as usize;
        self.tail.range(start..=start + (last - first) as usize).cloned().collect()
    }

    /// Frees what an idle room does not need: keys that have left their window, and the buckets of users that may publish
    /// at full rate again.
    pub fn tidy(&mut self, rate: Rate, now_us: u64, wall_ms: u64) {
        self.dedupe.expire(self.durable, wall_ms);
        self.buckets.retain(|_, bucket| !bucket.is_full(rate, now_us));
    }

    /// Nobody is in it and nothing waits: it can be loaded again when somebody comes.
    pub fn is_idle(&self) -> bool {
        self.audience.members() == 0
            && self.pending.is_empty()
            && self.flight.is_none()
            && self.reads.is_empty()
            && self.cut == self.durable
    }
}

#[cfg(test)]
mod tests;
