use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    Dialect, Kind, Message, Parts,
    dialect::samples::{any_command, any_messages, commands, events},
    handshake,
    snowflake::{EPOCH_MS, Snowflake},
};

const README: &str = include_str!("../../README.md");

fn encoded(tag: u32, event: &Event<'_>) -> Vec<u8> {
    let mut out = b"earlier frames stay".to_vec();
    encode_event(tag, event, false, &mut out);
    out.split_off(19)
}

/// The same for a client that asked for parts.
fn encoded_with_parts(tag: u32, event: &Event<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode_event(tag, event, true, &mut out);
    out
}

fn unpacked<'a>(packed: &Packed<'a>) -> Vec<Message<'a>> {
    packed.iter().collect::<Result<_, _>>().unwrap()
}

/// What a client received, as the event it was encoded from.
fn read_back(payload: &[u8], check: impl FnOnce(u32, Event<'_>)) {
    let (tag, Some(received)) = decode_event(payload).unwrap() else { panic!("an event") };
    let messages = match &received {
        Received::History { messages, .. } | Received::Batch { messages, .. } => unpacked(messages),
        _ => Vec::new(),
    };
    let messages = &messages[..];
    let event = match received {
        Received::History { room, epoch, head, .. } => Event::History { room, epoch, head, messages },
        Received::Batch { room, .. } => Event::Batch { room, messages },
        Received::Connected { user, session, client, ping_s } => Event::Connected { user, session, client, ping_s },
        Received::KeyTaken { seq, id } => Event::KeyTaken { seq, id },
        Received::Joined { room, epoch, from, head, recovering, recovered } => {
            Event::Joined { room, epoch, from, head, recovering, recovered }
        }
        Received::Left { room } => Event::Left { room },
        Received::Acked { room, seq, id } => Event::Acked { room, seq, id },
        Received::Gap { room, from, to } => Event::Gap { room, from, to },
        Received::Error { code, message, retry_after_ms } => Event::Error { code, message, retry_after_ms },
        Received::GoingAway { reason, reconnect_after_ms } => Event::GoingAway { reason, reconnect_after_ms },
        Received::Info { room, epoch, head, members, people, per_minute } => {
            Event::Info { room, epoch, head, members, people, per_minute }
        }
        Received::Pong => Event::Pong,
        Received::Ping => Event::Ping,
    };
    check(tag, event);
}

fn read_request(payload: &[u8]) -> Result<Vec<Request<'_>>, Malformed> {
    let mut requests = Vec::new();
    Dialect::Native.decode(&Incoming::Binary(payload), &mut |request| requests.push(request)).map(|()| requests)
}

#[test]
fn every_command_arrives_as_it_was_sent_and_borrows_from_the_frame() {
    let (room, page) = ("lobby".into(), Page::After(9));
    let of_epoch = Command::History { room, page, limit: 50, epoch: Some(0xfeed), newest_first: false };
    for (tag, command) in (u32::MAX - 100..).zip(commands().into_iter().chain([of_epoch])) {
        let request = Request { tag, command };
        let mut payload = Vec::new();
        encode_request(&request, &mut payload);
        assert_eq!(read_request(&payload).unwrap(), [request]);
    }
    let mut payload = Vec::new();
    encode_request(&Request { tag: 1, command: Command::Leave { room: "lobby".into() } }, &mut payload);
    let requests = read_request(&payload).unwrap();
    assert!(matches!(&requests[0].command, Command::Leave { room: Cow::Borrowed("lobby") }));
}

#[test]
fn every_event_arrives_as_it_was_sent_and_always_in_the_same_bytes() {
    for event in events().into_iter().filter(|event| *event != Event::Ping) {
        let payload = encoded(77, &event);
        assert_eq!(payload, encoded(77, &event));
        read_back(&payload, |tag, read| assert_eq!((tag, read), (77, event)));
    }
}

#[test]
fn a_ping_is_a_websocket_ping() {
    let mut out = Vec::new();
    encode(0, &Event::Ping, false, &mut out);
    assert_eq!(out, [0x89, 0]);
}

