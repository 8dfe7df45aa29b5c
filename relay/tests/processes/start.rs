//! Starts that are refused, each with one line that names what to change.

use std::path::Path;
use std::process::Command;

use crate::client::Client;
use crate::process::{Exit, Relay, refusal, serve};

/// The one line that a refused start leaves.
fn one_line(exit: &Exit) -> &str {
    assert!(!matches!(exit.code, None | Some(0)), "{exit:?}");
    assert_eq!(exit.said.len(), 1, "{exit:?}");
    &exit.said[0]
}

#[test]
fn a_second_relay_on_the_same_directory_is_refused_and_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let relay = Relay::on(dir.path(), &[]);
    let path = dir.path().to_str().unwrap();
    let exit = refusal(&mut serve(&["--data", path], &[]));
    let line = one_line(&exit);
    assert!(line.contains(path) && line.contains("another relay is using"), "{line}");
    assert_eq!(Client::native(relay.address, "u").say("r", "still here").0, 1);
}

#[test]
fn a_second_relay_on_the_same_port_is_refused() {
    let relay = Relay::in_memory(&[]);
    let address = relay.address.to_string();
    let exit = refusal(&mut serve(&["--memory"], &["--listen", &address]));
    let line = one_line(&exit);
    assert!(line.contains("--listen") && line.contains(&address), "{line}");
}

#[test]
fn a_directory_that_cannot_be_made_is_refused_by_name() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().join("data");
    let path = path.to_str().unwrap();
    let exit = refusal(&mut serve(&["--data", path], &[]));
    let line = one_line(&exit);
    assert!(line.contains(path), "{line}");
}

/// Everything in a directory, hidden or not.
fn entries(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

#[test]
fn a_directory_with_other_things_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("photo.jpg"), "a photo").unwrap();
    let path = dir.path().to_str().unwrap();
    let exit = refusal(&mut serve(&["--data", path], &[]));
    let line = one_line(&exit);
    assert_eq!(line.matches(path).count(), 1, "{line}");
    assert!(line.contains("photo.jpg"), "{line}");
    assert_eq!(entries(dir.path()), ["photo.jpg"]);
    // An empty one, with what a disk of its own has, is fine.
    std::fs::remove_file(dir.path().join("photo.jpg")).unwrap();
    std::fs::create_dir(dir.path().join("lost+found")).unwrap();
    assert_eq!(Relay::on(dir.path(), &[]).stop().code, Some(0));
}

#[test]
fn a_start_says_whether_the_store_is_new_and_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let relay = Relay::on(&path, &[]);
    let new = format!("new embedded store in {}", path.display());
    assert!(relay.said().iter().any(|line| line.contains(&new)), "{:?}", relay.said());
    let mut ann = Client::native(relay.address, "ann");
    for (room, text) in [("a", "one"), ("a", "two"), ("b", "three")] {
        ann.say(room, text);
    }
    ann.leave();
    relay.stop();
    let relay = Relay::on(&path, &[]);
    let held = format!("embedded store in {} with 3 messages in 2 rooms", path.display());
    assert!(relay.said().iter().any(|line| line.contains(&held)), "{:?}", relay.said());
}

#[test]
fn a_start_that_fails_leaves_no_directory() {
    let relay = Relay::in_memory(&["--control", "127.0.0.1:0"]);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = ["--data", data.to_str().unwrap()];
    let taken = relay.address.to_string();
    for flags in [["--listen", &taken], ["--control", &taken]] {
        let exit = refusal(&mut serve(&store, &flags));
        assert!(one_line(&exit).contains(&taken), "{exit:?}");
        assert!(!data.exists(), "{flags:?}");
    }
}

/// A command of its own under limits that util-linux' `prlimit` sets.
fn limited(limit: &str, served: &Command) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(limit).arg(served.get_program()).args(served.get_args());
    command
}

#[test]
fn a_limit_of_the_process_that_is_too_low_is_named_before_anything_is_begun() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let served = serve(&["--data", data.to_str().unwrap()], &[]);
    for (limit, names) in [
        ("--memlock=65536", ["64 KiB", "ulimit -l"]),
        ("--as=268435456", ["256 MiB", "ulimit -v"]),
        ("--nofile=100", ["100", "ulimit -n"]),
    ] {
        let exit = refusal(&mut limited(limit, &served));
        let line = one_line(&exit);
        assert!(names.iter().all(|name| line.contains(name)), "{limit}: {line}");
        assert!(!data.exists(), "{limit}");
    }
}

#[test]
fn soft_limits_are_raised_to_the_hard_ones() {
    let relay = Relay::start(&mut limited("--nofile=256:4096", &serve(&["--memory"], &[])));
    let line = relay.said().iter().find(|line| line.starts_with("capacity: ")).unwrap();
    assert!(line.contains("4096 by ulimit -n"), "{line}");
}

#[test]
fn a_kernel_that_forbids_io_uring_is_told_in_one_line() {
    for errno in ["EPERM", "ENOSYS"] {
        let traced = serve(&["--memory"], &[]);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-e", &format!("inject=io_uring_setup:error={errno}")]);
        strace.arg(traced.get_program()).args(traced.get_args());
        let exit = refusal(&mut strace);
        let line = one_line(&exit);
        assert!(line.contains("io_uring is not available") && line.contains("seccomp"), "{errno}: {line}");
    }
}

#[test]
fn contradictory_limits_are_refused_by_name() {
    for (flags, names) in [
        (
            &["--idle-timeout-ms", "3000", "--ping-interval-ms", "2000"][..],
            &["--idle-timeout-ms", "--ping-interval-ms"][..],
        ),
        (&["--body-bytes-max", "300000"], &["--body-bytes-max", "--frame-bytes-max"]),
        (&["--max-connections", "0"], &["--max-connections"]),
        (&["--ping-interval-ms", "10"], &["--ping-interval-ms"]),
        (&["--node", "64"], &["--node"]),
        (&["--max-connections", "100000000"], &["--max-connections"]),
    ] {
        let exit = refusal(&mut serve(&["--memory"], flags));
        assert_eq!(exit.code, Some(2), "as clap's own refusals: {exit:?}");
        let line = one_line(&exit);
        assert!(names.iter().all(|name| line.contains(name)), "{flags:?}: {line}");
    }
}

#[test]
fn flags_that_are_unknown_or_mean_nothing_are_refused_by_name() {
    for (flags, name) in [
        (&["--max-conections", "5"][..], "--max-conections"),
        (&["--max-connections", "many"], "--max-connections"),
        (&["--listen", "here"], "--listen"),
        (&["--listen", ":8000"], "0.0.0.0:8000"),
        (&["--data", "somewhere"], "--data"),
    ] {
        let exit = refusal(&mut serve(&["--memory"], flags));
        assert_eq!(exit.code, Some(2), "{exit:?}");
        assert!(exit.said[0].contains(name), "{exit:?}");
    }
}
