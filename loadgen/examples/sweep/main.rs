//! How long lines take at rates that go up and down, in a relay that stays up, and how often it visits its members.
//!
//! `cargo run --release -p loadgen --example sweep -- drive --help` takes one room, or rooms by Zipf's law, through the
//! steps; `… -- report FILE…` makes a table and a plot of what several such runs wrote. `just sweep` does it all.

#[path = "../growth/axes.rs"]
mod axes;
mod measured;
mod plot;
mod stage;
mod viewers;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, Parser};
use loadgen::machine;
use loadgen::plan::{Distribution, Plan, Shape};
use loadgen::preflight::{self, Has};
use loadgen::scenario::Scenario;

use measured::{Measured, Row};
use stage::{Dialect, Stage};
use viewers::Heard;

/// A step is to settle in so many seconds; what comes after them is measured.
const SETTLE_S: u64 = 3;

#[derive(Parser)]
enum Cli {
    /// Takes a running relay through the steps
    Drive(Drive),
    /// Medians of several runs as a table, which it also writes, and as a plot beside it
    Report {
        /// What the runs wrote
        files: Vec<PathBuf>,
        /// The table
        #[arg(long, default_value = "bench-results/measurements/sweep.txt")]
        table: PathBuf,
    },
}

/// One run.
#[derive(Args)]
struct Drive {
    /// The relay
    #[arg(long)]
    address: SocketAddr,
    /// Its process, to measure its CPU
    #[arg(long)]
    pid: u32,
    /// Viewers, each on a connection of its own
    #[arg(long, default_value_t = 10_000)]
    users: u32,
    /// One room, or more that share the viewers by Zipf's law
    #[arg(long, default_value_t = 1)]
    rooms: u32,
    /// How they speak; nothing is compressed
    #[arg(long, value_enum, default_value = "json")]
    dialect: Dialect,
    /// Lines a second of each step, said by anybody at random times
    #[arg(long, value_delimiter = ',', default_value = "20,50,100,200,300,500,200,100,50,20")]
    steps: Vec<f64>,
    /// Seconds of each step, of which the first three are not measured
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(SETTLE_S + 2..=600))]
    hold: u64,
    /// The same seed gives the same lines
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the result goes
    #[arg(long)]
    output: PathBuf,
}

fn main() -> ExitCode {
    let done = match Cli::parse() {
        Cli::Drive(args) => drive(&args).and_then(|measured| {
            print!("{}", measured::table(std::slice::from_ref(&measured)));
            let json = serde_json::to_vec(&measured).map_err(|error| error.to_string())?;
            fs::write(&args.output, json).map_err(|error| format!("{}: {error}", args.output.display()))
        }),
        Cli::Report { files, table } => report(&files, &table),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sweep: {error}");
            ExitCode::FAILURE
        }
    }
}

fn report(files: &[PathBuf], table: &std::path::Path) -> Result<(), String> {
    let runs = files.iter().map(|file| Measured::read(file)).collect::<Result<Vec<_>, _>>()?;
    let medians = measured::medians(runs);
    if medians.is_empty() {
        return Err("name the files that `drive` wrote".to_owned());
    }
    let text = measured::table(&medians);
    print!("{text}");
    fs::write(table, text).map_err(|error| format!("{}: {error}", table.display()))?;
    let picture = table.with_extension("svg");
    plot::write(&picture, &medians).map_err(|error| format!("{}: {error}", picture.display()))?;
    println!("written  {} and {}", table.display(), picture.display());
    Ok(())
}

