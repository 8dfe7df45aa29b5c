//! How the cost of one room grows with its viewers: a table and a plot of measured runs.
//!
//! `cargo run --release -p loadgen --example growth -- RUN_DIR…` reads each directory's result.json, prints a Markdown
//! table and writes bench-results/growth.svg. `just growth` makes the runs first.

mod axes;
mod measured;
mod plot;

use std::path::Path;
use std::process::ExitCode;

use measured::Measured;

const PLOT: &str = "bench-results/growth.svg";

fn main() -> ExitCode {
    match report() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("growth: {error}");
            ExitCode::FAILURE
        }
    }
}

fn report() -> Result<(), String> {
    let mut runs =
        std::env::args().skip(1).map(|dir| Measured::read(Path::new(&dir))).collect::<Result<Vec<_>, _>>()?;
    if runs.is_empty() {
        return Err("name the directories of the runs, for example bench-results/runs/*-room-*".to_owned());
    }
    runs.sort_by_key(|run| run.users);
    print!("{}", measured::table(&runs));
    plot::write(Path::new(PLOT), &runs).map_err(|error| format!("{PLOT}: {error}"))?;
    eprintln!("written  {PLOT}");
    Ok(())
}
