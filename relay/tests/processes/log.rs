//! stderr: what is written there, and that nothing depends on whether anybody reads it.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Read, pipe};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use protocol::{ErrorCode, Start};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::Value;

use crate::client::{Client, publish};
use crate::event::{Event, Line};
use crate::process::{DEADLINE, Relay, serve};

/// A relay whose stderr is a pipe with only one reader: the test. Killed when dropped.
struct Piped {
    child: Child,
    address: SocketAddr,
    stderr: BufReader<PipeReader>,
}

impl Piped {
    fn start(command: &mut Command) -> Self {
        let (reader, writer) = pipe().unwrap();
        let child = command.stderr(writer).stdout(Stdio::null()).spawn().unwrap();
        // The command's copy of the writing end.
        command.stderr(Stdio::null());
        let mut stderr = BufReader::new(reader);
        let address = loop {
            let mut line = String::new();
            assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "the relay did not start");
            if let Some((_, address)) = line.trim_end().split_once("listening on ") {
                break address.trim_end_matches(['"', '}']).parse().unwrap();
            }
        };
        Self { child, address, stderr }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// SIGTERM: the client is told, and the process ends well.
    fn ends_well(&mut self, client: &mut Client) {
        kill_process(self.pid(), Signal::TERM).unwrap();
        let rest = client.rest();
        assert!(rest.iter().any(|event| matches!(event, Event::Closed { code: Some(1001), .. })), "{rest:?}");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_closed_stderr_stops_neither_storage_nor_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--publish-timeout-ms", "500"];
    let mut relay = Piped::start(&mut serve(&["--data", dir.path().to_str().unwrap()], &flags));
    let mut ann = Client::native(relay.address, "ann");
    ann.say("r", "before");
    // Nobody reads any more.
    relay.stderr = BufReader::new(pipe().unwrap().0);
    // No file may grow, which is told on stderr again and again.
    let unlimited = prlimit(Some(relay.pid()), Resource::Fsize, Rlimit { current: Some(0), maximum: None }).unwrap();
    assert_eq!(ann.call(publish("r", "no space", None)).error(), ErrorCode::Unknown);
    prlimit(Some(relay.pid()), Resource::Fsize, unlimited).unwrap();
    // It was tried again until it was durable.
    let until = Instant::now() + DEADLINE;
    while !matches!(ann.call(publish("r", "space again", Some("k"))), Event::Acked { .. }) {
        assert!(Instant::now() < until, "it did not go on");
    }
    let lines = ann.whole_history("r").1;
    assert_eq!(lines.iter().map(Line::text).collect::<Vec<_>>(), ["before", "no space", "space again"]);
    relay.ends_well(&mut ann);
}

#[test]
fn a_stderr_that_nobody_reads_holds_up_nothing() {
    let mut relay = Piped::start(&mut serve(&["--memory"], &[]));
    let mut ann = Client::native(relay.address, "ann");
    fill(relay.child.id());
    // Several lines, each of which would wait for ever.
    kill_process(relay.pid(), Signal::HUP).unwrap();
    assert_eq!(ann.say("r", "served").0, 1);
    relay.ends_well(&mut ann);
    let mut rest = Vec::new();
    relay.stderr.read_to_end(&mut rest).unwrap();
    assert!(rest.len() >= 4096, "the pipe was full");
}

/// Fills the pipe that is this process's stderr, as another writer to it would.
fn fill(pid: u32) {
    let file = File::options().write(true).open(format!("/proc/{pid}/fd/2")).unwrap();
    rustix::fs::fcntl_setfl(&file, OFlags::WRONLY | OFlags::NONBLOCK).unwrap();
    let full = loop {
        if let Err(errno) = rustix::io::write(&file, b"x") {
            break errno;
        }
    };
    assert_eq!(full, Errno::AGAIN);
}

#[test]
fn lines_are_json_when_that_is_asked_for() {
    let mut relay = Piped::start(&mut serve(&["--memory"], &["--log", "json"]));
    kill_process(relay.pid(), Signal::TERM).unwrap();
    let mut rest = String::new();
    relay.stderr.read_to_string(&mut rest).unwrap();
    let lines: Vec<Value> = rest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let messages: Vec<_> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert!(messages.first().is_some_and(|first| *first == "stopping"), "{messages:?}");
    assert!(messages.last().is_some_and(|last| last.starts_with("stopped; ")), "{messages:?}");
    assert!(lines.iter().all(|line| line["level"] == "INFO" && line["timestamp"].as_str().unwrap().ends_with('Z')));
}

#[test]
fn what_is_refused_all_the_time_is_told_once_a_second_with_its_number_and_without_names() {
    let relay = Relay::in_memory(&["--user-publish-rate", "1", "--publish-burst", "2"]);
    let mut ann = Client::native(relay.address, "ann-unique");
    ann.join("room-unique", Start::Recent(0));
    let tags: Vec<_> = (0..500).map(|n| ann.publish("room-unique", &format!("body-unique {n}"), None)).collect();
    let refused =
        tags.into_iter().map(|tag| ann.reply(tag)).filter(|event| matches!(event, Event::Error { .. })).count();
    let told = |line: &str| {
        let (count, rest) = line.split_once(' ')?;
        rest.starts_with("commands were refused").then(|| count.parse::<usize>().unwrap())
    };
    // Each line is some more of them.
    let exit = relay.after(|line| told(line).is_some()).stop();
    let counts: Vec<usize> = exit.said.iter().filter_map(|line| told(line)).collect();
    assert!(counts.iter().sum::<usize>() <= refused && refused >= 490, "{counts:?} of {refused}");
    assert!(exit.said.iter().all(|line| !line.contains("unique")), "{exit:?}");
}
