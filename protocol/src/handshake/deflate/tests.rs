use super::super::{Request, Response, Upgrade, accept, read_request, read_response, request};

const KEY: [u8; 16] = *b"the sample nonce";
const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// A request head with these values of Sec-WebSocket-Extensions.
fn offering(values: &[&str]) -> Upgrade {
    let mut head = Vec::new();
    request("localhost", "/native", None, false, KEY, &mut head);
    head.truncate(head.len() - 2);
    for value in values {
        head.extend_from_slice(format!("Sec-WebSocket-Extensions: {value}\r\n").as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    match read_request(&head, 4096) {
        Request::Upgrade { upgrade, .. } => upgrade,
        other => panic!("{values:?}: {other:?}"),
    }
}

/// The extensions that a server answers with; empty if it takes none of the offers.
fn answered(values: &[&str]) -> String {
    let upgrade = offering(values);
    let mut head = Vec::new();
    accept(&upgrade, None, upgrade.deflate, &mut head);
    let head = String::from_utf8(head).unwrap();
    head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: ")).unwrap_or("").to_owned()
}

/// What a client that has offered (or not) makes of an answer with these extensions.
fn judged(value: &str, offered: bool) -> Result<bool, String> {
    let mut head = Vec::new();
    accept(&offering(&[]), None, false, &mut head);
    head.truncate(head.len() - 2);
    head.extend_from_slice(format!("Sec-WebSocket-Extensions: {value}\r\n\r\n").as_bytes());
    match read_response(&head, KEY, offered) {
        Response::Accepted { used, deflate } if used == head.len() => Ok(deflate),
        Response::Refused(why) => Err(why),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_offer_that_can_be_kept_is_taken() {
    for offer in [
        "permessage-deflate",
        "Permessage-Deflate",
        " permessage-deflate ; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=8",
        "permessage-deflate; client_max_window_bits = \"15\"",
        "permessage-deflate;server_no_context_takeover;client_no_context_takeover",
        "permessage-deflate; client_no_context_takeover; client_max_window_bits=12; server_no_context_takeover",
        PLAIN,
    ] {
        assert_eq!(answered(&[offer]), PLAIN, "{offer}");
    }
}

#[test]
fn a_window_that_is_named_is_named_again() {
    let repeated = format!("{PLAIN}; server_max_window_bits=15");
    for offer in [
        "permessage-deflate; server_max_window_bits=15",
        "permessage-deflate; server_max_window_bits=\"15\"; client_max_window_bits",
    ] {
        assert_eq!(answered(&[offer]), repeated, "{offer}");
    }
}

#[test]
fn an_offer_that_cannot_be_kept_is_not_taken() {
    for offer in [
        "",
        "permessage-deflate; server_max_window_bits=14",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=\"9\"",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=015",
        "permessage-deflate; server_max_window_bits=+15",
        "permessage-deflate; server_max_window_bits=15.0",
        "permessage-deflate; server_max_window_bits='15'",
        "permessage-deflate; server_max_window_bits=\"15",
        "permessage-deflate; server_max_window_bits=15; server_max_window_bits=15",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=\"\"",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; level=9",
        "permessage-deflate;",
        "permessage-deflate; ; client_max_window_bits",
        "permessage-deflate=1",
        "permessage-bzip2",
        "x-webkit-deflate-frame",
        "x; y=\"a, permessage-deflate, b\"",
    ] {
        assert_eq!(answered(&[offer]), "", "{offer}");
        assert!(!offering(&[offer]).deflate);
    }
    assert_eq!(answered(&[]), "");
}

#[test]
fn the_first_offer_that_can_be_kept_is_taken() {
    let small = "permessage-deflate; server_max_window_bits=10";
    let named = "permessage-deflate; server_max_window_bits=15";
    let repeated = format!("{PLAIN}; server_max_window_bits=15");
    assert_eq!(answered(&[&format!("{small}, permessage-deflate")]), PLAIN);
    assert_eq!(answered(&[&format!("{small},{named},permessage-deflate")]), repeated);
    assert_eq!(answered(&["x-other; a=\"b;c,d\", permessage-deflate, permessage-deflate; level=1"]), PLAIN);
    assert_eq!(answered(&[small, "x-other", named]), repeated, "headers of the same name are one list");
    assert_eq!(answered(&[small, small]), "");
}

#[test]
fn both_ends_agree() {
    for offers in [false, true] {
        for takes in [false, true] {
            let mut asked = Vec::new();
            request("localhost", "/native", None, offers, KEY, &mut asked);
            let Request::Upgrade { upgrade, .. } = read_request(&asked, 4096) else { panic!() };
            assert_eq!(upgrade.deflate, offers);
            let agreed = offers && takes;
            let mut answer = Vec::new();
            accept(&upgrade, None, agreed, &mut answer);
            let expected = Response::Accepted { used: answer.len(), deflate: agreed };
            assert_eq!(read_response(&answer, KEY, offers), expected);
        }
    }
}

#[test]
#[should_panic(expected = "only accepted when it was offered")]
fn taking_what_was_not_offered_is_a_programmer_error() {
    accept(&offering(&[]), None, true, &mut Vec::new());
}

#[test]
fn an_answer_that_keeps_to_the_offer_is_accepted() {
    assert_eq!(judged("", true), Ok(false));
    assert_eq!(judged("", false), Ok(false));
    for answer in [
        PLAIN,
        "permessage-deflate; server_no_context_takeover",
        "PERMESSAGE-DEFLATE;server_no_context_takeover; server_max_window_bits=\"8\"",
        "permessage-deflate; server_max_window_bits=15; server_no_context_takeover; client_no_context_takeover",
    ] {
        assert_eq!(judged(answer, true), Ok(true), "{answer}");
    }
}

#[test]
fn an_answer_that_was_not_offered_is_refused_in_words() {
    for (answer, offered, says) in [
        (PLAIN, false, "an extension that was not offered"),
        ("x-other", false, "an extension that was not offered"),
        ("x-other", true, "an extension that was not offered"),
        (&format!("{PLAIN}, x-other"), true, "an extension that was not offered"),
        (&format!("{PLAIN}, {PLAIN}"), true, "an extension that was not offered"),
        ("permessage-deflate", true, "without server_no_context_takeover"),
        ("permessage-deflate; client_no_context_takeover", true, "without server_no_context_takeover"),
        (&format!("{PLAIN}; client_max_window_bits=15"), true, "client_max_window_bits, which was not offered"),
        (&format!("{PLAIN}; client_max_window_bits"), true, "client_max_window_bits, which was not offered"),
        (&format!("{PLAIN}; server_max_window_bits"), true, "parameters that are wrong"),
        (&format!("{PLAIN}; server_max_window_bits=7"), true, "parameters that are wrong"),
        (&format!("{PLAIN}; server_no_context_takeover"), true, "parameters that are wrong"),
        (&format!("{PLAIN}; level=9"), true, "parameters that are wrong"),
    ] {
        let why = judged(answer, offered).expect_err(answer);
        assert!(why.starts_with("101 with") && why.contains(says), "{answer}: {why}");
    }
}
