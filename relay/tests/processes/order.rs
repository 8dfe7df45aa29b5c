//! Commands on one room that are sent without waiting for each other.

use protocol::frame::Opcode;
use protocol::{Command, ErrorCode, Page, Start};
use serde_json::{Value, json};

use crate::chat::rooms;
use crate::client::{Client, publish};
use crate::event::Event;
use crate::process::{Relay, SHARDS};

/// Rooms of each kind.
const ROOMS: usize = 20;

#[test]
fn a_leave_right_behind_a_join_is_carried_out_after_it() {
    let relay = Relay::in_memory(&[]);
    let mut other = Client::native(relay.address, "other");
    let mut client = Client::centrifuge(relay.address, "ann");
    for n in 0..ROOMS {
        for kind in ["fresh", "used", "with others"] {
            for in_one_frame in [true, false] {
                let room = format!("{kind} {n} {in_one_frame}");
                if kind == "used" {
                    other.say(&room, "before");
                }
                if kind == "with others" {
                    other.join(&room, Start::Recent(0));
                }
                let replies = mount_unmount(&mut client, &room, in_one_frame);
                let of = ["subscribe", "unsubscribe"].map(|method| replies.iter().position(|r| r[method].is_object()));
                assert_eq!(of, [Some(0), Some(1)], "{room}: {replies:?}");
                other.say(&room, "are you there?");
                // Of a member it would be pushed before this reply.
                let page = client.call_json("history", &json!({ "channel": room, "limit": 10 }));
                assert!(page["history"].is_object(), "{page}");
                if kind == "with others" {
                    assert_eq!(other.call(Command::Leave { room: room.clone().into() }), Event::Left);
                    other.lines(1);
                }
            }
        }
    }
    assert!(client.is_silent(), "somebody who left hears something");
}

/// What a component does that is mounted and unmounted at once; the two replies as they came.
fn mount_unmount(client: &mut Client, room: &str, in_one_frame: bool) -> [Value; 2] {
    let commands = [("subscribe", 1001), ("unsubscribe", 1002)]
        .map(|(method, id)| json!({ "id": id, method: { "channel": room } }).to_string());
    if in_one_frame {
        client.frame(Opcode::Text, commands.join("\n").as_bytes()).unwrap();
    } else {
        for command in &commands {
            client.frame(Opcode::Text, command.as_bytes()).unwrap();
        }
    }
    [client.next().1.json(), client.next().1.json()]
}

#[test]
fn pipelined_commands_on_one_room_find_what_those_before_them_did() {
    let relay = Relay::in_memory(&[]);
    for mut client in Client::one_on_each_shard(relay.address, SHARDS) {
        for room in rooms() {
            let before = client.say(&room, "before").0;
            let join = || Command::Join { room: room.clone().into(), start: Start::Recent(0) };
            let leave = || Command::Leave { room: room.clone().into() };
            let history = || Command::history(room.clone(), Page::Newest, 1);
            let commands =
                [join(), leave(), join(), publish(&room, "heard", None), history(), leave(), leave(), join()];
            let tags = commands.map(|command| client.send(command));
            let mut heard = Vec::new();
            let mut replies = Vec::new();
            while replies.len() < tags.len() {
                match client.next() {
                    (0, Event::Batch { lines, .. }) => heard.extend(lines),
                    (tag, reply) => replies.push((tag, reply)),
                }
            }
            assert!(replies.iter().map(|(tag, _)| *tag).eq(tags), "{replies:?}");
            let what: Vec<_> = replies.iter().map(|(_, reply)| reply).collect();
            assert!(matches!(what[0], Event::Joined(_)) && matches!(what[2], Event::Joined(_)), "{replies:?}");
            assert_eq!([what[1], what[5]], [&Event::Left, &Event::Left]);
            assert_eq!(what[3].acked().0, before + 1);
            assert!(matches!(what[4], Event::History { head, .. } if *head == before + 1), "{replies:?}");
            assert_eq!(what[6].error(), ErrorCode::NotJoined);
            assert!(matches!(what[7], Event::Joined(_)), "{replies:?}");
            assert!(heard.iter().all(|line| line.seq == before + 1), "{heard:?}");
        }
    }
}
