//! A full disk: a clear answer, nothing acked is lost, and the store goes on by itself when there is space again.
//!
//! Where mounting is permitted the disk is a small tmpfs in a mount namespace; everywhere a file size limit, which
//! the store takes for the same thing.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::{append, assert_whole, child, child_dir, sized};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use storage::{Append, EmbeddedStore, Options, Store, StoreError};

const BODY_BYTES: usize = 64 << 10;

fn large(store: &dyn Store, seq: u64) -> Append {
    Append { records: vec![Arc::new(sized(seq, BODY_BYTES))], ..append(store, "large", seq, seq) }
}

/// Appends until the disk is full, then makes space.
fn fill_up_and_go_on(dir: &Path, make_space: impl FnOnce()) {
    // Large enough that no table is written: the journal alone meets the limit.
    let options = Options { write_buffer_bytes: 1 << 30, ..Options::default() };
    let store = EmbeddedStore::open(dir.join("data"), options).unwrap();
    common::fill(&store, "small", 1, 10);
    let mut acked = 0;
    let refused = loop {
        let next = large(&store, acked + 1);
        match store.append(std::slice::from_ref(&next)) {
            Ok(()) => acked += 1,
            Err(error) => {
                assert!(matches!(error, StoreError::Full { .. }), "{error}");
                break next;
            }
        }
    };
    assert!(acked > 10);
    let again = store.append(std::slice::from_ref(&refused));
    assert!(matches!(again, Err(StoreError::Full { .. })), "{again:?}");
    assert_eq!(store.open_log("large").unwrap().last_seq, acked, "reads go on and show what was acked");
    assert_whole(&store, "small", 10);
    make_space();
    store.append(&[refused]).unwrap();
    store.append(&[large(&store, acked + 2)]).unwrap();
    assert_eq!(store.open_log("large").unwrap().last_seq, acked + 2);
    drop(store);
    let store = EmbeddedStore::open(dir.join("data"), options).unwrap();
    assert_whole(&store, "small", 10);
    let records = store.read("large", 1, u64::MAX, usize::MAX).unwrap();
    assert!(records.into_iter().eq((1..=acked + 2).map(|seq| sized(seq, BODY_BYTES))));
    println!("child passed");
}

fn assert_passed(mut command: Command) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("child passed"), "{text}");
}

/// A shell that runs `script` and then the command in its place.
fn through_shell(mut shell: Command, script: &str, command: &Command) -> Command {
    shell.args(["sh", "-c", &format!("{script} && exec \"$0\" \"$@\"")]).arg(command.get_program());
    shell.args(command.get_args()).envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
}

#[test]
fn at_a_file_size_limit_the_store_says_so_and_goes_on_when_it_is_lifted() {
    if let Some(dir) = child_dir() {
        let unlimited = getrlimit(Resource::Fsize);
        // A little more than the 64 MiB that a journal takes in advance.
        setrlimit(Resource::Fsize, Rlimit { current: Some(66 << 20), ..unlimited }).unwrap();
        fill_up_and_go_on(&dir, || setrlimit(Resource::Fsize, unlimited).unwrap());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let command = child("at_a_file_size_limit_the_store_says_so_and_goes_on_when_it_is_lifted", dir.path());
    assert_passed(through_shell(Command::new("env"), "trap '' XFSZ", &command));
}

#[test]
fn on_a_full_file_system_the_store_says_so_and_goes_on_when_there_is_space() {
    let name = "on_a_full_file_system_the_store_says_so_and_goes_on_when_there_is_space";
    if let Some(dir) = child_dir() {
        let filler = dir.join("filler");
        std::fs::write(&filler, vec![1; 20 << 20]).unwrap();
        fill_up_and_go_on(&dir, || std::fs::remove_file(filler).unwrap());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let namespaces = [&["-m"][..], &["-Urm"]].map(|flags| {
        let mut unshare = Command::new("unshare");
        unshare.args(flags);
        unshare
    });
    let mount = format!("mount -t tmpfs -o size=28m none '{}'", dir.path().display());
    for unshare in namespaces {
        let mut probe = Command::new(unshare.get_program());
        let permitted = probe.args(unshare.get_args()).args(["sh", "-c", &mount]).output();
        if permitted.is_ok_and(|output| output.status.success()) {
            return assert_passed(through_shell(unshare, &mount, &child(name, dir.path())));
        }
    }
    println!("mounting is not permitted here: the other test of this file covers a full disk by a file size limit");
    at_a_file_size_limit_the_store_says_so_and_goes_on_when_it_is_lifted();
}
