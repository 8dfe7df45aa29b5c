//! Reads that wait for a thread: opens before all others, and the others of each connection in turn.

use std::collections::VecDeque;
use std::time::Instant;

use foldhash::HashMap;

use crate::ids::SessionId;
use crate::shard::StoreRequest;

/// Reads of one connection that may wait; it asks for no more unless it floods, and further ones are refused.
const PER_SESSION_MAX: usize = 16;

/// An open or a read of a shard, and when it was handed over.
pub(super) struct Read {
    pub shard: usize,
    pub request: StoreRequest,
    pub since: Instant,
}

/// All that waits, of all shards. The shards bound it: an open a room, and the reads that they may have under way.
#[derive(Default)]
pub(super) struct Queue {
    opens: VecDeque<Read>,
    reads: HashMap<SessionId, VecDeque<Read>>,
    /// The connections in `reads`, in the order of their turns.
    turns: VecDeque<SessionId>,
}

impl Queue {
    /// Adds a request, or returns it when its connection has as many as it may.
    pub(super) fn push(&mut self, read: Read) -> Result<(), Read> {
        let StoreRequest::Read { asker, .. } = read.request else {
            self.opens.push_back(read);
            return Ok(());
        };
        let of = self.reads.entry(asker).or_default();
        if of.len() >= PER_SESSION_MAX {
            return Err(read);
        }
        if of.is_empty() {
            self.turns.push_back(asker);
        }
        of.push_back(read);
        Ok(())
    }

    /// What is to be read next.
    pub(super) fn pop(&mut self) -> Option<Read> {
        if let Some(open) = self.opens.pop_front() {
            return Some(open);
        }
        let asker = self.turns.pop_front()?;
        let of = self.reads.get_mut(&asker)?;
        let read = of.pop_front();
        if of.is_empty() {
            self.reads.remove(&asker);
        } else {
            self.turns.push_back(asker);
        }
        read
    }

    /// Takes out what waits for a connection that has ended.
    pub(super) fn forget(&mut self, session: SessionId) -> impl Iterator<Item = Read> + use<> {
        let forgotten = self.reads.remove(&session);
        if forgotten.is_some() {
            self.turns.retain(|&asker| asker != session);
        }
        forgotten.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::Wanted;

    fn session(n: u16) -> SessionId {
        SessionId::new(0, 0, n, 0)
    }

    fn page(asker: u16, first: u64) -> Read {
        let wanted = Wanted { first, last: first, split: first, bytes_max: 1 };
        let request = StoreRequest::Read { room: "r".into(), wanted, asker: session(asker) };
        Read { shard: 0, request, since: Instant::now() }
    }

    fn open(room: &str) -> Read {
        Read { shard: 0, request: StoreRequest::Open { room: room.into() }, since: Instant::now() }
    }

    fn queue(reads: impl IntoIterator<Item = Read>) -> Queue {
        let mut queue = Queue::default();
        for read in reads {
            assert!(queue.push(read).is_ok());
        }
        queue
    }

    /// What comes out: rooms of opens, and askers and seqs of reads.
    fn order(queue: &mut Queue) -> Vec<String> {
        let name = |read: Read| match read.request {
            StoreRequest::Open { room } => room.to_string(),
            StoreRequest::Read { wanted, asker, .. } => format!("{}:{}", asker.slot(), wanted.first),
            other => panic!("{other:?}"),
        };
        std::iter::from_fn(|| queue.pop()).map(name).collect()
    }

    #[test]
    fn a_join_beside_a_flood_of_history_waits_for_nobody() {
        let flood = (1..=8).flat_map(|asker| (1..=10).map(move |first| page(asker, first)));
        let mut queue = queue(flood.chain([open("new room")]));
        assert_eq!(order(&mut queue)[0], "new room");
    }

    #[test]
    fn connections_take_turns_whoever_came_first_and_each_in_its_own_order() {
        let mut queue = queue((1..=10).map(|first| page(1, first)).chain([page(2, 1), page(2, 2), page(3, 1)]));
        assert_eq!(order(&mut queue)[..7], ["1:1", "2:1", "3:1", "1:2", "2:2", "1:3", "1:4"]);
    }

    #[test]
    fn nobody_reads_for_those_who_are_gone() {
        let mut queue = queue([page(1, 1), page(2, 1), page(1, 2), page(2, 2)]);
        assert_eq!(queue.forget(session(1)).count(), 2);
        assert_eq!(queue.forget(session(7)).count(), 0);
        assert_eq!(order(&mut queue), ["2:1", "2:2"]);
    }

    #[test]
    fn a_connection_has_so_many_reads_waiting_and_no_more() {
        let mut queue = queue((0..PER_SESSION_MAX as u64).map(|first| page(1, first)));
        assert!(queue.push(page(1, 99)).is_err() && queue.push(page(2, 99)).is_ok());
    }
}
