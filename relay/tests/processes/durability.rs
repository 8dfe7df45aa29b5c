//! No ack leaves before the journal is on the disk: the relay under strace, its syncs made slow.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::Start;

use crate::client::Client;
use crate::process::{Relay, serve};

/// So much longer every fdatasync takes.
const DELAY: Duration = Duration::from_millis(200);
const CLIENTS: usize = 3;
const LINES_A_CLIENT: usize = 4;

/// When something began and when it was over, seconds since 1970.
#[derive(Debug, Clone, Copy)]
struct Span {
    began: f64,
    ended: f64,
}

#[test]
fn no_ack_leaves_before_a_sync_of_the_journal_that_began_after_its_publish() {
    let dir = tempfile::tempdir().unwrap();
    let traced = serve(&["--data", dir.path().to_str().unwrap()], &[]);
    let mut strace = Command::new("strace");
    // The tracer is the grandchild, so that the process we signal is the relay.
    strace.args(["-D", "-f", "-y", "-ttt", "-T", "--seccomp-bpf", "-o", "/dev/stdout", "-e", "trace=fsync,fdatasync"]);
    strace.arg("-e").arg(format!("inject=fdatasync:delay_enter={}", DELAY.as_micros()));
    strace.arg(traced.get_program()).args(traced.get_args()).stdout(Stdio::piped());
    let mut relay = Relay::start(&mut strace);
    let mut stdout = relay.stdout();
    let trace = thread::spawn(move || {
        let mut trace = String::new();
        stdout.read_to_string(&mut trace).map(|_| trace)
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let address = relay.address;
            thread::spawn(move || acks(address, n))
        })
        .collect();
    let acks: Vec<Span> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert_eq!(relay.stop().code, Some(0));
    let trace = trace.join().unwrap().unwrap();

    let syncs = journal_syncs(&trace);
    assert_eq!(acks.len(), CLIENTS * LINES_A_CLIENT);
    for ack in acks {
        let covers = |sync: &&Span| sync.began >= ack.began && sync.ended <= ack.ended;
        assert!(syncs.iter().any(|sync| covers(&sync)), "no sync within {ack:?}:\n{trace}");
        assert!(ack.ended - ack.began >= DELAY.as_secs_f64(), "{ack:?} did not wait for a slow sync:\n{trace}");
    }
}

/// From just before each publish was sent to just after its ack, or the message itself, had come.
fn acks(address: SocketAddr, n: usize) -> Vec<Span> {
    let room = format!("sync-{n}");
    let mut client = Client::native(address, &format!("user-{n}"));
    client.join(&room, Start::Recent(0));
    (0..LINES_A_CLIENT)
        .map(|k| {
            let began = now();
            let tag = client.publish(&room, &format!("line {k}"), None);
            // Ack and message come in any order; neither may come early.
            client.wait();
            let ended = now();
            client.reply(tag).acked();
            client.lines(1);
            Span { began, ended }
        })
        .collect()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// The successful syncs of the store's journal, from lines of strace:
/// `PID TIME fdatasync(FD</…/0.jnl>) = 0 (DELAYED) <SECONDS>`, which another thread's line may cut in two
/// (`… <unfinished ...>`, then `PID TIME <... fdatasync resumed>) = 0 …`).
fn journal_syncs(trace: &str) -> Vec<Span> {
    let mut unfinished: Vec<(&str, f64)> = Vec::new();
    let mut syncs = Vec::new();
    for line in trace.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let Some((time, call)) = rest.trim_start().split_once(' ') else { continue };
        let is_journal = call.contains(".jnl>");
        if is_journal && call.ends_with("<unfinished ...>") {
            unfinished.push((pid, time.parse().unwrap()));
            continue;
        }
        let began = if is_journal {
            time.parse().unwrap()
        } else if call.starts_with("<... f") {
            let Some(at) = unfinished.iter().position(|(of, _)| *of == pid) else { continue };
            unfinished.remove(at).1
        } else {
            continue;
        };
        let (call, seconds) = call.rsplit_once(" <").unwrap();
        if call.contains(" = 0") {
            let took: f64 = seconds.trim_end_matches('>').parse().unwrap();
            syncs.push(Span { began, ended: began + took });
        }
    }
    syncs
}
