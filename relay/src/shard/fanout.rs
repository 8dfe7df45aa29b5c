//! When members are visited: at once for small rooms, in paced sweeps for large ones.

use std::collections::VecDeque;
use std::mem;

use foldhash::HashSet;

use super::Shard;
use crate::ids::SessionId;
use crate::tempo::{CHUNK_VISITS, Load};

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
    pub(super) dirty: Vec<SessionId>,
}

impl Shard {
    /// Visits whoever is due, in small chunks: large rooms hold up nobody.
    pub(super) fn fan_out(&mut self) {
        for index in mem::take(&mut self.fanout.small) {
            while self.visit_next(index) {}
        }
        let enough = self.stats.visits + CHUNK_VISITS;
        while self.stats.visits < enough
            && let Some(&index) = self.fanout.large.front()
        {
            if !self.visit_next(index) {
                self.fanout.large.pop_front();
            }
        }
        self.sweep();
        self.visit_dirty();
    }

    /// When fan-out needs the next turn, microseconds.
    pub(super) fn next_fan_out_us(&self) -> u64 {
        let now_us = self.now.us;
        if !self.fanout.large.is_empty() {
            now_us
        } else if self.tempo.is_sweeping() {
            if self.tempo.due(now_us) > 0 { now_us } else { now_us + self.tempo.rest_us() }
        } else if self.fanout.sweep_wanted {
            self.tempo.next_sweep_us()
        } else {
            u64::MAX
        }
    }

    /// All members of this feed are visited as soon as possible.
    pub(super) fn serve_at_once(&mut self, index: u32) {
        let Some(feed) = &mut self.feeds[index as usize] else { return };
        let is_queued = feed.unvisited > 0;
        feed.unvisited = feed.members.len();
        if is_queued || feed.unvisited == 0 {
            return;
        }
        if feed.unvisited <= SMALL_MEMBERS {
            self.fanout.small.push(index);
        } else {
            self.fanout.large.push_back(index);
        }
    }

    /// Visits the next member of a feed in turn; false when everybody was visited since its last frame.
    fn visit_next(&mut self, index: u32) -> bool {
        let Some(id) = self.feeds[index as usize].as_mut().and_then(|feed| feed.next_unvisited()) else { return false };
        self.visit(id);
        true
    }

    /// Visits the sessions that have something of their own to send.
    fn visit_dirty(&mut self) {
        let mut list = mem::take(&mut self.fanout.dirty);
        for id in list.drain(..) {
            if let Some(session) = self.sessions.get(id) {
                session.dirty = false;
                self.visit(id);
                self.recount(id);
            }
        }
        // A visit can mark its session again (a gap that is answered); those are served in the next turn.
        list.append(&mut self.fanout.dirty);
        self.fanout.dirty = list;
    }

    /// Serves the next chunk of the sweep. It goes by slot, not by room: the kernel's memory of neighbouring sockets
    /// lies side by side, and a visit to a socket far away costs half as much again.
    fn sweep(&mut self) {
        if self.fanout.sweep_wanted && self.tempo.sweep_is_due(self.now.us) {
            self.fanout.sweep_wanted = false;
            self.fanout.sweep_at = (0, 0);
            self.tempo.begin(self.now.us, self.sessions.slots());
            self.stats.sweeps += 1;
        }
        let (due, visits) = (self.tempo.due(self.now.us), self.stats.visits);
        let mut looked_at = 0;
        while looked_at < due && self.stats.visits - visits < CHUNK_VISITS {
            if let Some(id) = self.sessions.walk(&mut self.fanout.sweep_at) {
                self.visit(id);
            }
            looked_at += 1;
        }
        self.stats.swept += self.stats.visits - visits;
        self.tempo.advance(looked_at);
    }

    /// Which feeds are served in sweeps, from their rates.
    pub(super) fn pace_feeds(&mut self, elapsed_us: u64) {
        self.tempo.measure(self.now.us, self.now.cpu_us, self.stats.visits);
        let (mut loads, mut messages) = (Vec::new(), 0);
        for (feed, index) in self.feeds.iter_mut().zip(0..) {
            if let Some(feed) = feed {
                messages += feed.recent;
                feed.rate.measure(mem::take(&mut feed.recent), elapsed_us);
                loads.push(Load::new(index, feed.members.len(), &feed.rate));
            }
        }
        let paced: HashSet<u32> = self.tempo.plan(loads, messages, elapsed_us).iter().map(|load| load.feed).collect();
        for index in 0..self.feeds.len() as u32 {
            let Some(feed) = &mut self.feeds[index as usize] else { continue };
            let was_paced = mem::replace(&mut feed.paced, paced.contains(&index));
            self.fanout.sweep_wanted |= feed.paced;
            if was_paced && !feed.paced {
                // Members that wait for a sweep are served now.
                self.serve_at_once(index);
            }
        }
    }
}
