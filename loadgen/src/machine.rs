//! What this machine is and what a process on it uses, from /proc.

use std::fs;
use std::path::Path;

/// Clock ticks per second in /proc: fixed at 100 for programs on every Linux architecture we build for.
const TICKS_PER_S: f64 = 100.0;
const PAGE_BYTES: u64 = 4_096;

/// The machine a run took place on.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    pub memory_bytes: u64,
    /// Load averages over 1, 5 and 15 minutes before the run.
    pub load: String,
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    pub cpu_s: f64,
    pub rss_bytes: u64,
}

impl Machine {
    /// Looks around.
    pub fn read() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let cpu = field(&cpuinfo, "model name").unwrap_or("unknown CPU").to_owned();
        Self {
            cpu,
            cores: cores(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_bytes: meminfo("MemTotal"),
            load: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
        }
    }

    /// A short name for directories: cores and processor.
    pub fn slug(&self) -> String {
        let words = self.cpu.replace("(R)", "").replace("(TM)", "").replace("CPU", "").replace("Processor", "");
        let words = words.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').filter(|word| !word.is_empty());
        let name = words.take(4).collect::<Vec<_>>().join("-").to_lowercase();
        format!("{}x-{name}", self.cores)
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cpu, cores, kernel, memory_bytes, load } = self;
        write!(f, "{cores} cores {cpu}, {} GiB, Linux {kernel}, load before {load}", memory_bytes >> 30)
    }
}

/// How long a thread has had a core, and has waited for one while it could have run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cores {
    pub ran_ns: u64,
    pub waited_ns: u64,
}

/// This thread's, so far.
pub fn thread_cores() -> Cores {
    let text = read("/proc/thread-self/schedstat");
    let mut fields = text.split_whitespace().map(|field| field.parse().unwrap_or(0));
    Cores { ran_ns: fields.next().unwrap_or(0), waited_ns: fields.next().unwrap_or(0) }
}

/// The command line of a process; empty when it is not known.
pub fn command_line(pid: u32) -> Vec<String> {
    read(&format!("/proc/{pid}/cmdline")).split('\0').map(str::to_owned).collect()
}

/// Cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Memory that could be used now, bytes.
pub fn memory_available_bytes() -> u64 {
    meminfo("MemAvailable")
}

/// Soft limit of open files of this process.
pub fn open_files_max() -> u64 {
    let limits = read("/proc/self/limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(1_024)
}

/// How many ports the system gives to outgoing connections of one source address.
pub fn ephemeral_ports() -> u32 {
    let range = read("/proc/sys/net/ipv4/ip_local_port_range");
    let mut ends = range.split_whitespace().filter_map(|end| end.parse::<u32>().ok());
    match (ends.next(), ends.next()) {
        (Some(low), Some(high)) if high >= low => high - low + 1,
        _ => 28_232,
    }
}

/// Memory of all TCP sockets of this machine, bytes.
pub fn tcp_memory_bytes() -> u64 {
    let sockstat = read("/proc/net/sockstat");
    let tcp = sockstat.lines().find(|line| line.starts_with("TCP:"));
    let pages =
        tcp.and_then(|line| line.split_whitespace().skip_while(|&word| word != "mem").nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}

/// The kernel's memory for its own objects (sockets, files, …) of this machine that it cannot give back, bytes.
pub fn slab_bytes() -> u64 {
    meminfo("SUnreclaim")
}

/// What the process has used so far; `None` when there is no such process.
pub fn usage(pid: Option<u32>) -> Option<Usage> {
    let dir = Path::new("/proc").join(pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string()));
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    let status = fs::read_to_string(dir.join("status")).ok()?;
    // The name in brackets may hold anything, so fields count from behind it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let rss_kib: u64 = field(&status, "VmRSS")?.split(' ').next()?.parse().ok()?;
    Some(Usage { cpu_s: ticks as f64 / TICKS_PER_S, rss_bytes: rss_kib * 1_024 })
}

fn meminfo(name: &str) -> u64 {
    let kib = field(&read("/proc/meminfo"), name).and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_an_absent_one_is_noticed() {
        let usage_here = usage(None).expect("this process exists");
        assert!(usage_here.rss_bytes > 100_000, "{usage_here:?}");
        assert_eq!(usage(Some(u32::MAX)), None);
        assert!(thread_cores().ran_ns > 0);
    }

    #[test]
    fn the_slug_is_fit_for_a_directory() {
        let machine =
            Machine { cpu: "AMD EPYC(TM) 7R13 48-Core Processor @ 2.6".to_owned(), cores: 2, ..Machine::read() };
        assert_eq!(machine.slug(), "2x-amd-epyc-7r13-48");
    }
}
