//! What hostile clients can do to everybody else: `cargo run --release -p relay --example attack -- [NAME…]`, or
//! `just attack`.
//!
//! Each attack has a relay of its own, a crowd of healthy users on it, and newcomers. The crowd is measured before,
//! during and after; the relay's memory is watched all the time. An attack passes when the healthy hardly notice:
//! see [`verdict`]. Load goes to loopback only, each attack is bounded in connections and time.

mod attacks;
mod crowd;
mod server;
mod verdict;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use loadgen::machine::Machine;
use rustix::process::setpriority_process;

use attacks::{ATTACKS, Attack, Target};
use crowd::{Crowd, Phase};
use server::Server;
use verdict::{HEADING, Verdict};

/// Attacks a relay as hostile clients would and says what healthy users noticed.
#[derive(Parser)]
struct Cli {
    /// Attacks to run, by name or the beginning of one; all of them unless given
    names: Vec<String>,
    /// List the attacks
    #[arg(long)]
    list: bool,
    /// The relay to attack
    #[arg(long, default_value = "target/release/relay", value_name = "FILE")]
    relay: PathBuf,
    /// How long the healthy are measured before and after, seconds
    #[arg(long, default_value_t = 6, value_name = "S")]
    quiet_s: u64,
    /// How long the attack goes on, seconds
    #[arg(long, default_value_t = 10, value_name = "S")]
    attack_s: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    if cli.list {
        for attack in ATTACKS {
            println!("{:20} {}", attack.name, attack.what);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !cli.relay.exists() {
        bail!("--relay {}: there is no such file; build it with cargo build --release", cli.relay.display());
    }
    let chosen = chosen(&cli.names)?;
    println!("machine  {}", Machine::read());
    println!(
        "healthy  200 users in 20 rooms, a line a second each, and two newcomers a second; {} s before and after\n",
        cli.quiet_s
    );
    println!("{HEADING}");
    let mut failed = 0;
    for attack in &chosen {
        let verdict = run(attack, &cli).with_context(|| attack.name)?;
        println!("{verdict}");
        failed += usize::from(!verdict.holds());
    }
    println!("{} passed, {failed} failed", chosen.len() - failed);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Attack>> {
    if let Some(unknown) = names.iter().find(|name| !ATTACKS.iter().any(|attack| attack.name.starts_with(&***name))) {
        bail!("there is no attack {unknown:?}; --list names them");
    }
    let is_named = |attack: &&Attack| names.is_empty() || names.iter().any(|name| attack.name.starts_with(&**name));
    Ok(ATTACKS.iter().filter(is_named).collect())
}

fn run(attack: &'static Attack, cli: &Cli) -> anyhow::Result<Verdict> {
    let mut server = Server::start(&cli.relay, attack.flags)?;
    let (quiet, length) = (Duration::from_secs(cli.quiet_s), Duration::from_secs(cli.attack_s));
    if let Some(prepare) = attack.prepare {
        block_on(prepare(server.target(Instant::now() + Duration::from_mins(2))))?;
        if attack.restarted {
            server.restart()?;
        }
    }
    let crowd = Crowd::start(server.address)?;
    thread::sleep(quiet);
    crowd.phase(Phase::During);
    let target = server.target(Instant::now() + length);
    let attacker = attacker(attack, target.clone());
    thread::sleep(length / 2);
    // While whoever else asks for figures is still there.
    let scrape = block_on(target.scrape_time());
    thread::sleep(target.left());
    crowd.phase(Phase::After);
    let wrong = attacker.join().map_err(|_| anyhow::anyhow!("the attacker panicked"))?;
    // An attack that needed longer than its time is over now; the healthy have time to recover.
    thread::sleep(quiet);
    let healthy = crowd.finish();
    let ended = server.stop();
    Ok(Verdict { name: attack.name, healthy, ended, wrong, scrape })
}

/// The attack on a thread of its own, less important than the healthy: it must not win by taking their CPU. Returns what
/// the relay answered wrongly.
fn attacker(attack: &'static Attack, target: Arc<Target>) -> thread::JoinHandle<Option<String>> {
    thread::spawn(move || {
        set_nice(10);
        block_on((attack.run)(target)).err().map(|error| format!("{error:#}"))
    })
}

/// Of this thread only, as Linux has it. Without the right to, everybody is as important as before.
fn set_nice(nice: i32) {
    let _ = setpriority_process(Some(rustix::thread::gettid()), nice);
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made").block_on(work)
}
