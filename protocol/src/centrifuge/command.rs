//! What a client sends: JSON objects one after the other, each with one method.

mod object;

#[cfg(test)]
mod tests;

use std::{borrow::Cow, ops::ControlFlow};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Deserializer, value::RawValue};

use self::object::Object;
use crate::{Command, Content, ErrorCode, Malformed, Page, Request, Start};

/// No room has it.
const NO_EPOCH: u64 = 0;

/// Returns how many bytes were used: all, unless `each` breaks off.
pub(super) fn read<'a>(
    text: &'a str,
    each: &mut dyn FnMut(Request<'a>) -> ControlFlow<()>,
) -> Result<usize, Malformed> {
    let mut at = 0;
    while !text[at..].trim_ascii_start().is_empty() {
        let (request, used) = read_one(&text[at..])?;
        at += used;
        if each(request).is_break() {
            return Ok(at);
        }
    }
    Ok(text.len())
}

/// The command at the front, and the bytes up to its end.
fn read_one(text: &str) -> Result<(Request<'_>, usize), Malformed> {
    let mut documents = Deserializer::from_str(text).into_iter::<Object<Envelope<'_>>>();
    let why = match documents.next() {
        Some(Ok(Object(envelope))) => return Ok((envelope.request()?, documents.byte_offset())),
        Some(Err(error)) => format!("not a command in JSON: {error}"),
        None => "there is no command".to_owned(),
    };
    // Whose fields are wrong can be told so, if it is JSON and its id can be read.
    let mut documents = Deserializer::from_str(text).into_iter::<Object<Numbered>>();
    match documents.next() {
        Some(Ok(Object(Numbered { id: Some(tag) }))) if tag > 0 => {
            Ok((Request { tag, command: refuse(why) }, documents.byte_offset()))
        }
        _ => Err(Malformed(why)),
    }
}

fn refuse<'a>(why: impl Into<Cow<'a, str>>) -> Command<'a> {
    Command::Refused { code: ErrorCode::BadRequest, why: why.into() }
}

fn not_available<'a>(why: &'static str) -> Command<'a> {
    Command::Refused { code: ErrorCode::NotAvailable, why: why.into() }
}

/// Only a command's number.
#[derive(Deserialize)]
struct Numbered {
    id: Option<u32>,
}

/// One command. Unknown fields are let pass, so a method we do not know leaves all of these empty.
#[derive(Deserialize)]
struct Envelope<'a> {
    id: Option<u32>,
    #[serde(borrow)]
    connect: Option<Object<Connect<'a>>>,
    #[serde(borrow)]
    subscribe: Option<Object<Subscribe<'a>>>,
    #[serde(borrow)]
    unsubscribe: Option<Object<Unsubscribe<'a>>>,
    #[serde(borrow)]
    publish: Option<Object<Publish<'a>>>,
    #[serde(borrow)]
    history: Option<Object<History<'a>>>,
    /// Ours.
    #[serde(borrow)]
    info: Option<Object<Info<'a>>>,
    ping: Option<IgnoredAny>,
    send: Option<IgnoredAny>,
    presence: Option<IgnoredAny>,
    presence_stats: Option<IgnoredAny>,
    rpc: Option<IgnoredAny>,
    /// Of version 1 of the protocol.
    params: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Connect<'a> {
    /// The application's own; ours if it is an object that says who.
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// Who the client says it is; takes the place of a token.
#[derive(Deserialize)]
struct Identity<'a> {
    #[serde(borrow)]
    user: Option<Text<'a>>,
    #[serde(borrow)]
    device: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Subscribe<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    recover: Option<bool>,
    offset: Option<u64>,
    #[serde(borrow)]
    epoch: Option<Text<'a>>,
    /// A filter of tags.
    tf: Option<IgnoredAny>,
    /// Of a map or a shared poll, if it is not 0.
    r#type: Option<i64>,
    /// Ours: how many of the last messages to begin with.
    recent: Option<u32>,
}

#[derive(Deserialize)]
struct Unsubscribe<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Publish<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
    /// Ours: makes a repeat harmless.
    #[serde(borrow)]
    key: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct History<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    /// Negative: as many as the relay gives.
    limit: Option<i64>,
    #[serde(borrow)]
    since: Option<Object<Position<'a>>>,
    reverse: Option<bool>,
    /// Ours.
    before: Option<u64>,
    /// Ours.
    around: Option<u64>,
}

#[derive(Deserialize)]
struct Info<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Position<'a> {
    offset: Option<u64>,
    #[serde(borrow)]
    epoch: Option<Text<'a>>,
}

