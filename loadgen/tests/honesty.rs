//! The tool against servers that misbehave in known ways, as real processes: each must be caught with exact counts.

mod fake;

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use fake::{FakeRelay, Fault};
use serde_json::Value;

/// 30 users in one room, 10 messages a second each, for 2.2 s: about 660 messages and 20,000 deliveries.
const SCENARIO: &[&str] = &[
    "--users",
    "30",
    "--rooms",
    "1",
    "--rate",
    "10/s",
    "--warm-up",
    "200ms",
    "--duration",
    "2s",
    "--drain",
    "20s",
    "--threads",
    "2",
    "--progress",
    "none",
];

struct Load {
    child: Child,
    directory: tempfile::TempDir,
}

struct Result {
    code: i32,
    json: Value,
    text: String,
}

impl Load {
    fn start(server: &FakeRelay) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let url = format!("ws://{}/native", server.address);
        let child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(["run", "--url", &url])
            .args(SCENARIO)
            .arg("--output")
            .arg(directory.path().join("result"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("loadgen starts");
        Self { child, directory }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill runs").success());
    }

    fn finish(self) -> Result {
        let Output { status, stdout, stderr } = self.child.wait_with_output().expect("loadgen ends");
        let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        let json = std::fs::read(self.directory.path().join("result/result.json"));
        let json = serde_json::from_slice(&json.unwrap_or_else(|error| panic!("{error}: {text}"))).expect("JSON");
        Result { code: status.code().expect("it was not killed"), json, text }
    }
}

fn run(fault: Fault) -> (FakeRelay, Result) {
    let server = FakeRelay::start(fault);
    let result = Load::start(&server).finish();
    (server, result)
}

impl Result {
    /// The counts under `part` that are not 0, except those of what is right.
    fn found(&self, part: &str) -> Vec<(&str, u64)> {
        let counts = self.json[part].as_object().expect("an object").iter();
        let counts = counts.map(|(name, count)| (name.as_str(), count.as_u64().expect("a count")));
        counts.filter(|&(name, count)| count > 0 && !["received", "sent", "acked"].contains(&name)).collect()
    }

    fn assert_caught(&self, deliveries: &[(&str, u64)], messages: &[(&str, u64)]) {
        assert_eq!(self.found("deliveries"), deliveries, "{}", self.text);
        assert_eq!(self.found("messages"), messages, "{}", self.text);
        assert_eq!(self.code, 1, "{}", self.text);
    }

    /// Every check held. The code may say that this machine was too busy to offer the rate in time, never more.
    fn assert_clean(&self) {
        let checks = self.json["checks"].as_array().expect("a list");
        assert!(checks.len() >= 6 && checks.iter().all(|check| check["holds"] == true), "{}", self.text);
        assert!([0, 5].contains(&self.code), "{}", self.text);
    }

    fn nanoseconds(&self, series: &str, value: &str) -> u64 {
        let all = self.json["latencies"].as_array().expect("a list");
        let series = all.iter().find(|entry| entry["name"] == series).expect("the series");
        series[value].as_u64().expect("it has samples")
    }
}

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
    assert_eq!(result.json["faults"]["closed by the server: 1008 out"], 1, "{}", result.text);
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
    assert!(result.text.contains("generator was the bottleneck"), "{}", result.text);
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
