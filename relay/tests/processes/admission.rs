//! Who is let in: the limit of connections, and requests that are no WebSocket of ours.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use protocol::{Command, centrifuge, native};

use crate::client::Client;
use crate::event::Event;
use crate::process::{DEADLINE, Relay};

#[test]
fn a_full_relay_answers_503_and_takes_one_more_for_each_that_leaves() {
    for max in [1, 3, 10] {
        let relay = Relay::in_memory(&["--max-connections", &max.to_string()]);
        let open = || Client::try_open(relay.address, native::PATH, None);
        let mut clients: Vec<Client> = (0..max).map(|n| open().unwrap_or_else(|why| panic!("{n}: {why}"))).collect();
        // Whichever shard the kernel chose for each: so many are in, and nobody else comes in.
        for round in 0..10 {
            for _ in 0..3 {
                let Err(refused) = open() else { panic!("round {round}: more than {max}") };
                let head = refused.to_ascii_lowercase();
                assert!(head.starts_with("http/1.1 503 ") && head.contains("\r\nretry-after: "), "{refused}");
                assert!(head.contains("connection: close") && refused.contains("--max-connections"), "{refused}");
            }
            clients.remove(round % max).leave();
            clients.push(open().unwrap_or_else(|why| panic!("round {round}, after one left: {why}")));
        }
        for (n, client) in clients.into_iter().enumerate() {
            assert_eq!(client.connected(&format!("user-{n}")).call(Command::Ping), Event::Pong);
        }
    }
}

/// Sends a request and gives the whole answer.
fn ask(address: SocketAddr, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: relay\r\n{headers}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn what_is_no_websocket_of_ours_is_answered_in_http() {
    const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let relay = Relay::in_memory(&[]);
    let chat = format!("{UPGRADE}Sec-WebSocket-Protocol: chat, soap\r\n");
    for (path, headers, status, says) in [
        ("/nowhere", UPGRADE, 404, native::PATH),
        ("/nowhere", UPGRADE, 404, centrifuge::PATH),
        (native::PATH, "", 426, "Upgrade: websocket"),
        (native::PATH, &chat, 400, native::SUBPROTOCOL),
    ] {
        let answer = ask(relay.address, path, headers);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(says), "{answer}");
    }
    assert!(Client::try_open(relay.address, native::PATH, None).is_ok());
}
