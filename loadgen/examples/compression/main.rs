//! What compressing the frames of a giant room costs and saves: sizes, CPU and the number of receivers where it pays.
//!
//! `cargo run --release -p loadgen --example compression`: one second of chat of a room of 70,000, in 1 to 32 frames,
//! by every compressor at hand. Bodies are loadgen's, made from phrases: real chat repeats itself less.

mod chat;
mod clock;
mod codec;
mod layout;
mod shared;

use flate2::Decompress;
use loadgen::machine::Machine;
use protocol::Dialect;

use chat::{Second, framed, split};
use codec::{Codec, Kind};
use layout::Layout;

const SEED: u64 = 1;
/// Dictionaries come from the seconds of another seed, this many of them, in frames of a sixteenth of a second.
const TRAINING: (u64, u64, usize) = (2, 60, 16);
const FRAMES: [usize; 5] = [1, 4, 8, 16, 32];
/// What a byte not sent saves, CPU at both ends, a receiver.
const SAVED_NS_PER_BYTE: f64 = 0.5;
/// Members of the room on one of two cores.
const RECEIVERS: f64 = 35_000.0;
/// More than the caches of a core, to measure with cold ones.
const COLD_BYTES: usize = 64 << 20;

fn main() {
    println!("machine  {}", Machine::read());
    println!("chat     {} messages, seed {SEED}; CPU of the thread, best of several passes\n", chat::MESSAGES);
    let second = Second::new(SEED, 0, true);
    for (dialect, name) in [(Dialect::Native, "native"), (Dialect::Centrifuge, "Centrifuge JSON")] {
        let dictionaries = Dictionaries::train(dialect);
        sizes(&second, dialect, name, &dictionaries);
    }
    shared::table(SEED, Dialect::Native, "native");
    shared::table(SEED, Dialect::Centrifuge, "Centrifuge JSON");
    layouts(&second, "with loadgen's tag at the end of each body");
    layouts(&Second::new(SEED, 0, false), "without it, as people write");
    small_frames();
    cold(&second);
}

/// Dictionaries of one dialect, by KiB.
struct Dictionaries([(usize, Vec<u8>); 5]);

impl Dictionaries {
    fn train(dialect: Dialect) -> Self {
        let (seed, seconds, frames) = TRAINING;
        let samples: Vec<_> =
            (0..seconds).flat_map(|nth| Second::new(seed, nth, true).payloads(dialect, frames)).collect();
        let of = |kib: usize| zstd::dict::from_samples(&samples, kib << 10).expect("there are samples enough");
        Self([0, 4, 16, 32, 64].map(|kib| (kib, if kib == 0 { Vec::new() } else { of(kib) })))
    }

    fn codec(&self, kind: Kind) -> Codec {
        Codec::new(kind, &self.0.iter().find(|(kib, _)| *kib == kind.dictionary_kib()).expect("it was trained").1)
    }
}

/// All kinds under test.
fn kinds() -> Vec<Kind> {
    let zlib = [1, 4, 6, 9].map(|level| Kind::Zlib(level, 0));
    let zlib_with = [4, 16, 32].into_iter().flat_map(|kib| [1, 6].map(|level| Kind::Zlib(level, kib)));
    let libdeflate = [1, 6, 9, 12].map(Kind::Libdeflate);
    let zstd = [0, 4, 16, 64].into_iter().flat_map(|kib| [1, 3, 9, 19].map(|level| Kind::Zstd(level, kib)));
    zlib.into_iter().chain(libdeflate).chain(zlib_with).chain(zstd).collect()
}

/// One kind on the frames of one second.
struct Measured {
    /// Frames with their headers.
    bytes: usize,
    pack_us: f64,
    unpack_us: f64,
}

fn measure(kind: Kind, codec: &mut Codec, payloads: &[Vec<u8>]) -> Measured {
    let (mut packed, mut out) = (vec![Vec::new(); payloads.len()], Vec::new());
    let pack_us = clock::best_us(|| {
        for (payload, packed) in payloads.iter().zip(&mut packed) {
            codec.pack(payload, packed);
        }
    });
    let unpack_us = clock::best_us(|| {
        for (payload, packed) in payloads.iter().zip(&packed) {
            codec.unpack(packed, payload.len(), &mut out);
        }
    });
    check(kind, codec, payloads, &packed);
    Measured { bytes: packed.iter().map(|packed| framed(packed.len())).sum(), pack_us, unpack_us }
}

/// What was packed comes back; what claims to be permessage-deflate, from zlib too.
fn check(kind: Kind, codec: &mut Codec, payloads: &[Vec<u8>], packed: &[Vec<u8>]) {
    let mut out = Vec::new();
    for (payload, packed) in payloads.iter().zip(packed) {
        codec.unpack(packed, payload.len(), &mut out);
        assert!(out == *payload, "it came back as it was");
        if matches!(kind, Kind::Zlib(_, 0) | Kind::Libdeflate(_)) {
            out.clear();
            codec::inflate(&mut Decompress::new(false), &[], packed, payload.len(), &mut out);
            assert!(out == *payload, "zlib reads it");
        }
    }
}

