//! How far ids are reserved: no id is stored whose time was not reserved before, and the next process begins behind it.

/// Ids are reserved this far ahead of the clock, milliseconds: after a kill they go on so far ahead at most.
const AHEAD_MS: u64 = 3_000;
/// What is reserved is renewed while so much of it is left, so that no message waits for that.
pub const RENEW_MS: u64 = 1_500;
/// Ids whose time is ahead of the clock, because that was set back or an earlier process was killed, are reserved this far
/// ahead of the last one. Such a time stands nearly still, a millisecond for every 512 messages of a shard, and so hardly
/// moves away from the clock, however often the process is killed.
const SLACK_MS: u64 = 10;

/// The times of ids that were used and that may be, milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Reservation {
    used_ms: u64,
    until_ms: u64,
}

impl Reservation {
    /// What an earlier process left behind: all of it may have been used.
    pub fn new(until_ms: u64) -> Self {
        Self { used_ms: until_ms, until_ms }
    }

    /// Ids up to this time are about to be stored. Whether they may be: otherwise a [`Self::renewal`] comes first.
    pub fn covers(&mut self, last_ms: u64) -> bool {
        self.used_ms = self.used_ms.max(last_ms);
        self.used_ms <= self.until_ms
    }

    /// Up to where to reserve now; None while enough is left.
    pub fn renewal(&self, now_ms: u64) -> Option<u64> {
        let least = (now_ms + RENEW_MS).max(self.used_ms + SLACK_MS / 2);
        (self.until_ms < least).then_some((now_ms + AHEAD_MS).max(self.used_ms + SLACK_MS))
    }

    /// This is durable now.
    pub fn renewed(&mut self, until_ms: u64) {
        self.until_ms = self.until_ms.max(until_ms);
    }

    /// The time up to which ids were used: where a process ends in good order, all after it is given back.
    pub fn used_ms(&self) -> u64 {
        self.used_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 2_000_000_000_000;

    /// One message at this time by a process that begins behind `reserved_ms`, and is killed. The id's time, and what is
    /// reserved then.
    fn killed(reserved_ms: u64, now_ms: u64) -> (u64, u64) {
        let mut reservation = Reservation::new(reserved_ms);
        let id_ms = now_ms.max(reserved_ms + 1);
        if !reservation.covers(id_ms) || reservation.renewal(now_ms).is_some() {
            reservation.renewed(reservation.renewal(now_ms).expect("more is needed"));
        }
        assert!(reservation.covers(id_ms));
        (id_ms, reservation.until_ms)
    }

    #[test]
    fn ids_stay_near_the_clock_and_rise_however_often_the_process_is_killed() {
        for between_ms in [0, 1, 100, 1_600, 10_000] {
            let (mut reserved_ms, mut last_ms) = (0, 0);
            for kill in 0..100 {
                let now_ms = NOW_MS + kill * between_ms;
                let (id_ms, until_ms) = killed(reserved_ms, now_ms);
                assert!(id_ms > last_ms && until_ms >= id_ms);
                assert!(id_ms <= now_ms + 5_000, "{} ms ahead, {between_ms} ms between kills", id_ms - now_ms);
                (reserved_ms, last_ms) = (until_ms, id_ms);
            }
        }
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_move_what_is_reserved_further_ahead() {
        let (_, reserved_ms) = killed(0, NOW_MS);
        let (id_ms, until_ms) = killed(reserved_ms, NOW_MS - 3_600_000);
        assert_eq!((id_ms, until_ms), (reserved_ms + 1, reserved_ms + 1 + SLACK_MS));
    }

    #[test]
    fn it_is_renewed_before_it_runs_out_and_not_more_often_than_needed() {
        let mut reservation = Reservation::new(0);
        let mut renewals = 0;
        for now_ms in (NOW_MS..NOW_MS + 60_000).step_by(10) {
            assert!(reservation.covers(now_ms) || now_ms == NOW_MS);
            if let Some(until_ms) = reservation.renewal(now_ms) {
                assert!(until_ms <= now_ms + AHEAD_MS);
                reservation.renewed(until_ms);
                renewals += 1;
            }
        }
        assert_eq!(renewals, 40);
        assert_eq!(reservation.used_ms(), NOW_MS + 59_990);
    }
}
