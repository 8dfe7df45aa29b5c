//! A client's side of both dialects: requests to frames, and frames to what they say.

use std::borrow::Cow;

use protocol::frame::{self, Decoder, Deflater, Incoming, Opcode, Role};
use protocol::{Command, Content, Dialect, ErrorCode, Page, Request, Start, native};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The bit of a frame's first byte that ends a message; the opcode beside it is 0 in a continuation.
const FIN: u8 = 0x80;
/// The bit of a message's first byte that says it is deflated.
pub const RSV1: u8 = 0x40;

/// A message as a client reads it.
#[derive(Debug)]
pub struct Line<'a> {
    pub seq: u64,
    pub id: u64,
    pub time_ms: u64,
    pub user: Cow<'a, str>,
    /// The connection that published it, "" for none; None where the dialect does not say.
    pub client: Option<Cow<'a, str>>,
    pub body: Body<'a>,
}

/// A body as it was stored, or as the JSON dialect shows it.
#[derive(Debug)]
pub enum Body<'a> {
    Stored(Content, &'a [u8]),
    Shown(Cow<'a, str>),
}

/// What a relay says, in both dialects. Replies of the JSON dialect do not name their room.
#[derive(Debug)]
pub enum Heard<'a> {
    Connected { user: Cow<'a, str>, client: String },
    Joined { room: Option<&'a str>, epoch: u64, from: u64, head: Option<u64>, recovering: bool, recovered: bool },
    Left,
    Acked { seq: u64, id: u64 },
    History { epoch: u64, head: u64, lines: Vec<Line<'a>> },
    Info { epoch: u64, head: u64, members: u32, people: u32 },
    Batch { room: Cow<'a, str>, lines: Vec<Line<'a>> },
    Gap { room: &'a str, from: u64, to: u64 },
    Unsubscribed { room: Cow<'a, str>, code: u64 },
    KeyTaken { seq: u64, id: u64 },
    Refused { code: ErrorCode },
    GoingAway,
    Pong,
    Ping,
}

impl Heard<'_> {
    /// It in a line, without bodies.
    pub fn brief(&self) -> String {
        match self {
            Self::Batch { room, lines } => format!("batch {room} {}..={}", lines[0].seq, lines[lines.len() - 1].seq),
            Self::History { head, lines, .. } => format!("history of {} up to {head}", lines.len()),
            other => format!("{other:?}"),
        }
    }
}

/// Appends a request as masked frames: one, or two when it is longer than `cut`; deflated if there is a deflater.
pub fn say(
    dialect: Dialect,
    request: &Request<'_>,
    (mask, cut): ([u8; 4], usize),
    deflater: Option<&mut Deflater>,
    out: &mut Vec<u8>,
) {
    let mut payload = Vec::new();
    let opcode = match dialect {
        Dialect::Native | Dialect::NativeParts => {
            native::encode_request(request, &mut payload);
            Opcode::Binary
        }
        Dialect::Centrifuge => {
            payload.extend_from_slice(to_json(request).as_bytes());
            Opcode::Text
        }
    };
    let mut flags = 0;
    if let Some(deflater) = deflater {
        payload = deflated(deflater, opcode, &payload);
        flags = RSV1;
    }
    let (front, back) = payload.split_at(cut.min(payload.len()));
    let start = out.len();
    frame::write_masked(opcode, front, mask, out);
    out[start] |= flags;
    if !back.is_empty() {
        // Not the last frame of its message; the other one continues it.
        out[start] &= !FIN;
        let start = out.len();
        frame::write_masked(opcode, back, mask, out);
        out[start] = FIN;
    }
}

/// The payload of a deflated message.
fn deflated(deflater: &mut Deflater, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    deflater.write_masked(opcode, payload, [0; 4], &mut frame);
    let mut decoder = Decoder::new(Role::Server, 1 << 30).with_deflate();
    match decoder.next(&mut frame) {
        Ok((_, Some(Incoming::Deflated { payload, .. }))) => payload.to_vec(),
        other => panic!("a deflated frame is read as {other:?}"),
    }
}

fn to_json(request: &Request<'_>) -> String {
    let (method, value) = match &request.command {
        Command::Connect { user, .. } => ("connect", json!({ "data": { "user": user } })),
        Command::Join { room, start: Start::Recent(recent) } => {
            ("subscribe", json!({ "channel": room, "recent": recent }))
        }
        Command::Join { room, start: Start::Since { seq, epoch } } => {
            let epoch = epoch.map_or(String::new(), |epoch| format!("{epoch:x}"));
            ("subscribe", json!({ "channel": room, "recover": true, "offset": seq, "epoch": epoch }))
        }
        Command::Leave { room } => ("unsubscribe", json!({ "channel": room })),
        Command::Publish { room, content, body, key } => {
            assert_eq!(*content, Content::Json, "this dialect publishes JSON");
            let data: Value = serde_json::from_slice(body).expect("JSON");
            ("publish", json!({ "channel": room, "data": data, "key": key }))
        }
        Command::History { room, page, limit, .. } => (
            "history",
            match page {
                Page::Newest => json!({ "channel": room, "limit": limit, "reverse": true }),
                Page::Before(seq) => json!({ "channel": room, "limit": limit, "before": seq }),
                Page::After(seq) => json!({ "channel": room, "limit": limit, "since": { "offset": seq } }),
                Page::Around(seq) => json!({ "channel": room, "limit": limit, "around": seq }),
            },
        ),
        Command::Info { room } => ("info", json!({ "channel": room })),
        Command::Ping => ("ping", json!({})),
        Command::Pong | Command::Unsupported | Command::Refused { .. } => return "{}".to_owned(),
    };
    json!({ "id": request.tag, method: value }).to_string()
}

/// What one message from the relay says, with the tag of the request it answers.
pub fn hear<'a>(dialect: Dialect, incoming: &Incoming<'a>, mut each: impl FnMut(u32, Heard<'a>)) {
    match (dialect, incoming) {
        (Dialect::Native | Dialect::NativeParts, Incoming::Binary(payload)) => {
            let (tag, received) = native::decode_event(payload).expect("invariant 6: the relay sends whole events");
            each(tag, heard(dialect, &received.expect("invariant 6: the relay says what is known")));
        }
        (Dialect::Centrifuge, Incoming::Text(text)) => {
            for document in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
                let document = document.expect("invariant 6: the relay sends JSON").get();
                from_json(document, &mut each);
            }
        }
        _ => panic!("invariant 6: {dialect:?} does not say {incoming:?}"),
    }
}

fn heard<'a>(dialect: Dialect, received: &native::Received<'a>) -> Heard<'a> {
    use native::Received as R;
    match *received {
        R::Connected { user, client, .. } => Heard::Connected { user: user.into(), client: client.to_string() },
        R::Joined { room, epoch, from, head, recovering, recovered } => {
            Heard::Joined { room: Some(room), epoch, from, head: Some(head), recovering, recovered }
        }
        R::Left { .. } => Heard::Left,
        R::Acked { seq, id, .. } => Heard::Acked { seq, id },
        R::History { epoch, head, ref messages, .. } => {
            Heard::History { epoch, head, lines: unpack(dialect, messages) }
        }
        R::Batch { room, ref messages } => Heard::Batch { room: room.into(), lines: unpack(dialect, messages) },
        R::Gap { room, from, to } => Heard::Gap { room, from, to },
        R::KeyTaken { seq, id } => Heard::KeyTaken { seq, id },
        R::Error { code, .. } => Heard::Refused { code },
        R::GoingAway { .. } => Heard::GoingAway,
        R::Info { epoch, head, members, people, .. } => Heard::Info { epoch, head, members, people },
        R::Pong => Heard::Pong,
        R::Ping => Heard::Ping,
    }
}

fn unpack<'a>(dialect: Dialect, messages: &native::Packed<'a>) -> Vec<Line<'a>> {
    let line = |message: Result<protocol::Message<'a>, _>| {
        let message = message.expect("invariant 6: the relay packs messages");
        let client = message.parts.client().map_or(String::new(), |client| client.to_string());
        assert!(dialect.names_clients() || message.parts.is_empty(), "parts travel only to those who asked for them");
        Line {
            client: dialect.names_clients().then_some(client.into()),
            seq: message.seq,
            id: message.id,
            time_ms: message.time_ms,
            user: message.user.into(),
            body: Body::Stored(message.content, message.body),
        }
    };
    messages.iter().map(line).collect()
}

