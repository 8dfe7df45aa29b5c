use std::{borrow::Cow, ops::ControlFlow};

use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use super::*;
use crate::{
    ClientId, Command, Content, Dialect, ErrorCode, Kind, Message, NewParts, Page, Start,
    dialect::samples::{MESSAGES, any_command, any_messages, commands, events},
};

fn read(text: &str) -> Result<Vec<Request<'_>>, Malformed> {
    let mut requests = Vec::new();
    Dialect::Centrifuge.decode(&Incoming::Text(text), &mut |request| requests.push(request)).map(|()| requests)
}

fn read_one(text: &str) -> Command<'_> {
    let mut requests = read(text).unwrap();
    assert_eq!(requests.len(), 1, "{text}");
    requests.remove(0).command
}

fn said(tag: u32, event: &Event<'_>) -> String {
    let mut out = Vec::new();
    reply::write(tag, event, &mut out);
    String::from_utf8(out).unwrap()
}

/// A command as an SDK, or a client that knows our extensions, spells it.
fn spelled(tag: u32, command: &Command<'_>) -> String {
    let value = match command {
        Command::Connect { user, device } => {
            json!({"connect": {"data": {"user": user, "device": device}, "name": "js"}})
        }
        Command::Join { room, start: Start::Recent(recent) } => {
            json!({"subscribe": {"channel": room, "recent": recent}})
        }
        Command::Join { room, start: Start::Since { seq, epoch } } => {
            let epoch = epoch.map_or_else(String::new, |epoch| format!("{epoch:x}"));
            json!({"subscribe": {"channel": room, "recover": true, "offset": seq, "epoch": epoch, "flag": 1}})
        }
        Command::Leave { room } => json!({"unsubscribe": {"channel": room}}),
        Command::Publish { room, content, body, key } => {
            let body = str::from_utf8(body).unwrap();
            assert_eq!(*content, Content::Json, "this dialect publishes JSON");
            let (room, key) = (json!(room), json!(key));
            return format!(r#"{{"id":{tag},"publish":{{"channel":{room},"data":{body},"key":{key}}}}}"#);
        }
        Command::History { room, page, limit, .. } => {
            let mut history = match page {
                Page::Newest => json!({"reverse": true}),
                Page::Before(seq) => json!({"before": seq}),
                Page::After(seq) => json!({"since": {"offset": seq}}),
                Page::Around(seq) => json!({"around": seq}),
            };
            (history["channel"], history["limit"]) = (json!(room), json!(limit));
            json!({"history": history})
        }
        Command::Info { room } => json!({"info": {"channel": room}}),
        Command::Ping => json!({"ping": {}}),
        Command::Pong => return "{}".to_owned(),
        Command::Unsupported | Command::Refused { .. } => json!({"dance": {}}),
    };
    let mut value = value;
    value["id"] = json!(tag);
    value.to_string()
}

/// What is published here is JSON.
fn is_spelled(command: &Command<'_>) -> bool {
    !matches!(command, Command::Publish { content: Content::Text | Content::Binary, .. })
}

/// A command as it arrives: this dialect cannot ask for the newest messages in ascending order.
fn arriving(mut command: Command<'_>) -> Command<'_> {
    match &mut command {
        Command::History { page: Page::Newest, newest_first, .. } => *newest_first = true,
        Command::Join { start: Start::Since { seq: 0, epoch: epoch @ None }, .. } => *epoch = Some(0),
        _ => {}
    }
    command
}

#[test]
fn every_command_arrives_as_it_was_spelled() {
    for (tag, command) in (u32::MAX - 100..).zip(commands().into_iter().filter(is_spelled)) {
        let tag = if command == Command::Pong { 0 } else { tag };
        assert_eq!(read(&spelled(tag, &command)).unwrap(), [Request { tag, command: arriving(command) }]);
    }
}

#[test]
fn what_the_sdk_sends_is_understood() {
    let lines = [
        r#"{"connect":{"data":{"user":"ann"},"name":"js"},"id":1}"#,
        r#"{"subscribe":{"channel":"lobby","flag":1},"id":2}"#,
        r#"{"subscribe":{"channel":"lobby","flag":1,"recover":true,"epoch":"_"},"id":3}"#,
        r#"{"publish":{"channel":"lobby","data":{"text": "hi"}},"id":4}"#,
        r#"{"history":{"channel":"lobby"},"id":5}"#,
        r#"{"history":{"channel":"lobby","since":{"offset":9,"epoch":"feed"},"limit":-1,"reverse":true},"id":6}"#,
        r#"{"history":{"channel":"lobby","limit":10},"id":7}"#,
        r#"{"dance":{"channel":"lobby"},"id":8}"#,
        "{}",
    ];
    let text = lines.join("\n");
    let room = || Cow::Borrowed("lobby");
    let body = Cow::Borrowed(br#"{"text": "hi"}"#.as_slice());
    let commands: Vec<_> = read(&text).unwrap().into_iter().map(|request| (request.tag, request.command)).collect();
    let history =
        |page, limit, epoch, newest_first| Command::History { room: room(), page, limit, epoch, newest_first };
    let expected = [
        (1, Command::Connect { user: Some("ann".into()), device: None }),
        (2, Command::Join { room: room(), start: Start::Recent(0) }),
        (3, Command::Join { room: room(), start: Start::Since { seq: 0, epoch: Some(0) } }),
        (4, Command::Publish { room: room(), content: Content::Json, body, key: None }),
        (5, history(Page::After(0), 0, None, false)),
        (6, history(Page::Before(9), u32::MAX, Some(0xfeed), true)),
        (7, history(Page::After(0), 10, None, false)),
        (8, Command::Unsupported),
        (0, Command::Pong),
    ];
    assert_eq!(commands, expected);
}

#[test]
fn strings_without_escapes_are_not_copied() {
    let command = read_one(r#"{"id":1,"publish":{"channel":"lobby","data":"안녕","key":"k"}}"#);
    let Command::Publish { room, body, key, .. } = command else { panic!("not a publish") };
    assert!(matches!((room, body, key), (Cow::Borrowed(_), Cow::Borrowed(_), Some(Cow::Borrowed(_)))));
}

#[test]
fn a_body_keeps_its_publishers_spelling_and_a_string_its_quotes() {
    let body = |data: &str| {
        let text = format!(r#"{{"id":1,"publish":{{"channel":"c","data":{data}}}}}"#);
        let Command::Publish { content, body, .. } = read_one(&text) else { panic!("not a publish") };
        (content, String::from_utf8(body.into_owned()).unwrap())
    };
    for raw in [r#""a\nA\"\u0041""#, r#"{"b": 1.50, "a":[ ]}"#, "null", "12345678901234567890123", r#""\ud800""#] {
        assert_eq!(body(raw), (Content::Json, raw.to_owned()));
    }
}

#[test]
fn commands_before_a_malformed_one_are_given() {
    let mut given = Vec::new();
    let text = "{\"id\":1,\"ping\":{}}\n{\"id\":2,\"subscribe\":{}\n{\"id\":3,\"ping\":{}}";
    let refused = Dialect::Centrifuge.decode(&Incoming::Text(text), &mut |request| given.push(request.tag));
    assert!(refused.unwrap_err().0.contains("not a command in JSON"));
    assert_eq!(given, [1]);
}

#[test]
fn a_message_that_is_broken_off_goes_on_with_its_rest() {
    let text =
        "{\"id\":1,\"ping\":{}}{\"id\":2,\"publish\":{\"channel\":\"é\",\"data\":\"é\"}}\n{}{\"id\":4,\"ping\":{}}";
    let mut whole = Vec::new();
    Dialect::Centrifuge.decode(&Incoming::Text(text), &mut |request| whole.push(request)).unwrap();
    for share in 1..=whole.len() {
        let (mut at, mut pieces) = (0, Vec::new());
        while at < text.len() {
            let mut left = share;
            let mut each = |request| {
                pieces.push(request);
                left -= 1;
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            at += Dialect::Centrifuge.decode_some(&Incoming::Text(&text[at..]), &mut each).unwrap();
        }
        assert_eq!(pieces, whole, "{share} at a time");
    }
}

#[test]
fn what_is_not_a_command_is_malformed() {
    for (text, why) in [
        ("[]", "expected an object"),
        (r"[9,null,null,null,null,null,{},null]", "expected an object"),
        ("hello", "expected value"),
        (r#"{"id":-1,"ping":{}}"#, "expected u32"),
        (r#"{"id":"1","ping":{}}"#, "expected u32"),
        (r#"{"ping":{}}"#, "needs an id"),
        (r#"{"id":0,"publish":{"channel":"c","data":1}}"#, "needs an id"),
        (r#"{"id":0,"publish":{"channel":7,"data":1}}"#, "expected a"),
        (r#"{"subscribe":{}}"#, "missing field `channel`"),
        (r#"{"id":1,"ping":{}"#, "EOF"),
    ] {
        let error = read(text).unwrap_err().0;
        assert!(error.contains(why), "{text}: {error}");
    }
    assert!(decode(&Incoming::Binary(b"{}"), &mut |_| panic!("no command")).unwrap_err().0.contains("text"));
}

#[test]
fn replies_are_what_the_sdk_expects() {
    let room = "lobby";
    let joined = Event::Joined { room, epoch: 0xfeed, from: 7, head: 43, recovering: true, recovered: true };
    let subscribe = r#""subscribe":{"recoverable":true,"positioned":true,"epoch":"feed","offset":7,"recovered":true,"was_recovering":true}"#;
    let version = env!("CARGO_PKG_VERSION");
    for (event, expected) in [
        (
            Event::Connected { user: "ann", session: 1, client: ClientId(u64::MAX), ping_s: 25 },
            format!(
                r#"{{"id":9,"connect":{{"client":"fzzzzzzzzzzzz","version":"relay {version}","data":{{"user":"ann"}},"ping":25,"pong":true}}}}"#
            ),
        ),
        (joined, format!(r#"{{"id":9,{subscribe}}}"#)),
        (Event::Left { room }, r#"{"id":9,"unsubscribe":{}}"#.to_owned()),
        (
            Event::Acked { room, seq: 42, id: 1 << 60 },
            r#"{"id":9,"publish":{"offset":42,"id":"1152921504606846976"}}"#.to_owned(),
        ),
        (
            Event::History { room, epoch: 255, head: 43, messages: &[][..] },
            r#"{"id":9,"history":{"publications":[],"offset":43,"epoch":"ff"}}"#.to_owned(),
        ),
        (Event::Pong, r#"{"id":9,"ping":{}}"#.to_owned()),
        (
            Event::Error { code: ErrorCode::Busy, message: "busy", retry_after_ms: 250 },
            r#"{"id":9,"error":{"code":111,"message":"busy","temporary":true,"retry_after_ms":250}}"#.to_owned(),
        ),
        (
            Event::KeyTaken { seq: 42, id: 1 << 60 },
            r#"{"id":9,"error":{"code":409,"message":"this key belongs to another message, stored at offset 42","temporary":false,"offset":42,"id":"1152921504606846976"}}"#.to_owned(),
        ),
        (
            Event::Error { code: ErrorCode::Unsupported, message: "no \"rpc\"", retry_after_ms: 0 },
            r#"{"id":9,"error":{"code":104,"message":"no \"rpc\"","temporary":false}}"#.to_owned(),
        ),
    ] {
        assert_eq!(said(9, &event), expected);
    }
}

#[test]
fn pushes_are_what_the_sdk_expects() {
    let room = "lobby";
    for (event, expected) in [
        (
            Event::Gap { room, from: 1, to: 2 },
            r#"{"push":{"channel":"lobby","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#,
        ),
        (
            Event::GoingAway { reason: "restart", reconnect_after_ms: 900 },
            r#"{"push":{"disconnect":{"code":3001,"reason":"restart","reconnect":true}}}"#,
        ),
        (Event::Ping, "{}"),
    ] {
        assert_eq!(said(0, &event), expected);
    }
    let pub_41 = r#"{"data":"안녕 \"all\"\n😀","info":{"user":"haneul_77","client":""},"offset":41,"time":1825689600000,"id":"377487360000001536"}"#;
    let pub_42 = r#"{"data":{"gif":"wave"},"info":{"user":"bo","client":""},"offset":42,"time":1825689600007,"id":"377487360029361664"}"#;
    let pub_43 = r#"{"data":{"base64":"AP8K"},"info":{"user":"haneul_77","client":""},"offset":43,"time":1825689600009,"id":"377487360029361665"}"#;
    let pushes = [pub_41, pub_42, pub_43].map(|message| format!(r#"{{"push":{{"channel":"lobby","pub":{message}}}}}"#));
    assert_eq!(said(0, &Event::Batch { room, messages: MESSAGES }), pushes.join("\n"));
    let history =
        format!(r#"{{"id":3,"history":{{"publications":[{pub_41},{pub_42},{pub_43}],"offset":43,"epoch":"1"}}}}"#);
    assert_eq!(said(3, &Event::History { room, epoch: 1, head: 43, messages: MESSAGES }), history);
}

#[test]
fn a_publication_names_its_client_and_has_the_applications_info_and_tags() {
    let parts = NewParts {
        client: Some(ClientId(33)),
        info: Some(br#"{"name": "Bo"}"#),
        room_info: Some(b"\xff"),
        tags: &[("lang", "ko"), ("\"", "x")],
        target: None,
    };
    let parts = parts.pack();
    let message = Message { parts: parts.get(), ..MESSAGES[1] };
    let info = r#"{"user":"bo","client":"0000000000011","conn_info":{"name": "Bo"},"chan_info":{"base64":"/w=="}}"#;
    let publication = format!(
        r#"{{"data":{{"gif":"wave"}},"info":{info},"offset":42,"time":1825689600007,"id":"377487360029361664","tags":{{"lang":"ko","\"":"x"}}}}"#
    );
    let push = format!(r#"{{"push":{{"channel":"lobby","pub":{publication}}}}}"#);
    assert_eq!(said(0, &Event::Batch { room: "lobby", messages: &[message] }), push);
}

#[test]
fn what_is_no_message_is_not_shown() {
    let other = Message { kind: Kind::Other(3), ..MESSAGES[1] };
    let mut out = Vec::new();
    encode(0, &Event::Batch { room: "lobby", messages: &[other] }, &mut out);
    assert_eq!(out, b"");
    let some = said(0, &Event::Batch { room: "lobby", messages: &[other, MESSAGES[2], other] });
    assert_eq!(some, said(0, &Event::Batch { room: "lobby", messages: &MESSAGES[2..] }));
    let page = said(3, &Event::History { room: "lobby", epoch: 1, head: 43, messages: &[other, MESSAGES[2]] });
    assert_eq!(page, said(3, &Event::History { room: "lobby", epoch: 1, head: 43, messages: &MESSAGES[2..] }));
}

#[test]
fn every_event_is_one_text_frame_of_json_lines_or_nothing() {
    for event in events() {
        let mut out = Vec::new();
        encode(5, &event, &mut out);
        let header = if out[1] < 126 { 2 } else { 4 };
        assert_eq!(out[0], 0x81);
        for line in str::from_utf8(&out[header..]).unwrap().split('\n') {
            assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
        }
    }
    let error = Event::Error { code: ErrorCode::BadRequest, message: "why", retry_after_ms: 0 };
    for event in [Event::Left { room: "r" }, Event::Pong, Event::Batch { room: "r", messages: &[][..] }, error] {
        let mut out = Vec::new();
        encode(0, &event, &mut out);
        assert_eq!(out, b"", "{event:?} without an id is nothing that an SDK can give to anybody");
    }
}

fn shown(message: &Message<'_>) -> Value {
    use base64::Engine;
    match message.content {
        Content::Text => json!(str::from_utf8(message.body).unwrap()),
        Content::Json => serde_json::from_slice(message.body).unwrap(),
        Content::Binary => json!({"base64": base64::engine::general_purpose::STANDARD.encode(message.body)}),
    }
}

proptest! {
    #[test]
    fn any_command_round_trips(tag in 1_u32.., command in any_command()) {
        prop_assume!(is_spelled(&command), "JSON has no bytes");
        let text = spelled(tag, &command);
        prop_assert_eq!(read(&text).unwrap(), [Request { tag, command: arriving(command) }]);
    }

    #[test]
    fn any_messages_are_one_line_each(room: String, messages in any_messages()) {
        let messages: Vec<_> = messages.into_iter().filter(|message| message.kind == Kind::Message).collect();
        prop_assume!(!messages.is_empty());
        let text = said(0, &Event::Batch { room: &room, messages: &messages });
        let lines: Vec<Value> = text.split('\n').map(|line| serde_json::from_str(line).unwrap()).collect();
        prop_assert_eq!(lines.len(), messages.len());
        for (line, message) in lines.iter().zip(&messages) {
            let client = message.parts.client().map_or_else(String::new, |client| client.to_string());
            let mut publication = json!({
                "data": shown(message),
                "info": {"user": message.user, "client": client},
                "offset": message.seq,
                "time": message.time_ms,
                "id": message.id.to_string(),
            });
            if let Some(info) = message.parts.info() {
                use base64::Engine;
                publication["info"]["conn_info"] = serde_json::from_slice(info).unwrap_or_else(|_| {
                    json!({"base64": base64::engine::general_purpose::STANDARD.encode(info)})
                });
                publication["tags"] = message.parts.tags().map(|(name, value)| (name.to_owned(), json!(value))).collect();
            }
            prop_assert_eq!(line, &json!({"push": {"channel": room, "pub": publication}}));
        }
    }

    #[test]
    fn arbitrary_text_is_never_a_panic(text: String, bytes in vec(any::<u8>(), 0..50)) {
        let _ = read(&text);
        let _ = crate::json::check(&bytes);
    }

    #[test]
    fn a_damaged_command_is_never_a_panic(command in any_command(), at: prop::sample::Index, to: char) {
        prop_assume!(is_spelled(&command));
        let mut text: Vec<char> = spelled(1, &command).chars().collect();
        *at.get_mut(&mut text) = to;
        let _ = read(&text.into_iter().collect::<String>());
    }
}
