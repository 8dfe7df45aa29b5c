//! The opening handshake of RFC 6455, both ends, from bytes to bytes.

mod client;
mod deflate;
mod head;
mod server;

pub use client::{Response, read_response, request};
pub use server::{Request, Upgrade, accept, header, read_request, refuse};
