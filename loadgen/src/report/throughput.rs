//! What went over the wire in the measured window.

use std::fmt::{self, Display, Formatter};

use super::{Report, group};
use crate::run::Window;

/// Messages, frames and bytes: how many, and how many of one in the other. A frame is a WebSocket message with a batch
/// of chat messages; a receive is about one send of the server.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Throughput {
    pub sent_per_s: f64,
    pub deliveries_per_s: f64,
    pub frames_per_s: f64,
    pub receives_per_s: f64,
    pub bytes_per_s: f64,
    pub messages_per_frame: f64,
    pub frames_per_receive: f64,
    /// Of everything received.
    pub bytes_per_delivery: f64,
    /// Bytes of all batches when they are not compressed, by their bytes on the wire. 1 without compression.
    pub compression_ratio: f64,
}

/// Whether messages were compressed.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Deflate {
    pub offered: bool,
    /// Connections that agreed on it, over the whole run.
    pub agreed: u64,
    /// All connections that stood.
    pub connections: u64,
}

impl Throughput {
    /// Of what happened in the window.
    pub fn new(window: &Window) -> Self {
        let per_s = |n: u64| n as f64 / window.seconds;
        let ratio = |n: u64, of: u64| if of == 0 { 0.0 } else { n as f64 / of as f64 };
        Self {
            sent_per_s: per_s(window.sent),
            deliveries_per_s: per_s(window.delivered),
            frames_per_s: per_s(window.frames),
            receives_per_s: per_s(window.chunks),
            bytes_per_s: per_s(window.bytes),
            messages_per_frame: ratio(window.delivered, window.frames),
            frames_per_receive: ratio(window.frames, window.chunks),
            bytes_per_delivery: ratio(window.bytes, window.delivered),
            compression_ratio: ratio(window.inflated_bytes, window.batch_bytes),
        }
    }
}

impl Display for Throughput {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let count = |n: f64| group(n as u64);
        let Self { sent_per_s, deliveries_per_s, frames_per_s, receives_per_s, .. } = *self;
        writeln!(f, "achieved {} messages/s in, {} deliveries/s out", count(sent_per_s), count(deliveries_per_s))?;
        writeln!(
            f,
            "         {} frames/s with {:.1} messages each, {} receives/s with {:.1} frames each",
            count(frames_per_s),
            self.messages_per_frame,
            count(receives_per_s),
            self.frames_per_receive
        )?;
        writeln!(
            f,
            "         {:.1} MB/s on the wire, {:.1} bytes a delivery, compressed {:.2} : 1",
            self.bytes_per_s / 1e6,
            self.bytes_per_delivery,
            self.compression_ratio
        )
    }
}

impl Display for Deflate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (agreed, connections) = (group(self.agreed), group(self.connections));
        match (self.offered, self.agreed) {
            (false, _) => writeln!(f, "deflate  not offered"),
            (true, 0) => writeln!(f, "deflate  offered and declined by the server"),
            (true, _) => writeln!(f, "deflate  agreed on {agreed} of {connections} connections"),
        }
    }
}

impl Report {
    pub(super) fn write_throughput(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(throughput) = &self.throughput else { return Ok(()) };
        write!(f, "{throughput}{}", self.deflate)?;
        let total = group(self.deliveries.received);
        let (ramp_s, drain_s) = (self.ramp_s, self.drain_s);
        writeln!(f, "run      {total} deliveries checked; ramp {ramp_s:.1} s, drain {drain_s:.1} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_is_by_what_its_name_says() {
        let window = Window {
            seconds: 2.0,
            sent: 20,
            delivered: 1_200,
            frames: 60,
            chunks: 30,
            bytes: 24_000,
            batch_bytes: 20_000,
            inflated_bytes: 50_000,
            ..Window::default()
        };
        let shown = Throughput::new(&window).to_string();
        for words in ["10 messages/s", "600 deliveries/s", "30 frames/s with 20.0 messages", "15 receives/s with 2.0"] {
            assert!(shown.contains(words), "{shown}");
        }
        assert!(shown.contains("0.0 MB/s on the wire, 20.0 bytes a delivery, compressed 2.50 : 1"), "{shown}");
    }

    #[test]
    fn an_idle_window_divides_by_nothing() {
        let throughput = Throughput::new(&Window { seconds: 1.0, ..Window::default() });
        assert_eq!((throughput.messages_per_frame, throughput.compression_ratio), (0.0, 0.0));
    }

    #[test]
    fn what_became_of_deflate_is_said_in_words() {
        let shown = |offered, agreed| Deflate { offered, agreed, connections: 5 }.to_string();
        assert_eq!(shown(false, 0), "deflate  not offered\n");
        assert_eq!(shown(true, 0), "deflate  offered and declined by the server\n");
        assert_eq!(shown(true, 5), "deflate  agreed on 5 of 5 connections\n");
    }
}
