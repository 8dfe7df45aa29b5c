use super::*;

/// The first byte of a final frame.
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;

/// Feeds `bytes` one by one; checks that exactly the last is refused, and returns why.
#[track_caller]
fn refused_at_the_last_byte(role: Role, message_bytes_max: usize, bytes: &[u8]) -> FrameError {
    let mut decoder = Decoder::new(role, message_bytes_max);
    let (last, before) = bytes.split_last().expect("bytes");
    for (at, byte) in before.iter().enumerate() {
        let result = feed(&mut decoder, &[*byte]);
        assert!(result.is_ok(), "byte {at} of {bytes:x?}: {result:?}");
    }
    feed(&mut decoder, &[*last]).expect_err("the last byte makes it wrong")
}

#[track_caller]
fn protocol_error(role: Role, bytes: &[u8], says: &str) {
    match refused_at_the_last_byte(role, 1000, bytes) {
        FrameError::Protocol(why) => assert!(why.contains(says), "{bytes:x?}: {why}"),
        other => panic!("{bytes:x?}: {other}"),
    }
}

#[test]
fn a_bad_first_pair_of_bytes_is_refused_at_once() {
    let fragment = frame(Role::Server, 0x01, b"a");
    for reserved_bit in [0x10, 0x20, 0x40] {
        protocol_error(Role::Server, &[TEXT | reserved_bit, 0x85], "reserved bit");
        protocol_error(Role::Client, &[PING | reserved_bit, 0x05], "reserved bit");
        protocol_error(Role::Server, &[&*fragment, &[0x80 | reserved_bit, 0x85]].concat(), "reserved bit");
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        protocol_error(Role::Server, &[0x80 | opcode, 0x80], "reserved opcode");
        protocol_error(Role::Client, &[opcode, 0x05], "reserved opcode");
        protocol_error(Role::Server, &[&*fragment, &[0x80 | opcode, 0x80]].concat(), "reserved opcode");
    }
    for control in [8, 9, 10] {
        protocol_error(Role::Server, &[control, 0x80], "fragmented control");
        protocol_error(Role::Server, &[0x80 | control, 0x80 | 0x7e], "125 bytes");
        protocol_error(Role::Client, &[0x80 | control, 127], "125 bytes");
    }
    for first in [TEXT, BINARY, CLOSE, PING, 0x8a, 0x01] {
        protocol_error(Role::Server, &[first, 0x05], "not masked");
        protocol_error(Role::Client, &[first, 0x85], "is masked");
    }
}

#[test]
fn a_message_of_empty_fragments_ends() {
    let begin = frame(Role::Server, 0x01, b"");
    let nothing = frame(Role::Server, 0x00, b"").repeat(999);
    let end = frame(Role::Server, 0x80, b"a");
    let mut decoder = Decoder::new(Role::Server, 1000);
    assert_eq!(feed(&mut decoder, &[&*begin, &nothing, &end].concat()), Ok(vec![Owned::Text("a".to_owned())]));
    assert_eq!(feed(&mut decoder, &[&*begin, &nothing, &end].concat()), Ok(vec![Owned::Text("a".to_owned())]));
    protocol_error(Role::Server, &[&*begin, &nothing, &frame(Role::Server, 0x00, b"")].concat(), "empty fragments");
}

#[test]
fn fragments_out_of_order_are_refused() {
    protocol_error(Role::Server, &[0x80, 0x80], "without a message");
    protocol_error(Role::Server, &[0x00, 0x80], "without a message");
    let whole = [frame(Role::Server, 0x01, b"a"), frame(Role::Server, 0x80, b"b")].concat();
    protocol_error(Role::Server, &[&*whole, &[0x80, 0x80]].concat(), "without a message");
    for fragment in [frame(Role::Server, 0x01, b"a"), frame(Role::Server, 0x02, b"")] {
        for first in [TEXT, BINARY, 0x01, 0x02] {
            protocol_error(Role::Server, &[&*fragment, &[first, 0x80]].concat(), "between the fragments");
        }
    }
}