#[test]
fn a_frame_tells_its_seqs_without_being_unpacked() {
    let event = events().into_iter().find(|event| matches!(event, Event::Batch { .. })).unwrap();
    let payload = encoded(0, &event);
    let (_, Some(Received::Batch { messages, .. })) = decode_event(&payload).unwrap() else { panic!("not a batch") };
    assert_eq!((messages.first_seq, messages.count), (41, 3));
}

#[test]
#[should_panic(expected = "no holes")]
fn a_batch_with_a_hole_is_never_sent() {
    let mut messages = crate::dialect::samples::MESSAGES.to_vec();
    messages.remove(1);
    encoded(0, &Event::Batch { room: "lobby", messages: &messages });
}

#[test]
fn a_text_message_is_refused() {
    let refused = decode(&Incoming::Text("{}"), &mut |_| panic!("no command"));
    assert!(refused.unwrap_err().0.contains("binary"));
}

#[test]
fn only_an_offer_without_ours_is_refused() {
    let offer = |names: &[&str]| {
        let mut head = Vec::new();
        let all = names.join(",");
        let subprotocol = (!names.is_empty()).then_some(&*all);
        handshake::request("relay", PATH, subprotocol, false, [0; 16], &mut head);
        let handshake::Request::Upgrade { upgrade, .. } = handshake::read_request(&head, 4096) else {
            panic!("{names:?}")
        };
        Dialect::negotiate(&upgrade).map(|agreed| (agreed.dialect, agreed.subprotocol))
    };
    assert_eq!(offer(&[]), Ok((Dialect::Native, None)));
    assert_eq!(offer(&["mqtt", "relay.native.v2"]), Ok((Dialect::Native, Some("relay.native.v2"))));
    let parts = Some("relay.native.v2.parts");
    assert_eq!(offer(&["relay.native.v2", "relay.native.v2.parts"]), Ok((Dialect::NativeParts, parts)));
    let (status, why) = offer(&["relay.native.v9"]).unwrap_err();
    assert!(status == 400 && why.contains("relay.native.v2"), "{why}");
}

#[test]
fn packed_messages_that_lie_are_malformed() {
    let whole = packed::pack(crate::dialect::samples::MESSAGES, false);
    let error = |first_seq, count, bytes: &[u8]| {
        let read: Result<Vec<_>, _> = Packed { first_seq, count, bytes }.iter().collect();
        read.unwrap_err().0
    };
    assert!(error(41, 2, &whole).contains("follow the last message"));
    assert!(error(41, 4, &whole).contains("cut off"));
    assert!(error(u64::MAX, 3, &whole).contains("past the last"));
    assert!(error(1, 1, &[0x80, 1, 0, 0, 0, 2, 0, 0]).contains("out of order"));
    assert!(error(1, 1, &[0x03, 0, 0, 0]).contains("content type"));
    assert!(error(1, 1, &[0x60, 0, 0xff, 0x7f]).contains("id out of range"));
    assert!(error(1, 1, &[0x08, 1, 3]).contains("before the start"));
    assert!(error(1, 1, &[0x00, 1, 1, 0xff, 0]).contains("UTF-8"));
    assert!(error(1, 1, &[&[0x00][..], &[0xff; 9], &[2]].concat()).contains("64 bits"));
    for end in 0..whole.len() {
        assert!(error(41, 3, &whole[..end]).contains("cut off"), "first {end} bytes");
    }
}

#[test]
fn a_line_costs_at_most_twelve_bytes_with_a_name_of_eight() {
    let lines =
        ["ㅋㅋㅋㅋ", "let's go!!", "PogChamp that was insane", "진짜 대박이다 오늘 경기", "lol", "gg wp 다음 판 가자"];
    let names: Vec<String> = (0..1_167).map(|user| format!("user{user:04}")).collect();
    let packed_in = |lines_a_frame: usize| {
        let mut ids = Snowflake::new(0, 1, 0);
        let message = |(index, user): (usize, _)| {
            let time_ms = EPOCH_MS + 50_000_000_000 + index as u64 * 1_000 / 1_167;
            if index % 3 == 0 {
                ids.next(time_ms, 0); // goes to another room
            }
            let body = lines[index % lines.len()].as_bytes();
            let (seq, id, content) = (1 + index as u64, ids.next(time_ms, 0), Content::Text);
            Message { seq, id, time_ms, user, content, body, kind: Kind::Message, parts: Parts::NONE }
        };
        let messages: Vec<_> = names.iter().map(|name| &**name).enumerate().map(message).collect();
        let text: usize = messages.iter().map(|message| message.body.len()).sum();
        let frames =
            messages.chunks(lines_a_frame).map(|messages| encoded(0, &Event::Batch { room: "giant", messages }));
        frames.map(|frame| frame.len()).sum::<usize>() - text
    };
    let (one, ten) = (packed_in(1_167), packed_in(117));
    assert!(one <= 12 * 1_167 + 80, "{one} bytes around 1,167 lines in one frame");
    assert!(ten <= 12 * 1_167 + 10 * 80, "{ten} bytes around 1,167 lines in ten frames");
}

