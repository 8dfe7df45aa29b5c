//! Who follows a room: which cores have members of it, what each core was sent, and how many people they are.
//!
//! Lives with the room, on its owner. Pure.

use foldhash::{HashMap, HashSet};

/// What a person takes in memory: a place in a set and its spare capacity, bytes.
const PERSON_BYTES: usize = 14;
/// …and one with several connections: a place in a map besides.
const SEVERAL_BYTES: usize = 26;

/// A core's part of the audience.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Follower {
    pub members: u32,
    /// Last seq that was sent to it; meaningful while it has members.
    pub sent: u64,
}

/// The members of a room, by core and by person.
#[derive(Debug)]
pub struct Audience {
    cores: Vec<Follower>,
    /// The hashes of the members' users.
    people: HashSet<u64>,
    /// Those of them who are here with several connections, and how many more than one these are.
    more: HashMap<u64, u32>,
}

impl Audience {
    pub fn new(cores: usize) -> Self {
        Self { cores: vec![Follower::default(); cores], people: HashSet::default(), more: HashMap::default() }
    }

    /// A connection of this user became a member, on a core that was sent everything up to this seq.
    pub fn join(&mut self, core: usize, user: u64, sent: u64) {
        let follower = &mut self.cores[core];
        *follower = Follower { members: follower.members + 1, sent };
        if !self.people.insert(user) {
            *self.more.entry(user).or_default() += 1;
        }
    }

    /// A connection of this user is no member any more.
    pub fn leave(&mut self, core: usize, user: u64) {
        let follower = &mut self.cores[core];
        follower.members = follower.members.saturating_sub(1);
        match self.more.get_mut(&user) {
            None => drop(self.people.remove(&user)),
            Some(1) => drop(self.more.remove(&user)),
            Some(more) => *more -= 1,
        }
        if self.people.len() < self.people.capacity() / 8 {
            self.people.shrink_to_fit();
        }
    }

    pub fn of(&self, core: usize) -> Follower {
        self.cores[core]
    }

    /// Connections.
    pub fn members(&self) -> u32 {
        self.cores.iter().map(|core| core.members).sum()
    }

    /// Users with at least one connection.
    pub fn people(&self) -> usize {
        self.people.len()
    }

    /// Members on the core that has most of them: what a visit to all of them costs somewhere.
    pub fn members_on_one_core(&self) -> u32 {
        self.cores.iter().map(|core| core.members).max().unwrap_or(0)
    }

    /// The seq that every core with members was sent; `None` when there is no such core.
    pub fn sent_to_all(&self) -> Option<u64> {
        self.cores.iter().filter(|core| core.members > 0).map(|core| core.sent).min()
    }

    pub fn cores(&self) -> usize {
        self.cores.len()
    }

    /// The seq that this core was sent, if it has members and was not sent everything up to `seq`.
    pub fn lacks(&self, core: usize, seq: u64) -> Option<u64> {
        let Follower { members, sent } = self.cores[core];
        (members > 0 && sent != seq).then_some(sent)
    }

    /// This core was sent everything up to this seq.
    pub fn sent(&mut self, core: usize, seq: u64) {
        self.cores[core].sent = seq;
    }

    /// What it holds in memory, bytes.
    pub fn bytes(&self) -> usize {
        self.people.len() * PERSON_BYTES + self.more.len() * SEVERAL_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_connections_and_people_are_users() {
        let mut audience = Audience::new(2);
        for (core, user) in [(0, 7), (1, 7), (1, 8), (0, 7)] {
            audience.join(core, user, 5);
        }
        assert_eq!((audience.members(), audience.people(), audience.members_on_one_core()), (4, 2, 2));
        audience.leave(1, 7);
        audience.leave(0, 7);
        assert_eq!((audience.members(), audience.people()), (2, 2), "the user is still here once");
        audience.leave(0, 7);
        audience.leave(1, 8);
        assert_eq!((audience.members(), audience.people(), audience.bytes()), (0, 0, 0));
    }

    #[test]
    fn a_core_without_members_is_never_behind() {
        let mut audience = Audience::new(3);
        assert_eq!(audience.sent_to_all(), None);
        audience.join(0, 1, 5);
        audience.join(2, 2, 9);
        assert_eq!((audience.sent_to_all(), audience.of(2).sent), (Some(5), 9));
        let lack = |audience: &Audience, seq| [0, 1, 2].map(|core| audience.lacks(core, seq));
        assert_eq!(lack(&audience, 9), [Some(5), None, None]);
        audience.sent(0, 9);
        assert_eq!(lack(&audience, 9), [None; 3]);
        audience.leave(0, 1);
        assert_eq!(lack(&audience, 10), [None, None, Some(9)]);
    }
}
