//! One incarnation of the relay: its shards, the lanes between them, and the run loop's part of the work.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;

use fastrand::Rng;
use relay::budget::Budget;
use relay::chain::VISIT_BYTES_MAX;
use relay::ids::{Origin, SessionId};
use relay::mesh::{Answer, Answered, Ask, Asked, Mesh};
use relay::shard::{Setup, Shard, halfway_bytes_max};
use storage::Store;

use crate::disk::Disk;
use crate::env::Env;
use crate::sabotage::Sabotage;
use crate::socket::Socket;

/// Slots of a simulated ring; few, so that they are taken again soon.
const RINGS: usize = 2;
/// Bytes of one receive.
const RECEIVE_BYTES_MAX: usize = 2048;
/// A ring stops to receive within so many turns.
const EARLY_TURNS: u32 = 2;
/// Frames that a room may add to a lane at once.
const LANE_MESSAGES_SLACK: usize = 64;

/// A feed that may keep no more than this has only full-grown chunks, each of which begins with a copy of another's end.
const OVERLAPPING_BYTES_MAX: usize = 8192;

/// How far ahead of the latest time there was ids may go on after a crash, milliseconds.
const AHEAD_MS_MAX: u64 = 5_000;

/// The shards of a process and everything they own together.
pub struct Process {
    pub shards: Vec<Shard>,
    pub budget: Arc<Budget>,
    /// From shard, to shard.
    lanes: Vec<Vec<VecDeque<Mesh>>>,
    pub disk: Disk,
    /// Free slots of each shard: (ring, slot).
    free: Vec<Vec<(usize, u16)>>,
    next_slot: Vec<u16>,
    pub stopping: bool,
}

impl Process {
    pub fn start(env: &mut Env) -> Self {
        let shards = env.plan.shards;
        env.clock.restart();
        env.nonce = env.rng.u64(..);
        let store = env.oracle.store.clone();
        // Another node may take the logs over. Each has reserved ids of its own, so only a log's last id says where its go on.
        let nodes = &env.oracle.nodes;
        let node = env.rng.usize(..nodes.len());
        let reserved_ms = nodes[node].reserved_ids().expect("it never fails");
        let latest_ms = env.clock.latest_ms();
        assert!(reserved_ms < latest_ms + AHEAD_MS_MAX, "ids go on {} ms ahead", reserved_ms - latest_ms);
        let reservations = nodes[node].clone();
        let forget = env.sabotage == Some(Sabotage::ForgetIds);
        let budget = Budget::new(&env.plan.limits, shards);
        let apart = env.sabotage == Some(Sabotage::BudgetsApart);
        let setup = |shard| Setup {
            shard,
            shards,
            node: 3 + node as u16,
            ids_after_ms: if forget { 0 } else { reserved_ms },
            limits: env.plan.limits.clone(),
            budget: if apart { Budget::new(&env.plan.limits, shards) } else { budget.clone() },
            echo: false,
            period_us: env.plan.period_us,
            deflate_members_min: env.plan.deflate_members_min,
            nonce: env.nonce,
            seed: 7,
        };
        Self {
            shards: (0..shards).map(|shard| Shard::new(setup(shard))).collect(),
            budget: budget.clone(),
            lanes: (0..shards).map(|_| (0..shards).map(|_| VecDeque::new()).collect()).collect(),
            disk: Disk::new(store, reservations, shards, env.sabotage),
            free: vec![Vec::new(); shards],
            next_slot: vec![0; shards],
            stopping: false,
        }
    }

    /// A client connects: its socket waits for the shard's next turn.
    pub fn connect(&mut self, env: &mut Env, generation: u32) -> SessionId {
        let shard = env.rng.usize(..self.shards.len());
        let (ring, slot) = self.free[shard].pop().unwrap_or_else(|| {
            let next = self.next_slot[shard];
            self.next_slot[shard] += 1;
            (usize::from(next) % RINGS, next / RINGS as u16)
        });
        let id = SessionId::new(shard, ring, slot, generation);
        let refused = !env.calm && env.rng.u8(..50) == 0;
        let trickles = env.chance(env.plan.trickle_percent);
        env.sockets.insert(id, Socket::new(refused, trickles, env.rng.u32(..3)));
        id
    }

    /// One turn of a shard, with some or (when calm) all of its inputs.
    pub fn turn(&mut self, n: usize, env: &mut Env) {
        self.shards[n].begin(env.clock.now());
        let mut inputs = [0, 1, 2, 3];
        env.rng.shuffle(&mut inputs);
        for input in inputs {
            match input {
                0 => self.hear_sockets(n, env),
                1 => self.end_sends(n, env),
                2 => self.hear_shards(n, env),
                _ => self.hear_disk(n, env),
            }
        }
        self.shards[n].flush();
        self.carry_out(n, env);
        self.check_bounds(n, env);
        self.check_budget(env);
    }

