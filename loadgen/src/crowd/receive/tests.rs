use proptest::prelude::*;
use protocol::frame::Deflater;
use protocol::{Dialect, Event};

use super::super::tests::{Line, ack_all, chatting_with, frame_of, world_of};
use super::MOMENT_NS;
use crate::audit::{Messages, audit};
use crate::crowd::Crowd;
use crate::latency::Summary;
use crate::user::Phase;
use crate::verify::Deliveries;
use crate::world::World;

const SECOND: u64 = 1_000_000_000;
const USERS: u32 = 4;
const LINES: usize = 32;
/// All is received from then on, nanoseconds.
const START: u64 = 20 * SECOND;

/// Four users that all agree on compression, 32 messages, traffic from 0 on.
fn chatting(world: &World) -> (Crowd<'_>, Vec<Line>) {
    let (mut crowd, lines) = chatting_with(world, |_| true);
    assert_eq!(lines.len(), LINES);
    ack_all(&mut crowd, &lines);
    world.start_traffic(0);
    (crowd, lines)
}

/// Frames compressed, but for those that compressing does not make smaller.
fn packed(frames: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Deflater::new(6).deflate(frames, 0, &mut out);
    out
}

/// Four compressed frames of eight lines.
fn frames(lines: &[Line]) -> Vec<Vec<u8>> {
    let plain: Vec<_> = (1..).step_by(8).zip(lines.chunks(8)).map(|(first, lines)| frame_of(first, lines)).collect();
    let packed: Vec<_> = plain.iter().map(|frame| packed(frame)).collect();
    assert!(packed.iter().zip(&plain).all(|(packed, plain)| packed.len() < plain.len()), "they are compressed");
    packed
}

fn gap(from: u64, to: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    Dialect::Native.encode(0, &Event::Gap { room: "load-test-0", from, to }, &mut bytes);
    bytes
}

/// The frame with one bit changed in its compressed bytes, so that it still inflates and says something else.
fn altered(frame: &[u8]) -> Vec<u8> {
    let original = &frame[4..];
    let mut inflater = protocol::frame::Inflater::new();
    let mut inflated = |payload: &[u8]| match inflater.inflate(protocol::frame::Opcode::Binary, payload, 1 << 20) {
        Ok(protocol::frame::Incoming::Binary(plain)) => Some(plain.to_vec()),
        _ => None,
    };
    let good = inflated(original).expect("it is compressed");
    let flips = (0..original.len() * 8).rev().map(|bit| {
        let mut payload = original.to_vec();
        payload[bit / 8] ^= 1 << (bit % 8);
        payload
    });
    // A letter that becomes another one leaves everything around it as it was; from the end, so that it is in a body.
    let mut flips = flips.filter(|payload| {
        let Some(plain) = inflated(payload).filter(|plain| plain.len() == good.len()) else { return false };
        let differ: Vec<_> = good.iter().zip(&plain).filter(|(a, b)| a != b).collect();
        matches!(differ[..], [(a, b)] if a.is_ascii_lowercase() && b.is_ascii_alphabetic())
    });
    [&frame[..4], &flips.next().expect("some bit is in a letter")].concat()
}

fn outcome(world: &World, mut crowd: Crowd<'_>) -> (Deliveries, Messages) {
    crowd.record_heard();
    crowd.settle();
    assert_eq!(crowd.faults.by_frequency(), [], "no faults");
    (crowd.ledger.deliveries, audit(world, &[crowd.rooms]).messages)
}

const CLEAN: Messages = Messages {
    sent: LINES as u64,
    acked: LINES as u64,
    refused: 0,
    unacked: 0,
    unacked_slow: 0,
    acked_missing: 0,
    misplaced: 0,
    stored_twice: 0,
    altered: 0,
    unknown: 0,
    disputed: 0,
};

