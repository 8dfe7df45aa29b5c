//! What may be typed, and what is valid of it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::plan::{Distribution, Shape};
use crate::target::Url;

mod scenario;

pub use scenario::{ScenarioArgs, Share};

/// Paragraphs are one line each: the terminal's width decides where they break.
const EXAMPLES: &str = "\
Examples:
  loadgen run
      70,000 users in 1,000 rooms (Zipf 1.0), a message a minute each
  loadgen run --users 1000 --rate 1/s --rooms 10 --duration 20s
      a small, lively run
  loadgen run --url ws://chat:8000/native --source 10.0.0.7,10.0.0.8
      another machine; each source address gives about 28,000 ports
  loadgen run --server-pid $(pidof relay)
      measures the relay's CPU and memory as well
  loadgen run --users 72000 --rooms 1 --pairs 1000
      one room of 70,000, and 1,000 chats of two that it must not slow down
  loadgen run --users 70000 --rooms 1 --slow-readers 1% --stalled-readers 0.1%
      some read at 2 KB/s or not at all: what they miss must be announced
  loadgen run --users 70000 --rooms 1 --recent 50 --reconnect-storm 50%@20s
      all join with the last 50 lines; half drop out and come back

How it measures:
An open model. Who sends when is fixed by --seed before the run; a late message is sent late, never skipped, and latency counts from the time it was intended for.

Every receiver is checked for loss, duplicates and order from its join to its room's highest acked seq, and every body against what was sent: the first copy of a frame message by message, its other copies by comparing all bytes with the first one. The receive time is read when bytes come from the kernel, and rounded up to the next millisecond: it is late by at most the loop lag and 1 ms, never early.

Slow readers are verified, but not timed and not owed what they have not read at the end: a message that they miss without an announced gap is lost. Gaps are fetched from the history afterwards.

Users that lose their connection come back, when the server says or after a second and a bit, and join again from the last seq they have: what they missed must follow, and what was not acked is published again with its key. Until they have everything, deliveries to them are not timed. Messages that were due while their sender was away are not timed either; the result counts them as sent late. Users that --reconnect-storm drops are not timed from then on.

A server may be stopped or killed and started again during a run: connections that it says goodbye to, or that all end at once, are no errors as long as everybody comes back and has everything. A single connection that ends while others stay is an error.

Each run has its own rooms and users, named by its id: runs at the same time and runs against a used server do not disturb each other.

Exit codes:
  0    every check held
  1    verification failed: loss, duplicates, wrong order, altered or unknown
       messages, errors, gaps that the history does not fill, users that did
       not come back, or the server did not accept the offered rate
  2    wrong usage
  3    this machine cannot run it (memory, ports, open files); the message
       says what would work
  4    the target cannot be reached, or refuses users
  5    loadgen was too slow to offer the rate: the times say nothing about the server
  130  interrupted; what was measured until then is printed
Latencies never decide the exit code.";

/// The load-test tool: an open model of chat users, every receiver verified.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Connect users, let them chat, verify and measure.
    // A flag that is given again wins: recipes have flags that people then change.
    #[command(after_help = EXAMPLES, args_override_self = true)]
    Run(RunArgs),
}

