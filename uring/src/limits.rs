//! What this process may use: a process is started with less than it is allowed to ask for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limits of open files and of locked memory to the hard ones. Without the first, a ring holds fewer
/// sockets; without the second, none can be made on some systems.
pub fn raise_limits() {
    for resource in [Resource::Nofile, Resource::Memlock] {
        let Rlimit { current, maximum } = getrlimit(resource);
        if current != maximum {
            // What is refused stays as it was, and is told of where it is too little.
            let _ = setrlimit(resource, Rlimit { current: maximum, maximum });
        }
    }
}

/// How many files this process may have open.
pub fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
