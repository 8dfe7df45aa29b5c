//! The printed table.

use std::fmt::Write;

use crate::meter::{Load, Measured, Pace};

/// Threads that take less than this, microseconds a message, are not named.
const NAMED_US: f64 = 0.05;

/// The columns.
pub fn heading() -> String {
    format!(
        "{:>5}  {:>9}  {:>9}  {:>8}  {:>8}  {:>8}  {:>8}  {:>9}  {:>9}  CPU us a message",
        "rooms", "asked/s", "acked/s", "p50 ms", "p99 ms", "max ms", "a append", "a write", "write ms"
    )
}

/// One run.
pub fn row(load: &Load, measured: &Measured) -> String {
    let asked = match load.pace {
        Pace::FlatOut { .. } => "flat out".to_owned(),
        Pace::Rate(per_s) => format!("{per_s:.0}"),
    };
    let ms = |ns: Option<u64>| ns.map_or("-".to_owned(), |ns| format!("{:.1}", ns as f64 / 1e6));
    let figure = |figure: Option<f64>| figure.map_or("-".to_owned(), |figure| format!("{figure:.1}"));
    let ack = measured.ack;
    let mut row = format!(
        "{:>5}  {:>9}  {:>9.0}  {:>8}  {:>8}  {:>8}  {:>8}  {:>9}  {:>9}  {:.2}:",
        load.rooms,
        asked,
        measured.per_s,
        ms(ack.map(|ack| ack.p50_ns)),
        ms(ack.map(|ack| ack.p99_ns)),
        ms(ack.map(|ack| ack.max_ns)),
        figure(measured.records_per_append),
        figure(measured.records_per_write),
        figure(measured.write_ms),
        measured.cpu.iter().map(|(_, us)| us).sum::<f64>(),
    );
    for (name, us) in measured.cpu.iter().filter(|(_, us)| *us >= NAMED_US) {
        let _ = write!(row, " {name} {us:.2}");
    }
    if measured.refused > 0 {
        let _ = write!(row, "; {} refused", measured.refused);
    }
    if measured.unanswered > 0 {
        let _ = write!(row, "; {} UNANSWERED", measured.unanswered);
    }
    row
}