#[derive(Deserialize)]
struct Down<'a> {
    id: Option<u32>,
    #[serde(borrow)]
    push: Option<Push<'a>>,
    #[serde(borrow)]
    history: Option<Pages<'a>>,
    connect: Option<Value>,
    subscribe: Option<Value>,
    unsubscribe: Option<Value>,
    publish: Option<Value>,
    ping: Option<Value>,
    info: Option<Value>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Push<'a> {
    channel: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "pub")]
    publication: Option<Publication<'a>>,
    unsubscribe: Option<Value>,
    disconnect: Option<Value>,
    message: Option<Value>,
}

#[derive(Deserialize)]
struct Pages<'a> {
    #[serde(borrow)]
    publications: Vec<Publication<'a>>,
    offset: u64,
    epoch: String,
}

#[derive(Deserialize)]
struct Publication<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    offset: u64,
    time: u64,
    id: String,
    info: Value,
}

impl<'a> From<Publication<'a>> for Line<'a> {
    fn from(publication: Publication<'a>) -> Self {
        Line {
            seq: publication.offset,
            id: publication.id.parse().expect("a number"),
            time_ms: publication.time,
            client: Some(publication.info["client"].as_str().expect("a client").to_owned().into()),
            user: publication.info["user"].as_str().expect("a user").to_owned().into(),
            body: Body::Shown(publication.data.get().into()),
        }
    }
}

