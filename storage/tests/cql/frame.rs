//! As much of CQL's binary protocol, version 4, as the shim must understand.
//! <https://cassandra.apache.org/doc/latest/cassandra/_attachments/native_protocol_v4.html>

use std::io::{Read, Write};

use scylla::routing::Token;
use scylla::routing::partitioner::{Murmur3Partitioner, Partitioner, PartitionerHasher};

pub mod opcode {
    pub const SUPPORTED: u8 = 0x06;
    pub const RESULT: u8 = 0x08;
    pub const EXECUTE: u8 = 0x0A;
    pub const BATCH: u8 = 0x0D;
}

/// Version, flags, stream (2 bytes).
const HEAD_BYTES: usize = 4;
/// The kind of RESULT that answers PREPARE.
const PREPARED: i32 = 4;
/// The flag of an EXECUTE that carries values.
const WITH_VALUES: u8 = 1;

/// One frame, in either direction.
pub struct Frame {
    head: [u8; HEAD_BYTES],
    pub opcode: u8,
    body: Vec<u8>,
}

/// A prepared statement with its values; None is null or unset.
pub struct Statement {
    pub id: Vec<u8>,
    pub values: Vec<Option<Vec<u8>>>,
}

/// What a prepared statement is about.
pub struct Keys {
    /// `keyspace.table`.
    pub table: String,
    /// Which values are the partition key, in its order.
    at: Vec<usize>,
}

impl Frame {
    pub fn read(from: &mut impl Read) -> std::io::Result<Self> {
        let mut header = [0; HEAD_BYTES + 5];
        from.read_exact(&mut header)?;
        let [head @ .., opcode, a, b, c, d] = header;
        let mut body = vec![0; u32::from_be_bytes([a, b, c, d]) as usize];
        from.read_exact(&mut body)?;
        Ok(Self { head, opcode, body })
    }

    pub fn write(&self, to: &mut impl Write) -> std::io::Result<()> {
        let length = (self.body.len() as u32).to_be_bytes();
        to.write_all(&[&self.head[..], &[self.opcode], &length, &self.body].concat())
    }

    /// Adds entries to a SUPPORTED frame: a map whose values are lists, here of one string each.
    pub fn add_options(&mut self, options: &[(&str, &str)]) {
        let count = Fields(&self.body).short() + options.len() as u16;
        self.body[..2].copy_from_slice(&count.to_be_bytes());
        for (name, value) in options {
            put_string(&mut self.body, name);
            self.body.extend(1u16.to_be_bytes());
            put_string(&mut self.body, value);
        }
    }

    /// The statement that a RESULT says was prepared, by its id.
    pub fn prepared(&self) -> Option<(Vec<u8>, Keys)> {
        let mut fields = Fields(&self.body);
        if fields.int() != PREPARED {
            return None;
        }
        let id = fields.short_bytes();
        let (_flags, _columns) = (fields.int(), fields.int());
        let at: Vec<usize> = (0..fields.int()).map(|_| fields.short().into()).collect();
        // Nothing follows for a statement without values.
        let table = if at.is_empty() { String::new() } else { format!("{}.{}", fields.string(), fields.string()) };
        Some((id, Keys { table, at }))
    }

    /// The prepared statements of an EXECUTE or BATCH.
    pub fn statements(&self) -> Vec<Statement> {
        let mut fields = Fields(&self.body);
        match self.opcode {
            opcode::EXECUTE => {
                let id = fields.short_bytes();
                let (_consistency, flags) = (fields.short(), fields.byte());
                let values = if flags & WITH_VALUES == 0 { Vec::new() } else { fields.values() };
                vec![Statement { id, values }]
            }
            opcode::BATCH => {
                let (_kind, count) = (fields.byte(), fields.short());
                (0..count).map(|_| fields.batched()).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Keys {
    /// The token of the partition that a statement with these values is about; None when it is not about one.
    pub fn token(&self, values: &[Option<Vec<u8>>]) -> Option<Token> {
        let mut hasher = Murmur3Partitioner.build_hasher();
        for &at in &self.at {
            let value = values.get(at)?.as_ref()?;
            if self.at.len() == 1 {
                hasher.write(value);
            } else {
                hasher.write(&(value.len() as u16).to_be_bytes());
                hasher.write(value);
                hasher.write(&[0]);
            }
        }
        (!self.at.is_empty()).then(|| hasher.finish())
    }
}

/// The fields of a body that are still to be read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes(&mut self, count: usize) -> &[u8] {
        let (bytes, rest) = self.0.split_at(count);
        self.0 = rest;
        bytes
    }

    fn byte(&mut self) -> u8 {
        self.bytes(1)[0]
    }

    fn short(&mut self) -> u16 {
        u16::from_be_bytes(self.bytes(2).try_into().unwrap())
    }

    fn int(&mut self) -> i32 {
        i32::from_be_bytes(self.bytes(4).try_into().unwrap())
    }

    fn short_bytes(&mut self) -> Vec<u8> {
        let count = self.short().into();
        self.bytes(count).into()
    }

    fn string(&mut self) -> String {
        String::from_utf8(self.short_bytes()).unwrap()
    }

    fn values(&mut self) -> Vec<Option<Vec<u8>>> {
        let count = self.short();
        (0..count).map(|_| usize::try_from(self.int()).ok().map(|count| self.bytes(count).into())).collect()
    }

    /// A statement of a BATCH; one that is not prepared gets an empty id.
    fn batched(&mut self) -> Statement {
        let id = if self.byte() == 1 {
            self.short_bytes()
        } else {
            let count = self.int() as usize;
            self.bytes(count);
            Vec::new()
        };
        Statement { id, values: self.values() }
    }
}

fn put_string(body: &mut Vec<u8>, text: &str) {
    body.extend((text.len() as u16).to_be_bytes());
    body.extend(text.as_bytes());
}