#[test]
fn a_length_is_judged_before_the_mask_and_the_payload() {
    let top_bit = [&[BINARY, 0xff, 0x80][..], &[0; 7]].concat();
    protocol_error(Role::Server, &top_bit, "top bit");
    let too_large = |bytes: &[u8]| {
        assert_eq!(refused_at_the_last_byte(Role::Server, 1000, bytes), FrameError::TooLarge(1000), "{bytes:x?}");
    };
    too_large(&[BINARY, 0x80 | 0x7e, 0x03, 0xe9]);
    too_large(&[TEXT, 0x80 | 0x7f, 0, 0, 0, 0, 0, 0, 0x03, 0xe9]);
    too_large(&[TEXT, 0x80 | 0x7f, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(refused_at_the_last_byte(Role::Client, 100, &[BINARY, 101]), FrameError::TooLarge(100));
}

#[test]
fn the_limit_holds_for_the_sum_of_fragments_and_is_itself_allowed() {
    let start = [frame(Role::Server, 0x02, &[1; 60]), frame(Role::Server, 0x00, &[2; 30])].concat();
    let eleven_more = [&*start, &[0x80, 0x80 | 0x0b]].concat();
    assert_eq!(refused_at_the_last_byte(Role::Server, 100, &eleven_more), FrameError::TooLarge(100));

    let ping = frame(Role::Server, PING, &[3; 125]);
    let ten_more = [start, ping, frame(Role::Server, 0x80, &[4; 10])].concat();
    let joined = [&[1; 60][..], &[2; 30], &[4; 10]].concat();
    let expected = [Owned::Ping(vec![3; 125]), Owned::Binary(joined)];
    let mut decoder = Decoder::new(Role::Server, 100);
    assert_eq!(feed(&mut decoder, &ten_more).unwrap(), expected, "the limit is not for control frames");
    let whole = frame(Role::Server, BINARY, &[5; 100]);
    assert_eq!(feed(&mut decoder, &whole).unwrap(), [Owned::Binary(vec![5; 100])]);
}

#[test]
fn a_length_in_more_bytes_than_it_needs_is_accepted() {
    let mut decoder = Decoder::new(Role::Client, 1000);
    let wide = [TEXT, 126, 0, 1, b'a', TEXT, 127, 0, 0, 0, 0, 0, 0, 0, 1, b'b'];
    let expected = [Owned::Text("a".into()), Owned::Text("b".into())];
    assert_eq!(feed(&mut decoder, &wide).unwrap(), expected);
}

fn close(payload: &[u8]) -> Result<Vec<Owned>, FrameError> {
    feed(&mut Decoder::new(Role::Server, 0), &frame(Role::Server, CLOSE, payload))
}

#[test]
fn a_close_may_be_empty_or_have_a_status_that_may_be_sent() {
    assert_eq!(close(&[]).unwrap(), [Owned::Close(None, String::new())]);
    let may = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999_u16];
    for code in may {
        assert_eq!(close(&code.to_be_bytes()).unwrap(), [Owned::Close(Some(code), String::new())]);
    }
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535_u16] {
        assert!(matches!(close(&code.to_be_bytes()), Err(FrameError::Protocol(_))), "{code}");
    }
    assert!(matches!(close(&[3]), Err(FrameError::Protocol(_))), "half a status code");
}

#[test]
fn a_close_reason_is_utf_8() {
    let reason = "안녕 🙂".as_bytes();
    let payload = [&1000_u16.to_be_bytes(), reason].concat();
    assert_eq!(close(&payload).unwrap(), [Owned::Close(Some(1000), "안녕 🙂".into())]);
    assert_eq!(close(&payload[..payload.len() - 1]), Err(FrameError::NotUtf8));
    assert_eq!(close(&[0x03, 0xe8, 0xff]), Err(FrameError::NotUtf8));
}

#[test]
fn each_error_names_the_status_to_close_with() {
    let errors = [FrameError::Protocol(""), FrameError::Corrupt, FrameError::NotUtf8, FrameError::TooLarge(1)];
    assert_eq!(errors.map(FrameError::close_code), [1002, 1007, 1007, 1009]);
}
