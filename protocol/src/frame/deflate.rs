//! Deflating messages (RFC 7692 section 7.2.1): one that is not fragmented is one frame with the bit RSV1.

#[cfg(test)]
mod tests;

use std::fmt;

use flate2::{Compress, Compression, FlushCompress, Status};

use super::encode::{write_masked, write_with};
use super::header::{Header, RSV1, Rules};
use super::{Opcode, Role};

/// What a sync flush ends with, which is not sent.
pub(super) const FLUSH: [u8; 4] = [0, 0, 0xff, 0xff];
/// log₂ of the window, 32 KiB. Both ends are free to use all of it, and it need not be spoken of.
const WINDOW_BITS: u8 = 15;

/// Compresses frames: raw DEFLATE, a 32 KiB window, nothing carried from one message to the next
/// (`server_no_context_takeover`). One per thread; some 300 KiB.
pub struct Deflater {
    stream: Compress,
    /// A message for [`Deflater::write_masked`].
    packed: Vec<u8>,
}

impl Deflater {
    /// `level` is zlib's, 1 (fast) to 9 (small).
    pub fn new(level: u32) -> Self {
        assert!((1..=9).contains(&level), "level {level} is not one of 1 to 9");
        Self { stream: Compress::new_with_window_bits(Compression::new(level), false, WINDOW_BITS), packed: Vec::new() }
    }

    /// Appends `frames` (whole, unmasked, final frames, as [`crate::Dialect::encode`] makes them) to `out`. Data frames
    /// whose payload has at least `bytes_min` bytes are compressed where that makes them smaller; all others are copied
    /// as they are. The same input gives the same output.
    pub fn deflate(&mut self, frames: &[u8], bytes_min: usize, out: &mut Vec<u8>) {
        let rules = Rules { message_bytes_max: u32::MAX, role: Role::Client, deflate: false };
        let mut rest = frames;
        while !rest.is_empty() {
            let (header_bytes, header) = Header::parse(rest, rules, None)
                .ok()
                .flatten()
                .filter(|(header_bytes, header)| header.is_alone && rest.len() - header_bytes >= header.left)
                .expect("the caller gives whole, unmasked, final frames");
            let (frame, others) = rest.split_at(header_bytes + header.left);
            let payload = &frame[header_bytes..];
            let pays = !header.opcode.is_control()
                && payload.len() >= bytes_min.max(1)
                && self.write_smaller(header.opcode, payload, out);
            if !pays {
                out.extend_from_slice(frame);
            }
            rest = others;
        }
    }

    /// A client's side, for tests and load tools: appends one masked, compressed, final frame of a text or binary
    /// message, even where that is larger.
    pub fn write_masked(&mut self, opcode: Opcode, payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
        assert!(!opcode.is_control(), "a control frame is never compressed");
        let mut packed = std::mem::take(&mut self.packed);
        packed.clear();
        // The worst case is 9 bits for a byte.
        let fits = self.compress(payload, 2 * payload.len() + 64, &mut packed);
        assert!(fits, "deflate grew {} bytes to twice as many", payload.len());
        let start = out.len();
        write_masked(opcode, &packed, mask, out);
        out[start] |= RSV1;
        self.packed = packed;
    }

    /// Appends a compressed frame, or leaves `out` as it was and returns false if that has no fewer bytes.
    fn write_smaller(&mut self, opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let mut pays = false;
        write_with(opcode, out, |out| pays = self.compress(payload, payload.len() - 1, out));
        if pays {
            out[start] |= RSV1;
        } else {
            out.truncate(start);
        }
        pays
    }

    /// Appends a message's payload if it has no more than `bytes_max` bytes. Else `out` holds a part of it.
    fn compress(&mut self, payload: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        // Room for the worst case, 9 bits for a byte, even when fewer bytes are wanted: zlib-rs 0.6.8 panics at level 1
        // when the room ends inside a block. A flush is complete when it leaves some of the room.
        let room = payload.len() + payload.len() / 8 + 64 + FLUSH.len();
        out.resize(start + room, 0);
        self.stream.reset();
        let status = self.stream.compress(payload, &mut out[start..], FlushCompress::Sync);
        let written = self.stream.total_out() as usize;
        assert!(matches!(status, Ok(Status::Ok)) && written < room, "{written} bytes of {room}: {status:?}");
        let fits = written <= bytes_max + FLUSH.len();
        out.truncate(start + if fits { written - FLUSH.len() } else { bytes_max });
        fits
    }
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflater").finish_non_exhaustive()
    }
}
