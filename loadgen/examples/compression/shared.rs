//! One context for all receivers: a frame may refer back to those before it, down to the last key frame.
//!
//! permessage-deflate with context takeover, with the one compressor shared: whoever joins gets uncompressed frames, which
//! leave a client's window alone, until the next key frame, which refers to nothing.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use loadgen::dice::Dice;
use protocol::Dialect;
use zstd::stream::raw::{CParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};

use crate::chat::{MESSAGES, Second, framed};
use crate::clock;
use crate::codec::FLUSHED;

/// Seconds of chat in one measurement: a multiple of all intervals.
const SECONDS: u64 = 8;
/// Seconds between two key frames; 0 makes every frame one.
const INTERVALS: [usize; 4] = [0, 1, 2, 8];
const FRAMES: [usize; 4] = [2, 4, 8, 16];
/// 256 KiB: what a client would have to keep a connection.
const ZSTD_WINDOW_LOG: u32 = 18;

enum Context {
    Zlib(Box<(Compress, Decompress)>),
    Zstd(Encoder<'static>, Decoder<'static>),
}

impl Context {
    fn zlib(level: u32) -> Self {
        Self::Zlib(Box::new((Compress::new(Compression::new(level), false), Decompress::new(false))))
    }

    fn zstd(level: i32) -> Self {
        let mut pack = Encoder::new(level).expect("memory for it");
        pack.set_parameter(CParameter::WindowLog(ZSTD_WINDOW_LOG)).expect("a valid window");
        Self::Zstd(pack, Decoder::new().expect("memory for it"))
    }

    /// Replaces what is in `out`; a key frame forgets everything before it.
    fn pack(&mut self, key: bool, input: &[u8], out: &mut Vec<u8>) {
        out.clear();
        out.reserve(input.len() + 256);
        match self {
            Self::Zlib(codec) => {
                let pack = &mut codec.0;
                if key {
                    pack.reset();
                }
                pack.compress_vec(input, out, FlushCompress::Sync).expect("deflate takes all input");
                assert!(out.ends_with(&FLUSHED), "all was flushed");
                out.truncate(out.len() - FLUSHED.len());
            }
            Self::Zstd(pack, _) => {
                if key {
                    pack.reinit().expect("a session can always be reset");
                }
                let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(out));
                while from.pos() < input.len() {
                    pack.run(&mut from, &mut to).expect("there is room");
                }
                assert_eq!(pack.flush(&mut to).expect("there is room"), 0, "all was flushed");
            }
        }
    }

    fn unpack(&mut self, key: bool, packed: &[u8], length: usize, out: &mut Vec<u8>) {
        out.clear();
        out.reserve(length + 64);
        match self {
            Self::Zlib(codec) => {
                let unpack = &mut codec.1;
                if key {
                    unpack.reset(false);
                }
                for input in [packed, &FLUSHED] {
                    unpack.decompress_vec(input, out, FlushDecompress::Sync).expect("it was packed");
                }
            }
            Self::Zstd(_, unpack) => {
                if key {
                    unpack.reinit().expect("a session can always be reset");
                }
                let (mut from, mut to) = (InBuffer::around(packed), OutBuffer::around(out));
                while from.pos() < packed.len() {
                    unpack.run(&mut from, &mut to).expect("it was packed");
                }
            }
        }
    }
}

/// What sharing the context saves.
pub fn table(seed: u64, dialect: Dialect, name: &str) {
    println!("{name}, one context shared by all receivers: bytes a second | pack us a frame | unpack us a frame");
    let heads = FRAMES.map(|count| format!("{:>24}", format!("{count} frames a second")));
    println!("{:<26}{}", "", heads.concat());
    let contexts = [
        ("zlib-rs 1", Context::zlib(1)),
        ("zlib-rs 6", Context::zlib(6)),
        ("zstd 1", Context::zstd(1)),
        ("zstd 3", Context::zstd(3)),
        ("zstd 9", Context::zstd(9)),
    ];
    let seconds: Vec<_> = (0..SECONDS).map(|nth| Second::new(seed, nth, true)).collect();
    for (kind, mut context) in contexts {
        for interval in INTERVALS {
            let cells = FRAMES.map(|count| {
                let payloads: Vec<_> = seconds.iter().flat_map(|second| second.payloads(dialect, count)).collect();
                measure(&mut context, &payloads, (interval * count).max(1))
            });
            let when = if interval == 0 { "none shared".to_owned() } else { format!("key every {interval} s") };
            println!("{:<26}{}", format!("{kind}, {when}"), cells.concat());
        }
    }
    println!();
}

/// `every` so many frames is a key frame.
fn measure(context: &mut Context, payloads: &[Vec<u8>], every: usize) -> String {
    let (mut packed, mut out) = (vec![Vec::new(); payloads.len()], Vec::new());
    let pack_us = clock::best_us(|| {
        for (nth, (payload, packed)) in payloads.iter().zip(&mut packed).enumerate() {
            context.pack(nth % every == 0, payload, packed);
        }
    });
    let unpack_us = clock::best_us(|| {
        for (nth, (payload, packed)) in payloads.iter().zip(&packed).enumerate() {
            context.unpack(nth % every == 0, packed, payload.len(), &mut out);
        }
    });
    // Somebody who joins at any key frame reads everything from there on.
    let joined = Dice::new(payloads.len() as u64, every as u64, MESSAGES as u64).below((payloads.len() / every) as u64);
    for nth in joined as usize * every..payloads.len() {
        context.unpack(nth % every == 0, &packed[nth], payloads[nth].len(), &mut out);
        assert!(out == payloads[nth], "it came back as it was");
    }
    let bytes: usize = packed.iter().map(|packed| framed(packed.len())).sum();
    let frame = |us: f64| us / payloads.len() as f64;
    format!("{:>10}{:>8.0}{:>6.0}", bytes / SECONDS as usize, frame(pack_us), frame(unpack_us))
}
