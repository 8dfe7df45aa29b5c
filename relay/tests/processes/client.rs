//! A blocking client that speaks both dialects.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use protocol::frame::{self, Decoder, Deflater, Incoming, Inflater, Opcode, Role};
use protocol::handshake::{self, Response};
use protocol::{Command, Content, Page, Request, Start, centrifuge, native};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::event::{Event, Joined, Line};
use crate::process::DEADLINE;

const KEY: [u8; 16] = *b"sixteen of bytes";
const MASK: [u8; 4] = [7, 1, 201, 99];
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One connection.
pub struct Client {
    stream: TcpStream,
    decoder: Decoder,
    inflater: Inflater,
    /// Messages that came deflated.
    pub inflated: usize,
    /// All bytes since [`Client::record`].
    recorded: Option<Vec<u8>>,
    /// Read and not asked for yet.
    events: VecDeque<(u32, Event)>,
    tag: u32,
    /// Answers pings and the close frame, as it should.
    pub polite: bool,
}

impl Client {
    /// Opens a TCP connection with a kernel receive buffer of so many bytes and shakes hands. `Err` has the answer of a
    /// relay that refuses, or says how the attempt ended.
    pub fn try_open(address: SocketAddr, path: &str, receive_bytes: Option<usize>) -> Result<Self, String> {
        Self::shake_hands(address, (path, None), receive_bytes, false)
    }

