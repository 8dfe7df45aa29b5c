//! When members are visited: at once for small rooms, in paced sweeps for large ones.

use std::collections::VecDeque;
use std::mem;

use foldhash::HashSet;

use super::Front;
use crate::feed::Feed;
use crate::ids::SessionId;
use crate::session::Session;
use crate::shard::turn::Turn;
use crate::tempo::{CHUNK_VISITS, Load, Tempo};

/// A feed with so few members is served whole, before all larger ones.
const SMALL_MEMBERS: usize = 32;

/// Whom to visit next.
#[derive(Debug, Default)]
pub(super) struct Fanout {
    /// Feeds that got frames and are served at once, the small ones first.
    small: Vec<u32>,
    large: VecDeque<u32>,
    /// Ring and slot that the sweep under way looks at next.
    sweep_at: (usize, usize),
    /// A paced feed got frames that no sweep has begun to serve.
    pub(super) sweep_wanted: bool,
    /// Sessions with something to send that nobody else will come by for.
    dirty: Vec<SessionId>,
}

impl Fanout {
    /// The session has something to send: it is looked at before the turn ends.
    pub(super) fn mark(&mut self, session: &mut Session) {
        if !mem::replace(&mut session.dirty, true) {
            self.dirty.push(session.id);
        }
    }

    /// A feed got frames.
    pub(super) fn serve(&mut self, index: u32, feed: &mut Feed) {
        if feed.paced {
            self.sweep_wanted = true;
        } else {
            self.serve_at_once(index, feed);
        }
    }

    /// All members of this feed are visited as soon as possible.
    fn serve_at_once(&mut self, index: u32, feed: &mut Feed) {
        let is_queued = feed.unvisited > 0;
        feed.unvisited = feed.members.len();
        if is_queued || feed.unvisited == 0 {
            return;
        }
        if feed.unvisited <= SMALL_MEMBERS {
            self.small.push(index);
        } else {
            self.large.push_back(index);
        }
    }

    /// When members are to be visited next, microseconds.
    pub(super) fn next_us(&self, tempo: &Tempo, now_us: u64) -> u64 {
        if self.large.is_empty() { tempo.next_visits_us(now_us, self.sweep_wanted) } else { now_us }
    }
}

impl Front {
    /// Visits whoever is due, in small chunks: large rooms hold up nobody.
    pub(in crate::shard) fn fan_out(&mut self, turn: &mut Turn) {
        for index in mem::take(&mut self.fanout.small) {
            while self.visit_next(turn, index) {}
        }
        let enough = turn.stats.visits + CHUNK_VISITS;
        while turn.stats.visits < enough
            && let Some(&index) = self.fanout.large.front()
        {
            if !self.visit_next(turn, index) {
                self.fanout.large.pop_front();
            }
        }
        self.sweep(turn);
        self.visit_dirty(turn);
    }

    /// Visits the next member of a feed in turn; false when everybody was visited since its last frame.
    fn visit_next(&mut self, turn: &mut Turn, index: u32) -> bool {
        let Some(id) = self.feeds.get_mut(index).and_then(Feed::next_unvisited) else { return false };
        self.visit(turn, id);
        true
    }

    /// Visits the sessions that have something of their own to send.
    fn visit_dirty(&mut self, turn: &mut Turn) {
        let mut list = mem::take(&mut self.fanout.dirty);
        for id in list.drain(..) {
            if let Some(session) = self.sessions.get(id) {
                session.dirty = false;
                self.visit(turn, id);
                self.recount(turn, id);
            }
        }
        // A visit can mark its session again (a gap that is answered); those are served in the next turn.
        list.append(&mut self.fanout.dirty);
        self.fanout.dirty = list;
    }

    /// Serves the next chunk of the sweep. It goes by slot, not by room: the kernel's memory of neighbouring sockets
    /// lies side by side, and a visit to a socket far away costs half as much again.
    fn sweep(&mut self, turn: &mut Turn) {
        if self.fanout.sweep_wanted && self.tempo.sweep_is_due(turn.now.us) {
            self.fanout.sweep_wanted = false;
            self.fanout.sweep_at = (0, 0);
            self.tempo.begin(turn.now.us, self.sessions.slots());
            turn.stats.sweeps += 1;
        }
        let (due, visits) = (self.tempo.due(turn.now.us), turn.stats.visits);
        let mut looked_at = 0;
        while looked_at < due && turn.stats.visits - visits < CHUNK_VISITS {
            if let Some(id) = self.sessions.walk(&mut self.fanout.sweep_at) {
                self.visit(turn, id);
            }
            looked_at += 1;
        }
        turn.stats.swept += turn.stats.visits - visits;
        self.tempo.advance(looked_at);
    }

    /// Which feeds are served in sweeps, from their rates.
    pub(in crate::shard) fn pace_feeds(&mut self, turn: &mut Turn, elapsed_us: u64) {
        self.tempo.measure(turn.now.us, turn.now.cpu_us, turn.stats.visits);
        let (mut loads, mut messages) = (Vec::new(), 0);
        for (index, feed) in self.feeds.iter_mut() {
            messages += feed.recent;
            feed.rate.measure(mem::take(&mut feed.recent), elapsed_us);
            loads.push(Load::new(index, feed.members.len(), &feed.rate));
        }
        let paced: HashSet<u32> = self.tempo.plan(loads, messages, elapsed_us).iter().map(|load| load.feed).collect();
        for (index, feed) in self.feeds.iter_mut() {
            let was_paced = mem::replace(&mut feed.paced, paced.contains(&index));
            self.fanout.sweep_wanted |= feed.paced;
            if was_paced && !feed.paced {
                // Members that wait for a sweep are served now.
                self.fanout.serve_at_once(index, feed);
            }
        }
    }
}
