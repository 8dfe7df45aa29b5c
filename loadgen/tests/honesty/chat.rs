//! Servers that misbehave towards people who just chat.

use std::time::Duration;

use crate::fake::{FakeRelay, Fault};
use crate::load::{Load, run};

#[test]
fn a_faultless_server_passes_and_every_delivery_is_counted() {
    let (_server, result) = run(Fault::None);
    result.assert_clean();
    let sent = result.json["messages"]["sent"].as_u64().expect("a count");
    assert!(sent > 600, "{}", result.text);
    assert_eq!(result.json["messages"]["acked"], sent);
    assert_eq!(result.json["deliveries"]["received"], sent * 30);
}

#[test]
fn one_lost_delivery_in_a_few_thousand_is_caught() {
    let (server, result) = run(Fault::DropOneDeliveryIn(4_001));
    assert!(server.injected() >= 4, "{}", result.text);
    result.assert_caught(&[("lost", server.injected())], &[]);
}

#[test]
fn one_message_delivered_twice_to_one_member_is_caught() {
    let (server, result) = run(Fault::DuplicateDelivery(300));
    assert_eq!(server.injected(), 1);
    result.assert_caught(&[("duplicated", 1)], &[]);
}

#[test]
fn two_messages_that_change_places_for_one_member_are_caught() {
    let (server, result) = run(Fault::SwapDeliveries(300));
    assert_eq!(server.injected(), 1);
    result.assert_caught(&[("reordered", 1)], &[]);
}

#[test]
fn one_altered_body_is_caught() {
    let (server, result) = run(Fault::AlterBody(300));
    assert_eq!(server.injected(), 1);
    result.assert_caught(&[], &[("altered", 1)]);
}

#[test]
fn an_ack_of_a_message_that_was_thrown_away_is_caught() {
    let (server, result) = run(Fault::AckWithoutStoring(300));
    assert_eq!(server.injected(), 1);
    result.assert_caught(&[], &[("acked_missing", 1)]);
}

#[test]
fn a_message_stored_twice_is_caught() {
    let (server, result) = run(Fault::StoreTwice(300));
    assert_eq!(server.injected(), 1);
    result.assert_caught(&[], &[("stored_twice", 1)]);
}

#[test]
fn a_user_thrown_out_is_an_error_with_the_servers_words() {
    let (server, result) = run(Fault::ClosePublisher(300));
    assert_eq!((server.injected(), result.code), (1, 1));
    assert_eq!(result.json["faults"]["closed by the server: 1008 out"]["users"], 1, "{}", result.text);
    let room: u64 = result.json["deliveries"]["lost"].as_u64().expect("a count");
    assert!(room > 0, "what the user would have received is missing: {}", result.text);
}

#[test]
fn a_server_that_stands_still_shows_in_the_time_from_the_intended_moment() {
    let time = Duration::from_secs(2);
    let (server, result) = run(Fault::Freeze(300, time));
    assert_eq!(server.injected(), 1);
    result.assert_clean();
    // The last message before the standstill was intended when it began, or after.
    let longest = result.nanoseconds("delivery", "max_ns");
    assert!(longest >= 1_900_000_000, "{}", result.text);
}

#[test]
fn a_generator_that_stands_still_is_named_as_the_bottleneck_and_not_the_server() {
    let server = FakeRelay::start(Fault::None);
    let load = Load::start(&server);
    server.wait_for_publishes(200);
    load.signal("-STOP");
    // The fault that is injected: the process stands still for two thirds of its window.
    std::thread::sleep(Duration::from_millis(1_300));
    load.signal("-CONT");
    let result = load.finish();
    assert_eq!(result.code, 5, "{}", result.text);
    assert_eq!(result.found("deliveries"), []);
    assert!(result.text.contains("the generator was the bottleneck"), "{}", result.text);
    assert!(result.nanoseconds("send_delay", "max_ns") >= 1_000_000_000, "{}", result.text);
    let (intended, sent) = ("delivery", "delivery_from_send");
    assert!(result.nanoseconds(sent, "p99_ns") < result.nanoseconds(intended, "p99_ns"), "{}", result.text);
}

#[test]
fn an_interrupted_run_prints_what_it_has() {
    let server = FakeRelay::start(Fault::None);
    let load = Load::start(&server);
    server.wait_for_publishes(300);
    load.signal("-INT");
    let result = load.finish();
    assert_eq!(result.code, 130);
    assert!(result.text.contains("PARTIAL") && result.json["interrupted"] == true, "{}", result.text);
}
