//! One connection's commands under way, so that those on one room take effect in their order.
//!
//! Lives in its session, on the connection's core, while an owner owes a reply. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::mesh::Ask;

/// One command of a connection on a room: it may have to wait.
#[derive(Debug)]
pub enum Step {
    /// For the room's owner, which will answer.
    Ask(Ask),
    /// Carried out at the connection's own core.
    Leave,
}

impl Step {
    fn is_publish(&self) -> bool {
        matches!(self, Self::Ask(ask) if ask.is_publish())
    }

    /// What it holds while it waits.
    fn body_bytes(&self) -> usize {
        if let Self::Ask(ask) = self { ask.body_bytes() } else { 0 }
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
    waiting: VecDeque<(u32, Step)>,
}

impl Order {
    fn admits(&self, step: &Step) -> bool {
        self.asked == 0 || (self.publishes && step.is_publish())
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
    pub fn admit(&mut self, room: &Arc<str>, tag: u32, step: Step) -> Option<Step> {
        let Some(order) = self.rooms.iter_mut().find(|order| order.room == *room) else { return Some(step) };
        if order.waiting.is_empty() && order.admits(&step) {
            return Some(step);
        }
        self.commands += 1;
        self.waiting_bytes += step.body_bytes();
        order.waiting.push_back((tag, step));
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
    pub fn next(&mut self, room: &str) -> Option<(u32, Step)> {
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
        self.waiting_bytes -= next.as_ref().map_or(0, |(_, step)| step.body_bytes());
        next
    }
}

#[cfg(test)]
mod tests {
    use protocol::{Content, OwnedParts, Page, Start};

    use super::*;

    fn publish() -> Step {
        let (content, body) = (Content::Text, (*b"x").into());
        Step::Ask(Ask::Publish { content, body, key: None, parts: OwnedParts::default() })
    }

    fn join() -> Step {
        Step::Ask(Ask::Join { start: Start::Recent(0), shared: None })
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

        fn says(&mut self, room: &str, step: Step) {
            self.tag += 1;
            let room: Arc<str> = room.into();
            if let Some(step) = self.pipeline.admit(&room, self.tag, step) {
                self.goes(&room, self.tag, &step);
            }
        }

        fn goes(&mut self, room: &Arc<str>, tag: u32, step: &Step) {
            self.went.push(tag);
            if !matches!(step, Step::Leave) {
                self.pipeline.asked(room, step.is_publish());
            }
        }

        fn hears(&mut self, room: &str) -> Vec<u32> {
            let before = self.went.len();
            self.pipeline.answered(room);
            while let Some((tag, step)) = self.pipeline.next(room) {
                self.goes(&room.into(), tag, &step);
            }
            self.went[before..].to_vec()
        }
    }

    #[test]
    fn publishes_follow_each_other_at_once_and_everything_else_waits_for_all_before_it() {
        let mut client = Client::new();
        for step in [publish(), publish(), join(), publish(), publish(), Step::Leave, join()] {
            client.says("r", step);
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
        client.says("slow", Step::Leave);
        client.says("other", join());
        client.says("third", publish());
        assert_eq!(client.went, [1, 3, 4]);
        assert_eq!(client.hears("slow"), [2]);
    }

    #[test]
    fn a_publish_does_not_overtake_one_that_waits() {
        let mut client = Client::new();
        let history = Ask::History { page: Page::Newest, limit: 1, epoch: None, newest_first: false };
        for step in [publish(), Step::Ask(history), publish()] {
            client.says("r", step);
        }
        assert_eq!(client.went, [1]);
        assert_eq!(client.hears("r"), [2]);
        assert_eq!(client.hears("r"), [3]);
    }
}
