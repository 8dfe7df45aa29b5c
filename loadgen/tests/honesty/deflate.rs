//! Servers that compress, and misbehave.

use protocol::frame::{Incoming, Inflater, Opcode};
use protocol::native::{Received, decode_event};

use crate::fake::{FakeRelay, Fault};
use crate::load::{Load, Result};

/// A user that the fault hits.
const VICTIM: u32 = 17;

fn run(fault: Fault) -> (FakeRelay, Result) {
    let server = FakeRelay::start_deflating(fault);
    let result = Load::start(&server).finish();
    assert_eq!(result.json["deflate"]["agreed"], 30, "{}", result.text);
    (server, result)
}

#[test]
fn a_faultless_server_that_compresses_passes_and_the_result_says_how_much() {
    let (_server, result) = run(Fault::None);
    result.assert_clean();
    let sent = result.count("messages", "sent");
    assert_eq!(result.count("deliveries", "received"), sent * 30);
    assert_eq!(result.count("counts", "frames"), sent * 30);
    assert!(result.count("counts", "inflated_bytes") > result.count("counts", "batch_bytes"), "{}", result.text);
    assert!(result.json["throughput"]["compression_ratio"].as_f64().expect("a ratio") > 1.0, "{}", result.text);
    assert!(result.text.contains("deflate  agreed on 30 of 30 connections"), "{}", result.text);
}

#[test]
fn a_server_is_not_asked_to_compress_when_that_is_switched_off() {
    let server = FakeRelay::start_deflating(Fault::None);
    let result = Load::start_with(&server, &["--no-deflate"]).finish();
    result.assert_clean();
    assert_eq!((result.count("deflate", "agreed"), result.count("deflate", "connections")), (0, 30));
    assert_eq!(result.count("counts", "inflated_bytes"), result.count("counts", "batch_bytes"));
    assert!(result.text.contains("deflate  not offered"), "{}", result.text);
}

#[test]
fn a_compressed_frame_that_one_member_does_not_get_is_lost() {
    let (server, result) = run(Fault::SkipFor(300, VICTIM));
    assert_eq!(server.injected(), 1, "{}", result.text);
    result.assert_caught(&[("lost", 1)], &[]);
    let example = format!("user test-{VICTIM} never received ");
    assert!(result.text.contains(&example), "{}", result.text);
}

#[test]
fn a_compressed_frame_that_one_member_gets_twice_is_caught() {
    let (server, result) = run(Fault::DuplicateDelivery(300));
    assert_eq!(server.injected(), 1, "{}", result.text);
    result.assert_caught(&[("duplicated", 1)], &[]);
}

#[test]
fn a_byte_of_a_compressed_frame_that_is_altered_for_one_member_is_caught() {
    let (server, result) = run(Fault::AlterByte(300, VICTIM));
    assert_eq!(server.injected(), 1, "{}", result.text);
    result.assert_caught(&[], &[("altered", 1)]);
}

#[test]
fn a_byte_that_breaks_a_compressed_frame_ends_its_receiver_which_lacks_all_that_follows() {
    let (server, result) = run(Fault::CorruptByte(300, VICTIM));
    assert_eq!(server.injected(), 1, "{}", result.text);
    let why = "the server broke the WebSocket protocol: a compressed message is corrupt";
    assert_eq!(result.json["faults"][why]["users"], 1, "{}", result.text);
    let sent = result.count("messages", "sent");
    assert_eq!(result.found("deliveries"), [("lost", sent - 299)], "{}", result.text);
    assert_eq!(result.count("deliveries", "received"), sent * 29 + 299, "{}", result.text);
    assert_eq!(result.code, 1);
}

#[test]
fn an_announced_gap_among_compressed_frames_is_counted_and_fetched_from_the_history() {
    let (server, result) = run(Fault::GapFor(300, VICTIM));
    assert_eq!(server.injected(), 5, "{}", result.text);
    result.assert_caught(&[("skipped", 5)], &[]);
    assert_eq!((result.count("gaps", "messages"), result.count("gaps", "missing")), (5, 0));
    assert_eq!(result.failed(), ["loss"]);
}

/// A compressed frame with one bit changed so that it still inflates, and one letter of one message's body is another
/// one. None where there is no such bit.
pub fn alter(frame: &[u8]) -> Option<Vec<u8>> {
    let mut inflater = Inflater::new();
    let mut body = |frame: &[u8]| {
        let Ok(Incoming::Binary(plain)) = inflater.inflate(Opcode::Binary, &frame[2..], 1 << 20) else { return None };
        let Ok((_, Some(Received::Batch { messages, .. }))) = decode_event(plain) else { return None };
        let mut all = messages.iter().map(std::result::Result::ok);
        let message = all.next()??;
        Some((messages.first_seq, message.user.to_owned(), message.body.to_vec()))
    };
    let (seq, user, good) = body(frame)?;
    let flips = (16..frame.len() * 8).map(|bit| {
        let mut frame = frame.to_vec();
        frame[bit / 8] ^= 1 << (bit % 8);
        frame
    });
    flips.into_iter().find(|frame| {
        body(frame).is_some_and(|(other_seq, other_user, bad)| {
            let differ: Vec<_> = good.iter().zip(&bad).filter(|(good, bad)| good != bad).collect();
            let is_letter =
                matches!(differ[..], [(good, bad)] if good.is_ascii_alphabetic() && bad.is_ascii_alphabetic());
            (other_seq, &other_user, bad.len()) == (seq, &user, good.len()) && is_letter
        })
    })
}