/// Everything that describes a run.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Where the server is; the path chooses the dialect (only /native so far)
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:8000/native", value_parser = Url::parse)]
    pub url: Url,
    /// How many users, each on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 70_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub users: u32,
    /// Reduce --users to what this machine can carry instead of refusing to run (exit code 3)
    #[arg(long)]
    pub clamp: bool,
    /// Messages that each user sends: N/s, N/min or N/h
    #[arg(long, value_name = "RATE", default_value = "1/min", value_parser = parse_rate)]
    pub rate: Rate,
    /// How many rooms; each user is in one
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rooms: u32,
    /// How users spread over rooms: uniform, or zipf:S where the room of rank r has a share of r^-S
    #[arg(long, value_name = "DIST", default_value = "zipf:1.0", value_parser = parse_distribution)]
    pub distribution: Distribution,
    /// New connections per second
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub ramp: u32,
    /// Traffic before the measured window
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse_duration)]
    pub warm_up: Duration,
    /// The measured window
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub duration: Duration,
    /// How long to wait at most, at the end, for acks and deliveries that are missing
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse_duration)]
    pub drain: Duration,
    /// End the run when all connections have been down for this long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub give_up: Duration,
    /// The same seed gives the same schedule, sizes of rooms and texts
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Part of the names of the run's rooms and users; using one twice on a server mixes the data of two runs
    /// [default: random]
    #[arg(long, value_name = "ID", value_parser = parse_run_id)]
    pub run_id: Option<String>,
    /// Generator threads [default: cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
    /// Do not offer permessage-deflate
    #[arg(long)]
    pub no_deflate: bool,
    /// Source addresses, comma-separated [default: the system's choice; for a loopback target many 127.x.y.z]
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub source: Vec<IpAddr>,
    /// Process of the server on this machine, to measure its CPU and memory
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// The server's commit or version, to be kept in the result
    #[arg(long, value_name = "WORD", value_parser = parse_name)]
    pub commit: Option<String>,
    /// Compare the result with the targets that this repository has for its own scenarios (`./just demo` and others)
    #[arg(long)]
    pub targets: bool,
    /// Directory for the result; must not exist or be empty [default: bench-results/runs/DATE-MACHINE[-COMMIT]-NAME]
    #[arg(long, value_name = "DIR", conflicts_with = "no_output")]
    pub output: Option<PathBuf>,
    /// Write no result files
    #[arg(long)]
    pub no_output: bool,
    /// Name of the scenario in the result [default: from users, rooms and distribution]
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub name: Option<String>,
    /// How to show progress
    #[arg(long, value_enum, default_value_t = Progress::Auto)]
    pub progress: Progress,
    #[command(flatten)]
    pub scenario: ScenarioArgs,
}

/// How progress is shown, on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    /// A bar on a terminal, else lines
    Auto,
    /// A line every few seconds
    Plain,
    /// Nothing
    None,
}

