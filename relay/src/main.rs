//! The relay's command line.

mod copy;

use std::io::Write;
use std::net::SocketAddr;
use std::num::NonZero;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use relay::config::{self, Limits, ServeArgs};
use relay::invalid::Invalid;
use relay::log::{self, Format};
use relay::serve::{self, Plan};
use relay::store::{Location, Opened, Options, SchemaArgs};
use tracing::error;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A chat relay: messages go in over WebSocket, are stored durably, and reach every member of their room.
///
/// Clients connect to /native (binary, see protocol/README.md) or /connection/websocket (the Centrifuge client
/// protocol, for those of its SDKs that speak JSON).
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  relay serve                                          on 127.0.0.1:8000, messages in ./relay-data
  relay serve --listen 0.0.0.0:8000 --data /var/lib/relay --max-connections 500000
  relay serve --store scylla://db1,db2,db3/chat        messages in ScyllaDB
  relay serve --memory --listen 127.0.0.1:0            for a test: free port, nothing kept";

#[derive(Subcommand)]
enum Command {
    /// Serve chat rooms until SIGTERM
    Serve(Box<ServeArgs>),
    /// Print the CQL that makes the keyspace and tables of a scylla:// store, for those who want to carry it out themselves
    Schema(SchemaArgs),
    /// Copy the whole history of one store to another; may be ended at any point and run again
    Copy(copy::CopyArgs),
    /// Send every WebSocket message back, with the relay's own sockets and frames (for conformance suites)
    Echo(EchoArgs),
}

#[derive(Args)]
struct EchoArgs {
    /// Address and port to listen on; the path is /echo
    #[arg(long, default_value = "127.0.0.1:9010", value_name = "ADDR:PORT", value_parser = config::address)]
    listen: SocketAddr,
}

fn main() -> ExitCode {
    uring::raise_limits();
    let done = match Cli::parse().command {
        Command::Serve(args) => serve_rooms(*args),
        Command::Schema(args) => args.script().map(|script| print(&script)).map_err(Into::into),
        Command::Copy(args) => copy::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Echo(args) => return echo(&args),
    };
    done.unwrap_or_else(|error| {
        log::plain(&format!("error: {error:#}"));
        code(&error)
    })
}

/// To stdout, whose reader may be gone.
fn print(text: &str) -> ExitCode {
    std::io::stdout().write_all(text.as_bytes()).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

/// What was typed cannot work: 2, as clap's own refusals, for starting again will not help.
fn code(error: &anyhow::Error) -> ExitCode {
    if error.is::<Invalid>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

fn serve_rooms(args: ServeArgs) -> anyhow::Result<ExitCode> {
    args.limits.check()?;
    let shards = args.shards.unwrap_or_else(cores);
    args.check(shards)?;
    let (location, options) = args.store.location(args.node)?;
    log::start(args.log);
    let ServeArgs { listen, node, limits, control, .. } = args;
    Ok(run(&Plan { listen, shards, node, limits, echo: false, control }, || Ok(location.open(&options)?)))
}

fn echo(args: &EchoArgs) -> ExitCode {
    const MESSAGE_BYTES_MAX: usize = 17 * 1024 * 1024;
    let limits = Limits {
        max_connections: 1024,
        frame_bytes_max: MESSAGE_BYTES_MAX,
        replies_bytes_max: 4 * MESSAGE_BYTES_MAX,
        memory_bytes_max: 64 * MESSAGE_BYTES_MAX,
        ..Limits::defaults()
    };
    log::start(Format::Text);
    let plan = Plan { listen: args.listen, shards: cores(), node: 0, limits, echo: true, control: None };
    run(&plan, || Ok(Location::Memory.open(&Options::default())?))
}

/// Runs a relay; what ended it is told in its log.
fn run(plan: &Plan, open: impl FnOnce() -> anyhow::Result<Opened>) -> ExitCode {
    let done = serve::run(plan, open);
    if let Err(error) = &done {
        error!("{error:#}");
    }
    log::finish();
    done.map_or_else(|error| code(&error), |()| ExitCode::SUCCESS)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}
