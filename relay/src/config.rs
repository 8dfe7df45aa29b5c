//! Every limit of the relay: its name, unit, default and flag, in this one place.

use std::net::{SocketAddr, ToSocketAddrs};

use clap::Args;
use protocol::snowflake;

use crate::invalid::Invalid;
use crate::log::Format;
use crate::store::StoreArgs;

/// What was typed for `relay serve`; [`Limits::check`] says whether it is valid.
#[derive(Clone, Args)]
pub struct ServeArgs {
    /// Address and port to accept WebSocket connections on; port 0 takes a free one and prints it
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDR:PORT", value_parser = address)]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Shards, each a thread pinned to a core of its own [default: the cores of this machine]
    #[arg(long, value_name = "N")]
    pub shards: Option<usize>,
    /// Number of this node, part of every message id (0 to 63). Each relay of a deployment needs its own
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub node: u16,
    /// Address and port of the HTTP server for operators: /metrics (Prometheus), /healthz, /readyz. It asks for no
    /// password [default: off]
    #[arg(long, alias = "metrics", value_name = "ADDR:PORT", value_parser = address)]
    pub control: Option<SocketAddr>,
    /// Format of the log lines on stderr
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    pub log: Format,
    #[command(flatten)]
    pub limits: Limits,
}

impl ServeArgs {
    /// Checks what is no limit; `shards` is what was typed, or the machine's cores.
    pub fn check(&self, shards: usize) -> Result<(), Invalid> {
        if self.node > snowflake::NODE_MAX {
            return Err(Invalid(format!("--node is {}, but must be 0 to {}", self.node, snowflake::NODE_MAX)));
        }
        if shards == 0 || shards > usize::from(snowflake::SHARD_MAX) + 1 {
            return Err(Invalid(format!("--shards is {shards}, but must be 1 to {}", snowflake::SHARD_MAX + 1)));
        }
        Ok(())
    }
}

/// An address and port, or a name and port, of which the first IPv4 address is taken.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if port.parse::<u16>().is_ok() {
        return Err(format!("an address is missing: 127.0.0.1:{port} for this machine alone, 0.0.0.0:{port} for all"));
    }
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if !text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && !host.contains(':') && port.parse::<u16>().is_ok())
    {
        return Err("what is wanted is ADDR:PORT, as 127.0.0.1:8000 or [::1]:8000".into());
    }
    let found: Vec<SocketAddr> = text.to_socket_addrs().map_err(|error| error.to_string())?.collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| "this name has no address".into())
}

