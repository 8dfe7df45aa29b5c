//! Sizes of a ring, and why one could not be made.

use std::fs;
use std::io;

use io_uring::IoUring;

use crate::limits::open_files_max;

/// Sizes of a ring. All memory is allocated when it is made (and touched when it is first used).
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Slots for connections, at most RLIMIT_NOFILE.
    pub sockets: u16,
    /// Provided receive buffers, a power of two, at most 32,768.
    pub recv_buffers: u16,
    /// Bytes of one receive buffer, the most that one [`Event::Received`](crate::Event::Received) brings.
    pub recv_buffer_bytes: u32,
    /// Submission queue entries, a power of two; the completion queue has eight times as many.
    pub queue_entries: u32,
}

/// Why a ring could not be made; each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The kernel is too old, or something forbids io_uring.
    #[error("io_uring is not available: {0}")]
    Unavailable(String),
    /// The kernel limits a fixed-file table as it does a process's descriptors.
    #[error("a ring of {sockets} sockets is over this process's limit of {limit} open files (ulimit -n)")]
    TooManySockets {
        /// What [`Config::sockets`] asked for.
        sockets: u16,
        /// RLIMIT_NOFILE, soft.
        limit: u64,
    },
    /// Anything else, mostly memory.
    #[error("cannot set up io_uring: {0}")]
    Io(#[from] io::Error),
}

/// The ring itself with its empty fixed-file table.
pub fn build(config: &Config) -> Result<IoUring, SetupError> {
    let limit = open_files_max();
    if u64::from(config.sockets) > limit {
        return Err(SetupError::TooManySockets { sockets: config.sockets, limit });
    }
    // Deferred task work needs Linux 6.1, multishot receive does: an older kernel refuses here.
    // Deferred, what arrives is only noted until the thread enters the kernel: it interrupts and wakes nobody but
    // through the eventfd.
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(config.queue_entries.saturating_mul(8))
        .build(config.queue_entries)
        .map_err(explain)?;
    ring.submitter().register_files_sparse(config.sockets.into()).map_err(explain)?;
    Ok(ring)
}

/// Turns the kernel's answer into what is missing and how to allow it.
pub fn explain(error: io::Error) -> SetupError {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => SetupError::Unavailable(
            "this kernel or its container does not have it; Linux 6.1 or newer is needed, and a container's seccomp \
             profile must allow io_uring_setup, io_uring_enter and io_uring_register"
                .into(),
        ),
        Some(libc::EPERM | libc::EACCES) => SetupError::Unavailable(forbidden()),
        Some(libc::EINVAL) => SetupError::Unavailable(format!(
            "Linux 6.1 or newer is needed, this is {} (or a size of the ring is no power of two or too large)",
            read("/proc/sys/kernel/osrelease")
        )),
        Some(libc::EMFILE | libc::ENFILE) => SetupError::Io(io::Error::new(
            error.kind(),
            format!("all {} files that this process may have open are (raise it with ulimit -n)", open_files_max()),
        )),
        Some(libc::ENOMEM) => SetupError::Io(io::Error::new(
            error.kind(),
            "not enough memory, or the limit of locked memory is reached (raise it with ulimit -l)",
        )),
        _ => SetupError::Io(error),
    }
}

fn forbidden() -> String {
    match read("/proc/sys/kernel/io_uring_disabled").as_str() {
        value @ ("1" | "2") => {
            format!("sysctl kernel.io_uring_disabled is {value}; allow it with `sysctl kernel.io_uring_disabled=0`")
        }
        _ => "it is forbidden here; a container's seccomp profile must allow io_uring_setup, io_uring_enter and \
              io_uring_register"
            .into(),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Config, SetupError, build, explain};
    use std::io;

    #[test]
    fn each_refusal_says_what_to_do() {
        let message = |code| explain(io::Error::from_raw_os_error(code)).to_string();
        assert!(message(libc::ENOSYS).contains("seccomp"));
        assert!(message(libc::EPERM).contains("io_uring"));
        assert!(message(libc::EINVAL).contains("Linux 6.1"));
        assert!(message(libc::ENOMEM).contains("ulimit -l"));
        assert!(message(libc::EMFILE).contains("ulimit -n"));
    }

    #[test]
    fn more_sockets_than_open_files_are_refused_by_name() {
        let config = Config { sockets: u16::MAX, recv_buffers: 8, recv_buffer_bytes: 64, queue_entries: 8 };
        match build(&config) {
            Err(SetupError::TooManySockets { sockets, limit }) => {
                assert_eq!(sockets, u16::MAX);
                assert!(limit < u64::from(sockets));
            }
            Err(other) => panic!("{other}"),
            // Only where the limit allows it.
            Ok(_) => assert!(super::open_files_max() >= u64::from(u16::MAX)),
        }
    }
}
