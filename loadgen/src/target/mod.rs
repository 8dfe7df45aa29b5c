//! Which server is driven. A further one is a further variant and a file that says the same things in its own words.

pub mod native;

use std::borrow::Cow;
use std::net::{SocketAddr, ToSocketAddrs};

use protocol::Malformed;
use protocol::Start;
use protocol::native::Received;

/// A kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The relay's native dialect.
    Native,
}

/// Tags of the first two commands; message k has tag `FIRST_PUBLISH + k`.
pub const CONNECT: u32 = 1;
/// Tag of the join command.
pub const JOIN: u32 = 2;
/// Tag of a history command, which a connection without messages gives.
pub const HISTORY: u32 = 2;
/// Tag of message 0.
pub const FIRST_PUBLISH: u32 = 3;

/// One message as its sender states it.
#[derive(Debug, Clone, Copy)]
pub struct Publish<'a> {
    pub k: u32,
    pub room: &'a str,
    pub body: &'a str,
    /// The idempotency key.
    pub key: &'a str,
}

impl Target {
    /// The sub-protocol to offer.
    pub fn subprotocol(self) -> Option<&'static str> {
        match self {
            Self::Native => Some(protocol::native::SUBPROTOCOL),
        }
    }

    /// Appends what a user says first: who it is.
    pub fn connect(self, user: &str, mask: [u8; 4], out: &mut Vec<u8>) {
        match self {
            Self::Native => native::connect(user, mask, out),
        }
    }

    /// Appends which room it joins, and from where on.
    pub fn join(self, room: &str, start: Start, mask: [u8; 4], out: &mut Vec<u8>) {
        match self {
            Self::Native => native::join(room, start, mask, out),
        }
    }

    /// Appends a message.
    pub fn publish(self, publish: &Publish<'_>, mask: [u8; 4], out: &mut Vec<u8>) {
        match self {
            Self::Native => native::publish(publish, mask, out),
        }
    }

    /// Appends a request for the oldest `limit` messages of the room after seq `after`.
    pub fn history(self, room: &str, after: u64, limit: u32, mask: [u8; 4], out: &mut Vec<u8>) {
        match self {
            Self::Native => native::history(room, after, limit, mask, out),
        }
    }

    /// What the server said in one binary WebSocket message, with what its version leaves out.
    pub fn complete(self, payload: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Self::Native => protocol::native::complete(payload),
        }
    }

    /// Reads a complete message: (tag, event). No event when it is of a kind that only a later version has.
    pub fn read(self, payload: &[u8]) -> Result<(u32, Option<Received<'_>>), Malformed> {
        match self {
            Self::Native => protocol::native::decode_event(payload),
        }
    }
}

/// A `ws://` address taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Host and port as typed, for the Host header.
    pub authority: String,
    pub path: String,
    pub target: Target,
    text: String,
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Url {
    /// Takes `ws://host[:port]/path` apart. The path chooses the target.
    pub fn parse(text: &str) -> Result<Self, String> {
        let valid = "valid is ws://HOST:PORT/native";
        let no_tls = text.starts_with("wss://").then(|| format!("put TLS in front of the server; {valid}"));
        let rest = text.strip_prefix("ws://").ok_or_else(|| no_tls.unwrap_or_else(|| valid.to_owned()))?;
        let (authority, path) = rest.split_once('/').ok_or(valid)?;
        let path = format!("/{path}");
        let target = match path.as_str() {
            protocol::native::PATH => Target::Native,
            _ => return Err(format!("no target is served under {path}; {valid}")),
        };
        if authority.is_empty() || authority.contains('@') {
            return Err(valid.to_owned());
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Self { authority, path, target, text: text.to_owned() })
    }

    /// The first address of the host.
    pub fn resolve(&self) -> Result<SocketAddr, String> {
        let mut addresses = self.authority.to_socket_addrs().map_err(|error| format!("{}: {error}", self.authority))?;
        addresses.next().ok_or_else(|| format!("{} has no address", self.authority))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart() {
        let url = Url::parse("ws://127.0.0.1:8000/native").expect("it is valid");
        assert_eq!((url.authority.as_str(), url.path.as_str()), ("127.0.0.1:8000", "/native"));
        assert_eq!(Url::parse("ws://example/native").map(|url| url.authority), Ok("example:80".to_owned()));
        assert_eq!(
            Url::parse("ws://[::1]:9/native").and_then(|url| url.resolve()),
            Ok(([0, 0, 0, 0, 0, 0, 0, 1], 9).into())
        );
    }

    #[test]
    fn what_cannot_be_driven_is_refused_with_what_can() {
        for text in ["ws://h:1", "ws://h:1/other", "wss://h:1/native", "http://h/native", "ws:///native"] {
            let error = Url::parse(text).expect_err("it is not valid");
            assert!(error.contains("ws://HOST:PORT/native"), "{text}: {error}");
        }
    }
}