fn drive(args: &Drive) -> Result<Measured, String> {
    let fit = preflight::fit(args.users, args.address, &[], &Has::read());
    if let Some(limit) = &fit.limit {
        return Err(format!("--users {}: {limit}", args.users));
    }
    let threads = machine::cores() as u32;
    let stage = Stage {
        plan: Plan::new(shape(args)),
        fit,
        address: args.address,
        dialect: args.dialect,
        threads,
        steps: args.steps.clone(),
        hold: Duration::from_secs(args.hold),
        joined: (0..threads).map(|_| AtomicU32::new(0)).collect(),
        begun_ns: AtomicU64::new(0),
        failed: OnceLock::new(),
        clock: Instant::now(),
    };
    let (heard, cores) = thread::scope(|scope| {
        let stage = &stage;
        let workers: Vec<_> = (0..threads).map(|thread| scope.spawn(move || viewers::run(stage, thread))).collect();
        let cores = watch(stage, args.pid);
        let mut heard = vec![Heard::default(); stage.seconds()];
        for worker in workers {
            let theirs = worker.join().map_err(|_| "a thread panicked")?.map_err(|error| error.to_string())?;
            for (sum, add) in heard.iter_mut().zip(&theirs) {
                sum.waits.add(&add.waits);
                sum.apart.add(&add.apart);
            }
        }
        Ok::<_, String>((heard, cores))
    })?;
    if let Some(why) = stage.failed.get() {
        return Err(why.clone());
    }
    let rows = stage.steps.iter().zip(heard.chunks(args.hold as usize)).zip(cores);
    Ok(Measured {
        dialect: args.dialect,
        users: args.users,
        rooms: args.rooms,
        machine: machine::Machine::read().to_string(),
        rows: rows.map(|((&lines_per_s, heard), cores)| row(lines_per_s, heard, cores)).collect(),
        runs: 1,
    })
}

fn shape(args: &Drive) -> Shape {
    let minute_ns = 60_000_000_000;
    Shape {
        seed: args.seed,
        users: args.users,
        rooms: args.rooms,
        distribution: Distribution::Zipf(1.0),
        // Who sends when is the steps' affair.
        slot_ns: minute_ns,
        warm_up_ns: 0,
        duration_ns: minute_ns,
        scenario: Scenario::default(),
    }
}

/// What the seconds of one step come to.
fn row(lines_per_s: f64, heard: &[Heard], cores: f64) -> Row {
    let settled = &heard[SETTLE_S as usize..];
    let mut all = Heard::default();
    for second in settled {
        all.waits.add(&second.waits);
        all.apart.add(&second.apart);
    }
    let ms = |ns: u64| ns as f64 / 1e6;
    let (waits, apart) = (all.waits.summary(), all.apart.summary());
    Row {
        lines_per_s,
        p50_ms: waits.map_or(0.0, |waits| ms(waits.p50_ns)),
        p99_ms: waits.map_or(0.0, |waits| ms(waits.p99_ns)),
        first_p99_ms: ms(settled[0].waits.p99_ns()),
        apart_ms: apart.map_or(0.0, |apart| ms(apart.p50_ns)),
        cores,
    }
}

/// Waits until everybody is there, begins, and returns the cores that the relay used in each step once it had settled.
fn watch(stage: &Stage, pid: u32) -> Vec<f64> {
    let joined = || stage.joined.iter().map(|joined| joined.load(Relaxed)).sum::<u32>();
    while joined() < stage.users() && stage.failed.get().is_none() {
        thread::sleep(Duration::from_millis(50));
    }
    thread::sleep(Duration::from_secs(1));
    stage.begun_ns.store(stage.now_ns(), Relaxed);
    let begun = Instant::now();
    let used_s = || machine::usage(Some(pid)).map_or(0.0, |usage| usage.cpu_s);
    let until = |at: Duration| thread::sleep(at.saturating_sub(begun.elapsed()));
    let step = |step: u32| {
        until(stage.hold * step + Duration::from_secs(SETTLE_S));
        let (then_s, since) = (used_s(), Instant::now());
        until(stage.hold * (step + 1));
        (used_s() - then_s) / since.elapsed().as_secs_f64()
    };
    (0..stage.steps.len() as u32).take_while(|_| stage.failed.get().is_none()).map(step).collect()
}
