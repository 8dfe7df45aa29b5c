//! The healthy: 200 users in 20 rooms who each say one line a second, and somebody new twice a second.
//!
//! An open model: lines are sent when they are meant to be, and a delivery is timed from then to each member.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{interval, sleep_until, timeout};

use crate::wire::{Manner, Wire, command};
use crate::{block_on, set_nice};

const USERS: usize = 200;
const ROOMS: usize = 20;
const LINE_EVERY: Duration = Duration::from_secs(1);
const NEWCOMER_EVERY: Duration = Duration::from_millis(500);
/// How the healthy and newcomers come.
const HEALTHY: Manner = Manner { receive_bytes: None, deflate: false, elsewhere: true };
/// A newcomer that has not been served by then was not.
const NEWCOMER_PATIENCE: Duration = Duration::from_secs(8);
/// What comes later than this after the end has not come.
const LAST_WAIT: Duration = Duration::from_secs(4);

/// Which part of the run a line belongs to, by the time at which it was meant to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Before,
    During,
    After,
}

const PHASES: usize = 3;

/// What the healthy noticed in one phase.
#[derive(Debug, Clone)]
pub struct Noticed {
    /// Microseconds from the intended time to each delivery.
    pub deliveries: Histogram<u64>,
    pub sent: u64,
    pub acked: u64,
    pub newcomers: u64,
    pub newcomers_failed: u64,
}

/// What they noticed altogether.
#[derive(Debug)]
pub struct Healthy {
    pub phases: [Noticed; PHASES],
    /// Acked lines that some member did not get, times those members.
    pub lost: u64,
    /// Connections that the relay ended.
    pub cut: u64,
    /// One of each kind of what went wrong.
    pub trouble: Vec<String>,
}

impl Healthy {
    fn nothing() -> Self {
        let noticed = Noticed {
            deliveries: Histogram::new_with_bounds(1, 120_000_000, 3).expect("the bounds are constants"),
            sent: 0,
            acked: 0,
            newcomers: 0,
            newcomers_failed: 0,
        };
        Self { phases: std::array::from_fn(|_| noticed.clone()), lost: 0, cut: 0, trouble: Vec::new() }
    }
}

/// The crowd at work on a thread of its own.
pub struct Crowd {
    phase: Arc<AtomicU8>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Healthy>>,
}

impl Crowd {
    /// Returns once everybody is in their rooms.
    pub fn start(address: SocketAddr) -> anyhow::Result<Self> {
        let (phase, stop) = (Arc::new(AtomicU8::new(Phase::Before as u8)), Arc::new(AtomicBool::new(false)));
        let (ready, is_ready) = flume::bounded(1);
        let thread = thread::spawn({
            let (phase, stop) = (phase.clone(), stop.clone());
            move || {
                set_nice(-5);
                block_on(LocalSet::new().run_until(run(address, phase, stop, ready)))
            }
        });
        is_ready.recv().context("the healthy could not join")?;
        Ok(Self { phase, stop, thread })
    }

    pub fn phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub fn finish(self) -> Healthy {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join().expect("the crowd does not panic");
        ended.expect("everybody had joined")
    }
}

/// A line that was sent.
#[derive(Debug, Clone, Copy)]
struct Line {
    meant: Instant,
    phase: usize,
    is_acked: bool,
    members: usize,
}

/// What all tasks of the crowd share.
struct Notes {
    phase: Arc<AtomicU8>,
    stop: Arc<AtomicBool>,
    healthy: RefCell<Healthy>,
    /// By user, in the order in which they were sent.
    lines: RefCell<Vec<Vec<Line>>>,
}

impl Notes {
    fn phase(&self) -> usize {
        usize::from(self.phase.load(Ordering::Relaxed))
    }

    fn trouble(&self, what: String) {
        let trouble = &mut self.healthy.borrow_mut().trouble;
        if !trouble.contains(&what) {
            trouble.push(what);
        }
    }

    /// Acks of the user's own lines, and lines of all members of its room.
    fn heard(&self, user: usize, said: &Value) {
        if let Some(n) = said["id"].as_u64().and_then(|id| id.checked_sub(FIRST_LINE_ID)) {
            match &said["error"] {
                Value::Null => self.lines.borrow_mut()[user][n as usize].is_acked = true,
                error => self.trouble(format!("a line was refused: {error}")),
            }
        }
        let data = &said["push"]["pub"]["data"];
        if let (Some(speaker), Some(n)) = (data["user"].as_u64(), data["line"].as_u64()) {
            let line = &mut self.lines.borrow_mut()[speaker as usize][n as usize];
            line.members += 1;
            let us = (line.meant.elapsed().as_micros() as u64).max(1);
            self.healthy.borrow_mut().phases[line.phase].deliveries.saturating_record(us);
        }
    }
}