/// Messages per time of one user.
#[derive(Debug, Clone, PartialEq)]
pub struct Rate {
    /// Time between two messages, nanoseconds.
    pub slot_ns: u64,
    text: String,
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl RunArgs {
    /// What the schedule is made from.
    pub fn shape(&self) -> Shape {
        Shape {
            seed: self.seed,
            users: self.users,
            rooms: self.rooms,
            distribution: self.distribution,
            slot_ns: self.rate.slot_ns,
            warm_up_ns: self.warm_up.as_nanos() as u64,
            duration_ns: self.duration.as_nanos() as u64,
            scenario: self.scenario.scenario(),
        }
    }

    /// What is wrong with a plan in whose measured window nobody says anything.
    pub fn no_message(&self) -> String {
        let (users, rate, duration) = (self.users, &self.rate, self.duration);
        let what = format!("{users} users at {rate} say nothing in the measured window of {duration:?}");
        format!("{what}: valid is a longer --duration, a higher --rate or more --users")
    }

    /// The scenario's name, fit for a directory.
    pub fn name(&self) -> String {
        let derived = || {
            let distribution = self.distribution.to_string().replace(':', "-");
            let rate = self.rate.text.replace('/', "-per-");
            format!("{}-users-{}-rooms-{distribution}-{rate}", self.users, self.rooms)
        };
        self.name.clone().unwrap_or_else(derived)
    }
}

/// The error of clap in one line: what was found, what is valid.
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let kept = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    format!("{} (see --help)", kept.collect::<Vec<_>>().join(" "))
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    let valid = "valid is N/s, N/min or N/h, for example 1/min or 0.5/s";
    let (number, unit) = text.split_once('/').ok_or(valid)?;
    let unit_ns = match unit {
        "s" => 1e9,
        "min" | "m" => 60e9,
        "h" => 3_600e9,
        _ => return Err(format!("unknown unit {unit:?}; {valid}")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{number:?} is not a number; {valid}"))?;
    let slot_ns = unit_ns / number;
    if !(1e6..=86_400e9).contains(&slot_ns) {
        return Err("a user's rate lies between 1 a day and 1,000/s".to_owned());
    }
    Ok(Rate { slot_ns: slot_ns.round() as u64, text: text.to_owned() })
}

fn parse_distribution(text: &str) -> Result<Distribution, String> {
    if text == "uniform" {
        return Ok(Distribution::Uniform);
    }
    let s: Option<f64> = text.strip_prefix("zipf:").and_then(|s| s.parse().ok());
    match s {
        Some(s) if (0.0..=5.0).contains(&s) => Ok(Distribution::Zipf(s)),
        _ => Err("valid is uniform or zipf:S with S from 0 to 5, for example zipf:1.0".to_owned()),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let valid = "valid is a number with ms, s, m or h, for example 90s, at most 24h";
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).ok_or(valid)?;
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        _ => return Err(valid.to_owned()),
    } * number.parse::<f64>().map_err(|_| valid)?;
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err(valid.to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn parse_run_id(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 20 || !text.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err("valid are up to 20 letters and digits".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if text.is_empty() || text.len() > 100 || text.starts_with('.') || !text.chars().all(fits) {
        return Err("valid are up to 100 letters, digits, '-', '_' and '.', not starting with '.'".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn run(args: &[&str]) -> Result<RunArgs, String> {
        let all = ["loadgen", "run"].iter().chain(args);
        let Command::Run(run) = Cli::try_parse_from(all).map_err(|error| one_line(&error))?.command;
        Ok(run)
    }

    #[test]
    fn the_defaults_are_the_headline_scenario() {
        let args = run(&[]).expect("no flag is required");
        assert_eq!((args.users, args.rooms, args.rate.slot_ns), (70_000, 1_000, 60_000_000_000));
        assert_eq!(args.name(), "70000-users-1000-rooms-zipf-1.0-1-per-min");
    }

    #[test]
    fn a_flag_that_is_given_again_wins() {
        let args = run(&["--users", "5", "--pairs", "1", "--users", "7", "--pairs", "2"]).expect("it is valid");
        assert_eq!((args.users, args.scenario.pairs), (7, 2));
    }

    #[test]
    fn an_error_is_one_line_with_the_flag_what_was_found_and_what_is_valid() {
        for (args, words) in [
            (&["--rate", "5"][..], &["--rate", "'5'", "N/min"][..]),
            (&["--rate", "1/week"], &["--rate", "week", "N/min"]),
            (&["--rate", "9999/s"], &["--rate", "9999/s", "1,000/s"]),
            (&["--distribution", "normal"], &["--distribution", "normal", "zipf:S"]),
            (&["--duration", "60"], &["--duration", "'60'", "90s"]),
            (&["--users", "0"], &["--users", "'0'", "1..=10000000"]),
            (&["--url", "http://x"], &["--url", "http://x", "ws://"]),
            (&["--source", "lo"], &["--source", "lo"]),
            (&["--name", "a/b"], &["--name", "a/b", "letters"]),
            (&["--run-id", "a-b"], &["--run-id", "a-b", "letters and digits"]),
            (&["--output", "x", "--no-output"], &["--output", "--no-output"]),
            (&["--verbose"], &["--verbose"]),
        ] {
            let error = run(args).expect_err("it is not valid");
            assert_eq!(error.lines().count(), 1, "{error}");
            for word in words {
                assert!(error.contains(word), "{error} names {word}");
            }
        }
    }

    #[test]
    fn rates_and_times_mean_what_they_say() {
        assert_eq!(parse_rate("2/s").map(|rate| rate.slot_ns), Ok(500_000_000));
        assert_eq!(parse_rate("6/h").map(|rate| rate.slot_ns), Ok(600_000_000_000));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_mins(2)));
    }
}
