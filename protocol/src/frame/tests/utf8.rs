use proptest::prelude::*;

use super::*;

/// How many bytes it takes until no further byte can make `bytes` UTF-8, as the standard library sees it.
fn fails_after(bytes: &[u8]) -> Option<usize> {
    (1..=bytes.len()).find(|&length| str::from_utf8(&bytes[..length]).is_err_and(|error| error.error_len().is_some()))
}

/// Feeds `reads` and checks that a refusal comes with the read numbered `fails_at` and not before; without one, that
/// the text is found, or refused at its end when that is inside a code point.
#[track_caller]
fn check(reads: &[Vec<u8>], text: &[u8], fails_at: Option<usize>) {
    let mut decoder = Decoder::new(Role::Server, 10_000);
    let (last, before) = reads.split_last().expect("at least a header");
    for (at, read) in before.iter().enumerate() {
        let result = feed(&mut decoder, read);
        if fails_at == Some(at) {
            assert_eq!(result, Err(FrameError::NotUtf8), "read {at} for {text:x?}");
            return;
        }
        assert_eq!(result, Ok(vec![]), "read {at} for {text:x?}");
    }
    let expected = String::from_utf8(text.to_vec()).map(|text| vec![Owned::Text(text)]);
    assert_eq!(feed(&mut decoder, last), expected.map_err(|_| FrameError::NotUtf8), "the end of {text:x?}");
}

/// One frame, one byte a read: six bytes of header, then the text.
fn check_inside_a_frame(text: &[u8]) {
    assert!(text.len() < 126);
    let reads: Vec<Vec<u8>> = frame(Role::Server, 0x81, text).iter().map(|byte| vec![*byte]).collect();
    check(&reads, text, fails_after(text).map(|length| 6 + length - 1));
}

/// One byte a fragment, one fragment a read, then an empty final one.
fn check_over_fragments(text: &[u8]) {
    let mut fragments: Vec<Vec<u8>> = text.chunks(1).map(|byte| frame(Role::Server, 0x00, byte)).collect();
    fragments.push(frame(Role::Server, 0x80, b""));
    fragments[0][0] |= 1;
    check(&fragments, text, fails_after(text).map(|length| length - 1));
}

#[test]
fn the_first_impossible_byte_is_refused() {
    let texts: [&[u8]; 26] = [
        "κόσμε, 한국어 채팅, 🙂, \u{10ffff}, \u{0}, \u{7ff}, \u{800}, \u{ffff}, \u{10000}".as_bytes(),
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        b"\x80",
        b"a\xbf",
        b"\xc0\x80",
        b"\xc1\xbf",
        b"\xc2",
        b"\xc2a",
        b"\xdf\xc0",
        b"\xe0\x80\x80",
        b"\xe0\x9f\xbf",
        b"\xe0\xa0",
        b"\xe0\xa0a",
        b"\xed\x9f\xbf",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xef\xbf",
        b"\xf0\x80\x80\x80",
        b"\xf0\x8f\xbf\xbf",
        b"\xf0\x90\x80",
        b"\xf0\x90\x80a",
        b"\xf4\x8f\xbf\xbf",
        b"\xf4\x90",
        b"\xf5",
        b"\xff",
    ];
    for text in texts {
        check_inside_a_frame(text);
        check_over_fragments(text);
    }
}

#[test]
fn a_text_whole_in_one_read_is_refused_too() {
    for length in [1, 7, 64, 1000] {
        let mut text = "한글🙂x".repeat(length).into_bytes();
        let last = text.len() - 2;
        text[last] = 0xff;
        let whole = frame(Role::Server, 0x81, &text);
        assert_eq!(feed(&mut Decoder::new(Role::Server, 100_000), &whole), Err(FrameError::NotUtf8), "{length}");
    }
}

#[test]
fn binary_messages_and_pings_may_hold_any_bytes() {
    let mut decoder = Decoder::new(Role::Server, 100);
    for byte in [frame(Role::Server, 0x82, b"\xff\x80"), frame(Role::Server, 0x89, b"\xff\x80")].concat() {
        feed(&mut decoder, &[byte]).unwrap();
    }
    assert!(decoder.is_idle() || decoder.buffer_bytes() == 0);
}

proptest! {
    #[test]
    fn bytes_are_refused_exactly_where_the_standard_library_gives_up(
        text in prop::collection::vec(
            prop::sample::select(&[
                b'a', 0x00, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef,
                0xf0, 0xf1, 0xf4, 0xf5, 0xff,
            ][..]),
            1..12,
        ),
        before in "[한🙂éa]{0,20}",
    ) {
        let text = [before.as_bytes(), &text].concat();
        check_inside_a_frame(&text);
        check_over_fragments(&text);
    }
}
