//! What `--metrics` serves.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::client::Client;
use crate::process::{DEADLINE, Relay, refusal, serve};

/// A relay that serves its figures, and where.
pub fn relay() -> (Relay, SocketAddr) {
    let relay = Relay::in_memory(&["--metrics", "127.0.0.1:0"]);
    let line = relay.said().iter().find_map(|line| line.strip_prefix("metrics on http://")).unwrap();
    let address = line.strip_suffix("/metrics").unwrap().parse().unwrap();
    (relay, address)
}

/// Head and body of the answer to a request.
fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// A figure by its name and label.
pub fn figure(address: SocketAddr, name: &str) -> f64 {
    parse(&ask(address, "GET /metrics HTTP/1.1\r\nHost: relay\r\n\r\n").1)[name]
}

/// Every figure of a page by its name and label. As strict as the format: each name has one HELP and one TYPE, then its
/// values.
fn parse(page: &str) -> HashMap<&str, f64> {
    let mut figures = HashMap::new();
    assert!(page.ends_with('\n'), "{page}");
    let mut names = HashSet::new();
    for part in page.trim_end().split("# HELP ").skip(1) {
        let mut lines = part.lines();
        let (name, help) = lines.next().unwrap().split_once(' ').unwrap();
        assert!(names.insert(name), "{name} is there twice");
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(name.starts_with("relay_") && name.chars().all(is_name), "{name}");
        assert!(!help.trim().is_empty() && !help.contains('\\'), "{name}: {help}");
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert!(["counter", "gauge"].contains(&kind), "{name} is a {kind}");
        for line in lines {
            let (figure, value) = line.rsplit_once(' ').unwrap();
            let label = figure.strip_prefix(name).unwrap();
            let is_label = label.starts_with("{shard=\"") && label.ends_with("\"}");
            assert!(label.is_empty() || is_label, "{figure}");
            let value: f64 = value.parse().unwrap();
            assert!(value >= 0.0, "{figure} is {value}");
            assert!(figures.insert(figure, value).is_none(), "{figure} is there twice");
        }
    }
    figures
}

#[test]
fn figures_are_served_as_prometheus_reads_them() {
    let (relay, address) = relay();
    let mut ann = Client::native(relay.address, "ann");
    for n in 1..=3 {
        ann.say("r", &n.to_string());
    }
    let (head, body) = ask(address, "GET /metrics HTTP/1.1\r\nHost: relay\r\nAccept: */*\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    let figures = parse(&body);
    let whole = |name: &str| figures[name] as u64;
    assert_eq!((whole("relay_persist_records_total"), whole("relay_persist_appends_in_flight")), (3, 0));
    assert_eq!((whole("relay_persist_reads_total"), whole("relay_persist_errors_total")), (1, 0));
    assert_eq!(relay.stop().code, Some(0));
}

#[test]
fn other_paths_are_not_found_and_silent_clients_hold_up_nobody() {
    let (relay, address) = relay();
    let silent = TcpStream::connect(address).unwrap();
    for request in ["GET / HTTP/1.1\r\n\r\n", "POST /metrics HTTP/1.1\r\n\r\n", "GET /metricsx HTTP/1.0\r\n\r\n"] {
        assert!(ask(address, request).0.starts_with("HTTP/1.1 404 Not Found\r\n"), "{request}");
    }
    let mut endless = TcpStream::connect(address).unwrap();
    // It is closed before all of this is taken.
    let _ = endless.write_all(&vec![b'x'; 1 << 20]);
    assert!(!parse(&ask(address, "GET /metrics HTTP/1.0\r\n\r\n").1).is_empty());
    drop(silent);
    assert_eq!(relay.stop().code, Some(0));
}

#[test]
fn an_address_that_is_taken_is_refused_by_name() {
    let (_relay, address) = relay();
    let exit = refusal(&mut serve(&["--memory"], &["--metrics", &address.to_string()]));
    assert_eq!(exit.code, Some(1));
    let why = exit.said.last().unwrap();
    assert!(why.contains("--metrics") && why.contains(&address.to_string()), "{why}");
}
