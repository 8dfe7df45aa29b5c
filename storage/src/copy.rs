//! Moves a history from one store to another: the same rooms, seqs, ids, epochs, records and reserved ids.
//!
//! A copy goes on from what the destination has, so it may be ended at any point and begun again. One thread reads the
//! next records, of many rooms or of one large room, while those before are appended. In memory are three calls of
//! [`CALL_RECORDS`] at most, some 10 MB of chat lines, and the names of a page of rooms.

mod reader;

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel, sync_channel};
use std::thread;
use std::time::Duration;

use crate::{Append, LogState, Store, StoreError};
use reader::{Call, Log, Reader};

/// Records that are appended together, about: enough rooms at once for a database, and a fsync costs little beside so many.
const CALL_RECORDS: u64 = 16 << 10;
/// Rooms that are looked at together.
const PAGE_ROOMS: usize = 1024;
/// Threads that ask a store at the same time: some of them are across a network.
const THREADS: usize = 16;
/// While a database makes appends durable, [`Watch`] is told this often.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// How far a copy is. With [`verify`], how much was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rooms of the source.
    pub rooms_total: u64,
    /// Rooms whose ends were compared after they were complete.
    pub rooms: u64,
    /// Messages of the source.
    pub messages_total: u64,
    /// Messages that are at the destination.
    pub messages: u64,
    /// Those of them that were there before.
    pub already: u64,
}

/// Told how far it is, several times a second; ends the work by breaking.
pub type Watch<'a> = &'a mut dyn FnMut(&Progress) -> ControlFlow<()>;

/// Tells [`Watch`]; an error when it wants to end.
type Tell<'a> = &'a mut dyn FnMut() -> Result<(), CopyError>;

/// Why a copy ended early. Whatever was copied stays, and the next copy goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source failed.
    #[error("the source: {0}")]
    Source(StoreError),
    /// The destination failed.
    #[error("the destination: {0}")]
    Destination(StoreError),
    /// The destination's log is no beginning of the source's.
    #[error(
        "room {room:?}: the destination ends with {}, where the source has {}: another history; name an empty destination",
        Named(destination),
        Named(source_side)
    )]
    Conflict {
        /// The room.
        room: Arc<str>,
        /// The source up to the destination's end, or up to its own if that comes first.
        source_side: LogState,
        /// The destination's end.
        destination: LogState,
    },
    /// The source kept messages for a set time only, and the oldest are gone: seqs would not begin at 1.
    #[error(
        "room {room:?}: the source begins at message {first}, older ones have expired; only whole logs can be copied"
    )]
    Expired {
        /// One of the rooms.
        room: Arc<str>,
        /// The seq of its first message.
        first: u64,
    },
    /// A room that was copied is not the same on both sides.
    #[error("room {room:?}: message {seq} is not the same in the source and the destination; start with an empty one")]
    Different {
        /// The room.
        room: Arc<str>,
        /// The first seq that differs.
        seq: u64,
    },
    /// The destination may give out ids that the source gave out.
    #[error("the destination has ids reserved up to {destination} ms, the source up to {source_side} ms")]
    Ids {
        /// Of the source, milliseconds since 1970.
        source_side: u64,
        /// Of the destination, milliseconds since 1970.
        destination: u64,
    },
    /// [`Watch`] ended it.
    #[error("stopped")]
    Stopped,
}

/// The last message of a log, for an error.
struct Named<'a>(&'a LogState);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LogState { epoch, last_seq, last_id } = self.0;
        write!(f, "message {last_seq} (id {last_id}, epoch {epoch})")
    }
}

/// Copies everything that `to` does not have yet, and compares the end of each room when it is complete. Nobody else may
/// write to either store.
///
/// # Errors
/// [`CopyError`]; begin again to go on.
pub fn copy(from: &dyn Store, to: &dyn Store, watch: Watch<'_>) -> Result<Progress, CopyError> {
    let total = survey(from, watch)?;
    let reserved_ms = from.reserved_ids().map_err(CopyError::Source)?;
    to.reserve_ids(reserved_ms).map_err(CopyError::Destination)?;
    let begin = |room: &Arc<str>| go_on(from, to, room);
    transfer(from, to, total, watch, begin, |appends, tell| append(to, appends, tell))
}

/// Reads both sides completely and compares every record of the source, and what is reserved.
///
/// # Errors
/// [`CopyError::Different`] for the first difference it finds in a room, and the others.
pub fn verify(from: &dyn Store, to: &dyn Store, watch: Watch<'_>) -> Result<Progress, CopyError> {
    let total = survey(from, watch)?;
    let source_side = from.reserved_ids().map_err(CopyError::Source)?;
    let destination = to.reserved_ids().map_err(CopyError::Destination)?;
    if destination < source_side {
        return Err(CopyError::Ids { source_side, destination });
    }
    let begin = |room: &Arc<str>| Log::after(from, room, 0);
    let compare = |append: &Append| compare_records(to, append);
    transfer(from, to, total, watch, begin, |appends, _| in_parallel(appends, compare).map(drop))
}

/// Counts rooms and messages of the source, and refuses one that has lost its oldest ones.
fn survey(from: &dyn Store, watch: Watch<'_>) -> Result<Progress, CopyError> {
    let mut total = Progress::default();
    let mut after: Option<Arc<str>> = None;
    loop {
        let rooms = from.rooms(after.as_deref(), PAGE_ROOMS).map_err(CopyError::Source)?;
        let Some(last) = rooms.last() else { return Ok(total) };
        after = Some(last.clone());
        let lengths = in_parallel(&rooms, |room| {
            let state = from.open_log(room).map_err(CopyError::Source)?;
            if state.last_seq > 0 {
                let first = from.read(room, 1, state.last_seq, 1).map_err(CopyError::Source)?;
                let first = first.first().map_or(state.last_seq + 1, |record| record.seq);
                if first != 1 {
                    return Err(CopyError::Expired { room: room.clone(), first });
                }
            }
            Ok(state.last_seq)
        })?;
        total.rooms_total += rooms.len() as u64;
        total.messages_total += lengths.iter().sum::<u64>();
        go_on_if(watch(&total))?;
    }
}

