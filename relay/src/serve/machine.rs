//! What this machine must allow, looked at before anything is begun: the threads that would miss it cannot tell.

use anyhow::bail;
use rustix::process::{Resource, getrlimit};
use rustix::system::sysinfo;
use tracing::warn;
use uring::{Config, Ring, Wake};

use super::admission::Capacity;

/// A ring to see whether the kernel gives any.
const PROBE: Config = Config { sockets: 8, recv_buffers: 8, recv_buffer_bytes: 64, queue_entries: 8 };
/// Locked memory that glommio asks for before it makes an executor, bytes.
const LOCKED_BYTES_MIN: u64 = 512 * 1024;
/// Address space that is mapped long before it is used, bytes: of a shard (its rings and stacks), and of everything else
/// (the allocator's arenas, above all). Seen: 1.7 GiB with two shards, 2.1 with eight.
const ADDRESS_BYTES_MIN: (u64, u64) = (64 << 20, 1792 << 20);
/// Descriptors that a relay needs beside its connections, which are not among them: of a shard, and of everything else.
const FILES_MIN: (u64, u64) = (16, 128);
/// Memory of an open connection that does nothing, bytes: 450 of the relay, the rest of the kernel.
const CONNECTION_BYTES: u64 = 4096;

/// Refuses a start that cannot succeed here.
pub fn check(capacity: &Capacity, wake: &Wake) -> anyhow::Result<()> {
    if let Some(locked) = getrlimit(Resource::Memlock).current.filter(|locked| *locked < LOCKED_BYTES_MIN) {
        bail!(
            "locked memory is limited to {} KiB, but io_uring needs at least {} KiB; raise the hard limit (ulimit -l, LimitMEMLOCK= of a systemd unit, --ulimit memlock= of a container)",
            locked / 1024,
            LOCKED_BYTES_MIN / 1024
        );
    }
    let shards = capacity.shards as u64;
    let mapped = ADDRESS_BYTES_MIN.1 + ADDRESS_BYTES_MIN.0 * shards;
    if let Some(space) = getrlimit(Resource::As).current.filter(|space| *space < mapped) {
        bail!(
            "address space is limited to {} MiB, but the relay maps more than it uses and needs at least {} MiB; raise the limit (ulimit -v), or limit memory by a cgroup instead",
            space >> 20,
            mapped >> 20
        );
    }
    let (files, needed) = (uring::open_files_max(), FILES_MIN.1 + FILES_MIN.0 * shards);
    if files < needed {
        bail!(
            "open files are limited to {files}, but {shards} shards need at least {needed}; raise the hard limit (ulimit -n, LimitNOFILE= of a systemd unit)"
        );
    }
    let info = sysinfo();
    let memory = info.totalram * u64::from(info.mem_unit);
    let wanted = capacity.connections as u64 * CONNECTION_BYTES;
    if wanted > memory {
        warn!(
            "--max-connections {} would take {} GiB when all of them are open, but this machine has {} GiB",
            capacity.connections,
            wanted >> 30,
            memory >> 30
        );
    }
    Ring::new(PROBE, wake)?;
    Ok(())
}
