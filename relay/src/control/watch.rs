//! Lines about what should not happen, made once a second from what the shards count: so they are few however often it
//! happens, cost its place nothing, and hold no text of a client.

use std::time::Duration;

use protocol::ErrorCode;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::View;
use crate::figures::All;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is told when it rose.
struct Trouble {
    count: fn(&All) -> u64,
    /// Follows the number.
    is: &'static str,
}

const TROUBLE: [Trouble; 7] = [
    Trouble {
        count: |all| all.count("full"),
        is: "connections were answered 503: there are as many as --max-connections allows",
    },
    Trouble {
        count: |all| all.count("slow_closed"),
        is: "connections were closed, for they took too little of what they were sent",
    },
    Trouble { count: |all| all.count("gaps"), is: "times a member read too slowly and heard of a gap" },
    Trouble {
        count: |all| all.refusals(ErrorCode::RateLimited),
        is: "commands were refused, for a connection or a user sent them faster than it may",
    },
    Trouble { count: |all| all.refusals(ErrorCode::Busy), is: "commands were answered busy" },
    Trouble {
        count: |all| all.refusals(ErrorCode::Unavailable),
        is: "commands were answered that storage is unavailable",
    },
    Trouble {
        count: |all| all.refusals(ErrorCode::Unknown),
        is: "publishes were answered that their outcome is unknown",
    },
];

/// For as long as the process runs.
pub async fn run(view: &View) {
    let mut told = [0; TROUBLE.len()];
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        rises(&view.figures, &mut told).for_each(|(count, is)| warn!("{count} {is}"));
    }
}

/// How many more of each trouble there are than were told, which is brought up to date.
fn rises<'a>(figures: &All, told: &'a mut [u64; TROUBLE.len()]) -> impl Iterator<Item = (u64, &'static str)> + 'a {
    let now = TROUBLE.map(|trouble| ((trouble.count)(figures), trouble.is));
    now.into_iter().zip(told).filter_map(|((count, is), told)| {
        let more = count.saturating_sub(std::mem::replace(told, count));
        (more > 0).then_some((more, is))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Stats;

    #[test]
    fn trouble_is_told_when_it_rises_with_how_much() {
        let view = View::new(2);
        let mut told = [0; TROUBLE.len()];
        let mut look = || rises(&view.figures, &mut told).map(|(count, _)| count).collect::<Vec<_>>();
        assert!(look().is_empty());
        let mut stats = Stats { full: 3, gaps: 1, ..Stats::default() };
        view.figures.of(1).count(&stats);
        assert_eq!(look(), [3, 1]);
        assert!(look().is_empty(), "told once");
        stats.full += 2;
        stats.refuse(ErrorCode::RateLimited);
        view.figures.of(1).count(&stats);
        assert_eq!(look(), [2, 1]);
    }
}
