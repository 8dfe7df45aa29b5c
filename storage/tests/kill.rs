//! kill -9 in the middle of appends: whatever was acked is there afterwards.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use common::{append, assert_whole, child, child_dir, open};
use storage::{EmbeddedStore, Options, Store};

const ROOMS: u64 = 7;

/// Appends for ever and prints each new end after it was acked.
fn append_for_ever(store: &EmbeddedStore) {
    let mut out = std::io::stdout().lock();
    for round in 0u64.. {
        let call: Vec<_> = (0..=round % ROOMS)
            .map(|room| {
                let room = format!("room{room}");
                let first = store.open_log(&room).unwrap().last_seq + 1;
                append(store, &room, first, first + round % 5)
            })
            .collect();
        store.append(&call).unwrap();
        for append in &call {
            writeln!(out, "acked {} {}", append.room, append.records.last().unwrap().seq).unwrap();
        }
    }
}

#[test]
fn every_ack_survives_kill_9() {
    if let Some(dir) = child_dir() {
        // A small write buffer, so that tables are written and merged while the process is killed.
        let options = Options { write_buffer_bytes: 64 << 10, ..Options::default() };
        append_for_ever(&EmbeddedStore::open(dir, options).unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acked = HashMap::new();
    for acks_before_kill in [1, 400, 8_000] {
        let mut command = child("every_ack_survives_kill_9", dir.path());
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut count = 0;
        let mut note = |line: String| {
            if let Some((_, ack)) = line.split_once("acked ") {
                let (room, seq) = ack.split_once(' ').unwrap();
                // The last line may be cut by the kill; a whole line before it was an ack.
                acked.insert(room.to_owned(), seq.parse::<u64>().unwrap());
            }
        };
        while count < acks_before_kill {
            note(lines.next().expect("the child ended by itself"));
            count += 1;
        }
        process.kill().unwrap();
        process.wait().unwrap();
        let mut rest: Vec<_> = lines.collect();
        rest.pop();
        rest.into_iter().for_each(&mut note);
        let store = open(dir.path()).unwrap();
        for (room, &seq) in &acked {
            let last_seq = store.open_log(room).unwrap().last_seq;
            assert!(last_seq >= seq, "{room}: {seq} was acked, {last_seq} is there");
            assert_whole(&store, room, last_seq);
        }
    }
    assert_eq!(acked.len() as u64, ROOMS);
}
