//! Listeners, full tables and options.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use socket2::SockRef;
use uring::Config;

use crate::rig::{CONFIG, Happening, Rig, local_listener};

#[test]
fn a_full_table_gives_the_descriptor_back_and_it_can_still_be_answered() {
    let mut rig = Rig::new(&[Config { sockets: 1, ..CONFIG }]);
    let (listener, address) = local_listener();
    rig.rings[0].listen(listener);
    let _first = TcpStream::connect(address).unwrap();
    let mut second = TcpStream::connect(address).unwrap();
    let mut refused = None;
    while refused.is_none() {
        for (_, happening) in rig.next("two connections") {
            let Happening::Accepted(fd) = happening else { panic!("{happening:?}") };
            refused = rig.rings[0].register(fd).err();
        }
    }
    assert_eq!(rig.rings[0].free(), 0);
    let target = address;
    assert_eq!(rig.rings[0].connect(None, target).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    let mut answered = TcpStream::from(refused.unwrap());
    answered.write_all(b"503").unwrap();
    drop(answered);
    let mut answer = String::new();
    second.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "503");
}

#[test]
fn accepted_connections_inherit_the_listeners_options() {
    let mut rig = Rig::new(&[CONFIG]);
    let listener = uring::listener("127.0.0.1:0".parse().unwrap(), 16, true, Some(40_000)).unwrap();
    let address = listener.local_addr().unwrap();
    rig.rings[0].listen(listener);
    let _client = TcpStream::connect(address).unwrap();
    let Some((_, Happening::Accepted(fd))) = rig.next("a connection").pop() else { panic!() };
    let socket = SockRef::from(&fd);
    assert!(socket.tcp_nodelay().unwrap());
    let flags = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    let close_on_exec = i32::from_str_radix(flags.trim(), 8).unwrap() & libc::O_CLOEXEC != 0;
    assert!(close_on_exec);
    assert_eq!(socket.send_buffer_size().unwrap(), 80_000);
}

#[test]
fn several_listeners_share_an_address() {
    let mut rig = Rig::new(&[CONFIG, CONFIG]);
    let first = uring::listener("127.0.0.1:0".parse().unwrap(), 16, true, None).unwrap();
    let address = first.local_addr().unwrap();
    rig.rings[0].listen(first);
    rig.rings[1].listen(uring::listener(address, 16, true, None).unwrap());
    let mut accepted = [0, 0];
    let mut clients = Vec::new();
    // The kernel spreads by a hash of the ports: all 200 on one side is as good as impossible.
    for _ in 0..200 {
        clients.push(TcpStream::connect(address).unwrap());
        for (ring, happening) in rig.next("a connection") {
            assert!(matches!(happening, Happening::Accepted(_)), "{happening:?}");
            accepted[ring] += 1;
        }
    }
    assert_eq!(accepted[0] + accepted[1], 200);
    assert!(accepted[0] > 0 && accepted[1] > 0, "{accepted:?}");
}

#[test]
fn after_it_stopped_listening_connections_are_refused_and_the_address_is_free() {
    let mut rig = Rig::new(&[CONFIG]);
    let (listener, address) = local_listener();
    rig.rings[0].listen(listener);
    let _client = TcpStream::connect(address).unwrap();
    let Some((_, Happening::Accepted(_))) = rig.next("a connection").pop() else { panic!() };
    rig.rings[0].stop_listening();
    while TcpStream::connect(address).is_ok() {
        rig.turn();
    }
    TcpListener::bind(address).unwrap();
}

#[test]
fn a_turn_accepts_as_many_as_it_may_and_the_others_wait() {
    let mut rig = Rig::new(&[CONFIG]);
    let (listener, address) = local_listener();
    rig.rings[0].set_accepts(3);
    rig.rings[0].listen(listener);
    let clients: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut accepted = 0;
    while accepted < clients.len() {
        let now = rig.next("connections").len();
        assert!((1..=3).contains(&now), "{now} in a turn");
        accepted += now;
    }
}
