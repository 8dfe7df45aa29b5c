//! Which encoding a connection speaks, and the one place that dispatches on it.

#[cfg(test)]
pub(crate) mod samples;

use std::ops::ControlFlow;

use crate::{Event, Malformed, Request, centrifuge, event::Close, frame::Incoming, handshake::Upgrade, native};

/// An encoding of commands and events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Binary, [`native`].
    Native,
    /// JSON, [`centrifuge`].
    Centrifuge,
    /// [`native`] with the optional parts of messages, for those who ask for its sub-protocol.
    NativeParts,
}

/// What the two ends of a connection agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// What both speak.
    pub dialect: Dialect,
    /// The sub-protocol to answer with.
    pub subprotocol: Option<&'static str>,
    /// Why it is closed as soon as it is open: the client asks for what only a close frame can refuse for good.
    pub unserved: Option<&'static str>,
}

impl Dialect {
    /// All dialects.
    pub const ALL: [Self; 3] = [Self::Native, Self::Centrifuge, Self::NativeParts];

    /// What a connection that is asked for will speak; or the HTTP status and the sentence that refuse it.
    pub fn negotiate(upgrade: &Upgrade) -> Result<Agreed, (u16, String)> {
        match &*upgrade.path {
            native::PATH => {
                let (with_parts, subprotocol) =
                    native::negotiate(&upgrade.subprotocols).map_err(|malformed| (400, malformed.0))?;
                let dialect = if with_parts { Self::NativeParts } else { Self::Native };
                Ok(Agreed { dialect, subprotocol, unserved: None })
            }
            centrifuge::PATH => {
                let (subprotocol, unserved) = centrifuge::negotiate(&upgrade.subprotocols, &upgrade.query);
                Ok(Agreed { dialect: Self::Centrifuge, subprotocol, unserved })
            }
            _ => Err((404, format!("No WebSocket here. Use {} or {}.\n", native::PATH, centrifuge::PATH))),
        }
    }

    /// What it shows of a message names the connection that published it.
    pub fn names_clients(self) -> bool {
        self != Self::Native
    }

    /// Decodes one WebSocket message, which may hold several commands. Commands before a malformed one are still given.
    pub fn decode<'a>(self, message: &Incoming<'a>, each: &mut dyn FnMut(Request<'a>)) -> Result<(), Malformed> {
        let mut all = |request| {
            each(request);
            ControlFlow::Continue(())
        };
        self.decode_some(message, &mut all).map(drop)
    }

    /// [`Dialect::decode`] until `each` breaks off. Returns how many bytes of the message were used: the rest of them,
    /// if there is one, is a message of its own.
    pub fn decode_some<'a>(
        self,
        message: &Incoming<'a>,
        each: &mut dyn FnMut(Request<'a>) -> ControlFlow<()>,
    ) -> Result<usize, Malformed> {
        match self {
            Self::Native | Self::NativeParts => native::decode(message, each),
            Self::Centrifuge => centrifuge::decode(message, each),
        }
    }

    /// Appends the event as whole WebSocket frames. `tag` is the request's for replies, else 0.
    /// Encoding the same event twice gives the same bytes.
    pub fn encode(self, tag: u32, event: &Event<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Native => native::encode(tag, event, false, out),
            Self::NativeParts => native::encode(tag, event, true, out),
            Self::Centrifuge => centrifuge::encode(tag, event, out),
        }
    }

    /// Its pings are messages of its own, which its clients expect at the interval they were told.
    pub fn has_pings(self) -> bool {
        self == Self::Centrifuge
    }

    /// A gap ends the membership: the client joins again from the last message it has, and so recovers it.
    pub fn gap_ends_membership(self) -> bool {
        self == Self::Centrifuge
    }

    /// Leaving a room that the client is not in is no error: its SDKs would give up the connection, and they cannot know
    /// of a membership that has just ended.
    pub fn leaves_twice(self) -> bool {
        self == Self::Centrifuge
    }

    /// Status code and reason of the close frame that ends a connection of this dialect.
    pub fn close(self, why: Close) -> (u16, &'static str) {
        match self {
            Self::Native | Self::NativeParts => native::close(why),
            Self::Centrifuge => centrifuge::close(why),
        }
    }
}
