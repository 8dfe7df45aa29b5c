use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::super::{Deflater, Inflater};
use super::*;

fn control() -> impl Strategy<Value = Owned> {
    let payload = || vec(any::<u8>(), 0..=125);
    prop_oneof![payload().prop_map(Owned::Ping), payload().prop_map(Owned::Pong)]
}

fn data() -> impl Strategy<Value = Owned> {
    prop_oneof![
        8 => "[a한🙂é\\PC]{0,200}".prop_map(Owned::Text),
        8 => vec(any::<u8>(), 0..300).prop_map(Owned::Binary),
        1 => vec(any::<u8>(), 65_530..65_545).prop_map(Owned::Binary),
    ]
}

/// A message, whether it is compressed, where it is cut into fragments, and what stands between them.
type Sent = (Owned, bool, Vec<(Index, Option<Owned>)>);

fn stream() -> impl Strategy<Value = Vec<Sent>> {
    let fragmented = (data(), any::<bool>(), vec((any::<Index>(), prop::option::of(control())), 0..4));
    vec(prop_oneof![3 => fragmented, 1 => control().prop_map(|control| (control, false, Vec::new()))], 1..8)
}

fn put_control(role: Role, control: &Owned, bytes: &mut Vec<u8>) {
    let (first, payload) = match control {
        Owned::Ping(payload) => (0x89, payload),
        Owned::Pong(payload) => (0x8a, payload),
        other => unreachable!("{other:?} is not a control frame"),
    };
    bytes.extend(frame(role, first, payload));
}

/// The stream's bytes, and what a decoder has to find in them.
fn encode(role: Role, stream: &[Sent]) -> (Vec<u8>, Vec<Owned>) {
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    let mut deflater = Deflater::new(1);
    for (message, is_deflated, cuts) in stream {
        let (mut opcode, mut payload) = match message {
            Owned::Text(text) => (1, text.clone().into_bytes()),
            Owned::Binary(payload) => (2, payload.clone()),
            control => {
                put_control(role, control, &mut bytes);
                expected.push(control.clone());
                continue;
            }
        };
        if *is_deflated {
            payload = packed(&mut deflater, &payload);
            opcode |= 0x40;
        }
        let mut at: Vec<usize> = cuts.iter().map(|(cut, _)| cut.index(payload.len() + 1)).collect();
        at.sort_unstable();
        let mut start = 0;
        for (cut, (_, between)) in at.into_iter().zip(cuts) {
            bytes.extend(frame(role, opcode, &payload[start..cut]));
            (opcode, start) = (0, cut);
            if let Some(control) = between {
                put_control(role, control, &mut bytes);
                expected.push(control.clone());
            }
        }
        bytes.extend(frame(role, 0x80 | opcode, &payload[start..]));
        expected.push(message.clone());
    }
    (bytes, expected)
}

/// The compressed payload of a message.
fn packed(deflater: &mut Deflater, message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    deflater.write_masked(Opcode::Binary, message, [0; 4], &mut frame);
    let found = feed(&mut Decoder::new(Role::Server, 100_000).with_deflate(), &frame).unwrap();
    let [Owned::Deflated(Opcode::Binary, payload)] = &found[..] else { panic!("{found:?}") };
    payload.clone()
}

fn inflated(found: Vec<Owned>) -> Vec<Owned> {
    let mut inflater = Inflater::new();
    let inflate = |incoming| match incoming {
        Owned::Deflated(opcode, payload) => inflater.inflate(opcode, &payload, 70_000).unwrap().into(),
        other => other,
    };
    found.into_iter().map(inflate).collect()
}

proptest! {
    #[test]
    fn a_stream_divided_anywhere_gives_the_same_messages(
        role in prop_oneof![Just(Role::Server), Just(Role::Client)],
        stream in stream(),
        read_bytes in prop_oneof![vec(1_usize..12, 1..20), vec(1_usize..2000, 1..20)],
    ) {
        let (bytes, expected) = encode(role, &stream);
        let mut undivided = Decoder::new(role, 70_000).with_deflate();
        prop_assert_eq!(&inflated(feed(&mut undivided, &bytes).unwrap()), &expected);
        prop_assert!(undivided.is_idle());

        let mut decoder = Decoder::new(role, 70_000).with_deflate();
        let mut found = Vec::new();
        let mut rest = &*bytes;
        for size in read_bytes.iter().cycle() {
            let (read, after) = rest.split_at(rest.len().min(*size));
            found.extend(feed(&mut decoder, read).unwrap());
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(&inflated(found), &expected);
        prop_assert!(decoder.is_idle());
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_allocate_past_the_limit_or_twice_what_came(
        role in prop_oneof![Just(Role::Server), Just(Role::Client)],
        message_bytes_max in 0_usize..2000,
        deflate in any::<bool>(),
        // Mostly plausible headers, so that the bytes get past the first two.
        reads in vec(
            prop_oneof![
                vec(any::<u8>(), 0..300),
                (
                    prop::sample::select(&[0x00, 0x01, 0x02, 0x41, 0x42, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8a, 0xc1, 0xc2][..]),
                    any::<u8>(),
                    vec(any::<u8>(), 0..40),
                )
                    .prop_map(|(first, second, rest)| [&[first, second], &*rest].concat()),
                (prop::sample::select(&[0x02, 0x41, 0x80, 0x00, 0x82, 0x89, 0xc1][..]), vec(any::<u8>(), 0..125), 0_usize..9)
                    .prop_map(|(first, payload, cut)| {
                        let mut bytes = frame(Role::Server, first, &payload);
                        bytes.truncate(bytes.len().saturating_sub(cut));
                        bytes
                    }),
            ],
            0..30,
        ),
    ) {
        let mut decoder = Decoder::new(role, message_bytes_max);
        if deflate {
            decoder = decoder.with_deflate();
        }
        let mut received = 0;
        for read in reads {
            received += read.len();
            let result = feed(&mut decoder, &read);
            let held = decoder.buffer_bytes();
            prop_assert!(held <= message_bytes_max + 125 + 28, "{held} bytes held, limit {message_bytes_max}");
            prop_assert!(held <= 2 * received + 8, "{held} bytes held after {received}");
            if result.is_err() {
                break;
            }
        }
    }
}
