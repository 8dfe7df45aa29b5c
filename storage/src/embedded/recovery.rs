//! Opening a data directory: nothing is served before every log was compared with its mark.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Options;
use super::error::{from_fjall, from_io, unreadable};
use super::journal;
use super::layout::{self, Facts, Keys};
use super::log::{BreakOff, Log};
use super::mark::{Mark, MarkMap};
use super::marks::{self, Marks};
use super::tree::{Tree, now_ms};
use crate::StoreError;
use crate::seqs::{block, block_start};

/// Start-up looks for holes in at most so many rows; every read looks for them again.
const DENSITY_ROWS_MAX: u64 = 2_000_000;

/// Where things are in a data directory.
#[derive(Debug, Clone)]
pub struct Layout {
    pub dir: PathBuf,
    pub tree: PathBuf,
    pub marks: PathBuf,
    /// Unreadable ends of journals. Removed when no acked message was in them, `lost-…` when a loss was accepted.
    pub salvage: PathBuf,
}

impl Layout {
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), tree: dir.join("tree"), marks: dir.join("marks"), salvage: dir.join("salvage") }
    }
}

/// A checked directory, ready for use.
pub struct Opened {
    pub tree: Tree,
    pub marks: Marks,
    /// The epoch of logs that were never written.
    pub store_epoch: u64,
    /// Messages that were taken until then have no rows of keys, milliseconds since 1970; `u64::MAX` as long as the
    /// layout is the one without keys.
    pub keys_since_ms: u64,
    /// Rooms and messages, as the marks have them.
    pub held: (usize, u64),
}

/// Whether there is no store in the directory yet, and one may be made there: not among other things, and not where
/// there must be one.
pub fn is_new(layout: &Layout, create: bool) -> Result<bool, StoreError> {
    let Layout { dir, tree, marks, .. } = layout;
    for part in [tree, marks] {
        if part.try_exists().map_err(|error| from_io(dir, error))? {
            return Ok(false);
        }
    }
    if !create {
        return Err(unreadable(
            dir,
            "there are no messages of a relay here; is it the directory that was meant?".into(),
        ));
    }
    match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(from_io(dir, error)),
        Ok(entries) => {
            for entry in entries {
                let name = entry.map_err(|error| from_io(dir, error))?.file_name();
                // What a start leaves that was killed, and what a disk of its own has.
                if name != "lock" && name != "tree.unfinished" && name != "lost+found" {
                    let message = format!(
                        "there are other things in it ({}), and no messages of a relay; give the \
                        relay a directory of its own",
                        name.display()
                    );
                    return Err(unreadable(dir, message));
                }
            }
            Ok(true)
        }
    }
}

/// Opens the directory, making it when there is none, and checks every marked log.
pub fn open(layout: &Layout, options: &Options) -> Result<Opened, StoreError> {
    let io = |error| from_io(&layout.dir, error);
    let marked = marks::read_all(&layout.marks, options.accept_loss)?;
    let exists = layout.tree.try_exists().map_err(io)?;
    let mut marks = match marked {
        Some(marks) => marks,
        None if exists && !options.accept_loss => return Err(no_marks(layout)),
        None => MarkMap::new(),
    };
    if exists {
        let cut = journal::settle(&layout.tree, &layout.salvage).map_err(io)?;
        // What an earlier start cut off makes this one as careful, until the outcome is settled.
        let thorough = cut || layout.salvage.exists();
        return finish(layout, options, &mut marks, thorough);
    }
    if let (Some((room, mark)), false) = (marks.iter().next(), options.accept_loss) {
        let (path, rooms) = (layout.dir.clone(), marks.len());
        return Err(StoreError::Damaged { path, room: room.to_string(), from: 1, to: mark.last_seq, rooms });
    }
    // The marks exist before the tree does, so that a tree without marks is always a loss.
    drop(Marks::start(&layout.marks, &marks).map_err(io)?);
    Tree::create(&layout.tree, options)?;
    finish(layout, options, &mut marks, false)
}

fn no_marks(layout: &Layout) -> StoreError {
    let message = "the mark files are missing, so a loss of messages could go unnoticed; restore the directory from a \
                   backup, or start with --accept-loss to go on with what is readable";
    unreadable(&layout.marks, message.into())
}

fn finish(layout: &Layout, options: &Options, marks: &mut MarkMap, thorough: bool) -> Result<Opened, StoreError> {
    let dir = &layout.dir;
    let tree = Tree::open(&layout.tree, options)?;
    // A journal that was cut off may have held keys of records that are in tables.
    let was_cut = layout.salvage.exists();
    let (store_epoch, keys_since_ms) = read_settings(dir, &tree)?;
    let losses = find_losses(dir, &tree, marks, thorough)?;
    if let Some(first) = losses.first() {
        if !options.accept_loss {
            let (path, room) = (dir.clone(), first.room.to_string());
            return Err(StoreError::Damaged { path, room, from: first.from, to: first.to, rooms: losses.len() });
        }
        accept(dir, &tree, marks, &losses)?;
        let lost = dir.join(format!("lost-{}", now_ms()));
        gone_is_fine(std::fs::rename(&layout.salvage, lost)).map_err(|error| from_io(dir, error))?;
    } else {
        // A torn end behind complete logs is what a crash leaves: an append that was never acked.
        gone_is_fine(std::fs::remove_dir_all(&layout.salvage)).map_err(|error| from_io(dir, error))?;
    }
    let store_epoch = store_epoch.map_or_else(|| tree.write_settings(dir), Ok)?;
    let keys_since_ms = if was_cut { keys_since(dir, &tree, keys_since_ms)? } else { keys_since_ms };
    let held = (marks.len(), marks.values().map(|mark| mark.last_seq).sum());
    let marks = Marks::start(&layout.marks, marks).map_err(|error| from_io(dir, error))?;
    Ok(Opened { tree, marks, store_epoch, keys_since_ms, held })
}