#[test]
fn compressed_frames_are_read_once_and_counted_for_everybody() {
    let world = world_of(USERS, 8);
    let (mut crowd, lines) = chatting(&world);
    let visit = frames(&lines).concat();
    (0..USERS).for_each(|place| crowd.on_received(place, &mut visit.clone(), START));
    assert_eq!((crowd.counts.frames, crowd.counts.deflated), (16, 4));
    let plain = (1..).step_by(8).zip(lines.chunks(8)).map(|(first, lines)| frame_of(first, lines).len() as u64 - 4);
    assert_eq!(crowd.counts.inflated_bytes, 4 * plain.sum::<u64>());
    assert_eq!(crowd.counts.batch_bytes, 4 * (visit.len() as u64 - 4 * 4));
    crowd.record_heard();
    assert_eq!(crowd.times.delivery.count(), 4 * LINES as u64);
    assert_eq!(outcome(&world, crowd), (Deliveries { received: 128, ..Deliveries::default() }, CLEAN));
}

#[test]
fn a_frame_that_one_receiver_does_not_get_is_lost_for_it() {
    for loser in 0..USERS {
        let world = world_of(USERS, 8);
        let (mut crowd, lines) = chatting(&world);
        let all = frames(&lines);
        for place in 0..USERS {
            let visit = if place == loser { [&all[..1], &all[2..]].concat() } else { all.clone() };
            crowd.on_received(place, &mut visit.concat(), START);
        }
        let expected = Deliveries { received: 120, lost: 8, ..Deliveries::default() };
        assert_eq!(outcome(&world, crowd), (expected, CLEAN), "user {loser}");
    }
}

#[test]
fn a_byte_that_is_altered_for_one_receiver_is_found_whoever_is_first() {
    for victim in 0..USERS {
        let world = world_of(USERS, 8);
        let (mut crowd, lines) = chatting(&world);
        let all = frames(&lines);
        for place in 0..USERS {
            let mut visit = all.clone();
            if place == victim {
                visit[2] = altered(&all[2]);
            }
            crowd.on_received(place, &mut visit.concat(), START);
        }
        let (deliveries, messages) = outcome(&world, crowd);
        assert_eq!(deliveries, Deliveries { received: 128, ..Deliveries::default() });
        assert_eq!(messages, Messages { altered: 1, ..CLEAN }, "user {victim}");
    }
}

#[test]
fn a_byte_that_breaks_the_compression_ends_its_receiver_and_nobody_else() {
    let world = world_of(USERS, 8);
    let (mut crowd, lines) = chatting(&world);
    let all = frames(&lines);
    for place in 0..USERS {
        let mut visit = all.clone();
        if place == 1 {
            *visit[2].last_mut().expect("it has bytes") = 0xff;
        }
        crowd.on_received(place, &mut visit.concat(), START);
    }
    assert_eq!(
        crowd.faults.by_frequency(),
        [("the server broke the WebSocket protocol: a compressed message is corrupt", 1)]
    );
    crowd.settle();
    let expected = Deliveries { received: 3 * 32 + 16, lost: 16, ..Deliveries::default() };
    assert_eq!((crowd.ledger.deliveries, crowd.users[1].phase), (expected, Phase::Ended));
}

#[test]
fn a_frame_that_one_receiver_gets_again_is_a_duplicate() {
    for again in 0..3 {
        let world = world_of(USERS, 8);
        let (mut crowd, lines) = chatting(&world);
        let all = frames(&lines);
        for place in 0..USERS {
            let mut visit = all.clone();
            if place == 2 {
                visit.insert(3, all[again].clone());
            }
            crowd.on_received(place, &mut visit.concat(), START);
        }
        let expected = Deliveries { received: 128, duplicated: 8, ..Deliveries::default() };
        assert_eq!(outcome(&world, crowd), (expected, CLEAN), "frame {again}");
    }
}

#[test]
fn an_announced_gap_is_skipped_and_the_frames_after_it_are_taken() {
    let world = world_of(USERS, 8);
    let (mut crowd, lines) = chatting(&world);
    let all = frames(&lines);
    for place in 0..USERS {
        let mut visit = all.clone();
        if place == 3 {
            visit[1] = gap(9, 16);
        }
        crowd.on_received(place, &mut visit.concat(), START);
    }
    let expected = Deliveries { received: 120, skipped: 8, ..Deliveries::default() };
    assert_eq!(outcome(&world, crowd), (expected, CLEAN));
}

