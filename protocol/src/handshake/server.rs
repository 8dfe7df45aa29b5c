//! The server's side: a request head in, a 101 or a refusal out.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use httparse::Status;
use tungstenite::handshake::derive_accept_key;
use tungstenite::http::StatusCode;

use super::head::{HEADERS_MAX, is_upgrade, list, value};

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
        Ok(_) => refusal(
            431,
            format!("The request head is larger than {head_bytes_max} bytes."),
        ),
        Err(httparse::Error::TooManyHeaders) => refusal(
            431,
            format!("The request has more than {HEADERS_MAX} headers."),
        ),
        Err(httparse::Error::Version) => refusal(505, "This server speaks HTTP/1.1."),
        Err(error) => refusal(400, format!("This is not an HTTP/1.1 request: {error}.")),
    };
    let mut response = Vec::new();
    answer(refusal.status, refusal.header, &refusal.body, &mut response);
    Request::Refused { response }
}

/// The 101 answer.
pub fn accept(upgrade: &Upgrade, subprotocol: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
    );
    put(out, &["Sec-WebSocket-Accept: ", &upgrade.accept, "\r\n"]);
    if let Some(subprotocol) = subprotocol {
        put(out, &["Sec-WebSocket-Protocol: ", subprotocol, "\r\n"]);
    }
    out.extend_from_slice(b"\r\n");
}

/// A whole HTTP/1.1 answer with a plain-text body and `Connection: close`; `retry_after_s` adds `Retry-After`.
pub fn refuse(status: u16, body: &str, retry_after_s: Option<u32>, out: &mut Vec<u8>) {
    answer(
        status,
        &retry_after_s.map_or_else(String::new, |s| format!("Retry-After: {s}\r\n")),
        body,
        out,
    );
}

/// `header` is none or more whole header lines. The body is sent as one line, with a newline at its end.
fn answer(status: u16, header: &str, body: &str, out: &mut Vec<u8>) {
    let reason = StatusCode::from_u16(status)
        .ok()
        .and_then(|code| code.canonical_reason())
        .unwrap_or("Refused");
    put(
        out,
        &[
            "HTTP/1.1 ",
            &status.to_string(),
            " ",
            reason,
            "\r\n",
            header,
        ],
    );
    put(
        out,
        &[
            "Content-Type: text/plain; charset=utf-8\r\nContent-Length: ",
            &(body.len() + 1).to_string(),
        ],
    );
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
    Refusal {
        status,
        header,
        body: body.into(),
    }
}

/// RFC 6455 section 4.2.1, in the order that gives a person the most useful answer.
fn upgrade(head: &httparse::Request<'_, '_>) -> Result<Upgrade, Refusal> {
    let headers = &*head.headers;
    if head.version != Some(1) {
        return Err(refusal(505, "This server speaks HTTP/1.1."));
    }
    if head.method != Some("GET") {
        return Err(refusal(
            405,
            "Only GET is answered here, to open a WebSocket.",
        ));
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
        return Err(refusal(
            426,
            "This server speaks version 13 of WebSocket (Sec-WebSocket-Version: 13).",
        ));
    }
    let key = value(headers, "Sec-WebSocket-Key").filter(|key| is_key(key));
    let Some(key) = key else {
        return Err(refusal(
            400,
            "A WebSocket request needs one Sec-WebSocket-Key of 16 bytes in base64.",
        ));
    };
    let Some(path) = path(head.path.unwrap_or("")) else {
        return Err(refusal(
            400,
            "The request's target is neither a path nor an http URL.",
        ));
    };
    Ok(Upgrade {
        path: path.to_owned(),
        subprotocols: list(headers, "Sec-WebSocket-Protocol")
            .map(str::to_owned)
            .collect(),
        accept: derive_accept_key(key.as_bytes()),
    })
}

fn is_key(key: &str) -> bool {
    BASE64_STANDARD
        .decode(key)
        .is_ok_and(|bytes| bytes.len() == 16)
}

