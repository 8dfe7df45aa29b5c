//! permessage-deflate between real ends.

use std::io::{Read, Write};
use std::net::TcpStream;

use protocol::frame::{self, Opcode};
use protocol::{Command, Request, Start, native};

use crate::client::{Client, publish};
use crate::event::Event;
use crate::process::{DEADLINE, Relay};

/// Enough members of one core for its frames to be deflated.
const DEFLATING: usize = 70;
const PLAIN: usize = 5;
const LINES: u64 = 300;
/// The bit of a frame's first byte that says it is deflated.
const RSV1: u8 = 0x40;

#[test]
fn what_a_browser_offers_is_answered_with_a_fresh_window_for_each_message() {
    let relay = Relay::in_memory(&[]);
    let mut stream = TcpStream::connect(relay.address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = "Host: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    write!(stream, "GET {} HTTP/1.1\r\n{head}\r\n", native::PATH).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.extend(byte);
    }
    let answer = String::from_utf8(answer).unwrap();
    let expected = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let extensions: Vec<_> =
        answer.lines().filter_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: ")).collect();
    assert_eq!(extensions, [expected], "{answer}");
}

#[test]
fn members_that_deflate_and_members_that_do_not_see_the_same() {
    let relay = Relay::in_memory(&["--shards", "1"]);
    let mut members: Vec<_> =
        (0..DEFLATING).map(|n| Client::deflating(relay.address, &format!("deflating-{n}"))).collect();
    members.extend((0..PLAIN).map(|n| Client::native(relay.address, &format!("plain-{n}"))));
    for member in &mut members {
        member.join("r", Start::Recent(0));
    }
    let text = |n: u64| format!("line {n} {}", "says again and again ".repeat(n as usize % 40));
    let mut publisher = Client::deflating(relay.address, "publisher");
    for first in (1..=LINES).step_by(50) {
        for n in first..first + 50 {
            // Each other one comes in deflated, too.
            if n % 2 == 0 {
                publisher.publish("r", &text(n), None);
            } else {
                let mut payload = Vec::new();
                native::encode_request(&Request { tag: 0, command: publish("r", &text(n), None) }, &mut payload);
                publisher.deflated(Opcode::Binary, &payload).unwrap();
            }
        }
    }
    let first = members[0].lines(LINES as usize);
    for (n, line) in (1..).zip(&first) {
        assert_eq!((line.seq, line.text(), &*line.user), (n, &*text(n), "publisher"));
    }
    for (n, member) in members.iter_mut().enumerate().skip(1) {
        assert!(member.lines(LINES as usize) == first, "member {n} saw something else");
    }
    for (n, member) in members.iter().enumerate() {
        assert_eq!(member.inflated > 0, n < DEFLATING, "member {n} got {} deflated messages", member.inflated);
    }
}

#[test]
fn a_deflate_bomb_and_corrupt_data_are_closed_by_name_and_harm_nobody() {
    let relay = Relay::in_memory(&["--frame-bytes-max", "16384", "--body-bytes-max", "8192"]);
    let mut other = Client::deflating(relay.address, "other");
    other.join("r", Start::Recent(0));
    let marked = |payload: &[u8]| {
        let mut bytes = Vec::new();
        frame::write_masked(Opcode::Binary, payload, [0; 4], &mut bytes);
        bytes[0] |= RSV1;
        bytes
    };
    for (n, code) in (1..).zip([1009, 1007, 1002]) {
        let mut client = Client::deflating(relay.address, "u");
        match code {
            1009 => client.deflated(Opcode::Binary, &vec![0; 16 * 1024 * 1024]).unwrap(),
            // A block of the reserved kind.
            1007 => client.send_bytes(&marked(&[0xff; 10])).unwrap(),
            _ => {
                client = Client::native(relay.address, "never offered it");
                client.send_bytes(&marked(&[1, 0, 0, 0xff, 0xff])).unwrap();
            }
        }
        let rest = client.rest();
        assert!(matches!(rest[..], [Event::Closed { code: Some(said), .. }] if said == code), "{code}: {rest:?}");
        assert_eq!(Client::native(relay.address, "v").say("r", "still there").0, n);
        assert_eq!(other.lines(1)[0].text(), "still there");
        assert_eq!(other.call(Command::Ping), Event::Pong);
    }
}
