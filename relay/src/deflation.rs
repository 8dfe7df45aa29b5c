//! What a shard deflates with: one set of buffers for all rooms, for nothing is carried over from one frame to the next.

use protocol::frame::Deflater;

/// The best level that costs no more than the frames of one giant room can bear (`bench-results/measurements`).
const LEVEL: u32 = 6;
/// Shorter payloads go out as they are, bytes.
const BYTES_MIN: usize = 200;

/// Frames are deflated once for all members of a core that take them so. For fewer members than this it costs more
/// than the bytes it saves.
pub const MEMBERS_MIN: u32 = 64;

/// Compresses what many share.
pub struct Deflation {
    deflater: Deflater,
    deflated: Vec<u8>,
}

impl Deflation {
    pub fn new() -> Self {
        Self { deflater: Deflater::new(LEVEL), deflated: Vec::new() }
    }

    /// Whole frames, deflated where that makes them smaller.
    pub fn frames(&mut self, frames: &[u8]) -> &[u8] {
        self.deflated.clear();
        self.deflater.deflate(frames, BYTES_MIN, &mut self.deflated);
        &self.deflated
    }
}

impl Default for Deflation {
    fn default() -> Self {
        Self::new()
    }
}
