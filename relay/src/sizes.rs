//! What a record takes: in memory, and as it is sent.

use std::ops::Range;
use std::sync::Arc;

use protocol::{Content, OwnedParts};
use storage::Record;

/// What a record takes in memory beside its sender, body and parts, bytes: itself, its count of owners, allocations.
const RECORD_BYTES: usize = 192;
/// Names of fields and numbers of a message in the dialect that has most of them, bytes.
const FIELDS_BYTES: usize = 200;
/// `{"base64":""}`, and what is missing from the last three bytes.
const BASE64_BYTES: usize = 16;
/// A control character in JSON, `\u0000`, has so many bytes more than by itself.
const CONTROL_BYTES: u8 = 5;
/// So many bytes together have no more to be escaped than a byte can count.
const ESCAPED_AT_ONCE: usize = 32;

/// Bodies of one frame, bytes: a longer run of messages becomes several frames.
pub const FRAME_BODY_BYTES_MAX: usize = 48 * 1024;

/// What a record takes in memory, bytes.
pub fn record_bytes(record: &Record) -> usize {
    message_bytes(&record.sender, &record.body, &record.parts)
}

/// [`record_bytes`] of the record that a message becomes.
pub fn message_bytes(sender: &str, body: &[u8], parts: &OwnedParts) -> usize {
    RECORD_BYTES + sender.len() + body.len() + parts.get().bytes().len()
}

/// What records take in memory together, bytes.
pub fn records_bytes(records: &[Arc<Record>]) -> usize {
    records.iter().map(|record| record_bytes(record)).sum()
}

/// What a message takes at most when it is sent, bytes: in JSON, where much may have to be escaped.
pub fn sent_bytes(room: &str, record: &Record) -> usize {
    let body = match record.content {
        Content::Text => escaped_bytes(&record.body),
        Content::Json => record.body.len(),
        Content::Binary => record.body.len() + record.body.len() / 3 + BASE64_BYTES,
    };
    let parts = record.parts.get().bytes();
    FIELDS_BYTES
        + escaped_bytes(room.as_bytes())
        + escaped_bytes(record.sender.as_bytes())
        + body
        + escaped_bytes(parts)
        + parts.len()
}

/// A text's size in JSON, at most.
fn escaped_bytes(text: &[u8]) -> usize {
    let more = |&byte: &u8| if byte < b' ' { CONTROL_BYTES } else { u8::from(byte == b'"' || byte == b'\\') };
    text.len() + text.chunks(ESCAPED_AT_ONCE).map(|part| usize::from(part.iter().map(more).sum::<u8>())).sum::<usize>()
}

/// What these records take when they are sent, bytes.
pub fn all_sent_bytes(room: &str, records: &[Arc<Record>]) -> usize {
    records.iter().map(|record| sent_bytes(room, record)).sum()
}

/// The records of the next frame, from `start` on.
pub fn next_batch(records: &[Arc<Record>], start: usize) -> Range<usize> {
    let mut bytes = 0;
    let full = records[start..].iter().position(|record| {
        bytes += record.body.len();
        bytes >= FRAME_BODY_BYTES_MAX
    });
    start..full.map_or(records.len(), |last| start + last + 1)
}

#[cfg(test)]
mod tests {
    use protocol::{ClientId, Dialect, Event, Kind, NewParts};

    use super::*;

    /// Text of every sort: plain, in need of escapes, and of several bytes a character.
    fn text(rng: &mut fastrand::Rng, max: usize) -> String {
        let sorts: [&[char]; 4] =
            [&['a', 'b', ' '], &['\0', '\u{1f}', '\n', '"'], &['é', '漢', '🦀'], &['\\', '"', 'x']];
        let sort = sorts[rng.usize(..sorts.len())];
        (0..rng.usize(..max)).map(|_| sort[rng.usize(..sort.len())]).collect()
    }

    fn record(rng: &mut fastrand::Rng, seq: u64) -> Record {
        let content = [Content::Text, Content::Json, Content::Binary][rng.usize(..3)];
        let body = match content {
            Content::Text => text(rng, 300).into_bytes(),
            Content::Json => format!("[{}]", rng.u64(..)).into_bytes(),
            Content::Binary => (0..rng.usize(..300)).map(|_| rng.u8(..)).collect(),
        };
        let (name, value) = (text(rng, 10), text(rng, 20));
        let parts = NewParts {
            client: rng.bool().then(|| ClientId(rng.u64(..))),
            info: rng.bool().then_some(b"not json"),
            tags: &[(&*name, &*value)][..usize::from(rng.bool())],
            ..NewParts::default()
        };
        Record {
            kind: Kind::Message,
            seq,
            id: u64::MAX,
            time_ms: u64::MAX,
            sender: text(rng, 20).into(),
            content,
            body: body.into(),
            key: None,
            parts: parts.pack(),
        }
    }

    #[test]
    fn no_dialect_sends_more_than_is_counted() {
        let mut rng = fastrand::Rng::with_seed(1);
        for n in 0..2000 {
            let room = text(&mut rng, 20);
            let records: Vec<_> = (0..rng.u64(1..4)).map(|n| record(&mut rng, u64::MAX / 2 + n)).collect();
            let counted: usize = FIELDS_BYTES + records.iter().map(|record| sent_bytes(&room, record)).sum::<usize>();
            let messages: Vec<_> = records.iter().map(Record::message).collect();
            for dialect in Dialect::ALL {
                let page = Event::History { room: &room, epoch: u64::MAX, head: u64::MAX, messages: &messages[..] };
                for (tag, event) in [(u32::MAX, page), (0, Event::Batch { room: &room, messages: &messages })] {
                    let mut sent = Vec::new();
                    dialect.encode(tag, &event, &mut sent);
                    assert!(sent.len() <= counted, "{n}: {dialect:?} sends {} and {counted} are counted", sent.len());
                }
            }
        }
    }

    #[test]
    fn control_characters_count_as_they_are_escaped() {
        for len in [1, 31, 32, 33, 1000] {
            assert_eq!(escaped_bytes(&vec![1; len]), 6 * len);
            assert_eq!(escaped_bytes(&vec![b'x'; len]), len);
        }
        assert_eq!(escaped_bytes(br#"a"b\"#), 6);
    }
}
