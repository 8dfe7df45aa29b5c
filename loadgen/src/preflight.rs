//! What a run needs against what this machine has, before the first connection.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::cli::RunArgs;
use crate::machine::{self, Machine};

/// Connections from one loopback source address: the kernel's search for a free port gets slow past this.
const USERS_PER_LOOPBACK_SOURCE: u32 = 3_000;
/// Sockets of one ring; its table is limited by the process's limit of open files.
const RING_SOCKETS_MAX: u64 = 19_500;
/// Descriptors that are not sockets of a ring: standard streams, /proc, the result, what libraries open.
const OTHER_FILES: u64 = 24;
/// A ring's own, and a thread's eventfd.
const RING_FILES: u64 = 1;
const THREAD_FILES: u64 = 1;
/// Users of one thread that connect at the same time, each with an open file until its ring has taken it.
const DIALS_MAX: u64 = 512;
/// A load average of so many a core means that other programs want the cores too.
const LOAD_PER_CORE_MAX: f64 = 0.75;
/// Kernel memory of a connection, both ends (measured: 7.3 KB a pair) and some data under way, bytes.
const KERNEL_BYTES_PER_PAIR: u64 = 10_000;
/// Memory of a user in this process, bytes.
const USER_BYTES: u64 = 200;
/// Memory of this process apart from users, and a reserve for the server and the system, bytes.
const FIXED_BYTES: u64 = 512 << 20;

/// What is known of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Has {
    pub memory_bytes: u64,
    pub open_files: u64,
    pub ports: u32,
}

impl Has {
    /// Looks at this machine.
    pub fn read() -> Self {
        Self {
            memory_bytes: machine::memory_available_bytes(),
            open_files: machine::open_files_max(),
            ports: machine::ephemeral_ports(),
        }
    }
}

/// How the users fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// Users that this machine can carry, at most those asked for.
    pub users: u32,
    /// Which source addresses connect; empty: the system chooses.
    pub sources: Vec<IpAddr>,
    pub users_per_source: u32,
    pub ring_sockets: u16,
    /// What limits the users, if something does, and what would help.
    pub limit: Option<String>,
    needed_bytes: u64,
}

/// Works out how `users` connect to `address`.
pub fn fit(users: u32, address: SocketAddr, named: &[IpAddr], has: &Has) -> Fit {
    let (sources, users_per_source) = sources(users, address, named, has.ports);
    let by_ports = users_per_source.saturating_mul(sources.len().max(1) as u32);
    let pair = KERNEL_BYTES_PER_PAIR / if address.ip().is_loopback() { 1 } else { 2 };
    let for_users = has.memory_bytes.saturating_sub(FIXED_BYTES);
    let by_memory = u32::try_from(for_users / (pair + USER_BYTES)).unwrap_or(u32::MAX);
    let mib = |bytes: u64| bytes >> 20;
    let needed_bytes = FIXED_BYTES + u64::from(users) * (pair + USER_BYTES);
    let limit = if users > by_ports.min(by_memory) && by_ports <= by_memory {
        let count = sources.len().max(1);
        Some(format!("{count} source address(es) have ports for {by_ports}; name more with --source"))
    } else if users > by_memory {
        Some(format!("memory: {} MiB are needed, {} MiB are available", mib(needed_bytes), mib(has.memory_bytes)))
    } else {
        None
    };
    let ring_sockets = has.open_files.saturating_sub(OTHER_FILES).clamp(64, RING_SOCKETS_MAX) as u16;
    Fit { users: users.min(by_ports).min(by_memory), sources, users_per_source, ring_sockets, limit, needed_bytes }
}

impl Fit {
    /// What is needed and what there is, for the beginning of a run.
    pub fn describe(&self, threads: u16, has: &Has) -> String {
        let rings =
            (self.users / u32::from(threads)).div_ceil(u32::from(self.ring_sockets)).max(1) * u32::from(threads);
        let mut text = format!("{} MiB of {} MiB available memory, ", self.needed_bytes >> 20, has.memory_bytes >> 20);
        let _ = write!(text, "{rings} rings of up to {} sockets (open files: {}), ", self.ring_sockets, has.open_files);
        let _ = match self.sources.as_slice() {
            [] => write!(text, "ports of the system's source address ({})", has.ports),
            [one] => write!(text, "source address {one}"),
            [first, .., last] => write!(text, "{} source addresses {first} to {last}", self.sources.len()),
        };
        text
    }
}

/// How many users of one thread may connect at the same time under the limit of open files; or, when rings and the slow
/// readers' ordinary sockets do not even fit, how many files are needed and what would help.
pub fn files(users: u32, slow: u64, threads: u16, ring_sockets: u16, has: &Has) -> Result<u64, String> {
    let threads = u64::from(threads);
    let rings = threads * u64::from(users).div_ceil(threads).div_ceil(u64::from(ring_sockets)).max(1);
    let fixed = OTHER_FILES + threads * THREAD_FILES + rings * RING_FILES;
    let limit = has.open_files;
    let needed = fixed + slow + threads;
    if needed <= limit {
        return Ok(((limit - fixed - slow) / threads).min(DIALS_MAX));
    }
    let mut why = format!("{needed} open files are needed, and the limit is {limit}; raise it (ulimit -n {needed})");
    if slow > 0 {
        let _ = write!(why, " or ask for fewer than {slow} slow and stalled readers, which need one each");
    }
    Err(why)
}

