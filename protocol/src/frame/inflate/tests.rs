use proptest::collection::vec;
use proptest::prelude::*;

use super::super::Deflater;
use super::*;

/// The payload of "Hello", compressed in the ways of RFC 7692 sections 7.2.3.1 and 7.2.3.3 to 7.2.3.5.
const HELLOS: [&[u8]; 4] = [
    &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
    &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
    &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
    &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
];
/// "Hello" again, as a copy from the message before (section 7.2.3.2).
const HELLO_AGAIN: &[u8] = &[0xf2, 0x00, 0x11, 0x00, 0x00];

/// A message's payload, compressed by itself.
fn packed(message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    Deflater::new(6).write_masked(Opcode::Binary, message, [0; 4], &mut frame);
    let header_bytes = match frame[1] & 0x7f {
        126 => 8,
        127 => 14,
        _ => 6,
    };
    frame.split_off(header_bytes)
}

fn binary(inflater: &mut Inflater, payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, FrameError> {
    match inflater.inflate(Opcode::Binary, payload, bytes_max)? {
        Incoming::Binary(message) => Ok(message.to_vec()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_examples_of_rfc_7692_are_hello() {
    let mut inflater = Inflater::new();
    for hello in HELLOS {
        assert_eq!(inflater.inflate(Opcode::Text, hello, 5), Ok(Incoming::Text("Hello")), "{hello:x?}");
        assert_eq!(inflater.inflate(Opcode::Binary, hello, 5), Ok(Incoming::Binary(b"Hello")), "{hello:x?}");
    }
}

#[test]
fn nothing_of_the_message_before_is_left_to_copy() {
    let mut inflater = Inflater::new();
    assert_eq!(binary(&mut inflater, HELLOS[0], 100).unwrap(), b"Hello");
    assert_eq!(binary(&mut inflater, HELLO_AGAIN, 100), Err(FrameError::Corrupt));
}

#[test]
fn the_empty_message_is_one_byte_and_may_be_none() {
    for payload in [&[0][..], &[], &[0x01, 0x00, 0x00, 0xff, 0xff, 0x00], &[0x03, 0x00, 0x00]] {
        assert_eq!(Inflater::new().inflate(Opcode::Text, payload, 0), Ok(Incoming::Text("")), "{payload:x?}");
    }
}

#[test]
fn last_blocks_may_stand_anywhere() {
    let last = &HELLOS[2][..7];
    let mut inflater = Inflater::new();
    assert_eq!(binary(&mut inflater, last, 100).unwrap(), b"Hello", "nothing follows");
    assert_eq!(binary(&mut inflater, &[last, HELLOS[0]].concat(), 100).unwrap(), b"HelloHello");
    assert_eq!(binary(&mut inflater, &[last, last, &[0]].concat(), 100).unwrap(), b"HelloHello");
    assert_eq!(binary(&mut inflater, &[last, last, HELLOS[0]].concat(), 14), Err(FrameError::TooLarge(14)));
}

#[test]
fn a_message_of_nothing_but_last_blocks_is_corrupt() {
    // An empty stored block each: three bits, padding, and a length of 0.
    let last = [1, 0, 0, 0xff, 0xff];
    let few = [last.repeat(STREAMS_MAX - 1).as_slice(), HELLOS[0]].concat();
    assert_eq!(binary(&mut Inflater::new(), &few, 100).unwrap(), b"Hello");
    let many = [last.repeat(STREAMS_MAX).as_slice(), HELLOS[0]].concat();
    assert_eq!(binary(&mut Inflater::new(), &many, 100), Err(FrameError::Corrupt));
}

#[test]
fn the_limit_is_allowed_and_one_byte_more_is_not() {
    let mut inflater = Inflater::new();
    for length in [1, 5, ROOM_BYTES_MIN - 1, ROOM_BYTES_MIN, ROOM_BYTES_MIN + 1, 100_000] {
        let message: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let payload = packed(&message);
        assert_eq!(binary(&mut inflater, &payload, length).as_ref(), Ok(&message));
        assert_eq!(binary(&mut inflater, &payload, length - 1), Err(FrameError::TooLarge(length - 1)));
        assert_eq!(binary(&mut inflater, &payload, usize::MAX).as_ref(), Ok(&message));
    }
}

#[test]
fn a_bomb_is_inflated_one_byte_past_the_limit() {
    let bomb = packed(&vec![0; 10 << 20]);
    assert!(bomb.len() < 11_000, "{} bytes", bomb.len());
    for bytes_max in [0, 1, 1000, 100_000] {
        let mut inflater = Inflater::new();
        assert_eq!(binary(&mut inflater, &bomb, bytes_max), Err(FrameError::TooLarge(bytes_max)));
        assert!(inflater.message.len() <= bytes_max + 1, "{} bytes", inflater.message.len());
        assert!(inflater.stream.total_out() as usize <= bytes_max + 1);
    }
}

#[test]
fn the_buffer_is_used_again() {
    let mut inflater = Inflater::new();
    let message = vec![1; 50_000];
    let (long, short) = (packed(&message), packed(&[2; 10]));
    binary(&mut inflater, &long, 1 << 20).unwrap();
    let buffer = inflater.message.as_ptr_range();
    for _ in 0..3 {
        assert_eq!(binary(&mut inflater, &short, 1 << 20).unwrap(), [2; 10]);
        assert_eq!(binary(&mut inflater, &long, 1 << 20).unwrap(), message);
    }
    assert_eq!(inflater.message.as_ptr_range(), buffer);
}

#[test]
fn a_text_is_utf_8() {
    let mut inflater = Inflater::new();
    let message = "안녕 🙂";
    let mut inflate = |bytes: &[u8]| inflater.inflate(Opcode::Text, &packed(bytes), 100).map(|_| ());
    assert_eq!(inflate(message.as_bytes()), Ok(()));
    assert_eq!(inflate(&message.as_bytes()[..message.len() - 1]), Err(FrameError::NotUtf8));
    assert_eq!(inflate(&[0xc0, 0xaf]), Err(FrameError::NotUtf8));
}

#[test]
fn a_message_cut_short_is_corrupt() {
    let line = "the quick brown fox jumps over the lazy dog, and the quick dog over the brown fox; ";
    let noise: Vec<u8> = (0..40_u32).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    for message in [line.as_bytes(), line.repeat(100).as_bytes(), &noise] {
        let payload = packed(message);
        let mut inflater = Inflater::new();
        // One byte of the noise, which is stored, is the beginning of a block that may end there: the empty message.
        for length in 2..payload.len() {
            let cut = &payload[..length];
            assert_eq!(binary(&mut inflater, cut, 1 << 20), Err(FrameError::Corrupt), "{length} of {payload:x?}");
        }
        assert_eq!(binary(&mut inflater, &payload, 1 << 20).as_deref(), Ok(message));
    }
}

#[test]
fn what_no_deflater_makes_is_corrupt() {
    for (payload, wrong) in [
        (&[0x06][..], "a reserved type of block"),
        (&[0x00, 0x05, 0x00, 0x05, 0x00, 0x48], "a stored length that is not its complement"),
        (&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48], "a stored block with too few bytes"),
        (&[0x63, 0x00, 0x02], "a copy from before the beginning"),
        (&[0xfd, 0xff, 0xff, 0xff], "code lengths past their number"),
        (&[0x00, 0x00, 0x00, 0xff, 0xff], "the flush that is to be cut off"),
    ] {
        assert_eq!(binary(&mut Inflater::new(), payload, 1000), Err(FrameError::Corrupt), "{wrong}");
    }
}

proptest! {
    #[test]
    fn damage_is_never_a_panic_nor_past_the_limit_and_the_next_message_is_whole(
        message in prop_oneof![vec(any::<u8>(), 1..300), vec(0_u8..3, 1..3000)],
        damages in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        bytes_max in 0_usize..3000,
    ) {
        let whole = packed(&message);
        let mut damaged = whole.clone();
        for (at, byte) in damages {
            damaged[at.index(whole.len())] ^= byte;
        }
        damaged.truncate(1 + cut.index(whole.len()));
        let mut inflater = Inflater::new();
        match binary(&mut inflater, &damaged, bytes_max) {
            Ok(message) => prop_assert!(message.len() <= bytes_max),
            Err(error) => prop_assert!(matches!(error, FrameError::Corrupt | FrameError::TooLarge(_)), "{error}"),
        }
        prop_assert_eq!(binary(&mut inflater, &whole, 3000).unwrap(), message);
    }

    #[test]
    fn arbitrary_bytes_are_never_a_panic_nor_past_the_limit(
        payload in vec(any::<u8>(), 0..200),
        bytes_max in 0_usize..500,
        is_text in any::<bool>(),
    ) {
        let opcode = if is_text { Opcode::Text } else { Opcode::Binary };
        match Inflater::new().inflate(opcode, &payload, bytes_max) {
            Ok(Incoming::Text(text)) => prop_assert!(is_text && text.len() <= bytes_max),
            Ok(Incoming::Binary(message)) => prop_assert!(!is_text && message.len() <= bytes_max),
            Ok(other) => prop_assert!(false, "{other:?}"),
            Err(_) => {}
        }
    }
}
