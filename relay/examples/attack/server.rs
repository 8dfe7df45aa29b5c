//! The relay under attack: started, watched, stopped.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::attacks::Target;

/// A relay that needs more than this is killed, so that the machine survives the attack.
const KILL_BYTES: u64 = 4 << 30;
/// The relay may take so long to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// A relay of its own, on the embedded store.
pub struct Server {
    pub address: SocketAddr,
    pub control: SocketAddr,
    relay: PathBuf,
    flags: &'static [&'static str],
    child: Child,
    scratch: TempDir,
    peak: Arc<AtomicU64>,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    pub peak_bytes: u64,
    /// What is wrong with the way it ended.
    pub wrong: Option<String>,
}

impl Server {
    pub fn start(relay: &Path, flags: &'static [&'static str]) -> anyhow::Result<Self> {
        // Beside the build and not in /tmp, which may be memory: here an fsync is one.
        let scratch = tempfile::Builder::new().prefix("attack.").tempdir_in("target")?;
        let (address, control) = (free_address()?, free_address()?);
        let child = spawn(relay, flags, &scratch, address, control)?;
        let mut server = Self { address, control, relay: relay.into(), flags, child, scratch, peak: Arc::default() };
        server.watch();
        server.await_listening()?;
        Ok(server)
    }

    /// Ends it and starts it again on the same store.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        if let Some(wrong) = self.end() {
            bail!("before the attack: {wrong}");
        }
        self.child = spawn(&self.relay, self.flags, &self.scratch, self.address, self.control)?;
        self.peak.store(0, Ordering::Relaxed);
        self.watch();
        self.await_listening()
    }

    pub fn target(&self, until: Instant) -> Arc<Target> {
        Arc::new(Target { address: self.address, control: self.control, until, pid: self.child.id() })
    }

    /// SIGTERM, as a supervisor stops it.
    pub fn stop(mut self) -> Ended {
        let wrong = self.end();
        Ended { peak_bytes: self.peak.load(Ordering::Relaxed), wrong }
    }

    fn end(&mut self) -> Option<String> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(format!("the relay ended by itself: {status}"));
        }
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return None,
                Ok(Some(status)) => return Some(format!("SIGTERM: {status}")),
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        Some(format!("SIGTERM was not carried out within {} s", PATIENCE.as_secs()))
    }

    fn await_listening(&mut self) -> anyhow::Result<()> {
        let since = Instant::now();
        while std::net::TcpStream::connect(self.address).is_err() {
            if since.elapsed() > PATIENCE || self.child.try_wait()?.is_some() {
                bail!("the relay did not start: {}", self.log());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default()
    }

    /// Notes the peak of its memory until it ends.
    fn watch(&self) {
        let (pid, peak) = (self.child.id(), self.peak.clone());
        thread::spawn(move || {
            while let Some(bytes) = resident_bytes(pid) {
                peak.fetch_max(bytes, Ordering::Relaxed);
                if bytes > KILL_BYTES {
                    let _ = kill_process(Pid::from_raw(pid as i32).expect("a pid"), Signal::KILL);
                }
                thread::sleep(Duration::from_millis(50));
            }
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(
    relay: &Path,
    flags: &[&str],
    scratch: &TempDir,
    address: SocketAddr,
    control: SocketAddr,
) -> anyhow::Result<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open(scratch.path().join("log"))?;
    Command::new(relay)
        .args(["serve", "--listen", &address.to_string(), "--metrics", &control.to_string(), "--data"])
        .arg(scratch.path().join("data"))
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot run {}", relay.display()))
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// Resident memory of a process; None when it has ended.
fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(kib.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
