//! What sending to a giant room costs in other ways: size of a visit, chunk, pacing, operation, socket options.
//!
//! `cargo run --release -p uring --example sending -- visits|operations|buffers|congestion`: one ring sends to sockets
//! whose other ends a child process reads (RLIMIT_NOFILE must allow 10,500 in each). Variants take turns, a period
//! each, several rounds: the speed of a shared machine changes faster than that of the code.

mod machine;
mod peer;
mod sender;
mod trial;

use std::env;
use std::io::{self, Error};

use sender::Operation;
use trial::{Options, Sweep, Variant, compare};

const SOCKETS: usize = 10_000;
/// What the relay gives its connections.
const RELAY: Options = Options { send_buffer_bytes: Some(64 * KIB), congestion: None };
/// Of each kind of socket, readers that read nothing.
const STALLED: usize = 8;
const KIB: usize = 1024;
const PACED_AND_BURST: [Sweep; 2] = [Sweep::Paced, Sweep::Burst];

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match words[..] {
        ["peer", ref groups @ ..] => peer::run(groups),
        ["visits"] => visits(),
        ["operations"] => operations(),
        ["buffers"] => buffers(),
        ["congestion"] => congestion(),
        _ => Err(Error::other("valid is one of visits, operations, buffers, congestion")),
    }
}

/// Bytes of a visit × visits of a chunk × paced or at once.
fn visits() -> io::Result<()> {
    let variants: Vec<_> = [1, 4, 16, 24, 48]
        .into_iter()
        .flat_map(|kib| [32, 128, 512, 1024].map(|chunk| (kib * KIB, chunk)))
        .flat_map(|(bytes, chunk)| PACED_AND_BURST.map(|sweep| Variant { bytes, chunk, sweep, ..Variant::default() }))
        .collect();
    compare("visits", 2, SOCKETS, &[RELAY], 0, &variants)
}

/// SEND against zero-copy and registered memory.
fn operations() -> io::Result<()> {
    let all = [Operation::Send, Operation::WriteFixed, Operation::SendZc, Operation::SendZcFixed];
    let variants: Vec<_> = [1, 4, 24]
        .into_iter()
        .flat_map(|kib| all.map(|operation| Variant { bytes: kib * KIB, operation, ..Variant::default() }))
        .collect();
    compare("operations", 4, SOCKETS, &[RELAY], 0, &variants)
}

/// SO_SNDBUF.
fn buffers() -> io::Result<()> {
    let kinds = [None, Some(32), Some(64), Some(128), Some(256)]
        .map(|kib| Options { send_buffer_bytes: kib.map(|kib| kib * KIB), congestion: None });
    let variants: Vec<_> = [16, 24, 48]
        .into_iter()
        .flat_map(|kib| (0..kinds.len()).map(move |group| (kib * KIB, group)))
        .flat_map(|(bytes, group)| PACED_AND_BURST.map(|sweep| Variant { bytes, group, sweep, ..Variant::default() }))
        .collect();
    compare("buffers", 8, SOCKETS / kinds.len(), &kinds, STALLED, &variants)
}

/// Congestion control.
fn congestion() -> io::Result<()> {
    let kinds = ["cubic", "bbr", "reno"].map(|name| Options { congestion: Some(name), ..RELAY });
    let variants: Vec<_> = [1, 4, 24]
        .into_iter()
        .flat_map(|kib| (0..kinds.len()).map(move |group| (kib * KIB, group)))
        .flat_map(|(bytes, group)| PACED_AND_BURST.map(|sweep| Variant { bytes, group, sweep, ..Variant::default() }))
        .collect();
    compare("congestion", 8, SOCKETS / kinds.len(), &kinds, STALLED, &variants)
}
