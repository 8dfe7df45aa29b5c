//! What a client sends: JSON objects one after the other, each with at most one method.

use std::{borrow::Cow, ops::ControlFlow};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use crate::{Command, Content, Page, Request, Start, dialect::Malformed};

/// Returns how many bytes were used: all, unless `each` breaks off.
pub(super) fn read<'a>(
    text: &'a str,
    each: &mut dyn FnMut(Request<'a>) -> ControlFlow<()>,
) -> Result<usize, Malformed> {
    let mut envelopes = serde_json::Deserializer::from_str(text).into_iter::<Envelope<'a>>();
    while let Some(envelope) = envelopes.next() {
        let envelope = envelope.map_err(|error| Malformed(format!("not a command in JSON: {error}")))?;
        if each(envelope.request()?).is_break() {
            return Ok(envelopes.byte_offset());
        }
    }
    Ok(text.len())
}

/// One command. Unknown fields are let pass, so a method we do not know leaves all of these empty.
#[derive(Deserialize)]
struct Envelope<'a> {
    id: Option<u32>,
    #[serde(borrow)]
    connect: Option<Connect<'a>>,
    #[serde(borrow)]
    subscribe: Option<Subscribe<'a>>,
    #[serde(borrow)]
    unsubscribe: Option<Unsubscribe<'a>>,
    #[serde(borrow)]
    publish: Option<Publish<'a>>,
    #[serde(borrow)]
    history: Option<History<'a>>,
    ping: Option<IgnoredAny>,
    send: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Connect<'a> {
    #[serde(borrow)]
    data: Option<Identity<'a>>,
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
    since: Option<Position>,
    reverse: Option<bool>,
    /// Ours.
    before: Option<u64>,
    /// Ours.
    around: Option<u64>,
}

#[derive(Deserialize)]
struct Position {
    offset: Option<u64>,
}

/// A string that borrows even inside an `Option`, where serde copies a plain `Cow`.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Envelope<'a> {
    fn request(self) -> Result<Request<'a>, Malformed> {
        let tag = self.id.unwrap_or(0);
        let command = match self {
            Self { connect: Some(connect), .. } => connect.command(),
            Self { subscribe: Some(subscribe), .. } => subscribe.command(),
            Self { unsubscribe: Some(Unsubscribe { channel }), .. } => Command::Leave { room: channel },
            Self { publish: Some(publish), .. } => publish.command(),
            Self { history: Some(history), .. } => history.command(),
            Self { ping: Some(_), .. } => Command::Ping,
            Self { send: Some(_), .. } => return Ok(Request { tag, command: Command::Unsupported }),
            _ if tag == 0 => return Ok(Request { tag, command: Command::Pong }),
            _ => Command::Unsupported,
        };
        if tag == 0 {
            return Err(Malformed("a command needs an id above 0, which its reply will carry".to_owned()));
        }
        Ok(Request { tag, command })
    }
}

impl<'a> Connect<'a> {
    fn command(self) -> Command<'a> {
        let (user, device) = self.data.map_or((None, None), |data| (data.user, data.device));
        Command::Connect { user: user.map(|user| user.0), device: device.map(|device| device.0) }
    }
}

impl<'a> Subscribe<'a> {
    fn command(self) -> Command<'a> {
        let start = if self.recover == Some(true) {
            Start::Since { seq: self.offset.unwrap_or(0), epoch: self.epoch.as_ref().and_then(read_epoch) }
        } else {
            Start::Recent(self.recent.unwrap_or(0))
        };
        Command::Join { room: self.channel, start }
    }
}

/// An epoch that is not one of ours (SDKs send "_" to make a recovery fail) is 0, which no room has.
fn read_epoch(Text(epoch): &Text<'_>) -> Option<u64> {
    (!epoch.is_empty()).then(|| u64::from_str_radix(epoch, 16).unwrap_or(0))
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
        let since = self.since.map(|since| since.offset.unwrap_or(0));
        let page = match (self.around, self.before, self.reverse == Some(true), since) {
            (Some(seq), ..) => Page::Around(seq),
            (_, Some(seq), ..) | (_, _, true, Some(seq)) => Page::Before(seq),
            (_, _, true, None) => Page::Newest,
            (_, _, false, since) => Page::After(since.unwrap_or(0)),
        };
        let limit = u32::try_from(self.limit.unwrap_or(0)).unwrap_or(u32::MAX);
        Command::History { room: self.channel, page, limit }
    }
}
