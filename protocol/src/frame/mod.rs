//! RFC 6455 frames: a decoder that takes bytes as they arrive, and encoders; compressed messages (RFC 7692). No I/O.
//!
//! The decoder is fail-fast: a text message is refused at the first byte that cannot be UTF-8 any more, inside a
//! fragment and inside a frame (Autobahn 6.4.*), and a bad header as soon as it is seen. A compressed message is given
//! compressed, so that a connection needs no state for it: an [`Inflater`] does for all connections of a thread.

mod decode;
mod deflate;
mod encode;
mod header;
mod inflate;
mod mask;
#[cfg(test)]
mod tests;

pub use decode::Decoder;
pub use deflate::Deflater;
pub use encode::{write, write_close, write_masked, write_with};
pub use inflate::Inflater;

/// Which end of the connection decodes. A server requires masked frames, a client refuses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Decodes what clients send.
    Server,
    /// Decodes what a server sends.
    Client,
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A message that is UTF-8.
    Text = 1,
    /// A message of any bytes.
    Binary = 2,
    /// The last frame of its sender.
    Close = 8,
    /// Asks for a pong with the same payload.
    Ping = 9,
    /// Answers a ping, or says unasked that its sender is alive.
    Pong = 10,
}

impl Opcode {
    /// Whether the frame is about the connection: at most 125 bytes, never fragmented, allowed between fragments.
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// What the decoder found.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A whole message, fragments joined, unmasked. A text is valid UTF-8.
    Text(&'a str),
    /// A whole message, fragments joined, unmasked.
    Binary(&'a [u8]),
    /// A whole message, fragments joined, unmasked, still compressed: for an [`Inflater`]. Only from a decoder
    /// [`Decoder::with_deflate`].
    Deflated {
        /// Text or binary.
        opcode: Opcode,
        /// Compressed bytes.
        payload: &'a [u8],
    },
    /// At most 125 bytes, to be sent back in a pong.
    Ping(&'a [u8]),
    /// At most 125 bytes.
    Pong(&'a [u8]),
    /// The peer's close frame. Nothing after it counts: stop decoding.
    Close {
        /// A status that may be sent; `None` for an empty close frame.
        code: Option<u16>,
        /// At most 123 bytes; empty when there is no code.
        reason: &'a str,
    },
}

/// Why a peer's bytes were refused; [`FrameError::close_code`] is the status to close with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A rule of RFC 6455 was broken, in words.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// A compressed message that is not DEFLATE data.
    #[error("a compressed message is corrupt")]
    Corrupt,
    /// A text message or the reason of a close frame.
    #[error("a text is not UTF-8")]
    NotUtf8,
    /// A message, its fragments together or inflated, would be longer than this limit.
    #[error("a message is larger than {0} bytes")]
    TooLarge(usize),
}

impl FrameError {
    /// 1002, 1007 or 1009.
    pub fn close_code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::NotUtf8 | Self::Corrupt => 1007,
            Self::TooLarge(_) => 1009,
        }
    }
}

fn text(bytes: &[u8]) -> Result<&str, FrameError> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| FrameError::NotUtf8)
}

/// The longest payload of a control frame (RFC 6455 section 5.5).
const CONTROL_BYTES_MAX: usize = 125;