/// A message whose root another version has laid out.
fn of_another_version<T>(kind: u8, root: &T) -> Vec<u8>
where
    T: for<'a, 'b> rkyv::Serialize<
            rkyv::api::high::HighSerializer<
                &'a mut Vec<u8>,
                rkyv::ser::allocator::ArenaHandle<'b>,
                rkyv::rancor::Error,
            >,
        >,
{
    let mut message = Vec::new();
    wire::write(5, kind, root, &mut message);
    message
}

#[test]
fn a_later_versions_fields_are_passed_over() {
    #[derive(rkyv::Archive, rkyv::Serialize)]
    struct LaterPublish<'a> {
        #[rkyv(with = rkyv::with::InlineAsBox)]
        room: &'a str,
        content: u8,
        #[rkyv(with = rkyv::with::InlineAsBox)]
        body: &'a [u8],
        #[rkyv(with = rkyv::with::Map<rkyv::with::InlineAsBox>)]
        key: Option<&'a str>,
        delay_ms: u32,
        #[rkyv(with = rkyv::with::InlineAsBox)]
        thread: &'a str,
    }
    #[derive(rkyv::Archive, rkyv::Serialize)]
    struct LaterAcked<'a> {
        #[rkyv(with = rkyv::with::InlineAsBox)]
        room: &'a str,
        seq: u64,
        id: u64,
        members: u32,
    }
    let (room, body) = ("lobby", b"hi".as_slice());
    let later = LaterPublish { room, content: 0, body, key: Some("k"), delay_ms: 7, thread: "t" };
    let payload = of_another_version(up::PUBLISH, &later);
    let command =
        Command::Publish { room: room.into(), content: Content::Text, body: body.into(), key: Some("k".into()) };
    assert_eq!(read_request(&payload).unwrap(), [Request { tag: 5, command }]);
    let payload = of_another_version(down::ACKED, &LaterAcked { room, seq: 3, id: 4, members: 5 });
    read_back(&payload, |tag, event| assert_eq!((tag, event), (5, Event::Acked { room, seq: 3, id: 4 })));
}

#[test]
fn fields_that_an_earlier_version_did_not_have_are_absent() {
    #[derive(rkyv::Archive, rkyv::Serialize)]
    struct EarlierPublish<'a> {
        #[rkyv(with = rkyv::with::InlineAsBox)]
        room: &'a str,
        content: u8,
        #[rkyv(with = rkyv::with::InlineAsBox)]
        body: &'a [u8],
    }
    #[derive(rkyv::Archive, rkyv::Serialize)]
    struct EarlierError<'a> {
        code: u16,
        #[rkyv(with = rkyv::with::InlineAsBox)]
        message: &'a str,
    }
    let (room, body) = ("lobby", b"hi".as_slice());
    let payload = of_another_version(up::PUBLISH, &EarlierPublish { room, content: 0, body });
    let command = Command::Publish { room: room.into(), content: Content::Text, body: body.into(), key: None };
    assert_eq!(read_request(&payload).unwrap(), [Request { tag: 5, command }]);
    let payload = of_another_version(down::ERROR, &EarlierError { code: 9, message: "busy" });
    assert!(decode_event(&payload).is_err(), "it is not complete");
    let error = Event::Error { code: ErrorCode::Busy, message: "busy", retry_after_ms: 0 };
    read_back(&complete(&payload), |tag, event| assert_eq!((tag, event), (5, error)));
}

