//! The rule every engine follows when an append meets a log: continue it, recognise a repeat, or refuse.

use crate::{Append, LogState, StoreError};

/// The seqs that an append has in common with a log that ends at `last_seq`; None unless it repeats something.
pub(crate) fn repeated(append: &Append, last_seq: u64) -> Option<(u64, u64)> {
    let (first, last) = (append.records.first()?.seq, append.records.last()?.seq);
    (first > 0 && first <= last_seq && first <= last).then_some((first, last.min(last_seq)))
}

/// How many leading records of `append` are already stored. The rest, possibly none, directly continues the log.
///
/// `id_at` names the id of a stored record by its seq; it is asked only for a repeat.
///
/// # Errors
/// [`StoreError::OutOfOrder`] for a hole, a stored record with another id, or ids that do not rise.
pub(crate) fn already_stored(
    append: &Append,
    state: LogState,
    mut id_at: impl FnMut(u64) -> Result<Option<u64>, StoreError>,
) -> Result<usize, StoreError> {
    let Some(first) = append.records.first() else {
        return Ok(0);
    };
    let next = state.last_seq + 1;
    let refuse = |found| StoreError::OutOfOrder { room: append.room.to_string(), expected: next, found };
    if first.seq == 0 || first.seq > next {
        return Err(refuse(first.seq));
    }
    let mut stored = 0;
    let mut last_id = 0;
    for (record, seq) in append.records.iter().zip(first.seq..) {
        if record.seq != seq {
            return Err(refuse(record.seq));
        }
        if seq < next {
            if id_at(seq)? != Some(record.id) {
                return Err(refuse(seq));
            }
            stored += 1;
        } else {
            if seq == next {
                last_id = state.last_id;
            }
            if record.id <= last_id {
                return Err(refuse(seq));
            }
        }
        last_id = record.id;
    }
    Ok(stored)
}
