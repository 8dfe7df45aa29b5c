//! One second of the chat of a room of 70,000, as the relay numbers and times it.

use std::ops::Range;

use loadgen::dice::Dice;
use loadgen::text;
use protocol::snowflake::{self, Snowflake};
use protocol::{Content, Dialect, Event, Kind, Message, Parts};

/// Messages a second of 70,000 users who send one a minute.
pub const MESSAGES: usize = 1_167;
const USERS: u64 = 70_000;
const ROOM: &str = "load-0";
/// Messages between two appends share their time: writes are this far apart.
const APPEND_MS: usize = 4;
/// 2026-11-21, any time after the ids' epoch would do.
const BEGIN_MS: u64 = snowflake::EPOCH_MS + 59_443_200_000;

struct Line {
    id: u64,
    time_ms: u64,
    user: String,
    body: String,
}

/// The messages of one second, owned.
pub struct Second {
    first_seq: u64,
    lines: Vec<Line>,
}

impl Second {
    /// A pure function of (seed, nth): senders at random, ids and times in groups of one append.
    /// Without `tag`, bodies lack the ` ·user.k` by which loadgen knows its own messages.
    pub fn new(seed: u64, nth: u64, tag: bool) -> Self {
        let dice = &mut Dice::new(seed, 0x5ec0, nth);
        let (mut ids, mut last) = (Snowflake::new(0, 1, 0), 0);
        let lines = (0..MESSAGES).map(|line| {
            let append = line * 1_000 / MESSAGES / APPEND_MS * APPEND_MS;
            let time_ms = BEGIN_MS + nth * 1_000 + append as u64;
            last = ids.next(time_ms, last);
            let user = dice.below(USERS) as u32;
            let mut body = String::new();
            text::write_body(seed, user, (nth / 60) as u32, &mut body);
            let end = if tag { body.len() } else { body.rfind(' ').expect("a tag begins with a space") };
            body.truncate(end);
            Line { id: last, time_ms, user: format!("u{user}"), body }
        });
        Self { first_seq: 1 + nth * MESSAGES as u64, lines: lines.collect() }
    }

    /// The messages as the relay encodes them.
    pub fn messages(&self) -> Vec<Message<'_>> {
        let each = self.lines.iter().zip(self.first_seq..);
        each.map(|(line, seq)| Message {
            seq,
            id: line.id,
            time_ms: line.time_ms,
            user: &line.user,
            content: Content::Text,
            body: line.body.as_bytes(),
            kind: Kind::Message,
            parts: Parts::NONE,
        })
        .collect()
    }

    /// The payloads of the second's frames, `count` of about the same number of messages.
    pub fn payloads(&self, dialect: Dialect, count: usize) -> Vec<Vec<u8>> {
        let messages = self.messages();
        split(messages.len(), count).map(|range| payload(dialect, &messages[range])).collect()
    }
}

/// `0..length` in `count` ranges of about the same length.
pub fn split(length: usize, count: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).map(move |nth| nth * length / count..(nth + 1) * length / count)
}

/// What the frame of one batch carries: that is what an extension of the protocol would deflate.
pub fn payload(dialect: Dialect, messages: &[Message<'_>]) -> Vec<u8> {
    let mut frame = Vec::new();
    dialect.encode(0, &Event::Batch { room: ROOM, messages }, &mut frame);
    let header = match frame[1] & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    frame.split_off(header)
}

/// Bytes of a frame with a payload of so many.
pub fn framed(payload_bytes: usize) -> usize {
    payload_bytes
        + match payload_bytes {
            0..126 => 2,
            126..65_536 => 4,
            _ => 10,
        }
}
