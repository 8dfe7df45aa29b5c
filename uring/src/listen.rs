//! Listening sockets whose connections come with the right options already set.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Listens on `addr` with SO_REUSEADDR, and with TCP_NODELAY and (when given) SO_SNDBUF set so that accepted connections
/// inherit them. `reuse_port` lets several rings listen on one address; the kernel spreads connections over them.
/// `backlog` is cut to net.core.somaxconn; the kernel doubles `send_buffer_bytes` for its own bookkeeping.
pub fn listener(
    addr: SocketAddr,
    backlog: u32,
    reuse_port: bool,
    send_buffer_bytes: Option<usize>,
) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = send_buffer_bytes {
        socket.set_send_buffer_size(bytes)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Who is at the other end of an accepted connection; None when it is gone already.
pub fn peer(connection: &OwnedFd) -> Option<SocketAddr> {
    SockRef::from(connection).peer_addr().ok()?.as_socket()
}
