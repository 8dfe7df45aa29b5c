//! What is on the wire: a header, then one rkyv archive, whose root has a layout of its own for each kind of message.
//!
//! Fields are only ever appended to a root and kinds to the lists, so both sides may be of different versions: a reader
//! takes the fields that it knows, those that the sender did not have are zero ([`complete`]), and kinds that it does not
//! know are skipped. A batch has no new fields ever, for its bytes are shared by members of all versions: it grows by the
//! flags of its messages.

use std::borrow::Cow;

use rkyv::{
    Archive, Portable, Serialize,
    api::{high::HighSerializer, low},
    bytecheck::CheckBytes,
    rancor,
    ser::allocator::ArenaHandle,
    with::{InlineAsBox, Map},
};

/// Bytes before the archive: tag (4), kind (1), position of the root (4), counted from the first byte of the message.
const HEADER_BYTES: usize = 9;

/// The first bytes of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub tag: u32,
    pub kind: u8,
    root: usize,
}

impl Header {
    /// `None` when the message is too short for what it says.
    pub fn read(message: &[u8]) -> Option<Self> {
        let (tag, rest) = message.split_first_chunk()?;
        let (&kind, rest) = rest.split_first()?;
        let (root, _) = rest.split_first_chunk()?;
        let root = u32::from_le_bytes(*root) as usize;
        let header = Self { tag: u32::from_le_bytes(*tag), kind, root };
        (HEADER_BYTES..=message.len()).contains(&root).then_some(header)
    }

    /// The root of a message of this header; `None` when it is not one.
    pub fn root<'a, T>(&self, message: &'a [u8]) -> Option<&'a T>
    where
        T: Portable + for<'b> CheckBytes<low::LowValidator<'b, rancor::Failure>>,
    {
        low::access_pos(message, self.root).ok()
    }
}

/// Appends a message. Those without a root, of type `()`, are their header alone.
pub(super) fn write<T>(tag: u32, kind: u8, root: &T, out: &mut Vec<u8>)
where
    T: for<'a, 'b> Serialize<HighSerializer<&'a mut Vec<u8>, ArenaHandle<'b>, rancor::Error>>,
{
    let start = out.len();
    out.extend_from_slice(&tag.to_le_bytes());
    out.push(kind);
    out.extend_from_slice(&[0; 4]);
    rkyv::api::high::to_bytes_in::<_, rancor::Error>(root, &mut *out).expect("a Vec takes every byte");
    let root = (out.len() - size_of::<T::Archived>() - start) as u32;
    out[start + HEADER_BYTES - 4..start + HEADER_BYTES].copy_from_slice(&root.to_le_bytes());
}

/// The message with zeros for the fields that its sender's version did not have.
pub(super) fn complete(message: &[u8], root_bytes: fn(u8) -> usize) -> Cow<'_, [u8]> {
    let whole = Header::read(message).map_or(0, |header| header.root + root_bytes(header.kind));
    if whole <= message.len() {
        return Cow::Borrowed(message);
    }
    let mut completed = message.to_vec();
    completed.resize(whole, 0);
    Cow::Owned(completed)
}

/// Kinds of commands. 0 is none's, and is answered as one that is not known.
pub(super) mod up {
    pub const NONE: u8 = 0;
    pub const CONNECT: u8 = 1;
    pub const JOIN: u8 = 2;
    pub const LEAVE: u8 = 3;
    pub const PUBLISH: u8 = 4;
    pub const HISTORY: u8 = 5;
    pub const PING: u8 = 6;
    pub const PONG: u8 = 7;
    pub const INFO: u8 = 8;

    /// How long the root of a kind is in this version.
    pub fn root_bytes(kind: u8) -> usize {
        match kind {
            CONNECT => size_of::<super::ArchivedConnect<'_>>(),
            JOIN => size_of::<super::ArchivedJoin<'_>>(),
            LEAVE => size_of::<super::ArchivedLeave<'_>>(),
            PUBLISH => size_of::<super::ArchivedPublish<'_>>(),
            HISTORY => size_of::<super::ArchivedHistory<'_>>(),
            INFO => size_of::<super::ArchivedAskInfo<'_>>(),
            _ => 0,
        }
    }
}

/// Kinds of events.
pub(super) mod down {
    pub const CONNECTED: u8 = 1;
    pub const JOINED: u8 = 2;
    pub const LEFT: u8 = 3;
    pub const ACKED: u8 = 4;
    pub const PAGE: u8 = 5;
    pub const BATCH: u8 = 6;
    pub const GAP: u8 = 7;
    pub const ERROR: u8 = 8;
    pub const GOING_AWAY: u8 = 9;
    pub const PONG: u8 = 10;
    pub const INFO: u8 = 11;

