//! What `--control` serves.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use protocol::{Command, ErrorCode, Start};
use rustix::process::Signal;

use crate::client::{Client, publish};
use crate::process::{DEADLINE, Relay, end_by, refusal, serve};

/// A relay that serves its figures, and where.
pub fn relay(flags: &[&str]) -> (Relay, SocketAddr) {
    let relay = Relay::in_memory(&[&["--control", "127.0.0.1:0"][..], flags].concat());
    let address = relay.said().iter().find_map(|line| address(line)).unwrap();
    (relay, address)
}

fn address(line: &str) -> Option<SocketAddr> {
    line.strip_prefix("control on http://")?.split(' ').next()?.parse().ok()
}

/// Head and body of the answer to a request, after which the connection is closed.
fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

pub fn get(address: SocketAddr, path: &str) -> (String, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n"))
}

/// A figure by its name and labels.
pub fn figure(address: SocketAddr, name: &str) -> f64 {
    parse(&get(address, "/metrics").1)[name]
}

/// Every figure of a page by its name and labels. As strict as the format: each name has one HELP and one TYPE, then its
/// values, each with other labels.
fn parse(page: &str) -> HashMap<String, f64> {
    let mut figures = HashMap::new();
    assert!(page.ends_with('\n'), "{page}");
    for part in page.strip_prefix("# HELP ").unwrap().split("\n# HELP ") {
        let mut lines = part.lines();
        let (name, help) = lines.next().unwrap().split_once(' ').unwrap();
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(name.starts_with("relay_") && name.chars().all(is_name), "{name}");
        assert!(!help.trim().is_empty() && !help.contains('\\'), "{name}: {help}");
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert!(["counter", "gauge", "histogram"].contains(&kind), "{name} is a {kind}");
        let mut bucket = 0.0;
        assert!(!figures.keys().any(|key: &String| key.split('{').next() == Some(name)), "{name} is there twice");
        for line in lines {
            let (key, value) = line.rsplit_once(' ').unwrap();
            let rest = key.strip_prefix(name).unwrap();
            let (part, labels) = rest.split_at(rest.find('{').unwrap_or(rest.len()));
            match (kind, part) {
                ("histogram", "_bucket") => {
                    let count: f64 = value.parse().unwrap();
                    let is_first = labels.contains("le=\"0.0001\"");
                    assert!(is_first || count >= bucket, "{line}: a bucket has all of the one before");
                    bucket = count;
                }
                ("histogram", "_sum") => {}
                ("histogram", "_count") => assert!(value == bucket.to_string(), "{line}: the last bucket has {bucket}"),
                _ => assert!(part.is_empty() && kind != "histogram", "{line}"),
            }
            let inner = labels.strip_prefix('{').and_then(|labels| labels.strip_suffix('}'));
            for label in inner.iter().flat_map(|labels| labels.split(',')) {
                let (label, value) = label.split_once('=').unwrap();
                assert!(label.chars().all(is_name), "{line}");
                assert!(value.starts_with('"') && value.ends_with('"') && value.len() > 2, "{line}");
            }
            assert!(labels.is_empty() || inner.is_some(), "{line}");
            let value: f64 = value.parse().unwrap();
            assert!(value >= 0.0, "{line}");
            assert!(figures.insert(key.to_owned(), value).is_none(), "{key} is there twice");
        }
    }
    figures
}

/// What all figures of this name and label come to.
fn sum(figures: &HashMap<String, f64>, name: &str, label: &str) -> u64 {
    let is_it = |key: &str| key.split('{').next() == Some(name) && key.contains(label);
    let found: Vec<_> = figures.iter().filter(|(key, _)| is_it(key)).collect();
    assert!(!found.is_empty(), "no {name} with {label}");
    found.iter().map(|(_, value)| **value as u64).sum()
}

