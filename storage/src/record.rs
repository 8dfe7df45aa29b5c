//! One entry of a room's log as it is stored, in memory and as versioned bytes.

use protocol::{Content, Message};
use rkyv::rancor::Error as RkyvError;
use rkyv::with::InlineAsBox;

use crate::StoreError;

/// The first byte of every stored record; a later format gets the next number, and this one stays readable.
pub const FORMAT_VERSION: u8 = 1;

const HEADER_BYTES: usize = 2;
const KIND_MESSAGE: u8 = 0;

/// What an entry is. Unknown numbers pass through, so that an older relay can carry a newer one's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something a user said. Number 0.
    Message,
    /// A kind this version does not know (edit, delete, pin, mode, membership… of a later one).
    Other(u8),
}

impl Kind {
    /// The stored number.
    pub fn to_u8(self) -> u8 {
        match self {
            Self::Message => KIND_MESSAGE,
            Self::Other(number) => number,
        }
    }

    /// The kind with this stored number.
    pub fn from_u8(number: u8) -> Self {
        if number == KIND_MESSAGE { Self::Message } else { Self::Other(number) }
    }
}

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What this entry is.
    pub kind: Kind,
    /// Position in the log, from 1.
    pub seq: u64,
    /// Snowflake.
    pub id: u64,
    /// When the relay took it, milliseconds since 1970.
    pub time_ms: u64,
    /// The user who sent it.
    pub sender: Box<str>,
    /// What the body is.
    pub content: Content,
    /// The message itself.
    pub body: Box<[u8]>,
    /// Hash of (user, idempotency key) when the publisher gave a key.
    pub key: Option<u128>,
}

/// Version 1 after the header, as rkyv lays it out (little-endian, unaligned). Never change a field: add a version.
#[derive(rkyv::Archive, rkyv::Serialize)]
struct FieldsV1<'a> {
    seq: u64,
    id: u64,
    time_ms: u64,
    #[rkyv(with = InlineAsBox)]
    sender: &'a str,
    content: u8,
    #[rkyv(with = InlineAsBox)]
    body: &'a [u8],
    key: Option<u128>,
}

impl Record {
    /// As a reader sees it.
    pub fn message(&self) -> Message<'_> {
        Message {
            seq: self.seq,
            id: self.id,
            time_ms: self.time_ms,
            user: &self.sender,
            content: self.content,
            body: &self.body,
        }
    }

    /// Appends the stored form: format version byte, kind byte, then an rkyv archive of the rest.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[FORMAT_VERSION, self.kind.to_u8()]);
        let fields = FieldsV1 {
            seq: self.seq,
            id: self.id,
            time_ms: self.time_ms,
            sender: &self.sender,
            content: self.content as u8,
            body: &self.body,
            key: self.key,
        };
        rkyv::api::high::to_bytes_in::<_, RkyvError>(&fields, out).expect("writing to memory does not fail");
    }

    /// Reads a stored form, checking every byte that could mislead.
    ///
    /// # Errors
    /// [`StoreError::BadRecord`] for damaged bytes, and for versions and content types this relay is too old for.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let bad = |message: String| StoreError::BadRecord { message };
        let Some((&[version, kind], archive)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(bad(format!("{} bytes are too few for a record", bytes.len())));
        };
        if version != FORMAT_VERSION {
            return Err(bad(format!(
                "its format version is {version}, this relay reads {FORMAT_VERSION}; use the relay that wrote it or a newer one"
            )));
        }
        let fields = rkyv::access::<ArchivedFieldsV1<'_>, RkyvError>(archive)
            .map_err(|error| bad(format!("its bytes are damaged ({error})")))?;
        let content = Content::from_u8(fields.content)
            .ok_or_else(|| bad(format!("its content type {} is newer than this relay", fields.content)))?;
        Ok(Self {
            kind: Kind::from_u8(kind),
            seq: fields.seq.to_native(),
            id: fields.id.to_native(),
            time_ms: fields.time_ms.to_native(),
            sender: fields.sender.as_ref().into(),
            content,
            body: fields.body.as_ref().into(),
            key: fields.key.as_ref().map(|key| key.to_native()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn golden() -> Record {
        Record {
            kind: Kind::Message,
            seq: 0x0102_0304,
            id: 0x1112_1314_1516_1718,
            time_ms: 1_735_689_600_123,
            sender: "mina".into(),
            content: Content::Json,
            body: br#"{"a":1}"#[..].into(),
            key: Some(0xfeed),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    #[test]
    fn version_1_keeps_its_bytes() {
        let mut bytes = Vec::new();
        golden().encode(&mut bytes);
        let golden_bytes = concat!(
            "0100", // version, kind
            "6d696e61",
            "7b2261223a317d", // sender, body
            "0403020100000000",
            "1817161514131211",
            "7b7c291f94010000", // seq, id, time
            "ddffffff04000000",
            "01",
            "d8ffffff07000000", // sender and body as (offset, length), content between
            "01",
            "edfe0000000000000000000000000000", // key
        );
        assert_eq!(hex(&bytes), golden_bytes);
        assert_eq!(Record::decode(&bytes).unwrap(), golden());
    }

    #[test]
    fn an_unknown_version_says_what_to_do() {
        let mut bytes = Vec::new();
        golden().encode(&mut bytes);
        bytes[0] = 2;
        let error = Record::decode(&bytes).unwrap_err().to_string();
        assert!(error.contains("version is 2") && error.contains("newer"), "{error}");
    }

    #[test]
    fn an_unknown_content_type_is_refused() {
        let fields = FieldsV1 { seq: 1, id: 2, time_ms: 3, sender: "x", content: 77, body: b"", key: None };
        let mut newer = vec![FORMAT_VERSION, 0];
        rkyv::api::high::to_bytes_in::<_, RkyvError>(&fields, &mut newer).unwrap();
        assert!(Record::decode(&newer).unwrap_err().to_string().contains("content type 77"));
    }

    #[test]
    fn every_shortened_form_is_refused() {
        let mut bytes = Vec::new();
        golden().encode(&mut bytes);
        for length in 0..bytes.len() {
            let outcome = Record::decode(&bytes[..length]);
            assert!(outcome.as_ref().ok() != Some(&golden()), "cut to {length}");
        }
    }

    proptest! {
        #[test]
        fn every_record_survives_a_round_trip(
            kind in any::<u8>(), seq in any::<u64>(), id in any::<u64>(), time_ms in any::<u64>(),
            sender in ".{0,40}", content in 0u8..3, body in proptest::collection::vec(any::<u8>(), 0..300),
            key in any::<Option<u128>>(), before in proptest::collection::vec(any::<u8>(), 0..9),
        ) {
            let record = Record {
                kind: Kind::from_u8(kind), seq, id, time_ms, sender: sender.into(),
                content: Content::from_u8(content).unwrap(), body: body.into(), key,
            };
            let mut bytes = before.clone();
            record.encode(&mut bytes);
            prop_assert_eq!(bytes[before.len() + 1], kind);
            prop_assert_eq!(Record::decode(&bytes[before.len()..]).unwrap(), record);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(first) = bytes.first_mut() {
                *first = FORMAT_VERSION;
            }
            let _ = Record::decode(&bytes);
        }
    }
}
