//! Bytes that come in, or not for now.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use uring::{Config, Segment, Socket, Wake};

use crate::rig::{CONFIG, Happening, Rig, pattern};

#[test]
fn few_buffers_and_many_senders_lose_nothing() {
    const SENDERS: usize = 50;
    const BYTES: usize = 20_000;
    let mut rig = Rig::new(&[Config { recv_buffers: 4, recv_buffer_bytes: 100, ..CONFIG }]);
    let mut received: HashMap<Socket, (usize, Vec<u8>)> = HashMap::new();
    for seed in 0..SENDERS {
        let (mut client, socket) = rig.client(0);
        client.write_all(&pattern(seed, BYTES)).unwrap();
        received.insert(socket, (seed, Vec::new()));
    }
    let mut ended = 0;
    let mut happened = rig.turn();
    while ended < SENDERS {
        for (_, happening) in happened {
            match happening {
                Happening::Received(socket, bytes) => received.get_mut(&socket).unwrap().1.extend(bytes),
                Happening::Ended(_, None) => ended += 1,
                other => panic!("{other:?}"),
            }
        }
        happened = if ended < SENDERS { rig.woken("the senders") } else { Vec::new() };
    }
    for (seed, bytes) in received.values() {
        assert!(*bytes == pattern(*seed, BYTES), "sender {seed}");
    }
}

/// 64 completion entries for 500 sockets that all have bytes: receives end because the queue is full, and go on.
#[test]
fn receiving_goes_on_after_the_completion_queue_was_full() {
    const SOCKETS: usize = 500;
    let config = Config { sockets: SOCKETS as u16, recv_buffers: 1024, queue_entries: 8, ..CONFIG };
    let mut rig = Rig::new(&[config]);
    let mut clients: Vec<_> = (0..SOCKETS).map(|_| rig.client(0)).collect();
    rig.turn();
    for round in 0..3 {
        for (client, _) in &mut clients {
            client.write_all(&[round; 10]).unwrap();
        }
        let mut received = 0;
        while received < SOCKETS * 10 {
            for (_, happening) in rig.woken("all the bytes") {
                let Happening::Received(_, bytes) = happening else { panic!("{happening:?}") };
                assert!(bytes.iter().all(|byte| *byte == round));
                received += bytes.len();
            }
        }
    }
}

#[test]
fn a_paused_socket_receives_nothing_until_it_is_resumed() {
    let mut rig = Rig::new(&[CONFIG]);
    let (mut slow, paused) = rig.client(0);
    let (mut quick, other) = rig.client(0);
    slow.write_all(b"before").unwrap();
    assert_eq!(receive(&mut rig, paused, 6), b"before");
    rig.rings[0].pause(paused);
    rig.turn();
    slow.write_all(b"meanwhile").unwrap();
    for round in 0..100 {
        quick.write_all(&pattern(round, 10)).unwrap();
        assert_eq!(receive(&mut rig, other, 10), pattern(round, 10));
    }
    rig.rings[0].resume(paused);
    assert_eq!(receive(&mut rig, paused, 9), b"meanwhile");
}

#[test]
fn pausing_and_resuming_at_once_keeps_receiving() {
    let mut rig = Rig::new(&[CONFIG]);
    let (mut client, socket) = rig.client(0);
    for round in 0..50 {
        rig.rings[0].pause(socket);
        rig.rings[0].resume(socket);
        if round % 2 == 0 {
            assert!(rig.turn().is_empty());
        }
        rig.rings[0].pause(socket);
        rig.rings[0].pause(socket);
        rig.rings[0].resume(socket);
        if round % 3 == 0 {
            assert!(rig.turn().is_empty());
        }
        client.write_all(&pattern(round, 100)).unwrap();
        assert_eq!(receive(&mut rig, socket, 100), pattern(round, 100));
    }
}

/// Exactly `len` bytes of this socket; events of others fail.
fn receive(rig: &mut Rig, from: Socket, len: usize) -> Vec<u8> {
    let mut received = Vec::new();
    while received.len() < len {
        for (_, happening) in rig.next("bytes") {
            match happening {
                Happening::Received(socket, bytes) if socket == from => received.extend(bytes),
                other => panic!("{other:?}"),
            }
        }
    }
    received
}

#[test]
fn a_peer_that_stops_writing_still_gets_an_answer() {
    let mut rig = Rig::new(&[CONFIG]);
    let (mut client, socket) = rig.client(0);
    client.shutdown(Shutdown::Write).unwrap();
    assert!(matches!(rig.next("the end")[..], [(0, Happening::Ended(s, None))] if s == socket));
    rig.rings[0].send(socket, Segment::from(b"bye".to_vec()));
    rig.close(0, socket);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "bye");
}

#[test]
fn a_reset_ends_the_connection_with_its_error() {
    let mut rig = Rig::new(&[CONFIG]);
    let (client, socket) = rig.client(0);
    rig.turn();
    reset(client);
    match &rig.next("the reset")[..] {
        [(0, Happening::Ended(s, Some(error)))] if *s == socket => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        other => panic!("{other:?}"),
    }
    rig.close(0, socket);
}

fn reset(client: TcpStream) {
    socket2::Socket::from(client).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_wake_from_another_thread_ends_the_wait() {
    let wake = Wake::new().unwrap();
    let woken = Arc::new(AtomicBool::new(false));
    let (their_wake, they_woke) = (wake.clone(), Arc::clone(&woken));
    let start = Instant::now();
    let thread = thread::spawn(move || {
        they_woke.store(true, Ordering::SeqCst);
        their_wake.wake();
    });
    wake.wait(Duration::from_secs(60));
    assert!(woken.load(Ordering::SeqCst) && start.elapsed() < Duration::from_secs(60));
    thread.join().unwrap();
    // It is remembered until it is cleared.
    wake.wait(Duration::from_secs(60));
    assert!(start.elapsed() < Duration::from_secs(60));
    wake.clear();
    let start = Instant::now();
    wake.wait(Duration::from_millis(20));
    assert!(start.elapsed() >= Duration::from_millis(20));
}
