//! Whole conversations.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use uring::{Config, Socket};

use crate::rig::{CONFIG, Happening, Rig, Sender, local_listener, pattern};

#[test]
fn what_std_clients_write_comes_back() {
    const CLIENTS: usize = 20;
    let mut rig = Rig::new(&[CONFIG]);
    let (listener, address) = local_listener();
    rig.rings[0].listen(listener);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|seed| {
            thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                for round in 0..5 {
                    let bytes = pattern(seed * 5 + round, 30_000 * (round + 1));
                    let mut back = vec![0; bytes.len()];
                    stream.write_all(&bytes).unwrap();
                    stream.read_exact(&mut back).unwrap();
                    assert!(back == bytes, "client {seed}, round {round}");
                }
            })
        })
        .collect();
    let mut sender = Sender::default();
    let mut closed = 0;
    while closed < CLIENTS {
        for (ring, happening) in rig.next("the clients") {
            match sender.on(&mut rig, ring, happening) {
                Some(Happening::Accepted(fd)) => drop(rig.rings[0].register(fd).unwrap()),
                Some(Happening::Received(socket, bytes)) => sender.add(&mut rig, ring, socket, &bytes),
                Some(Happening::Ended(socket, None)) => rig.rings[0].close(socket),
                Some(Happening::Closed(_)) => closed += 1,
                Some(other) => panic!("{other:?}"),
                None => {}
            }
        }
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(rig.rings[0].free(), usize::from(CONFIG.sockets));
}

#[test]
fn two_rings_of_one_thread_talk_over_ipv4() {
    talk("127.0.0.1:0".parse().unwrap(), Some("127.0.0.2:0".parse().unwrap()));
}

#[test]
fn two_rings_of_one_thread_talk_over_ipv6() {
    talk("[::1]:0".parse().unwrap(), Some("[::1]:0".parse().unwrap()));
}

fn talk(listen: SocketAddr, source: Option<SocketAddr>) {
    let mut rig = Rig::new(&[CONFIG, CONFIG]);
    let listener = uring::listener(listen, 16, false, None).unwrap();
    let address = listener.local_addr().unwrap();
    rig.rings[0].listen(listener);
    let client = rig.rings[1].connect(source, address).unwrap();
    let mut sender = Sender::default();
    let (question, mut answer) = (pattern(1, 100_000), Vec::new());
    while answer.len() < question.len() {
        for (ring, happening) in rig.next("the answer") {
            match (ring, sender.on(&mut rig, ring, happening)) {
                (0, Some(Happening::Accepted(fd))) => drop(rig.rings[0].register(fd).unwrap()),
                (1, Some(Happening::Connected(socket, Ok(())))) => {
                    assert_eq!(socket, client);
                    sender.add(&mut rig, 1, client, &question);
                }
                (0, Some(Happening::Received(socket, bytes))) => sender.add(&mut rig, 0, socket, &bytes),
                (1, Some(Happening::Received(_, bytes))) => answer.extend(bytes),
                (_, None) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(answer == question);
    rig.close(1, client);
}

/// 3,000 connections through 1,000 slots: each says who it is, hears exactly that back, and is closed by either end.
#[test]
fn slots_are_used_again_and_nobody_hears_what_was_meant_for_the_one_before() {
    const WAVE: usize = 1_000;
    let config = Config { sockets: WAVE as u16, queue_entries: 256, ..CONFIG };
    let mut rig = Rig::new(&[config, config]);
    let (listener, address) = local_listener();
    rig.rings[0].listen(listener);
    for wave in 0..3 {
        let mut clients = HashMap::new();
        for i in 0..WAVE {
            let client = rig.rings[1].connect(Some("127.0.0.3:0".parse().unwrap()), address).unwrap();
            clients.insert(client, (wave * WAVE + i).to_le_bytes());
        }
        assert_eq!(clients.len(), WAVE);
        assert!(clients.keys().all(|client| client.generation == wave as u32));
        one_wave(&mut rig, &clients);
        assert_eq!((rig.rings[0].free(), rig.rings[1].free()), (WAVE, WAVE));
    }
}

fn one_wave(rig: &mut Rig, clients: &HashMap<Socket, [u8; 8]>) {
    let mut sender = Sender::default();
    let mut heard = HashMap::new();
    let mut closed = 0;
    while closed < 2 * clients.len() {
        for (ring, happening) in rig.next("a wave of connections") {
            match (ring, sender.on(rig, ring, happening)) {
                (0, Some(Happening::Accepted(fd))) => drop(rig.rings[0].register(fd).unwrap()),
                (1, Some(Happening::Connected(socket, Ok(())))) => sender.add(rig, 1, socket, &clients[&socket]),
                (0, Some(Happening::Received(socket, bytes))) => {
                    assert_eq!(bytes.len(), 8);
                    sender.add(rig, 0, socket, &bytes);
                    if bytes[0] % 2 == 0 {
                        rig.rings[0].close(socket);
                    }
                }
                (1, Some(Happening::Received(socket, bytes))) => {
                    assert_eq!(bytes, clients[&socket]);
                    assert!(heard.insert(socket, ()).is_none());
                    rig.rings[1].close(socket);
                }
                (_, Some(Happening::Ended(socket, None))) => rig.rings[ring].close(socket),
                (_, Some(Happening::Closed(_))) => closed += 1,
                (_, None) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(heard.len(), clients.len());
}
