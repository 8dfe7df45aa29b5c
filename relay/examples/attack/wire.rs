//! One hostile or healthy connection of the Centrifuge dialect, with every byte in its own hands.

use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, split};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

pub const TEXT: u8 = 1;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
/// The bit beside the length.
const MASKED: u8 = 0x80;

/// How a connection is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// Of its kernel, bytes.
    pub receive_bytes: Option<u32>,
    /// permessage-deflate is offered.
    pub deflate: bool,
    /// It comes from [`ELSEWHERE`].
    pub elsewhere: bool,
}

/// Where the healthy come from: what an address may do is for each by itself, and they do not share one with attackers.
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 0);

/// An upgraded WebSocket.
pub struct Wire {
    pub stream: TcpStream,
    read: Vec<u8>,
    id: u64,
}

/// One frame of a client; a mask of zeros leaves the payload as it is.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    raw_frame(0x80 | opcode, payload)
}

/// A command as a frame.
pub fn command(id: u64, method: &str, params: Value) -> Vec<u8> {
    let mut command = json!({ "id": id });
    command[method] = params;
    frame(TEXT, command.to_string().as_bytes())
}

/// One text message, deflated.
pub fn deflated_frame(payload: &[u8]) -> Vec<u8> {
    raw_frame(0x80 | 0x40 | TEXT, &deflated(payload))
}

pub fn raw_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(MASKED + length as u8),
        length @ 126..65_536 => {
            frame.push(MASKED + 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(MASKED + 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// As RFC 7692 has it: a sync flush without its last four bytes.
fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(payload).and_then(|()| encoder.flush()).expect("memory takes everything");
    let mut bytes = encoder.get_ref().clone();
    bytes.truncate(bytes.len() - 4);
    bytes
}

impl Wire {
    /// A TCP connection.
    pub async fn tcp(address: SocketAddr, manner: Manner) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = manner.receive_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        if manner.elsewhere {
            socket.bind(ELSEWHERE)?;
        }
        let stream = timeout(Duration::from_secs(8), socket.connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// An upgraded connection on which nothing was said.
    pub async fn open(address: SocketAddr, manner: Manner) -> io::Result<Self> {
        let mut stream = Self::tcp(address, manner).await?;
        let offer = if manner.deflate { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
        let request = format!(
            "GET /connection/websocket HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c2l4dGVlbiBvZiBieXRlcw==\r\n{offer}\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut read = Vec::new();
        let end = loop {
            if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            if timeout(Duration::from_secs(8), stream.read_buf(&mut read)).await?? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        };
        if !read.starts_with(b"HTTP/1.1 101") {
            let line = String::from_utf8_lossy(&read);
            return Err(io::Error::other(line.lines().next().unwrap_or_default().to_owned()));
        }
        read.drain(..end);
        Ok(Self { stream, read, id: 0 })
    }

    /// A connected user.
    pub async fn connect(address: SocketAddr, user: &str) -> io::Result<Self> {
        Self::connect_with(address, user, Manner::default()).await
    }

    pub async fn connect_with(address: SocketAddr, user: &str, manner: Manner) -> io::Result<Self> {
        let mut wire = Self::open(address, manner).await?;
        wire.call("connect", json!({ "data": { "user": user } })).await?;
        Ok(wire)
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// A command as a frame, with the next id.
    pub fn command(&mut self, method: &str, params: Value) -> Vec<u8> {
        self.id += 1;
        command(self.id, method, params)
    }

    /// Sends a command and waits for its reply, eight seconds at most; pushes meanwhile are dropped.
    pub async fn call(&mut self, method: &str, params: Value) -> io::Result<Value> {
        let command = self.command(method, params);
        self.send(&command).await?;
        let id = self.id;
        timeout(Duration::from_secs(8), async {
            loop {
                for reply in self.next().await? {
                    if reply["id"] == id {
                        return Ok(reply);
                    }
                }
            }
        })
        .await?
    }

    /// What the next text frame says; pings of either kind are answered.
    pub async fn next(&mut self) -> io::Result<Vec<Value>> {
        loop {
            while let Some((opcode, deflated, payload)) = self.take_frame() {
                match opcode {
                    TEXT if !deflated => return self.replies(&payload).await,
                    PING => self.send(&frame(PONG, &payload)).await?,
                    8 => return Err(closed(&payload)),
                    _ => {}
                }
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn replies(&mut self, payload: &[u8]) -> io::Result<Vec<Value>> {
        let mut replies = Vec::new();
        for line in payload.split(|&byte| byte == b'\n') {
            let reply: Value = serde_json::from_slice(line)?;
            if reply == json!({}) {
                self.send(&frame(TEXT, b"{}")).await?;
            } else {
                replies.push(reply);
            }
        }
        Ok(replies)
    }

    /// The next whole frame: opcode, whether it is deflated, payload.
    fn take_frame(&mut self) -> Option<(u8, bool, Vec<u8>)> {
        let (&first, &second) = (self.read.first()?, self.read.get(1)?);
        let (head, length) = match second & 0b0111_1111 {
            126 => (4, u64::from(u16::from_be_bytes(self.read.get(2..4)?.try_into().ok()?))),
            127 => (10, u64::from_be_bytes(self.read.get(2..10)?.try_into().ok()?)),
            length => (2, u64::from(length)),
        };
        let end = head + length as usize;
        let payload = self.read.get(head..end)?.to_vec();
        self.read.drain(..end);
        Some((first & 0x0f, first & 0x40 != 0, payload))
    }

    /// Reads and forgets whatever comes, until the end.
    pub async fn drain(&mut self) -> io::Result<()> {
        drain(&mut self.stream).await
    }

    /// Writes the same bytes again and again, and forgets whatever comes meanwhile.
    pub async fn flood_and_drain(self, bytes: &[u8]) -> io::Result<()> {
        let (mut reader, mut writer) = split(self.stream);
        let write = async {
            loop {
                writer.write_all(bytes).await?;
            }
        };
        tokio::select! {
            ended = drain(&mut reader) => ended,
            ended = write => ended,
        }
    }
}

/// Reads and forgets whatever comes, until the end.
pub async fn drain(from: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    while from.read(&mut buffer).await? > 0 {}
    Ok(())
}

fn closed(payload: &[u8]) -> io::Error {
    let code = payload.get(..2).map_or(0, |code| u16::from_be_bytes([code[0], code[1]]));
    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
    io::Error::new(ErrorKind::ConnectionAborted, format!("closed: {code} {reason}"))
}
