//! Flags of what happens besides plain chat.

use std::time::Duration;

use clap::Args;

use super::{RunArgs, parse_duration};
use crate::scenario::{Scenario, Storm};

/// More lines of history would take longer than anybody wants to wait: each writer has one on its way.
const HISTORY_MAX: i64 = 100_000;

/// Pairs, slow readers, history and storms; all off by default.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Scenarios")]
pub struct ScenarioArgs {
    /// Put 2 x N of the users in N rooms of two, the rest in --rooms
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub pairs: u32,
    /// Share of the largest room's members that read at --slow-rate; the server may leave out messages for them, but has to
    /// announce the gap
    #[arg(long, value_name = "SHARE", default_value = "0%", value_parser = parse_share)]
    pub slow_readers: Share,
    /// Bytes per second that each slow reader reads
    #[arg(long, value_name = "RATE", default_value = "2KB/s", value_parser = parse_bytes_per_s)]
    pub slow_rate: u64,
    /// Share of the largest room's members that stop reading when traffic begins
    #[arg(long, value_name = "SHARE", default_value = "0%", value_parser = parse_share)]
    pub stalled_readers: Share,
    /// The server's own time-out for connections that receive nothing: stalled readers have to be closed by it
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub slow_timeout: Duration,
    /// Recent messages that every join asks for
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub recent: u32,
    /// Messages that up to 100 users publish in the largest room before the others connect
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=HISTORY_MAX))]
    pub history: u32,
    /// Share of the users outside pairs whose connections drop at once, and when in the measured window
    #[arg(long, value_name = "SHARE@TIME", value_parser = parse_storm)]
    pub reconnect_storm: Option<(Share, Duration)>,
    /// Connections per second that come back after --reconnect-storm [default: all at once]
    #[arg(long, value_name = "N", requires = "reconnect_storm", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub reconnect_ramp: Option<u32>,
}

/// A part of the users, as typed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(pub f64);

impl ScenarioArgs {
    /// What is to happen.
    pub fn scenario(&self) -> Scenario {
        let storm = self.reconnect_storm.map(|(share, at)| Storm {
            share: share.0,
            at_ns: at.as_nanos() as u64,
            ramp: self.reconnect_ramp,
        });
        Scenario {
            pairs: self.pairs,
            recent: self.recent,
            history: self.history,
            slow_share: self.slow_readers.0,
            stalled_share: self.stalled_readers.0,
            slow_bytes_per_s: self.slow_rate,
            slow_timeout_ns: self.slow_timeout.as_nanos() as u64,
            storm,
        }
    }
}

impl RunArgs {
    /// Checks what flags mean together; the error is one line.
    pub fn check(&self) -> Result<(), String> {
        let ScenarioArgs { pairs, slow_readers, stalled_readers, history, reconnect_storm, .. } = &self.scenario;
        if self.duration.is_zero() {
            return Err("--duration 0s: valid is more than 0".to_owned());
        }
        if 2 * u64::from(*pairs) > u64::from(self.users) {
            let (pairs, users) = (pairs, self.users);
            return Err(format!("--pairs {pairs}: needs {} users, --users has {users}", 2 * u64::from(*pairs)));
        }
        if slow_readers.0 + stalled_readers.0 > 1.0 {
            return Err("--slow-readers and --stalled-readers: valid is at most 100% together".to_owned());
        }
        if *history > 0 && slow_readers.0 + stalled_readers.0 >= 1.0 {
            return Err(format!(
                "--history {history}: all users are slow or stalled readers, so nobody can write a history before the run; lower --slow-readers or --stalled-readers"
            ));
        }
        if let Some((_, at)) = reconnect_storm
            && *at >= self.duration
        {
            return Err(format!(
                "--reconnect-storm @{at:?}: valid is before the end of --duration {:?}",
                self.duration
            ));
        }
        Ok(())
    }
}

