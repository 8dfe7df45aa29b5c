//! What /proc says: the machine, the CPU of a thread or process, the kernel's socket memory.

use std::fs;
use std::io::{self, Error};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const PAGE_BYTES: u64 = 4096;
const LOOKS: Duration = Duration::from_millis(3);

/// A line that says where the figures come from, and one with the settings of TCP.
pub fn describe() -> String {
    let cpuinfo = read("/proc/cpuinfo");
    let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown CPU");
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    let load: Vec<_> = load.split(' ').take(3).collect();
    let tcp = ["tcp_congestion_control", "tcp_mem", "tcp_wmem", "tcp_rmem", "tcp_slow_start_after_idle"]
        .map(|name| format!("{name} {}", read(&format!("/proc/sys/net/ipv4/{name}")).trim().replace('\t', " ")));
    format!(
        "machine  {cores} cores {}, Linux {}, load before {}\ntcp      {}",
        cpu.trim_start_matches(['\t', ' ', ':']),
        kernel.trim(),
        load.join(" "),
        tcp.join(", ")
    )
}

/// CPU of a thread so far, user and kernel; of this one without a process. Exact while it sleeps, else to a tick.
pub fn cpu(process: Option<u32>) -> io::Result<Duration> {
    let whose = process.map_or_else(|| "thread-self".to_owned(), |process| process.to_string());
    let text = fs::read_to_string(format!("/proc/{whose}/schedstat"))?;
    let nanos = text.split(' ').next().and_then(|word| word.parse().ok());
    Ok(Duration::from_nanos(nanos.ok_or_else(|| Error::other("schedstat"))?))
}

/// Memory of all TCP sockets of this machine, bytes.
pub fn socket_memory() -> u64 {
    let text = read("/proc/net/sockstat");
    let mut words = text.lines().find(|line| line.starts_with("TCP:")).unwrap_or("").split_whitespace();
    let pages = words.by_ref().skip_while(|&word| word != "mem").nth(1).and_then(|word| word.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}

/// A thread that looks at the socket memory every few milliseconds.
pub struct Watch {
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub fn start() -> Self {
        let (most, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, stopped) = (Arc::clone(&most), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                seen.fetch_max(socket_memory(), Ordering::Relaxed);
                thread::sleep(LOOKS);
            }
        });
        Self { most, stop, thread: Some(thread) }
    }

    /// The most since the last call, bytes.
    pub fn take(&self) -> u64 {
        self.most.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
