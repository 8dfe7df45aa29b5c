//! Native clients on one ring, in one thread.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, bail};
use protocol::frame::{Decoder, Incoming, Opcode, Role, write_masked};
use protocol::handshake::{self, Response};
use protocol::native::{self, Received, decode_event, encode_request};
use protocol::{Command, Request};
use uring::{Config, Event, Ring, Segment, Socket, Wake};

const HANDSHAKE_KEY: [u8; 16] = *b"sixteen of bytes";
const MASK: [u8; 4] = [7, 1, 201, 99];
const FRAME_BYTES_MAX: usize = 1 << 20;

/// Connected users, by number.
pub struct Clients {
    ring: Ring,
    users: Vec<Client>,
    by_slot: Vec<usize>,
}

struct Client {
    socket: Socket,
    decoder: Decoder,
    /// Being sent, and what is to be sent after it.
    under_way: Option<Segment>,
    waiting: Vec<u8>,
}

/// What became of a publish.
pub enum Answer {
    Acked,
    Refused,
}

impl Clients {
    /// Connects so many users.
    pub fn connect(address: SocketAddr, count: usize) -> anyhow::Result<Self> {
        let sockets = u16::try_from(count).context("--connections")?;
        let config = Config { sockets, recv_buffers: 1024, recv_buffer_bytes: 16 << 10, queue_entries: 1024 };
        let mut ring = Ring::new(config, &Wake::new()?)?;
        // It is looked at often enough; waking this thread would be work of the relay's threads.
        ring.set_quiet(true);
        let mut users = Vec::with_capacity(count);
        let mut by_slot = vec![usize::MAX; count];
        for n in 0..count {
            let stream = shake_hands(address, n).with_context(|| format!("client {n}"))?;
            let Ok(socket) = ring.register(stream.into()) else { bail!("no slot for client {n}") };
            by_slot[usize::from(socket.slot)] = n;
            let decoder = Decoder::new(Role::Client, FRAME_BYTES_MAX);
            users.push(Client { socket, decoder, under_way: None, waiting: Vec::new() });
        }
        Ok(Self { ring, users, by_slot })
    }

    /// Queues a command of a user; the next turn sends it.
    pub fn command(&mut self, user: usize, tag: u32, command: Command<'_>) {
        write_command(tag, command, &mut self.users[user].waiting);
    }

    /// Sends what is queued and takes what came: tags of publishes and what became of them.
    pub fn turn(&mut self, mut answered: impl FnMut(u32, Answer)) -> anyhow::Result<()> {
        for client in &mut self.users {
            if client.under_way.is_none() && !client.waiting.is_empty() {
                let segment = Segment::from(std::mem::take(&mut client.waiting));
                self.ring.send(client.socket, segment.clone());
                client.under_way = Some(segment);
            }
        }
        let mut failed = None;
        let mut blocked = Vec::new();
        let (users, by_slot) = (&mut self.users, &self.by_slot);
        self.ring.turn(|event| match event {
            Event::Received(socket, bytes) => {
                let client = &mut users[by_slot[usize::from(socket.slot)]];
                failed = client.take(bytes, &mut answered).err().or(failed.take());
            }
            Event::Sent(socket, Ok(count)) => {
                let client = &mut users[by_slot[usize::from(socket.slot)]];
                let sent = client.under_way.take().expect("it was being sent");
                if count < sent.len() {
                    client.under_way = Some(sent.skip(count));
                    blocked.push(socket);
                }
            }
            Event::Sent(socket, Err(error)) if error.kind() == std::io::ErrorKind::WouldBlock => blocked.push(socket),
            Event::Sent(_, Err(error)) => failed = Some(error.into()),
            Event::Ended(_, error) => failed = Some(anyhow::anyhow!("the relay ended a connection: {error:?}")),
            Event::Writable(socket) => blocked.push(socket),
            _ => {}
        });
        for socket in blocked {
            let client = &self.users[self.by_slot[usize::from(socket.slot)]];
            let Some(rest) = &client.under_way else { continue };
            self.ring.send(socket, rest.clone());
        }
        failed.map_or(Ok(()), Err)
    }
}

impl Client {
    fn take(&mut self, bytes: &mut [u8], answered: &mut impl FnMut(u32, Answer)) -> anyhow::Result<()> {
        let mut at = 0;
        while let (used, Some(incoming)) = self.decoder.next(&mut bytes[at..])? {
            at += used;
            match incoming {
                Incoming::Binary(payload) => match decode_event(payload)? {
                    (tag, Some(Received::Acked { .. })) => answered(tag, Answer::Acked),
                    (tag, Some(Received::Error { .. })) => answered(tag, Answer::Refused),
                    _ => {}
                },
                Incoming::Ping(_) => write_masked(Opcode::Pong, b"", MASK, &mut self.waiting),
                _ => {}
            }
        }
        Ok(())
    }
}

fn write_command(tag: u32, command: Command<'_>, out: &mut Vec<u8>) {
    let mut payload = Vec::with_capacity(256);
    encode_request(&Request { tag, command }, &mut payload);
    write_masked(Opcode::Binary, &payload, MASK, out);
}

/// A connection of the user `n` that has said hello; the reply comes later.
fn shake_hands(address: SocketAddr, n: usize) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut request = Vec::new();
    handshake::request("relay", native::PATH, None, false, HANDSHAKE_KEY, &mut request);
    stream.write_all(&request)?;
    let mut head = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
        match handshake::read_response(&head, HANDSHAKE_KEY, false) {
            Response::Partial => {}
            Response::Accepted { .. } => break,
            Response::Refused(_) => bail!("refused: {}", String::from_utf8_lossy(&head)),
        }
    }
    let mut hello = Vec::new();
    write_command(0, Command::Connect { user: Some(format!("user{n}").into()), device: None }, &mut hello);
    stream.write_all(&hello)?;
    Ok(stream)
}