fn parse_share(text: &str) -> Result<Share, String> {
    let valid = "valid is a percentage from 0% to 100%, for example 1% or 0.1%";
    let percent: f64 = text.strip_suffix('%').and_then(|number| number.parse().ok()).ok_or(valid)?;
    if (0.0..=100.0).contains(&percent) { Ok(Share(percent / 100.0)) } else { Err(valid.to_owned()) }
}

fn parse_bytes_per_s(text: &str) -> Result<u64, String> {
    let valid = "valid is a number with B/s, KB/s or MB/s from 1B/s to 1000MB/s, for example 2KB/s";
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).ok_or(valid)?;
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "B/s" => 1.0,
        "KB/s" => 1e3,
        "MB/s" => 1e6,
        _ => return Err(valid.to_owned()),
    };
    let rate = factor * number.parse::<f64>().map_err(|_| valid)?;
    if (1.0..=1e9).contains(&rate) { Ok(rate as u64) } else { Err(valid.to_owned()) }
}

fn parse_storm(text: &str) -> Result<(Share, Duration), String> {
    let valid = "valid is SHARE@TIME, for example 50%@20s";
    let (share, at) = text.split_once('@').ok_or(valid)?;
    let share = parse_share(share).map_err(|why| format!("{why}, then @TIME"))?;
    if share.0 <= 0.0 {
        return Err("a storm of nobody; valid is SHARE@TIME, for example 50%@20s".to_owned());
    }
    Ok((share, parse_duration(at)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::run;

    #[test]
    fn scenarios_mean_what_they_say() {
        let flags = "--slow-readers 1% --stalled-readers 0.1% --slow-rate 1.5KB/s --reconnect-storm 50%@20s";
        let args: Vec<&str> = flags.split(' ').collect();
        let scenario = run(&args).expect("it is valid").scenario.scenario();
        assert_eq!((scenario.slow_share, scenario.stalled_share, scenario.slow_bytes_per_s), (0.01, 0.001, 1_500));
        assert_eq!(scenario.storm, Some(Storm { share: 0.5, at_ns: 20_000_000_000, ramp: None }));
        let plain = run(&[]).expect("no flag is required").scenario.scenario();
        assert!(plain.storm.is_none() && !plain.has_slow_readers() && plain.recent + plain.history + plain.pairs == 0);
    }

    #[test]
    fn a_scenario_that_cannot_be_is_one_line_with_what_is_valid() {
        for (args, words) in [
            (&["--slow-readers", "1"][..], &["--slow-readers", "'1'", "0.1%"][..]),
            (&["--stalled-readers", "101%"], &["--stalled-readers", "101%", "100%"]),
            (&["--slow-rate", "2K"], &["--slow-rate", "2K", "KB/s"]),
            (&["--reconnect-storm", "50%"], &["--reconnect-storm", "50%", "50%@20s"]),
            (&["--reconnect-storm", "0%@2s"], &["--reconnect-storm", "nobody"]),
            (&["--reconnect-storm", "50%@2"], &["--reconnect-storm", "50%@2", "90s"]),
            (&["--reconnect-ramp", "5"], &["--reconnect-storm"]),
            (&["--history", "100001"], &["--history", "100000"]),
        ] {
            let error = run(args).expect_err("it is not valid");
            assert_eq!(error.lines().count(), 1, "{error}");
            for word in words {
                assert!(error.contains(word), "{error} names {word}");
            }
        }
        for (args, words) in [
            (&["--pairs", "6", "--users", "11"][..], &["--pairs 6", "12", "11"][..]),
            (&["--reconnect-storm", "5%@60s"], &["--reconnect-storm", "60s", "--duration"]),
            (&["--slow-readers", "60%", "--stalled-readers", "60%"], &["--slow-readers", "100%"]),
            (&["--slow-readers", "100%", "--history", "5"], &["--history 5"]),
        ] {
            let error = run(args).expect("each flag is valid").check().expect_err("together they are not");
            assert_eq!(error.lines().count(), 1, "{error}");
            for word in words {
                assert!(error.contains(word), "{error} names {word}");
            }
        }
    }
}