    fn sockets_of(n: usize, env: &Env) -> Vec<SessionId> {
        env.sockets.iter().filter(|(id, socket)| id.shard() == n && !socket.server_closed).map(|(id, _)| *id).collect()
    }

    fn hear_sockets(&mut self, n: usize, env: &mut Env) {
        for id in Self::sockets_of(n, env) {
            let socket = env.sockets.get_mut(&id).expect("listed");
            if !socket.opened {
                socket.opened = true;
                self.shards[n].on_open(id, Some(Ipv4Addr::from_bits(socket.address).into()), !socket.refused);
            }
            if !env.calm && env.rng.u8(..3) == 0 {
                continue;
            }
            // What was on its way when the pause was asked for still comes.
            let is_early = socket.paused_turns < EARLY_TURNS && !env.calm && env.rng.bool();
            socket.paused_turns += u32::from(socket.paused);
            if socket.paused && !is_early && env.sabotage != Some(Sabotage::IgnorePause) {
                continue;
            }
            let most = if env.calm || env.rng.bool() { RECEIVE_BYTES_MAX } else { env.rng.usize(1..=200) };
            let mut bytes = socket.receive(most);
            if !bytes.is_empty() {
                self.shards[n].on_bytes(id, &mut bytes);
            } else if socket.client_gone {
                self.shards[n].on_ended(id, None);
            }
        }
    }

    fn end_sends(&mut self, n: usize, env: &mut Env) {
        let capacity = env.socket_bytes();
        for id in Self::sockets_of(n, env) {
            if !env.calm && env.rng.u8(..3) == 0 {
                continue;
            }
            let socket = env.sockets.get_mut(&id).expect("listed");
            if let Some(result) = socket.end_send(&mut env.rng, capacity, env.sabotage) {
                match &result {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => env.meet("a send that would block"),
                    _ => {}
                }
                self.shards[n].on_sent(id, result);
            } else if socket.wants_writable && socket.is_writable(capacity) {
                socket.wants_writable = false;
                self.shards[n].on_writable(id);
            }
        }
    }

    fn hear_shards(&mut self, n: usize, env: &mut Env) {
        for from in 0..self.lanes.len() {
            let waiting = self.lanes[from][n].len();
            let count = if env.calm { waiting } else { env.rng.usize(..=waiting) };
            for message in self.lanes[from][n].drain(..count) {
                env.trace.add(|| format!("  {from} to {n}: {}", brief(&message)));
                if let Mesh::Answer(Answered { answer: Answer::Joined { resume, head, backlog, .. }, .. }) = &message
                    && resume < head
                {
                    env.meet(if backlog.is_empty() { "a resume at once" } else { "a resume after a private piece" });
                }
                self.shards[n].on_mesh(message);
            }
        }
    }

    fn hear_disk(&mut self, n: usize, env: &mut Env) {
        let replies = &mut self.disk.replies[n];
        while !replies.is_empty() && (env.calm || env.rng.u8(..3) != 0) {
            let reply = replies.swap_remove(env.rng.usize(..replies.len()));
            self.shards[n].on_stored(reply);
        }
    }

    fn carry_out(&mut self, n: usize, env: &mut Env) {
        let outbox = &mut self.shards[n].turn.outbox;
        for (id, segment) in outbox.sends.drain(..) {
            env.trace.add(|| format!("  {n} sends {} bytes to {id:?}", segment.len()));
            env.sockets
                .get_mut(&id)
                .filter(|socket| !socket.server_closed)
                .expect("a send to an open socket")
                .send(segment);
        }
        for id in outbox.polls.drain(..) {
            let socket =
                env.sockets.get_mut(&id).filter(|socket| !socket.server_closed).expect("a poll of an open socket");
            assert!(!socket.wants_writable && !socket.is_sending(), "a poll while something is under way");
            socket.wants_writable = true;
        }
        for (id, wanted) in outbox.receives.drain(..) {
            if let Some(socket) = env.sockets.get_mut(&id) {
                assert!(socket.paused == wanted, "{id:?} is told twice whether to receive: {wanted}");
                (socket.paused, socket.paused_turns) = (!wanted, 0);
            }
        }
        for id in outbox.closes.drain(..) {
            env.trace.add(|| format!("  {n} closes {id:?}"));
            let socket =
                env.sockets.get_mut(&id).filter(|socket| !socket.server_closed).expect("an open socket is closed");
            socket.close_server(usize::MAX);
            if socket.client_gone {
                env.sockets.remove(&id);
            }
            self.free[n].push((id.ring(), id.slot()));
        }
        for request in outbox.store.drain(..) {
            self.disk.request(n, request, &mut env.rng);
        }
        for to in 0..outbox.mesh.len() {
            let lane = &mut self.lanes[n][to];
            let room = if env.calm { usize::MAX } else { env.plan.lane_messages.saturating_sub(lane.len()) };
            let outbox = &mut outbox.mesh[to];
            let count = outbox.len().min(room);
            if env.sabotage == Some(Sabotage::Overtake) {
                overtake(&mut outbox[..count]);
            }
            let moved = outbox.drain(..count).filter_map(|message| spoil(message, env.sabotage, &mut env.rng));
            lane.extend(moved);
        }
    }

