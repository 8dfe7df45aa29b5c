//! What the storage threads have done, and what is under way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use storage::Metric;

/// Counts since the start, kept by the storage threads and an engine that calls back; read by anybody.
#[derive(Default)]
pub struct Counts {
    appends: AtomicU64,
    records: AtomicU64,
    reads: AtomicU64,
    refused: AtomicU64,
    errors: AtomicU64,
    flights: Mutex<Flights>,
}

/// Durable writes under way, by number: since when, and of how many appends.
#[derive(Default)]
struct Flights {
    last: u64,
    under_way: BTreeMap<u64, (Instant, usize)>,
}

impl Counts {
    /// So many appends, handed over at `since`, are about to be written. Returns the number to end it with.
    pub(super) fn begin(&self, since: Instant, appends: usize) -> u64 {
        let mut flights = self.flights();
        flights.last += 1;
        let number = flights.last;
        flights.under_way.insert(number, (since, appends));
        number
    }

    /// They are durable: so many records.
    pub(super) fn end(&self, number: u64, records: usize) {
        let ended = self.flights().under_way.remove(&number);
        self.appends.fetch_add(ended.map_or(0, |(_, appends)| appends as u64), Ordering::Relaxed);
        self.records.fetch_add(records as u64, Ordering::Relaxed);
    }

    pub(super) fn read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// A read waited too long and was not tried.
    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// An attempt of any kind failed.
    pub(super) fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Appends that were taken and are not durable yet.
    pub fn in_flight(&self) -> usize {
        self.flights().under_way.values().map(|(_, appends)| appends).sum()
    }

    /// How long the oldest append in flight has waited.
    pub fn oldest(&self) -> Option<Duration> {
        self.flights().under_way.values().next().map(|(since, _)| since.elapsed())
    }

    /// Everything, for `/metrics`.
    pub fn metrics(&self) -> Vec<Metric> {
        let oldest_s = self.oldest().unwrap_or_default().as_secs_f64();
        let gauge = Metric::gauge;
        let counter = |name, help, count: &AtomicU64| Metric::counter(name, help, count.load(Ordering::Relaxed));
        vec![
            gauge("relay_persist_appends_in_flight", "Appends that are not durable yet.", self.in_flight() as f64),
            gauge("relay_persist_append_oldest_seconds", "How long the oldest append in flight has waited.", oldest_s),
            counter("relay_persist_appends_total", "Appends that are durable.", &self.appends),
            counter("relay_persist_records_total", "Messages that are durable.", &self.records),
            counter("relay_persist_reads_total", "Opens and reads of logs that were tried.", &self.reads),
            counter(
                "relay_persist_reads_refused_total",
                "Opens and reads that waited too long to be tried.",
                &self.refused,
            ),
            counter("relay_persist_errors_total", "Attempts to write or read that failed.", &self.errors),
        ]
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
