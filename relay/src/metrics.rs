//! `/metrics`: figures as Prometheus text, over HTTP, on a thread of its own.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use storage::Metric;

/// One connection at a time: each has so long to ask and to take its answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Size of a request's head, bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Answers `GET /metrics` at this address with what `figures` says then, until the process ends. Returns the address with
/// the port that was taken.
pub fn serve(address: SocketAddr, figures: impl Fn() -> Vec<Metric> + Send + 'static) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    thread::Builder::new().name("metrics".into()).spawn(move || {
        for connection in listener.incoming() {
            match connection {
                // A client that is slow, or gone, gets no answer.
                Ok(stream) => drop(answer(stream, &figures)),
                // Out of descriptors, most likely: that does not pass at once.
                Err(_) => thread::sleep(TIMEOUT),
            }
        }
    })?;
    Ok(address)
}

fn answer(mut stream: TcpStream, figures: &impl Fn() -> Vec<Metric>) -> io::Result<()> {
    let until = Instant::now() + TIMEOUT;
    let head = head(&mut stream, until)?;
    let mut words = head.split(u8::is_ascii_whitespace);
    let is_asked = words.next() == Some(b"GET") && words.next() == Some(b"/metrics");
    let (status, body) = if is_asked { ("200 OK", text(&figures())) } else { ("404 Not Found", String::new()) };
    let mut response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    response.push_str(&body);
    stream.set_write_timeout(Some(left(until)?))?;
    stream.write_all(response.as_bytes())
}

/// Everything up to the empty line that ends a request's head.
fn head(stream: &mut TcpStream, until: Instant) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => head.extend_from_slice(&part[..count]),
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(head)
}

/// The time that is left, never zero.
fn left(until: Instant) -> io::Result<Duration> {
    until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()).ok_or(io::ErrorKind::TimedOut.into())
}

/// The exposition format of Prometheus, version 0.0.4.
fn text(figures: &[Metric]) -> String {
    let mut text = String::new();
    let mut last = "";
    for Metric { name, help, is_counter, label, value } in figures {
        let kind = if *is_counter { "counter" } else { "gauge" };
        let value = match value {
            value if value.is_nan() => "NaN".to_owned(),
            value if value.is_infinite() => if *value > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
            value => value.to_string(),
        };
        if *name != last {
            last = name;
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        }
        let label = label.map(|(label, number)| format!("{{{label}=\"{number}\"}}")).unwrap_or_default();
        let _ = writeln!(text, "{name}{label} {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_as_prometheus_reads_them() {
        let help = "What it says.";
        let of_shard = |shard| Metric { label: Some(("shard", shard)), ..Metric::gauge("e", help, 1.0) };
        let figures = [
            Metric::counter("a_total", help, 12_345_678_901),
            Metric::gauge("b_seconds", help, 0.25),
            Metric::gauge("c", help, f64::INFINITY),
            Metric::gauge("d", help, f64::NAN),
            of_shard(0),
            of_shard(11),
        ];
        let values: Vec<_> = text(&figures).lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        let expected =
            ["a_total 12345678901", "b_seconds 0.25", "c +Inf", "d NaN", "e{shard=\"0\"} 1", "e{shard=\"11\"} 1"];
        assert_eq!(values, expected);
        assert!(
            text(&figures).ends_with("# HELP e What it says.\n# TYPE e gauge\ne{shard=\"0\"} 1\ne{shard=\"11\"} 1\n")
        );
        assert!(text(&figures).starts_with("# HELP a_total What it says.\n# TYPE a_total counter\na_total "));
    }
}