#[test]
fn kinds_and_codes_of_a_later_version_are_no_error() {
    let payload = of_another_version(200, &wire::Leave { room: "lobby" });
    assert_eq!(read_request(&payload).unwrap(), [Request { tag: 5, command: Command::Unsupported }]);
    assert!(matches!(decode_event(&payload), Ok((5, None))));
    let later = wire::Error { code: 999, message: "too late", retry_after_ms: 7, seq: 0, id: 0 };
    let payload = of_another_version(down::ERROR, &later);
    let error = Event::Error { code: ErrorCode::Internal, message: "too late", retry_after_ms: 7 };
    read_back(&payload, |_, event| assert_eq!(event, error));
    let payload = of_another_version(up::JOIN, &wire::Join { room: "lobby", start: 9, position: 0, epoch: None });
    assert!(matches!(read_request(&payload).unwrap()[0].command, Command::Refused { code: ErrorCode::BadRequest, .. }));
}

/// The hex digits of the README's code block that starts with this line, comments left out.
fn readme_hex(first_line: &str) -> Vec<u8> {
    let block = README.split("```").find(|block| block.contains(first_line)).expect("the README has the block");
    let digits = block.lines().skip(2).filter_map(|line| line.split("  ").next());
    let digits = digits.flat_map(str::split_whitespace);
    digits.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

#[test]
fn the_examples_of_the_readme_are_what_is_sent() {
    let mut publish = Vec::new();
    let command = Command::Publish {
        room: "lobby".into(),
        content: Content::Text,
        body: b"hi".as_slice().into(),
        key: Some("k1".into()),
    };
    encode_request(&Request { tag: 7, command }, &mut publish);
    assert_eq!(hex(&readme_hex("Command: publish")), hex(&publish));
    let batch = Event::Batch { room: "lobby", messages: crate::dialect::samples::MESSAGES };
    assert_eq!(hex(&readme_hex("Event: batch")), hex(&encoded(0, &batch)));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

proptest! {
    #[test]
    fn any_command_round_trips(tag: u32, command in any_command()) {
        let request = Request { tag, command };
        let mut payload = Vec::new();
        encode_request(&request, &mut payload);
        prop_assert_eq!(read_request(&payload).unwrap(), [request]);
    }

    #[test]
    fn any_messages_round_trip(tag: u32, room: String, messages in any_messages()) {
        for event in [
            Event::Batch { room: &room, messages: &messages[..] },
            Event::History { room: &room, epoch: 1, head: u64::MAX, messages: &messages[..] },
        ] {
            read_back(&encoded_with_parts(tag, &event), |read_tag, read| assert_eq!((read_tag, read), (tag, event)));
        }
        let plain: Vec<_> = messages.iter().map(|message| Message { parts: Parts::NONE, ..*message }).collect();
        let asked = Event::Batch { room: &room, messages: &messages[..] };
        let plain = Event::Batch { room: &room, messages: &plain[..] };
        prop_assert_eq!(encoded(tag, &asked), encoded(tag, &plain), "parts travel only to those who asked for them");
        prop_assert_eq!(encoded_with_parts(tag, &plain), encoded(tag, &plain), "and cost nothing where there are none");
    }

    #[test]
    fn arbitrary_bytes_are_never_a_panic(bytes in vec(any::<u8>(), 0..200), first_seq: u64, count: u32) {
        let _ = read_request(&bytes);
        let _ = decode_event(&complete(&bytes));
        let packed = Packed { first_seq, count, bytes: &bytes };
        prop_assert!(packed.iter().take(300).count() < 202);
    }

    #[test]
    fn a_damaged_frame_is_never_a_panic(messages in any_messages(), at: prop::sample::Index, to: u8, cut: prop::sample::Index) {
        let mut payload = encoded(3, &Event::Batch { room: "lobby", messages: &messages[..] });
        *at.get_mut(&mut payload) = to;
        let from = if to % 4 == 0 { cut.index(payload.len()) } else { 0 };
        if let Ok((_, Some(Received::Batch { messages, .. }))) = decode_event(&payload[from..]) {
            prop_assert!(messages.iter().take(10_000).count() < 10_000);
        }
    }
}
