//! Log lines: made by `tracing`, written to stderr by a thread of their own.
//!
//! Whoever logs never waits and never fails: lines go into a bounded queue, what does not fit or cannot be written is
//! counted and lost. A reader of stderr that is gone or stands still costs the relay nothing but its lines.
//! No message bodies; text of clients only as `{:?}` writes it.

use std::io::{self, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use flume::{Receiver, Sender};
use rustix::io::{Errno, write};
use rustix::stdio::stderr;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

/// Lines that may wait to be written; further ones are lost.
const LINES_MAX: usize = 1024;
/// How long the end waits for lines that are not written yet.
const FINISH_WAIT: Duration = Duration::from_millis(500);
/// Lines of one kind that may repeat are written at most this often.
const REPEAT_EVERY: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<Sender<Entry>> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);

/// How a line looks.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Format {
    /// Time, level, message
    Text,
    /// One object a line
    Json,
}

enum Entry {
    Line(Vec<u8>),
    /// All lines before it are written, or lost.
    Finish(Sender<()>),
}

/// Sends this process's events to stderr from now on; only the first call has an effect.
pub fn start(format: Format) {
    let (queue, lines) = flume::bounded(LINES_MAX);
    if QUEUE.set(queue).is_err() {
        return;
    }
    thread::Builder::new().name("log".into()).spawn(move || write_all(&lines)).expect("a thread can be started");
    // Those of libraries have no bound on their number.
    let ours = Targets::new().with_target("relay", LevelFilter::INFO).with_target("storage", LevelFilter::INFO);
    let subscriber = tracing_subscriber::registry().with(layer(format).with_filter(ours));
    tracing::subscriber::set_global_default(subscriber).expect("nobody else sets a subscriber");
}

fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(format: Format) -> Box<dyn Layer<S> + Send + Sync> {
    let layer = fmt::layer().with_ansi(false).with_target(false).with_writer(Lines);
    match format {
        Format::Text => layer.boxed(),
        Format::Json => layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
    }
}

/// Waits until what was logged is written, but not long.
pub fn finish() {
    let (done, finished) = flume::bounded(1);
    if let Some(queue) = QUEUE.get()
        && queue.try_send(Entry::Finish(done)).is_ok()
    {
        let _ = finished.recv_timeout(FINISH_WAIT);
    }
}

/// Lines that nobody will read.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Writes a line to stderr as it is: for commands, and for what is wrong with the command line.
pub fn plain(line: &str) {
    // Who closed stderr does not want to know.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Calls `told` with the name of each thread that panics, after a line about it.
pub fn on_panic(told: impl Fn(String) + Send + Sync + 'static) {
    panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        let name = thread::current().name().unwrap_or("without a name").to_owned();
        let place = info.location().map_or_else(String::new, |location| format!(" at {location}"));
        tracing::error!("thread {name} panicked{place}: {}", info.payload_as_str().unwrap_or("no reason given"));
        told(name);
    }));
}

/// Lets a kind of line pass that may repeat: at most one a second.
#[derive(Default)]
pub struct Throttle(Mutex<(Option<Instant>, u64)>);

impl Throttle {
    /// Whether a line may be written now: how many were held back since the last one.
    pub fn pass(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, held) = &mut *state;
        if last.is_some_and(|at| at.elapsed() < REPEAT_EVERY) {
            *held += 1;
            return None;
        }
        *last = Some(Instant::now());
        Some(std::mem::take(held))
    }
}

/// ` (and 5 more like it)`, or nothing.
pub fn and_more(held: u64) -> String {
    if held == 0 { String::new() } else { format!(" (and {held} more like it)") }
}

/// The queue as what `tracing` writes to.
struct Lines;

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl Write for Lines {
    /// Called once for each event.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if QUEUE.get().is_none_or(|queue| queue.try_send(Entry::Line(one_line(event))).is_err()) {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An event stays one line, whatever an error of a library has in its text.
fn one_line(event: &[u8]) -> Vec<u8> {
    let text = event.strip_suffix(b"\n").unwrap_or(event);
    let mut line = text.split(|&byte| byte == b'\n' || byte == b'\r').collect::<Vec<_>>().join(&b"\\n"[..]);
    line.push(b'\n');
    line
}

fn write_all(lines: &Receiver<Entry>) {
    let mut told = 0;
    for entry in lines {
        match entry {
            Entry::Line(line) => {
                if !write_out(&line) {
                    LOST.fetch_add(1, Ordering::Relaxed);
                } else if lost() > told {
                    told = lost();
                    tracing::warn!("{told} lines of this log were lost so far: stderr was not read in time");
                }
            }
            Entry::Finish(done) => drop(done.send(())),
        }
    }
}

/// Around std's lock of stderr: who holds that may be stuck.
fn write_out(mut line: &[u8]) -> bool {
    while !line.is_empty() {
        match write(stderr(), line) {
            Ok(written) => line = &line[written..],
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        assert_eq!(one_line(b"time INFO a\nb\r\nc\n"), b"time INFO a\\nb\\n\\nc\n");
        assert_eq!(one_line(b"plain\n"), b"plain\n");
    }

    #[test]
    fn what_repeats_is_held_back_and_counted() {
        let throttle = Throttle::default();
        assert_eq!(throttle.pass(), Some(0));
        assert_eq!([throttle.pass(), throttle.pass()], [None, None]);
        throttle.0.lock().unwrap().0 = Instant::now().checked_sub(REPEAT_EVERY);
        assert_eq!(throttle.pass(), Some(2));
        assert_eq!((and_more(0).as_str(), and_more(2).as_str()), ("", " (and 2 more like it)"));
    }
}
