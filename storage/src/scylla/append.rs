//! Appending to one log: batches of one partition each, one after the other.

use std::ops::Range;
use std::sync::Arc;

use scylla::value::MaybeUnset;

use super::engine::{Engine, Mark};
use super::figures::add;
use super::link::{Deadline, Wired};
use super::statements::BATCH_ROWS_MAX;
use crate::continuation::{already_stored, repeated};
use crate::seqs::{block, bucket, is_block_start};
use crate::{Append, LogState, Record, StoreError, StoredKey};

/// Bytes of one batch: Cassandra refuses more than 50 KiB as it comes, ScyllaDB more than 1 MiB. A larger record goes alone.
const BATCH_BYTES_MAX: usize = 48 << 10;

/// Records of one partition that are stored together or not at all.
struct Part {
    bucket: i64,
    /// Encoded records, each with its key's row behind it if it has one.
    bytes: Vec<u8>,
    rows: Vec<Row>,
    /// Number and first id of the block that begins here.
    block: Option<(i64, i64)>,
}

/// A record among the bytes of its part.
struct Row {
    id: i64,
    seq: i64,
    record: Range<usize>,
    /// Empty without a key.
    key: Range<usize>,
}

impl Row {
    fn append(record: &Record, bytes: &mut Vec<u8>) -> Self {
        let start = bytes.len();
        record.encode(bytes);
        let end = bytes.len();
        if let Some(key) = StoredKey::of(record) {
            key.encode(bytes);
        }
        Self { id: record.id as i64, seq: record.seq as i64, record: start..end, key: end..bytes.len() }
    }
}

impl Part {
    /// Splits records where a partition ends and where a batch would be too large.
    fn of(records: &[Arc<Record>]) -> Vec<Self> {
        let mut parts: Vec<Self> = Vec::with_capacity(records.len().div_ceil(BATCH_ROWS_MAX));
        for record in records {
            let number = bucket(record.seq) as i64;
            let fits = parts.last().is_some_and(|part| {
                part.bucket == number
                    && part.rows.len() < BATCH_ROWS_MAX
                    && part.bytes.len() + record.body.len() <= BATCH_BYTES_MAX
            });
            if !fits {
                parts.push(Self { bucket: number, bytes: Vec::new(), rows: Vec::new(), block: None });
            }
            let part = parts.last_mut().expect("one was pushed if there was none");
            part.rows.push(Row::append(record, &mut part.bytes));
            if is_block_start(record.seq) {
                part.block = Some((block(record.seq) as i64, record.id as i64));
            }
        }
        parts
    }
}

impl Engine {
    /// Makes an append durable, trying until `deadline`; what is stored already is not stored again.
    pub async fn append(&self, append: &Append, deadline: Deadline) -> Result<(), StoreError> {
        let mut known = self.open(&append.room, deadline).await?;
        let skip = self.stored(append, known.state, deadline).await?;
        let records = &append.records[skip..];
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(()) };
        if !known.is_made {
            self.make_log(&append.room, append.epoch, first.time_ms, deadline).await?;
            (known.state.epoch, known.is_made) = (append.epoch, true);
            self.known.borrow_mut().set(&append.room, known);
        }
        for part in Part::of(records) {
            self.write(&append.room, &part, deadline).await?;
        }
        // Written by the only writer, if nobody took over until now.
        self.lease.hold(deadline).await?;
        (known.state.last_seq, known.state.last_id) = (last.seq, last.id);
        self.known.borrow_mut().set(&append.room, known);
        let mark = Mark { seq: last.seq as i64, id: last.id as i64, expires_ms: self.expires_ms(last.id) };
        self.marks.borrow_mut().insert(append.room.clone(), mark);
        add(&self.figures.appends, 1);
        add(&self.figures.records, records.len() as u64);
        Ok(())
    }

    /// How many leading records of an append are stored already.
    pub async fn stored(&self, append: &Append, state: LogState, deadline: Deadline) -> Result<usize, StoreError> {
        let records = match repeated(append, state.last_seq) {
            Some((first, last)) => self.range(&append.room, first, last, state, deadline).await?,
            None => Vec::new(),
        };
        let id_at = |seq| records.iter().find(|record| record.seq == seq).map(|record| record.id);
        already_stored(append, state, |seq| Ok(id_at(seq)))
    }

    async fn write(&self, room: &str, part: &Part, deadline: Deadline) -> Result<(), StoreError> {
        self.link
            .until(deadline, async |Wired { session, statements }| {
                self.lease.hold(deadline).await?;
                let _permit = self.writes.acquire().await.expect("it is never closed");
                let timestamp = self.lease.timestamp();
                add(&self.figures.writes, 1);
                let index = async {
                    match part.block {
                        None => Ok(()),
                        Some((number, id)) => {
                            let values = (room, part.bucket, number, id, timestamp);
                            session.execute_unpaged(&statements.insert_block, values).await.map(drop)
                        }
                    }
                };
                let values: Vec<_> = part
                    .rows
                    .iter()
                    .map(|Row { id, seq, record, key }| {
                        let (record, key) = (&part.bytes[record.clone()], &part.bytes[key.clone()]);
                        // What is unset costs nothing, while a null is stored as a deletion.
                        let key = if key.is_empty() { MaybeUnset::Unset } else { MaybeUnset::Set(key) };
                        (room, part.bucket, *id, *seq, record, key, timestamp)
                    })
                    .collect();
                let messages = async {
                    match values.as_slice() {
                        [one] => session.execute_unpaged(&statements.insert_message, one).await.map(drop),
                        rows => session.batch(statements.batch(rows.len()), rows).await.map(drop),
                    }
                };
                let (index, messages) = tokio::join!(index, messages);
                Ok(index.and(messages)?)
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use protocol::Content;

    use super::*;
    use crate::Kind;

    fn record(seq: u64, bytes: usize) -> Arc<Record> {
        Arc::new(Record {
            kind: Kind::Message,
            seq,
            id: seq * 10,
            time_ms: 1,
            sender: "ann".into(),
            content: Content::Text,
            body: vec![b'x'; bytes].into(),
            key: None,
            parts: protocol::OwnedParts::default(),
        })
    }

    #[test]
    fn parts_are_dense_bounded_and_of_one_partition_each() {
        let records: Vec<_> = (65_000..66_700).map(|seq| record(seq, (seq % 3000) as usize)).collect();
        let parts = Part::of(&records);
        let seqs: Vec<i64> = parts.iter().flat_map(|part| part.rows.iter().map(|row| row.seq)).collect();
        assert_eq!(seqs, (65_000..66_700).collect::<Vec<_>>());
        for part in &parts {
            assert!(part.rows.len() <= BATCH_ROWS_MAX && part.bytes.len() <= BATCH_BYTES_MAX + 4096);
            for Row { id, seq, record: at, .. } in &part.rows {
                assert_eq!((*id, bucket(*seq as u64) as i64), (seq * 10, part.bucket));
                assert_eq!(Record::decode(&part.bytes[at.clone()]).unwrap().seq, *seq as u64);
            }
        }
        let blocks: Vec<_> = parts.iter().filter_map(|part| part.block).collect();
        assert_eq!(blocks, [(64, 655_360), (65, 665_600)]);
        assert_eq!(Part::of(&[record(1, 1 << 20), record(2, 1)]).len(), 2, "a large record goes alone");
    }
}
