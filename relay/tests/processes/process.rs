//! A relay process that does not outlive its test.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Nothing takes this long unless it hangs.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// Shards of a relay here, unless its test says otherwise, so that both sides of the mesh are used on any machine.
pub const SHARDS: usize = 2;

/// `relay serve` on a free port, with limits that tests do not meet by accident.
pub fn serve(store: &[&str], flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command.arg("serve").args(store);
    let shards = format!("--shards={SHARDS}");
    for default in [
        "--listen=127.0.0.1:0",
        "--session-publish-rate=100000",
        "--user-publish-rate=100000",
        "--publish-burst=1000000",
        &shards,
    ] {
        let (flag, _) = default.split_once('=').unwrap();
        if !flags.contains(&flag) {
            command.arg(default);
        }
    }
    command.args(flags);
    command
}

/// `relay serve` with its messages in a keyspace of a CQL server, one copy of each.
pub fn serve_on_cql(node: SocketAddr, keyspace: &str, flags: &[&str]) -> Command {
    serve(&[&format!("--store=scylla://{node}/{keyspace}"), "--replication=1"], flags)
}

/// A running relay. Killed when dropped; a failing test prints what it said.
pub struct Relay {
    pub address: SocketAddr,
    process: Process,
}

/// How a relay ended, and all it wrote to stderr.
#[derive(Debug)]
pub struct Exit {
    pub code: Option<i32>,
    pub said: Vec<String>,
}

impl Exit {
    /// A count of the line that a relay ends with.
    pub fn count(&self, name: &str) -> u64 {
        let (_, rest) = self.said.last().unwrap().split_once(&format!(" {name}: ")).unwrap();
        rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap()
    }
}

impl Relay {
    /// Keeps messages in memory.
    pub fn in_memory(flags: &[&str]) -> Self {
        Self::start(&mut serve(&["--memory"], flags))
    }

    /// Keeps messages in `dir`.
    pub fn on(dir: &Path, flags: &[&str]) -> Self {
        Self::start(&mut serve(&["--data", dir.to_str().unwrap()], flags))
    }

    /// Keeps messages in a keyspace of a CQL server, which it makes when it is missing.
    pub fn on_cql(node: SocketAddr, keyspace: &str, flags: &[&str]) -> Self {
        Self::start(&mut serve_on_cql(node, keyspace, flags))
    }

    /// Spawns the command and returns once the relay listens.
    pub fn start(command: &mut Command) -> Self {
        let mut process = Process::spawn(command);
        match process.address() {
            Some(address) => Self { address, process },
            None => panic!("the relay did not start: {:?}", process.exit()),
        }
    }

    /// What it wrote to stderr before it listened.
    pub fn said(&self) -> &[String] {
        &self.process.said
    }

    /// Waits for a line with this part on stderr.
    pub fn says(&mut self, part: &str) -> String {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.process.line(until) {
                Some(line) if line.contains(part) => return line,
                Some(_) => {}
                None => panic!("the relay ended without saying {part:?}"),
            }
        }
    }

    /// The number of its thread whose name begins so.
    pub fn thread(&self, name: &str) -> i32 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.process.child.id())).unwrap();
        let is_it = |path: &Path| std::fs::read_to_string(path.join("comm")).unwrap().starts_with(name);
        let found = threads.map(|entry| entry.unwrap().path()).find(|path| is_it(path)).unwrap();
        found.file_name().unwrap().to_str().unwrap().parse().unwrap()
    }

    /// Waits until it has written such a line.
    pub fn after(mut self, is_it: impl Fn(&str) -> bool) -> Self {
        let until = Instant::now() + DEADLINE;
        while !is_it(&self.process.line(until).expect("it runs")) {}
        self
    }

    /// What the process writes to stdout, when the command pipes it.
    pub fn stdout(&mut self) -> impl Read + Send + 'static {
        self.process.child.stdout.take().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process.child), signal).unwrap();
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        self.process.exit();
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(self) -> Exit {
        self.signal(Signal::TERM);
        self.exit()
    }

    /// Waits for the end.
    pub fn exit(mut self) -> Exit {
        self.process.exit()
    }

    /// Resident memory, bytes.
    pub fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    }
}

/// Sends a signal to a relay that is still starting, once `then` has happened.
pub fn end_by(command: &mut Command, then: impl FnOnce(), signal: Signal) -> Exit {
    let mut process = Process::spawn(command);
    then();
    kill_process(Pid::from_child(&process.child), signal).unwrap();
    process.exit()
}

/// Runs a relay that must end by itself before it listens.
pub fn refusal(command: &mut Command) -> Exit {
    let mut process = Process::spawn(command);
    assert!(process.address().is_none(), "started in spite of {command:?}");
    process.exit()
}

/// A line of the log without its time and level; other lines as they are.
fn message(line: &str) -> &str {
    let logged = line.split_once("Z ").and_then(|(_, rest)| rest.trim_start().split_once(' '));
    logged.filter(|(level, _)| ["INFO", "WARN", "ERROR"].contains(level)).map_or(line, |(_, message)| message)
}

struct Process {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Process {
    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap_or_else(|error| {
            let program = command.get_program().to_string_lossy();
            panic!("cannot run {program}: {error} (this test needs it; apt-get install {program})")
        });
        let (line, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|said| line.send(said)));
        Self { child, lines, said: Vec::new() }
    }

    /// Where it listens; None when it ended before.
    fn address(&mut self) -> Option<SocketAddr> {
        let until = Instant::now() + DEADLINE;
        while let Some(line) = self.line(until) {
            if let Some(address) = line.strip_prefix("listening on ") {
                return Some(address.split(',').next()?.parse().unwrap());
            }
        }
        None
    }

    /// The next line of stderr; None when the process has ended.
    fn line(&mut self, until: Instant) -> Option<String> {
        match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                self.said.push(message(&line).to_owned());
                self.said.last().cloned()
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("the relay neither says anything nor ends"),
        }
    }

    fn exit(&mut self) -> Exit {
        let until = Instant::now() + DEADLINE;
        while self.line(until).is_some() {}
        let code = self.child.wait().as_ref().ok().and_then(ExitStatus::code);
        Exit { code, said: self.said.clone() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            self.said.extend(self.lines.try_iter());
            eprintln!("the relay said:\n{}", self.said.join("\n"));
        }
    }
}
