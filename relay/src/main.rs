//! The relay's command line.

mod copy;

use std::net::SocketAddr;
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use clap::{Args, Parser, Subcommand};
use protocol::{centrifuge, native, snowflake};
use relay::config::{Limits, ServeArgs};
use relay::serve::{self, Plan};
use relay::store::{Opened, SchemaArgs};
use storage::MemoryStore;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A chat relay: messages go in over WebSocket, are stored durably, and reach every member of their room.
///
/// Clients connect to /native (binary, see protocol/README.md) or /connection/websocket (the Centrifuge client
/// protocol in JSON, with SDKs for every platform).
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
    #[arg(long, default_value = "127.0.0.1:9010", value_name = "ADDR:PORT")]
    listen: SocketAddr,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => serve_rooms(*args),
        Command::Schema(args) => args.script().map(|script| print!("{script}")).map_err(Into::into),
        Command::Copy(args) => copy::run(&args),
        Command::Echo(args) => echo(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve_rooms(args: ServeArgs) -> anyhow::Result<()> {
    args.limits.check()?;
    if args.node > snowflake::NODE_MAX {
        bail!("--node is {}, but must be 0 to {}", args.node, snowflake::NODE_MAX);
    }
    let shards = args.shards.unwrap_or_else(cores);
    if shards == 0 || shards > usize::from(snowflake::SHARD_MAX) + 1 {
        bail!("--shards is {shards}, but must be 1 to {}", snowflake::SHARD_MAX + 1);
    }
    let (location, options) = args.store.location(args.node)?;
    let Opened { store, kept, warnings } = location.open(&options)?;
    let (listen, node, limits, metrics) = (args.listen, args.node, args.limits, args.metrics);
    let plan = Plan { listen, store, shards, node, limits, echo: false, metrics };
    serve::run(plan, |address, capacity| {
        eprintln!("relay {}: {shards} shards, {kept}", env!("CARGO_PKG_VERSION"));
        for warning in &warnings {
            eprintln!("warning: {warning}");
        }
        eprintln!("capacity: {capacity}");
        eprintln!("native ws://{address}{} · Centrifuge ws://{address}{}", native::PATH, centrifuge::PATH);
        eprintln!("listening on {address}");
    })
}

fn echo(args: &EchoArgs) -> anyhow::Result<()> {
    const MESSAGE_BYTES_MAX: usize = 17 * 1024 * 1024;
    let limits = Limits {
        max_connections: 1024,
        frame_bytes_max: MESSAGE_BYTES_MAX,
        replies_bytes_max: 4 * MESSAGE_BYTES_MAX,
        ..Limits::defaults()
    };
    let store = Arc::new(MemoryStore::default());
    let plan = Plan { listen: args.listen, store, shards: cores(), node: 0, limits, echo: true, metrics: None };
    serve::run(plan, |address, _| eprintln!("listening on {address}, ws://{address}/echo"))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}