fn from_json<'a>(document: &'a str, each: &mut impl FnMut(u32, Heard<'a>)) {
    let down: Down<'a> = serde_json::from_str(document).expect("invariant 6: the relay's JSON has a known form");
    let number = |value: &Value, name: &str| value[name].as_u64().expect("a number");
    let epoch = |text: &str| u64::from_str_radix(text, 16).expect("an epoch");
    let heard = match down {
        Down { push: Some(push), .. } => match (push.channel, push.publication) {
            (Some(room), Some(publication)) => Heard::Batch { room, lines: vec![publication.into()] },
            (Some(room), None) => {
                let unsubscribe = push.unsubscribe.expect("a push says something");
                Heard::Unsubscribed { room, code: number(&unsubscribe, "code") }
            }
            _ if push.disconnect.is_some() => Heard::GoingAway,
            _ => refused(&push.message.expect("a push says something")["data"]["error"]),
        },
        Down { history: Some(pages), .. } => Heard::History {
            epoch: epoch(&pages.epoch),
            head: pages.offset,
            lines: pages.publications.into_iter().map(Into::into).collect(),
        },
        Down { info: Some(info), .. } => Heard::Info {
            epoch: epoch(info["epoch"].as_str().expect("an epoch")),
            head: number(&info, "offset"),
            members: number(&info, "num_clients") as u32,
            people: number(&info, "num_users") as u32,
        },
        Down { connect: Some(connect), .. } => {
            let user = connect["data"]["user"].as_str().expect("a user").to_owned().into();
            Heard::Connected { user, client: connect["client"].as_str().expect("a client").to_owned() }
        }
        Down { subscribe: Some(joined), .. } => Heard::Joined {
            room: None,
            epoch: epoch(joined["epoch"].as_str().expect("an epoch")),
            from: number(&joined, "offset"),
            head: None,
            recovering: joined["was_recovering"] == true,
            recovered: joined["recovered"] == true,
        },
        Down { unsubscribe: Some(_), .. } => Heard::Left,
        Down { publish: Some(acked), .. } => {
            let id = acked["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
            Heard::Acked { seq: number(&acked, "offset"), id }
        }
        Down { ping: Some(_), .. } => Heard::Pong,
        Down { error: Some(error), .. } if error["code"] == 409 => {
            let id = error["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
            Heard::KeyTaken { seq: number(&error, "offset"), id }
        }
        Down { error: Some(error), .. } => refused(&error),
        Down { id: None, .. } => Heard::Ping,
        Down { .. } => panic!("invariant 6: {document} says nothing"),
    };
    each(down.id.unwrap_or(0), heard);
}

/// Codes that stand for several of ours are read as the one that promises least.
fn refused<'a>(error: &Value) -> Heard<'a> {
    let code = match error["code"].as_u64() {
        Some(100) => ErrorCode::Unknown,
        Some(101) => ErrorCode::NotConnected,
        Some(103) => ErrorCode::NotJoined,
        Some(104) => ErrorCode::Unsupported,
        Some(105) => ErrorCode::Already,
        Some(106) => ErrorCode::TooLarge,
        Some(107) => ErrorCode::BadRequest,
        Some(108) => ErrorCode::NotAvailable,
        Some(111) => ErrorCode::Busy,
        _ => panic!("invariant 6: the error code of {error} is unknown"),
    };
    Heard::Refused { code }
}
