use super::*;

/// "Hello" (RFC 7692 section 7.2.3.1).
const HELLO: &[u8] = &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

fn decoder(role: Role, message_bytes_max: usize) -> Decoder {
    Decoder::new(role, message_bytes_max).with_deflate()
}

#[test]
fn a_compressed_message_is_given_compressed_and_in_place() {
    let mut bytes = [frame(Role::Server, 0xc1, HELLO), frame(Role::Server, 0xc2, &[0xff])].concat();
    let range = bytes.as_ptr_range();
    let mut decoder = decoder(Role::Server, 100);
    let (used, incoming) = decoder.next(&mut bytes).unwrap();
    let Some(Incoming::Deflated { opcode: Opcode::Text, payload }) = incoming else { panic!("{incoming:?}") };
    assert!(range.contains(&payload.as_ptr()) && payload == HELLO);
    let expected = Incoming::Deflated { opcode: Opcode::Binary, payload: &[0xff] };
    assert_eq!(decoder.next(&mut bytes[used..]), Ok((7, Some(expected))), "whatever its bytes are");
    assert!(decoder.is_idle());
}

#[test]
fn fragments_are_joined_around_control_frames_and_byte_by_byte() {
    let stream = [
        &frame(Role::Server, 0x41, &HELLO[..3])[..],
        &frame(Role::Server, 0x89, b"ping"),
        &frame(Role::Server, 0x00, b""),
        &frame(Role::Server, 0x80, &HELLO[3..]),
        &frame(Role::Server, 0x01, b"pl"),
        &frame(Role::Server, 0x80, b"ain"),
    ]
    .concat();
    let hello = Owned::Deflated(Opcode::Text, HELLO.to_vec());
    let expected = [Owned::Ping(b"ping".to_vec()), hello, Owned::Text("plain".into())];
    assert_eq!(feed(&mut decoder(Role::Server, 7), &stream).unwrap(), expected);

    let mut decoder = decoder(Role::Server, 7);
    let found: Vec<Owned> = stream.iter().flat_map(|byte| feed(&mut decoder, &[*byte]).unwrap()).collect();
    assert_eq!(found, expected);
    assert!(decoder.is_idle());
}

#[test]
fn a_compressed_text_is_no_utf_8_and_a_plain_one_still_is() {
    let compressed = [frame(Role::Server, 0x41, &[0xff, 0xc0]), frame(Role::Server, 0x80, &[0xff])].concat();
    let mut decoder = decoder(Role::Server, 100);
    assert_eq!(feed(&mut decoder, &compressed).unwrap(), [Owned::Deflated(Opcode::Text, vec![0xff, 0xc0, 0xff])]);
    assert_eq!(feed(&mut decoder, &frame(Role::Server, 0x81, &[0xff])), Err(FrameError::NotUtf8));
}

#[test]
fn the_mark_stands_only_where_it_was_agreed_and_a_message_begins() {
    let refused = |mut decoder: Decoder, bytes: &[u8], says: &str| match feed(&mut decoder, bytes) {
        Err(FrameError::Protocol(why)) => assert!(why.contains(says), "{bytes:x?}: {why}"),
        other => panic!("{bytes:x?}: {other:?}"),
    };
    refused(Decoder::new(Role::Server, 100), &[0xc1, 0x80], "reserved bit");
    for first in [0x90, 0xa0, 0xf1, 0xd1] {
        refused(decoder(Role::Server, 100), &[first, 0x80], "reserved bit");
    }
    for first in [0xc8, 0xc9, 0xca] {
        refused(decoder(Role::Server, 100), &[first, 0x80], "begins no message");
    }
    for fragment in [frame(Role::Server, 0x41, b"a"), frame(Role::Server, 0x02, b"a")] {
        for (first, says) in [(0xc0, "begins no message"), (0x40, "begins no message"), (0xc1, "between the fragments")]
        {
            refused(decoder(Role::Server, 100), &[&*fragment, &[first, 0x80]].concat(), says);
        }
    }
    refused(decoder(Role::Server, 100), &[0xc3, 0x80], "reserved opcode");
    refused(decoder(Role::Server, 100), &[0xc0, 0x80], "without a message");
}

#[test]
fn the_limit_is_for_compressed_bytes() {
    assert_eq!(feed(&mut decoder(Role::Client, 100), &[0xc2, 101]), Err(FrameError::TooLarge(100)));
    let hello = frame(Role::Client, 0xc1, HELLO);
    assert_eq!(feed(&mut decoder(Role::Client, 7), &hello).unwrap(), [Owned::Deflated(Opcode::Text, HELLO.to_vec())]);
}