    fn shake_hands(
        address: SocketAddr,
        (path, subprotocol): (&str, Option<&str>),
        receive_bytes: Option<usize>,
        offers_deflate: bool,
    ) -> Result<Self, String> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        if let Some(bytes) = receive_bytes {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        socket.connect(&address.into()).map_err(|error| error.to_string())?;
        let mut stream = TcpStream::from(socket);
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut request = Vec::new();
        handshake::request("relay", path, subprotocol, offers_deflate, KEY, &mut request);
        stream.write_all(&request).map_err(|error| error.to_string())?;
        let mut head = Vec::new();
        let used = loop {
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer) {
                Ok(0) => return Err(format!("ended: {}", String::from_utf8_lossy(&head))),
                Ok(count) => head.extend_from_slice(&buffer[..count]),
                Err(error) => return Err(error.to_string()),
            }
            match handshake::read_response(&head, KEY, offers_deflate) {
                Response::Partial => {}
                Response::Accepted { used, deflate } => {
                    assert_eq!(deflate, offers_deflate);
                    break used;
                }
                Response::Refused(_) => return Err(answer_to_its_end(stream, head)),
            }
        };
        let decoder = Decoder::new(Role::Client, FRAME_BYTES_MAX);
        let mut client = Self {
            stream,
            decoder: if offers_deflate { decoder.with_deflate() } else { decoder },
            inflater: Inflater::new(),
            inflated: 0,
            recorded: None,
            events: VecDeque::new(),
            tag: 0,
            polite: true,
        };
        client.take(&mut head[used..]);
        Ok(client)
    }

    /// A connection on which nothing was said yet.
    pub fn open(address: SocketAddr, path: &str) -> Self {
        Self::try_open(address, path, None).unwrap_or_else(|why| panic!("cannot connect: {why}"))
    }

    /// A connected native client.
    pub fn native(address: SocketAddr, user: &str) -> Self {
        Self::open(address, native::PATH).connected(user)
    }

    /// A connected native client whose messages may be deflated.
    pub fn deflating(address: SocketAddr, user: &str) -> Self {
        Self::open_deflating(address, native::PATH).connected(user)
    }

    /// A connection whose messages may be deflated and on which nothing was said yet.
    pub fn open_deflating(address: SocketAddr, path: &str) -> Self {
        Self::shake_hands(address, (path, None), None, true).unwrap_or_else(|why| panic!("cannot connect: {why}"))
    }

    /// Another handle of the same connection, to write with.
    pub fn writer(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }

    /// A native client that asks for the parts of messages, on which nothing was said yet.
    pub fn asking_for_parts(address: SocketAddr) -> Self {
        let client = Self::shake_hands(address, (native::PATH, Some(native::SUBPROTOCOL_PARTS)), None, false);
        client.unwrap_or_else(|why| panic!("cannot connect: {why}"))
    }

    /// Sends connect and waits for its reply.
    pub fn connected(mut self, user: &str) -> Self {
        match self.call(Command::Connect { user: Some(user.into()), device: None }) {
            Event::Connected { .. } => self,
            other => panic!("not connected: {other:?}"),
        }
    }

    /// A connected client of each shard.
    pub fn one_on_each_shard(address: SocketAddr, shards: usize) -> Vec<Self> {
        let mut found: Vec<Option<Self>> = (0..shards).map(|_| None).collect();
        while found.iter().any(Option::is_none) {
            let mut client = Self::open(address, native::PATH);
            match client.call(Command::Connect { user: None, device: None }) {
                Event::Connected { session, .. } => found[(session >> 56) as usize] = Some(client),
                other => panic!("not connected: {other:?}"),
            }
        }
        found.into_iter().flatten().collect()
    }

    /// A connected client of the Centrifuge dialect.
    pub fn centrifuge(address: SocketAddr, user: &str) -> Self {
        let mut client = Self::open(address, centrifuge::PATH);
        let reply = client.call_json("connect", &json!({ "data": { "user": user } }));
        assert_eq!(reply["connect"]["data"]["user"], user, "{reply}");
        client
    }

    /// Sends a native command and gives its tag.
    pub fn try_send(&mut self, command: Command<'_>) -> io::Result<u32> {
        self.tag += 1;
        let mut payload = Vec::new();
        native::encode_request(&Request { tag: self.tag, command }, &mut payload);
        self.frame(Opcode::Binary, &payload)?;
        Ok(self.tag)
    }

    pub fn send(&mut self, command: Command<'_>) -> u32 {
        self.try_send(command).unwrap()
    }

    /// Sends any frame.
    pub fn frame(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        let mut frame = Vec::new();
        frame::write_masked(opcode, payload, MASK, &mut frame);
        self.send_bytes(&frame)
    }

    /// Sends a deflated message.
    pub fn deflated(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        let mut frame = Vec::new();
        Deflater::new(6).write_masked(opcode, payload, MASK, &mut frame);
        self.send_bytes(&frame)
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a native command and waits for its reply.
    pub fn call(&mut self, command: Command<'_>) -> Event {
        let tag = self.send(command);
        self.reply(tag)
    }

    /// Sends a command of the Centrifuge dialect and waits for its reply.
    pub fn call_json(&mut self, method: &str, parameters: &Value) -> Value {
        self.tag += 1;
        let command = json!({ "id": self.tag, method: parameters });
        self.frame(Opcode::Text, command.to_string().as_bytes()).unwrap();
        self.reply(self.tag).json()
    }

    /// The reply with this tag; what came before it stays for later.
    pub fn reply(&mut self, tag: u32) -> Event {
        self.find(|found, _| found == tag)
    }

    /// The next event that is no ping.
    pub fn next(&mut self) -> (u32, Event) {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.events.pop_front() {
                Some((_, Event::Ping)) => {}
                Some(event) => return event,
                None => self.fill_until(until),
            }
        }
    }

    /// Nothing was heard that was not asked for, up to the last reply.
    pub fn is_silent(&self) -> bool {
        self.events.iter().all(|(_, event)| *event == Event::Ping)
    }

    /// Waits until there is an event that is no ping, and leaves it there.
    pub fn wait(&mut self) {
        let event = self.next();
        self.events.push_front(event);
    }

    /// Waits for a ping of the relay.
    pub fn ping(&mut self) {
        self.find(|_, event| *event == Event::Ping);
    }

    fn find(&mut self, is_it: impl Fn(u32, &Event) -> bool) -> Event {
        let until = Instant::now() + DEADLINE;
        let mut looked_at = 0;
        loop {
            while let Some((tag, event)) = self.events.get(looked_at) {
                if is_it(*tag, event) {
                    return self.events.remove(looked_at).unwrap().1;
                }
                assert!(*event != Event::Ended, "the relay ended the connection: {:?}", self.events);
                looked_at += 1;
            }
            self.fill_until(until);
        }
    }

    pub fn join(&mut self, room: &str, start: Start) -> Joined {
        match self.call(Command::Join { room: room.into(), start }) {
            Event::Joined(joined) => joined,
            other => panic!("not joined: {other:?}"),
        }
    }

    /// Sends a text and gives the command's tag.
    pub fn publish(&mut self, room: &str, text: &str, key: Option<&str>) -> u32 {
        self.send(publish(room, text, key))
    }

    /// Publishes a text and waits for the ack: seq and id.
    pub fn say(&mut self, room: &str, text: &str) -> (u64, u64) {
        self.call(publish(room, text, None)).acked()
    }

    /// A page of history.
    pub fn history(&mut self, room: &str, page: Page, limit: u32) -> Vec<Line> {
        match self.call(Command::history(room, page, limit)) {
            Event::History { lines, .. } => lines,
            other => panic!("no history: {other:?}"),
        }
    }

    /// A room's epoch and its whole history, page by page.
    pub fn whole_history(&mut self, room: &str) -> (u64, Vec<Line>) {
        let mut all: Vec<Line> = Vec::new();
        loop {
            let page = Page::After(all.len() as u64);
            match self.call(Command::history(room, page, 1000)) {
                Event::History { epoch, head, lines } => {
                    all.extend(lines);
                    assert!(all.iter().map(|line| line.seq).eq(1..=all.len() as u64), "seqs are dense");
                    if all.len() as u64 == head {
                        return (epoch, all);
                    }
                }
                other => panic!("no history: {other:?}"),
            }
        }
    }

    /// The next `count` messages pushed to this member; nothing else may come in between.
    pub fn lines(&mut self, count: usize) -> Vec<Line> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.next().1 {
                Event::Batch { lines, .. } => all.extend(lines),
                other => panic!("instead of message {} of {count}: {other:?}", all.len() + 1),
            }
        }
        assert_eq!(all.len(), count);
        all
    }

    /// Everything until the connection ends, without that.
    pub fn rest(&mut self) -> Vec<Event> {
        let mut all = Vec::new();
        loop {
            match self.next().1 {
                Event::Ended => return all,
                event => all.push(event),
            }
        }
    }

    /// Closes as a client should and waits until the relay has let go.
    pub fn leave(mut self) {
        self.frame(Opcode::Close, &1000u16.to_be_bytes()).unwrap();
        self.rest();
    }

    /// From now on, keeps all bytes for [`Client::recorded`].
    pub fn record(&mut self) {
        self.recorded = Some(Vec::new());
    }

    /// What was received since the last call.
    pub fn recorded(&mut self) -> Vec<u8> {
        self.recorded.replace(Vec::new()).unwrap_or_default()
    }

    /// Reads bytes that are never decoded.
    pub fn read_bytes(&mut self, buffer: &mut [u8]) {
        assert!(self.events.is_empty(), "what was decoded was looked at");
        self.stream.read_exact(buffer).unwrap();
    }

    /// Reads a few bytes, at most.
    pub fn sip(&mut self, bytes_max: usize) {
        self.fill_from(&mut vec![0; bytes_max]);
    }

    /// Reads once. Pings that come for ever do not count as an answer.
    fn fill_until(&mut self, until: Instant) {
        assert!(Instant::now() < until, "what is waited for did not come; what came: {:?}", self.events);
        self.fill_from(&mut [0; 16 * 1024]);
    }

    fn fill_from(&mut self, buffer: &mut [u8]) {
        match self.stream.read(buffer) {
            Ok(0) => self.events.push_back((0, Event::Ended)),
            Ok(count) => self.take(&mut buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                self.events.push_back((0, Event::Ended));
            }
            Err(error) => panic!("nothing from the relay: {error}"),
        }
    }

    fn take(&mut self, bytes: &mut [u8]) {
        if let Some(recorded) = &mut self.recorded {
            recorded.extend_from_slice(bytes);
        }
        let (mut at, mut pings, mut closed) = (0, 0, false);
        while let (used, Some(mut incoming)) = self.decoder.next(&mut bytes[at..]).unwrap() {
            at += used;
            if let Incoming::Deflated { opcode, payload } = incoming {
                self.inflated += 1;
                incoming = self.inflater.inflate(opcode, payload, FRAME_BYTES_MAX).unwrap();
            }
            let events = Event::read(&incoming);
            pings += events.iter().filter(|(_, event)| *event == Event::Ping).count();
            closed |= events.iter().any(|(_, event)| matches!(event, Event::Closed { .. }));
            self.events.extend(events);
        }
        if self.polite {
            // A relay that is gone meanwhile shows when its end is read.
            for _ in 0..pings {
                let _ = self.frame(Opcode::Pong, b"");
            }
            if closed {
                let _ = self.frame(Opcode::Close, b"");
            }
        }
    }
}

/// The command that publishes a text.
pub fn publish<'a>(room: &'a str, text: &'a str, key: Option<&'a str>) -> Command<'a> {
    Command::Publish {
        room: room.into(),
        content: Content::Text,
        body: text.as_bytes().into(),
        key: key.map(Into::into),
    }
}

fn answer_to_its_end(mut stream: TcpStream, mut head: Vec<u8>) -> String {
    // A reset after the answer is an end too.
    let _ = stream.read_to_end(&mut head);
    String::from_utf8_lossy(&head).into_owned()
}