#[test]
fn figures_are_served_as_prometheus_reads_them() {
    let (relay, address) = relay(&[]);
    let mut ann = Client::native(relay.address, "ann");
    for n in 1..=3 {
        ann.say("r", &n.to_string());
    }
    let (head, body) = get(address, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let head = head.to_lowercase();
    assert!(head.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{head}");
    let figures = parse(&body);
    let whole = |name: &str| figures[name] as u64;
    assert_eq!((whole("relay_persist_records_total"), whole("relay_persist_appends_in_flight")), (3, 0));
    assert_eq!((whole("relay_persist_reads_total"), whole("relay_persist_errors_total")), (1, 0));
    assert_eq!(relay.stop().code, Some(0));
}

#[test]
fn what_shards_count_is_there_within_seconds() {
    let (relay, address) = relay(&["--user-publish-rate", "1", "--publish-burst", "2", "--max-connections", "3"]);
    let mut ann = Client::native(relay.address, "ann");
    let mut ben = Client::native(relay.address, "ben");
    ben.join("r", Start::Recent(0));
    ann.say("r", "one");
    ann.say("r", "two");
    ben.lines(2);
    assert_eq!(ann.call(publish("r", "three", None)).error(), ErrorCode::RateLimited);
    assert_eq!(ann.call(Command::Leave { room: "r".into() }).error(), ErrorCode::NotJoined);
    let _third = Client::native(relay.address, "third");
    assert!(Client::try_open(relay.address, protocol::native::PATH, None).is_err());
    let expected = [
        ("relay_connections", "shard=", 3),
        ("relay_rooms", "shard=", 1),
        ("relay_feeds", "shard=", 1),
        ("relay_connections_opened_total", "shard=", 4),
        ("relay_connections_refused_total", "shard=", 1),
        ("relay_publishes_total", "shard=", 3),
        ("relay_stored_total", "shard=", 2),
        ("relay_deliveries_total", "shard=", 2),
        ("relay_refusals_total", "reason=\"rate_limited\"", 1),
        ("relay_refusals_total", "reason=\"not_joined\"", 1),
        ("relay_refused_total", "shard=", 2),
        ("relay_closes_total", "reason=\"idle\"", 0),
    ];
    let until = Instant::now() + DEADLINE;
    loop {
        let figures = parse(&get(address, "/metrics").1);
        let found: Vec<_> =
            expected.iter().map(|(name, label, _)| (*name, *label, sum(&figures, name, label))).collect();
        if found == expected {
            break;
        }
        assert!(Instant::now() < until, "found {found:?}, expected {expected:?}");
    }
    let exit = relay.stop();
    let full = "1 connections were answered 503: there are as many as --max-connections allows";
    assert!(exit.said.iter().any(|line| line == full), "{exit:?}");
}

#[test]
fn silent_connections_hold_up_nobody() {
    let (relay, address) = relay(&[]);
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
    let half: Vec<_> = (0..200)
        .map(|_| {
            let mut half = TcpStream::connect(address).unwrap();
            half.write_all(b"GET /metrics HTTP/1.1\r\nHost:").unwrap();
            half
        })
        .collect();
    assert!(!parse(&get(address, "/metrics").1).is_empty());
    // Those that are one too many were ended, the oldest first.
    for mut ended in silent {
        ended.set_read_timeout(Some(DEADLINE)).unwrap();
        // A reset when it had not been accepted by then.
        assert!(matches!(ended.read(&mut [0]), Ok(0) | Err(_)));
    }
    drop(half);
    assert_eq!(relay.stop().code, Some(0));
}

#[test]
fn requests_are_answered_as_http_has_it() {
    let (relay, address) = relay(&[]);
    let end = "Host: relay\r\nConnection: close\r\n\r\n";
    for (request, status, says) in [
        ("GET /metrics?format=text HTTP/1.1", "200 OK", "# HELP"),
        ("GET /metrics HTTP/1.0", "200 OK", "# HELP"),
        ("HEAD /metrics HTTP/1.1", "200 OK", ""),
        ("GET /healthz HTTP/1.1", "200 OK", "ok\n"),
        ("GET /readyz HTTP/1.1", "200 OK", "ok\n"),
        ("HEAD /readyz HTTP/1.1", "200 OK", ""),
        ("POST /metrics HTTP/1.1", "405 Method Not Allowed", "GET and HEAD"),
        ("GET / HTTP/1.1", "404 Not Found", "/metrics, /healthz and /readyz"),
        ("GET /metricsx HTTP/1.1", "404 Not Found", "/metrics"),
        ("POST / HTTP/1.1", "404 Not Found", "/metrics"),
        ("nonsense", "400 Bad Request", ""),
    ] {
        let (head, body) = ask(address, &format!("{request}\r\n{end}"));
        let found = head.split_once(' ').unwrap().1;
        assert!(found.starts_with(status) && body.contains(says), "{request}: {head}\n{body}");
        assert!(!request.starts_with("HEAD") || body.is_empty(), "{request}: {body}");
    }
    let mut endless = TcpStream::connect(address).unwrap();
    // It is closed before all of this is taken.
    let _ = endless.write_all(&vec![b'x'; 1 << 20]);
    assert_eq!(get(address, "/healthz").1, "ok\n");
    assert_eq!(relay.stop().code, Some(0));
}

#[test]
fn a_connection_is_kept_for_the_next_request() {
    let (relay, address) = relay(&[]);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n").unwrap();
        let mut response = Vec::new();
        while !response.ends_with(b"ok\n") {
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).unwrap(), 1);
            response.push(byte[0]);
        }
    }
    assert_eq!(relay.stop().code, Some(0));
}

#[test]
fn it_is_alive_but_not_ready_while_the_store_is_being_opened() {
    // A database that accepts and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let store = format!("--store=scylla://{}/chat", silent.local_addr().unwrap());
    // A port of its own: what is said before the end cannot be read here.
    let control = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut held = Vec::new();
    let asked = || {
        held.push(silent.accept().unwrap());
        assert_eq!(get(control, "/healthz").1, "ok\n");
        let (head, body) = get(control, "/readyz");
        assert!(head.starts_with("HTTP/1.1 503 ") && body == "starting\n", "{head}\n{body}");
    };
    let flags = ["--control", &control.to_string()];
    assert_eq!(end_by(&mut serve(&[&store], &flags), asked, Signal::TERM).code, Some(0));
}

#[test]
fn an_address_that_is_taken_is_refused_by_name() {
    let (_relay, address) = relay(&[]);
    let exit = refusal(&mut serve(&["--memory"], &["--control", &address.to_string()]));
    assert_eq!(exit.code, Some(1));
    let why = exit.said.last().unwrap();
    assert!(why.contains("--control") && why.contains(&address.to_string()), "{why}");
}
