//! How long the disk under a directory takes to make a small write durable.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use loadgen::latency::{Latency, Summary};

const WRITES: usize = 500;
const WRITE_BYTES: usize = 4096;

/// Times of fdatasync after appending 4 KiB.
pub struct Fsync(Summary);

impl Fsync {
    /// Appends to a file of its own in `dir`, which is made if it does not exist.
    pub fn measure(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join("fsync-probe");
        let mut file = File::create(&path)?;
        let mut times = Latency::default();
        for _ in 0..WRITES {
            file.write_all(&[7; WRITE_BYTES])?;
            let began = Instant::now();
            file.sync_data()?;
            times.record(began.elapsed().as_nanos() as u64);
        }
        std::fs::remove_file(path)?;
        Ok(Self(times.summary().expect("there were writes")))
    }
}

impl fmt::Display for Fsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: u64| ns as f64 / 1e6;
        write!(
            f,
            "fdatasync after appending 4 KiB: p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms of {WRITES}",
            ms(self.0.p50_ns),
            ms(self.0.p99_ns),
            ms(self.0.max_ns)
        )
    }
}
