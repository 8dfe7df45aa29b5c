//! A relay process that does not outlive the benchmark.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use storage::scylla::Replication;

/// Limits of users that a benchmark is not about, and of a single room that takes everything.
const FLAGS: [&str; 4] = [
    "--listen=127.0.0.1:0",
    "--session-publish-rate=1000000",
    "--user-publish-rate=1000000",
    "--pending-publishes-max=1000000",
];

/// A running `relay serve`.
pub struct Server {
    pub address: SocketAddr,
    process: Child,
}

impl Server {
    /// Starts it and returns once it listens. What it says goes to stderr.
    pub fn start(binary: &Path, store: &str, replication: Option<&Replication>) -> anyhow::Result<Self> {
        let mut command = Command::new(binary);
        command.arg("serve").args(FLAGS).env("RELAY_STORE", store).stderr(Stdio::piped());
        if let Some(replication) = replication {
            command.arg(format!("--replication={replication}"));
        }
        let mut process = command.spawn().with_context(|| format!("cannot run {}", binary.display()))?;
        let mut lines = BufReader::new(process.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
        let address = lines
            .by_ref()
            .inspect(|line| eprintln!("{line}"))
            .find_map(|line| line.split_once("listening on ")?.1.parse().ok());
        std::thread::spawn(move || lines.for_each(|line| eprintln!("{line}")));
        let Some(address) = address else { bail!("the relay did not start: {}", process.wait()?) };
        Ok(Self { address, process })
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// SIGTERM, and waits for a good end.
    pub fn stop(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.process), Signal::TERM)?;
        let status = self.process.wait()?;
        if status.success() { Ok(()) } else { bail!("the relay ended with {status}") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
