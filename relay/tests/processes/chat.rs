//! Two clients, in one dialect and in two.

use protocol::{Command, Content, Start};
use serde_json::json;

use crate::client::Client;
use crate::event::{Event, Line};
use crate::process::{Relay, SHARDS};

#[test]
fn two_clients_chat_wherever_their_room_lives() {
    let relay = Relay::in_memory(&[]);
    let mut clients = Client::one_on_each_shard(relay.address, SHARDS);
    for room in rooms() {
        let [ann, ben] = &mut clients[..] else { unreachable!() };
        ann.join(&room, Start::Recent(0));
        ben.join(&room, Start::Recent(0));
        let first = ann.say(&room, "안녕하세요 👋");
        assert_eq!(ben.lines(1)[0].text(), "안녕하세요 👋");
        let second = ben.say(&room, "hi!");
        assert_eq!(ben.lines(1)[0].text(), "hi!");
        let heard = ann.lines(2);
        assert_eq!(heard.iter().map(|line| (line.seq, line.id)).collect::<Vec<_>>(), [first, second]);
        assert_eq!((first.0, second.0), (1, 2));
        assert!(first.1 < second.1, "ids are ordered by time");
        assert_eq!(heard.iter().map(Line::text).collect::<Vec<_>>(), ["안녕하세요 👋", "hi!"]);
    }
}

/// One room of each shard.
pub fn rooms() -> Vec<String> {
    let of = |shard| (0..1000).map(|n| format!("room-{n}")).find(|name| relay::ids::owner_of(name, SHARDS) == shard);
    (0..SHARDS).map(|shard| of(shard).unwrap()).collect()
}

#[test]
fn what_is_said_in_one_dialect_is_heard_in_the_other() {
    let relay = Relay::in_memory(&[]);
    let mut native = Client::native(relay.address, "nat");
    let mut sdk = Client::centrifuge(relay.address, "cent");
    native.join("lobby", Start::Recent(0));
    sdk.call_json("subscribe", &json!({ "channel": "lobby" }));

    let text = "a \"text\"\nwith 한국어";
    let ack = native.say("lobby", text);
    let publication = sdk.next().1.json()["push"]["pub"].clone();
    assert_eq!(publication["data"], text);
    assert_eq!(publication["info"]["user"], "nat");
    assert_eq!((&publication["offset"], &publication["id"]), (&json!(ack.0), &json!(ack.1.to_string())));

    let reply = sdk.call_json("publish", &json!({ "channel": "lobby", "data": text }));
    assert_eq!(reply["publish"]["offset"], 2);
    let line = native.lines(2).remove(1);
    let quoted = json!(text).to_string();
    assert_eq!((line.content, line.text(), &*line.user), (Content::Json, &*quoted, "cent"), "as it was sent");

    let object = json!({ "emote": "🎉", "at": [1, 2.5, null] });
    sdk.call_json("publish", &json!({ "channel": "lobby", "data": object }));
    let line = native.lines(1).remove(0);
    assert_eq!(line.content, Content::Json);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&line.body).unwrap(), object);
    let echoed = Command::Publish { room: "lobby".into(), content: line.content, body: line.body.into(), key: None };
    native.call(echoed).acked();

    let bytes = Command::Publish {
        room: "lobby".into(),
        content: Content::Binary,
        body: [0, 159, 146, 150][..].into(),
        key: None,
    };
    native.call(bytes).acked();
    let heard: Vec<_> = (2..=5).map(|_| sdk.next().1.json()["push"]["pub"]["data"].clone()).collect();
    assert_eq!(heard, [json!(text), object.clone(), object, json!({ "base64": "AJ+Slg==" })]);
}

#[test]
fn a_body_that_is_not_what_its_content_type_says_is_refused() {
    let relay = Relay::in_memory(&[]);
    let mut client = Client::native(relay.address, "u");
    for (content, body) in [(Content::Text, &b"\xff"[..]), (Content::Json, b"{}x"), (Content::Json, b"")] {
        let refused = client.call(Command::Publish { room: "r".into(), content, body: body.into(), key: None });
        assert_eq!(refused.error(), protocol::ErrorCode::BadRequest);
    }
    assert_eq!(client.call(Command::Ping), Event::Pong);
}
