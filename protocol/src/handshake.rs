//! The opening handshake of RFC 6455, both ends, from bytes to bytes.

/// What a client's request head asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// The path without its query.
    pub path: String,
    /// Offered sub-protocols, in the client's order.
    pub subprotocols: Vec<String>,
    /// Value of `Sec-WebSocket-Accept` for the answer.
    pub accept: String,
}

/// What the bytes received so far are.
#[derive(Debug)]
pub enum Request {
    /// The head is not complete; call again with more bytes.
    Partial,
    /// A valid upgrade; `used` bytes belong to the head, the rest is already WebSocket.
    Upgrade { upgrade: Upgrade, used: usize },
    /// Anything else: send `response` (a whole HTTP answer with `Connection: close`) and close.
    Refused { response: Vec<u8> },
}

/// Reads a request head from the front of `input`. A head may have `head_bytes_max` bytes (431 past that).
pub fn read_request(_input: &[u8], _head_bytes_max: usize) -> Request {
    unimplemented!()
}

/// The 101 answer.
pub fn accept(_upgrade: &Upgrade, _subprotocol: Option<&str>, _out: &mut Vec<u8>) {
    unimplemented!()
}

/// A whole HTTP/1.1 answer with a plain-text body and `Connection: close`; `retry_after_s` adds `Retry-After`.
pub fn refuse(_status: u16, _body: &str, _retry_after_s: Option<u32>, _out: &mut Vec<u8>) {
    unimplemented!()
}

/// A client's request head. `key` is 16 bytes of the caller's choice.
pub fn request(_host: &str, _path: &str, _subprotocol: Option<&str>, _key: [u8; 16], _out: &mut Vec<u8>) {
    unimplemented!()
}

/// What a server answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Response {
    Partial,
    /// 101 and a correct accept value; `used` bytes belong to the head.
    Accepted { used: usize },
    /// Anything else, in one line for a person (status line or what was wrong).
    Refused(String),
}

/// Reads the server's answer to [`request`] with the same `key`.
pub fn read_response(_input: &[u8], _key: [u8; 16]) -> Response {
    unimplemented!()
}
