//! What a message may have beside its user and body, packed once: the same bytes in memory, in storage and, where they
//! are asked for, on the native wire.
//!
//! Each part is `number: u8, n = length, contents`, numbers rising. Those of a later version pass through.

use std::fmt;

use crate::varint;

const CLIENT: u8 = 1;
const INFO: u8 = 2;
const ROOM_INFO: u8 = 3;
const TAGS: u8 = 4;
const TARGET: u8 = 5;
/// A packed client id, which most messages with parts have and nothing else.
const CLIENT_BYTES: usize = 10;
/// About what a part takes beside its contents.
const PART_BYTES: usize = 4;

/// A connection as others know it: no other connection of the deployment has, had or will have the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

impl ClientId {
    /// `session` is unique in its process; `nonce` is drawn at random when the process starts, since sessions of the
    /// next one are numbered alike.
    pub fn new(session: u64, nonce: u64) -> Self {
        Self(session ^ nonce)
    }
}

/// 13 digits of base 32, without the letters that look like digits.
impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits: [u8; 13] =
            std::array::from_fn(|at| b"0123456789abcdefghjkmnpqrstvwxyz"[(self.0 >> (60 - 5 * at)) as usize & 31]);
        f.write_str(str::from_utf8(&digits).expect("digits are ASCII"))
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {self}")
    }
}

/// Parts that are not packed yet. The default has none.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewParts<'a> {
    /// The connection that published it.
    pub client: Option<ClientId>,
    /// What the application said of that connection.
    pub info: Option<&'a [u8]>,
    /// What the application said of that connection's membership in the room.
    pub room_info: Option<&'a [u8]>,
    /// The application's own words about the message, by name.
    pub tags: &'a [(&'a str, &'a str)],
    /// The seq of the message that this entry is about: the one it edits or deletes.
    pub target: Option<u64>,
}

impl NewParts<'_> {
    /// Packs them. Without any part nothing is allocated.
    pub fn pack(self) -> OwnedParts {
        let lengths = self.client.map_or(0, |_| CLIENT_BYTES)
            + [self.info, self.room_info].into_iter().flatten().map(|info| info.len() + PART_BYTES).sum::<usize>();
        let mut out = Vec::with_capacity(lengths);
        let mut part = |number: u8, contents: &[u8]| {
            out.push(number);
            varint::write_bytes(contents, &mut out);
        };
        let mut packed = Vec::new();
        if let Some(ClientId(id)) = self.client {
            part(CLIENT, &id.to_le_bytes());
        }
        self.info.into_iter().for_each(|info| part(INFO, info));
        self.room_info.into_iter().for_each(|info| part(ROOM_INFO, info));
        for (name, value) in self.tags {
            varint::write_bytes(name.as_bytes(), &mut packed);
            varint::write_bytes(value.as_bytes(), &mut packed);
        }
        if !packed.is_empty() {
            part(TAGS, &packed);
        }
        if let Some(target) = self.target {
            packed.clear();
            varint::write(target, &mut packed);
            part(TARGET, &packed);
        }
        OwnedParts(out.into())
    }
}

/// Packed parts that were checked.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct OwnedParts(Box<[u8]>);

impl OwnedParts {
    /// As a reader sees them.
    pub fn get(&self) -> Parts<'_> {
        Parts(&self.0)
    }
}

impl fmt::Debug for OwnedParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// The parts of one message, borrowed from what was stored or received.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    /// No part at all.
    pub const NONE: Self = Self(&[]);

    /// Checks packed parts.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let (mut rest, mut last) = (bytes, 0);
        while !rest.is_empty() {
            let (number, contents) = next(&mut rest)?;
            if number <= last {
                return Err("parts out of order");
            }
            check(number, contents)?;
            last = number;
        }
        Ok(Self(bytes))
    }

    /// The packed bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// There is no part.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// A copy to keep.
    pub fn to_owned(self) -> OwnedParts {
        OwnedParts(self.0.into())
    }

    /// The connection that published it.
    pub fn client(self) -> Option<ClientId> {
        Some(ClientId(u64::from_le_bytes(self.find(CLIENT)?.try_into().ok()?)))
    }

    /// What the application said of that connection.
    pub fn info(self) -> Option<&'a [u8]> {
        self.find(INFO)
    }

    /// What the application said of that connection's membership in the room.
    pub fn room_info(self) -> Option<&'a [u8]> {
        self.find(ROOM_INFO)
    }

    /// The application's own words about the message, by name.
    pub fn tags(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut rest = self.find(TAGS).unwrap_or_default();
        std::iter::from_fn(move || if rest.is_empty() { None } else { tag(&mut rest).ok() })
    }

    /// The seq of the message that this entry is about.
    pub fn target(self) -> Option<u64> {
        varint::read(&mut self.find(TARGET)?).ok()
    }

    fn find(self, number: u8) -> Option<&'a [u8]> {
        let mut rest = self.0;
        std::iter::from_fn(|| next(&mut rest).ok()).find(|(found, _)| *found == number).map(|(_, contents)| contents)
    }
}

