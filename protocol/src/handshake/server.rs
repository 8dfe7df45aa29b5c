//! The server's side: a request head in, a 101 or a refusal out.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use httparse::Status;
use tungstenite::handshake::derive_accept_key;
use tungstenite::http::StatusCode;

use super::deflate::{self, Agreed};
use super::head::{HEADERS_MAX, is_upgrade, list, value, values};

#[cfg(test)]
mod tests;

/// What a client's request head asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// The path without its query.
    pub path: String,
    /// What follows its question mark.
    pub query: String,
    /// Offered sub-protocols, in the client's order.
    pub subprotocols: Vec<String>,
    /// Value of `Sec-WebSocket-Accept` for the answer.
    pub accept: String,
    /// permessage-deflate was offered in a way that [`accept`] can take.
    pub deflate: bool,
    /// How.
    agreed: Option<Agreed>,
}

/// What the bytes received so far are.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// The head is not complete; call again with more bytes.
    Partial,
    /// A valid upgrade; `used` bytes belong to the head, the rest is already WebSocket.
    Upgrade {
        /// What is asked for.
        upgrade: Upgrade,
        /// Size of the head in bytes.
        used: usize,
    },
    /// Anything else: send `response` (a whole HTTP answer with `Connection: close`) and close.
    Refused {
        /// 400, 405, 426, 431 or 505, with one line that says why.
        response: Vec<u8>,
    },
}

/// Reads a request head from the front of `input`. A head may have `head_bytes_max` bytes and 64 headers (431 past
/// that).
pub fn read_request(input: &[u8], head_bytes_max: usize) -> Request {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let refusal = match head.parse(input) {
        Ok(Status::Complete(used)) if used <= head_bytes_max => match upgrade(&head) {
            Ok(upgrade) => return Request::Upgrade { upgrade, used },
            Err(refusal) => refusal,
        },
        Ok(Status::Partial) if input.len() < head_bytes_max => return Request::Partial,
        Ok(_) => refusal(431, format!("The request head is larger than {head_bytes_max} bytes.")),
        Err(httparse::Error::TooManyHeaders) => {
            refusal(431, format!("The request has more than {HEADERS_MAX} headers."))
        }
        Err(httparse::Error::Version) => refusal(505, "This server speaks HTTP/1.1."),
        Err(error) => refusal(400, format!("This is not an HTTP/1.1 request: {error}.")),
    };
    let mut response = Vec::new();
    answer(refusal.status, refusal.header, &refusal.body, &mut response);
    Request::Refused { response }
}

/// The value of a header in a request head, if it has exactly one of this name.
pub fn header<'h>(head: &'h [u8], name: &str) -> Option<&'h str> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    httparse::Request::new(&mut headers).parse(head).ok()?;
    let mut named = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    let value = named.next().filter(|_| named.next().is_none())?.value;
    str::from_utf8(value).ok().map(str::trim_ascii)
}

/// The 101 answer. With `deflate`, which must have been offered ([`Upgrade::deflate`]), messages may be compressed in
/// both directions, each by itself.
pub fn accept(upgrade: &Upgrade, subprotocol: Option<&str>, deflate: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
    put(out, &["Sec-WebSocket-Accept: ", &upgrade.accept, "\r\n"]);
    if let Some(subprotocol) = subprotocol {
        put(out, &["Sec-WebSocket-Protocol: ", subprotocol, "\r\n"]);
    }
    if deflate {
        put(out, &[upgrade.agreed.expect("deflate is only accepted when it was offered").answer()]);
    }
    out.extend_from_slice(b"\r\n");
}

/// A whole HTTP/1.1 answer with a plain-text body and `Connection: close`; `retry_after_s` adds `Retry-After`.
pub fn refuse(status: u16, body: &str, retry_after_s: Option<u32>, out: &mut Vec<u8>) {
    answer(status, &retry_after_s.map_or_else(String::new, |s| format!("Retry-After: {s}\r\n")), body, out);
}

/// `header` is none or more whole header lines. The body is sent as one line, with a newline at its end.
fn answer(status: u16, header: &str, body: &str, out: &mut Vec<u8>) {
    let reason = StatusCode::from_u16(status).ok().and_then(|code| code.canonical_reason()).unwrap_or("Refused");
    put(out, &["HTTP/1.1 ", &status.to_string(), " ", reason, "\r\n", header]);
    put(out, &["Content-Type: text/plain; charset=utf-8\r\nContent-Length: ", &(body.len() + 1).to_string()]);
    put(out, &["\r\nConnection: close\r\n\r\n", body, "\n"]);
}

fn put(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

struct Refusal {
    status: u16,
    header: &'static str,
    body: String,
}

fn refusal(status: u16, body: impl Into<String>) -> Refusal {
    let header = match status {
        405 => "Allow: GET\r\n",
        426 => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        _ => "",
    };
    Refusal { status, header, body: body.into() }
}

/// RFC 6455 section 4.2.1, in the order that gives a person the most useful answer.
fn upgrade(head: &httparse::Request<'_, '_>) -> Result<Upgrade, Refusal> {
    let headers = &*head.headers;
    if head.version != Some(1) {
        return Err(refusal(505, "This server speaks HTTP/1.1."));
    }
    if head.method != Some("GET") {
        return Err(refusal(405, "Only GET is answered here, to open a WebSocket."));
    }
    if value(headers, "Host").is_none() {
        return Err(refusal(400, "A request needs one Host header."));
    }
    if !is_upgrade(headers) {
        let body = "This is a WebSocket server: connect with a WebSocket client \
                    (Upgrade: websocket, Connection: Upgrade).";
        return Err(refusal(426, body));
    }
    if value(headers, "Sec-WebSocket-Version") != Some("13") {
        return Err(refusal(426, "This server speaks version 13 of WebSocket (Sec-WebSocket-Version: 13)."));
    }
    let key = value(headers, "Sec-WebSocket-Key").filter(|key| is_key(key));
    let Some(key) = key else {
        return Err(refusal(400, "A WebSocket request needs one Sec-WebSocket-Key of 16 bytes in base64."));
    };
    // A body would be read as frames.
    if value(headers, "Content-Length").is_some_and(|length| length != "0")
        || values(headers, "Content-Length").count() > 1
        || values(headers, "Transfer-Encoding").next().is_some()
    {
        return Err(refusal(400, "A WebSocket request has no body."));
    }
    let Some((path, query)) = target(head.path.unwrap_or("")) else {
        return Err(refusal(400, "The request's target is neither a path nor an http URL."));
    };
    let agreed = deflate::choose(headers);
    Ok(Upgrade {
        path: path.to_owned(),
        query: query.to_owned(),
        subprotocols: list(headers, "Sec-WebSocket-Protocol").map(str::to_owned).collect(),
        accept: derive_accept_key(key.as_bytes()),
        deflate: agreed.is_some(),
        agreed,
    })
}

fn is_key(key: &str) -> bool {
    BASE64_STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

/// Path and query of a request target in origin form (`/path?query`) or absolute form (`http://host/path?query`).
fn target(target: &str) -> Option<(&str, &str)> {
    let (target, query) = target.split_once('?').unwrap_or((target, ""));
    let absolute = target.strip_prefix("http://").or_else(|| target.strip_prefix("https://"));
    let path = match absolute {
        Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => target,
    };
    path.starts_with('/').then_some((path, query))
}
