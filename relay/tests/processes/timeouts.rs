//! Silent connections.

use std::io::Read;
use std::net::TcpStream;
use std::thread;

use protocol::{Command, Start, native};

use crate::client::Client;
use crate::event::Event;
use crate::process::{DEADLINE, Relay};

#[test]
fn a_connection_that_does_not_shake_hands_is_ended() {
    let relay = Relay::in_memory(&["--handshake-timeout-ms", "300"]);
    let mut silent = TcpStream::connect(relay.address).unwrap();
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(silent.read(&mut [0; 16]).unwrap(), 0);
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
