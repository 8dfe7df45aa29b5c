//! The rooms that members here follow: the table of feeds, and how messages become frames in them.

use std::mem;
use std::sync::Arc;

use foldhash::HashMap;
use protocol::{Dialect, Event, Message};
use storage::Record;

use crate::budget::Use;
use crate::deflation::Deflation;
use crate::feed::Feed;
use crate::shard::turn::Turn;
use crate::sizes::next_batch;

/// While memory is short a feed keeps no more than this of each encoding, bytes.
const SHORT_BYTES: usize = 64 * 1024;
/// Frames are kept this long, seconds.
const KEEP_S: u32 = 60;
/// By then everybody who takes what it is sent was visited, seconds.
const VISITED_S: u32 = 2;

/// Feeds by index, which stays the same while a feed is used, and by name.
#[derive(Default)]
pub(in crate::shard) struct Feeds {
    all: Vec<Option<Box<Feed>>>,
    free: Vec<u32>,
    by_name: HashMap<Arc<str>, u32>,
}

impl Feeds {
    pub(in crate::shard) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn find(&self, room: &str) -> Option<u32> {
        self.by_name.get(room).copied()
    }

    /// The feed of this room, a new one if there is none.
    pub(super) fn open(&mut self, room: &Arc<str>) -> u32 {
        if let Some(index) = self.find(room) {
            return index;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() as u32 - 1
        });
        self.all[index as usize] = Some(Box::new(Feed::new(room.clone())));
        self.by_name.insert(room.clone(), index);
        index
    }

    pub(super) fn get(&self, index: u32) -> Option<&Feed> {
        self.all[index as usize].as_deref()
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Feed> {
        self.all[index as usize].as_deref_mut()
    }

    /// The feed of a membership or of a join that is under way.
    pub(super) fn of_member(&mut self, index: u32) -> &mut Feed {
        self.get_mut(index).expect("a membership or a join keeps its feed")
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Feed> {
        self.all.iter().flatten().map(|feed| &**feed)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Feed)> {
        (0..).zip(&mut self.all).filter_map(|(index, feed)| Some((index, feed.as_deref_mut()?)))
    }

    /// Forgets a feed that nobody here follows.
    pub(super) fn drop_unused(&mut self, turn: &mut Turn, index: u32) {
        if self.of_member(index).is_unused()
            && let Some(feed) = self.all[index as usize].take()
        {
            turn.memory.give(feed.counted);
            self.by_name.remove(&feed.room);
            self.free.push(index);
        }
    }

    /// Changes what all feeds keep, and counts it.
    fn change_all(&mut self, turn: &mut Turn, change: impl Fn(&mut Feed)) {
        for (_, feed) in self.iter_mut() {
            change(feed);
            count(turn, feed);
        }
    }

    /// While the relay is short of memory, feeds give up what can be had again.
    pub(in crate::shard) fn relieve(&mut self, turn: &mut Turn) {
        if !turn.memory.is_short() {
            return;
        }
        // Without memory for new work, frames are kept for no longer than visits to all members take.
        let before_s = if turn.memory.allows(Use::Work, 0) { 0 } else { turn.now.s().saturating_sub(VISITED_S) };
        self.change_all(turn, |feed| {
            feed.shorten(SHORT_BYTES);
            feed.trim(before_s);
        });
    }

    /// Forgets frames that were kept long enough.
    pub(in crate::shard) fn trim(&mut self, turn: &mut Turn) {
        let before_s = turn.now.s().saturating_sub(KEEP_S);
        self.change_all(turn, |feed| feed.trim(before_s));
    }

    /// Messages for all members here: encoded once for each encoding in use. Returns the feed, if there is one and it had
    /// not all of them.
    pub(super) fn deliver(
        &mut self,
        turn: &mut Turn,
        deflation: &mut Deflation,
        room: &str,
        records: &[Arc<Record>],
    ) -> Option<u32> {
        let index = self.find(room)?;
        let bytes_max = turn.setup.limits.feed_bytes_max;
        let bytes_max = if turn.memory.is_short() { bytes_max.min(SHORT_BYTES) } else { bytes_max };
        let now_s = turn.now.s();
        let deflate_min = turn.setup.deflate_members_min;
        let feed = self.all[index as usize].as_deref_mut().expect("a room's name is forgotten with its feed");
        let start = records.iter().position(|record| record.seq > feed.head)?;
        let records = &records[start..];
        if records[0].seq > feed.head + 1 {
            feed.reset(records[0].seq - 1);
        }
        for dialect in feed.dialects() {
            encode_batches(dialect, room, records, |frame, last| {
                for (encoding, chain, members) in feed.chains_of(dialect) {
                    let deflates = encoding.deflate && members >= deflate_min;
                    chain.append(if deflates { deflation.frames(frame) } else { frame }, last, now_s, bytes_max);
                }
            });
        }
        feed.head = records[records.len() - 1].seq;
        feed.recent += records.len() as u32;
        count(turn, feed);
        Some(index)
    }
}

/// Counts what a feed keeps, instead of what it kept before.
fn count(turn: &mut Turn, feed: &mut Feed) {
    let bytes = feed.bytes();
    turn.memory.replace(mem::replace(&mut feed.counted, bytes), bytes);
}

/// Encodes records as frames of bounded size; `each` gets a frame and its last seq.
fn encode_batches(dialect: Dialect, room: &str, records: &[Arc<Record>], mut each: impl FnMut(&[u8], u64)) {
    let mut frame = Vec::new();
    let mut batch = next_batch(records, 0);
    while !batch.is_empty() {
        let records_of_it = &records[batch.clone()];
        let messages: Vec<Message<'_>> = records_of_it.iter().map(|record| record.message()).collect();
        frame.clear();
        dialect.encode(0, &Event::Batch { room, messages: &messages }, &mut frame);
        each(&frame, records_of_it[records_of_it.len() - 1].seq);
        batch = next_batch(records, batch.end);
    }
}
