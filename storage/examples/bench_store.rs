//! Prints what durable appends cost on this machine: `cargo run --release -p storage --example bench_store -- DIR`.
//!
//! With `--start N` as well it measures how long a directory with N rooms takes to open.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::{Content, OwnedParts};
use storage::{Append, EmbeddedStore, Key, Kind, Options, Record, Store};

const SECONDS: Duration = Duration::from_secs(5);
const BODY: &str = "오늘 방송 진짜 재밌다 ㅋㅋㅋ PogChamp did you see that play? 한 번만 더 보여주세요 제발";

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(dir) = arguments.next() else {
        eprintln!("usage: bench_store DIR [--start ROOMS]");
        std::process::exit(2);
    };
    if let (Some("--start"), Some(rooms)) = (arguments.next().as_deref(), arguments.next()) {
        return measure_start(Path::new(&dir), rooms.parse().expect("ROOMS is a number"));
    }
    println!(
        "{:>6} {:>8} {:>10} {:>10} {:>9} {:>9} {:>12} {:>12}",
        "rooms", "records", "appends/s", "records/s", "p50 us", "p99 us", "cpu us/call", "cpu us/rec"
    );
    for (rooms, records) in [(1, 1), (10, 1), (30, 2), (64, 1), (1_000, 1)] {
        let dir = Path::new(&dir).join(format!("bench-{rooms}-{records}"));
        measure_appends(&dir, rooms, records);
    }
}

fn open(dir: &Path) -> EmbeddedStore {
    EmbeddedStore::open(dir, Options::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn measure_appends(dir: &Path, rooms: usize, records: u64) {
    let store = open(dir);
    let mut logs: Vec<_> = (0..rooms)
        .map(|room| {
            let room: Arc<str> = format!("room-{room}").into();
            let state = store.open_log(&room).expect("readable");
            (room, state)
        })
        .collect();
    let mut latencies = Vec::new();
    let (start, cpu) = (Instant::now(), cpu_time());
    while start.elapsed() < SECONDS {
        let call: Vec<_> = logs
            .iter_mut()
            .map(|(room, state)| {
                let records = (0..records).map(|_| {
                    state.last_seq += 1;
                    state.last_id = (state.last_id + 1) | 1 << 40;
                    Arc::new(record(state.last_seq, state.last_id))
                });
                Append { room: room.clone(), epoch: state.epoch, records: records.collect() }
            })
            .collect();
        let begun = Instant::now();
        store.append(&call).unwrap_or_else(|error| panic!("{error}"));
        latencies.push(begun.elapsed());
    }
    let (took, cpu) = (start.elapsed().as_secs_f64(), cpu_time().saturating_sub(cpu).as_secs_f64() * 1e6);
    latencies.sort_unstable();
    let calls = latencies.len() as f64;
    let stored = calls * rooms as f64 * records as f64;
    let at = |share: f64| latencies[(calls * share) as usize].as_micros();
    println!(
        "{rooms:>6} {records:>8} {:>10.0} {:>10.0} {:>9} {:>9} {:>12.1} {:>12.2}   rss {} MiB",
        calls / took,
        stored / took,
        at(0.5),
        at(0.99),
        cpu / calls,
        cpu / stored,
        rss_mib()
    );
}

fn measure_start(dir: &Path, rooms: u64) {
    let dir = dir.join(format!("start-{rooms}"));
    let store = open(&dir);
    for chunk in (0..rooms).collect::<Vec<_>>().chunks(1_000) {
        let call: Vec<_> = chunk
            .iter()
            .map(|room| {
                let room: Arc<str> = format!("room-{room}").into();
                let state = store.open_log(&room).expect("readable");
                let records =
                    (1..=20).map(|step| Arc::new(record(state.last_seq + step, (state.last_seq + step) << 22)));
                Append { room, epoch: state.epoch, records: records.collect() }
            })
            .collect();
        store.append(&call).unwrap_or_else(|error| panic!("{error}"));
    }
    drop(store);
    let begun = Instant::now();
    let store = open(&dir);
    println!("{rooms} rooms of at least 20 records: open {:?}, rss {} MiB", begun.elapsed(), rss_mib());
    let begun = Instant::now();
    let newest = store.read("room-7", 1, 50, 50).expect("readable");
    println!("first read of {} records {:?}", newest.len(), begun.elapsed());
}

fn record(seq: u64, id: u64) -> Record {
    Record {
        kind: Kind::Message,
        seq,
        id,
        time_ms: 1_800_000_000_000 + seq,
        sender: format!("user{}", seq % 70_000).into(),
        content: Content::Text,
        body: BODY.as_bytes().into(),
        key: Some(Key { hash: u128::from(id) * 0x9e37_79b9_7f4a_7c15_f39c, body: Some(id) }),
        parts: OwnedParts::default(),
    }
}

/// User and system time of this process, all threads.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|&field| fields.get(field)?.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0) / 1024
}
