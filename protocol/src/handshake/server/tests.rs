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
    let Request::Refused { response } = read(head) else { panic!("{head}") };
    let text = String::from_utf8(response).unwrap();
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut parsed = httparse::Response::new(&mut headers);
    let used = parsed.parse(text.as_bytes()).unwrap().unwrap();
    let body = &text[used..];
    assert_eq!(value(parsed.headers, "Content-Length"), Some(&*body.len().to_string()), "{text}");
    assert_eq!(value(parsed.headers, "Connection"), Some("close"), "{text}");
    assert!(body.len() > 10 && body.ends_with(".\n") && body.lines().count() == 1, "{text}");
    (parsed.code.unwrap(), text)
}

#[test]
fn the_example_of_rfc_6455_is_accepted() {
    let upgrade = upgraded(HEAD);
    assert_eq!((&*upgrade.path, &*upgrade.accept), ("/chat", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert!(upgrade.subprotocols.is_empty());

    let mut out = Vec::new();
    accept(&upgrade, None, false, &mut out);
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
        ("Connection: Upgrade", "Connection: keep-alive\r\nConnection:UPGRADE"),
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
        assert_eq!(upgraded(&with("/chat?room=1", target)).path, path, "{target}");
    }
}

#[test]
fn subprotocols_keep_the_clients_order_and_the_chosen_one_is_answered() {
    let lines = "Host: h\r\nSec-WebSocket-Protocol: b, a\r\nSec-WebSocket-Protocol: c";
    let upgrade = upgraded(&with("Host: server.example.com", lines));
    assert_eq!(upgrade.subprotocols, ["b", "a", "c"]);
    let mut out = Vec::new();
    accept(&upgrade, Some("a"), false, &mut out);
    assert!(String::from_utf8(out).unwrap().ends_with("\r\nSec-WebSocket-Protocol: a\r\n\r\n"));
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
        ("Host: server.example.com", "Host: a\r\nHost: b", 400, "Host"),
        ("Upgrade: websocket\r\n", "", 426, "Upgrade: websocket\r\n"),
        ("Upgrade: websocket", "Upgrade: websockets", 426, "Upgrade: websocket\r\n"),
        ("Connection: Upgrade\r\n", "", 426, "WebSocket client"),
        ("Connection: Upgrade", "Connection: keep-alive", 426, "WebSocket client"),
        (version, "X: y", 426, "Sec-WebSocket-Version: 13\r\n"),
        (version, "Sec-WebSocket-Version: 8", 426, "Sec-WebSocket-Version: 13\r\n"),
        (version, "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13", 426, "version 13"),
        (key, "", 400, "Sec-WebSocket-Key"),
        (key, &format!("{key}{key}"), 400, "Sec-WebSocket-Key"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j", 400, "Sec-WebSocket-Key"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ", 400, "Sec-WebSocket-Key"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZSEh", 400, "Sec-WebSocket-Key"),
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

    assert!(matches!(read_request(HEAD.as_bytes(), HEAD.len()), Request::Upgrade { .. }));
    assert!(matches!(read_request(HEAD.as_bytes(), HEAD.len() - 1), Request::Refused { .. }));

    let headers = |count: usize| with("Host:", &format!("{}Host:", "X: y\r\n".repeat(count - 5)));
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

#[test]
fn the_query_is_told_apart_from_the_path_and_a_body_is_refused() {
    let upgrade = upgraded(&with("/chat?room=1", "/a?b=c&d"));
    assert_eq!((&*upgrade.path, &*upgrade.query), ("/a", "b=c&d"));
    assert_eq!(upgraded(&with("/chat?room=1", "/a")).query, "");
    let and = |header: &str| with("Host:", &format!("{header}\r\nHost:"));
    upgraded(&and("Content-Length: 0"));
    for header in ["Content-Length: 5", "Content-Length: 0\r\nContent-Length: 0", "Transfer-Encoding: chunked"] {
        let (status, text) = refused(&and(header));
        assert!(status == 400 && text.contains("has no body"), "{header}: {text}");
    }
}

#[test]
fn what_a_head_said_beside_the_upgrade_can_be_asked_for_by_name() {
    let head = with("\r\n\r\n", "\r\nORIGIN: https://a.example \r\nX-Real-IP: 1\r\nX-Real-IP: 2\r\n\r\n");
    let value = |name| header(head.as_bytes(), name);
    assert_eq!((value("Origin"), value("host")), (Some("https://a.example"), Some("server.example.com")));
    assert_eq!((value("X-Real-IP"), value("Authorization")), (None, None), "two values are none");
}
