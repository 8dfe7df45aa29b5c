//! Variants that take turns, and the table of what each cost.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::machine::{self, Watch};
use crate::peer::{self, Group};
use crate::sender::{Operation, Sender, Sent};

/// Time for one visit to every socket of `FULL_SOCKETS`; fewer sockets get as much less.
const PERIOD: Duration = Duration::from_millis(500);
const FULL_SOCKETS: usize = 10_000;
/// Until the peer has read everything.
const REST: Duration = Duration::from_millis(50);

/// Socket options, inherited from the listener.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub send_buffer_bytes: Option<usize>,
    pub congestion: Option<&'static str>,
}

/// Whether a period's chunks are spread over it or follow each other at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sweep {
    Paced,
    Burst,
}

/// One way to send to the sockets of one group.
#[derive(Debug, Clone, Copy)]
pub struct Variant {
    pub bytes: usize,
    pub chunk: usize,
    pub sweep: Sweep,
    pub operation: Operation,
    pub group: usize,
}

impl Default for Variant {
    fn default() -> Self {
        Self { bytes: 0, chunk: 128, sweep: Sweep::Paced, operation: Operation::Send, group: 0 }
    }
}

/// What one variant has cost so far.
#[derive(Debug, Clone, Default)]
struct Cost {
    /// Microseconds of the sender's thread a send, one for each round.
    sender_us: Vec<f64>,
    peer_us: Vec<f64>,
    /// More than before the period, whoever's it is, bytes.
    memory_max: u64,
    sent: Sent,
    took: Duration,
}

/// Opens `sockets` connections of each of the `kinds` and gives every variant its turn, `rounds` times.
pub fn compare(
    name: &str,
    rounds: usize,
    sockets: usize,
    kinds: &[Options],
    stalled: usize,
    variants: &[Variant],
) -> io::Result<()> {
    println!("{}\n{name}: {sockets} sockets of each kind, {rounds} rounds\n", machine::describe());
    let listeners = kinds.iter().flat_map(|options| [(options, sockets, false), (options, stalled, true)]);
    let listeners = listeners.filter(|&(_, count, _)| count > 0);
    let listeners = listeners.map(|(options, count, stalled)| Ok((listen(*options)?, count, stalled)));
    let listeners: Vec<_> = listeners.collect::<io::Result<_>>()?;
    let groups: io::Result<Vec<_>> = listeners
        .iter()
        .map(|&(ref listener, count, stalled)| Ok(Group { port: listener.local_addr()?.port(), count, stalled }))
        .collect();
    let groups = groups?;
    let mut sender = Sender::new(groups.iter().map(|group| group.count).sum())?;
    let mut peer = peer::start(&groups)?;
    let (mut flowing, mut stuck) = (Vec::new(), Vec::new());
    for (listener, count, stalled) in &listeners {
        let slots = sender.accept(listener, *count)?;
        if *stalled { stuck.push(slots) } else { flowing.push(slots) }
    }
    let mut costs = vec![Cost::default(); variants.len()];
    let watch = Watch::start();
    for _ in 0..rounds {
        for (variant, cost) in variants.iter().zip(&mut costs) {
            thread::sleep(REST);
            period(&mut sender, peer.id(), &flowing[variant.group], variant, &watch, cost)?;
        }
    }
    print(kinds, variants, &costs);
    for (options, slots) in kinds.iter().zip(&stuck) {
        let swallowed = fill(&mut sender, slots)? / slots.len() as u64;
        println!("{:<16} a reader that reads nothing takes {} KiB", label(*options), swallowed >> 10);
    }
    drop(sender);
    peer.wait().map(drop)
}

fn listen(options: Options) -> io::Result<TcpListener> {
    let listener = uring::listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 4096, false, options.send_buffer_bytes)?;
    if let Some(name) = options.congestion {
        SockRef::from(&listener).set_tcp_congestion(name.as_bytes())?;
    }
    Ok(listener)
}

/// One visit to every socket, in chunks.
fn period(
    sender: &mut Sender,
    peer: u32,
    slots: &[u32],
    variant: &Variant,
    watch: &Watch,
    cost: &mut Cost,
) -> io::Result<()> {
    let memory_before = machine::socket_memory();
    watch.take();
    let (sender_cpu, peer_cpu) = (machine::cpu(None)?, machine::cpu(Some(peer))?);
    let (begin, length) = (Instant::now(), PERIOD * slots.len() as u32 / FULL_SOCKETS as u32);
    let chunks = slots.len().div_ceil(variant.chunk) as u32;
    let mut sent = Sent::default();
    for (chunk, nth) in slots.chunks(variant.chunk).zip(0..) {
        if variant.sweep == Sweep::Paced {
            thread::sleep((begin + length * nth / chunks).saturating_duration_since(Instant::now()));
        }
        let one = sender.sweep(chunk, variant.operation, variant.bytes)?;
        sent.add(one);
    }
    cost.took = cost.took.max(begin.elapsed());
    thread::sleep((begin + length).saturating_duration_since(Instant::now()) + REST);
    sender.settle(&mut sent)?;
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / slots.len() as f64;
    cost.sender_us.push(each(machine::cpu(None)?.saturating_sub(sender_cpu)));
    cost.peer_us.push(each(machine::cpu(Some(peer))?.saturating_sub(peer_cpu)));
    cost.memory_max = cost.memory_max.max(watch.take().saturating_sub(memory_before));
    cost.sent.add(sent);
    Ok(())
}

/// Sends until nothing more is taken; returns the bytes.
fn fill(sender: &mut Sender, slots: &[u32]) -> io::Result<u64> {
    let mut bytes = 0;
    loop {
        let sent = sender.sweep(slots, Operation::Send, 16 << 10)?;
        bytes += sent.bytes;
        if sent.bytes == 0 {
            return Ok(bytes);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn print(kinds: &[Options], variants: &[Variant], costs: &[Cost]) {
    println!(
        "{:<16}{:>6}{:>7}  {:<6} {:<12}{:>18}{:>9}{:>11}{:>8}{:>8}{:>9}{:>8}",
        "options",
        "KiB",
        "chunk",
        "sweep",
        "operation",
        "sender us (best)",
        "peer us",
        "memory MB",
        "ms",
        "short",
        "refused",
        "copied"
    );
    for (variant, cost) in variants.iter().zip(costs) {
        let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
        let best = cost.sender_us.iter().copied().fold(f64::INFINITY, f64::min);
        println!(
            "{:<16}{:>6}{:>7}  {:<6} {:<12}{:>18}{:>9.2}{:>11}{:>8}{:>8}{:>9}{:>8}",
            label(kinds[variant.group]),
            variant.bytes >> 10,
            variant.chunk,
            format!("{:?}", variant.sweep).to_lowercase(),
            format!("{:?}", variant.operation),
            format!("{:.2} ({best:.2})", mean(&cost.sender_us)),
            mean(&cost.peer_us),
            cost.memory_max >> 20,
            cost.took.as_millis(),
            cost.sent.short,
            cost.sent.refused,
            cost.sent.copied
        );
    }
}

fn label(options: Options) -> String {
    match (options.send_buffer_bytes, options.congestion) {
        (_, Some(name)) => name.to_owned(),
        (Some(bytes), _) => format!("sndbuf {}K", bytes >> 10),
        (None, None) => "default".to_owned(),
    }
}
