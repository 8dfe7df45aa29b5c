//! What is refused at the door, and how it is told.

use std::process::Command as Program;

use protocol::frame::Opcode;
use protocol::{Command, Content, ErrorCode, Request, Start, centrifuge, native};
use serde_json::json;

use crate::client::{Client, publish};
use crate::event::Event;
use crate::process::Relay;

/// The root of a request is its last bytes; the content type of a publish stands here in it.
const ROOT_BYTES: usize = 31;
const CONTENT_AT: usize = 13;

#[test]
fn a_native_command_that_makes_no_sense_is_refused_by_its_tag_and_the_connection_goes_on() {
    let relay = Relay::in_memory(&[]);
    let mut client = Client::native(relay.address, "ann");
    let mut payload = Vec::new();
    native::encode_request(&Request { tag: 77, command: publish("r", "x", None) }, &mut payload);
    let at = payload.len() - ROOT_BYTES + CONTENT_AT;
    payload[at] = 3;
    client.frame(Opcode::Binary, &payload).unwrap();
    assert_eq!(client.reply(77).error(), ErrorCode::BadRequest);
    assert_eq!(client.say("r", "still here").0, 1);

    client.frame(Opcode::Binary, b"no archive").unwrap();
    let Some(Event::Closed { reason, .. }) = client.rest().pop() else { panic!("not closed") };
    assert_eq!(reason, "not a message of relay.native.v2");
}

#[test]
fn json_that_ends_the_parsers_of_others_is_refused_in_both_dialects() {
    let relay = Relay::in_memory(&[]);
    let mut native = Client::native(relay.address, "nat");
    let mut sdk = Client::centrifuge(relay.address, "cent");
    native.join("r", Start::Recent(0));
    let poison = ["[".repeat(4000) + &"]".repeat(4000), "9".repeat(8000), r#"{"k":"\ud800"}"#.to_owned()];
    for (n, body) in poison.iter().enumerate() {
        let json =
            Command::Publish { room: "r".into(), content: Content::Json, body: body.as_bytes().into(), key: None };
        assert_eq!(native.call(json).error(), ErrorCode::BadRequest, "poison {n}");
        let id = 1000 + n;
        let text = format!(r#"{{"id":{id},"publish":{{"channel":"r","data":{body}}}}}"#);
        sdk.frame(Opcode::Text, text.as_bytes()).unwrap();
        let reply = sdk.reply(id as u32).json();
        assert_eq!(reply["error"]["code"], 107, "poison {n}: {reply}");
        assert!(reply["error"]["message"].as_str().unwrap().contains("body"), "the reason is named: {reply}");
    }
    sdk.call_json("publish", &json!({ "channel": "r", "data": "after" }));
    assert_eq!(native.lines(1)[0].seq, 1, "nothing of it was stored");
}

#[test]
fn names_that_cannot_be_seen_are_refused() {
    let relay = Relay::in_memory(&[]);
    let mut nobody = Client::open(relay.address, native::PATH);
    for user in ["\u{202e}nna", " ", "ann "] {
        let connect = Command::Connect { user: Some(user.into()), device: None };
        assert_eq!(nobody.call(connect).error(), ErrorCode::BadRequest, "{user:?}");
    }
    let mut ann = nobody.connected("ann");
    assert_eq!(ann.call(publish("lob\u{200b}by", "x", None)).error(), ErrorCode::BadRequest);
}

#[test]
fn who_asks_for_protobuf_in_the_query_is_sent_away() {
    let relay = Relay::in_memory(&[]);
    for query in ["format=protobuf", "a=b&cf_protocol=protobuf"] {
        let mut client = Client::open(relay.address, &format!("{}?{query}", centrifuge::PATH));
        let rest = client.rest();
        assert!(matches!(&rest[..], [Event::Closed { code: Some(3506), .. }]), "{query}: {rest:?}");
    }
}

#[test]
fn the_echo_serves_nothing_else() {
    let mut echo = Program::new(env!("CARGO_BIN_EXE_relay"));
    let relay = Relay::start(echo.args(["echo", "--listen", "127.0.0.1:0"]));
    let mut client = Client::open(relay.address, "/echo");
    client.frame(Opcode::Text, b"{}").unwrap();
    client.ping();
    for path in [native::PATH, centrifuge::PATH] {
        let refused = Client::try_open(relay.address, path, None).err().unwrap_or_default();
        assert!(refused.starts_with("HTTP/1.1 404") && refused.contains("/echo"), "{path}: {refused}");
    }
}
