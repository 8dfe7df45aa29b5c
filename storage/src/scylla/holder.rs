//! Who holds a lease: a process, named so that one on the same machine can tell whether it still lives.

use std::fs;

/// Which process holds the lease, as stored beside it: `pid=… host=… start=… boot=… ns=… nonce=…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder(String);

impl Holder {
    /// This process; each value of its own.
    pub fn me() -> Self {
        let pid = std::process::id();
        let host = read("/proc/sys/kernel/hostname");
        let (boot, ns) = machine();
        let start = start_of(pid).unwrap_or_default();
        let nonce = fastrand::u32(..);
        Self(format!("pid={pid} host={host} start={start} boot={boot} ns={ns} nonce={nonce:08x}"))
    }

    /// What was stored.
    pub fn stored(text: String) -> Self {
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// It was a process of this machine that is gone: it can neither write nor acknowledge anything any more.
    pub fn is_dead(&self) -> bool {
        let (boot, ns) = machine();
        // Numbers of processes mean nothing on another machine or in another container.
        if boot.is_empty() || self.part("boot") != Some(&boot) || self.part("ns") != Some(&ns) {
            return false;
        }
        let Some(pid) = self.part("pid").and_then(|pid| pid.parse().ok()) else { return false };
        start_of(pid).as_deref() != self.part("start")
    }

    fn part(&self, name: &str) -> Option<&str> {
        self.0.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [pid, host] = ["pid", "host"].map(|name| self.part(name).unwrap_or("?"));
        write!(f, "another relay (process {pid} on {host})")
    }
}

/// This boot of this machine, and the namespace in which its processes are numbered.
fn machine() -> (String, String) {
    let ns = fs::read_link("/proc/self/ns/pid").map(|ns| ns.display().to_string()).unwrap_or_default();
    (read("/proc/sys/kernel/random/boot_id"), ns)
}

/// When a process started, clock ticks since boot; None when it is gone.
fn start_of(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; the state and 19 more fields follow it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then(|| fields.nth(18).map(str::to_owned))?
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().replace(' ', "-")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_dead_only_when_it_is_known_to_be() {
        let me = Holder::me();
        assert!(!me.is_dead());
        assert_ne!(me, Holder::me());
        assert!(me.to_string().contains(&std::process::id().to_string()));
        let other = |from: &str, to: &str| Holder::stored(me.as_str().replacen(from, to, 1));
        assert!(other("start=", "start=9").is_dead(), "another process has the number now");
        assert!(other("pid=", "pid=4199").is_dead(), "there is no such process");
        assert!(!other("boot=", "boot=x").is_dead(), "another machine");
        assert!(!other("ns=", "ns=x").is_dead(), "another container");
        assert!(!Holder::stored(String::new()).is_dead());
    }
}
