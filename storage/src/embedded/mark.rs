//! The mark file's entries: how far each log was durable, as checksummed bytes.
//!
//! Entry: `0xA7 | payload length: u16 | crc32 of the payload: u32 | payload`, numbers little-endian. Payloads:
//! - `1 | epoch: u64 | last_seq: u64 | last_id: u64 | room`: this log is durable up to here;
//! - `2 | length: u64`: the first `length` bytes of this file are on disk.
//!
//! The second kind tells damage from a crash: what follows the last synced length may be torn, nothing before it may.

use std::collections::HashMap;
use std::sync::Arc;

const MAGIC: u8 = 0xA7;
const HEADER_BYTES: usize = 7;
/// Length of the entry that [`write_synced`] appends.
pub const SYNCED_BYTES: usize = HEADER_BYTES + 9;
const MARK: u8 = 1;
const SYNCED: u8 = 2;

/// How far a log was durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub epoch: u64,
    pub last_seq: u64,
    pub last_id: u64,
}

/// The latest mark of each room.
pub type MarkMap = HashMap<Arc<str>, Mark>;

/// Appends a mark entry.
pub fn write_mark(out: &mut Vec<u8>, room: &str, mark: Mark) {
    write_entry(out, |out| {
        out.push(MARK);
        out.extend_from_slice(&mark.epoch.to_le_bytes());
        out.extend_from_slice(&mark.last_seq.to_le_bytes());
        out.extend_from_slice(&mark.last_id.to_le_bytes());
        out.extend_from_slice(room.as_bytes());
    });
}

/// Appends the entry that says that the file's first `length` bytes are on disk.
pub fn write_synced(out: &mut Vec<u8>, length: u64) {
    write_entry(out, |out| {
        out.push(SYNCED);
        out.extend_from_slice(&length.to_le_bytes());
    });
}

fn write_entry(out: &mut Vec<u8>, write_payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[MAGIC, 0, 0, 0, 0, 0, 0]);
    write_payload(out);
    let (header, payload) = out[start..].split_at_mut(HEADER_BYTES);
    let length = u16::try_from(payload.len()).expect("room names are shorter than 32 KiB");
    header[1..3].copy_from_slice(&length.to_le_bytes());
    header[3..].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
}

/// Takes every whole entry of a mark file into `marks`, later ones winning.
///
/// # Errors
/// The offset of the first damaged byte that was once on disk.
pub fn read(bytes: &[u8], marks: &mut MarkMap) -> Result<(), u64> {
    let mut position = 0;
    let mut first_bad = None;
    let mut synced = 0;
    while position < bytes.len() {
        let Some((payload, length)) = entry_at(&bytes[position..]) else {
            first_bad = first_bad.or(Some(position as u64));
            position += 1;
            continue;
        };
        position += length;
        match payload {
            Payload::Mark(room, mark) => {
                if let Some(known) = marks.get_mut(room) {
                    *known = mark;
                } else {
                    marks.insert(room.into(), mark);
                }
            }
            Payload::Synced(length) => synced = synced.max(length),
        }
    }
    if synced > bytes.len() as u64 {
        return Err(bytes.len() as u64);
    }
    first_bad.filter(|&bad| bad < synced).map_or(Ok(()), Err)
}

enum Payload<'a> {
    Mark(&'a str, Mark),
    Synced(u64),
}

/// The entry at the start of `bytes`, and its length with its header.
fn entry_at(bytes: &[u8]) -> Option<(Payload<'_>, usize)> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let &[MAGIC, l0, l1, c0, c1, c2, c3] = header else {
        return None;
    };
    let payload = rest.get(..usize::from(u16::from_le_bytes([l0, l1])))?;
    if crc32fast::hash(payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return None;
    }
    let (&kind, fields) = payload.split_first()?;
    let (first, fields) = number(fields)?;
    let payload_value = match kind {
        SYNCED => Payload::Synced(first),
        MARK => {
            let (last_seq, fields) = number(fields)?;
            let (last_id, room) = number(fields)?;
            Payload::Mark(std::str::from_utf8(room).ok()?, Mark { epoch: first, last_seq, last_id })
        }
        _ => return None,
    };
    Some((payload_value, HEADER_BYTES + payload.len()))
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(last_seq: u64) -> Mark {
        Mark { epoch: 7, last_seq, last_id: last_seq * 3 }
    }

    /// Ten marks, the first eight of them synced.
    fn file() -> (Vec<u8>, usize) {
        let mut bytes = Vec::new();
        for seq in 1..=8 {
            write_mark(&mut bytes, if seq % 2 == 0 { "even" } else { "" }, mark(seq));
        }
        let synced = bytes.len();
        write_synced(&mut bytes, synced as u64);
        write_mark(&mut bytes, "", mark(9));
        write_mark(&mut bytes, "even", mark(10));
        (bytes, synced)
    }

    #[test]
    fn the_last_mark_of_each_room_counts() {
        let mut marks = MarkMap::new();
        read(&file().0, &mut marks).unwrap();
        assert_eq!(marks, MarkMap::from([("".into(), mark(9)), ("even".into(), mark(10))]));
    }

    #[test]
    fn a_tail_torn_anywhere_after_the_last_sync_is_normal() {
        let (bytes, synced) = file();
        for cut in synced..=bytes.len() {
            let mut marks = MarkMap::new();
            read(&bytes[..cut], &mut marks).unwrap_or_else(|at| panic!("cut to {cut}: damage at {at}"));
            assert!(marks["even"].last_seq >= 8);
        }
    }

    #[test]
    fn one_wrong_byte_before_the_last_sync_is_damage_and_after_it_is_not() {
        let (bytes, synced) = file();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            let outcome = read(&damaged, &mut MarkMap::new());
            assert_eq!(outcome.is_err(), at < synced, "byte {at}");
        }
    }

    #[test]
    fn a_file_shorter_than_what_was_synced_is_damage() {
        let mut bytes = Vec::new();
        write_synced(&mut bytes, 1000);
        assert_eq!(bytes.len(), SYNCED_BYTES);
        assert_eq!(read(&bytes, &mut MarkMap::new()), Err(bytes.len() as u64));
    }
}