/// Lets the keys of all messages that were taken until now be found in their records.
fn keys_since(dir: &Path, tree: &Tree, before_ms: u64) -> Result<u64, StoreError> {
    let since_ms = tree.setting(dir, layout::RESERVED)?.unwrap_or(0).max(now_ms());
    if before_ms >= since_ms {
        return Ok(before_ms);
    }
    let mut batch = tree.batch(1);
    batch.insert(&tree.rows, layout::KEYS_SINCE, since_ms.to_be_bytes());
    batch.commit().map_err(|error| from_fjall(dir, error))?;
    Ok(since_ms)
}

fn gone_is_fine(outcome: std::io::Result<()>) -> std::io::Result<()> {
    outcome.or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// The epoch of logs that were never written, None when the settings were lost, with every row after them; and since
/// when there are keys.
fn read_settings(dir: &Path, tree: &Tree) -> Result<(Option<u64>, u64), StoreError> {
    match tree.setting(dir, layout::FORMAT)? {
        None => Ok((None, 0)),
        Some(layout::FORMAT_WITHOUT_KEYS) => Ok((tree.setting(dir, layout::EPOCH)?, u64::MAX)),
        Some(layout::FORMAT_VERSION) => {
            Ok((tree.setting(dir, layout::EPOCH)?, tree.setting(dir, layout::KEYS_SINCE)?.unwrap_or(0)))
        }
        Some(found) => {
            let message = format!(
                "its layout version is {found}, this relay reads up to {}; use the relay that wrote it or a newer one",
                layout::FORMAT_VERSION
            );
            Err(unreadable(dir, message))
        }
    }
}

/// Acked messages of a room that are not there any more.
struct Loss {
    room: Arc<str>,
    from: u64,
    to: u64,
}

/// Compares every log with its mark: the marked record must be readable, and the messages before it must be dense.
fn find_losses(dir: &Path, tree: &Tree, marks: &MarkMap, thorough: bool) -> Result<Vec<Loss>, StoreError> {
    let mut rooms: Vec<_> = marks.iter().collect();
    rooms.sort_unstable_by_key(|(room, _)| (room.len(), *room));
    let mut rows_left = if thorough { u64::MAX } else { DENSITY_ROWS_MAX };
    let mut losses = Vec::new();
    for (room, &mark) in rooms {
        let mut log = Log::now(dir, tree, room)?;
        if !is_whole(&mut log, mark, thorough, &mut rows_left)? {
            let last = log.break_off()?.last.map_or(0, |last| last.seq);
            losses.push(Loss { room: room.clone(), from: last + 1, to: mark.last_seq.max(last + 1) });
        }
    }
    Ok(losses)
}

fn is_whole(log: &mut Log<'_>, mark: Mark, thorough: bool, rows_left: &mut u64) -> Result<bool, StoreError> {
    if log.facts()?.is_none_or(|facts| facts.epoch != mark.epoch) {
        return Ok(false);
    }
    if mark.last_seq == 0 {
        return Ok(true);
    }
    if log.at(mark.last_seq, mark.last_id)?.is_none_or(|record| record.seq != mark.last_seq) {
        return Ok(false);
    }
    if *rows_left == 0 {
        return Ok(true);
    }
    let (dense, rows) = log.is_dense_up_to(mark.last_seq, mark.last_id, thorough)?;
    *rows_left = rows_left.saturating_sub(rows);
    Ok(dense)
}

/// Gives each of these logs a new epoch, ends it before what is missing, and keeps the lost messages' ids unused.
fn accept(dir: &Path, tree: &Tree, marks: &mut MarkMap, losses: &[Loss]) -> Result<(), StoreError> {
    let mut batch = tree.batch(losses.len() + 1);
    let mut reserved = tree.setting(dir, layout::RESERVED)?.unwrap_or(0);
    for loss in losses {
        let (room, mark) = (&loss.room, marks[&loss.room]);
        let mut log = Log::now(dir, tree, room)?;
        let newest = log.last()?.map_or(0, |last| last.id);
        let BreakOff { last, behind } = log.break_off()?;
        let mut keys = Keys::of(room)?;
        for (key, seq) in behind {
            batch.remove(&tree.rows, key);
            if block_start(seq) == seq {
                batch.remove(&tree.rows, keys.sparse(block(seq)));
            }
        }
        for key in log.keys_behind(last.as_ref().map_or(0, |last| last.seq))? {
            batch.remove(&tree.keys, key);
        }
        let facts = Facts {
            epoch: fastrand::u64(1..),
            created_ms: log.facts()?.map_or(0, |facts| facts.created_ms),
            id_floor: mark.last_id.max(newest),
        };
        batch.insert(&tree.rows, keys.facts(), facts.encode());
        // The reservation may have been lost with the messages.
        reserved = reserved.max(protocol::snowflake::time_ms(facts.id_floor) + 1);
        let (last_seq, last_id) = last.map_or((0, 0), |last| (last.seq, last.id));
        marks.insert(room.clone(), Mark { epoch: facts.epoch, last_seq, last_id });
    }
    batch.insert(&tree.rows, layout::RESERVED, reserved.to_be_bytes());
    batch.commit().map_err(|error| from_fjall(dir, error))
}