#[test]
fn a_visit_in_two_pieces_is_the_same_wherever_it_is_cut() {
    let lines = chatting(&world_of(USERS, 8)).1;
    let visit = frames(&lines).concat();
    for cut in 0..=visit.len() {
        let world = world_of(USERS, 8);
        let (mut crowd, _) = chatting(&world);
        for place in 0..USERS {
            let (mut first, mut second) = (visit[..cut].to_vec(), visit[cut..].to_vec());
            crowd.on_received(place, &mut first, START);
            crowd.on_received(place, &mut second, START);
        }
        assert_eq!(crowd.times.delivery.count(), 0, "nothing had to be read twice, cut at {cut}");
        assert_eq!(outcome(&world, crowd), (Deliveries { received: 128, ..Deliveries::default() }, CLEAN));
    }
}

#[test]
fn a_compressed_frame_is_no_frame_for_a_receiver_that_did_not_agree_on_it() {
    let world = world_of(USERS, 8);
    let (mut crowd, lines) = chatting_with(&world, |place| place != 1);
    let visit = frames(&lines).concat();
    (0..USERS).for_each(|place| crowd.on_received(place, &mut visit.clone(), START));
    assert_eq!((crowd.faults.total(), crowd.users[1].phase), (1, Phase::Ended));
    assert_eq!(crowd.ledger.deliveries.received, 96);
}

#[test]
fn a_known_frame_inside_a_message_that_has_begun_is_no_frame() {
    let world = world_of(USERS, 8);
    let (mut crowd, lines) = chatting(&world);
    let visit = frames(&lines).concat();
    crowd.on_received(0, &mut visit.clone(), START);
    // The first fragment of a binary message.
    crowd.on_received(1, &mut [0x02, 1, b'x'], START);
    crowd.on_received(1, &mut visit.clone(), START);
    assert_eq!((crowd.faults.total(), crowd.users[1].phase), (1, Phase::Ended));
    assert_eq!(crowd.ledger.deliveries.received, 32);
}

#[test]
fn a_frame_that_was_forgotten_is_read_in_full_again() {
    let world = world_of(USERS, 8);
    let (mut crowd, lines) = chatting(&world);
    let visit = frames(&lines).concat();
    for place in 0..USERS {
        crowd.on_received(place, &mut visit.clone(), START + u64::from(place) * 200 * SECOND);
    }
    assert_eq!(outcome(&world, crowd), (Deliveries { received: 128, ..Deliveries::default() }, CLEAN));
}

/// What goes wrong for one member. Frames are numbered modulo their count.
#[derive(Debug, Clone)]
enum Fault {
    Drop(usize),
    Repeat(usize),
    Swap(usize),
    Gap(usize),
    /// A bit of the whole stream, heads of frames included.
    Flip(usize),
}

#[derive(Debug, Clone)]
struct Script {
    /// Two ways to cut the log into frames of so many lines, compressed or not, and which one each member gets.
    cuts: [Vec<(usize, bool)>; 2],
    members: Vec<Member>,
    /// Who receives how many bytes, and how much later than the last one, nanoseconds.
    pieces: Vec<(usize, usize, u64)>,
}

#[derive(Debug, Clone)]
struct Member {
    cut: usize,
    agrees: bool,
    faults: Vec<Fault>,
}

fn scripts() -> impl Strategy<Value = Script> {
    let fault = prop_oneof![
        (0..8_usize).prop_map(Fault::Drop),
        (0..8_usize).prop_map(Fault::Repeat),
        (0..8_usize).prop_map(Fault::Swap),
        (0..8_usize).prop_map(Fault::Gap),
        (0..40_000_usize).prop_map(Fault::Flip),
    ];
    let cut = || prop::collection::vec((1..10_usize, any::<bool>()), LINES);
    let faults = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(fault, 1..3)];
    let member = (prop_oneof![3 => Just(0_usize), 1 => Just(1)], prop::bool::weighted(0.95), faults)
        .prop_map(|(cut, agrees, faults)| Member { cut, agrees, faults });
    let pieces = prop::collection::vec((0..USERS as usize, 1..1_500_usize, 0..700_000_u64), 0..40);
    let members = prop::collection::vec(member, USERS as usize);
    (cut(), cut(), members, pieces).prop_map(|(a, b, members, pieces)| Script { cuts: [a, b], members, pieces })
}

