use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{Decoder, Incoming, Inflater, write, write_close};
use super::*;

/// Bytes that cannot be compressed.
fn noise(length: usize) -> Vec<u8> {
    let mut random = xorshift(length as u64);
    (0..length).map(|_| random()).collect()
}

/// xorshift64*, for noise that is the same in every run.
fn xorshift(seed: u64) -> impl FnMut() -> u8 {
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
    }
}

fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write(opcode, payload, &mut out);
    out
}

fn deflated(deflater: &mut Deflater, frames: &[u8], bytes_min: usize) -> Vec<u8> {
    let mut out = b"before".to_vec();
    deflater.deflate(frames, bytes_min, &mut out);
    out.split_off(6)
}

/// What a client makes of `bytes`: opcode, payload, and whether it was compressed.
fn received(role: Role, mut bytes: Vec<u8>) -> Vec<(Opcode, Vec<u8>, bool)> {
    let (mut decoder, mut inflater) = (Decoder::new(role, 1 << 24).with_deflate(), Inflater::new());
    let (mut messages, mut at) = (Vec::new(), 0);
    while let (used, Some(mut incoming)) = decoder.next(&mut bytes[at..]).unwrap() {
        at += used;
        let is_deflated = matches!(incoming, Incoming::Deflated { .. });
        if let Incoming::Deflated { opcode, payload } = incoming {
            incoming = inflater.inflate(opcode, payload, 1 << 24).unwrap();
        }
        messages.push(match incoming {
            Incoming::Text(text) => (Opcode::Text, text.as_bytes().to_vec(), is_deflated),
            Incoming::Binary(payload) => (Opcode::Binary, payload.to_vec(), is_deflated),
            Incoming::Ping(payload) => (Opcode::Ping, payload.to_vec(), is_deflated),
            Incoming::Pong(payload) => (Opcode::Pong, payload.to_vec(), is_deflated),
            other => panic!("{other:?}"),
        });
    }
    messages
}

#[test]
fn hello_is_written_as_in_rfc_7692_section_7_2_3_1() {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut out = b"before".to_vec();
    Deflater::new(6).write_masked(Opcode::Text, b"Hello", mask, &mut out);
    let payload: Vec<u8> =
        [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00].iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b).collect();
    assert_eq!(out, [b"before", &[0xc1, 0x87][..], &mask, &payload].concat());
}

#[test]
fn the_empty_message_is_one_byte_as_in_section_7_2_3_6() {
    let mut out = Vec::new();
    Deflater::new(1).write_masked(Opcode::Binary, b"", [0; 4], &mut out);
    assert_eq!(out, [0xc2, 0x81, 0, 0, 0, 0, 0]);
}

#[test]
fn only_data_frames_that_become_smaller_are_compressed() {
    let long = "nice one! ".repeat(50);
    let frames = [
        frame(Opcode::Text, long.as_bytes()),
        frame(Opcode::Ping, &[7; 125]),
        frame(Opcode::Binary, &[7; 99]),
        frame(Opcode::Binary, &[7; 100]),
        frame(Opcode::Binary, &noise(1000)),
        frame(Opcode::Pong, b""),
        frame(Opcode::Text, b""),
    ];
    let out = deflated(&mut Deflater::new(6), &frames.concat(), 100);
    let is_deflated: Vec<bool> = received(Role::Client, out).into_iter().map(|(_, _, is)| is).collect();
    assert_eq!(is_deflated, [true, false, false, true, false, false, false]);
}

#[test]
fn frames_that_are_not_compressed_are_copied() {
    let mut frames = [frame(Opcode::Ping, &[7; 125]), frame(Opcode::Binary, &noise(70_000))].concat();
    frames.extend(frame(Opcode::Binary, b""));
    write_close(1001, &"bye ".repeat(30), &mut frames);
    assert_eq!(deflated(&mut Deflater::new(9), &frames, 0), frames);
    assert_eq!(deflated(&mut Deflater::new(9), b"", 0), b"");
}

#[test]
fn every_length_of_header_is_written_and_read() {
    for length in [130, 300, 65_600, 70_000, 300_000] {
        let payload = [noise(length / 2), vec![0; length]].concat();
        let plain = frame(Opcode::Binary, &payload);
        for level in 1..=9 {
            let out = deflated(&mut Deflater::new(level), &plain, 0);
            assert!(out.len() < plain.len());
            assert_eq!(received(Role::Client, out), [(Opcode::Binary, payload.clone(), true)], "level {level}");
        }
    }
}

#[test]
fn no_message_of_a_client_is_too_much_for_its_buffer() {
    for length in [0, 1, 2, 10, 1000, 100_000] {
        for level in 1..=9 {
            let (mut out, payload) = (Vec::new(), noise(length));
            Deflater::new(level).write_masked(Opcode::Binary, &payload, [1, 2, 3, 4], &mut out);
            assert_eq!(received(Role::Server, out), [(Opcode::Binary, payload, true)], "level {level}");
        }
    }
}

#[test]
#[should_panic(expected = "whole, unmasked, final frames")]
fn half_a_frame_is_a_programmer_error() {
    let frames = frame(Opcode::Text, b"Hello");
    deflated(&mut Deflater::new(6), &frames[..4], 0);
}

#[test]
#[should_panic(expected = "whole, unmasked, final frames")]
fn a_compressed_frame_is_not_compressed_again() {
    let frames = deflated(&mut Deflater::new(6), &frame(Opcode::Text, &[b'a'; 500]), 0);
    deflated(&mut Deflater::new(6), &frames, 0);
}

fn frames() -> impl Strategy<Value = Vec<(Opcode, Vec<u8>)>> {
    let data = prop_oneof![
        4 => "([a-c]{3} |안녕){0,100}".prop_map(|text| (Opcode::Text, text.into_bytes())),
        4 => vec(0_u8..4, 0..3000).prop_map(|payload| (Opcode::Binary, payload)),
        2 => vec(any::<u8>(), 0..300).prop_map(|payload| (Opcode::Binary, payload)),
        1 => (0_usize..80_000, 0_usize..80_000)
            .prop_map(|(random, zeros)| (Opcode::Binary, [noise(random), vec![0; zeros]].concat())),
        1 => vec(any::<u8>(), 0..=125).prop_map(|payload| (Opcode::Ping, payload)),
    ];
    vec(data, 0..8)
}

proptest! {
    #[test]
    fn any_frames_arrive_whole_no_larger_and_each_by_itself(
        frames in frames(),
        level in 1_u32..=9,
        bytes_min in prop_oneof![Just(0), 0_usize..1000],
    ) {
        let each: Vec<Vec<u8>> = frames.iter().map(|(opcode, payload)| frame(*opcode, payload)).collect();
        let mut deflater = Deflater::new(level);
        let out = deflated(&mut deflater, &each.concat(), bytes_min);
        prop_assert!(out.len() <= each.concat().len());
        prop_assert_eq!(&deflated(&mut deflater, &each.concat(), bytes_min), &out, "the same again");

        let alone: Vec<Vec<u8>> =
            each.iter().map(|frame| deflated(&mut Deflater::new(level), frame, bytes_min)).collect();
        prop_assert_eq!(alone.concat(), &*out, "nothing is carried from frame to frame");

        let found = received(Role::Client, out);
        prop_assert_eq!(found.len(), frames.len());
        for ((opcode, payload, is_deflated), sent) in found.into_iter().zip(frames) {
            prop_assert!(!is_deflated || payload.len() >= bytes_min && !opcode.is_control());
            prop_assert_eq!((opcode, payload), sent);
        }
    }
}
