//! One core's part of the relay, as a plain synchronous value: what happened goes in, effects come out.
//!
//! A table of contents. [`intake`] says whose bytes are read in a turn, [`frames`] takes them apart, [`command`] checks
//! commands and [`order`] lets them go on in their order, [`owner`] runs the rooms this shard owns, which [`table`]
//! finds, loads and forgets, [`member`] serves the members connected here, [`backlog`] what is sent to one of them alone
//! in pieces, [`holdings`] counts what each connection holds, [`fanout`] says when each is visited, [`upkeep`] is what
//! time alone causes. `session`, `room` and `feed` do the work. No I/O, no clock, no runtime: the run loop and the
//! simulation drive it the same way.

mod backlog;
mod command;
mod fanout;
mod frames;
mod holdings;
mod intake;
mod member;
mod order;
mod outbox;
mod owner;
mod page;
mod stats;
mod table;
mod upkeep;

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use protocol::frame::Inflater;
use protocol::snowflake::Snowflake;

pub use self::command::{FULL, FULL_RETRY_S};
pub use self::holdings::halfway_bytes_max;
pub use self::outbox::{Found, Outbox, StoreReply, StoreRequest, Unread, Wanted};
pub use self::stats::Stats;
use crate::budget::{Budget, Share, Use};
use crate::config::Limits;
use crate::deflation::Deflation;
use crate::feed::Feed;
use crate::ids::SessionId;
use crate::mesh::{Asked, Mesh};
use crate::rate::Rate;
use crate::session::{Session, Sessions};
use crate::tempo::Tempo;

/// What time it is. The caller reads the clocks once per turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    /// Monotonic, microseconds since the shard began.
    pub us: u64,
    /// Milliseconds since 1970; may step back.
    pub wall_ms: u64,
    /// CPU time of the shard's thread, microseconds, ever rising.
    pub cpu_us: u64,
}

impl Now {
    /// Tenths of a second since the shard began, never 0.
    fn ds(self) -> u32 {
        (self.us / 100_000) as u32 + 1
    }
    fn s(self) -> u32 {
        (self.us / 1_000_000) as u32
    }
}

/// Who a shard is and what it may use.
#[derive(Debug, Clone)]
pub struct Setup {
    pub shard: usize,
    pub shards: usize,
    pub node: u16,
    /// Ids up to this time may have been given out before, milliseconds since 1970.
    pub ids_after_ms: u64,
    pub limits: Limits,
    /// What all shards together may hold in memory.
    pub budget: Arc<Budget>,
    /// Serve `/echo` for conformance suites, instead of the dialects.
    pub echo: bool,
    /// Sweep all rooms at this period, microseconds, instead of adapting to the load (for simulations).
    pub period_us: Option<u64>,
    /// [`crate::deflation::MEMBERS_MIN`], except in simulations, which have fewer members.
    pub deflate_members_min: u32,
    /// Drawn when the process starts: it makes the ids of connections others than those of an earlier process.
    pub nonce: u64,
    /// Seeds generated user names and reconnect hints.
    pub seed: u64,
}

/// One core's part of the relay. Lives on its core and is never shared.
pub struct Shard {
    setup: Setup,
    rate: Rate,
    /// This shard's account of the relay's memory.
    memory: Share,
    now: Now,
    sessions: Sessions,
    feeds: Vec<Option<Box<Feed>>>,
    free_feeds: Vec<u32>,
    feed_of: HashMap<Arc<str>, u32>,
    rooms: table::Rooms,
    openers: table::Openers,
    /// Rooms with pending publishes and no append on its way.
    ready: Vec<u32>,
    /// Rooms with durable messages that are not visible yet.
    uncut: Vec<u32>,
    /// Rooms with a core whose lane was full.
    behind: Vec<u32>,
    ids: Snowflake,
    tempo: Tempo,
    fanout: fanout::Fanout,
    intake: intake::Intake,
    backlogs: HashMap<SessionId, backlog::Waiting>,
    halfway: holdings::Halfway,
    halfway_bytes_max: usize,
    /// What any connection may hold, bytes.
    share_bytes: usize,
    /// Commands that wait for reads of storage.
    readers: usize,
    /// Commands sent to owners whose reply has not come: each gets exactly one.
    unanswered: u64,
    /// Connections that are not one too many.
    admitted: usize,
    /// Messages to this shard itself.
    local: VecDeque<Mesh>,
    upkeep: upkeep::Upkeep,
    random: fastrand::Rng,
    deflation: Deflation,
    /// Out while a message it inflated is at work.
    inflater: Option<Inflater>,
    pub outbox: Outbox,
    pub stats: Stats,
}

impl Shard {
    pub fn new(setup: Setup) -> Self {
        let limits = &setup.limits;
        Self {
            rate: Rate { per_s: limits.user_publish_rate, burst: limits.publish_burst },
            memory: Share::new(&setup.budget),
            now: Now::default(),
            sessions: Sessions::default(),
            feeds: Vec::new(),
            free_feeds: Vec::new(),
            feed_of: HashMap::new(),
            rooms: table::Rooms::default(),
            openers: table::Openers::new(limits, setup.shards, setup.seed),
            ready: Vec::new(),
            uncut: Vec::new(),
            behind: Vec::new(),
            ids: Snowflake::new(setup.node, setup.shard as u16, setup.ids_after_ms),
            tempo: setup.period_us.map_or_else(Tempo::new, Tempo::fixed),
            fanout: fanout::Fanout::default(),
            intake: intake::Intake::default(),
            backlogs: HashMap::new(),
            halfway: holdings::Halfway::default(),
            halfway_bytes_max: holdings::halfway_bytes_max(limits, setup.shards),
            share_bytes: holdings::share_bytes(limits),
            readers: 0,
            unanswered: 0,
            admitted: 0,
            local: VecDeque::new(),
            upkeep: upkeep::Upkeep::default(),
            random: fastrand::Rng::with_seed(setup.seed),
            deflation: Deflation::new(),
            inflater: None,
            outbox: Outbox::new(setup.shards),
            stats: Stats::default(),
            setup,
        }
    }

