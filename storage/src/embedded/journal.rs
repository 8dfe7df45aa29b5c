//! A look at fjall's journals before fjall opens them.
//!
//! fjall cuts a journal off at the first bytes it cannot read, and refuses one whose batch has a wrong checksum. Both
//! would destroy or hide what lies behind. So whole batches are counted here first, by the journal format of fjall 3,
//! and what follows them is copied aside and cut off. Whether anything acked was in there is for the marks to say.
//!
//! Batch: `1 | items: u32 | seqno: u64`, items, `3 | xxh3 of the items: u64 | "FJL" 3`. Item: `2 | type: u8 |
//! compression: u8 | keyspace: u64 | key length: u16 | value length: u32 | stored length: u32 | key | value`, or
//! `4 | keyspace: u64`. Little-endian. Zeros follow the last batch: the file is made 64 MiB long in advance.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: [u8; 4] = *b"FJL\x03";
const READ_BYTES: usize = 256 << 10;

/// Prepares every journal in `tree_dir`; unreadable ends are kept in `salvage_dir`. True when a journal that was no
/// longer written to had one, which no crash explains: records may be missing anywhere.
pub fn settle(tree_dir: &Path, salvage_dir: &Path) -> std::io::Result<bool> {
    let mut journals = Vec::new();
    for entry in std::fs::read_dir(tree_dir)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        if let (Some(number), true) = (number, path.extension().is_some_and(|extension| extension == "jnl")) {
            journals.push((number, path));
        }
    }
    journals.sort_unstable();
    let mut suspicious = journals.windows(2).any(|pair| pair[1].0 != pair[0].0 + 1);
    for (index, (_, path)) in journals.iter().enumerate() {
        let cut = settle_one(path, salvage_dir)?;
        suspicious |= cut && index + 1 < journals.len();
    }
    Ok(suspicious)
}

/// True when something was cut off.
fn settle_one(path: &Path, salvage_dir: &Path) -> std::io::Result<bool> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    // After a failed fsync the page cache may show bytes that the disk does not have. Write out what is dirty, then
    // forget the rest, so that what is replayed is what would survive a power failure.
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let whole = whole_batches(BufReader::with_capacity(READ_BYTES, &file))?;
    let Some(rest) = rest_behind(&file, whole)? else {
        return Ok(false);
    };
    std::fs::create_dir_all(salvage_dir)?;
    let name = path.file_name().expect("a journal has a name").to_string_lossy();
    let mut copy = File::create(salvage_path(salvage_dir, &name, whole))?;
    copy.write_all(&rest)?;
    copy.sync_all()?;
    File::open(salvage_dir)?.sync_all()?;
    file.set_len(whole)?;
    file.sync_all()?;
    Ok(true)
}

fn salvage_path(salvage_dir: &Path, journal: &str, offset: u64) -> PathBuf {
    salvage_dir.join(format!("{journal}-from-{offset}"))
}

/// What lies behind `offset` without the zeros at its end; None when there are only zeros.
fn rest_behind(mut file: &File, offset: u64) -> std::io::Result<Option<Vec<u8>>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut rest = Vec::new();
    let mut zeros = 0;
    let mut chunk = vec![0; READ_BYTES];
    loop {
        let length = file.read(&mut chunk)?;
        if length == 0 {
            return Ok((!rest.is_empty()).then_some(rest));
        }
        match chunk[..length].iter().rposition(|&byte| byte != 0) {
            None => zeros += length,
            Some(last) => {
                rest.resize(rest.len() + zeros, 0);
                rest.extend_from_slice(&chunk[..=last]);
                zeros = length - 1 - last;
            }
        }
    }
}

/// How many bytes from the start are whole batches with the right checksums.
fn whole_batches(reader: impl Read) -> std::io::Result<u64> {
    let mut journal = Journal { reader, position: 0, bytes: Vec::new() };
    let mut whole = 0;
    loop {
        match journal.batch() {
            Ok(true) => whole = journal.position,
            Ok(false) => return Ok(whole),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(whole),
            Err(error) => return Err(error),
        }
    }
}

struct Journal<R> {
    reader: R,
    position: u64,
    bytes: Vec<u8>,
}

impl<R: Read> Journal<R> {
    /// Reads one batch; false when it is not whole.
    fn batch(&mut self) -> std::io::Result<bool> {
        let [tag, i0, i1, i2, i3, ..] = self.take::<13>()?;
        if tag != START {
            return Ok(false);
        }
        let mut checksum = Xxh3::new();
        for _ in 0..u32::from_le_bytes([i0, i1, i2, i3]) {
            if !self.item()? {
                return Ok(false);
            }
            checksum.update(&self.bytes);
        }
        let [tag, sum @ .., t0, t1, t2, t3] = self.take::<13>()?;
        Ok(tag == END && u64::from_le_bytes(sum) == checksum.digest() && [t0, t1, t2, t3] == TRAILER)
    }

    /// Reads one item into `bytes`; false when it is none.
    fn item(&mut self) -> std::io::Result<bool> {
        self.bytes.clear();
        let [tag] = self.take::<1>()?;
        self.bytes.push(tag);
        match tag {
            CLEAR => {
                let keyspace = self.take::<8>()?;
                self.bytes.extend_from_slice(&keyspace);
            }
            ITEM => {
                let head = self.take::<20>()?;
                self.bytes.extend_from_slice(&head);
                let [.., k0, k1, _, _, _, _, s0, s1, s2, s3] = head;
                let length = u64::from(u16::from_le_bytes([k0, k1])) + u64::from(u32::from_le_bytes([s0, s1, s2, s3]));
                let read = (&mut self.reader).take(length).read_to_end(&mut self.bytes)? as u64;
                self.position += read;
                return Ok(read == length);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn take<const N: usize>(&mut self) -> std::io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.position += N as u64;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    /// What this file knows of journals was read in this version of fjall: look again before another one is taken.
    #[test]
    fn journals_are_those_of_the_version_that_was_looked_at() {
        let lock = include_str!("../../../Cargo.lock");
        assert!(lock.contains("name = \"fjall\"\nversion = \"3.1.13\"\n"));
    }
}
