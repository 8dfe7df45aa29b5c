//! Runs of the tool as a process, and what they came to.

use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::fake::{FakeRelay, Fault};

/// 30 users in one room, 10 messages a second each, for 2.2 s: about 660 messages and 20,000 deliveries.
pub const SCENARIO: &[&str] = &[
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
    "--run-id",
    "test",
];

/// A run under way.
pub struct Load {
    child: Child,
    directory: tempfile::TempDir,
}

/// What it came to.
pub struct Result {
    pub code: i32,
    pub json: Value,
    pub text: String,
}

impl Load {
    /// Begins the scenario.
    pub fn start(server: &FakeRelay) -> Self {
        Self::start_with(server, &[])
    }

    /// Begins the scenario with further flags.
    pub fn start_with(server: &FakeRelay, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let url = format!("ws://{}/native", server.address);
        let child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(["run", "--url", &url])
            .args(SCENARIO)
            .args(flags)
            .arg("--output")
            .arg(directory.path().join("result"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("loadgen starts");
        Self { child, directory }
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill runs").success());
    }

    /// Waits for its end.
    pub fn finish(self) -> Result {
        let Output { status, stdout, stderr } = self.child.wait_with_output().expect("loadgen ends");
        let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        let json = std::fs::read(self.directory.path().join("result/result.json"));
        let json = serde_json::from_slice(&json.unwrap_or_else(|error| panic!("{error}: {text}"))).expect("JSON");
        Result { code: status.code().expect("it was not killed"), json, text }
    }
}

/// Runs the scenario against a server that does this wrong.
pub fn run(fault: Fault) -> (FakeRelay, Result) {
    let server = FakeRelay::start(fault);
    let result = Load::start(&server).finish();
    (server, result)
}

/// The same with further flags, a space between them.
pub fn run_with(fault: Fault, flags: &str) -> (FakeRelay, Result) {
    let server = FakeRelay::start(fault);
    let flags: Vec<&str> = flags.split(' ').collect();
    let result = Load::start_with(&server, &flags).finish();
    (server, result)
}

impl Result {
    /// The counts under `part` that are not 0, except those of what is right.
    pub fn found(&self, part: &str) -> Vec<(&str, u64)> {
        let counts = self.json[part].as_object().expect("an object").iter();
        let counts = counts.map(|(name, count)| (name.as_str(), count.as_u64().expect("a count")));
        counts
            .filter(|&(name, count)| count > 0 && !["received", "sent", "acked", "unacked_slow"].contains(&name))
            .collect()
    }

    /// Verification failed with exactly these counts.
    pub fn assert_caught(&self, deliveries: &[(&str, u64)], messages: &[(&str, u64)]) {
        assert_eq!(self.found("deliveries"), deliveries, "{}", self.text);
        assert_eq!(self.found("messages"), messages, "{}", self.text);
        assert_eq!(self.code, 1, "{}", self.text);
    }

    /// Every check held. The code may say that this machine was too busy to offer the rate in time, never more.
    pub fn assert_clean(&self) {
        let checks = self.json["checks"].as_array().expect("a list");
        assert!(checks.len() >= 6 && checks.iter().all(|check| check["holds"] == true), "{}", self.text);
        assert!([0, 5].contains(&self.code), "{}", self.text);
    }

    /// A count of a part of the result.
    pub fn count(&self, part: &str, name: &str) -> u64 {
        self.json[part][name].as_u64().unwrap_or_else(|| panic!("{part} has {name}: {}", self.text))
    }

    /// The checks that failed.
    pub fn failed(&self) -> Vec<&str> {
        let checks = self.json["checks"].as_array().expect("a list").iter();
        checks.filter(|check| check["holds"] == false).map(|check| check["name"].as_str().expect("a name")).collect()
    }

    /// A value of a series that has samples.
    pub fn nanoseconds(&self, series: &str, value: &str) -> u64 {
        let all = self.json["latencies"].as_array().expect("a list");
        let series = all.iter().find(|entry| entry["name"] == series).expect("the series");
        series[value].as_u64().expect("it has samples")
    }
}
