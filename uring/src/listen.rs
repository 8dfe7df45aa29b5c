//! Listening sockets whose connections come with the right options already set.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// What a listener's connections inherit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inherited {
    /// SO_SNDBUF; the kernel doubles it for its own bookkeeping.
    pub send_buffer_bytes: Option<usize>,
    /// TCP_USER_TIMEOUT: a connection whose peer acknowledges nothing of what was sent for this long ends.
    pub user_timeout: Option<Duration>,
}

/// Listens on `addr` with SO_REUSEADDR, and with TCP_NODELAY and the options that accepted connections are to inherit.
/// `reuse_port` lets several rings listen on one address; the kernel spreads connections over them. `backlog` is cut to net.core.somaxconn.
pub fn listener(addr: SocketAddr, backlog: u32, reuse_port: bool, inherited: Inherited) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = inherited.send_buffer_bytes {
        socket.set_send_buffer_size(bytes)?;
    }
    socket.set_tcp_user_timeout(inherited.user_timeout)?;
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}