    /// Invariant 9: what waits in memory is bounded.
    fn check_bounds(&mut self, n: usize, env: &mut Env) {
        let limits = &env.plan.limits;
        let gauges = self.shards[n].gauges();
        for messages in &self.shards[n].turn.outbox.mesh {
            let is_bounded = |message: &&Mesh| matches!(message, Mesh::Ask(_) | Mesh::Deliver { .. });
            let count = messages.iter().filter(is_bounded).count();
            let max = limits.lane_messages_max;
            assert!(count <= max + LANE_MESSAGES_SLACK, "invariant 9: {count} commands and frames wait, {max} may");
            if messages.len() >= max {
                *env.met.entry("a full lane").or_default() += 1;
            }
        }
        let (commands, max) = (gauges.commands, limits.commands_per_session_max);
        assert!(commands <= max, "invariant 9: {commands} commands of one connection are under way, {max} may");
        if gauges.paced_feeds > 0 {
            *env.met.entry("a paced feed").or_default() += 1;
        }
        if limits.feed_bytes_max <= OVERLAPPING_BYTES_MAX && gauges.chunks > 1 {
            *env.met.entry("a chunk that overlaps").or_default() += 1;
        }
        // What came at once, what came before the pause, what was read of it and not freed yet, and the rest of a message.
        let left_max = 2 * (2 + EARLY_TURNS as usize) * RECEIVE_BYTES_MAX + env.plan.limits.frame_bytes_max;
        let left = gauges.left_bytes;
        assert!(left <= left_max, "invariant 9: {left} bytes of one connection wait to be read");
        if left > 0 {
            env.meet("bytes that are read later");
        }
        let limits = &env.plan.limits;
        let page_messages = (limits.history_messages_max as usize).max(limits.recovery_messages_max as usize);
        // The largest reply, the short ones to the commands of one receive, and what is left of a visit.
        let page_bytes = page_messages * 300 + limits.replies_bytes_max + 2 * limits.body_bytes_max;
        let short_bytes = 4 * RECEIVE_BYTES_MAX;
        let (waiting, max) = (gauges.replies_bytes, limits.replies_bytes_max);
        assert!(
            waiting <= max + page_bytes + short_bytes + VISIT_BYTES_MAX,
            "invariant 9: {waiting} bytes of replies wait for one connection, {max} may"
        );
    }

    /// What all shards count of the relay's memory, bytes.
    pub fn memory_used(&self) -> i64 {
        self.shards.iter().map(Shard::memory_used).sum()
    }

    /// Invariant 9: all shards together keep within the budget.
    fn check_budget(&self, env: &mut Env) {
        let limits = env.plan.limits.clone();
        let rooms: usize = self.shards.iter().map(Shard::rooms).sum();
        assert!(rooms <= limits.max_rooms, "invariant 9: {rooms} rooms are in memory, {} may", limits.max_rooms);
        let (used, held) = (self.memory_used(), self.budget.held() as i64);
        assert!(used >= 0, "invariant 9: {used} bytes are counted");
        assert!(used <= held || env.sabotage.is_some(), "invariant 9: {used} bytes are used, {held} held");
        let connections: usize = self.shards.iter().map(|shard| shard.gauges().connections_bytes).sum();
        assert!(used >= connections as i64, "invariant 9: connections hold {connections} bytes and {used} are counted");
        for shard in &self.shards {
            let (bytes, max) = (shard.gauges().halfway_bytes, halfway_bytes_max(&limits, self.shards.len()));
            assert!(bytes <= max, "invariant 9: {bytes} bytes of messages are half-way, {max} may");
        }
        let max = limits.memory_bytes_max as i64;
        // What comes back from storage for commands that were admitted, and the first chunk of each chain.
        let opened = rooms * (limits.tail_bytes_max + limits.body_bytes_max + 1024);
        let chains = self.shards.len() * env.plan.rooms.len() * 4 * (limits.body_bytes_max * 2 + 64 * 1024);
        let slack = (opened + chains) as i64 + max / 8;
        assert!(used <= max + slack, "invariant 9: {used} bytes are in memory, {max} and {slack} may");
        if used > max / 2 {
            env.meet("a relay that is short of memory");
        }
        if self.disk.forgotten > 0 {
            env.meet("a read for somebody who is gone");
        }
        if rooms == limits.max_rooms {
            env.meet("a full table of rooms");
        }
    }