/// What a client, a room or the relay may use at most.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Open connections. The relay answers a further one with 503
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub max_connections: usize,
    /// Rooms in memory, over all shards. At the limit, opening a room evicts the one that was idle longest (storage
    /// keeps it). When no room is idle (all have members or work in progress), the command is answered `busy`
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub max_rooms: usize,
    /// Memory for what clients send and receive and for what is cached for them, over all connections and rooms, bytes;
    /// the process uses some more. Used to 1/2: rooms cache less. To 9/16: history is answered `busy` on a connection
    /// that has not received its previous page. To 11/16: all history is. To 3/4: publishes are. To the end:
    /// connections that hold more than an even share of a quarter are not read. Incomplete messages may use 1/8; beyond
    /// that, the connection with the oldest incomplete message is closed
    #[arg(long, default_value_t = 192 * 1024 * 1024, value_name = "BYTES")]
    pub memory_bytes_max: usize,
    /// Rooms that one connection may be a member of. A further join is refused
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub rooms_per_session_max: usize,
    /// Commands of one connection in progress or waiting behind them. At the limit, or when the waiting ones hold
    /// --frame-bytes-max together, the relay stops reading from the connection
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub commands_per_session_max: usize,
    /// Rooms per second that one connection may load into memory; burst: ten seconds of the rate. Beyond that its
    /// commands on such rooms are refused with `rate limited`
    #[arg(long, default_value_t = 20, value_name = "PER_S")]
    pub session_open_rate: u32,
    /// Rooms per second that one user may load into memory, over all connections; burst and refusal as above
    #[arg(long, default_value_t = 40, value_name = "PER_S")]
    pub user_open_rate: u32,
    /// Rooms per second that one IP address (IPv6: one /64) may load into memory; burst and refusal as above. 0 turns
    /// this off, for a relay behind a proxy, where all connections have one address
    #[arg(long, default_value_t = 200, value_name = "PER_S")]
    pub address_open_rate: u32,
    /// Length of a room's name, a user's name or an idempotency key, bytes. A longer one is refused
    #[arg(long, default_value_t = 255, value_name = "BYTES")]
    pub name_bytes_max: usize,
    /// Size of a message's body, bytes. A larger one is refused
    #[arg(long, default_value_t = 64 * 1024, value_name = "BYTES")]
    pub body_bytes_max: usize,
    /// Size of one WebSocket message from a client, bytes. A larger one closes the connection with 1009. A body may be
    /// three times as long in JSON, where characters are escaped
    #[arg(long, default_value_t = 256 * 1024, value_name = "BYTES")]
    pub frame_bytes_max: usize,
    /// Publishes per second of one connection, on average; beyond that and the burst they are refused with `rate
    /// limited`. A body counts as one publish for each 4 KiB. A person makes one or two, a program that sends cursor
    /// positions thirty
    #[arg(long, default_value_t = 50, value_name = "PER_S")]
    pub session_publish_rate: u32,
    /// Pings, pongs, refused commands, and anything before `connect`, of one connection per second; burst: ten seconds
    /// of the rate. A connection that exceeds it is closed
    #[arg(long, default_value_t = 100, value_name = "PER_S")]
    pub session_chatter_rate: u32,
    /// CPU time that the commands of one connection may use, percent of one core; burst: one second of it. Beyond that
    /// the relay reads the connection later
    #[arg(long, default_value_t = 10, value_name = "PERCENT")]
    pub session_work_percent: u32,
    /// Publishes per second of one user in one room, on average, over all connections; beyond that and the burst they
    /// are refused with `rate limited`
    #[arg(long, default_value_t = 50, value_name = "PER_S")]
    pub user_publish_rate: u32,
    /// Burst of --session-publish-rate and of --user-publish-rate, publishes
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub publish_burst: u32,
    /// Publishes of one room that may wait for storage. Further ones are answered `busy`
    #[arg(long, default_value_t = 4096, value_name = "N")]
    pub pending_publishes_max: usize,
    /// Memory of the publishes of one room that wait for storage, bytes. Further ones are answered `busy`
    #[arg(long, default_value_t = 4 * 1024 * 1024, value_name = "BYTES")]
    pub pending_bytes_max: usize,
    /// How long a publish may wait for storage, milliseconds. Then it is answered `busy` (not stored) or `unknown` (may
    /// be stored). SDKs give up after five seconds
    #[arg(long, default_value_t = 4_000, value_name = "MS")]
    pub publish_timeout_ms: u64,
    /// Commands per core that may wait for reads from storage. Further ones are answered `busy`
    #[arg(long, default_value_t = 4096, value_name = "N")]
    pub pending_reads_max: usize,
    /// Messages that one history command, or the `recent` of a join, may ask for
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub history_messages_max: u32,
    /// Size of one page of history, bytes, counted as JSON, which is the longest encoding. A page ends before it gets
    /// larger, but has at least one message
    #[arg(long, default_value_t = 1024 * 1024, value_name = "BYTES")]
    pub history_bytes_max: usize,
    /// Messages that a returning member may have missed and still recover from the room's cache or storage. Beyond
    /// that, or beyond half of --replies-bytes-max, the reply says `recovered: false`. What its core still has as
    /// shared frames does not count
    #[arg(long, default_value_t = 5000, value_name = "N")]
    pub recovery_messages_max: u64,
    /// Newest messages of a room that its owner caches, for joins and history. The older ones are read from storage
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub tail_messages_max: usize,
    /// Memory of these cached messages, bytes; whichever limit is reached first counts
    #[arg(long, default_value_t = 1024 * 1024, value_name = "BYTES")]
    pub tail_bytes_max: usize,
    /// Encoded frames of a room that each core caches for slow and returning members, bytes per encoding. Frames are
    /// kept for a minute at most; a member that is further behind is sent a gap
    #[arg(long, default_value_t = 4 * 1024 * 1024, value_name = "BYTES")]
    pub feed_bytes_max: usize,
    /// Replies, pages and the messages that joins asked for, queued for one connection, bytes. A page that does not fit
    /// is refused with `busy`; a connection whose short replies exceed it is closed as a slow consumer
    #[arg(long, default_value_t = 4 * 1024 * 1024, value_name = "BYTES")]
    pub replies_bytes_max: usize,
    /// Bytes per second that a connection with queued replies has to receive, on average over --slow-consumer-timeout-
    /// ms. A slower one is closed as a slow consumer
    #[arg(long, default_value_t = 8 * 1024, value_name = "BYTES_PER_S")]
    pub replies_rate_min: u32,
    /// Kernel send buffer of a connection, bytes
    #[arg(long, default_value_t = 64 * 1024, value_name = "BYTES")]
    pub send_buffer_bytes: usize,
    /// Length of the queue from one core to another, internal messages. When it is full, commands for rooms of that
    /// core are answered `busy`
    #[arg(long, default_value_t = 65_536, value_name = "N")]
    pub lane_messages_max: usize,
    /// How long a connection may take from its first byte to its `connect` command, milliseconds
    #[arg(long, default_value_t = 10_000, value_name = "MS")]
    pub connect_timeout_ms: u64,
    /// How often a client that sends nothing is pinged, milliseconds. One that has received four send buffers since the
    /// last ping is there without doubt and is not asked; Centrifuge clients are pinged always
    #[arg(long, default_value_t = 25_000, value_name = "MS")]
    pub ping_interval_ms: u64,
    /// A client that does not answer a ping and sends nothing else for this long is closed, milliseconds
    #[arg(long, default_value_t = 70_000, value_name = "MS")]
    pub idle_timeout_ms: u64,
    /// A connection whose queue is not empty and that receives nothing for this long is closed, milliseconds
    #[arg(long, default_value_t = 60_000, value_name = "MS")]
    pub slow_consumer_timeout_ms: u64,
    /// How long a stop may take before it is forced, milliseconds. Until half of it, publishes in progress are stored
    /// and acked
    #[arg(long, default_value_t = 10_000, value_name = "MS")]
    pub shutdown_timeout_ms: u64,
    /// When the relay stops, it tells each client of the native dialect to reconnect after a random time up to this,
    /// milliseconds. Centrifuge SDKs choose the time themselves, within about a second at first
    #[arg(long, default_value_t = 5_000, value_name = "MS")]
    pub reconnect_spread_ms: u32,
}

