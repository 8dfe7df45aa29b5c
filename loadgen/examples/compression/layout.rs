//! Other ways to lay out a batch before it is deflated. Only their sizes matter here, so nothing reads them back.

use protocol::{Dialect, Message};

use crate::chat::payload;

/// The archive around the packed messages: its root and the room's name, at the end of the payload.
const ENVELOPE_BYTES: usize = 49 + 6;

/// How the messages of a batch become bytes.
#[derive(Debug, Clone, Copy)]
pub enum Layout {
    /// The native dialect.
    Rows,
    /// All flags, all ids, all name lengths, all names, all body lengths, all bodies.
    Columns,
    /// The same, but one id and a count for all messages of an append.
    Appends,
    /// The same, and each name and body ends with a zero byte instead of having a length.
    Ended,
    /// Nothing but the names.
    Names,
    /// Nothing but the bodies.
    Bodies,
}

impl Layout {
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Rows, "rows: the native dialect"),
        (Self::Columns, "columns"),
        (Self::Appends, "columns, one id an append"),
        (Self::Ended, "the same, ended by zeros"),
        (Self::Names, "  of that: names alone"),
        (Self::Bodies, "  of that: bodies alone"),
    ];

    /// The payload of one frame.
    pub fn payload(self, messages: &[Message<'_>]) -> Vec<u8> {
        let native = payload(Dialect::Native, messages);
        let names = || messages.iter().map(|message| message.user.as_bytes());
        let bodies = || messages.iter().map(|message| message.body);
        let mut out = match self {
            Self::Rows => return native,
            Self::Names => return lengths(names()).into_iter().chain(names().flatten().copied()).collect(),
            Self::Bodies => return lengths(bodies()).into_iter().chain(bodies().flatten().copied()).collect(),
            Self::Columns => {
                let flags = messages.iter().map(|message| message.content as u8);
                flags.chain(ids(messages, false)).collect()
            }
            Self::Appends | Self::Ended => ids(messages, true),
        };
        for column in [names().collect::<Vec<_>>(), bodies().collect()] {
            if matches!(self, Self::Ended) {
                out.extend(column.iter().copied().flat_map(|text| text.iter().chain([&0])));
            } else {
                out.extend(lengths(column.iter().copied()));
                out.extend(column.iter().copied().flatten());
            }
        }
        out.extend_from_slice(&native[native.len() - ENVELOPE_BYTES..]);
        out
    }
}

/// Milliseconds since the id before, for each message or, with how many share it, for each append.
fn ids(messages: &[Message<'_>], by_append: bool) -> Vec<u8> {
    let (mut out, mut last_ms) = (messages[0].id.to_le_bytes().to_vec(), messages[0].time_ms);
    for append in messages.chunk_by(|a, b| a.time_ms == b.time_ms) {
        let ms = append[0].time_ms - last_ms;
        last_ms = append[0].time_ms;
        if by_append {
            out.extend([ms as u8, append.len() as u8]);
        } else {
            out.push(ms as u8);
            out.extend(std::iter::repeat_n(0, append.len() - 1));
        }
    }
    out
}

/// A LEB128 varint each.
fn lengths<'a>(texts: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for text in texts {
        let mut length = text.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
    }
    out
}
