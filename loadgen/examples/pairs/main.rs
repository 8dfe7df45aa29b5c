//! Compares two versions by runs that were made in pairs: the ratio B : A of each figure with an interval, and a verdict.
//!
//! `cargo run --release -p loadgen --example pairs -- [--bar NAME=RATIO]… DIR` reads DIR/1-a, DIR/1-b, DIR/2-a, … and
//! exits with 1 when a figure is worse than its bar, or a run of B failed. `just pairs` makes the runs first.

mod measured;
mod ratio;

use std::path::Path;
use std::process::ExitCode;

use measured::{METRICS, Measured, Metric};
use ratio::{Ratio, Verdict};

/// Verification failed in such a run.
const FAILED: i32 = 1;
/// The generator was late in such a run: its times are the machine's.
const LATE: i32 = 5;

fn main() -> ExitCode {
    match compare() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("pairs: {error}");
            ExitCode::from(2)
        }
    }
}

/// Prints the comparison. False: B is worse.
fn compare() -> Result<bool, String> {
    let (bars, directory) = arguments()?;
    let mut pairs = Vec::new();
    for round in 1.. {
        let side = |side: &str| Path::new(&directory).join(format!("{round}-{side}"));
        if !side("a").exists() || !side("b").exists() {
            break;
        }
        pairs.push((Measured::read(&side("a"))?, Measured::read(&side("b"))?));
    }
    if pairs.is_empty() {
        return Err(format!("{directory}: holds no pair of runs (1-a and 1-b)"));
    }
    println!("| figure | A | B | B : A | interval | bar | verdict |\n|---|--:|--:|--:|--:|--:|---|");
    let verdicts: Vec<Verdict> = METRICS.iter().filter_map(|metric| row(metric, &pairs, &bars)).collect();
    let coverage = Ratio::of(&vec![(1.0, 1.0); pairs.len()]).map_or(0.0, |ratio| ratio.coverage);
    println!(
        "\n{} pairs; A and B: medians; intervals hold the true median ratio with probability {:.0} %",
        pairs.len(),
        100.0 * coverage
    );
    let failed = |runs: Vec<i32>, code: i32| runs.iter().filter(|&&found| found == code).count();
    let codes = |side: fn(&(Measured, Measured)) -> i32| pairs.iter().map(side).collect::<Vec<_>>();
    let (a, b) = (codes(|pair| pair.0.exit_code), codes(|pair| pair.1.exit_code));
    let (failed_a, failed_b) = (failed(a.clone(), FAILED), failed(b.clone(), FAILED));
    let late = failed(a, LATE) + failed(b, LATE);
    if late > 0 {
        println!(
            "in {late} of {} runs the generator was late: the machine was busy, and their times are its own",
            2 * pairs.len()
        );
    }
    if failed_a + failed_b > 0 {
        println!("verification failed in {failed_a} runs of A and {failed_b} of B");
    }
    let is_worse = verdicts.contains(&Verdict::Worse) || failed_b > 0;
    println!("verdict  {}", words(is_worse, verdicts.contains(&Verdict::Undecided)));
    Ok(!is_worse)
}

/// Bars by name, and the directory.
fn arguments() -> Result<(Vec<(String, f64)>, String), String> {
    let (mut bars, mut directory) = (Vec::new(), None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word != "--bar" {
            directory = Some(word);
            continue;
        }
        let text = words.next().unwrap_or_default();
        let names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        let valid = || format!("--bar {text}: valid is NAME=RATIO with NAME one of {}", names.join(", "));
        let (name, ratio) = text.split_once('=').ok_or_else(valid)?;
        let ratio = ratio.parse().ok().filter(|ratio| *ratio > 0.0).ok_or_else(valid)?;
        bars.push((names.contains(&name).then(|| name.to_owned()).ok_or_else(valid)?, ratio));
    }
    Ok((bars, directory.ok_or("name the directory of the runs")?))
}

fn row(metric: &Metric, pairs: &[(Measured, Measured)], bars: &[(String, f64)]) -> Option<Verdict> {
    let values: Vec<_> = pairs.iter().filter_map(|(a, b)| (metric.of)(a).zip((metric.of)(b))).collect();
    let ratio = Ratio::of(&values)?;
    let of_side = |side: fn(&(f64, f64)) -> f64| median(values.iter().map(side).collect());
    let bar = bars.iter().rev().find(|(name, _)| name == metric.name).map(|(_, bar)| *bar).or(metric.bar);
    let verdict = bar.map(|bar| ratio.verdict(bar));
    let word = match verdict {
        None => "",
        Some(Verdict::Holds) => "holds",
        Some(Verdict::Worse) => "WORSE",
        Some(Verdict::Undecided) => "undecided",
    };
    println!(
        "| {}: {} | {} | {} | {:.3} | {:.3} to {:.3} | {} | {word} |",
        metric.name,
        metric.unit,
        digits(of_side(|pair| pair.0)),
        digits(of_side(|pair| pair.1)),
        ratio.median,
        ratio.low,
        ratio.high,
        bar.map(|bar| format!("≤ {bar}")).unwrap_or_default(),
    );
    verdict
}

fn words(is_worse: bool, is_undecided: bool) -> &'static str {
    match (is_worse, is_undecided) {
        (true, _) => "B is worse than its bars",
        (_, true) => {
            "not worse, but undecided where it says so: more rounds, longer ones or a quieter machine would tell"
        }
        _ => "every bar holds",
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
}

/// Four digits that matter.
fn digits(value: f64) -> String {
    let places = (3 - value.abs().max(1e-6).log10().floor() as i32).clamp(0, 6) as usize;
    format!("{value:.places$}")
}
