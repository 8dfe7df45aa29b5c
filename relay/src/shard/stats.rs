//! What a shard counts, each count with the name and the sentence that `/metrics` has for it.

use std::ops::{Add, AddAssign};

use protocol::ErrorCode;

use crate::histogram::Histogram;

/// One count: its name in [`Stats`], its family in `/metrics`, a label beside the shard's (`reason="idle"`), or none, and what it says.
#[derive(Debug, Clone, Copy)]
pub struct Count {
    pub name: &'static str,
    pub family: &'static str,
    pub label: &'static str,
    pub help: &'static str,
}

macro_rules! stats {
    ($($name:ident, $family:literal, $label:literal, $help:literal;)+) => {
        /// Counts since the shard began.
        #[derive(Debug, Clone, Copy, Default)]
        pub struct Stats {
            $(#[doc = $help] pub $name: u64,)+
            pub refusals: Refusals,
            /// Of each message that became durable.
            pub publish_durable: Histogram,
            /// Of some visits, the message that waited longest.
            pub durable_sent: Histogram,
            pub turn: Histogram,
        }

        impl Stats {
            /// What is counted, in the order of [`Stats::values`]; those of one family follow one another.
            pub const COUNTS: &[Count] = &[$(Count { name: stringify!($name), family: $family, label: $label, help: $help },)+];

            pub fn values(&self) -> impl Iterator<Item = u64> {
                [$(self.$name,)+].into_iter()
            }
        }

        impl Add for Stats {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                Self {
                    $($name: self.$name + other.$name,)+
                    refusals: self.refusals + other.refusals,
                    publish_durable: self.publish_durable + other.publish_durable,
                    durable_sent: self.durable_sent + other.durable_sent,
                    turn: self.turn + other.turn,
                }
            }
        }
    };
}

stats! {
    opened, "relay_connections_opened_total", "", "Connections that were accepted.";
    full, "relay_connections_refused_total", "", "Connections that were one too many and were answered 503.";
    slow_closed, "relay_closes_total", "reason=\"slow_consumer\"", "Connections that the relay closed.";
    idle_closed, "relay_closes_total", "reason=\"idle\"", "Connections that the relay closed.";
    flood_closed, "relay_closes_total", "reason=\"flood\"", "Connections that the relay closed.";
    overload_closed, "relay_closes_total", "reason=\"overload\"", "Connections that the relay closed.";
    commands, "relay_commands_total", "", "Commands that were read.";
    published, "relay_publishes_total", "", "Publishes that reached the owner of their room.";
    stored, "relay_stored_total", "", "Messages that are durable.";
    opens, "relay_room_opens_total", "", "Rooms whose log was opened.";
    reads, "relay_room_reads_total", "", "Further reads of logs.";
    resumed, "relay_joins_resumed_total", "", "Joins that went on in frames that their core still had.";
    delivered, "relay_deliveries_total", "", "Messages handed to the kernel for members, each member counted.";
    visits, "relay_visits_total", "", "Sends of room messages to a member.";
    swept, "relay_swept_visits_total", "", "Visits that sweeps made.";
    sweeps, "relay_sweeps_total", "", "Rounds over the members of large rooms.";
    gaps, "relay_gaps_total", "", "Gaps that members were told of, because they read too slowly.";
    refused, "relay_refused_total", "", "Commands that were answered with an error.";
}

/// A histogram: its name in `/metrics`, what it says, and where it is.
pub struct Times {
    pub family: &'static str,
    pub help: &'static str,
    pub of: fn(&Stats) -> &Histogram,
}

impl Stats {
    /// What takes time.
    pub const TIMES: [Times; 3] = [
        Times {
            family: "relay_publish_durable_seconds",
            help: "From a publish's arrival at its room's owner until its message is durable.",
            of: |stats| &stats.publish_durable,
        },
        Times {
            family: "relay_durable_sent_seconds",
            help: "From a message's being durable until it is handed to the kernel for a member, of one visit in 64.",
            of: |stats| &stats.durable_sent,
        },
        Times {
            family: "relay_turn_seconds",
            help: "Turns of a shard: from waking up until all effects are carried out.",
            of: |stats| &stats.turn,
        },
    ];

    /// A command was answered with this error.
    pub fn refuse(&mut self, code: ErrorCode) {
        self.refused += 1;
        self.refusals.0[code as usize - 1] += 1;
    }
}

/// Commands that were answered with an error, by its code.
#[derive(Clone, Copy, Default)]
pub struct Refusals(pub [u64; ErrorCode::ALL.len()]);

impl Add for Refusals {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| count.add_assign(more));
        self
    }
}

impl std::fmt::Debug for Refusals {
    /// Those that happened.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(ErrorCode::ALL.iter().zip(self.0).filter(|(_, count)| *count > 0)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_a_value_and_those_of_a_family_follow_one_another() {
        let mut stats = Stats { opened: 1, ..Stats::default() };
        stats.refuse(ErrorCode::Busy);
        let sum = stats + stats;
        assert_eq!(sum.values().count(), Stats::COUNTS.len());
        assert_eq!((sum.values().next(), sum.values().last()), (Some(2), Some(2)));
        assert_eq!(format!("{:?}", sum.refusals), "{Busy: 2}");
        let mut families: Vec<_> = Stats::COUNTS.iter().map(|count| count.family).collect();
        families.dedup();
        let names = families.len();
        families.sort_unstable();
        families.dedup();
        assert_eq!(families.len(), names, "a family is in two places");
    }
}