    /// Begins a turn: everything until [`Shard::flush`] happens at this time.
    pub fn begin(&mut self, now: Now) {
        debug_assert!(now.us >= self.now.us, "monotonic time ran backwards");
        self.now = now;
        self.intake.begin();
    }

    /// A connection was accepted, from this address (any number that stands for it); one that is not `admitted` is one
    /// too many and answered 503.
    pub fn on_open(&mut self, id: SessionId, address: u32, admitted: bool) {
        self.stats.opened += 1;
        let mut session = Session::new(id, self.setup.limits.frame_bytes_max, self.now.ds());
        session.address = address;
        session.refused = !admitted;
        self.admitted += usize::from(admitted);
        self.sessions.open(session);
    }

    /// Handing so many sends of so many bytes in all to the kernel took so much of the thread's CPU time, nanoseconds.
    pub fn on_spent(&mut self, sends: usize, bytes: usize, cpu_ns: u64) {
        self.tempo.sent(sends, bytes, cpu_ns);
    }

    /// A message from another shard.
    pub fn on_mesh(&mut self, message: Mesh) {
        self.memory.give(message.bytes());
        match message {
            Mesh::Ask(asked) => self.on_ask(asked),
            Mesh::Answer(answered) => self.on_answer(answered),
            Mesh::Leave { room, core, user } => self.on_leave(&room, core, user),
            Mesh::Deliver { room, records } => self.on_deliver(&room, &records),
        }
    }

    /// Sends a command to the owner of its room; one answer will come.
    fn ask(&mut self, owner: usize, asked: Asked) {
        self.unanswered += 1;
        self.post(owner, Mesh::Ask(asked));
    }

    /// Sends to a shard, this one included.
    fn post(&mut self, shard: usize, message: Mesh) {
        self.memory.add(message.bytes());
        if shard == self.setup.shard {
            self.local.push_back(message);
        } else {
            self.outbox.mesh[shard].push(message);
        }
    }

    /// There is no room for commands and frames in the lane to this shard; replies still wait in the outbox.
    fn lane_is_full(&self, shard: usize) -> bool {
        let waiting = if shard == self.setup.shard { self.local.len() } else { self.outbox.mesh[shard].len() };
        waiting >= self.setup.limits.lane_messages_max
    }

    /// The relay is short of memory: what this lane holds is taken first.
    fn lane_must_wait(&self, shard: usize) -> bool {
        shard != self.setup.shard && !self.outbox.mesh[shard].is_empty() && !self.memory.allows(Use::Work, 0)
    }

    /// Ends a turn: does what is due and leaves all effects in the outbox. To be called once after the inputs.
    pub fn flush(&mut self) {
        self.read_left_overs();
        self.give_up_halfway();
        self.keep_up();
        while let Some(message) = self.local.pop_front() {
            self.on_mesh(message);
        }
        self.form_appends();
        self.cut_due();
        while let Some(message) = self.local.pop_front() {
            self.on_mesh(message);
        }
        self.fan_out();
    }

    /// When the next turn is due even if nothing happens, microseconds on the clock of [`Now::us`].
    pub fn deadline_us(&self) -> u64 {
        let mut at = if self.upkeep.is_stopping() { self.now.us + 1000 } else { self.upkeep.next_us() };
        at = at.min(self.next_fan_out_us()).min(self.intake.next_us(self.now.us));
        if !self.uncut.is_empty() {
            at = at.min(self.next_cut_us());
        }
        if !self.behind.is_empty() {
            at = at.min(self.now.us + 1000);
        }
        at
    }

    /// Connections that count towards the limit.
    pub fn connections(&self) -> usize {
        self.admitted
    }

    /// Rooms in memory that this shard owns.
    pub fn rooms(&self) -> usize {
        self.rooms.len()
    }

    /// Rooms with members connected here, or about to be.
    pub fn feeds(&self) -> usize {
        self.feed_of.len()
    }

    /// Feeds served in sweeps.
    pub fn paced_feeds(&self) -> usize {
        self.feeds.iter().flatten().filter(|feed| feed.paced).count()
    }

    /// Chunks of the longest chain of frames.
    pub fn chunks(&self) -> usize {
        self.feeds.iter().flatten().map(|feed| feed.chunks()).max().unwrap_or(0)
    }

    /// Most bytes that wait for one connection alone or are on their way to it alone.
    pub fn replies_bytes(&self) -> usize {
        self.sessions.slice(0, 1).map(|session| self.owed_bytes(session)).max().unwrap_or(0)
    }

    /// Most bytes of one connection that wait to be read.
    pub fn left_bytes(&self) -> usize {
        self.intake.left_bytes()
    }

    /// Most commands under way of one connection.
    pub fn commands(&self) -> usize {
        let pipelines = self.sessions.slice(0, 1).filter_map(|session| session.pipeline.as_ref());
        pipelines.map(|pipeline| pipeline.commands()).max().unwrap_or(0)
    }

    /// What this shard has added to the relay's memory and not given back, bytes; less than none where it gave back what
    /// others had added.
    pub fn memory_used(&self) -> i64 {
        self.memory.used()
    }

    /// How often members are visited now.
    pub fn tempo(&self) -> &Tempo {
        &self.tempo
    }
}
