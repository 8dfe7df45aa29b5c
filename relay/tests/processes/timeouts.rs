//! Silent connections.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use protocol::{Command, Start, centrifuge, native};

use crate::client::Client;
use crate::event::Event;
use crate::process::{DEADLINE, Relay};

#[test]
fn a_request_that_does_not_come_is_answered_408() {
    let relay = Relay::in_memory(&["--connect-timeout-ms", "300"]);
    for begun in ["", "GET /native HTTP/1.1\r\nHost: relay\r\n"] {
        let mut silent = TcpStream::connect(relay.address).unwrap();
        silent.set_read_timeout(Some(DEADLINE)).unwrap();
        silent.write_all(begun.as_bytes()).unwrap();
        let mut answer = String::new();
        silent.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("--connect-timeout-ms"), "{answer}");
    }
}

#[test]
fn a_connection_that_never_says_connect_is_closed_though_it_answers_pings() {
    let relay = Relay::in_memory(&["--connect-timeout-ms", "300", "--ping-interval-ms", "1000"]);
    let mut connected = Client::native(relay.address, "u");
    for (path, status) in [(native::PATH, 4005), (centrifuge::PATH, 3502)] {
        let rest = Client::open(relay.address, path).rest();
        assert!(matches!(rest[..], [Event::Closed { code: Some(code), .. }] if code == status), "{rest:?}");
    }
    connected.ping();
    assert_eq!(connected.call(Command::Ping), Event::Pong, "who has said it stays");
}

#[test]
fn who_ends_its_direction_right_behind_its_words_is_answered() {
    let relay = Relay::in_memory(&[]);
    let mut curt = TcpStream::connect(relay.address).unwrap();
    curt.set_read_timeout(Some(DEADLINE)).unwrap();
    curt.write_all(b"GET /nowhere HTTP/1.1\r\nHost: relay\r\n\r\n").unwrap();
    curt.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    curt.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer:?}");

    let mut client = Client::native(relay.address, "u");
    let asked = client.send(Command::Ping);
    client.writer().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.reply(asked), Event::Pong);
    assert_eq!(client.rest(), []);
}

#[test]
fn a_client_that_answers_pings_stays_and_one_that_does_not_is_closed_as_idle() {
    let relay = Relay::in_memory(&["--ping-interval-ms", "1000", "--idle-timeout-ms", "2000"]);
    let mut quiet = Client::native(relay.address, "quiet");
    let quiet = thread::spawn(move || {
        for _ in 0..4 {
            quiet.ping();
        }
        quiet.call(Command::Ping)
    });
    let mut mute = Client::native(relay.address, "mute");
    mute.polite = false;
    let rest = mute.rest();
    assert!(matches!(rest[..], [Event::Closed { code: Some(4000), .. }]), "{rest:?}");
    assert_eq!(quiet.join().unwrap(), Event::Pong);
}

#[test]
fn a_mute_client_stays_while_it_takes_what_it_is_sent_and_is_closed_when_its_room_falls_silent() {
    let times = ["--ping-interval-ms", "1000", "--idle-timeout-ms", "2000", "--send-buffer-bytes", "4096"];
    let rates = ["--user-publish-rate", "1000000", "--session-publish-rate", "1000000"];
    let relay = Relay::in_memory(&[&times[..], &rates].concat());
    let mut quiet = Client::native(relay.address, "quiet");
    let quiet = thread::spawn(move || (0..4).for_each(|_| quiet.ping()));
    let mut mute = Client::native(relay.address, "mute");
    mute.polite = false;
    mute.join("lobby", Start::Recent(0));
    let mut speaker = Client::native(relay.address, "speaker");
    let mut said = 0;
    while !quiet.is_finished() {
        said = speaker.say("lobby", &"still here? ".repeat(500)).0;
        assert_eq!(mute.lines(1)[0].seq, said);
    }
    assert!(said > 0);
    let rest = mute.rest();
    assert!(matches!(rest[..], [Event::Closed { code: Some(4000), .. }]), "{rest:?}");
}

#[test]
fn a_slow_reader_is_not_taken_for_a_silent_one() {
    let times = ["--ping-interval-ms", "1000", "--idle-timeout-ms", "2000", "--send-buffer-bytes", "4096"];
    let rates = ["--user-publish-rate", "1000000", "--session-publish-rate", "1000000"];
    let relay = Relay::in_memory(&[&times[..], &rates].concat());
    let mut quiet = Client::native(relay.address, "quiet");
    let quiet = thread::spawn(move || (0..6).for_each(|_| quiet.ping()));
    let mut slow = Client::try_open(relay.address, native::PATH, Some(4096)).unwrap().connected("slow");
    slow.polite = false;
    slow.join("lobby", Start::Recent(0));
    let mut speaker = Client::native(relay.address, "speaker");
    let mut said = 0;
    while !quiet.is_finished() {
        said = speaker.say("lobby", &"more than it reads ".repeat(300)).0;
        slow.sip(500);
    }
    let mut heard = slow.rest().into_iter().filter_map(|event| match event {
        Event::Batch { lines, .. } => lines.last().map(|line| line.seq),
        Event::Gap { to, .. } => Some(to),
        _ => None,
    });
    assert_eq!(heard.next_back(), Some(said), "it was closed before it had everything");
}
