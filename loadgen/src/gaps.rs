//! Whether the history has what announced gaps left out: all of it is fetched, over a connection of its own.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::time::Duration;

use protocol::frame::{Decoder, Incoming, Role};
use protocol::handshake::{self, Response};
use protocol::native::Received;

use crate::room::Room;
use crate::target::{CONNECT, HISTORY};
use crate::user::MESSAGE_BYTES_MAX;
use crate::world::World;

/// Messages of one page.
const PAGE: u64 = 1_000;
/// A reply that takes longer is a failure.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 16 << 10;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What was announced as left out, and what of it the history has.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Gaps {
    pub announced: u64,
    /// Gaps that the history does not fill.
    pub unfilled: u64,
    /// Messages of all gaps, each counted once, and those of them that the history does not have.
    pub messages: u64,
    pub missing: u64,
    /// Why not everything was fetched.
    pub failure: Option<String>,
}

/// Fetches all `gaps`, (room, seqs), when that is `wanted`. Also returns the rooms' logs as the history has them: their
/// contents are checked like any receiver's.
pub fn fetch(world: &World, gaps: &[(u32, Range<u64>)], wanted: bool) -> (Gaps, Option<Vec<Room>>) {
    let mut found = Gaps { announced: gaps.len() as u64, ..Gaps::default() };
    if gaps.is_empty() || !wanted {
        return (found, None);
    }
    let merged = merged(gaps);
    found.messages = merged.values().flatten().map(|seqs| seqs.end - seqs.start).sum();
    let mut log: Vec<Room> = (0..world.room_names.len()).map(|room| Room::new(room as u32)).collect();
    let mut missing: BTreeMap<u32, Vec<Range<u64>>> = BTreeMap::new();
    let fetched = Connection::open(world).and_then(|mut connection| {
        for (&room, ranges) in &merged {
            log[room as usize].on_join(ranges[0].start - 1);
            for seqs in ranges {
                let lacks = connection.fetch(&mut log[room as usize], &world.room_names[room as usize], seqs)?;
                missing.entry(room).or_default().extend(lacks);
            }
        }
        Ok(())
    });
    found.failure = fetched.err();
    found.missing = missing.values().flatten().map(|seqs| seqs.end - seqs.start).sum();
    let lacks = |room: u32, seqs: &Range<u64>| {
        missing.get(&room).is_some_and(|all| all.iter().any(|lack| lack.start < seqs.end && seqs.start < lack.end))
    };
    found.unfilled = gaps.iter().filter(|(room, seqs)| lacks(*room, seqs)).count() as u64;
    (found, Some(log))
}

/// The seqs of all gaps by room, ascending and without overlaps.
fn merged(gaps: &[(u32, Range<u64>)]) -> BTreeMap<u32, Vec<Range<u64>>> {
    let mut sorted: Vec<_> = gaps.to_vec();
    sorted.sort_unstable_by_key(|(room, seqs)| (*room, seqs.start));
    let mut merged: BTreeMap<u32, Vec<Range<u64>>> = BTreeMap::new();
    for (room, seqs) in sorted {
        let ranges = merged.entry(room).or_default();
        match ranges.last_mut() {
            Some(last) if seqs.start <= last.end => last.end = last.end.max(seqs.end),
            _ => ranges.push(seqs),
        }
    }
    merged
}

/// A connection that only asks.
struct Connection<'w> {
    world: &'w World,
    stream: TcpStream,
    decoder: Decoder,
    input: Vec<u8>,
}

impl<'w> Connection<'w> {
    fn open(world: &'w World) -> Result<Self, String> {
        let stream = TcpStream::connect_timeout(&world.address, REPLY_TIMEOUT).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT)).map_err(|error| error.to_string())?;
        let decoder = Decoder::new(Role::Client, MESSAGE_BYTES_MAX);
        let mut connection = Self { world, stream, decoder, input: Vec::new() };
        let (mut head, key) = (Vec::new(), world.handshake_key(0));
        handshake::request(&world.authority, &world.path, world.target.subprotocol(), false, key, &mut head);
        connection.write(&head)?;
        loop {
            connection.read()?;
            match handshake::read_response(&connection.input, key, false) {
                Response::Partial => {}
                Response::Refused(why) => return Err(why),
                Response::Accepted { used, .. } => {
                    connection.input.drain(..used);
                    break;
                }
            }
        }
        let mut hello = Vec::new();
        world.target.connect(&format!("{}-history", world.run_id), MASK, &mut hello);
        connection.write(&hello)?;
        connection.reply(CONNECT, |_| ())?;
        Ok(connection)
    }

    /// Fetches `seqs` page by page, checks them into `log`, and returns those that the history does not have.
    fn fetch(&mut self, log: &mut Room, room: &str, seqs: &Range<u64>) -> Result<Vec<Range<u64>>, String> {
        let (mut next, mut missing) = (seqs.start, Vec::new());
        while next < seqs.end {
            let mut ask = Vec::new();
            self.world.target.history(room, next - 1, PAGE.min(seqs.end - next) as u32, MASK, &mut ask);
            self.write(&ask)?;
            let reference = self.world.reference();
            let page = self.reply(HISTORY, |event| match event {
                Received::History { messages, .. } if messages.count > 0 => {
                    log.check(messages, &reference).map_err(|error| format!("unreadable page: {error}"))?;
                    Ok(messages.first_seq..messages.first_seq + u64::from(messages.count))
                }
                Received::History { .. } => Ok(seqs.end..seqs.end),
                Received::Error { code, message, .. } => Err(format!("history refused: {code} ({message})")),
                _ => Err("another reply than asked for".to_owned()),
            })??;
            if page.start > next {
                missing.push(next..page.start.min(seqs.end));
            }
            if page.end <= next {
                return Err(format!("asked for what follows {}, the history gave {page:?}", next - 1));
            }
            next = page.end;
        }
        Ok(missing)
    }

    /// Reads until the reply with this tag.
    fn reply<T>(&mut self, tag: u32, mut take: impl FnMut(&Received<'_>) -> T) -> Result<T, String> {
        loop {
            let (mut at, mut taken) = (0, None);
            while taken.is_none() {
                let (used, message) = self.decoder.next(&mut self.input[at..]).map_err(|error| error.to_string())?;
                at += used;
                match message {
                    None => break,
                    Some(Incoming::Binary(payload)) => {
                        let payload = self.world.target.complete(payload);
                        let (of, event) = self.world.target.read(&payload).map_err(|error| error.to_string())?;
                        taken = event.filter(|_| of == tag).map(|event| take(&event));
                    }
                    Some(Incoming::Close { reason, .. }) => return Err(format!("closed by the server: {reason}")),
                    Some(_) => {}
                }
            }
            self.input.drain(..at);
            match taken {
                Some(taken) => return Ok(taken),
                None => self.read()?,
            }
        }
    }

    fn read(&mut self) -> Result<(), String> {
        let mut buffer = [0; READ_BYTES];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err("the server ended the connection".to_owned()),
            Ok(taken) => {
                self.input.extend_from_slice(&buffer[..taken]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err("no reply in time".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_gaps_are_fetched_once() {
        let gaps = [(1, 5..9), (0, 10..20), (0, 1..3), (0, 15..30), (0, 3..5), (0, 31..32)];
        let merged = merged(&gaps);
        assert_eq!(merged[&0], [1..5, 10..30, 31..32]);
        assert_eq!((merged[&1].len(), &merged[&1][0]), (1, &(5..9)));
    }
}