/// Bytes and CPU of all kinds, and what each is worth to the members on one core.
fn sizes(second: &Second, dialect: Dialect, name: &str, dictionaries: &Dictionaries) {
    println!("{name}: bytes of all frames (headers too) | pack us a frame | unpack us a frame");
    let heads = FRAMES.map(|count| format!("{:>24}", format!("{count} frame{}", if count == 1 { "" } else { "s" })));
    println!("{:<18}{}", "", heads.concat());
    let frames = FRAMES.map(|count| second.payloads(dialect, count));
    let plain = frames.each_ref().map(|payloads| payloads.iter().map(|payload| framed(payload.len())).sum::<usize>());
    println!("{:<18}{}", "plain", plain.map(|bytes| format!("{bytes:>10}{:>14}", "")).concat());
    let mut worth = Vec::new();
    for kind in kinds() {
        let mut codec = dictionaries.codec(kind);
        let all = frames.each_ref().map(|payloads| measure(kind, &mut codec, payloads));
        let each = all.iter().zip(FRAMES).map(|(all, count)| {
            let frame = |us: f64| us / count as f64;
            format!("{:>10}{:>8.0}{:>6.0}", all.bytes, frame(all.pack_us), frame(all.unpack_us))
        });
        println!("{kind:<18}{}", each.collect::<String>());
        worth.push((kind, all));
    }
    println!(
        "\n{name}: ms of a core that one second costs {RECEIVERS} receivers: bytes at {SAVED_NS_PER_BYTE} ns each + packing"
    );
    println!("{:<18}{}", "", FRAMES.map(|count| format!("{count:>9}")).concat());
    let ms = |bytes: usize, pack_us: f64| bytes as f64 * RECEIVERS * SAVED_NS_PER_BYTE / 1e6 + pack_us / 1e3;
    println!("{:<18}{}", "plain", plain.map(|bytes| format!("{:>9.1}", ms(bytes, 0.0))).concat());
    for (kind, all) in worth {
        println!("{kind:<18}{}", all.map(|all| format!("{:>9.1}", ms(all.bytes, all.pack_us))).concat());
    }
    println!();
}

/// The native batch laid out in other ways.
fn layouts(second: &Second, which: &str) {
    let kinds = [Kind::Zlib(6, 0), Kind::Libdeflate(9), Kind::Libdeflate(12), Kind::Zstd(19, 0)];
    println!("layouts, {which}: bytes of all frames");
    for count in [1, 16] {
        let heads = kinds.map(|kind| format!("{kind:>14}")).concat();
        println!("{:<28}{:>9}{heads}", format!("{count} frame{}", if count == 1 { "" } else { "s" }), "plain");
        let messages = second.messages();
        for (layout, name) in Layout::ALL {
            let payloads: Vec<_> = split(messages.len(), count).map(|range| layout.payload(&messages[range])).collect();
            let plain: usize = payloads.iter().map(|payload| framed(payload.len())).sum();
            let packed = kinds.map(|kind| {
                let (mut codec, mut out) = (Codec::new(kind, &[]), Vec::new());
                let bytes = payloads.iter().map(|payload| {
                    codec.pack(payload, &mut out);
                    framed(out.len())
                });
                format!("{:>14}", bytes.sum::<usize>())
            });
            println!("{name:<28}{plain:>9}{}", packed.concat());
        }
    }
    println!();
}

/// From how many receivers on a core a small frame is worth deflating.
fn small_frames() {
    println!("small native frames: mean bytes plain -> packed, pack us, receivers on a core from which packing pays");
    let kinds = [Kind::Zlib(1, 0), Kind::Zlib(6, 0), Kind::Libdeflate(1), Kind::Libdeflate(6), Kind::Libdeflate(12)];
    println!("{:<26}{}", "", kinds.map(|kind| format!("{kind:>32}")).concat());
    let messages: Vec<_> = (0..8).map(|nth| Second::new(SEED, nth, true)).collect();
    for lines in [1, 2, 6, 16, 64] {
        let payloads: Vec<_> = messages
            .iter()
            .flat_map(|second| {
                let messages = second.messages();
                messages
                    .chunks_exact(lines)
                    .take(64)
                    .map(|some| chat::payload(Dialect::Native, some))
                    .collect::<Vec<_>>()
            })
            .collect();
        let mean = |total: usize| total as f64 / payloads.len() as f64;
        let plain = mean(payloads.iter().map(|payload| framed(payload.len())).sum());
        let cells = kinds.map(|kind| {
            let measured = measure(kind, &mut Codec::new(kind, &[]), &payloads);
            let (bytes, us) = (mean(measured.bytes), measured.pack_us / payloads.len() as f64);
            let from = us * 1e3 / ((plain - bytes) * SAVED_NS_PER_BYTE);
            let from = if from > 0.0 { format!("{from:.0}") } else { "never".to_owned() };
            format!("{:>32}", format!("{bytes:.0}, {us:.1} us, {from}"))
        });
        println!("{:<26}{}", format!("{lines} lines, {plain:.0} bytes"), cells.concat());
    }
    println!();
}

/// The same with caches that something else has used meanwhile, as between two frames of a busy core.
fn cold(second: &Second) {
    println!("one native frame of 16, caches warm and cold: pack us");
    let (payloads, mut out) = (second.payloads(Dialect::Native, 16), Vec::new());
    let mut other = vec![1u8; COLD_BYTES];
    for kind in [Kind::Zlib(1, 0), Kind::Zlib(6, 0), Kind::Libdeflate(1), Kind::Libdeflate(6), Kind::Libdeflate(12)] {
        let mut codec = Codec::new(kind, &[]);
        let warm = clock::best_us(|| payloads.iter().for_each(|payload| codec.pack(payload, &mut out)));
        let cold = payloads.iter().map(|payload| {
            other.iter_mut().step_by(64).for_each(|byte| *byte = byte.wrapping_add(1));
            clock::once(|| codec.pack(payload, &mut out)).as_secs_f64() * 1e6
        });
        let cold: f64 = cold.sum();
        println!("{kind:<18}{:>8.0}{:>8.0}", warm / payloads.len() as f64, cold / payloads.len() as f64);
    }
}
