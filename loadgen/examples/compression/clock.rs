//! CPU time of this thread, which other users of the machine do not lengthen by taking it away.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

const PASSES: usize = 3;
const MEASURED: Duration = Duration::from_millis(12);

/// The time of one pass, microseconds: the best of at least three and of as many as fit a few milliseconds.
pub fn best_us(mut pass: impl FnMut()) -> f64 {
    let (begin, mut best, mut passes) = (cpu(), Duration::MAX, 0);
    while passes < PASSES || cpu().saturating_sub(begin) < MEASURED {
        best = best.min(once(&mut pass));
        passes += 1;
    }
    best.as_secs_f64() * 1e6
}

/// The time of this one pass.
pub fn once(pass: impl FnOnce()) -> Duration {
    let begin = cpu();
    pass();
    cpu().saturating_sub(begin)
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
