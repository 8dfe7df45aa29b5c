//! What a ring costs on this machine: user memory of an idle connection, CPU of a send and of a close.
//!
//! `cargo run --release -p uring --example cost -- [CONNECTIONS] [BYTES]`: one ring serves, one in a child process has
//! the other ends (so RLIMIT_NOFILE must allow CONNECTIONS in each).

use std::env;
use std::fs;
use std::io::{self, Error};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use uring::{Config, Event, Ring, Segment, Socket, Wake};

/// Sends between two turns.
const CHUNK: usize = 128;
const ROUNDS: usize = 20;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().collect();
    let number = |index: usize, default| arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(default);
    match arguments.get(1).map(String::as_str) {
        Some("peer") => peer(number(2, 0), number(3, 0) as u16),
        _ => serve(number(1, 10_000), number(2, 1024)),
    }
}

fn config(connections: usize) -> Config {
    Config { sockets: connections as u16, recv_buffers: 512, recv_buffer_bytes: 2048, queue_entries: 1024 }
}

fn serve(connections: usize, bytes: usize) -> io::Result<()> {
    let wake = Wake::new()?;
    let mut ring = Ring::new(config(connections), &wake).map_err(Error::other)?;
    let listener = uring::listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 4096, false, None)?;
    let port = listener.local_addr()?.port();
    ring.listen(listener);
    let mut peer = start_peer(connections, port)?;
    let mut sockets: Vec<Socket> = Vec::with_capacity(connections);

    let first = connections / 5;
    let (mut base, start) = (None, cpu()?);
    while sockets.len() < connections {
        accept(&mut ring, &wake, &mut sockets);
        if sockets.len() >= first && base.is_none() {
            base = Some((resident()?, sockets.len()));
        }
    }
    let opened = cpu()? - start;
    let (base, at) = base.unwrap_or_default();
    println!("accept and register: {:.1} us of CPU a connection", micros(opened, connections));
    let grown = (resident()? - base) as f64 / (connections - at) as f64;
    println!("user memory: {grown:.0} bytes an idle connection (from {at} to {connections})");

    let segment = Segment::from(vec![7; bytes]);
    let start = (cpu()?, Instant::now());
    let mut taken = 0;
    for _ in 0..ROUNDS {
        for chunk in sockets.chunks(CHUNK) {
            taken += sweep(&mut ring, &wake, chunk, &segment);
        }
    }
    let (used, sends) = (cpu()? - start.0, ROUNDS * connections);
    println!(
        "send of {bytes} bytes: {:.2} us of CPU, {taken} of {sends} taken whole, in {:?}",
        micros(used, sends),
        start.1.elapsed()
    );

    let start = cpu()?;
    for chunk in sockets.chunks(CHUNK) {
        chunk.iter().for_each(|socket| ring.close(*socket));
        ring.turn(|_| {});
    }
    while ring.free() < connections {
        wait(&mut ring, &wake, |_| {});
    }
    println!("close: {:.1} us of CPU", micros(cpu()? - start, connections));
    peer.wait().map(drop)
}

fn start_peer(connections: usize, port: u16) -> io::Result<Child> {
    Command::new(env::current_exe()?).args(["peer".into(), connections.to_string(), port.to_string()]).spawn()
}

fn accept(ring: &mut Ring, wake: &Wake, sockets: &mut Vec<Socket>) {
    let mut accepted = Vec::new();
    wait(ring, wake, |event| {
        if let Event::Accepted(fd) = event {
            accepted.push(fd);
        }
    });
    sockets.extend(accepted.into_iter().filter_map(|fd| ring.register(fd).ok()));
}

/// One send to each; returns how many were taken whole.
fn sweep(ring: &mut Ring, wake: &Wake, sockets: &[Socket], segment: &Segment) -> usize {
    for socket in sockets {
        ring.send(*socket, segment.clone());
    }
    let (mut sent, mut taken) = (0, 0);
    while sent < sockets.len() {
        wait(ring, wake, |event| {
            if let Event::Sent(_, result) = event {
                sent += 1;
                taken += usize::from(result.is_ok_and(|n| n == segment.len()));
            }
        });
    }
    taken
}

/// A turn; when nothing happened, a wait and another one.
fn wait(ring: &mut Ring, wake: &Wake, mut each: impl FnMut(Event<'_>)) {
    wake.clear();
    if ring.turn(&mut each) == 0 {
        wake.wait(Duration::from_secs(10));
    }
}

fn peer(connections: usize, port: u16) -> io::Result<()> {
    let wake = Wake::new()?;
    let mut ring = Ring::new(config(connections), &wake).map_err(Error::other)?;
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (mut opened, mut connected, mut ended) = (0, 0, 0);
    while ended < connections {
        while opened < connections && opened - connected < 256 {
            let source = Ipv4Addr::new(127, 0, 1, (opened / 3_000) as u8);
            ring.connect(Some((source, 0).into()), target)?;
            opened += 1;
        }
        wait(&mut ring, &wake, |event| match event {
            Event::Connected(..) => connected += 1,
            Event::Ended(..) => ended += 1,
            _ => {}
        });
    }
    Ok(())
}

fn micros(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

/// CPU of this thread, user and kernel.
fn cpu() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split(' ').next().and_then(|word| word.parse().ok());
    Ok(Duration::from_nanos(nanos.ok_or_else(|| Error::other("schedstat"))?))
}

/// Bytes of user memory.
fn resident() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages: Option<u64> = text.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok(pages.ok_or_else(|| Error::other("statm"))? * 4096)
}
