//! Every statement the engine sends, prepared once per session.

use scylla::client::session::Session;
use scylla::errors::PrepareError;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};

/// Rows of one batch at most: client CPU per row falls from 5–13 µs to half a microsecond, and more gains little.
pub const BATCH_ROWS_MAX: usize = 64;

/// Prepared statements; the order of their values is that of the text.
pub struct Statements {
    pub insert_message: PreparedStatement,
    /// `insert_message` 2, 3, … [`BATCH_ROWS_MAX`] times, all rows of one partition.
    batches: Vec<Batch>,
    pub insert_block: PreparedStatement,
    pub last_message: PreparedStatement,
    pub messages_from: PreparedStatement,
    pub messages_down_from: PreparedStatement,
    pub keys_down_from: PreparedStatement,
    pub block: PreparedStatement,
    pub delete_after: PreparedStatement,
    pub facts: PreparedStatement,
    pub slot_term: PreparedStatement,
    pub take_slot: PreparedStatement,
    pub make_log: PreparedStatement,
    pub new_epoch: PreparedStatement,
    pub fence: PreparedStatement,
    pub mark: PreparedStatement,
    pub rooms: PreparedStatement,
    pub rooms_after: PreparedStatement,
    pub setting: PreparedStatement,
    pub set_setting: PreparedStatement,
    pub first_setting: PreparedStatement,
    pub lease: PreparedStatement,
    pub first_lease: PreparedStatement,
    pub take_lease: PreparedStatement,
    pub renew_lease: PreparedStatement,
}

impl Statements {
    /// Prepares them for a keyspace.
    pub async fn prepare(session: &Session, keyspace: &str) -> Result<Self, PrepareError> {
        let k = keyspace;
        let plain = async |text: String| {
            let mut statement = session.prepare(text).await?;
            statement.set_is_idempotent(true);
            Ok::<_, PrepareError>(statement)
        };
        // Data centres agree on who writes, and whoever asks who it is sees what was agreed. Never sent twice by the driver.
        let agreed = async |text: String| {
            let mut statement = session.prepare(text).await?;
            statement.set_serial_consistency(Some(SerialConsistency::Serial));
            statement.set_consistency(Consistency::LocalQuorum);
            Ok::<_, PrepareError>(statement)
        };
        let serial_read = async |text: String| {
            let mut statement = session.prepare(text).await?;
            statement.set_consistency(Consistency::Serial);
            statement.set_is_idempotent(true);
            Ok::<_, PrepareError>(statement)
        };
        let insert_message = plain(format!(
            "INSERT INTO {k}.messages (room, bucket, id, seq, record, idempotency_key) VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
        ))
        .await?;
        Ok(Self {
            batches: (2..=BATCH_ROWS_MAX).map(|rows| batch_of(&insert_message, rows)).collect(),
            insert_message,
            insert_block: plain(format!(
                "INSERT INTO {k}.blocks (room, bucket, block, id) VALUES (?, ?, ?, ?) USING TIMESTAMP ?"
            ))
            .await?,
            last_message: plain(format!(
                "SELECT seq, id FROM {k}.messages WHERE room = ? AND bucket = ? ORDER BY id DESC LIMIT 1"
            ))
            .await?,
            messages_from: plain(format!(
                "SELECT record FROM {k}.messages WHERE room = ? AND bucket = ? AND id >= ? LIMIT ?"
            ))
            .await?,
            messages_down_from: plain(format!(
                "SELECT record FROM {k}.messages WHERE room = ? AND bucket = ? AND id <= ? ORDER BY id DESC LIMIT ?"
            ))
            .await?,
            keys_down_from: plain(format!(
                "SELECT id, seq, idempotency_key FROM {k}.messages WHERE room = ? AND bucket = ? AND id <= ? ORDER BY id DESC LIMIT ?"
            ))
            .await?,
            block: plain(format!("SELECT id FROM {k}.blocks WHERE room = ? AND bucket = ? AND block = ?")).await?,
            delete_after: plain(format!(
                "DELETE FROM {k}.messages USING TIMESTAMP ? WHERE room = ? AND bucket = ? AND id > ?"
            ))
            .await?,
            facts: plain(format!(
                "SELECT epoch, fenced, seq, id, expires_ms FROM {k}.logs WHERE slot = ? AND room = ?"
            ))
            .await?,
            slot_term: serial_read(format!("SELECT DISTINCT slot, term FROM {k}.logs WHERE slot = ?")).await?,
            take_slot: agreed(format!("UPDATE {k}.logs SET term = ? WHERE slot = ? IF term = ?")).await?,
            // On the slot's column alone: ScyllaDB does not see it beside one of a row that is not there yet.
            make_log: agreed(format!(
                "UPDATE {k}.logs SET epoch = ?, created_ms = ? WHERE slot = ? AND room = ? IF term = ?"
            ))
            .await?,
            new_epoch: agreed(format!("UPDATE {k}.logs SET epoch = ? WHERE slot = ? AND room = ? IF term = ?"))
                .await?,
            fence: plain(format!(
                "UPDATE {k}.logs USING TIMESTAMP ? SET fenced = ?, seq = ?, id = ?, expires_ms = ? WHERE slot = ? AND room = ?"
            ))
            .await?,
            mark: plain(format!(
                "UPDATE {k}.logs USING TIMESTAMP ? SET seq = ?, id = ?, expires_ms = ? WHERE slot = ? AND room = ?"
            ))
            .await?,
            rooms: plain(format!("SELECT room FROM {k}.logs WHERE slot = ? LIMIT ?")).await?,
            rooms_after: plain(format!("SELECT room FROM {k}.logs WHERE slot = ? AND room > ? LIMIT ?")).await?,
            setting: plain(format!("SELECT value FROM {k}.settings WHERE name = ?")).await?,
            set_setting: plain(format!("INSERT INTO {k}.settings (name, value) VALUES (?, ?) USING TIMESTAMP ?"))
                .await?,
            first_setting: agreed(format!("INSERT INTO {k}.settings (name, value) VALUES (?, ?) IF NOT EXISTS"))
                .await?,
            lease: serial_read(format!("SELECT term, until, renewals, holder FROM {k}.leases WHERE scope = ?")).await?,
            first_lease: agreed(format!(
                "INSERT INTO {k}.leases (scope, term, until, renewals, holder) VALUES (?, ?, ?, ?, ?) IF NOT EXISTS"
            ))
            .await?,
            take_lease: agreed(format!(
                "UPDATE {k}.leases SET term = ?, until = ?, renewals = ?, holder = ? WHERE scope = ? IF term = ? AND renewals = ?"
            ))
            .await?,
            renew_lease: agreed(format!(
                "UPDATE {k}.leases SET until = ?, renewals = ? WHERE scope = ? IF term = ? AND renewals = ?"
            ))
            .await?,
        })
    }

    /// The batch that inserts so many messages of one partition, 2 or more.
    pub fn batch(&self, rows: usize) -> &Batch {
        &self.batches[rows - 2]
    }
}

/// Unlogged: the rows of one partition are one write, stored whole or not at all.
fn batch_of(insert: &PreparedStatement, rows: usize) -> Batch {
    let mut batch = Batch::new_with_statements(BatchType::Unlogged, vec![insert.clone().into(); rows]);
    batch.set_is_idempotent(true);
    batch
}
