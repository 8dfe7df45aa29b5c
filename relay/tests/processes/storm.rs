//! Many who come at once: back after an outage, or for the first time after a restart.

use protocol::{Command, Start};

use crate::client::Client;
use crate::event::{Event, Line};
use crate::process::Relay;

const MEMBERS: usize = 200;
/// Lines before half of the members drop, while they are away, and while they come back.
const BEFORE: u64 = 100;
const AWAY: u64 = 200;
const COMING: u64 = 100;
/// What is missed is in frames, but not in memory twice.
const TAIL: &str = "16";

const HISTORY: u64 = 5_000;
const JOINING: usize = 500;
const RECENT: u64 = 50;

fn say(publisher: &mut Client, seqs: std::ops::RangeInclusive<u64>) {
    let tags: Vec<_> = seqs.clone().map(|seq| publisher.publish("r", &format!("line {seq}"), None)).collect();
    for (tag, seq) in tags.into_iter().zip(seqs) {
        assert_eq!(publisher.reply(tag).acked().0, seq);
    }
}

fn assert_lines(lines: &[Line], from: u64, to: u64) {
    assert!(lines.iter().map(|line| line.seq).eq(from..=to));
    assert!(lines.iter().all(|line| line.text() == format!("line {}", line.seq)));
}

#[test]
fn half_of_a_room_that_drops_and_comes_back_resumes_from_shared_frames_without_loss() {
    let relay = Relay::in_memory(&["--tail-messages-max", TAIL]);
    let connect = |n: usize| {
        let user = format!("member-{n}");
        if n % 4 < 2 { Client::deflating(relay.address, &user) } else { Client::native(relay.address, &user) }
    };
    let mut publisher = Client::native(relay.address, "publisher");
    let mut members: Vec<Client> = (0..MEMBERS).map(connect).collect();
    let mut epoch = 0;
    for member in &mut members {
        epoch = member.join("r", Start::Recent(0)).epoch;
    }
    say(&mut publisher, 1..=BEFORE);
    for member in &mut members {
        assert_lines(&member.lines(BEFORE as usize), 1, BEFORE);
    }
    // One of both encodings stays for each that goes.
    for (n, member) in members.iter_mut().enumerate().filter(|(n, _)| n % 2 == 0) {
        *member = connect(n);
    }
    let mut head = BEFORE + AWAY;
    say(&mut publisher, BEFORE + 1..=head);
    let start = Start::Since { seq: BEFORE, epoch: Some(epoch) };
    for (n, member) in members.iter_mut().enumerate().filter(|(n, _)| n % 2 == 0) {
        let tag = member.send(Command::Join { room: "r".into(), start });
        head += 1;
        publisher.publish("r", &format!("line {head}"), None);
        match member.reply(tag) {
            Event::Joined(joined) => assert!(joined.recovered && joined.from == BEFORE, "member {n}: {joined:?}"),
            other => panic!("member {n} did not join: {other:?}"),
        }
    }
    assert_eq!(head, BEFORE + AWAY + COMING);
    for member in &mut members {
        assert_lines(&member.lines((AWAY + COMING) as usize), BEFORE + 1, head);
    }
    drop((members, publisher));
    let exit = relay.stop();
    assert_eq!((exit.code, exit.count("reads"), exit.count("gaps")), (Some(0), 0, 0), "{exit:?}");
    assert_eq!(exit.count("resumed"), MEMBERS as u64 / 2, "{exit:?}");
}

#[test]
fn everybody_who_joins_a_restarted_relay_at_once_gets_the_same_lines_from_one_look_at_storage() {
    let dir = tempfile::tempdir().unwrap();
    let relay = Relay::on(dir.path(), &[]);
    let mut publisher = Client::native(relay.address, "publisher");
    for first in (1..=HISTORY).step_by(1000) {
        say(&mut publisher, first..=first + 999);
    }
    drop(publisher);
    assert_eq!(relay.stop().code, Some(0));

    let relay = Relay::on(dir.path(), &[]);
    let mut clients: Vec<_> = (0..JOINING).map(|n| Client::native(relay.address, &format!("viewer-{n}"))).collect();
    let join = || Command::Join { room: "r".into(), start: Start::Recent(RECENT as u32) };
    let tags: Vec<_> = clients.iter_mut().map(|client| client.send(join())).collect();
    let mut first = None;
    for (n, (client, tag)) in clients.iter_mut().zip(tags).enumerate() {
        match client.reply(tag) {
            Event::Joined(joined) => assert_eq!((joined.from, joined.head), (HISTORY - RECENT, HISTORY)),
            other => panic!("viewer {n} did not join: {other:?}"),
        }
        let lines = client.lines(RECENT as usize);
        assert_lines(&lines, HISTORY - RECENT + 1, HISTORY);
        assert!(*first.get_or_insert_with(|| lines.clone()) == lines, "viewer {n} got something else");
    }
    drop(clients);
    let exit = relay.stop();
    assert_eq!((exit.code, exit.count("opens"), exit.count("reads")), (Some(0), 1, 0), "{exit:?}");
}
