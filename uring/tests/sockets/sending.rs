//! What the kernel takes, when it takes less, and what happens to the bytes meanwhile.

use std::io::{ErrorKind, Read};
use std::thread;

use uring::{Chunk, Config, Segment};

use crate::rig::{CONFIG, Happening, Rig, Sender, pattern};

const PIECE: usize = 60_000;

#[test]
fn a_stalled_reader_gets_every_byte_as_it_was_when_it_was_sent() {
    let mut rig = Rig::new(&[CONFIG]);
    let (mut client, socket) = rig.client(0);
    let mut stream = Vec::new();
    let mut others = Vec::new();
    // Nobody reads: pieces go in until the kernel takes no more. Each is dropped here at once, and its memory, if it
    // were free, would be taken by one of the others.
    'full: for seed in 0.. {
        let mut piece = Segment::from(pattern(seed, PIECE));
        while !piece.is_empty() {
            let bytes = piece.bytes().to_vec();
            rig.rings[0].send(socket, piece);
            others.push(Segment::from(vec![0xAA; PIECE]));
            match rig.next("a send").pop() {
                Some((_, Happening::Sent(_, Ok(n)))) => {
                    stream.extend_from_slice(&bytes[..n]);
                    piece = Segment::from(bytes).skip(n);
                }
                Some((_, Happening::Sent(_, Err(error)))) if error.kind() == ErrorKind::WouldBlock => {
                    break 'full;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(stream.len() > PIECE);
    rig.rings[0].wait_writable(socket);
    let expected = stream.clone();
    let reader = thread::spawn(move || {
        let mut read = Vec::new();
        client.read_to_end(&mut read).unwrap();
        read
    });
    assert!(matches!(rig.next("room to send")[..], [(0, Happening::Writable(s))] if s == socket));
    rig.rings[0].send(socket, Segment::from(b"the end".to_vec()));
    assert!(matches!(rig.next("the last send")[..], [(0, Happening::Sent(_, Ok(7)))]));
    rig.close(0, socket);
    assert!(reader.join().unwrap() == [expected, b"the end".to_vec()].concat());
}

#[test]
fn a_send_larger_than_the_buffers_is_taken_in_parts() {
    let mut rig = Rig::new(&[CONFIG]);
    let (mut client, socket) = rig.client(0);
    let bytes = pattern(7, 20 << 20);
    let mut sender = Sender::default();
    sender.add(&mut rig, 0, socket, &bytes);
    let reader = thread::spawn(move || {
        let mut read = Vec::new();
        client.read_to_end(&mut read).unwrap();
        read
    });
    while !sender.is_done() {
        for (ring, happening) in rig.next("20 MiB") {
            assert!(sender.on(&mut rig, ring, happening).is_none());
        }
    }
    rig.close(0, socket);
    assert!(reader.join().unwrap() == bytes);
    assert!(sender.short > 0 && sender.blocked > 0, "{} short sends, {} blocked", sender.short, sender.blocked);
}

#[test]
fn one_chunk_is_shared_by_all_sockets_while_it_grows() {
    let mut rig = Rig::new(&[CONFIG]);
    let chunk = Chunk::with_capacity(10_000);
    let mut clients: Vec<_> = (0..10).map(|_| rig.client(0)).collect();
    for round in 0..100 {
        assert!(chunk.append(&pattern(round, 100)));
        for (_, socket) in &clients {
            rig.rings[0].send(*socket, chunk.segment(round * 100, (round + 1) * 100));
        }
        let mut sent = 0;
        while sent < clients.len() {
            for (_, happening) in rig.next("the sends of a round") {
                assert!(matches!(happening, Happening::Sent(_, Ok(100))), "{happening:?}");
                sent += 1;
            }
        }
    }
    for (client, _) in &mut clients {
        let mut read = vec![0; 10_000];
        client.read_exact(&mut read).unwrap();
        assert!(read == chunk.segment(0, 10_000).bytes());
    }
}

/// 8 submission and 64 completion entries for 500 sockets: queues overflow on both sides.
#[test]
fn more_operations_than_the_queues_hold_all_complete() {
    const SOCKETS: usize = 500;
    let config = Config { sockets: SOCKETS as u16, queue_entries: 8, ..CONFIG };
    let mut rig = Rig::new(&[config]);
    let clients: Vec<_> = (0..SOCKETS).map(|_| rig.client(0)).collect();
    for (i, (_, socket)) in clients.iter().enumerate() {
        rig.rings[0].send(*socket, Segment::from(pattern(i, 50)));
    }
    let mut sent = rig.turn().len();
    while sent < SOCKETS {
        for (_, happening) in rig.woken("500 sends") {
            assert!(matches!(happening, Happening::Sent(_, Ok(50))), "{happening:?}");
            sent += 1;
        }
    }
    for (i, (client, _)) in clients.iter().enumerate() {
        let mut read = [0; 50];
        (&*client).read_exact(&mut read).unwrap();
        assert_eq!(read[..], pattern(i, 50));
    }
    for (_, socket) in &clients {
        rig.rings[0].close(*socket);
    }
    while rig.rings[0].free() < SOCKETS {
        rig.next("500 closes");
    }
}

#[test]
fn a_send_to_a_closed_socket_is_ignored() {
    let mut rig = Rig::new(&[CONFIG]);
    let (mut client, socket) = rig.client(0);
    rig.rings[0].close(socket);
    rig.rings[0].send(socket, Segment::from(b"late".to_vec()));
    rig.close(0, socket);
    rig.rings[0].send(socket, Segment::from(b"later".to_vec()));
    rig.rings[0].wait_writable(socket);
    assert!(rig.turn().is_empty());
    assert_eq!(client.read(&mut [0; 10]).unwrap(), 0);
}

#[test]
#[should_panic(expected = "Send is pending")]
fn a_second_send_in_flight_is_a_mistake() {
    let mut rig = Rig::new(&[CONFIG]);
    let (_client, socket) = rig.client(0);
    rig.rings[0].send(socket, Segment::from(b"one".to_vec()));
    rig.rings[0].send(socket, Segment::from(b"two".to_vec()));
}
