//! What `--metrics` serves.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::client::Client;
use crate::process::{DEADLINE, Relay, refusal, serve};

/// A relay that serves its figures, and where.
fn relay() -> (Relay, SocketAddr) {
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

/// Every figure of a page by its name. As strict as the format: each has one HELP, one TYPE and one value, in this order.
fn parse(page: &str) -> HashMap<&str, f64> {
    let mut figures = HashMap::new();
    let lines: Vec<&str> = page.lines().collect();
    assert!(page.ends_with('\n') && lines.len().is_multiple_of(3), "{page}");
    for part in lines.chunks(3) {
        let (name, help) = part[0].strip_prefix("# HELP ").unwrap().split_once(' ').unwrap();
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(name.starts_with("relay_") && name.chars().all(is_name), "{name}");
        assert!(!help.trim().is_empty() && !help.contains('\\'), "{name}: {help}");
        let kind = part[1].strip_prefix(&format!("# TYPE {name} ")).unwrap();
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert!(["counter", "gauge"].contains(&kind), "{name} is a {kind}");
        let value: f64 = part[2].strip_prefix(&format!("{name} ")).unwrap().parse().unwrap();
        assert!(value >= 0.0, "{name} is {value}");
        assert!(figures.insert(name, value).is_none(), "{name} is there twice");
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
