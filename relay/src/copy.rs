//! `relay copy`: moves the whole history of one store to another, with its progress on stderr.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use relay::invalid::Invalid;
use relay::log;
use relay::store::{KeyspaceArgs, Location, Options};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use storage::copy::{CopyError, Progress, copy, verify};

/// Time between two lines without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What was typed.
#[derive(Args)]
pub struct CopyArgs {
    /// Store to copy from, as `serve --store` names it; no relay may be using it
    #[arg(long, value_name = "URL", env = "RELAY_COPY_FROM", hide_env_values = true)]
    from: String,
    /// Store to copy to; what it has of the same history already is kept
    #[arg(long, value_name = "URL", env = "RELAY_COPY_TO", hide_env_values = true)]
    to: String,
    /// Afterwards read both stores completely and compare every message
    #[arg(long)]
    verify: bool,
    /// Number of the node in the deployment whose ids these are (0 to 63)
    #[arg(long, default_value_t = 0, value_name = "N")]
    node: u16,
    #[command(flatten)]
    keyspace: KeyspaceArgs,
}

/// Copies, and compares if asked. Ok only when every room is the same on both sides.
pub fn run(args: &CopyArgs) -> anyhow::Result<()> {
    let from = location("--from", &args.from)?;
    let to = location("--to", &args.to)?;
    if from == to {
        return Err(Invalid(format!("--from and --to name the same store, {from}")).into());
    }
    let stop = stop_flag()?;
    log::plain(&format!("copying {from} to {to}"));
    let KeyspaceArgs { replication, retention_s } = args.keyspace.clone();
    let reading = Options { node: args.node, exists: true, ..Options::default() };
    let writing = Options { exists: false, replication, retention_s, ..reading.clone() };
    let source = from.open(&reading).context("--from")?;
    let destination = to.open(&writing).context("--to")?;
    destination.warnings.iter().for_each(|warning| log::plain(warning));
    let (source, destination) = (&*source.store, &*destination.store);

    let mut shown = Shown::new("copied", &stop);
    let progress = copy(source, destination, &mut |progress| shown.show(progress)).map_err(hint)?;
    if progress.rooms == 0 {
        bail!("{from} has no rooms, so nothing was copied: is it the store that was meant?");
    }
    let already = match progress.already {
        0 => String::new(),
        already if already == progress.messages => ", all of which were there already".into(),
        already => format!(", {} of which were there already", HumanCount(already)),
    };
    print(&format!("{}{already}; every room ends with the same message on both sides", shown.summary(&progress)));
    if args.verify {
        let mut shown = Shown::new("compared", &stop);
        let progress = verify(source, destination, &mut |progress| shown.show(progress)).map_err(hint)?;
        print(&format!("{}; all the same", shown.summary(&progress)));
    }
    Ok(())
}

/// A result, which is as good when nobody reads it.
fn print(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn location(flag: &str, url: &str) -> Result<Location, Invalid> {
    match url.parse() {
        Ok(Location::Memory) => Err(Invalid(format!("{flag}: memory: keeps nothing, so there is nothing to copy"))),
        Ok(location) => Ok(location),
        Err(why) => Err(Invalid(format!("{flag}: {why}"))),
    }
}

/// Set by the first SIGINT or SIGTERM; the second ends the process at once, which does no harm either.
fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 1, stop.clone())?;
        flag::register(signal, stop.clone())?;
    }
    Ok(stop)
}

/// The error, and whether a repetition helps.
fn hint(error: CopyError) -> anyhow::Error {
    match error {
        CopyError::Source(_) | CopyError::Destination(_) | CopyError::Stopped => {
            anyhow::Error::new(error).context("what was copied stays; the same command goes on from there")
        }
        other => other.into(),
    }
}

/// How far it is: a bar on a terminal, else a line now and then.
struct Shown<'a> {
    done: &'static str,
    stop: &'a AtomicBool,
    bar: Option<ProgressBar>,
    began: Instant,
    next_line: Instant,
}

impl<'a> Shown<'a> {
    fn new(done: &'static str, stop: &'a AtomicBool) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("[{bar:30}] {percent:>3} %  {msg}");
            ProgressBar::new(1).with_style(style.expect("the template is a constant").progress_chars("=> "))
        });
        Self { done, stop, bar, began: Instant::now(), next_line: Instant::now() + LINE_EVERY }
    }

    fn show(&mut self, progress: &Progress) -> ControlFlow<()> {
        if let Some(bar) = &self.bar {
            bar.set_length(progress.messages_total);
            bar.set_position(progress.messages);
            bar.set_message(self.line(progress));
        } else if Instant::now() >= self.next_line {
            self.next_line = Instant::now() + LINE_EVERY;
            log::plain(&self.line(progress));
        }
        if self.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn line(&self, progress: &Progress) -> String {
        let Progress { rooms_total, rooms, messages_total, messages, .. } = *progress;
        if messages == 0 && rooms == 0 {
            return format!("counting: {} messages in {} rooms", HumanCount(messages_total), HumanCount(rooms_total));
        }
        let per_s = self.per_s(progress);
        let left = match per_s {
            0 => String::new(),
            per_s => format!(", {} left", HumanDuration(Duration::from_secs((messages_total - messages) / per_s))),
        };
        format!(
            "{} of {} messages, {} of {} rooms, {}/s{left}",
            HumanCount(messages),
            HumanCount(messages_total),
            HumanCount(rooms),
            HumanCount(rooms_total),
            HumanCount(per_s),
        )
    }

    /// Messages a second, without those that were there before.
    fn per_s(&self, progress: &Progress) -> u64 {
        ((progress.messages - progress.already) as f64 / self.began.elapsed().as_secs_f64()) as u64
    }

    fn summary(&self, progress: &Progress) -> String {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        format!(
            "{} {} messages in {} rooms in {:.1} s{}",
            self.done,
            HumanCount(progress.messages),
            HumanCount(progress.rooms),
            self.began.elapsed().as_secs_f64(),
            match self.per_s(progress) {
                0 => String::new(),
                per_s => format!(", {}/s", HumanCount(per_s)),
            },
        )
    }
}
