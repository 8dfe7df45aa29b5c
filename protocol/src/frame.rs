//! RFC 6455 frames: a decoder that takes bytes as they arrive, and encoders. No I/O, no deflate.
//!
//! The decoder is fail-fast: a text message is refused at the first byte that cannot be UTF-8 any more, inside a
//! fragment and inside a frame (Autobahn 6.4.*), and a bad header as soon as it is seen.

/// Which end of the connection decodes. A server requires masked frames, a client refuses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Server,
    Client,
}

/// What the decoder found.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A whole message, fragments joined, unmasked. A text is valid UTF-8.
    Text(&'a str),
    /// A whole message, fragments joined, unmasked.
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// The peer's close frame; `code` is `None` for an empty one.
    Close { code: Option<u16>, reason: &'a str },
}

/// Why a peer's bytes were refused; [`FrameError::close_code`] is the status to close with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    #[error("a text message is not UTF-8")]
    NotUtf8,
    #[error("a message is larger than {0} bytes")]
    TooLarge(usize),
}

impl FrameError {
    /// 1002, 1007 or 1009.
    pub fn close_code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::NotUtf8 => 1007,
            Self::TooLarge(_) => 1009,
        }
    }
}

/// Takes a connection's bytes apart. Owns no buffer while no message is half-way (idle: at most 48 bytes, no heap).
#[derive(Debug)]
pub struct Decoder {
    _private: (),
}

impl Decoder {
    /// `message_bytes_max` bounds a whole message and so the decoder's buffer.
    pub fn new(_role: Role, _message_bytes_max: usize) -> Self {
        unimplemented!()
    }

    /// Decodes from the front of `input`, which it unmasks in place. Returns how many bytes it used up and, if one is
    /// complete, what they were; call again with the rest until it returns `(input.len(), None)`.
    /// A message that lies whole in `input` is returned without a copy.
    pub fn next<'a>(&'a mut self, _input: &'a mut [u8]) -> Result<(usize, Option<Incoming<'a>>), FrameError> {
        unimplemented!()
    }
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

/// Appends one unmasked, final frame (what a server sends).
pub fn write(_opcode: Opcode, _payload: &[u8], _out: &mut Vec<u8>) {
    unimplemented!()
}

/// Appends an unmasked, final frame whose payload `fill` writes in place; the header is put before it afterwards.
pub fn write_with(_opcode: Opcode, _out: &mut Vec<u8>, _fill: impl FnOnce(&mut Vec<u8>)) {
    unimplemented!()
}

/// Appends one masked, final frame (what a client sends).
pub fn write_masked(_opcode: Opcode, _payload: &[u8], _mask: [u8; 4], _out: &mut Vec<u8>) {
    unimplemented!()
}

/// Appends a server's close frame; `reason` is cut at a character boundary to fit the 123 bytes of a control frame.
pub fn write_close(_code: u16, _reason: &str, _out: &mut Vec<u8>) {
    unimplemented!()
}
