//! Ends: of sockets with operations in flight, and of whole rings.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use uring::{Ring, Segment, Socket};

use crate::rig::{CONFIG, Happening, Rig, local_listener, pattern};

#[test]
fn closing_while_a_send_is_queued_sends_it_first() {
    let mut rig = Rig::new(&[CONFIG]);
    let (mut client, socket) = rig.client(0);
    rig.turn();
    rig.rings[0].send(socket, Segment::from(b"goodbye".to_vec()));
    rig.close(0, socket);
    let mut read = String::new();
    client.read_to_string(&mut read).unwrap();
    assert_eq!(read, "goodbye");
}

#[test]
fn closing_while_bytes_come_in_brings_none_of_them() {
    let mut rig = Rig::new(&[CONFIG]);
    for round in 0..100 {
        let (mut client, socket) = rig.client(0);
        if round % 2 == 0 {
            rig.turn();
        }
        client.write_all(b"too late").unwrap();
        rig.close(0, socket);
        // Unread bytes make it a reset.
        assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
}

#[test]
fn closing_while_it_waits_for_room_ends_it() {
    let mut rig = Rig::new(&[CONFIG]);
    let (_client, socket) = rig.client(0);
    fill(&mut rig, socket);
    rig.rings[0].wait_writable(socket);
    rig.turn();
    rig.rings[0].close(socket);
    rig.rings[0].close(socket);
    rig.close(0, socket);
    assert_eq!(rig.rings[0].free(), usize::from(CONFIG.sockets));
    rig.rings[0].close(socket);
    assert!(rig.turn().is_empty());
}

/// Sends until the kernel takes no more.
fn fill(rig: &mut Rig, socket: Socket) {
    loop {
        rig.rings[0].send(socket, Segment::from(pattern(1, 1 << 20)));
        if matches!(rig.next("a send")[..], [(0, Happening::Sent(_, Err(_)))]) {
            return;
        }
    }
}

#[test]
fn closing_before_the_first_turn_frees_the_slot() {
    let mut rig = Rig::new(&[CONFIG]);
    let (mut client, socket) = rig.client(0);
    rig.close(0, socket);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    let (_client, again) = rig.client(0);
    assert_eq!((again.slot, again.generation), (socket.slot, socket.generation + 1));
}

#[test]
fn closing_while_connecting_ends_it() {
    let mut rig = Rig::new(&[CONFIG]);
    // Nobody accepts and the queue of this listener is full after a few: the others go on connecting.
    let listener = uring::listener("127.0.0.1:0".parse().unwrap(), 1, false, None).unwrap();
    let target = listener.local_addr().unwrap();
    let sockets: Vec<_> = (0..8).map(|_| rig.rings[0].connect(None, target).unwrap()).collect();
    let connected = rig.next("a connection").len();
    assert!(connected < 8, "all were connected");
    for socket in sockets {
        rig.rings[0].close(socket);
    }
    let mut closed = 0;
    while closed < 8 {
        for (_, happening) in rig.next("Closed") {
            assert!(matches!(happening, Happening::Closed(_)), "{happening:?}");
            closed += 1;
        }
    }
    assert_eq!(rig.rings[0].free(), usize::from(CONFIG.sockets));
}

#[test]
fn a_refused_connection_says_so_and_is_closed_like_any_other() {
    let mut rig = Rig::new(&[CONFIG]);
    let (listener, target) = local_listener();
    drop(listener);
    let socket = rig.rings[0].connect(None, target).unwrap();
    match &rig.next("the refusal")[..] {
        [(0, Happening::Connected(s, Err(error)))] if *s == socket => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        other => panic!("{other:?}"),
    }
    rig.close(0, socket);
}

#[test]
fn dropping_a_ring_with_everything_in_flight_closes_everything() {
    let mut rig = Rig::new(&[CONFIG]);
    let (mut idle, _) = rig.client(0);
    let (mut stalled, full) = rig.client(0);
    fill(&mut rig, full);
    rig.rings[0].wait_writable(full);
    let full_queue = uring::listener("127.0.0.1:0".parse().unwrap(), 1, false, None).unwrap();
    for _ in 0..8 {
        rig.rings[0].connect(None, full_queue.local_addr().unwrap()).unwrap();
    }
    let (listener, address) = local_listener();
    rig.rings[0].listen(listener);
    rig.turn();
    // And some that the kernel has not seen yet.
    let (mut late, unsent) = rig.client(0);
    rig.rings[0].send(unsent, Segment::from(b"last words".to_vec()));
    rig.rings.clear();

    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0);
    let mut words = String::new();
    late.read_to_string(&mut words).unwrap();
    assert_eq!(words, "last words");
    assert!(stalled.read_to_end(&mut Vec::new()).unwrap() > 0);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn rings_come_and_go() {
    let start = Instant::now();
    for _ in 0..20 {
        let mut rig = Rig::new(&[CONFIG, CONFIG]);
        let (mut client, _) = rig.client(1);
        rig.turn();
        drop(rig);
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    }
    // A drop that ran out of patience would leak: two seconds each.
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_ring_is_refused_with_a_reason() {
    let wake = uring::Wake::new().unwrap();
    let bad = uring::Config { recv_buffers: 3, ..CONFIG };
    let message = Ring::new(bad, &wake).err().unwrap().to_string();
    assert!(message.contains("power of two"), "{message}");
}