/// A string that borrows even inside an `Option`, where serde copies a plain `Cow`.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Envelope<'a> {
    fn request(self) -> Result<Request<'a>, Malformed> {
        let tag = self.id.unwrap_or(0);
        let command = match self {
            _ if self.methods() > 1 => refuse("a command has one method; this one has several"),
            Self { connect: Some(connect), .. } => connect.0.command(),
            Self { subscribe: Some(subscribe), .. } => subscribe.0.command(),
            Self { unsubscribe: Some(unsubscribe), .. } => Command::Leave { room: unsubscribe.0.channel },
            Self { publish: Some(publish), .. } => publish.0.command(),
            Self { history: Some(history), .. } => history.0.command(),
            Self { info: Some(info), .. } => Command::Info { room: info.0.channel },
            Self { ping: Some(_), .. } => Command::Ping,
            Self { send: Some(_), .. } => {
                return Ok(Request { tag: 0, command: not_available("nothing takes what is sent with `send`") });
            }
            Self { presence: Some(_), .. } | Self { presence_stats: Some(_), .. } => {
                not_available("presence is not available")
            }
            Self { rpc: Some(_), .. } => not_available("rpc is not available"),
            Self { params: Some(_), .. } => Command::Refused {
                code: ErrorCode::Unsupported,
                why: "only version 2 of the client protocol is spoken here".into(),
            },
            _ if tag == 0 => return Ok(Request { tag, command: Command::Pong }),
            _ => Command::Unsupported,
        };
        if tag == 0 {
            return Err(Malformed("a command needs an id above 0, which its reply will carry".to_owned()));
        }
        Ok(Request { tag, command })
    }

    fn methods(&self) -> usize {
        let methods = [
            self.connect.is_some(),
            self.subscribe.is_some(),
            self.unsubscribe.is_some(),
            self.publish.is_some(),
            self.history.is_some(),
            self.info.is_some(),
            self.ping.is_some(),
            self.send.is_some(),
            self.presence.is_some(),
            self.presence_stats.is_some(),
            self.rpc.is_some(),
        ];
        methods.into_iter().filter(|&is_there| is_there).count()
    }
}

impl<'a> Connect<'a> {
    fn command(self) -> Command<'a> {
        let data = self.data.map(RawValue::get).filter(|data| data.starts_with('{'));
        let identity = data.map_or(Ok(None), |data| serde_json::from_str::<Identity<'a>>(data).map(Some));
        match identity {
            Ok(Some(Identity { user, device })) => {
                Command::Connect { user: user.map(|user| user.0), device: device.map(|device| device.0) }
            }
            Ok(None) => Command::Connect { user: None, device: None },
            Err(error) => refuse(format!("`user` and `device` in the data of connect are strings: {error}")),
        }
    }
}

impl<'a> Subscribe<'a> {
    fn command(self) -> Command<'a> {
        if self.tf.is_some() {
            return not_available("filters of tags are not available");
        }
        if self.r#type.is_some_and(|kind| kind != 0) {
            return not_available("only streams can be subscribed to");
        }
        let epoch = self.epoch.as_ref().and_then(read_epoch);
        let start = match (self.recover == Some(true), self.offset.unwrap_or(0)) {
            // Without a position there is nothing to recover: the reply says so, and where the room is now.
            (true, 0) if epoch.is_none() => Start::Since { seq: 0, epoch: Some(NO_EPOCH) },
            (true, seq) => Start::Since { seq, epoch },
            (false, _) => Start::Recent(self.recent.unwrap_or(0)),
        };
        Command::Join { room: self.channel, start }
    }
}

/// An epoch that is not one of ours (SDKs send "_" to make a recovery fail) is one that no room has; an empty one is any.
fn read_epoch(Text(epoch): &Text<'_>) -> Option<u64> {
    (!epoch.is_empty()).then(|| u64::from_str_radix(epoch, 16).unwrap_or(NO_EPOCH))
}

impl<'a> Publish<'a> {
    fn command(self) -> Command<'a> {
        // As it was sent, a string with its quotes: whoever reads it gets the publisher's own bytes.
        let body = Cow::Borrowed(self.data.get().as_bytes());
        Command::Publish { room: self.channel, content: Content::Json, body, key: self.key.map(|key| key.0) }
    }
}

impl<'a> History<'a> {
    fn command(self) -> Command<'a> {
        let epoch = self.since.as_ref().and_then(|since| since.0.epoch.as_ref()).and_then(read_epoch);
        let since = self.since.map(|since| since.0.offset.unwrap_or(0));
        let newest_first = self.reverse == Some(true);
        let page = match (self.around, self.before, newest_first, since) {
            (Some(seq), ..) => Page::Around(seq),
            (_, _, true, Some(0)) => return refuse("nothing comes before offset 0"),
            (_, Some(seq), ..) | (_, _, true, Some(seq)) => Page::Before(seq),
            (_, _, true, None) => Page::Newest,
            (_, _, false, since) => Page::After(since.unwrap_or(0)),
        };
        let limit = u32::try_from(self.limit.unwrap_or(0)).unwrap_or(u32::MAX);
        Command::History { room: self.channel, page, limit, epoch, newest_first }
    }
}
