//! The load-test tool: an open model of chat users, every receiver verified, measured without self-deception.
//!
//! [`plan`] says who sends what ([`text`]) when. One [`worker`] a core moves bytes between its sockets and its
//! [`crowd`] of users; [`verify`], [`room`] and [`audit`] check what they hear, with [`frames`] for what was checked
//! before; [`mod@run`] moves all through the phases and [`report`] tells the result.
//!
//! A [`scenario`] adds pairs, a history, storms ([`ramp`] says who connects when), and readers that are [`slow`], whose
//! announced [`gaps`] are looked for in the history.

pub mod audit;
pub mod buffers;
pub mod cli;
pub mod crowd;
pub mod dice;
pub mod faults;
pub mod frames;
pub mod gaps;
pub mod latency;
pub mod machine;
pub mod outcome;
pub mod output;
pub mod plan;
pub mod preflight;
pub mod progress;
pub mod ramp;
pub mod report;
pub mod room;
pub mod run;
pub mod scenario;
pub mod sends;
pub mod slow;
pub mod target;
pub mod text;
pub mod unreached;
pub mod user;
pub mod verify;
pub mod worker;
pub mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use cli::RunArgs;
use machine::Machine;
use plan::Plan;
use preflight::{Fit, Has};
use progress::Progress;
use report::{Findings, Report, Run};
use world::{Route, World};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Usage(String),
    #[error("this machine cannot run it: {0}")]
    Preflight(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Setup(#[from] uring::SetupError),
    #[error("cannot write the result to {}: {error}", path.display())]
    Output { path: PathBuf, error: std::io::Error },
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Preflight(_) | Self::Setup(_) => 3,
            Self::Unreachable(_) => 4,
            Self::Output { .. } => 1,
        }
    }
}

/// Runs what was asked for, prints and writes the result, and returns the exit code.
pub fn run(mut args: RunArgs) -> Result<u8, Error> {
    let machine = Machine::read();
    let address = args.url.resolve().map_err(|error| Error::Usage(format!("--url {}: {error}", args.url)))?;
    let threads = args.threads.unwrap_or(machine::cores() as u16).min(args.users.min(256) as u16);
    check(&args)?;
    let has = Has::read();
    let fit = fit(&mut args, address, &has)?;
    let plan = Plan::new(args.shape());
    if plan.load().window_sends == 0 {
        return Err(Error::Usage(args.no_message()));
    }
    let slow = (0..args.users).filter(|&user| plan.role_of(user).is_slow()).count() as u64;
    let dials = preflight::files(args.users, slow, threads, fit.ring_sockets, &has).map_err(Error::Preflight)?;
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let output = output::choose(&args, &machine, begun.as_secs())?;
    let described = Run::new(&args, &plan, threads, begun.as_secs());
    println!("{described}machine  {machine}\nneeds    {}\n", fit.describe(threads, &has));
    for warning in preflight::warnings(&args, &machine) {
        println!("warning  {warning}\n");
    }

    let route = Route {
        url: args.url.clone(),
        address,
        sources: fit.sources,
        users_per_source: fit.users_per_source,
        ramp: args.ramp,
        threads,
        ring_sockets: fit.ring_sockets,
        dials,
        deflate: !args.no_deflate,
    };
    let world = World::new(plan, route, described.run_id.clone());
    let settings = run::Settings { drain: args.drain, give_up: args.give_up, server_pid: args.server_pid };
    let interrupted = interrupts()?;
    let measured = run::run(&world, settings, &interrupted, &mut Progress::new(args.progress))?;
    let report = Report::new(described, machine, &measured);
    print!("{}", Findings(&report));
    if let Some(directory) = output {
        output::write(&directory, &report)?;
        println!("written  {}", directory.display());
    }
    Ok(report.exit_code)
}

fn check(args: &RunArgs) -> Result<(), Error> {
    args.check().map_err(Error::Usage)?;
    if let Some(pid) = args.server_pid
        && machine::usage(Some(pid)).is_none()
    {
        return Err(Error::Usage(format!("--server-pid {pid}: there is no such process on this machine")));
    }
    Ok(())
}

/// Lowers the users to what the machine can carry, when that is allowed.
fn fit(args: &mut RunArgs, address: std::net::SocketAddr, has: &Has) -> Result<Fit, Error> {
    let fit = preflight::fit(args.users, address, &args.source, has);
    let Some(limit) = &fit.limit else { return Ok(fit) };
    if fit.users == 0 || !args.clamp {
        let help = format!("--users {} would work, or --clamp to do that by itself", fit.users);
        return Err(Error::Preflight(format!("--users {}: {limit}; {help}", args.users)));
    }
    println!("clamped  {} users instead of {}: {limit}", fit.users, args.users);
    args.users = fit.users;
    check(args)?;
    Ok(fit)
}

/// Set by the first SIGINT or SIGTERM; a second one ends the process at once.
fn interrupts() -> Result<Arc<AtomicBool>, Error> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupted)))
            .map_err(|error| Error::Usage(format!("signals cannot be caught: {error}")))?;
    }
    Ok(interrupted)
}
