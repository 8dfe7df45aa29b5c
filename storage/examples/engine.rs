//! Prints what the embedded engine costs on this machine: `cargo run --release -p storage --example engine -- DIR`
//! durable appends, with `--start N` as well how long a directory of N rooms takes to open, with `--room N` what opening
//! one room of N messages of 8 KiB takes, all of them young enough to be repeated.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use protocol::snowflake::EPOCH_MS;
use protocol::{Content, OwnedParts};
use storage::{Append, EmbeddedStore, Key, Kind, Options, Record, Store};

const SECONDS: Duration = Duration::from_secs(5);
const BODY: &str = "오늘 방송 진짜 재밌다 ㅋㅋㅋ PogChamp did you see that play? 한 번만 더 보여주세요 제발";

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(dir) = arguments.next() else {
        eprintln!("usage: engine DIR [--start ROOMS | --room MESSAGES]");
        std::process::exit(2);
    };
    let (what, number) = (arguments.next(), arguments.next().map(|number| number.parse().expect("a number")));
    match (what.as_deref(), number) {
        (Some("--start"), Some(rooms)) => return measure_start(Path::new(&dir), rooms),
        (Some("--room"), Some(messages)) => return measure_room(Path::new(&dir), messages),
        _ => {}
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

/// What a relay reads of a room before its first command, and what it would have to read if keys were found in bodies.
fn measure_room(dir: &Path, messages: u64) {
    const TAIL: u64 = 1_024;
    let dir = dir.join(format!("room-{messages}"));
    let store = open(&dir);
    let room: Arc<str> = "room".into();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as u64;
    let mut state = store.open_log(&room).expect("readable");
    while state.last_seq < messages {
        let records = (1..=TAIL.min(messages - state.last_seq)).map(|step| {
            let seq = state.last_seq + step;
            let body: Vec<u8> = (0..8_192).map(|_| fastrand::u8(..)).collect();
            let id = ((now_ms - EPOCH_MS) << 22) + seq;
            Arc::new(Record { time_ms: now_ms, content: Content::Binary, body: body.into(), ..record(seq, id) })
        });
        let append = Append { room: room.clone(), epoch: state.epoch, records: records.collect() };
        state.last_seq += append.records.len() as u64;
        store.append(&[append]).unwrap_or_else(|error| panic!("{error}"));
    }
    drop(store);
    for way in ["keys beside the messages", "keys in the messages"] {
        let store = open(&dir);
        let (begun, rss_before) = (Instant::now(), rss_mib());
        let last = store.open_log(&room).expect("readable").last_seq;
        let tail = store.read(&room, last.saturating_sub(TAIL) + 1, last, TAIL as usize).expect("readable");
        let (keys, held) = if way == "keys beside the messages" {
            (store.keys(&room, 1, now_ms - 300_000).expect("readable").len(), Vec::new())
        } else {
            let all = store.read(&room, 1, last, last as usize).expect("readable");
            (all.iter().filter(|record| record.key.is_some()).count(), all)
        };
        let (took, grown) = (begun.elapsed(), rss_mib() - rss_before);
        println!("{way}: a tail of {} and {keys} keys of {last} messages in {took:?}, +{grown} MiB", tail.len());
        drop((tail, held));
    }
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
