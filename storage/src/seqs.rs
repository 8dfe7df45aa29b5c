//! The arithmetic of seqs that engines share: partitions, index blocks, and what a dense range is.

use crate::Record;

/// Seqs of an index block: the first has a row by which it is found.
pub(crate) const BLOCK: u64 = 1 << 10;
/// Seqs of a partition.
const BUCKET: u64 = 1 << 16;

/// The partition of a seq.
pub(crate) fn bucket(seq: u64) -> u64 {
    seq / BUCKET
}

/// The index block of a seq.
pub(crate) fn block(seq: u64) -> u64 {
    seq / BLOCK
}

/// The first seq of a seq's block.
pub(crate) fn block_start(seq: u64) -> u64 {
    (block(seq) * BLOCK).max(1)
}

/// A block, other than a log's first, begins with this seq.
pub(crate) fn is_block_start(seq: u64) -> bool {
    seq > 1 && block_start(seq) == seq
}

/// Whether `first..=last` is reached by passing over fewer records from the log's end `head` than from a block's start.
pub(crate) fn is_nearer_end(first: u64, last: u64, head: u64) -> bool {
    head.saturating_sub(last) < first - block_start(first)
}

/// The first seqs that are missing from `records`, which should be `first..=last`.
pub(crate) fn first_hole(records: &[Record], first: u64, last: u64) -> Option<(u64, u64)> {
    let mut expected = first;
    for record in records {
        if record.seq != expected {
            return Some((expected, record.seq.max(expected + 1) - 1));
        }
        expected += 1;
    }
    (expected <= last).then_some((expected, last))
}