impl fmt::Debug for Parts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths = |part: Option<&[u8]>| part.map(<[u8]>::len);
        f.debug_struct("Parts")
            .field("client", &self.client())
            .field("info_bytes", &lengths(self.info()))
            .field("room_info_bytes", &lengths(self.room_info()))
            .field("tags", &self.tags().count())
            .field("target", &self.target())
            .finish()
    }
}

/// Number and contents of the next part.
fn next<'a>(rest: &mut &'a [u8]) -> Result<(u8, &'a [u8]), &'static str> {
    let number = varint::take(rest, 1)?[0];
    Ok((number, varint::read_bytes(rest)?))
}

fn tag<'a>(rest: &mut &'a [u8]) -> Result<(&'a str, &'a str), &'static str> {
    let mut text = || simdutf8::basic::from_utf8(varint::read_bytes(rest)?).map_err(|_| "a tag is not UTF-8");
    Ok((text()?, text()?))
}

fn check(number: u8, mut contents: &[u8]) -> Result<(), &'static str> {
    match number {
        CLIENT if contents.len() != 8 => Err("a client id of another length"),
        TAGS => {
            while !contents.is_empty() {
                tag(&mut contents)?;
            }
            Ok(())
        }
        TARGET => match varint::read(&mut contents) {
            Ok(_) if contents.is_empty() => Ok(()),
            _ => Err("a target that is no number"),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    #[test]
    fn a_client_id_is_13_digits_and_another_one_after_a_restart() {
        assert_eq!(ClientId::new(u64::MAX, 0).to_string(), "fzzzzzzzzzzzz");
        assert_eq!(ClientId::new(32, 1).to_string(), "0000000000011");
        assert_ne!(ClientId::new(7, 1), ClientId::new(7, 2));
    }

    #[test]
    fn packed_parts_keep_their_bytes() {
        let parts = NewParts {
            client: Some(ClientId(0x0102_0304_0506_0708)),
            info: Some(b"{}"),
            room_info: Some(b"1"),
            tags: &[("lang", "ko"), ("", "")],
            target: Some(300),
        };
        let bytes = b"\x01\x08\x08\x07\x06\x05\x04\x03\x02\x01\x02\x02{}\x03\x011\x04\x0a\x04lang\x02ko\x00\x00\x05\x02\xac\x02";
        assert_eq!(parts.pack().get().bytes(), bytes);
        assert!(NewParts::default().pack().get().is_empty());
    }

    #[test]
    fn parts_of_a_later_version_pass_through_and_damaged_ones_are_refused() {
        let later = b"\x01\x08........\x09\x02ab";
        assert_eq!(Parts::read(later).unwrap().bytes(), later);
        for (damaged, why) in [
            (&b"\x02\x00\x01\x08........"[..], "out of order"),
            (b"\x02\x00\x02\x00", "out of order"),
            (b"\x00\x00", "out of order"),
            (b"\x01\x01a", "another length"),
            (b"\x02\x05a", "cut off"),
            (b"\x04\x01\x00", "cut off"),
            (b"\x04\x03\x01\xff\x00", "UTF-8"),
            (b"\x05\x02\x01\x01", "no number"),
        ] {
            assert!(Parts::read(damaged).unwrap_err().contains(why), "{damaged:?}");
        }
    }

    proptest! {
        #[test]
        fn any_parts_are_read_as_they_were_packed(
            client in option::of(any::<u64>()), info in option::of(vec(any::<u8>(), 0..200)),
            room_info in option::of(vec(any::<u8>(), 0..9)), tags in vec((".{0,9}", ".{0,9}"), 0..5),
            target in option::of(any::<u64>()), cut in any::<prop::sample::Index>(), to in any::<u8>(),
        ) {
            let client = client.map(ClientId);
            let tags: Vec<_> = tags.iter().map(|(name, value)| (&**name, &**value)).collect();
            let (info, room_info) = (info.as_deref(), room_info.as_deref());
            let packed = NewParts { client, info, room_info, tags: &tags, target }.pack();
            let parts = Parts::read(packed.get().bytes()).unwrap();
            prop_assert_eq!(parts.to_owned(), packed.clone());
            prop_assert_eq!((parts.client(), parts.info(), parts.room_info()), (client, info, room_info));
            prop_assert_eq!((parts.tags().collect::<Vec<_>>(), parts.target()), (tags, target));
            let mut damaged = parts.bytes().to_vec();
            if !damaged.is_empty() {
                *cut.get_mut(&mut damaged) = to;
                let _ = Parts::read(&damaged).map(|parts| format!("{parts:?}"));
            }
        }
    }
}
