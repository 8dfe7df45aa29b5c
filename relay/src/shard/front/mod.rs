//! The connections of a shard: what they say goes to the owners of rooms, and what these answer and deliver goes to them.
//!
//! A table of contents, in the order of a message: [`intake`] says whose bytes are read in a turn, [`request`] and [`frames`]
//! take them apart, [`command`] checks commands, [`order`] lets them go on in their order. [`member`] takes what owners
//! answer and deliver, [`feeds`] makes frames of it, [`replies`] keeps what goes to one connection alone. [`fanout`] says
//! when each is visited, [`sending`] what it is sent then. [`closing`] ends connections, [`timeouts`] those that were silent
//! or slow for too long, and [`holdings`] counts what each holds in memory.

mod closing;
mod command;
mod fanout;
mod feeds;
mod frames;
mod holdings;
mod intake;
mod member;
mod order;
mod replies;
mod request;
mod sending;
mod timeouts;

use std::net::IpAddr;

use protocol::frame::Inflater;

pub use self::holdings::halfway_bytes_max;
pub use self::request::{FULL, FULL_RETRY_S};
use super::turn::{Setup, Turn};
use crate::deflation::Deflation;
use crate::feed::Feed;
use crate::ids::SessionId;
use crate::session::{Session, Sessions};
use crate::tempo::Tempo;

/// A shard's connections.
pub(super) struct Front {
    pub(super) sessions: Sessions,
    pub(super) feeds: feeds::Feeds,
    pub(super) held: holdings::Holdings,
    fanout: fanout::Fanout,
    pub(super) tempo: Tempo,
    /// Commands sent to owners whose answer has not come: each gets exactly one.
    unanswered: u64,
    /// Connections that are not one too many.
    pub(super) admitted: usize,
    random: fastrand::Rng,
    deflation: Deflation,
    /// Out while a message it inflated is at work.
    inflater: Option<Inflater>,
}

/// What is most on one shard, and what there is in all: for those who check bounds.
#[derive(Debug, Default, Clone, Copy)]
pub struct Gauges {
    /// Feeds served in sweeps.
    pub paced_feeds: usize,
    /// Chunks of the longest chain of frames.
    pub chunks: usize,
    /// Most bytes that wait for one connection alone or are on their way to it alone.
    pub replies_bytes: usize,
    /// Most bytes of one connection that wait to be read.
    pub left_bytes: usize,
    /// Most commands under way of one connection.
    pub commands: usize,
    /// What all connections hold for themselves, counted anew, bytes.
    pub connections_bytes: usize,
    /// What of that is half-way, bytes.
    pub halfway_bytes: usize,
}

impl Front {
    pub(super) fn new(setup: &Setup) -> Self {
        Self {
            sessions: Sessions::default(),
            feeds: feeds::Feeds::default(),
            held: holdings::Holdings::new(&setup.limits, setup.shards),
            fanout: fanout::Fanout::default(),
            tempo: setup.period_us.map_or_else(Tempo::new, Tempo::fixed),
            unanswered: 0,
            admitted: 0,
            random: fastrand::Rng::with_seed(setup.seed),
            deflation: Deflation::new(),
            inflater: None,
        }
    }

    pub(super) fn on_open(&mut self, turn: &mut Turn, id: SessionId, peer: Option<IpAddr>, admitted: bool) {
        turn.stats.opened += 1;
        let mut session = Session::new(id, peer, turn.setup.limits.frame_bytes_max, turn.now.ds());
        session.refused = !admitted;
        self.admitted += usize::from(admitted);
        self.sessions.open(session);
    }

    /// When the next turn is due, microseconds.
    pub(super) fn deadline_us(&self, now_us: u64) -> u64 {
        self.fanout.next_us(&self.tempo, now_us).min(self.held.intake.next_us(now_us))
    }

    /// Somebody waits for an owner's answer, for what is made of one, or to be read.
    pub(super) fn is_awaited(&self) -> bool {
        self.unanswered > 0 || !self.held.intake.is_empty() || !self.held.replies.is_empty()
    }

    pub(super) fn gauges(&self) -> Gauges {
        let sessions = || self.sessions.slice(0, 1);
        let (connections_bytes, halfway_bytes) = self.held.count(sessions());
        let pipelines = sessions().filter_map(|session| session.pipeline.as_ref());
        Gauges {
            paced_feeds: self.feeds.iter().filter(|feed| feed.paced).count(),
            chunks: self.feeds.iter().map(Feed::chunks).max().unwrap_or(0),
            replies_bytes: sessions().map(|session| self.held.replies.owed_bytes(session)).max().unwrap_or(0),
            left_bytes: self.held.intake.left_bytes(),
            commands: pipelines.map(|pipeline| pipeline.commands()).max().unwrap_or(0),
            connections_bytes,
            halfway_bytes,
        }
    }
}

#[cfg(test)]
mod tests;