/// Ids below are those of connect and subscribe.
const FIRST_LINE_ID: u64 = 1000;

async fn run(
    address: SocketAddr,
    phase: Arc<AtomicU8>,
    stop: Arc<AtomicBool>,
    ready: flume::Sender<()>,
) -> anyhow::Result<Healthy> {
    let healthy = RefCell::new(Healthy::nothing());
    let lines = RefCell::new(vec![Vec::new(); USERS]);
    let notes = Rc::new(Notes { phase, stop, healthy, lines });
    let mut wires = Vec::new();
    for user in 0..USERS {
        let mut wire = Wire::connect_with(address, &format!("healthy-{user}"), HEALTHY).await?;
        wire.call("subscribe", json!({ "channel": room(user) })).await?;
        wires.push(wire);
    }
    let users: Vec<_> = wires
        .into_iter()
        .enumerate()
        .map(|(user, wire)| spawn_local(chat(wire, user, Instant::now(), notes.clone())))
        .collect();
    let newcomers = spawn_local(newcomers(address, notes.clone()));
    let _ = ready.send(());
    for user in users {
        user.await?;
    }
    newcomers.await?;
    let mut healthy = notes.healthy.replace(Healthy::nothing());
    for line in notes.lines.borrow().iter().flatten() {
        let noticed = &mut healthy.phases[line.phase];
        noticed.sent += 1;
        if line.is_acked {
            noticed.acked += 1;
            healthy.lost += (USERS / ROOMS - line.members) as u64;
        }
    }
    Ok(healthy)
}

fn room(user: usize) -> String {
    format!("healthy-{}", user % ROOMS)
}

/// One user: a line a second, evenly spread over all users, and whatever is heard meanwhile.
async fn chat(mut wire: Wire, user: usize, began: Instant, notes: Rc<Notes>) {
    let first = began + LINE_EVERY * user as u32 / USERS as u32;
    let mut until = None;
    for n in 0.. {
        let meant = first + LINE_EVERY * n;
        if until.is_none() && notes.stop.load(Ordering::Relaxed) {
            until = Some(Instant::now() + LAST_WAIT);
        }
        let heard = hear(&mut wire, user, until.unwrap_or(meant), &notes).await;
        if let Err(error) = heard {
            notes.healthy.borrow_mut().cut += 1;
            return notes.trouble(format!("a connection ended: {error}"));
        }
        if until.is_some() {
            return;
        }
        let line = Line { meant, phase: notes.phase(), is_acked: false, members: 0 };
        notes.lines.borrow_mut()[user].push(line);
        let publish = json!({ "channel": room(user), "data": { "user": user, "line": n } });
        let line = command(FIRST_LINE_ID + u64::from(n), "publish", publish);
        // A connection that ended is noticed when it is read.
        let _ = wire.send(&line).await;
    }
}

async fn hear(wire: &mut Wire, user: usize, until: Instant, notes: &Notes) -> std::io::Result<()> {
    let listen = async {
        loop {
            wire.next().await?.iter().for_each(|said| notes.heard(user, said));
        }
    };
    tokio::select! {
        ended = listen => ended,
        () = sleep_until(until.into()) => Ok(()),
    }
}

/// Somebody new comes, joins a room of its own, speaks there, reads its history, and goes.
async fn newcomers(address: SocketAddr, notes: Rc<Notes>) {
    let mut tick = interval(NEWCOMER_EVERY);
    let mut under_way = Vec::new();
    for n in 0.. {
        tick.tick().await;
        if notes.stop.load(Ordering::Relaxed) {
            break;
        }
        under_way.push(spawn_local(newcomer(address, n, notes.clone())));
    }
    for newcomer in under_way {
        let _ = newcomer.await;
    }
}

async fn newcomer(address: SocketAddr, n: u32, notes: Rc<Notes>) {
    let phase = notes.phase();
    let room = format!("newcomer-{n}");
    let served = timeout(NEWCOMER_PATIENCE, async {
        let mut wire = Wire::connect_with(address, &room, HEALTHY).await?;
        let commands = [
            ("subscribe", json!({ "channel": room })),
            ("publish", json!({ "channel": room, "data": "hi" })),
            ("history", json!({ "channel": room, "limit": 1 })),
        ];
        for (method, params) in commands {
            let reply = wire.call(method, params).await?;
            if !reply["error"].is_null() {
                return Err(std::io::Error::other(format!("{method}: {}", reply["error"])));
            }
        }
        Ok(())
    });
    let served = served.await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    if let Err(error) = &served {
        notes.trouble(format!("a newcomer was not served: {error}"));
    }
    let noticed = &mut notes.healthy.borrow_mut().phases[phase];
    noticed.newcomers += 1;
    noticed.newcomers_failed += u64::from(served.is_err());
}
