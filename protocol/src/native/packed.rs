//! Messages of one room as a dense column of bytes, about 11 bytes a line around the text and the user's name.
//!
//! Every number is a LEB128 varint. One message is
//! `flags, id, [time], user, body length, body, [kind, parts]`; `protocol/README.md` has the layout and an example.

use std::collections::HashMap;

use crate::{
    Content, Kind, Malformed, Message, Parts,
    snowflake::{COUNTER_BITS, NODE_BITS, SHARD_BITS, time_ms},
    varint,
};

/// Bits 0–1: the content type's number.
const CONTENT: u8 = 0b0000_0011;
/// Bit 2: the time is not the id's; their difference in milliseconds follows, zigzag.
const TIME: u8 = 0b0000_0100;
/// Bit 3: the user's name stands so many bytes before this field; otherwise length and name follow.
const USER_BEFORE: u8 = 0b0000_1000;
/// Bits 4–6: how the id is written. Up to 5: the milliseconds since the last id, and the counter is so much above the
/// one that would be next (other rooms share the generator, so it often is a little above).
const ID: u8 = 0b0111_0000;
const ID_SHIFT: u32 = 4;
/// The milliseconds since the last id, then the counter.
const ID_COUNTER: u8 = 6;
/// Eight bytes, little-endian.
const ID_WHOLE: u8 = 7;
/// Bit 7: behind the body stand the kind's number and, behind their length, the message's parts.
const MORE: u8 = 0b1000_0000;

/// Bits of an id below its time.
const LOW_BITS: u32 = COUNTER_BITS + SHARD_BITS + NODE_BITS;
const COUNTER_MAX: u64 = (1 << COUNTER_BITS) - 1;
const LANE: u64 = ((1 << LOW_BITS) - 1) & !COUNTER_MAX;

/// Packed messages of one room, dense: `first_seq .. first_seq + count`. The counts are O(1), the contents an iterator.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    /// Seq of the first message; 0 when there are none.
    pub first_seq: u64,
    /// How many messages there are.
    pub count: u32,
    /// The column.
    pub bytes: &'a [u8],
}

impl<'a> Packed<'a> {
    /// Unpacks one by one; ends with an error where the bytes are malformed.
    pub fn iter(&self) -> impl Iterator<Item = Result<Message<'a>, Malformed>> + use<'a> {
        Unpack { bytes: self.bytes, at: 0, seq: self.first_seq, left: self.count, id: 0 }
    }
}

/// Packs messages whose seqs are dense.
///
/// # Panics
/// When they are not: a reader would take them for others.
pub(super) fn pack(messages: &[Message<'_>], with_parts: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(messages.iter().map(|message| message.body.len() + 24).sum());
    let mut senders = HashMap::new();
    let mut last = None;
    for message in messages {
        assert!(last.is_none_or(|last: Message<'_>| message.seq == last.seq + 1), "a batch has no holes");
        let parts = if with_parts { message.parts } else { Parts::NONE };
        pack_one(message, parts, last.map_or(0, |last| last.id), &mut senders, &mut out);
        last = Some(*message);
    }
    out
}

fn pack_one<'a>(
    message: &Message<'a>,
    parts: Parts<'_>,
    last_id: u64,
    senders: &mut HashMap<&'a str, usize>,
    out: &mut Vec<u8>,
) {
    let flags_at = out.len();
    out.push(0);
    let mut flags = message.content as u8 | (write_id(last_id, message.id, out) << ID_SHIFT);
    let late = message.time_ms.wrapping_sub(time_ms(message.id)).cast_signed();
    if late != 0 {
        flags |= TIME;
        varint::write(varint::zigzag(late), out);
    }
    let user_at = out.len();
    match senders.get(message.user) {
        Some(at) if varint::len((user_at - at) as u64) <= message.user.len() => {
            flags |= USER_BEFORE;
            varint::write((user_at - at) as u64, out);
        }
        _ => {
            senders.insert(message.user, user_at);
            varint::write_bytes(message.user.as_bytes(), out);
        }
    }
    varint::write_bytes(message.body, out);
    if message.kind != Kind::Message || !parts.is_empty() {
        flags |= MORE;
        out.push(message.kind.to_u8());
        varint::write_bytes(parts.bytes(), out);
    }
    out[flags_at] = flags;
}

/// Writes an id in the shortest way from the one before it and returns that way.
fn write_id(last: u64, id: u64, out: &mut Vec<u8>) -> u8 {
    match (id >> LOW_BITS).checked_sub(last >> LOW_BITS) {
        Some(ms) if (id ^ last) & LANE == 0 => {
            varint::write(ms, out);
            let counter = id & COUNTER_MAX;
            match counter.checked_sub(next_counter(last, ms)) {
                Some(above) if above < u64::from(ID_COUNTER) => above as u8,
                _ => {
                    varint::write(counter, out);
                    ID_COUNTER
                }
            }
        }
        _ => {
            out.extend_from_slice(&id.to_le_bytes());
            ID_WHOLE
        }
    }
}

/// The counter of the next id of the same lane, so many milliseconds later.
fn next_counter(last: u64, ms: u64) -> u64 {
    if ms == 0 { (last & COUNTER_MAX) + 1 } else { 0 }
}

/// A walk through the column.
struct Unpack<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Of the next message.
    seq: u64,
    left: u32,
    /// Of the last message.
    id: u64,
}

impl<'a> Iterator for Unpack<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let rest = self.bytes.len() - self.at;
            self.at = self.bytes.len();
            return (rest > 0).then(|| Err(Malformed(format!("{rest} bytes follow the last message"))));
        }
        let unpacked = self.unpack_one();
        self.left -= 1;
        if unpacked.is_err() {
            (self.left, self.at) = (0, self.bytes.len());
        }
        Some(unpacked.map_err(|what| Malformed(format!("packed messages: {what}"))))
    }
}