    /// How long the root of a kind is in this version.
    pub fn root_bytes(kind: u8) -> usize {
        match kind {
            CONNECTED => size_of::<super::ArchivedConnected<'_>>(),
            JOINED => size_of::<super::ArchivedJoined<'_>>(),
            LEFT => size_of::<super::ArchivedLeft<'_>>(),
            ACKED => size_of::<super::ArchivedAcked<'_>>(),
            PAGE => size_of::<super::ArchivedPage<'_>>(),
            BATCH => size_of::<super::ArchivedBatch<'_>>(),
            GAP => size_of::<super::ArchivedGap<'_>>(),
            ERROR => size_of::<super::ArchivedError<'_>>(),
            GOING_AWAY => size_of::<super::ArchivedGoingAway<'_>>(),
            INFO => size_of::<super::ArchivedInfo<'_>>(),
            _ => 0,
        }
    }
}

// The roots of commands. The order of fields is the format: append, never reorder.

#[derive(Archive, Serialize)]
pub(super) struct Connect<'a> {
    #[rkyv(with = Map<InlineAsBox>)]
    pub user: Option<&'a str>,
    #[rkyv(with = Map<InlineAsBox>)]
    pub device: Option<&'a str>,
}

#[derive(Archive, Serialize)]
pub(super) struct Join<'a> {
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    /// 0: with `position` recent messages. 1: since seq `position`, of `epoch` if it is known.
    pub start: u8,
    pub position: u64,
    pub epoch: Option<u64>,
}

#[derive(Archive, Serialize)]
pub(super) struct Leave<'a> {
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
}

#[derive(Archive, Serialize)]
pub(super) struct Publish<'a> {
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    /// The content type's stored number.
    pub content: u8,
    #[rkyv(with = InlineAsBox)]
    pub body: &'a [u8],
    #[rkyv(with = Map<InlineAsBox>)]
    pub key: Option<&'a str>,
}

#[derive(Archive, Serialize)]
pub(super) struct History<'a> {
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    /// 0: the newest. 1: before seq `position`. 2: after it. 3: around it.
    pub page: u8,
    pub position: u64,
    pub limit: u32,
    pub epoch: Option<u64>,
}

#[derive(Archive, Serialize)]
pub(super) struct AskInfo<'a> {
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
}

// The roots of events; messages are packed.

#[derive(Archive, Serialize)]
pub(super) struct Connected<'a> {
    #[rkyv(with = InlineAsBox)]
    pub user: &'a str,
    pub session: u64,
    pub ping_s: u32,
    pub client: u64,
}

#[derive(Archive, Serialize)]
pub(super) struct Joined<'a> {
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    pub epoch: u64,
    pub from: u64,
    pub head: u64,
    pub recovering: bool,
    pub recovered: bool,
}

#[derive(Archive, Serialize)]
pub(super) struct Left<'a> {
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
}

#[derive(Archive, Serialize)]
pub(super) struct Acked<'a> {
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    pub seq: u64,
    pub id: u64,
}

/// The reply to history.
#[derive(Archive, Serialize)]
pub(super) struct Page<'a> {
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    pub epoch: u64,
    pub head: u64,
    pub messages: Packed<'a>,
}

/// Has no further fields ever.
#[derive(Archive, Serialize)]
pub(super) struct Batch<'a> {
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    pub messages: Packed<'a>,
}

#[derive(Archive, Serialize)]
pub(super) struct Gap<'a> {
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    pub from: u64,
    pub to: u64,
}

#[derive(Archive, Serialize)]
pub(super) struct Error<'a> {
    pub code: u16,
    #[rkyv(with = InlineAsBox)]
    pub message: &'a str,
    pub retry_after_ms: u32,
    /// Where the message is that has the key, else 0.
    pub seq: u64,
    pub id: u64,
}

#[derive(Archive, Serialize)]
pub(super) struct GoingAway<'a> {
    #[rkyv(with = InlineAsBox)]
    pub reason: &'a str,
    pub reconnect_after_ms: u32,
}

#[derive(Archive, Serialize)]
pub(super) struct Info<'a> {
    #[rkyv(with = InlineAsBox)]
    pub room: &'a str,
    pub epoch: u64,
    pub head: u64,
    pub members: u32,
    pub people: u32,
    pub per_minute: u32,
}

/// [`super::Packed`]. Never grows, for other fields may follow it in a root.
#[derive(Archive, Serialize)]
pub(super) struct Packed<'a> {
    pub first_seq: u64,
    pub count: u32,
    #[rkyv(with = InlineAsBox)]
    pub bytes: &'a [u8],
}