    /// A shard has something to do now.
    pub fn is_due(&self, n: usize, env: &Env) -> bool {
        let is_due = |socket: &Socket| {
            !socket.opened
                || (!socket.up.is_empty() && !socket.paused)
                || socket.is_sending()
                || socket.wants_writable
                || (socket.client_gone && !socket.paused)
        };
        let mut sockets = env.sockets.iter().filter(|(id, socket)| id.shard() == n && !socket.server_closed);
        self.lanes.iter().any(|lanes| !lanes[n].is_empty())
            || !self.disk.replies[n].is_empty()
            || sockets.any(|(_, socket)| is_due(socket))
            || self.shards[n].deadline_us() <= env.clock.now().us
    }

    /// The earliest time at which a shard wants a turn, microseconds of its clock.
    pub fn deadline_us(&self) -> u64 {
        self.shards.iter().map(Shard::deadline_us).min().unwrap_or(u64::MAX)
    }

    /// What is not done.
    pub fn left(&self) -> String {
        let lanes: Vec<String> = self.lanes.iter().flatten().flatten().map(brief).collect();
        let outboxes: Vec<String> =
            self.shards.iter().flat_map(|s| s.turn.outbox.mesh.iter().flatten()).map(brief).collect();
        format!("lanes {lanes:?}, outboxes {outboxes:?}, storage {}", self.disk.left())
    }

    pub fn is_idle(&self) -> bool {
        self.disk.is_idle()
            && self.lanes.iter().flatten().all(VecDeque::is_empty)
            && self.shards.iter().all(|shard| shard.turn.outbox.mesh.iter().all(Vec::is_empty))
    }
}

fn brief(message: &Mesh) -> String {
    match message {
        Mesh::Deliver { room, records, .. } => {
            format!("deliver {room} {:?}", records.iter().map(|record| record.seq).collect::<Vec<_>>())
        }
        Mesh::Answer(Answered { origin, room, answer }) => match answer {
            Answer::Joined { from, resume, head, .. } => format!("joined {room} {from}..{resume}..{head} {origin:?}"),
            Answer::Page { .. } => format!("page {room} {origin:?}"),
            other => format!("{other:?} {room} {origin:?}"),
        },
        Mesh::Ask(Asked { origin, room, ask: Ask::Publish { .. }, .. }) => format!("publish {room} {origin:?}"),
        other => format!("{other:?}"),
    }
}

/// Lets a publish overtake the one right before it, of the same connection in the same room.
fn overtake(messages: &mut [Mesh]) {
    let of = |message: &Mesh| match message {
        Mesh::Ask(Asked { origin: Origin::Session(session, _), room, ask: Ask::Publish { .. }, .. }) => {
            Some((*session, room.clone()))
        }
        _ => None,
    };
    if let Some(at) =
        (1..messages.len()).find(|&at| of(&messages[at]).is_some_and(|one| of(&messages[at - 1]) == Some(one)))
    {
        messages.swap(at - 1, at);
    }
}

/// What the harness breaks on purpose.
fn spoil(mut message: Mesh, sabotage: Option<Sabotage>, rng: &mut Rng) -> Option<Mesh> {
    let Some(sabotage) = sabotage else { return Some(message) };
    // Few joins resume: none of them is spared.
    let is_rare = matches!(&message, Mesh::Answer(Answered { answer: Answer::Joined { .. }, .. }));
    if !is_rare && rng.u8(..10) != 0 {
        return Some(message);
    }
    match (sabotage, &mut message) {
        (Sabotage::LoseDeliver, Mesh::Deliver { .. }) | (Sabotage::LoseLeave, Mesh::Leave { .. }) => return None,
        (Sabotage::LoseReply, Mesh::Answer(Answered { answer: Answer::Acked { .. } | Answer::Page { .. }, .. })) => {
            return None;
        }
        (
            Sabotage::WrongBoundary | Sabotage::ShortPiece,
            Mesh::Answer(Answered { answer: Answer::Joined { resume, head, backlog, .. }, .. }),
        ) if *resume < *head => match sabotage {
            Sabotage::WrongBoundary => *resume += 1,
            _ => drop(backlog.pop()),
        },
        (Sabotage::SwapRecords, Mesh::Deliver { records, .. }) if records.len() > 1 => {
            let mut swapped: Vec<_> = records.iter().map(|record| (**record).clone()).collect();
            let (front, back) = swapped.split_at_mut(1);
            std::mem::swap(&mut front[0].body, &mut back[0].body);
            *records = swapped.into_iter().map(Into::into).collect();
        }
        _ => {}
    }
    Some(message)
}
