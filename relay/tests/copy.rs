//! `relay copy` as an operator runs it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use protocol::{Content, OwnedParts};
use rustix::process::{Pid, Signal, kill_process};
use storage::{Append, EmbeddedStore, Kind, Options, Record, Store};

fn record(seq: u64, id: u64) -> Arc<Record> {
    Arc::new(Record {
        kind: Kind::Message,
        seq,
        id,
        time_ms: 1_800_000_000_000 + seq,
        sender: "someone".into(),
        content: Content::Text,
        body: b"hello".to_vec().into(),
        key: None,
        parts: OwnedParts::default(),
    })
}

/// A directory with `count` messages in each room, whose ids end in `tail`.
fn filled(dir: &Path, rooms: &[&str], count: u64, tail: u64) {
    let store = EmbeddedStore::open(dir, Options::default()).unwrap();
    let append = |room: &&str| Append {
        room: (*room).into(),
        epoch: 5,
        records: (1..=count).map(|seq| record(seq, seq * 10 + tail)).collect(),
    };
    store.append(&rooms.iter().map(append).collect::<Vec<_>>()).unwrap();
}

fn embedded(dir: &Path) -> String {
    format!("embedded:{}", dir.display())
}

fn command(from: &Path, to: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command.args(["copy", "--from", &embedded(from), "--to", &embedded(to)]).args(flags);
    command
}

fn ran(mut command: Command) -> (Output, String) {
    let output = command.output().unwrap();
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    (output, String::from_utf8(said).unwrap())
}

#[test]
fn a_history_is_copied_compared_and_copied_again_without_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    filled(&from, &["a", "b"], 1_500, 0);
    for again in [false, true] {
        let (output, said) = ran(command(&from, &to, &["--verify"]));
        assert!(output.status.success(), "{said}");
        assert!(said.contains("copied 3,000 messages in 2 rooms"), "{said}");
        assert!(said.contains("compared 3,000 messages in 2 rooms") && said.contains("all the same"), "{said}");
        assert_eq!(said.contains(", all of which were there already"), again, "{said}");
    }
    let (from, to) = [from, to].map(|dir| EmbeddedStore::open(dir, Options::default()).unwrap()).into();
    for room in ["a", "b"] {
        assert_eq!(from.open_log(room).unwrap(), to.open_log(room).unwrap());
        let all = |store: &EmbeddedStore| store.read(room, 1, 1_500, 1_500).unwrap();
        assert_eq!(all(&from), all(&to));
    }
}

#[test]
fn another_history_at_the_destination_is_refused_with_the_room_s_name() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    filled(&from, &["a", "b"], 9, 0);
    filled(&to, &["b"], 4, 1);
    let (output, said) = ran(command(&from, &to, &[]));
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("\"b\"") && said.contains("id 41") && said.contains("id 40"), "{said}");
    assert!(!said.contains("goes on from there"), "a repetition would not help: {said}");
}

#[test]
fn stores_that_cannot_be_meant_are_refused_by_the_flag_s_name() {
    let dir = tempfile::tempdir().unwrap();
    let there = embedded(dir.path());
    let nowhere = embedded(&dir.path().join("nowhere"));
    for (from, to, expected) in [
        (&*there, &*there, "same store"),
        ("memory:", &*nowhere, "--from: memory:"),
        (&*there, "memory:", "--to: memory:"),
        (&*there, "nonsense", "--to: "),
    ] {
        let mut relay = Command::new(env!("CARGO_BIN_EXE_relay"));
        relay.args(["copy", "--from", from, "--to", to]);
        let (output, said) = ran(relay);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    assert!(!dir.path().join("nowhere").exists());
}

#[test]
fn a_source_that_is_no_store_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let photos = dir.path().join("photos");
    std::fs::create_dir(&photos).unwrap();
    std::fs::write(photos.join("one.jpg"), "a photo").unwrap();
    for from in [&photos, &dir.path().join("mistyped")] {
        let (output, said) = ran(command(from, &dir.path().join("to"), &[]));
        let why = said.lines().last().unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(why.contains("--from") && why.matches(from.to_str().unwrap()).count() == 1, "{said}");
        let names = |dir: &Path| std::fs::read_dir(dir).unwrap().map(|it| it.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!((names(dir.path()), names(&photos)), (vec!["photos".into()], vec!["one.jpg".into()]), "{said}");
    }
}

#[test]
fn a_source_without_rooms_is_a_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    drop(EmbeddedStore::open(&from, Options::default()).unwrap());
    let (output, said) = ran(command(&from, &to, &[]));
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("has no rooms"), "{said}");
}

#[test]
fn sigterm_ends_it_with_the_way_to_go_on_which_then_does() {
    const ATTEMPTS: usize = 10;
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    filled(&from, &["a", "b", "c"], 60_000, 0);
    // A copy may be over before the signal comes.
    let stopped = (0..ATTEMPTS).find_map(|attempt| {
        let to = dir.path().join(format!("to-{attempt}"));
        let mut process = command(&from, &to, &[]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut stderr = BufReader::new(process.stderr.take().unwrap());
        let mut said = String::new();
        stderr.read_line(&mut said).unwrap();
        kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
        stderr.read_to_string(&mut said).unwrap();
        let code = process.wait().unwrap().code();
        (code != Some(0)).then_some((to, code, said))
    });
    let (to, code, said) = stopped.expect("no copy of ten was stopped");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the same command goes on from there: stopped"), "{said}");
    let (output, said) = ran(command(&from, &to, &["--verify"]));
    assert!(output.status.success() && said.contains("compared 180,000 messages"), "{said}");
}
