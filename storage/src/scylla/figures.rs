//! What the engine counts, and what the driver measures.

use std::cell::Cell;

use scylla::observability::metrics::Metrics;

use crate::Metric;

/// Counts since the store was opened. Lives on the driver's thread.
#[derive(Default)]
pub struct Figures {
    /// Appends that are durable, their records, and the writes they took.
    pub appends: Cell<u64>,
    pub records: Cell<u64>,
    pub writes: Cell<u64>,
    /// Appends under way.
    pub in_flight: Cell<u64>,
    /// Requests that were tried again.
    pub retries: Cell<u64>,
    /// Sessions that were made because the one before had no connection left.
    pub sessions: Cell<u64>,
    /// The driver's counts of those sessions that are gone.
    retired: Cell<Driver>,
}

/// The driver's counters.
#[derive(Default, Clone, Copy)]
struct Driver {
    requests: u64,
    errors: u64,
    retries: u64,
    request_timeouts: u64,
    connection_timeouts: u64,
}

impl Driver {
    fn of(metrics: &Metrics) -> Self {
        Self {
            requests: metrics.get_requests_unpaged_num() + metrics.get_requests_automatically_paged_num(),
            errors: metrics.get_errors_unpaged_num() + metrics.get_errors_automatically_paged_num(),
            retries: metrics.get_retries_num(),
            request_timeouts: metrics.get_request_timeouts(),
            connection_timeouts: metrics.get_connection_timeouts(),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            errors: self.errors + other.errors,
            retries: self.retries + other.retries,
            request_timeouts: self.request_timeouts + other.request_timeouts,
            connection_timeouts: self.connection_timeouts + other.connection_timeouts,
        }
    }
}

/// Adds to a count.
pub fn add(count: &Cell<u64>, more: u64) {
    count.set(count.get() + more);
}

impl Figures {
    /// Another session takes over from the one with these metrics.
    pub fn retire(&self, metrics: &Metrics) {
        self.retired.set(self.retired.get().plus(Driver::of(metrics)));
        add(&self.sessions, 1);
    }

    /// All of it; `lease_s` is how long the lease still lasts, seconds, negative when it is over.
    pub fn metrics(&self, metrics: &Metrics, lease_s: f64) -> Vec<Metric> {
        let driver = self.retired.get().plus(Driver::of(metrics));
        let (count, gauge) = (Metric::counter, Metric::gauge);
        let quantile_s = |quantile| metrics.get_latency_percentile_ms(quantile).map_or(0.0, |ms| ms as f64 / 1e3);
        vec![
            count("relay_store_appends_total", "Appends made durable.", self.appends.get()),
            count("relay_store_records_total", "Records made durable.", self.records.get()),
            count("relay_store_writes_total", "Inserts and batches that the records went in.", self.writes.get()),
            count("relay_store_retries_total", "Requests tried again after an error or a timeout.", self.retries.get()),
            count(
                "relay_store_sessions_total",
                "Sessions made because all connections were lost.",
                self.sessions.get(),
            ),
            gauge("relay_store_appends_in_flight", "Appends under way.", self.in_flight.get() as f64),
            gauge(
                "relay_store_lease_seconds",
                "How long this relay may still write without renewing its lease.",
                lease_s,
            ),
            count("relay_cql_requests_total", "Requests the driver sent.", driver.requests),
            count("relay_cql_errors_total", "Requests that failed in the driver.", driver.errors),
            count("relay_cql_retries_total", "Requests the driver sent again by itself.", driver.retries),
            count("relay_cql_request_timeouts_total", "Requests without an answer in time.", driver.request_timeouts),
            count(
                "relay_cql_connection_timeouts_total",
                "Connections that could not be made in time.",
                driver.connection_timeouts,
            ),
            gauge("relay_cql_connections", "Open connections.", metrics.get_total_connections() as f64),
            gauge("relay_cql_latency_p50_seconds", "Median of the driver's requests.", quantile_s(50.0)),
            gauge("relay_cql_latency_p99_seconds", "99th percentile of the driver's requests.", quantile_s(99.0)),
        ]
    }
}
