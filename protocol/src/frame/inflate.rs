//! Inflating messages (RFC 7692 section 7.2.2).

#[cfg(test)]
mod tests;

use std::fmt;

use flate2::{Decompress, FlushDecompress, Status};

use super::deflate::FLUSH;
use super::{FrameError, Incoming, Opcode, text};

/// What the sender cut off, and an empty last block after it. A message that was cut or changed does not end exactly
/// with that block, or takes the tail for something of its own.
const TAIL: [u8; FLUSH.len() + 2] = [FLUSH[0], FLUSH[1], FLUSH[2], FLUSH[3], 0x03, 0x00];
/// Last blocks (BFINAL) within a message, after each of which a new stream begins, which is dear: a sender may end what
/// it flushes with one, nobody needs more than a few.
const STREAMS_MAX: usize = 64;
/// The least room for a message.
const ROOM_BYTES_MIN: usize = 4096;

/// Inflates messages. One per thread: nothing is kept from one message to the next but the buffer, which is as long as
/// the longest message so far, at most doubled.
pub struct Inflater {
    stream: Decompress,
    /// Its whole length is room; what a message left there is written over.
    message: Vec<u8>,
}

impl Inflater {
    /// Without a buffer yet.
    pub fn new() -> Self {
        Self { stream: Decompress::new(false), message: Vec::new() }
    }

    /// The text or binary message that an [`Incoming::Deflated`] is.
    ///
    /// Errors: it has more than `bytes_max` bytes, which is noticed one byte later; it is no DEFLATE data; a text is not
    /// UTF-8. The next message can be inflated all the same.
    pub fn inflate<'a>(
        &'a mut self,
        opcode: Opcode,
        payload: &[u8],
        bytes_max: usize,
    ) -> Result<Incoming<'a>, FrameError> {
        let written = self.whole(payload, bytes_max)?;
        let message = &self.message[..written];
        Ok(if opcode == Opcode::Text { Incoming::Text(text(message)?) } else { Incoming::Binary(message) })
    }

    /// Returns how many bytes of the buffer the message has. No bytes at all are taken for the empty message, though its
    /// sender should have made it one byte.
    fn whole(&mut self, payload: &[u8], bytes_max: usize) -> Result<usize, FrameError> {
        let mut written = 0;
        if payload.is_empty() {
            return Ok(written);
        }
        self.stream.reset(false);
        if self.take(payload, &mut written, bytes_max)? {
            return Ok(written);
        }
        let message_bytes = written;
        let is_over = self.take(&TAIL, &mut written, bytes_max)?;
        if is_over && written == message_bytes { Ok(message_bytes) } else { Err(FrameError::Corrupt) }
    }

    /// Inflates `input` to the end and adds to `written`. Returns whether a last block (BFINAL) ends with it. What
    /// follows an earlier last block is a new stream of the same message.
    fn take(&mut self, mut input: &[u8], written: &mut usize, bytes_max: usize) -> Result<bool, FrameError> {
        let mut streams = 1;
        loop {
            let room = *written..self.room_end(*written, bytes_max);
            let (taken, given) = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.decompress(input, &mut self.message[room.clone()], FlushDecompress::None);
            let taken = (self.stream.total_in() - taken) as usize;
            let given = (self.stream.total_out() - given) as usize;
            input = &input[taken..];
            *written += given;
            if *written > bytes_max {
                return Err(FrameError::TooLarge(bytes_max));
            }
            match status {
                Err(_) => return Err(FrameError::Corrupt),
                Ok(Status::StreamEnd) if input.is_empty() => return Ok(true),
                Ok(Status::StreamEnd) if streams == STREAMS_MAX => return Err(FrameError::Corrupt),
                Ok(Status::StreamEnd) => {
                    self.stream.reset(false);
                    streams += 1;
                }
                Ok(_) if input.is_empty() && given < room.len() => return Ok(false),
                Ok(_) if taken == 0 && given == 0 => return Err(FrameError::Corrupt),
                Ok(_) => {}
            }
        }
    }

    /// Makes room for at least a byte after `written`. Returns where the room ends: at most one byte past the limit.
    fn room_end(&mut self, written: usize, bytes_max: usize) -> usize {
        let bytes_max = bytes_max.saturating_add(1);
        if written == self.message.len() {
            let length = (2 * written).max(ROOM_BYTES_MIN).min(bytes_max);
            self.message.resize(length, 0);
        }
        self.message.len().min(bytes_max)
    }
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}
