//! The compressors under test behind one pair of functions. Every message stands for itself: no context is kept.

use std::fmt;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use libdeflater::{CompressionLvl, Compressor, Decompressor};
use zstd::bulk;

/// What a sync flush ends with; permessage-deflate leaves it out (RFC 7692, 7.2.1).
pub const FLUSHED: [u8; 4] = [0, 0, 0xff, 0xff];

/// A kind of compressor and how hard it tries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// zlib-rs through flate2, as permessage-deflate; with a dictionary of so many KiB (at most 32; 0 is none) it is not.
    Zlib(u32, usize),
    /// libdeflate, as permessage-deflate: a final block and the byte that RFC 7692, 7.2.3.5 asks for behind it.
    Libdeflate(i32),
    /// zstd with a dictionary of so many KiB; 0 is none.
    Zstd(i32, usize),
}

impl Kind {
    /// KiB of its dictionary, 0 for none.
    pub fn dictionary_kib(self) -> usize {
        match self {
            Self::Zlib(_, kib) | Self::Zstd(_, kib) => kib,
            Self::Libdeflate(_) => 0,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Zlib(level, 0) => format!("zlib-rs {level}"),
            Self::Zlib(level, kib) => format!("zlib-rs {level}, dict {kib}K"),
            Self::Libdeflate(level) => format!("libdeflate {level}"),
            Self::Zstd(level, 0) => format!("zstd {level}"),
            Self::Zstd(level, kib) => format!("zstd {level}, dict {kib}K"),
        };
        f.pad(&text)
    }
}

/// Both directions of a kind, with all that they keep between messages.
pub enum Codec {
    Zlib(Box<(Compress, Decompress)>, Vec<u8>),
    Libdeflate(Compressor, Decompressor),
    Zstd(Box<(bulk::Compressor<'static>, bulk::Decompressor<'static>)>),
}

impl Codec {
    /// `dictionary` is empty for none.
    pub fn new(kind: Kind, dictionary: &[u8]) -> Self {
        match kind {
            Kind::Zlib(level, _) => {
                let pack = Compress::new(Compression::new(level), false);
                Self::Zlib(Box::new((pack, Decompress::new(false))), dictionary.to_vec())
            }
            Kind::Libdeflate(level) => {
                let level = CompressionLvl::new(level).expect("libdeflate has levels 1 to 12");
                Self::Libdeflate(Compressor::new(level), Decompressor::new())
            }
            Kind::Zstd(level, _) => {
                let pack = bulk::Compressor::with_dictionary(level, dictionary).expect("the dictionary is one");
                let unpack = bulk::Decompressor::with_dictionary(dictionary).expect("the dictionary is one");
                Self::Zstd(Box::new((pack, unpack)))
            }
        }
    }

    /// Replaces what is in `out`.
    pub fn pack(&mut self, input: &[u8], out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Zlib(codec, dictionary) => {
                let pack = &mut codec.0;
                pack.reset();
                if !dictionary.is_empty() {
                    pack.set_dictionary(dictionary).expect("it is not longer than the window");
                }
                out.reserve(input.len() + 64);
                pack.compress_vec(input, out, FlushCompress::Sync).expect("deflate takes all input");
                assert!(pack.total_in() == input.len() as u64 && out.ends_with(&FLUSHED), "all was flushed");
                out.truncate(out.len() - FLUSHED.len());
            }
            Self::Libdeflate(pack, _) => {
                out.resize(pack.deflate_compress_bound(input.len()), 0);
                let length = pack.deflate_compress(input, out).expect("the bound holds");
                out.truncate(length);
                out.push(0);
            }
            Self::Zstd(codec) => {
                out.reserve(zstd::zstd_safe::compress_bound(input.len()));
                codec.0.compress_to_buffer(input, out).expect("the bound holds");
            }
        }
    }

    /// The other way round; `length` is that of the original.
    pub fn unpack(&mut self, packed: &[u8], length: usize, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Zlib(codec, dictionary) => inflate(&mut codec.1, dictionary, packed, length, out),
            Self::Libdeflate(_, unpack) => {
                out.resize(length, 0);
                let found = unpack.deflate_decompress(packed, out).expect("it was packed");
                assert_eq!(found, length, "the whole message");
            }
            Self::Zstd(codec) => {
                out.reserve(length);
                codec.1.decompress_to_buffer(packed, out).expect("it was packed");
            }
        }
    }
}

/// What a client with zlib does to a message of permessage-deflate.
pub fn inflate(unpack: &mut Decompress, dictionary: &[u8], packed: &[u8], length: usize, out: &mut Vec<u8>) {
    unpack.reset(false);
    if !dictionary.is_empty() {
        unpack.set_dictionary(dictionary).expect("it is not longer than the window");
    }
    out.reserve(length + 64);
    unpack.decompress_vec(packed, out, FlushDecompress::Sync).expect("it was packed");
    let rest = unpack.total_in() as usize;
    if rest == packed.len() {
        unpack.decompress_vec(&FLUSHED, out, FlushDecompress::Sync).expect("it was flushed");
    }
}
