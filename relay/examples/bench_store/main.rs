//! What a storage engine does for publishes: durable messages a second, the time to their acks, and the CPU they take.
//!
//! `cargo run --release -p relay --example bench_store -- --store embedded:DIR`, or `just bench-store`, which finds
//! the directory or starts the database, and keeps what is printed. First through [`relay::persist`] alone, then
//! through a whole relay. Flat out, a fixed number of publishes is always outstanding; at a rate they arrive at random
//! (Poisson) times and an ack is timed from there, whether or not the publish could be sent by then.

mod chat;
mod clients;
mod counted;
mod cpu;
mod disk;
mod meter;
mod persist;
mod relayed;
mod server;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Parser;
use loadgen::machine::Machine;
use relay::store::{Location, Options};
use storage::scylla::Replication;

use counted::Counted;
use meter::{Load, Pace};
use server::Server;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Durable publishes a second, ack times and CPU of a storage engine.
#[derive(Parser)]
struct Cli {
    /// The store, as `relay serve --store` names it; rooms are added to it
    #[arg(long, value_name = "URL")]
    store: String,
    /// Copies of each row of a keyspace that has to be made
    #[arg(long, value_name = "N")]
    replication: Option<Replication>,
    /// Numbers of rooms
    #[arg(long, value_delimiter = ',', default_value = "1,64,1000")]
    rooms: Vec<usize>,
    /// Publishes a second at which ack times are measured; 0 is flat out
    #[arg(long, value_delimiter = ',', default_value = "0,1167,50000")]
    rates: Vec<f64>,
    /// Publishes outstanding flat out, over all rooms
    #[arg(long, default_value_t = 4096)]
    outstanding: usize,
    /// Length of each measurement, after two seconds of warming up
    #[arg(long, default_value_t = 10.0, value_name = "S")]
    seconds: f64,
    /// What to measure
    #[arg(long, value_delimiter = ',', default_value = "persist,relay")]
    levels: Vec<String>,
    /// Connections of the clients, with --levels relay
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// The relay's binary
    #[arg(long, default_value = "target/release/relay", value_name = "FILE")]
    relay: PathBuf,
    /// What else belongs to the heading, such as how the database was started
    #[arg(long, default_value = "")]
    note: String,
}

const WARM_UP: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    match bench(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench_store: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(cli: &Cli) -> anyhow::Result<()> {
    let location: Location = cli.store.parse().map_err(|why| anyhow!("--store: {why}"))?;
    println!("machine      {}", Machine::read());
    println!("store        {location}{}{}", if cli.note.is_empty() { "" } else { ", " }, cli.note);
    if let Location::Embedded(dir) = &location {
        println!("disk         {}", disk::Fsync::measure(dir)?);
    }
    println!("publishes    {}", chat::shape());
    println!("flat out     {} outstanding over all rooms, always", cli.outstanding);
    for level in &cli.levels {
        match &**level {
            "persist" => persist_level(cli, &location)?,
            "relay" => relay_level(cli)?,
            other => bail!("--levels: {other} is none of persist, relay"),
        }
    }
    Ok(())
}

/// Every number of rooms flat out and at every rate.
fn loads(cli: &Cli) -> impl Iterator<Item = Load> {
    cli.rooms.iter().flat_map(move |&rooms| {
        cli.rates.iter().map(move |&rate| {
            let pace = if rate > 0.0 { Pace::Rate(rate) } else { Pace::FlatOut { outstanding: cli.outstanding } };
            Load { rooms, pace, warm_up: WARM_UP, measured: Duration::from_secs_f64(cli.seconds) }
        })
    })
}

fn persist_level(cli: &Cli, location: &Location) -> anyhow::Result<()> {
    println!(
        "\nthrough persist alone: one thread in a shard's place, one append in flight a room; CPU of all other threads"
    );
    println!("{}", table::heading());
    let opened = location.open(&Options { replication: cli.replication.clone(), ..Options::default() })?;
    let store = Counted::of(opened.store);
    for load in loads(cli) {
        println!("{}", table::row(&load, &persist::run(&store, &load)?));
    }
    Ok(())
}

fn relay_level(cli: &Cli) -> anyhow::Result<()> {
    println!(
        "\nthrough a relay: {} native clients over TCP, in rooms without members; CPU of the relay",
        cli.connections
    );
    println!("{}", table::heading());
    let server = Server::start(&cli.relay, &cli.store, cli.replication.as_ref())?;
    for load in loads(cli) {
        println!("{}", table::row(&load, &relayed::run(&server, &load, cli.connections)?));
    }
    server.stop()
}
