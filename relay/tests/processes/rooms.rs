//! The table of rooms under those who would fill it, and what rooms keep in memory.

use std::thread;
use std::time::Duration;

use protocol::{Command, ErrorCode, Page, Start};

use crate::client::{Client, publish};
use crate::event::Event;
use crate::process::Relay;

const ROOMS_MAX: &[&str] = &["--max-rooms", "100"];
/// Nobody is too fast here.
const FAST: &[&str] =
    &["--session-open-rate", "100000", "--user-open-rate", "100000", "--address-open-rate", "0", "--max-rooms", "100"];
/// As large as a body may be by default.
const BODY_BYTES: usize = 64 * 1024;
/// Rooms, and messages in each, of 64 KiB: 128 MiB in all.
const BUSY_ROOMS: usize = 32;
const MESSAGES: usize = 64;
const RESIDENT_BYTES_MAX: usize = 256 << 20;

fn history(room: &str) -> Command<'_> {
    Command::history(room, Page::Newest, 10)
}

fn join(room: &str) -> Command<'_> {
    Command::Join { room: room.into(), start: Start::Recent(0) }
}

/// Sends commands without waiting for each, a few at a time; the replies.
fn all<'a>(client: &mut Client, rooms: &'a [String], command: impl Fn(&'a str) -> Command<'a>) -> Vec<Event> {
    let mut replies = Vec::new();
    for rooms in rooms.chunks(4) {
        let tags: Vec<_> = rooms.iter().map(|room| client.send(command(room))).collect();
        replies.extend(tags.into_iter().map(|tag| client.reply(tag)));
    }
    replies
}

fn names(kind: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{kind} {n}")).collect()
}

#[test]
fn reading_rooms_that_do_not_exist_takes_no_place_from_anybody() {
    let relay = Relay::in_memory(FAST);
    let mut nosy = Client::native(relay.address, "nosy");
    for reply in all(&mut nosy, &names("nothing", 1000), history) {
        assert!(matches!(reply, Event::History { head: 0, .. }), "{reply:?}");
    }
    let mut newcomer = Client::native(relay.address, "newcomer");
    newcomer.join("fresh", Start::Recent(0));
    assert_eq!(newcomer.say("fresh", "here I am").0, 1);
}

#[test]
fn rooms_that_nobody_uses_make_place_and_lose_nothing() {
    let relay = Relay::in_memory(FAST);
    let mut client = Client::native(relay.address, "u");
    let mut member = Client::native(relay.address, "member");
    let epoch = member.join("held", Start::Recent(0)).epoch;
    for reply in all(&mut client, &names("one of many", 500), |room| publish(room, "x", None)) {
        assert_eq!(reply.acked().0, 1);
    }
    for reply in all(&mut client, &names("one of many", 500), |room| publish(room, "y", None)) {
        assert_eq!(reply.acked().0, 2);
    }
    assert_eq!(client.say("held", "still there?").0, 1);
    assert_eq!(member.lines(1)[0].text(), "still there?");
    assert_eq!(client.join("one of many 7", Start::Recent(0)).epoch, epoch);
}

#[test]
fn one_connection_holds_no_more_rooms_than_it_may_open_and_newcomers_enter_new_ones() {
    let relay = Relay::in_memory(&[ROOMS_MAX, &["--user-open-rate", "2", "--session-open-rate", "2"]].concat());
    let mut greedy = Client::native(relay.address, "greedy");
    let replies = all(&mut greedy, &names("pinned", 100), join);
    let refused = replies.iter().filter(|reply| matches!(reply, Event::Error { .. })).count();
    assert!(refused >= 20, "{refused} of 100 were refused");
    for reply in &replies {
        let limited =
            matches!(reply, Event::Error { code: ErrorCode::RateLimited, retry_after_ms } if *retry_after_ms > 0);
        assert!(limited || matches!(reply, Event::Joined(_)), "{reply:?}");
    }
    let mut newcomer = Client::native(relay.address, "newcomer");
    newcomer.join("fresh", Start::Recent(0));
    let mut other = Client::native(relay.address, "greedy");
    other.join("pinned 0", Start::Recent(0));
}

#[test]
fn a_table_of_rooms_that_are_all_in_use_is_full() {
    let relay = Relay::in_memory(FAST);
    let mut client = Client::native(relay.address, "u");
    let replies = all(&mut client, &names("held", 100), join);
    assert!(
        replies.iter().all(|reply| matches!(reply, Event::Joined(_))),
        "as many as may be, however they are spread"
    );
    let mut newcomer = Client::native(relay.address, "newcomer");
    assert_eq!(newcomer.call(publish("one too many", "x", None)).error(), ErrorCode::Busy);
    assert_eq!(newcomer.say("held 3", "where others are").0, 1);
    assert_eq!(client.call(Command::Leave { room: "held 4".into() }), Event::Left);
    assert_eq!(newcomer.say("one no longer too many", "x").0, 1);
}

#[test]
fn large_messages_in_many_rooms_do_not_stay_in_memory_and_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    // A machine that is busy otherwise may take its time: this is not about that.
    let flags = ["--memory-bytes-max", "33554432", "--publish-timeout-ms", "60000"];
    let relay = Relay::on(dir.path(), &flags);
    let mut clients: Vec<_> = (0..4).map(|n| Client::native(relay.address, &format!("u{n}"))).collect();
    let body = "x".repeat(BODY_BYTES);
    for round in 1..=MESSAGES as u64 {
        for n in 0..BUSY_ROOMS {
            let (client, room) = (&mut clients[n % 4], format!("busy {n}"));
            loop {
                match client.call(publish(&room, &body, None)) {
                    Event::Error { code: ErrorCode::Busy | ErrorCode::RateLimited, retry_after_ms } => {
                        // As it is told to.
                        thread::sleep(Duration::from_millis(retry_after_ms.into()));
                    }
                    reply => break assert_eq!(reply.acked().0, round),
                }
            }
        }
    }
    let resident = relay.resident_bytes();
    assert!(resident < RESIDENT_BYTES_MAX, "{} MiB are resident", resident >> 20);
    let first = clients[0].history("busy 5", Page::After(0), 3);
    assert_eq!(
        first.iter().map(|line| (line.seq, line.text().len())).collect::<Vec<_>>(),
        [1, 2, 3].map(|seq| (seq, BODY_BYTES))
    );
}