/// What may spoil the times, and can be known before a run.
pub fn warnings(args: &RunArgs, machine: &Machine) -> Vec<String> {
    let mut warnings = Vec::new();
    let load: f64 = machine.load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
    if load > LOAD_PER_CORE_MAX * machine.cores as f64 {
        let cores = machine.cores;
        warnings.push(format!("other programs use this machine (load {load} on {cores} cores): times are theirs too"));
    }
    let command = args.server_pid.map(machine::command_line).unwrap_or_default();
    let rate = 1e9 / args.rate.slot_ns as f64;
    for flag in ["--user-publish-rate", "--session-publish-rate"] {
        if let Some(limit) = value_of(&command, flag)
            && rate > limit
        {
            let asked = &args.rate;
            warnings
                .push(format!("--rate {asked} is more than the server's {flag} {limit}: it will say `rate limited`"));
        }
    }
    warnings
}

/// The number behind the last such flag of a command line.
fn value_of(command: &[String], flag: &str) -> Option<f64> {
    let at = command.iter().rposition(|word| word.split('=').next() == Some(flag))?;
    let value = command[at].split_once('=').map(|(_, value)| value).or(command.get(at + 1).map(String::as_str));
    value?.parse().ok()
}

/// The source addresses and how many users each takes. An IPv4 loopback target gets as many as it needs.
fn sources(users: u32, address: SocketAddr, named: &[IpAddr], ports: u32) -> (Vec<IpAddr>, u32) {
    match address.ip() {
        _ if !named.is_empty() => {
            let share = users.div_ceil(named.len() as u32).clamp(1, ports);
            (named.to_vec(), share)
        }
        IpAddr::V4(ip) if ip.is_loopback() => {
            let count = users.div_ceil(USERS_PER_LOOPBACK_SOURCE);
            ((0..count).map(loopback_source).collect(), USERS_PER_LOOPBACK_SOURCE)
        }
        _ => (Vec::new(), ports),
    }
}

/// 127.1.0.1, 127.1.0.2, … 127.1.0.250, 127.1.1.1 …
fn loopback_source(nth: u32) -> IpAddr {
    let (high, low) = (nth / 250, nth % 250 + 1);
    IpAddr::V4(Ipv4Addr::new(127, 1 + (high / 256) as u8, (high % 256) as u8, low as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HAS: Has = Has { memory_bytes: 16 << 30, open_files: 20_000, ports: 28_232 };

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("it is an address")
    }

    #[test]
    fn a_loopback_target_gets_as_many_sources_as_the_users_need() {
        let fit = fit(70_000, address("127.0.0.1:1"), &[], &HAS);
        assert_eq!((fit.users, fit.sources.len(), fit.limit), (70_000, 24, None));
        let distinct: std::collections::HashSet<_> = (0..5_000).map(loopback_source).collect();
        assert_eq!(distinct.len(), 5_000);
        assert!(distinct.iter().all(IpAddr::is_loopback));
    }

    #[test]
    fn one_source_address_has_ports_for_so_many_users_and_the_limit_says_what_helps() {
        let fit = fit(70_000, address("10.0.0.1:1"), &[], &HAS);
        assert_eq!(fit.users, 28_232);
        let limit = fit.limit.expect("ports limit it");
        assert!(limit.contains("28232") && limit.contains("--source"), "{limit}");
        let named = [address("10.0.0.2:0").ip(), address("10.0.0.3:0").ip(), address("10.0.0.4:0").ip()];
        let three = super::fit(70_000, address("10.0.0.1:1"), &named, &HAS);
        assert_eq!((three.users, three.limit), (70_000, None));
    }

    #[test]
    fn little_memory_limits_the_users_instead_of_ending_the_run_half_way() {
        let small = Has { memory_bytes: 700 << 20, ..HAS };
        let fit = fit(70_000, address("127.0.0.1:1"), &[], &small);
        assert!(fit.users > 5_000 && fit.users < 25_000, "{fit:?}");
        assert!(fit.limit.expect("memory limits it").contains("memory"));
    }

    #[test]
    fn open_files_are_counted_before_the_first_connection() {
        assert_eq!(files(70_000, 700, 2, 19_500, &HAS), Ok(DIALS_MAX));
        let few = Has { open_files: 100, ..HAS };
        let dials = files(500, 0, 2, 64, &few).expect("8 rings fit");
        assert_eq!(dials, (100 - 24 - 2 - 8) / 2, "fewer connect at a time");
        let why = files(10_000, 0, 2, 64, &few).expect_err("158 rings do not");
        assert!(why.contains("186 open files") && why.contains("ulimit -n 186"), "{why}");
        let why = files(20_000, 20_000, 2, 19_500, &HAS).expect_err("each needs one");
        assert!(why.contains("20000 slow and stalled"), "{why}");
    }

    #[test]
    fn a_rate_above_the_servers_limit_is_warned_of() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let flag = "--user-publish-rate";
        assert_eq!(value_of(&words("relay serve --user-publish-rate 5 --user-publish-rate 7"), flag), Some(7.0));
        assert_eq!(value_of(&words("relay serve --user-publish-rate=5"), flag), Some(5.0));
        assert_eq!(value_of(&words("relay serve --user-publish-rates 5"), flag), None);
    }

    #[test]
    fn a_small_limit_of_open_files_means_smaller_rings_and_not_fewer_users() {
        let few = Has { open_files: 1_024, ..HAS };
        let fit = fit(70_000, address("127.0.0.1:1"), &[], &few);
        assert_eq!((fit.users, fit.ring_sockets), (70_000, 1_000));
    }
}
