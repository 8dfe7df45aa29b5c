//! What a user meets before a run begins: exit codes and one clear line.

use std::io::Write;
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
    assert!(stderr.contains("nobody listens on 127.0.0.1:"), "{stderr}");
    assert!(stderr.contains("refused") && !stderr.contains("cannot carry"), "{stderr}");
}

#[test]
fn a_server_process_that_is_not_there_is_code_2() {
    let (code, stderr) = run(&["--server-pid", "4194305", "--no-output"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("--server-pid 4194305"), "{stderr}");
}

/// A server that does this with its first connection, and keeps what it is given open.
fn served<T: Send + 'static>(serve: impl FnOnce(std::net::TcpStream) -> T + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("ws://{}/native", listener.local_addr().expect("it is bound"));
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        let kept = serve(stream);
        // Whoever comes later is not answered.
        let others: Vec<_> = listener.incoming().collect();
        drop((kept, others));
    });
    url
}

#[test]
fn a_server_that_is_full_is_code_4_with_its_own_words_and_never_said_to_be_too_weak() {
    let url = served(|mut stream| {
        let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 18\r\n\r\nthe relay is full\n";
        stream.write_all(answer.as_bytes()).expect("it is read");
        stream
    });
    let (code, stderr) = run(&["--url", &url, "--users", "3", "--no-output", "--progress", "none"]);
    assert_eq!((code, stderr.lines().count()), (4, 1), "{stderr}");
    assert!(stderr.contains("refuses connections: 503 Service Unavailable: the relay is full"), "{stderr}");
}

#[test]
fn what_is_no_websocket_server_is_code_4_and_named_so() {
    let url = served(|mut stream| {
        stream.write_all(b"220 mail.example ESMTP\r\n").expect("it is read");
        stream
    });
    let (code, stderr) = run(&["--url", &url, "--users", "3", "--no-output", "--progress", "none"]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("not an HTTP/1.1 response"), "{stderr}");
}

#[test]
fn a_limit_of_open_files_that_is_too_low_is_code_3_and_this_machines_doing() {
    let limited = |files: u32, users: &str| {
        let loadgen = env!("CARGO_BIN_EXE_loadgen");
        let command = format!("ulimit -n {files}; exec {loadgen} run --users {users} --threads 2 --no-output");
        let output = Command::new("sh").args(["-c", &command]).output().expect("sh runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, stderr) = limited(40, "30000");
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("open files are needed") && stderr.contains("ulimit -n"), "{stderr}");
}

#[test]
fn a_plan_in_which_nobody_says_anything_is_wrong_usage() {
    let (code, stderr) = run(&["--users", "2", "--rate", "1/h", "--duration", "1s", "--warm-up", "0s", "--no-output"]);
    assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
    assert!(stderr.contains("--duration") && stderr.contains("--rate"), "{stderr}");
}

#[test]
fn without_a_command_the_help_is_shown_as_the_relay_does() {
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).output().expect("loadgen starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("Usage: loadgen") && stderr.contains("Exit codes:"), "{stderr}");
}

#[test]
fn no_line_of_the_help_is_broken_twice() {
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).args(["run", "--help"]).output().expect("loadgen starts");
    let help = String::from_utf8_lossy(&output.stdout);
    let prose = help.split("How it measures:").nth(1).expect("it has the section").split("Exit codes:").next();
    for paragraph in prose.expect("it has the codes").trim().split("\n\n") {
        let lines: Vec<&str> = paragraph.lines().collect();
        let (_, whole) = lines.split_last().expect("it is not empty");
        // Broken by hand and again by the terminal, a line leaves a few words on a line of their own.
        assert!(whole.iter().all(|line| (75..=100).contains(&line.len())), "{paragraph}");
    }
}