impl Script {
    /// All that a member is sent.
    fn stream(&self, member: &Member, lines: &[Line]) -> Vec<u8> {
        let (mut frames, mut at) = (Vec::new(), 0);
        for &(count, deflated) in &self.cuts[member.cut] {
            let count = count.min(LINES - at);
            if count > 0 {
                let frame = frame_of(at as u64 + 1, &lines[at..at + count]);
                let seqs = (at as u64 + 1, (at + count) as u64);
                frames.push((if deflated { packed(&frame) } else { frame }, seqs));
                at += count;
            }
        }
        for fault in &member.faults {
            let len = frames.len();
            match *fault {
                Fault::Drop(nth) => drop(frames.remove(nth % len)),
                Fault::Repeat(nth) => frames.insert(nth % len, frames[nth % len].clone()),
                Fault::Swap(nth) => frames.swap(nth % len, (nth + 1) % len),
                Fault::Gap(nth) => frames[nth % len].0 = gap(frames[nth % len].1.0, frames[nth % len].1.1),
                Fault::Flip(_) => {}
            }
            if frames.is_empty() {
                break;
            }
        }
        let mut stream: Vec<u8> = frames.into_iter().flat_map(|(frame, _)| frame).collect();
        for fault in &member.faults {
            if let Fault::Flip(bit) = *fault
                && !stream.is_empty()
            {
                let bit = bit % (stream.len() * 8);
                stream[bit / 8] ^= 1 << (bit % 8);
            }
        }
        stream
    }

    /// Lets a crowd receive it. With `forgets` nothing is known from one receive to the next, so that every frame is
    /// read in full, and every time of receipt is recorded by itself.
    fn run(&self, forgets: bool) -> Found {
        let world = world_of(USERS, 8);
        let (mut crowd, lines) = chatting_with(&world, |place| self.members[place as usize].agrees);
        ack_all(&mut crowd, &lines);
        world.start_traffic(0);
        let mut streams: Vec<Vec<u8>> = self.members.iter().map(|member| self.stream(member, &lines)).collect();
        let rest = (0..USERS as usize).map(|place| (place, usize::MAX, 0));
        let mut now_ns = START;
        for (place, most, later_ns) in self.pieces.iter().copied().chain(rest) {
            now_ns += later_ns;
            let size = most.min(streams[place].len());
            let mut piece: Vec<u8> = streams[place].drain(..size).collect();
            crowd.on_received(place as u32, &mut piece, now_ns);
            if forgets {
                crowd.record_heard();
                crowd.frames.drain_heard(u64::MAX, |_, _| {});
            }
        }
        crowd.record_heard();
        crowd.settle();
        Found {
            deliveries: crowd.ledger.deliveries,
            faults: faults(&crowd),
            counts: [crowd.counts.frames, crowd.counts.batch_bytes, crowd.counts.inflated_bytes, crowd.counts.bytes],
            timed: crowd.times.delivery.count(),
            times: crowd.times.delivery.summary(),
            messages: audit(&world, &[crowd.rooms]).messages,
        }
    }
}

/// Kinds and counts, without the addresses that some kinds name.
fn faults(crowd: &Crowd<'_>) -> Vec<(String, u64)> {
    let kinds = crowd.faults.by_frequency().into_iter();
    kinds.map(|(kind, n)| (kind.split(" ptr ").next().unwrap_or_default().to_owned(), n)).collect()
}

struct Found {
    deliveries: Deliveries,
    messages: Messages,
    faults: Vec<(String, u64)>,
    counts: [u64; 4],
    timed: u64,
    times: Option<Summary>,
}

proptest! {
    #[test]
    fn knowing_frames_finds_what_reading_every_copy_in_full_finds(script in scripts()) {
        let (fast, full) = (script.run(false), script.run(true));
        prop_assert_eq!(fast.deliveries, full.deliveries);
        prop_assert_eq!(fast.messages, full.messages);
        prop_assert_eq!(fast.faults, full.faults);
        prop_assert_eq!((fast.counts, fast.timed), (full.counts, full.timed));
        if let (Some(fast), Some(full)) = (fast.times, full.times) {
            let pairs = [(fast.p50_ns, full.p50_ns), (fast.p99_ns, full.p99_ns), (fast.max_ns, full.max_ns)];
            for (fast, full) in pairs {
                // No earlier than received and less than a moment later, as far as the histogram can tell.
                let blur = full / 500;
                prop_assert!(fast + blur >= full && fast <= full + MOMENT_NS + blur, "{fast} {full}");
            }
        }
    }
}