/// Where the copy of a room goes on: behind the destination's end, if the source has the same message there.
fn go_on(from: &dyn Store, to: &dyn Store, room: &Arc<str>) -> Result<Log, CopyError> {
    let destination = to.open_log(room).map_err(CopyError::Destination)?;
    if destination.last_seq == 0 {
        return Log::after(from, room, 0);
    }
    let mut source_side = from.open_log(room).map_err(CopyError::Source)?;
    source_side.last_seq = source_side.last_seq.min(destination.last_seq);
    let same = from.read(room, source_side.last_seq, source_side.last_seq, 1).map_err(CopyError::Source)?;
    source_side.last_id = same.first().map_or(0, |record| record.id);
    if source_side != destination {
        return Err(CopyError::Conflict { room: room.clone(), source_side, destination });
    }
    Log::after(from, room, destination.last_seq)
}

/// Lets `begin` say from where on each room is read, hands what is read to `take`, and compares the ends.
fn transfer(
    from: &dyn Store,
    to: &dyn Store,
    mut progress: Progress,
    watch: Watch<'_>,
    begin: impl Fn(&Arc<str>) -> Result<Log, CopyError> + Send + Sync,
    take: impl Fn(&[Append], Tell<'_>) -> Result<(), CopyError>,
) -> Result<Progress, CopyError> {
    thread::scope(|scope| {
        let (calls, read) = sync_channel(1);
        scope.spawn(move || Reader::new(from, begin).run(&calls));
        // Ending early drops `read`, which ends the reader.
        for call in read {
            let Call { appends, already, complete } = call?;
            if !appends.is_empty() {
                take(&appends, &mut || go_on_if(watch(&progress)))?;
            }
            in_parallel(&complete, |room| compare_ends(from, to, room))?;
            progress.already += already;
            progress.messages += already + appends.iter().map(|append| append.records.len() as u64).sum::<u64>();
            progress.rooms += complete.len() as u64;
            go_on_if(watch(&progress))?;
        }
        Ok(progress)
    })
}

/// Makes the appends durable. A database is left as much time as it needs, and [`Watch`] decides how long that may be.
fn append(to: &dyn Store, appends: &[Append], tell: Tell<'_>) -> Result<(), CopyError> {
    let Some(concurrent) = to.concurrent() else {
        return to.append(appends).map_err(CopyError::Destination);
    };
    let (done, outcomes) = channel();
    for append in appends {
        let done = done.clone();
        // Nobody waits for it any more when the copy has ended.
        concurrent.submit(append.clone(), Box::new(move |outcome| drop(done.send(outcome))));
    }
    drop(done);
    let mut left = appends.len();
    while left > 0 {
        match outcomes.recv_timeout(TELL_EVERY) {
            Ok(outcome) => outcome.map_err(CopyError::Destination)?,
            Err(RecvTimeoutError::Disconnected) => return Err(CopyError::Destination(StoreError::Closed)),
            Err(RecvTimeoutError::Timeout) => {
                tell()?;
                continue;
            }
        }
        left -= 1;
    }
    Ok(())
}

fn go_on_if(told: ControlFlow<()>) -> Result<(), CopyError> {
    if told.is_break() { Err(CopyError::Stopped) } else { Ok(()) }
}

/// Both sides have as many messages, the same last one and the same epoch.
fn compare_ends(from: &dyn Store, to: &dyn Store, room: &Arc<str>) -> Result<(), CopyError> {
    let source = from.open_log(room).map_err(CopyError::Source)?;
    let seq = source.last_seq;
    if seq == 0 {
        return Ok(());
    }
    let destination = to.open_log(room).map_err(CopyError::Destination)?;
    let last = from.read(room, seq, seq, 1).map_err(CopyError::Source)?;
    let copied = to.read(room, seq, seq, 1).map_err(CopyError::Destination)?;
    let same_end = (destination.epoch, destination.last_seq) == (source.epoch, seq)
        && last.first().is_some_and(|record| record.id == destination.last_id);
    if same_end && last == copied { Ok(()) } else { Err(CopyError::Different { room: room.clone(), seq }) }
}

/// The destination has exactly these records.
fn compare_records(to: &dyn Store, append: &Append) -> Result<(), CopyError> {
    let (Some(first), Some(last)) = (append.records.first(), append.records.last()) else { return Ok(()) };
    let copied = to.read(&append.room, first.seq, last.seq, append.records.len()).map_err(CopyError::Destination)?;
    let same = append.records.iter().zip(&copied).take_while(|(record, copied)| ***record == **copied).count();
    match append.records.get(same) {
        None => Ok(()),
        Some(record) => Err(CopyError::Different { room: append.room.clone(), seq: record.seq }),
    }
}

/// What `work` makes of each item, in their order.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, CopyError> + Sync,
) -> Result<Vec<R>, CopyError> {
    let share = items.len().div_ceil(THREADS).max(1);
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> =
            items.chunks(share).map(|part| scope.spawn(move || part.iter().map(work).collect())).collect();
        let parts: Result<Vec<Vec<R>>, _> =
            threads.into_iter().map(|thread| thread.join().expect("stores do not panic")).collect();
        Ok(parts?.into_iter().flatten().collect())
    })
}
