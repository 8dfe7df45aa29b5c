//! The client's end of a connection before it is connected.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

/// A socket for a connection to `target`, bound to `source` without taking a port yet: the port is chosen by connect,
/// which may use one port for several targets.
pub fn socket(source: Option<SocketAddr>, target: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.cloexec().nonblocking();
    let socket = Socket::new(Domain::for_address(target), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        bind_address_no_port(&socket)?;
        socket.bind(&source.into())?;
    }
    Ok(socket)
}

fn bind_address_no_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    let (value, bytes) = ((&raw const on).cast(), size_of_val(&on) as libc::socklen_t);
    // SAFETY: the descriptor is open while `socket` is borrowed, and the value is a live integer of the size given.
    // (At level IPPROTO_IP the option works for IPv6 sockets too.)
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, value, bytes) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