impl Limits {
    /// The defaults, as clap gives them.
    pub fn defaults() -> Self {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            limits: Limits,
        }
        <Only as clap::Parser>::parse_from(["limits"]).limits
    }

    /// Checks the relations between limits.
    pub fn check(&self) -> Result<(), Invalid> {
        let at_least = |flag: &str, value: u64, least: u64| {
            (value >= least)
                .then_some(())
                .ok_or_else(|| Invalid(format!("--{flag} is {value}, but must be at least {least}")))
        };
        let at_most = |flag: &str, value: u64, most: u64| {
            (value <= most)
                .then_some(())
                .ok_or_else(|| Invalid(format!("--{flag} is {value}, but must be at most {most}")))
        };
        at_least("max-connections", self.max_connections as u64, 1)?;
        at_least("max-rooms", self.max_rooms as u64, 1)?;
        at_least("rooms-per-session-max", self.rooms_per_session_max as u64, 1)?;
        at_least("commands-per-session-max", self.commands_per_session_max as u64, 1)?;
        at_least("session-publish-rate", u64::from(self.session_publish_rate), 1)?;
        at_least("user-publish-rate", u64::from(self.user_publish_rate), 1)?;
        at_least("session-chatter-rate", u64::from(self.session_chatter_rate), 1)?;
        at_least("session-work-percent", u64::from(self.session_work_percent), 1)?;
        at_least("session-open-rate", u64::from(self.session_open_rate), 1)?;
        at_least("user-open-rate", u64::from(self.user_open_rate), 1)?;
        for (flag, rate) in [
            ("session-open-rate", self.session_open_rate),
            ("user-open-rate", self.user_open_rate),
            ("address-open-rate", self.address_open_rate),
        ] {
            at_most(flag, u64::from(rate), 100_000)?;
        }
        at_least("publish-burst", u64::from(self.publish_burst), 1)?;
        at_most("publish-burst", u64::from(self.publish_burst), 1_000_000)?;
        at_least("pending-publishes-max", self.pending_publishes_max as u64, 1)?;
        at_least("pending-bytes-max", self.pending_bytes_max as u64, 1)?;
        at_least("pending-reads-max", self.pending_reads_max as u64, 1)?;
        at_least("tail-messages-max", self.tail_messages_max as u64, 1)?;
        at_least("tail-bytes-max", self.tail_bytes_max as u64, 1)?;
        at_least("lane-messages-max", self.lane_messages_max as u64, 16)?;
        at_least("send-buffer-bytes", self.send_buffer_bytes as u64, 4096)?;
        at_least("name-bytes-max", self.name_bytes_max as u64, 1)?;
        at_least("ping-interval-ms", self.ping_interval_ms, 1000)?;
        at_least("body-bytes-max", self.body_bytes_max as u64, 1)?;
        at_least("history-messages-max", u64::from(self.history_messages_max), 1)?;
        at_least("history-bytes-max", self.history_bytes_max as u64, 1)?;
        at_least("feed-bytes-max", self.feed_bytes_max as u64, 1)?;
        at_least("publish-timeout-ms", self.publish_timeout_ms, 10)?;
        at_least("replies-rate-min", u64::from(self.replies_rate_min), 1)?;
        at_least("connect-timeout-ms", self.connect_timeout_ms, 100)?;
        at_least("slow-consumer-timeout-ms", self.slow_consumer_timeout_ms, 100)?;
        at_least("shutdown-timeout-ms", self.shutdown_timeout_ms, 100)?;
        if self.replies_bytes_max < 2 * self.history_bytes_max.max(self.body_bytes_max) {
            return Err(Invalid(format!(
                "--replies-bytes-max is {}, but must be at least twice --history-bytes-max ({}) and --body-bytes-max ({})",
                self.replies_bytes_max, self.history_bytes_max, self.body_bytes_max
            )));
        }
        if self.memory_bytes_max / 4 < self.replies_bytes_max {
            return Err(Invalid(format!(
                "--memory-bytes-max is {}, but must be at least four times --replies-bytes-max ({})",
                self.memory_bytes_max, self.replies_bytes_max
            )));
        }
        let names = 2 * self.name_bytes_max + 1024;
        if self.frame_bytes_max < self.body_bytes_max + names {
            return Err(Invalid(format!(
                "--frame-bytes-max is {}, but a body of --body-bytes-max {} with its names needs {}",
                self.frame_bytes_max,
                self.body_bytes_max,
                self.body_bytes_max + names
            )));
        }
        if self.idle_timeout_ms < 2 * self.ping_interval_ms {
            return Err(Invalid(format!(
                "--idle-timeout-ms is {}, but must be at least twice --ping-interval-ms ({})",
                self.idle_timeout_ms, self.ping_interval_ms
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_an_address_or_a_name_and_a_bare_port_is_told_what_is_missing() {
        for good in ["127.0.0.1:8000", "[::1]:8000", "0.0.0.0:0"] {
            assert_eq!(address(good).unwrap().to_string(), good);
        }
        assert_eq!(address("localhost:8000").unwrap().to_string(), "127.0.0.1:8000");
        for bare in ["8000", ":8000"] {
            let hint = address(bare).unwrap_err();
            assert!(hint.contains("127.0.0.1:8000") && hint.contains("0.0.0.0:8000"), "{bare}: {hint}");
        }
        for bad in ["", "here", "here:", ":", "here:99999", "::1", "127.0.0.1"] {
            assert!(address(bad).unwrap_err().contains("ADDR:PORT"), "{bad}");
        }
    }

    #[test]
    fn every_limit_that_zero_would_make_useless_refuses_it() {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            limits: Limits,
        }
        let may_be_zero = ["recovery-messages-max", "reconnect-spread-ms", "address-open-rate"];
        let command = <Only as clap::CommandFactory>::command();
        for flag in command.get_arguments().filter_map(|argument| argument.get_long()) {
            let typed = ["limits", &format!("--{flag}"), "0"].map(str::to_owned);
            let checked = <Only as clap::Parser>::parse_from(typed).limits.check();
            let message = checked.as_ref().map_or_else(ToString::to_string, |()| "accepted".into());
            let expected = if may_be_zero.contains(&flag) { "accepted".into() } else { format!("--{flag} is 0") };
            assert!(message.starts_with(&expected), "--{flag} 0: {message}");
        }
    }

    #[test]
    fn the_defaults_are_valid_and_a_contradiction_names_its_flags() {
        let mut limits = Limits::defaults();
        assert!(limits.check().is_ok());
        limits.idle_timeout_ms = limits.ping_interval_ms;
        let message = limits.check().unwrap_err().to_string();
        assert!(message.contains("--idle-timeout-ms") && message.contains("--ping-interval-ms"), "{message}");
    }
}
