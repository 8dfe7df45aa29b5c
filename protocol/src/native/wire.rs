//! The rkyv types on the wire. The order of variants and fields is the format: append, never reorder.

use rkyv::{
    Archive, Serialize,
    with::{InlineAsBox, Map},
};

use crate::{Page as AnyPage, Start as AnyStart};

/// What a client sends.
#[derive(Archive, Serialize)]
pub(super) struct Up<'a> {
    pub tag: u32,
    pub command: Command<'a>,
}

/// [`crate::Command`], borrowed; content types are their stored number.
#[derive(Archive, Serialize)]
pub(super) enum Command<'a> {
    Connect {
        #[rkyv(with = Map<InlineAsBox>)]
        user: Option<&'a str>,
        #[rkyv(with = Map<InlineAsBox>)]
        device: Option<&'a str>,
    },
    Join {
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
        start: Start,
    },
    Leave {
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
    },
    Publish {
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
        content: u8,
        #[rkyv(with = InlineAsBox)]
        body: &'a [u8],
        #[rkyv(with = Map<InlineAsBox>)]
        key: Option<&'a str>,
    },
    History {
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
        page: Page,
        limit: u32,
    },
    Ping,
    Pong,
    Unsupported,
}

/// [`crate::Start`].
#[derive(Archive, Serialize)]
pub(super) enum Start {
    Recent(u32),
    Since { seq: u64, epoch: Option<u64> },
}

/// [`crate::Page`].
#[derive(Archive, Serialize)]
pub(super) enum Page {
    Newest,
    Before(u64),
    After(u64),
    Around(u64),
}

/// What the relay sends.
#[derive(Archive, Serialize)]
pub(super) struct Down<'a> {
    pub tag: u32,
    pub event: Event<'a>,
}

/// [`crate::Event`] without the relay's ping, which is a WebSocket ping here; messages are packed.
#[derive(Archive, Serialize)]
pub(super) enum Event<'a> {
    Connected {
        #[rkyv(with = InlineAsBox)]
        user: &'a str,
        session: u64,
        ping_s: u32,
        client: u64,
    },
    Joined {
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
        epoch: u64,
        from: u64,
        head: u64,
        recovering: bool,
        recovered: bool,
    },
    Left {
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
    },
    Acked {
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
        seq: u64,
        id: u64,
    },
    History {
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
        epoch: u64,
        head: u64,
        messages: Packed<'a>,
    },
    Batch {
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
        messages: Packed<'a>,
    },
    Gap {
        #[rkyv(with = InlineAsBox)]
        room: &'a str,
        from: u64,
        to: u64,
    },
    Error {
        code: u16,
        #[rkyv(with = InlineAsBox)]
        message: &'a str,
        retry_after_ms: u32,
        /// Where the message is that has the key, else 0.
        seq: u64,
        id: u64,
    },
    GoingAway {
        #[rkyv(with = InlineAsBox)]
        reason: &'a str,
        reconnect_after_ms: u32,
    },
    Pong,
}

/// [`super::Packed`].
#[derive(Archive, Serialize)]
pub(super) struct Packed<'a> {
    pub first_seq: u64,
    pub count: u32,
    #[rkyv(with = InlineAsBox)]
    pub bytes: &'a [u8],
}

impl From<AnyStart> for Start {
    fn from(start: AnyStart) -> Self {
        match start {
            AnyStart::Recent(count) => Self::Recent(count),
            AnyStart::Since { seq, epoch } => Self::Since { seq, epoch },
        }
    }
}

impl From<&ArchivedStart> for AnyStart {
    fn from(start: &ArchivedStart) -> Self {
        match start {
            ArchivedStart::Recent(count) => Self::Recent(count.to_native()),
            ArchivedStart::Since { seq, epoch } => {
                Self::Since { seq: seq.to_native(), epoch: epoch.as_ref().map(|epoch| epoch.to_native()) }
            }
        }
    }
}

impl From<AnyPage> for Page {
    fn from(page: AnyPage) -> Self {
        match page {
            AnyPage::Newest => Self::Newest,
            AnyPage::Before(seq) => Self::Before(seq),
            AnyPage::After(seq) => Self::After(seq),
            AnyPage::Around(seq) => Self::Around(seq),
        }
    }
}

impl From<&ArchivedPage> for AnyPage {
    fn from(page: &ArchivedPage) -> Self {
        match page {
            ArchivedPage::Newest => Self::Newest,
            ArchivedPage::Before(seq) => Self::Before(seq.to_native()),
            ArchivedPage::After(seq) => Self::After(seq.to_native()),
            ArchivedPage::Around(seq) => Self::Around(seq.to_native()),
        }
    }
}
