//! The receive buffers of a thread's rings: large enough for a visit in one piece, few enough to stay in the cache.
//!
//! Large ones cost nothing, for only what is filled is touched. Many do: the kernel fills them in turn, and so always
//! the one whose contents left the cache first. Few suffice, because the kernel fills a few dozen at most before they
//! are given back.

use crate::plan::Plan;

/// Receive memory of a thread, shared out over its rings, bytes.
const THREAD_BYTES: usize = 4 << 20;
/// Bounds of one buffer, bytes. The relay sends at most 64 KiB at a time.
const BUFFER_BYTES_MIN: usize = 8 << 10;
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// For a ring whose thread has very many.
const RING_BUFFERS_MIN: usize = 32;
/// What a line of chat takes on the wire, compressed and not (measured: 27 and 63 in frames of 60 ms), bytes.
const LINE_BYTES: f64 = 28.0;
const PLAIN_LINE_BYTES: f64 = 64.0;
/// A member of a large room is visited about this often, seconds.
const PERIOD_S: f64 = 1.0;

/// How many receive buffers each of a thread's `rings` has (a power of two), and their size in bytes.
pub fn of_ring(plan: &Plan, deflate: bool, rings: usize) -> (u16, u32) {
    let line_bytes = if deflate { LINE_BYTES } else { PLAIN_LINE_BYTES };
    // Twice as much, for visits vary.
    let wanted = 2.0 * PERIOD_S * lines_per_s(plan) * line_bytes;
    let bytes = (wanted as usize).next_power_of_two().clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_MAX);
    let count = (THREAD_BYTES / bytes / rings.max(1)).max(RING_BUFFERS_MIN).next_power_of_two();
    (count as u16, bytes as u32)
}

/// The rate of the room that a byte received comes from, on average.
fn lines_per_s(plan: &Plan) -> f64 {
    let sum = |power| plan.sizes.iter().map(|&members| f64::from(members).powi(power)).sum::<f64>();
    sum(3) / sum(2).max(1.0) * 1e9 / plan.shape.slot_ns as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::shape;
    use crate::plan::{Distribution, Plan};
    use crate::scenario::Scenario;

    #[test]
    fn a_visit_of_a_giant_room_fits_and_so_does_one_beside_pairs() {
        for pairs in [0, 100] {
            let scenario = Scenario { pairs, ..Scenario::default() };
            let giant = Plan::new(crate::plan::Shape { scenario, ..shape(70_000, 1, Distribution::Uniform) });
            assert_eq!(of_ring(&giant, true, 2), (32, 64 << 10), "1,167 lines are 32 KB");
        }
    }

    #[test]
    fn small_visits_get_more_and_smaller_buffers_of_the_same_memory() {
        let zipf = Plan::new(shape(70_000, 1_000, Distribution::Zipf(1.0)));
        assert_eq!(of_ring(&zipf, true, 2), (256, 8 << 10));
        assert_eq!(of_ring(&zipf, false, 2), (128, 16 << 10));
        assert_eq!(of_ring(&zipf, true, 100).0, 32, "each ring has some");
    }
}
