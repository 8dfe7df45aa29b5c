//! CPU time of a process by the names of its threads.

use std::collections::BTreeMap;
use std::fs;

/// Nanoseconds by thread name; numbered threads of one kind count as one.
#[derive(Debug, Clone, Default)]
pub struct Cpu(BTreeMap<String, u64>);

impl Cpu {
    /// Of all threads of the process so far, except those of this name.
    pub fn of(pid: u32, except: &str) -> Self {
        let mut by_name = BTreeMap::new();
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            // A thread may end meanwhile.
            let Ok(name) = fs::read_to_string(task.path().join("comm")) else { continue };
            let Ok(stat) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            let name = name.trim().trim_end_matches(|c: char| c.is_ascii_digit() || c == '-' || c == '#');
            let ns = stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
            if name != except {
                *by_name.entry(name.to_owned()).or_default() += ns;
            }
        }
        Self(by_name)
    }

    /// What was used since `before`, by name, the most first.
    pub fn since(&self, before: &Self) -> Vec<(String, u64)> {
        let used =
            |(name, ns): (&String, &u64)| (name.clone(), ns.saturating_sub(before.0.get(name).copied().unwrap_or(0)));
        let mut used: Vec<_> = self.0.iter().map(used).collect();
        used.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
        used
    }
}
