//! Each limit has an answer of its own, and the connection goes on where it can.

use protocol::frame::Opcode;
use protocol::{Command, Content, ErrorCode, Start, native};

use crate::client::{Client, publish};
use crate::event::Event;
use crate::process::Relay;

#[test]
fn a_body_over_the_limit_is_refused_and_the_connection_lives() {
    let relay = Relay::in_memory(&["--body-bytes-max", "100"]);
    let mut client = Client::native(relay.address, "u");
    assert_eq!(client.call(publish("r", &"x".repeat(101), None)).error(), ErrorCode::TooLarge);
    assert_eq!(client.call(publish("r", "x", Some(&"k".repeat(256)))).error(), ErrorCode::TooLarge);
    let long = "r".repeat(256);
    assert_eq!(client.call(publish(&long, "x", None)).error(), ErrorCode::TooLarge);
    assert_eq!(client.say("r", &"x".repeat(100)).0, 1);
}

#[test]
fn a_frame_over_the_limit_closes_the_connection_with_1009() {
    let relay = Relay::in_memory(&["--frame-bytes-max", "16384", "--body-bytes-max", "8192"]);
    let mut client = Client::native(relay.address, "u");
    client.say("r", &"x".repeat(8 * 1024));
    client.frame(Opcode::Binary, &vec![0; 16385]).unwrap();
    let rest = client.rest();
    assert!(matches!(rest[..], [Event::Closed { code: Some(1009), .. }]), "{rest:?}");
}

#[test]
fn a_connection_is_a_member_of_so_many_rooms() {
    let relay = Relay::in_memory(&["--rooms-per-session-max", "2"]);
    let mut client = Client::native(relay.address, "u");
    client.join("a", Start::Recent(0));
    client.join("b", Start::Recent(0));
    let join = |room: &'static str| Command::Join { room: room.into(), start: Start::Recent(0) };
    assert_eq!(client.call(join("c")).error(), ErrorCode::TooManyRooms);
    assert_eq!(client.call(Command::Leave { room: "a".into() }), Event::Left);
    assert_eq!(client.call(Command::Leave { room: "a".into() }).error(), ErrorCode::NotJoined);
    client.join("c", Start::Recent(0));
    assert_eq!(client.call(join("b")).error(), ErrorCode::TooManyRooms);
    assert_eq!(client.say("b", "hears me").0, 1);
    assert_eq!(client.lines(1)[0].text(), "hears me");
}

#[test]
fn a_connection_publishes_so_fast_in_all_rooms_together() {
    let relay = Relay::in_memory(&["--session-publish-rate", "1", "--publish-burst", "2"]);
    let mut client = Client::native(relay.address, "u");
    client.say("a", "one");
    client.say("b", "two");
    match client.call(publish("c", "three", None)) {
        Event::Error { code: ErrorCode::RateLimited, retry_after_ms } => assert!((1..=1000).contains(&retry_after_ms)),
        other => panic!("{other:?}"),
    }
    assert_eq!(Client::native(relay.address, "u").say("c", "from elsewhere").0, 1);
}

#[test]
fn a_user_publishes_so_fast_in_one_room_over_all_connections() {
    let relay = Relay::in_memory(&["--user-publish-rate", "1", "--publish-burst", "2"]);
    let mut phone = Client::native(relay.address, "u");
    let mut laptop = Client::native(relay.address, "u");
    phone.say("a", "one");
    laptop.say("a", "two");
    for client in [&mut phone, &mut laptop] {
        assert_eq!(client.call(publish("a", "three", None)).error(), ErrorCode::RateLimited);
    }
    assert_eq!(phone.say("b", "another room").0, 1);
    assert_eq!(Client::native(relay.address, "v").say("a", "another user").0, 3);
}

#[test]
fn commands_out_of_turn_are_refused_and_bytes_that_are_none_close_the_connection() {
    let relay = Relay::in_memory(&[]);
    let mut client = Client::open(relay.address, native::PATH);
    assert_eq!(client.call(publish("r", "x", None)).error(), ErrorCode::NotConnected);
    let mut client = client.connected("u");
    let again = Command::Connect { user: None, device: None };
    assert_eq!(client.call(again).error(), ErrorCode::Already);
    let bell = Command::Publish { room: "\u{7}".into(), content: Content::Text, body: b"x"[..].into(), key: None };
    assert_eq!(client.call(bell).error(), ErrorCode::BadRequest);
    client.frame(Opcode::Binary, b"no archive").unwrap();
    let rest = client.rest();
    let [error, closed] = &rest[..] else { panic!("{rest:?}") };
    assert_eq!(error.error(), ErrorCode::BadRequest);
    assert!(matches!(closed, Event::Closed { code: Some(4002), .. }), "{closed:?}");
}
