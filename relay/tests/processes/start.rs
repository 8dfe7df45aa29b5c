//! Starts that are refused, each with one line that names what to change.

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
    assert!(line.contains(path) && line.contains("--data"), "{line}");
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
        (&["--body-bytes-max", "70000"], &["--body-bytes-max", "--frame-bytes-max"]),
        (&["--max-connections", "0"], &["--max-connections"]),
        (&["--ping-interval-ms", "10"], &["--ping-interval-ms"]),
        (&["--node", "64"], &["--node"]),
        (&["--max-connections", "100000000"], &["--max-connections"]),
    ] {
        let exit = refusal(&mut serve(&["--memory"], flags));
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
        (&["--data", "somewhere"], "--data"),
    ] {
        let exit = refusal(&mut serve(&["--memory"], flags));
        assert_eq!(exit.code, Some(2), "{exit:?}");
        assert!(exit.said[0].contains(name), "{exit:?}");
    }
}
