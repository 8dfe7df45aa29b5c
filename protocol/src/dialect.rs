//! Which encoding a connection speaks, and the one place that dispatches on it.

#[cfg(test)]
pub(crate) mod samples;

use std::ops::ControlFlow;

use crate::{Event, Request, centrifuge, event::Close, frame::Incoming, native};

/// An encoding of commands and events. The discriminant indexes per-dialect tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Dialect {
    /// Binary, [`native`].
    Native = 0,
    /// JSON, [`centrifuge`].
    Centrifuge = 1,
    /// [`native`] with the optional parts of messages, for those who ask for its sub-protocol.
    NativeParts = 2,
}

/// A client's message that its dialect cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

impl Dialect {
    /// All dialects, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Native, Self::Centrifuge, Self::NativeParts];
    /// How many dialects there are: the length of a per-dialect table.
    pub const COUNT: usize = Self::ALL.len();

    /// The dialect served under a request path, unless a sub-protocol says more.
    pub fn of_path(path: &str) -> Option<Self> {
        match path {
            native::PATH => Some(Self::Native),
            centrifuge::PATH => Some(Self::Centrifuge),
            _ => None,
        }
    }

    /// The sub-protocol to answer with, from those offered, and the dialect that it is. `Err` when only unknown ones
    /// were offered and the dialect cannot go without.
    pub fn choose_subprotocol(self, offered: &[String]) -> Result<(Self, Option<&'static str>), Malformed> {
        match self {
            Self::Native | Self::NativeParts => native::choose_subprotocol(offered),
            Self::Centrifuge => Ok((self, centrifuge::choose_subprotocol(offered))),
        }
    }

    /// What it shows of a message names the connection that published it.
    pub fn names_clients(self) -> bool {
        self != Self::Native
    }

    /// Why a connection cannot be served that was opened with this query and agreed on this sub-protocol, if so.
    pub fn unserved(self, subprotocol: Option<&str>, query: &str) -> Option<&'static str> {
        match self {
            Self::Native | Self::NativeParts => None,
            Self::Centrifuge => centrifuge::unserved(subprotocol, query),
        }
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
