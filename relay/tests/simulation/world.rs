//! The scheduler: whose turn it is, what goes wrong, and when it all becomes calm and is checked.

use std::collections::BTreeMap;
use std::rc::Rc;

use fastrand::Rng;
use protocol::frame::Deflater;
use protocol::{Dialect, Page};
use storage::FaultyStore;

use crate::client::Client;
use crate::env::{Clock, Env, Met, Trace};
use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::process::Process;
use crate::sabotage::Sabotage;
use crate::socket::Socket;

/// After the last disturbance, everything must have arrived within this time, microseconds.
const CALM_US: u64 = 5_000_000;
/// What was sent at the end of a calm has arrived after this time, microseconds.
const LAST_PING_US: u64 = 100_000;
/// Storage tries to do so much between two turns when it is calm.
const DISK_STEPS: usize = 20;
/// A room that nobody uses is forgotten within this time, microseconds.
const FORGOTTEN_US: u64 = 66_000_000;
/// Simulated time within which no dedupe window can have passed, microseconds.
const WINDOW_US: u64 = 200_000_000;

/// One simulation.
pub struct World {
    env: Env,
    clients: Vec<Client>,
    process: Option<Process>,
    generation: u32,
}

impl World {
    pub fn new(seed: u64, sabotage: Option<Sabotage>, trace: Trace) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::of(&mut rng);
        let epoch = rng.u64(1..1 << 48);
        let store = Rc::new(FaultyStore::new(epoch));
        let dialect = |rng: &mut Rng, json: bool| match rng.bool() {
            _ if json => Dialect::Centrifuge,
            true => Dialect::NativeParts,
            false => Dialect::Native,
        };
        let clients = (0..plan.clients)
            .map(|n| {
                let json = rng.u32(..100) < plan.json_percent;
                Client::new(n, plan.users, dialect(&mut rng, json))
            })
            .collect();
        let mut env = Env {
            rng,
            sabotage,
            nonce: 0,
            clock: Clock::default(),
            sockets: BTreeMap::new(),
            oracle: Oracle::new(store, epoch),
            deflater: Deflater::new(1),
            inflater: None,
            calm: false,
            met: Met::new(),
            trace,
            plan,
        };
        env.trace.add(|| format!("{:#?}", env.plan));
        Self { env, clients, process: None, generation: 0 }
    }

    /// Runs it to its end; panics when an invariant does not hold.
    pub fn run(mut self) -> (Met, Trace) {
        for _ in 0..self.env.plan.rounds {
            self.start();
            for _ in 0..self.env.plan.steps_per_round {
                self.step();
            }
            match self.env.rng.u8(..3) {
                0 if self.env.plan.crashes => self.crash(),
                1 => self.stop(),
                _ => self.calm_down(),
            }
        }
        self.start();
        self.calm_down();
        self.audit();
        self.speak_everywhere();
        self.all_leave();
        self.env.meet("a whole simulation");
        *self.env.met.entry("an ack").or_default() += self.env.oracle.acks() as u64;
        (self.env.met, self.env.trace)
    }

    fn start(&mut self) {
        if self.process.is_some() {
            return;
        }
        if self.generation > 0 && self.env.rng.bool() {
            self.env.plan.shards = self.env.rng.usize(1..=4);
        }
        let shards = self.env.plan.shards;
        self.env.trace.add(|| format!("a process of {shards} shards starts"));
        self.process = Some(Process::start(&mut self.env));
    }

    fn step(&mut self) {
        let Self { env, clients, process, generation } = self;
        match env.rng.u32(..1000) {
            0..400 => {
                let client = env.rng.usize(..clients.len());
                *generation += 1;
                clients[client].act(process.as_mut(), *generation, env);
            }
            400..550 => {
                let Some(process) = process else { return };
                if env.rng.u32(..env.plan.storage_rest) == 0 {
                    let faults = env.plan.fault_percent;
                    let wall_ms = env.clock.wall_ms();
                    process.disk.step(&mut env.rng, &env.plan, wall_ms, faults);
                }
            }
            550 if env.plan.wall_steps_back => env.clock.step_back(env.rng.u64(..5_000)),
            552 => {
                env.trace.add(|| "half of the clients vanish".to_owned());
                for client in clients {
                    if env.rng.bool() {
                        client.go(env);
                    }
                }
            }
            553 if env.plan.expires => Self::expire(env, process.as_ref()),
            551 if env.plan.jump_ms_max > 0 => {
                let us = env.rng.u64(..env.plan.jump_ms_max * 1000);
                env.clock.pass(us, &mut env.rng);
            }
            _ => {
                let Some(process) = process else { return };
                let us = env.rng.u64(..env.plan.turn_us_max);
                env.clock.pass(us, &mut env.rng);
                let shard = env.rng.usize(..process.shards.len());
                process.turn(shard, env);
            }
        }
        self.env.oracle.windows_passed |= self.env.clock.us > WINDOW_US;
    }

    /// The oldest messages of a room are not kept any longer, often none of them is; or those of a time when messages were
    /// kept for less long than before.
    fn expire(env: &mut Env, process: Option<&Process>) {
        let room = env.plan.rooms[env.rng.usize(..env.plan.rooms.len())].clone();
        if process.is_some_and(|process| process.disk.is_writing(&room)) {
            return;
        }
        let end = env.oracle.head(&room) + 1;
        let before = if env.rng.u8(..4) == 0 { end } else { env.rng.u64(1..=end) };
        let from = if env.rng.bool() { 1 } else { env.rng.u64(1..=before) };
        env.trace.add(|| format!("{room} expires from {from} to before {before}"));
        let what = match (from, before) {
            (_, before) if before == end => "an expired log",
            (1, _) => "an expiry",
            _ => "an expiry behind messages that are kept",
        };
        env.meet(what);
        env.oracle.expire(&room, from..before);
    }

    /// Everything in memory is gone; what was on its way to clients may or may not arrive.
    fn crash(&mut self) {
        self.env.meet("a crash");
        self.env.trace.add(|| "crash".to_owned());
        self.process = None;
        let rng = &mut self.env.rng;
        for socket in self.env.sockets.values_mut().filter(|socket| !socket.server_closed) {
            socket.close_server(rng.usize(..=socket.down.len()));
        }
        self.env.sockets.retain(|_, socket| !(socket.client_gone && socket.server_closed));
        let store = self.env.oracle.store.clone();
        let rng = &mut self.env.rng;
        store.crash(|_| rng.bool());
        if self.env.sabotage == Some(Sabotage::ForgetIds) {
            let lived_ms = self.env.clock.now().us / 1000;
            self.env.clock.step_back(lived_ms);
        }
        self.env.oracle.check_logs(&self.env.plan.rooms);
    }

    /// A graceful stop: it ends by itself, within its bound when storage works.
    fn stop(&mut self) {
        self.env.meet("a stop");
        self.env.trace.add(|| "stop".to_owned());
        let began_us = self.env.clock.us;
        let calm = self.env.rng.bool();
        // Nothing that was not stored by now ever will be.
        let lost = calm && self.env.rng.u8(..3) == 0;
        let process = self.process.as_mut().expect("it runs");
        process.stopping = true;
        process.disk.lost = lost;
        if calm && !lost {
            // What was asked for by now is answered before anybody is sent away.
            self.env.calm = true;
            while self.env.sockets.values().any(|socket| !socket.up.is_empty() && !socket.paused) {
                (0..process.shards.len()).for_each(|shard| process.turn(shard, &mut self.env));
            }
        }
        for client in &mut self.clients {
            let socket = client.conn.as_ref().and_then(|conn| self.env.sockets.get(&conn.id));
            client.owed = calm && !lost && socket.is_some_and(|socket| !socket.server_closed && socket.up.is_empty());
        }
        for shard in &mut process.shards {
            shard.begin(self.env.clock.now());
            shard.stop();
            if lost {
                shard.await_nothing();
            }
        }
        // Without storage there is nothing to wait for, which otherwise takes half of the time.
        let bound_us = self.env.plan.limits.shutdown_timeout_ms * if lost { 250 } else { 1000 };
        while self.env.clock.us < began_us + bound_us {
            if self.process.as_ref().expect("it runs").shards.iter().all(relay::shard::Shard::is_stopped) {
                self.env.meet(if lost { "a stop without storage" } else { "a stop that ended by itself" });
                self.process.as_ref().expect("it runs").disk.stop();
                break;
            }
            if calm {
                self.env.calm = true;
                self.calm_turns();
            } else {
                self.step();
            }
            self.env.calm = false;
        }
        let shards = &self.process.as_ref().expect("it runs").shards;
        let is_stopped = shards.iter().all(relay::shard::Shard::is_stopped);
        let is_polite = self.clients.iter().all(|client| !client.is_rude());
        assert!(!calm || is_stopped || !is_polite, "a calm relay did not stop in time");
        self.env.calm = false;
        self.clients.iter_mut().for_each(|client| client.owed = false);
        self.crash();
    }

    /// Nothing goes wrong any more: everything must arrive, and is checked.
    fn calm_down(&mut self) {
        self.clients.iter_mut().for_each(|client| client.cease(&mut self.env));
        self.calm(CALM_US);
        self.env.trace.add(|| "calm".to_owned());
        let process = self.process.as_ref().expect("it runs");
        assert!(
            process.is_idle(),
            "invariant 7: messages between shards or requests to storage are left: {}",
            process.left()
        );
        for (id, socket) in &self.env.sockets {
            assert!(socket.is_quiet(), "invariant 7: {id:?} is not quiet");
        }
        for client in &self.clients {
            client.check_calm(&mut self.env);
        }
        self.env.oracle.check_logs(&self.env.plan.rooms);
    }

    fn calm(&mut self, us: u64) {
        self.env.calm = true;
        let end_us = self.env.clock.us + us;
        // Pings that were due at the very end arrive, too.
        let is_quiet = |env: &Env| env.sockets.values().all(Socket::is_quiet);
        while self.env.clock.us < end_us || (!is_quiet(&self.env) && self.env.clock.us < end_us + LAST_PING_US) {
            self.calm_turns();
        }
        self.env.calm = false;
    }

    /// Everybody does everything there is to do; when there was nothing, time passes until something is due.
    fn calm_turns(&mut self) {
        let Self { env, clients, process, .. } = self;
        let process = process.as_mut().expect("it runs");
        let mut happened = false;
        for shard in 0..process.shards.len() {
            if process.is_due(shard, env) {
                process.turn(shard, env);
                happened = true;
            }
        }
        for _ in 0..DISK_STEPS {
            if process.disk.is_idle() {
                break;
            }
            process.disk.step(&mut env.rng, &env.plan, env.clock.wall_ms(), 0);
            happened = true;
        }
        for client in clients.iter_mut() {
            client.read(env);
            client.babble(env);
        }
        let now_us = env.clock.now().us;
        let us = if happened { 20 } else { process.deadline_us().saturating_sub(now_us).clamp(20, 100_000) };
        env.clock.pass(us, &mut env.rng);
    }

    /// Somebody new reads everything through the relay.
    fn audit(&mut self) {
        let mut auditor = Client::new(self.clients.len(), usize::MAX, Dialect::Native);
        self.generation += 1;
        self.env.calm = true;
        auditor.connect(self.process.as_mut().expect("it runs"), self.generation, &mut self.env);
        self.env.calm = false;
        self.clients.push(auditor);
        for room in self.env.plan.rooms.clone() {
            let mut last = 0;
            let mut refusals = 0;
            while last < self.env.oracle.head(&room) {
                let auditor = self.clients.last_mut().expect("just added");
                auditor.look_up(&room, Page::After(last), &mut self.env);
                self.calm(200_000);
                let auditor = self.clients.last_mut().expect("just added");
                if let Some((_, end)) = auditor.page {
                    (last, refusals) = (end, 0);
                    continue;
                }
                // As many rooms are loaded as may be, until some are forgotten.
                let limits = &self.env.plan.limits;
                if limits.max_rooms < self.env.plan.rooms.len() {
                    break;
                }
                refusals += 1;
                // What keys hold of a small memory is free when they have left their window.
                self.calm(if refusals < 40 { 0 } else { WINDOW_US / 4 });
                assert!(refusals < 50, "invariant 1: history of {room} is refused");
            }
        }
    }

    /// The auditor says something in every room: whoever thinks to be a member hears it, and nobody else does.
    fn speak_everywhere(&mut self) {
        for room in self.env.plan.rooms.clone() {
            self.clients.last_mut().expect("the auditor").speak(&room, &mut self.env);
        }
        self.calm_down();
    }

    /// When nobody is left, nothing is.
    fn all_leave(&mut self) {
        for client in &mut self.clients {
            client.go(&mut self.env);
        }
        self.calm(FORGOTTEN_US);
        let process = self.process.as_ref().expect("it runs");
        assert!(process.is_idle(), "invariant 10: messages between shards or requests to storage are left");
        for shard in &process.shards {
            let left = (shard.connections(), shard.rooms(), shard.feeds());
            assert!(left == (0, 0, 0), "invariant 10: connections, rooms and feeds {left:?} are left");
        }
        let (bytes, rooms) = (process.memory_used(), process.budget.rooms_left());
        assert!(bytes == 0, "invariant 10: {bytes} bytes of memory are counted and nothing is left");
        assert!(rooms == self.env.plan.limits.max_rooms, "invariant 10: there is place for {rooms} rooms only");
        assert!(self.env.sockets.is_empty(), "invariant 10: sockets are left");
    }
}
