//! Pages of history: which seqs they ask for, and how much of them is told.

use std::ops::RangeInclusive;
use std::sync::Arc;

use protocol::Page;
use storage::Record;

use crate::room::Wanted;
use crate::shard::outbox::Found;
use crate::sizes::{all_sent_bytes, sent_bytes};

/// Cuts a page to so many bytes, at the end that is farther from what was asked for; one record always stays.
pub(super) fn shorten(room: &str, records: &mut Vec<Arc<Record>>, page: Page, bytes_max: usize) {
    let mut excess = all_sent_bytes(room, records).saturating_sub(bytes_max);
    while excess > 0 && records.len() > 1 {
        let from_front = match page {
            Page::Newest | Page::Before(_) => true,
            Page::After(_) => false,
            Page::Around(seq) => records[0].seq.abs_diff(seq) > records[records.len() - 1].seq.abs_diff(seq),
        };
        let cut = if from_front { records.remove(0) } else { records.remove(records.len() - 1) };
        excess = excess.saturating_sub(sent_bytes(room, &cut));
    }
}

/// Where the reading of a page begins, in both directions: what is farther from there is left out first.
pub(super) fn split(page: Page, (first, last): (u64, u64)) -> u64 {
    match page {
        Page::Newest | Page::Before(_) => last + 1,
        Page::After(_) => first,
        Page::Around(seq) => seq.max(first).min(last),
    }
}

/// The seqs a page asks for of those that are `kept`, as `first..=last`; empty when `first > last`.
pub(super) fn page_range(page: Page, limit: u64, kept: RangeInclusive<u64>) -> (u64, u64) {
    let (kept_from, head) = kept.into_inner();
    let newest = |last: u64| ((last + 1).saturating_sub(limit).max(kept_from), last);
    if limit == 0 {
        return (1, 0);
    }
    match page {
        Page::Newest => newest(head),
        Page::Before(seq) => newest(head.min(seq.saturating_sub(1))),
        Page::After(seq) => {
            let first = seq.saturating_add(1).max(kept_from);
            (first, head.min(first.saturating_add(limit - 1)))
        }
        Page::Around(seq) => {
            let first = seq.saturating_sub(limit / 2).max(kept_from);
            (first, head.min(first.saturating_add(limit - 1)))
        }
    }
}

/// The last seq of a page. When the messages that it asked for have expired and storage found the next ones that are kept, the
/// page ends with these: behind them there may be another gap of expired messages.
pub(super) fn found_end(page: Page, (first, last): (u64, u64), extra: Option<&Found>, tail_first: u64) -> u64 {
    match (page, extra) {
        (Page::After(_) | Page::Around(_), Some(extra))
            if extra.has_expired && (extra.first..extra.end()).contains(&first) && extra.end() < tail_first =>
        {
            last.min(extra.end() - 1)
        }
        _ => last,
    }
}

impl Found {
    /// The seq after its last record.
    pub(super) fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    /// What of a page can be told: the rest would be too many bytes.
    pub(super) fn narrow(&self, (first, last): (u64, u64)) -> (u64, u64) {
        let from = if self.more_before && self.first <= last { first.max(self.first) } else { first };
        let to = if self.more_after && self.end() > first { last.min(self.end() - 1) } else { last };
        (from, to)
    }

    /// It is what was asked for, as far as that exists and there was room for it.
    pub(super) fn is_whole(&self, wanted: &Wanted) -> bool {
        let ends_right = self.records.last().is_none_or(|record| record.seq + 1 == self.end());
        self.first >= wanted.first && (self.more_after || self.end() > wanted.last) && ends_right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_what_their_names_say() {
        let cases = [
            (Page::Newest, 3, 10, (8, 10)),
            (Page::Newest, 30, 10, (1, 10)),
            (Page::Before(5), 3, 10, (2, 4)),
            (Page::Before(1), 3, 10, (1, 0)),
            (Page::Before(99), 3, 10, (8, 10)),
            (Page::After(5), 3, 10, (6, 8)),
            (Page::After(9), 3, 10, (10, 10)),
            (Page::After(10), 3, 10, (11, 10)),
            (Page::After(u64::MAX), 3, 10, (u64::MAX, 10)),
            (Page::Around(5), 4, 10, (3, 6)),
            (Page::Around(1), 4, 10, (1, 4)),
            (Page::Newest, 0, 10, (1, 0)),
        ];
        for (page, limit, head, range) in cases {
            assert_range(page, limit, (1, head), range);
        }
    }

    #[test]
    fn pages_leave_out_what_has_expired_and_go_on_from_what_is_kept() {
        let cases = [
            (Page::Newest, 30, (7, 10)),
            (Page::Before(9), 4, (7, 8)),
            (Page::Before(7), 4, (1, 0)),
            (Page::After(0), 2, (7, 8)),
            (Page::After(8), 9, (9, 10)),
            (Page::Around(2), 3, (7, 9)),
            (Page::Around(8), 4, (7, 10)),
        ];
        for (page, limit, range) in cases {
            assert_range(page, limit, (7, 10), range);
        }
        assert_range(Page::After(0), 5, (11, 10), (1, 0));
        assert_range(Page::Newest, 5, (11, 10), (1, 0));
    }

    fn assert_range(page: Page, limit: u64, kept: (u64, u64), range: (u64, u64)) {
        let (first, last) = page_range(page, limit, RangeInclusive::new(kept.0, kept.1));
        assert!((first, last) == range || (first > last && range.0 > range.1), "{page:?}: {first}..={last}");
    }
}
