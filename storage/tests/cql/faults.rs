//! Faults between the store and the server while rooms append: all is tried again, nothing is stored twice or out of order.

use std::time::{Duration, Instant};

use scylla_proxy::{Condition, Reaction, RequestReaction};
use storage::{ScyllaStore, Store};

use crate::common::{keyspace, open_keyspace};
use crate::driver::Driver;
use crate::load::Load;
use crate::node::Node;
use crate::proxy::{self, Proxy};

/// How long each fault is tried.
const FAULT: Duration = Duration::from_secs(3);

/// Lets 16 rooms append through a proxy while `fault`, called after every ack with the time since the start, makes
/// trouble; then checks what is stored.
fn survives(name: &str, fault: impl Fn(&Proxy), mut on_ack: impl FnMut(&Proxy)) {
    let node = Node::shared().address();
    let proxy = Proxy::start(node);
    let store = ScyllaStore::open(keyspace(proxy.address(), name)).unwrap();
    let mut load = Load::new(&store, 16);
    load.run_until({
        let mut rounds = 0;
        move || {
            rounds += 1;
            rounds >= 16
        }
    });
    let before = load.acked.iter().sum::<u64>();
    fault(&proxy);
    let end = Instant::now() + FAULT;
    load.run_until(|| {
        on_ack(&proxy);
        let is_over = Instant::now() >= end;
        if is_over {
            proxy.calm();
        }
        is_over
    });
    let retries = store.metrics().iter().find(|metric| metric.name.contains("retries")).unwrap().value;
    assert!(retries > 0.0, "there was no trouble");
    let acked = load.acked;
    assert!(acked.iter().sum::<u64>() > before);
    drop(store);
    Load::assert_stored(&acked, &open_keyspace(node, name));
    assert_eq!(Driver::connect(node).count(&format!("{name}.messages")), acked.iter().sum::<u64>());
}

fn sometimes(probability: f64) -> Condition {
    proxy::statements().and(Condition::RandomWithProbability(probability))
}

#[test]
fn an_overloaded_server_is_asked_again() {
    survives("overloaded", |proxy| proxy.on_requests([(sometimes(0.5), proxy::overloaded())]), |_| ());
}

#[test]
fn a_write_that_timed_out_and_was_carried_out_is_stored_once() {
    let timeouts = proxy::results().and(Condition::RandomWithProbability(0.5));
    survives("timeouts", |proxy| proxy.on_responses([(timeouts.clone(), proxy::write_timeout())]), |_| ());
}

#[test]
fn lost_connections_are_made_anew() {
    let mut acks = 0;
    survives(
        "cut",
        |proxy| proxy.on_requests([(proxy::next(1), proxy::cut())]),
        |proxy| {
            acks += 1;
            if acks % 20 == 0 {
                // What was asked is lost, or only its answer.
                proxy.on_requests([(proxy::next(1), if acks % 40 == 0 { proxy::cut() } else { cut_after_passing() })]);
            }
        },
    );
}

fn cut_after_passing() -> RequestReaction {
    RequestReaction { drop_connection: Some(Some(Duration::from_millis(20))), ..RequestReaction::noop() }
}

#[test]
fn a_write_that_arrives_after_its_repetition_changes_nothing() {
    // Longer than a request may take.
    let late = proxy::late(Duration::from_millis(2_500));
    survives("late", |proxy| proxy.on_requests([(sometimes(0.3), late.clone())]), |_| ());
}
