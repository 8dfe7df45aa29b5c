//! One connection's commands under way, so that those on one room take effect in their order.
//!
//! Lives in its session, on the connection's core, while an owner owes a reply. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use protocol::{Content, OwnedParts, Page, Start};
use storage::Key;

/// A command on a room, checked and owned: it may have to wait.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields are those of protocol::Command")]
pub enum Ask {
    Join { start: Start },
    Leave,
    Publish { content: Content, body: Box<[u8]>, key: Option<Key>, parts: OwnedParts },
    History { page: Page, limit: u32, epoch: Option<u64>, newest_first: bool },
}

impl Ask {
    /// Those follow each other at once.
    pub fn is_publish(&self) -> bool {
        matches!(self, Self::Publish { .. })
    }

    /// What it holds while it waits.
    fn body_bytes(&self) -> usize {
        if let Self::Publish { body, .. } = self { body.len() } else { 0 }
    }
}

/// The rooms of one connection in which something is under way, and what waits behind it.
///
/// An owner handles what reaches it in order, but for joins and history that wait for storage, and a leave is carried
/// out at the member's own core. So publishes follow each other at once, and everything else goes on when all that was
/// asked of its room before was answered. Rooms don't wait for each other.
#[derive(Debug, Default)]
pub struct Pipeline {
    rooms: Vec<Order>,
    commands: usize,
    waiting_bytes: usize,
}

/// One room's commands.
#[derive(Debug)]
struct Order {
    room: Arc<str>,
    /// Sent to the owner and not answered: publishes, or one command of another kind.
    asked: u32,
    publishes: bool,
    /// Those behind them, with their tags.
    waiting: VecDeque<(u32, Ask)>,
}

impl Order {
    fn admits(&self, ask: &Ask) -> bool {
        self.asked == 0 || (self.publishes && ask.is_publish())
    }
}

impl Pipeline {
    /// Commands that wait or are not answered.
    pub fn commands(&self) -> usize {
        self.commands
    }

    /// Bytes of bodies that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// Takes a command: it comes back if it may go on at once, else waits for [`Pipeline::next`].
    pub fn admit(&mut self, room: &Arc<str>, tag: u32, ask: Ask) -> Option<Ask> {
        let Some(order) = self.rooms.iter_mut().find(|order| order.room == *room) else { return Some(ask) };
        if order.waiting.is_empty() && order.admits(&ask) {
            return Some(ask);
        }
        self.commands += 1;
        self.waiting_bytes += ask.body_bytes();
        order.waiting.push_back((tag, ask));
        None
    }

    /// A command that may go on was sent to the owner; one reply will come.
    pub fn asked(&mut self, room: &Arc<str>, is_publish: bool) {
        self.commands += 1;
        if let Some(order) = self.rooms.iter_mut().find(|order| order.room == *room) {
            (order.asked, order.publishes) = (order.asked + 1, is_publish);
            return;
        }
        // Most connections are in one room: no room for four.
        self.rooms.reserve_exact(1);
        self.rooms.push(Order { room: room.clone(), asked: 1, publishes: is_publish, waiting: VecDeque::new() });
    }

    /// The owner answered a command on this room.
    pub fn answered(&mut self, room: &str) {
        if let Some(order) = self.rooms.iter_mut().find(|order| *order.room == *room) {
            order.asked -= 1;
            self.commands -= 1;
        }
    }

    /// The next command on this room that may go on, with its tag. A room in which nothing is under way is forgotten.
    pub fn next(&mut self, room: &str) -> Option<(u32, Ask)> {
        let at = self.rooms.iter().position(|order| *order.room == *room)?;
        let order = &mut self.rooms[at];
        let Some((_, first)) = order.waiting.front() else {
            if order.asked == 0 {
                self.rooms.swap_remove(at);
            }
            return None;
        };
        if !order.admits(first) {
            return None;
        }
        let next = order.waiting.pop_front();
        self.commands -= 1;
        self.waiting_bytes -= next.as_ref().map_or(0, |(_, ask)| ask.body_bytes());
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish() -> Ask {
        Ask::Publish { content: Content::Text, body: (*b"x").into(), key: None, parts: OwnedParts::default() }
    }

    fn join() -> Ask {
        Ask::Join { start: Start::Recent(0) }
    }

    /// What a connection asked of the owner by now, and what it does next.
    struct Client {
        pipeline: Pipeline,
        tag: u32,
        went: Vec<u32>,
    }

    impl Client {
        fn new() -> Self {
            Self { pipeline: Pipeline::default(), tag: 0, went: Vec::new() }
        }

        fn says(&mut self, room: &str, ask: Ask) {
            self.tag += 1;
            let room: Arc<str> = room.into();
            if let Some(ask) = self.pipeline.admit(&room, self.tag, ask) {
                self.goes(&room, self.tag, &ask);
            }
        }

        fn goes(&mut self, room: &Arc<str>, tag: u32, ask: &Ask) {
            self.went.push(tag);
            if !matches!(ask, Ask::Leave) {
                self.pipeline.asked(room, ask.is_publish());
            }
        }

        fn hears(&mut self, room: &str) -> Vec<u32> {
            let before = self.went.len();
            self.pipeline.answered(room);
            while let Some((tag, ask)) = self.pipeline.next(room) {
                self.goes(&room.into(), tag, &ask);
            }
            self.went[before..].to_vec()
        }
    }

    #[test]
    fn publishes_follow_each_other_at_once_and_everything_else_waits_for_all_before_it() {
        let mut client = Client::new();
        for ask in [publish(), publish(), join(), publish(), publish(), Ask::Leave, join()] {
            client.says("r", ask);
        }
        assert_eq!(client.went, [1, 2]);
        assert_eq!((client.pipeline.commands(), client.pipeline.waiting_bytes()), (7, 2));
        assert_eq!(client.hears("r"), [0; 0]);
        assert_eq!(client.hears("r"), [3]);
        assert_eq!(client.hears("r"), [4, 5]);
        assert_eq!(client.hears("r"), [0; 0]);
        // The leave is carried out here: the join behind it goes on at once.
        assert_eq!(client.hears("r"), [6, 7]);
        assert_eq!(client.hears("r"), [0; 0]);
        assert!(client.pipeline.is_empty() && client.pipeline.commands() == 0 && client.pipeline.waiting_bytes() == 0);
    }

    #[test]
    fn rooms_do_not_wait_for_each_other() {
        let mut client = Client::new();
        client.says("slow", join());
        client.says("slow", Ask::Leave);
        client.says("other", join());
        client.says("third", publish());
        assert_eq!(client.went, [1, 3, 4]);
        assert_eq!(client.hears("slow"), [2]);
    }

    #[test]
    fn a_publish_does_not_overtake_one_that_waits() {
        let mut client = Client::new();
        for ask in
            [publish(), Ask::History { page: Page::Newest, limit: 1, epoch: None, newest_first: false }, publish()]
        {
            client.says("r", ask);
        }
        assert_eq!(client.went, [1]);
        assert_eq!(client.hears("r"), [2]);
        assert_eq!(client.hears("r"), [3]);
    }
}
