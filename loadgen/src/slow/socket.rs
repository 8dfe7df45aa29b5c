//! One slow reader's connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Type};

/// Small, so that what is not read stays with the server. The kernel makes it twice as much, bytes.
const RECV_BUFFER_BYTES: usize = 4 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A non-blocking connection and what waits to be sent on it.
pub struct Socket {
    stream: TcpStream,
    unsent: Vec<u8>,
    waiting_bytes: usize,
    /// When the bytes that wait to be read were last seen to become more, nanoseconds of the run's clock.
    pub grew_ns: u64,
}

impl Socket {
    /// Connects; blocks until it stands.
    pub fn open(source: Option<SocketAddr>, target: SocketAddr) -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
        // Before it connects: the window is agreed on then.
        socket.set_recv_buffer_size(RECV_BUFFER_BYTES)?;
        if let Some(source) = source {
            socket.bind(&source.into())?;
        }
        socket.connect_timeout(&target.into(), CONNECT_TIMEOUT)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Self { stream: socket.into(), unsent: Vec::new(), waiting_bytes: 0, grew_ns: 0 })
    }

    /// Reads what there is, at most a buffer full.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.stream).read(buffer)
    }

    /// Looks, without reading, whether more has come.
    pub fn watch(&mut self, buffer: &mut [u8], now_ns: u64) {
        let waiting_bytes = self.stream.peek(buffer).unwrap_or(0);
        if waiting_bytes > self.waiting_bytes || self.grew_ns == 0 {
            (self.waiting_bytes, self.grew_ns) = (waiting_bytes, now_ns);
        }
    }

    /// Sends, now or when there is room.
    pub fn write(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
        self.flush();
    }

    /// Sends what waits. An error means that the server is gone, which reading tells better.
    pub fn flush(&mut self) {
        if self.unsent.is_empty() {
            return;
        }
        match (&self.stream).write(&self.unsent) {
            Ok(taken) => drop(self.unsent.drain(..taken)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.unsent.clear(),
        }
    }
}