impl<'a> Unpack<'a> {
    fn unpack_one(&mut self) -> Result<Message<'a>, &'static str> {
        let flags = self.take(1)?[0];
        let content = Content::from_u8(flags & CONTENT).ok_or("an unknown content type")?;
        self.id = self.id(flags)?;
        let late = if flags & TIME == 0 { 0 } else { varint::unzigzag(self.varint()?) };
        let user = self.user(flags)?;
        let body = self.prefixed()?;
        let (mut kind, mut parts) = (Kind::Message, Parts::NONE);
        if flags & MORE != 0 {
            kind = Kind::from_u8(self.take(1)?[0]);
            parts = Parts::read(self.prefixed()?)?;
        }
        let seq = self.seq;
        self.seq = seq.checked_add(1).ok_or("a seq past the last one")?;
        let time_ms = time_ms(self.id).wrapping_add_signed(late);
        Ok(Message { seq, id: self.id, time_ms, user, content, body, kind, parts })
    }

    fn id(&mut self, flags: u8) -> Result<u64, &'static str> {
        let way = (flags & ID) >> ID_SHIFT;
        if way == ID_WHOLE {
            let bytes = self.take(8)?.try_into().expect("eight were taken");
            return Ok(u64::from_le_bytes(bytes));
        }
        let ms = self.varint()?;
        let counter = if way == ID_COUNTER { self.varint()? } else { next_counter(self.id, ms) + u64::from(way) };
        let time = (self.id >> LOW_BITS).checked_add(ms).filter(|time| time >> (64 - LOW_BITS) == 0);
        match time {
            Some(time) if counter <= COUNTER_MAX => Ok((time << LOW_BITS) | (self.id & LANE) | counter),
            _ => Err("an id out of range"),
        }
    }

    fn user(&mut self, flags: u8) -> Result<&'a str, &'static str> {
        let at = self.at;
        let name = if flags & USER_BEFORE == 0 {
            self.prefixed()?
        } else {
            let back = usize::try_from(self.varint()?).map_err(|_| "a user before the start")?;
            let mut before = Unpack { at: at.checked_sub(back).ok_or("a user before the start")?, ..*self };
            before.prefixed()?
        };
        simdutf8::basic::from_utf8(name).map_err(|_| "a user's name is not UTF-8")
    }

    fn prefixed(&mut self) -> Result<&'a [u8], &'static str> {
        self.read(varint::read_bytes)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        self.read(|rest| varint::take(rest, length))
    }

    fn varint(&mut self) -> Result<u64, &'static str> {
        self.read(varint::read)
    }

    fn read<T>(&mut self, read: impl FnOnce(&mut &'a [u8]) -> Result<T, &'static str>) -> Result<T, &'static str> {
        let mut rest = &self.bytes[self.at..];
        let value = read(&mut rest)?;
        self.at = self.bytes.len() - rest.len();
        Ok(value)
    }
}
