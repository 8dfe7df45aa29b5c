//! What is on the wire, without any I/O: ids, commands and events, RFC 6455 frames and handshake, and the dialects.
//!
//! A dialect turns bytes into [`Command`]s and [`Event`]s into bytes. Everything the relay knows about a client goes through
//! these two enums.

#![warn(missing_docs)]

pub mod centrifuge;
pub mod command;
pub mod dialect;
pub mod event;
pub mod frame;
pub mod handshake;
pub mod json;
mod malformed;
pub mod native;
pub mod parts;
pub mod snowflake;
pub mod varint;

pub use command::{Command, Page, Request, Start};
pub use dialect::Dialect;
pub use event::{Close, Content, ErrorCode, Event, Kind, Message};
pub use malformed::Malformed;
pub use parts::{ClientId, NewParts, OwnedParts, Parts};