/// The path of a request target in origin form (`/path?query`) or absolute form (`http://host/path?query`).
fn path(target: &str) -> Option<&str> {
    let target = target
        .split_once('?')
        .map_or(target, |(target, _query)| target);
    let absolute = target
        .strip_prefix("http://")
        .or_else(|| target.strip_prefix("https://"));
    let path = match absolute {
        Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => target,
    };
    path.starts_with('/').then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The request of RFC 6455 section 1.3, without its optional headers.
    const HEAD: &str = "GET /chat?room=1 HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

    fn read(head: &str) -> Request {
        read_request(head.as_bytes(), 4096)
    }

    /// Replaces a part of a valid head; the part must be there.
    fn with(part: &str, by: &str) -> String {
        assert!(HEAD.contains(part), "{part}");
        HEAD.replace(part, by)
    }

    fn upgraded(head: &str) -> Upgrade {
        match read(head) {
            Request::Upgrade { upgrade, used } if used == head.len() => upgrade,
            other => panic!("{head}\n{other:?}"),
        }
    }

    /// Checks that an answer is whole HTTP with a one-line body; returns its status and all of it.
    fn refused(head: &str) -> (u16, String) {
        let Request::Refused { response } = read(head) else {
            panic!("{head}")
        };
        let text = String::from_utf8(response).unwrap();
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Response::new(&mut headers);
        let used = parsed.parse(text.as_bytes()).unwrap().unwrap();
        let body = &text[used..];
        assert_eq!(
            value(parsed.headers, "Content-Length"),
            Some(&*body.len().to_string()),
            "{text}"
        );
        assert_eq!(value(parsed.headers, "Connection"), Some("close"), "{text}");
        assert!(
            body.len() > 10 && body.ends_with(".\n") && body.lines().count() == 1,
            "{text}"
        );
        (parsed.code.unwrap(), text)
    }

    #[test]
    fn the_example_of_rfc_6455_is_accepted() {
        let upgrade = upgraded(HEAD);
        assert_eq!(
            (&*upgrade.path, &*upgrade.accept),
            ("/chat", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        );
        assert!(upgrade.subprotocols.is_empty());

        let mut out = Vec::new();
        accept(&upgrade, None, &mut out);
        let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn every_proper_prefix_is_partial_and_bytes_after_the_head_are_left() {
        for cut in 0..HEAD.len() {
            assert_eq!(read(&HEAD[..cut]), Request::Partial, "{cut}");
        }
        let early = format!("{HEAD}\u{1}frame");
        assert!(matches!(read(&early), Request::Upgrade { used, .. } if used == HEAD.len()));
    }

    #[test]
    fn tokens_are_found_in_lists_in_any_case_and_over_repeated_headers() {
        for (part, by) in [
            ("Upgrade: websocket", "upgrade: WebSocket"),
            ("Upgrade: websocket", "Upgrade: h2c , websocket"),
            ("Upgrade: websocket", "Upgrade: h2c\r\nUPGRADE: WEBSOCKET"),
            ("Connection: Upgrade", "connection: keep-alive, upgrade"),
            (
                "Connection: Upgrade",
                "Connection: keep-alive\r\nConnection:UPGRADE",
            ),
            ("Connection: Upgrade", "Connection: ,, Upgrade ,"),
        ] {
            upgraded(&with(part, by));
        }
    }

    #[test]
    fn the_path_is_read_from_every_form_of_target() {
        for (target, path) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a?b?c/d", "/a"),
            ("http://host:80/a?b", "/a"),
            ("https://host", "/"),
            ("http://host?a/b", "/"),
        ] {
            assert_eq!(
                upgraded(&with("/chat?room=1", target)).path,
                path,
                "{target}"
            );
        }
    }

    #[test]
    fn subprotocols_keep_the_clients_order_and_the_chosen_one_is_answered() {
        let lines = "Host: h\r\nSec-WebSocket-Protocol: b, a\r\nSec-WebSocket-Protocol: c";
        let upgrade = upgraded(&with("Host: server.example.com", lines));
        assert_eq!(upgrade.subprotocols, ["b", "a", "c"]);
        let mut out = Vec::new();
        accept(&upgrade, Some("a"), &mut out);
        assert!(
            String::from_utf8(out)
                .unwrap()
                .ends_with("\r\nSec-WebSocket-Protocol: a\r\n\r\n")
        );
    }

    #[test]
    fn what_is_no_upgrade_is_refused_with_the_status_that_says_why() {
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let version = "Sec-WebSocket-Version: 13";
        for (part, by, status, says) in [
            ("GET ", "POST ", 405, "Allow: GET\r\n"),
            ("HTTP/1.1", "HTTP/1.0", 505, "HTTP/1.1."),
            ("HTTP/1.1", "HTTP/2.0", 505, "HTTP/1.1."),
            ("GET ", "GET  ", 400, "not an HTTP/1.1 request"),
            ("GET ", "\u{16}\u{3}\u{1}", 400, "not an HTTP/1.1 request"),
            ("Host:", "Ho st:", 400, "not an HTTP/1.1 request"),
            ("Host: server.example.com\r\n", "", 400, "Host"),
            (
                "Host: server.example.com",
                "Host: a\r\nHost: b",
                400,
                "Host",
            ),
            ("Upgrade: websocket\r\n", "", 426, "Upgrade: websocket\r\n"),
            (
                "Upgrade: websocket",
                "Upgrade: websockets",
                426,
                "Upgrade: websocket\r\n",
            ),
            ("Connection: Upgrade\r\n", "", 426, "WebSocket client"),
            (
                "Connection: Upgrade",
                "Connection: keep-alive",
                426,
                "WebSocket client",
            ),
            (version, "X: y", 426, "Sec-WebSocket-Version: 13\r\n"),
            (
                version,
                "Sec-WebSocket-Version: 8",
                426,
                "Sec-WebSocket-Version: 13\r\n",
            ),
            (
                version,
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13",
                426,
                "version 13",
            ),
            (key, "", 400, "Sec-WebSocket-Key"),
            (key, &format!("{key}{key}"), 400, "Sec-WebSocket-Key"),
            (
                "dGhlIHNhbXBsZSBub25jZQ==",
                "dGhlIHNhbXBsZSBub25j",
                400,
                "Sec-WebSocket-Key",
            ),
            (
                "dGhlIHNhbXBsZSBub25jZQ==",
                "dGhlIHNhbXBsZSBub25jZQ",
                400,
                "Sec-WebSocket-Key",
            ),
            (
                "dGhlIHNhbXBsZSBub25jZQ==",
                "dGhlIHNhbXBsZSBub25jZSEh",
                400,
                "Sec-WebSocket-Key",
            ),
            ("dGhlIHNhbXBsZSBub25jZQ==", "!", 400, "Sec-WebSocket-Key"),
            ("/chat?room=1", "*", 400, "target"),
            ("/chat?room=1", "chat?/room", 400, "target"),
        ] {
            let (found, text) = refused(&with(part, by));
            assert_eq!(found, status, "{part:?} -> {by:?}\n{text}");
            assert!(text.contains(says), "{part:?} -> {by:?}\n{text}");
        }
    }

    #[test]
    fn a_head_past_its_limits_is_refused_with_431() {
        let long = with("Host:", &format!("X: {}\r\nHost:", "x".repeat(4096)));
        assert_eq!(refused(&long).0, 431);
        assert_eq!(refused(&long[..4096]).0, 431, "complete or not");
        assert_eq!(read(&long[..4095]), Request::Partial);

        assert!(matches!(
            read_request(HEAD.as_bytes(), HEAD.len()),
            Request::Upgrade { .. }
        ));
        assert!(matches!(
            read_request(HEAD.as_bytes(), HEAD.len() - 1),
            Request::Refused { .. }
        ));

        let headers =
            |count: usize| with("Host:", &format!("{}Host:", "X: y\r\n".repeat(count - 5)));
        upgraded(&headers(64));
        assert_eq!(refused(&headers(65)).0, 431);
    }

    #[test]
    fn a_refusal_of_the_callers_is_whole_http() {
        let mut out = Vec::new();
        refuse(503, "The relay is full.", Some(7), &mut out);
        let expected = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\n\
            Content-Type: text/plain; charset=utf-8\r\nContent-Length: 19\r\nConnection: close\r\n\r\nThe relay is full.\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
