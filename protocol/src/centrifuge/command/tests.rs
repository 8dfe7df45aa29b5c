use super::*;

fn one(text: &str) -> Request<'_> {
    let mut requests = Vec::new();
    let mut each = |request| {
        requests.push(request);
        ControlFlow::Continue(())
    };
    let used = read(text, &mut each).unwrap_or_else(|why| panic!("{text}: {why}"));
    assert_eq!(used, text.len());
    assert_eq!(requests.len(), 1, "{text}");
    requests.remove(0)
}

/// Why a command is refused, and with which code.
fn refused(text: &str) -> (ErrorCode, String) {
    match one(text) {
        Request { tag: 7, command: Command::Refused { code, why } } => (code, why.into_owned()),
        other => panic!("{text} is not refused as command 7: {other:?}"),
    }
}

#[test]
fn a_command_whose_fields_are_wrong_is_refused_by_its_id() {
    for (text, part) in [
        (r#"{"id":7,"publish":{"channel":"c"}}"#, "missing field `data`"),
        (r#"{"id":7,"publish":{"channel":"c","data":1,"key":5}}"#, "expected a"),
        (r#"{"publish":{"channel":null,"data":1},"id":7}"#, "expected a"),
        (r#"{"id":7,"subscribe":["room"]}"#, "expected an object"),
        (r#"{"id":7,"history":{"channel":"c","limit":2.5}}"#, "expected i64"),
        (r#"{"id":7,"history":{"channel":"c","since":{"offset":0},"reverse":true}}"#, "before offset 0"),
        (r#"{"id":7,"connect":{"data":{"user":5}}}"#, "are strings"),
        (r#"{"id":7,"ping":{},"history":{}}"#, "missing field `channel`"),
        (r#"{"id":7,"ping":{},"history":{"channel":"c"}}"#, "one method"),
    ] {
        let (code, why) = refused(text);
        assert!(code == ErrorCode::BadRequest && why.contains(part), "{text}: {why}");
    }
}

#[test]
fn the_commands_behind_a_refused_one_are_read() {
    let text = r#"{"id":7,"subscribe":{"channel":{"deep":["}"]}}} {"id":8,"ping":{}}"#;
    let mut tags = Vec::new();
    let mut each = |request: Request<'_>| {
        tags.push((request.tag, matches!(request.command, Command::Ping)));
        ControlFlow::Continue(())
    };
    read(text, &mut each).unwrap();
    assert_eq!(tags, [(7, false), (8, true)]);
}

#[test]
fn what_is_off_is_not_available_and_what_is_unknown_not_found() {
    for method in ["presence", "presence_stats", "rpc"] {
        let (code, why) = refused(&format!(r#"{{"id":7,"{method}":{{"channel":"c"}}}}"#));
        assert!(code == ErrorCode::NotAvailable && why.contains("not available"), "{method}: {why}");
    }
    for field in [r#""tf":{"op":"","key":"k"}"#, r#""type":1"#] {
        let (code, _) = refused(&format!(r#"{{"id":7,"subscribe":{{"channel":"c",{field}}}}}"#));
        assert_eq!(code, ErrorCode::NotAvailable, "{field}");
    }
    assert_eq!(refused(r#"{"params":{"token":""},"id":7}"#).0, ErrorCode::Unsupported);
    assert_eq!(one(r#"{"id":7,"refresh":{"token":""}}"#).command, Command::Unsupported);
    for text in [r#"{"send":{"data":1}}"#, r#"{"id":7,"send":{"data":1}}"#] {
        let sent = one(text);
        assert_eq!(sent.tag, 0, "it has no reply");
        assert!(matches!(sent.command, Command::Refused { code: ErrorCode::NotAvailable, .. }), "{sent:?}");
    }
}

#[test]
fn the_data_of_connect_is_the_applications_unless_it_says_who() {
    for data in ["null", "1", r#""ann""#, "[1]", "{}", r#"{"room":5}"#] {
        let text = format!(r#"{{"id":7,"connect":{{"data":{data}}}}}"#);
        assert_eq!(one(&text).command, Command::Connect { user: None, device: None }, "{data}");
    }
    let who = one(r#"{"id":7,"connect":{"data":{"user":"ann","room":5}}}"#).command;
    assert_eq!(who, Command::Connect { user: Some("ann".into()), device: None });
}

#[test]
fn a_recovery_without_a_position_is_one_that_cannot_succeed() {
    let start = |fields: &str| {
        let text = format!(r#"{{"id":7,"subscribe":{{"channel":"c","recover":true{fields}}}}}"#);
        let Command::Join { start, .. } = one(&text).command else { panic!("{text} is not a join") };
        start
    };
    for fields in ["", r#","offset":0"#, r#","epoch":"""#] {
        assert_eq!(start(fields), Start::Since { seq: 0, epoch: Some(NO_EPOCH) }, "{fields}");
    }
    assert_eq!(start(r#","epoch":"feed""#), Start::Since { seq: 0, epoch: Some(0xfeed) });
    assert_eq!(start(r#","offset":3"#), Start::Since { seq: 3, epoch: None });
    assert_eq!(start(r#","offset":3,"epoch":"xyz""#), Start::Since { seq: 3, epoch: Some(NO_EPOCH) });
}
