//! Version 1 of a stored record: an rkyv archive (little-endian, unaligned) behind version and kind.

use protocol::{Content, Kind, OwnedParts};
use rkyv::rancor::Error as RkyvError;
use rkyv::with::InlineAsBox;

use super::{Key, Record, bad};
use crate::StoreError;

/// The archive. It is not written any more, but for tests.
#[derive(rkyv::Archive)]
#[cfg_attr(test, derive(rkyv::Serialize))]
#[cfg_attr(not(test), expect(dead_code, reason = "only its archived form is read"))]
pub(super) struct Fields<'a> {
    pub seq: u64,
    pub id: u64,
    pub time_ms: u64,
    #[rkyv(with = InlineAsBox)]
    pub sender: &'a str,
    pub content: u8,
    #[rkyv(with = InlineAsBox)]
    pub body: &'a [u8],
    pub key: Option<u128>,
}

/// Reads what stands behind the header.
pub(super) fn decode(kind: Kind, archive: &[u8]) -> Result<Record, StoreError> {
    let fields = rkyv::access::<ArchivedFields<'_>, RkyvError>(archive)
        .map_err(|error| bad(format!("its bytes are damaged ({error})")))?;
    let content = Content::from_u8(fields.content)
        .ok_or_else(|| bad(format!("its content type {} is newer than this relay", fields.content)))?;
    Ok(Record {
        kind,
        seq: fields.seq.to_native(),
        id: fields.id.to_native(),
        time_ms: fields.time_ms.to_native(),
        sender: fields.sender.as_ref().into(),
        content,
        body: fields.body.as_ref().into(),
        key: fields.key.as_ref().map(|hash| Key { hash: hash.to_native(), body: None }),
        parts: OwnedParts::default(),
    })
}
