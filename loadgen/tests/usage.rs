//! What a user meets before a run begins: exit codes and one clear line.

use std::net::TcpListener;
use std::process::Command;

fn run(args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).arg("run").args(args).output().expect("loadgen starts");
    (output.status.code().expect("it ends by itself"), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_wrong_flag_is_one_line_and_code_2() {
    let (code, stderr) = run(&["--rate", "often"]);
    assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
    assert!(stderr.contains("--rate") && stderr.contains("often") && stderr.contains("1/min"), "{stderr}");
}

#[test]
fn a_directory_that_holds_a_result_is_refused_before_the_run() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("result.json"), "kept").expect("it is writable");
    let (code, stderr) = run(&["--output", directory.path().to_str().expect("UTF-8")]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("--output") && stderr.contains("new or empty"), "{stderr}");
    assert_eq!(std::fs::read_to_string(directory.path().join("result.json")).expect("it is there"), "kept");
}

#[test]
fn more_users_than_a_source_address_has_ports_for_is_code_3_with_the_number_that_works() {
    let (code, stderr) = run(&["--url", "ws://192.0.2.1:9/native", "--users", "70000", "--no-output"]);
    assert_eq!((code, stderr.lines().count()), (3, 1), "{stderr}");
    assert!(stderr.contains("--source") && stderr.contains("would work"), "{stderr}");
}

#[test]
fn a_target_that_nobody_serves_is_code_4_and_says_what_happened() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("ws://{}/native", listener.local_addr().expect("it is bound"));
    drop(listener);
    let (code, stderr) = run(&["--url", &url, "--users", "3", "--no-output", "--progress", "none"]);
    assert_eq!((code, stderr.lines().count()), (4, 1), "{stderr}");
    assert!(stderr.contains("0 of 3 joined") && stderr.contains("refused"), "{stderr}");
}

#[test]
fn a_server_process_that_is_not_there_is_code_2() {
    let (code, stderr) = run(&["--server-pid", "4194305", "--no-output"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("--server-pid 4194305"), "{stderr}");
}
