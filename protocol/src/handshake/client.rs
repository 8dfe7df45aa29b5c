//! The client's side: a request head out, the server's answer in.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use httparse::Status;
use tungstenite::handshake::derive_accept_key;

use super::deflate::{OFFER, check_answer};
use super::head::{HEADERS_MAX, is_upgrade, value};

/// A longer response head is refused.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;

/// What a server answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Response {
    /// The head is not complete; call again with more bytes.
    Partial,
    /// 101 and a correct accept value.
    Accepted {
        /// Size of the head in bytes; the rest is already WebSocket.
        used: usize,
        /// Messages may be compressed in both directions, each by itself.
        deflate: bool,
    },
    /// Anything else, in one line for a person (status line or what was wrong).
    Refused(String),
}

/// A client's request head. `key` is 16 bytes of the caller's choice; `deflate` offers permessage-deflate.
pub fn request(host: &str, path: &str, subprotocol: Option<&str>, deflate: bool, key: [u8; 16], out: &mut Vec<u8>) {
    let key = BASE64_STANDARD.encode(key);
    let subprotocol = subprotocol.map_or_else(String::new, |name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
    let extensions = if deflate { OFFER } else { "" };
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{subprotocol}{extensions}\r\n"
    );
    out.extend_from_slice(head.as_bytes());
}

/// Reads the server's answer to [`request`] with the same `key` and `deflate_offered` if it had `deflate`. A head may have 16 KiB and 64 headers.
pub fn read_response(input: &[u8], key: [u8; 16], deflate_offered: bool) -> Response {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let used = match head.parse(input) {
        Ok(Status::Complete(used)) => used,
        Ok(Status::Partial) if input.len() < RESPONSE_BYTES_MAX => return Response::Partial,
        Ok(Status::Partial) => {
            return refused(format!("a response head larger than {RESPONSE_BYTES_MAX} bytes"));
        }
        Err(error) => return refused(format!("not an HTTP/1.1 response: {error}")),
    };
    if head.code != Some(101) {
        return refused(status_line(&head, &input[used..]));
    }
    if !is_upgrade(head.headers) {
        return refused("101 without Upgrade: websocket and Connection: Upgrade");
    }
    let expected = derive_accept_key(BASE64_STANDARD.encode(key).as_bytes());
    if value(head.headers, "Sec-WebSocket-Accept") != Some(&expected) {
        return refused("101 with a wrong Sec-WebSocket-Accept");
    }
    match check_answer(head.headers, deflate_offered) {
        Ok(deflate) => Response::Accepted { used, deflate },
        Err(wrong) => refused(format!("101 with {wrong}")),
    }
}

fn refused(why: impl Into<String>) -> Response {
    Response::Refused(why.into())
}

/// `503 Service Unavailable: The relay is full.`, the last part being as much of the body's first line as is there.
fn status_line(head: &httparse::Response<'_, '_>, body: &[u8]) -> String {
    let body = String::from_utf8_lossy(body);
    let status = format!("{} {}", head.code.unwrap_or_default(), head.reason.unwrap_or(""));
    match body.lines().next() {
        Some(line) if !line.is_empty() => format!("{status}: {line}"),
        _ => status,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Request, accept, read_request, refuse};
    use super::*;

    const KEY: [u8; 16] = *b"the sample nonce";

    #[test]
    fn both_ends_agree() {
        let mut asked = Vec::new();
        request("localhost:8000", "/native?a=b", Some("chat.v1"), false, KEY, &mut asked);
        let Request::Upgrade { upgrade, used } = read_request(&asked, 4096) else { panic!() };
        assert_eq!((used, &*upgrade.path), (asked.len(), "/native"));
        assert_eq!(upgrade.subprotocols, ["chat.v1"]);

        let mut answer = Vec::new();
        accept(&upgrade, Some("chat.v1"), false, &mut answer);
        let head_bytes = answer.len();
        answer.extend_from_slice(b"frame");
        assert_eq!(read_response(&answer, KEY, false), Response::Accepted { used: head_bytes, deflate: false });
        for cut in 0..head_bytes {
            assert_eq!(read_response(&answer[..cut], KEY, false), Response::Partial, "{cut}");
        }
        let expected = Response::Refused("101 with a wrong Sec-WebSocket-Accept".to_owned());
        assert_eq!(read_response(&answer, [0; 16], false), expected);
    }

    #[test]
    fn a_refusal_is_told_in_one_line() {
        let mut answer = Vec::new();
        refuse(503, "The relay is full.", None, &mut answer);
        let expected = "503 Service Unavailable: The relay is full.".to_owned();
        assert_eq!(read_response(&answer, KEY, false), Response::Refused(expected));

        let answer = b"HTTP/1.1 404 Not Found\r\n\r\n";
        assert_eq!(read_response(answer, KEY, false), Response::Refused("404 Not Found".to_owned()));
    }

    #[test]
    fn a_101_that_is_not_the_answer_to_this_request_is_refused() {
        let good = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert_eq!(read_response(good.as_bytes(), KEY, false), Response::Accepted { used: good.len(), deflate: false });
        for (part, by, says) in [
            ("Upgrade: websocket\r\n", "", "101 without"),
            ("Connection: Upgrade\r\n", "", "101 without"),
            ("s3pP", "S3pP", "wrong Sec-WebSocket-Accept"),
            ("Sec-WebSocket-Accept", "X", "wrong Sec-WebSocket-Accept"),
            ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", "an extension"),
            ("HTTP/1.1", "SSH-2.0", "not an HTTP/1.1 response"),
        ] {
            let answer = good.replace(part, by);
            match read_response(answer.as_bytes(), KEY, false) {
                Response::Refused(why) => assert!(why.contains(says), "{why}"),
                other => panic!("{answer}\n{other:?}"),
            }
        }
    }

    #[test]
    fn an_endless_head_is_refused() {
        let endless = format!("HTTP/1.1 101 S\r\nX: {}", "x".repeat(RESPONSE_BYTES_MAX));
        assert!(matches!(read_response(endless.as_bytes(), KEY, false), Response::Refused(_)));
    }
}
