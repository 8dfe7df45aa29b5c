//! Threads that lose their CPU at any moment, as under a quota, and a shard that stands still.

use std::thread;
use std::time::Duration;

use nix::sys::ptrace;
use protocol::{Command, Start};
use rustix::process::Signal;

use crate::client::Client;
use crate::control;
use crate::event::Event;
use crate::process::{Relay, SHARDS};

/// Bursts of stops; after each, everybody is answered.
const BURSTS: u64 = 12;
const STOPS: u64 = 6;
/// Longer than any time slice or timer that a runtime might rely on.
const STOP: Duration = Duration::from_millis(130);
/// Messages on their way while the relay is stopped, each client's.
const UNDER_WAY: usize = 50;

/// Takes some 12 seconds, nearly all of them the stops themselves.
#[test]
fn a_relay_that_keeps_losing_its_cpu_answers_everybody_afterwards() {
    let relay = Relay::in_memory(&[]);
    let mut clients = Client::one_on_each_shard(relay.address, SHARDS);
    for client in &mut clients {
        // Rooms of both shards, so that the mesh is used both ways.
        for room in 0..4 {
            client.join(&format!("r{room}"), Start::Recent(0));
        }
    }
    let mut random = fastrand::Rng::with_seed(7);
    for burst in 0..BURSTS {
        let sent: Vec<Vec<u32>> = clients
            .iter_mut()
            .map(|client| (0..UNDER_WAY).map(|n| client.publish(&format!("r{}", n % 4), "under way", None)).collect())
            .collect();
        for _ in 0..STOPS {
            relay.signal(Signal::STOP);
            // Not to wait for something: this is what happens to the relay.
            thread::sleep(STOP);
            relay.signal(Signal::CONT);
            thread::sleep(Duration::from_micros(random.u64(..5_000)));
        }
        for (client, tags) in clients.iter_mut().zip(sent) {
            for tag in tags {
                client.reply(tag).acked();
            }
            client.say("r0", &format!("after burst {burst}"));
        }
        for client in &mut clients {
            client.lines(SHARDS * (UNDER_WAY + 1));
        }
    }
    assert_eq!(relay.stop().code, Some(0));
}

/// A thread that stands still until this is dropped.
struct Stopped(nix::unistd::Pid);

impl Drop for Stopped {
    fn drop(&mut self) {
        ptrace::detach(self.0, None).unwrap();
    }
}

#[test]
fn a_shard_that_stands_still_is_named_in_the_log_and_again_when_it_turns() {
    let (mut relay, figures) = control::relay(&[]);
    let age_s =
        |shard: usize| control::figure(figures, &format!("relay_shard_last_turn_age_seconds{{shard=\"{shard}\"}}"));
    let mut clients = Client::one_on_each_shard(relay.address, SHARDS);
    let thread = nix::unistd::Pid::from_raw(relay.thread("shard-1"));
    // One thread alone can be stopped only by tracing it, which its parent may.
    ptrace::seize(thread, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
    // A relay that has a thread stopped for ever could not even be killed.
    let stopped = Stopped(thread);
    let line = relay.says("shard 1 has not turned for ");
    assert!(age_s(1) > age_s(0), "{line}");
    let why = control::get(figures, "/readyz").1;
    assert!(why.starts_with("shard 1 has not turned for "), "{why}");
    assert_eq!(clients[0].call(Command::Ping), Event::Pong);
    drop(stopped);
    relay.says("shard 1 turns again");
    assert_eq!(control::get(figures, "/readyz").1, "ok\n");
    assert_eq!(clients[1].call(Command::Ping), Event::Pong);
    assert_eq!(relay.stop().code, Some(0));
}
