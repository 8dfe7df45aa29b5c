//! The tables, as numbered migrations that are checked at every start.

use super::address::Replication;

/// One step of the schema; never changed once it was released, only followed by another.
pub struct Migration {
    /// From 1, without holes.
    pub number: i32,
    /// What it is for.
    pub name: &'static str,
    /// CQL statements, `$keyspace` standing for the keyspace.
    statements: &'static [&'static str],
    /// Table and column that its only statement adds. There is no `IF NOT EXISTS` for that everywhere, and a start that
    /// was killed half way begins again.
    pub adds: Option<(&'static str, &'static str)>,
}

/// Every step there is.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        name: "logs and their messages",
        adds: None,
        statements: &[
            // What was said. A partition is one bucket of a log, 65,536 messages; `record` is the relay's own versioned form.
            "CREATE TABLE IF NOT EXISTS $keyspace.messages (room text, bucket bigint, id bigint, seq bigint, record blob, PRIMARY KEY ((room, bucket), id))",
            // The id of the first message of every 1,024, so that every seq is found.
            "CREATE TABLE IF NOT EXISTS $keyspace.blocks (room text, bucket bigint, block bigint, id bigint, PRIMARY KEY ((room, bucket), block))",
            // What is known of a log beside its messages, by the slot of its room's name: its epoch and when it was made, the
            // owner's term in which it was last fenced, and the high-water mark: seq and id of a message that was acked, and from when on it may have expired.
            // `term`: the owner that may make logs in this slot.
            "CREATE TABLE IF NOT EXISTS $keyspace.logs (slot int, room text, term bigint static, epoch bigint, created_ms bigint, fenced bigint, seq bigint, id bigint, expires_ms bigint, PRIMARY KEY (slot, room))",
            // Numbers by name: the epoch of logs that were never written, how far each node's ids are reserved.
            "CREATE TABLE IF NOT EXISTS $keyspace.settings (name text PRIMARY KEY, value bigint)",
            // Who may write: term and last write timestamp (microseconds), how often it was renewed.
            "CREATE TABLE IF NOT EXISTS $keyspace.leases (scope text PRIMARY KEY, term bigint, until bigint, renewals bigint, holder text)",
        ],
    },
    Migration {
        number: 2,
        name: "keys beside messages",
        adds: Some(("messages", "idempotency_key")),
        statements: &[
            // The idempotency key of a message, with its id, its time and a hash of its body as it was sent, so that the keys of the newest
            // messages are found without reading their bodies. Records are of version 2 from here on.
            "ALTER TABLE $keyspace.messages ADD idempotency_key blob",
        ],
    },
];

/// Tables whose rows live as long as `--retention-s` says.
pub const AGING: [&str; 2] = ["messages", "blocks"];
/// Windows that a retention time is divided into: expired data goes a whole window at a time.
const WINDOWS: u32 = 30;

impl Migration {
    /// Its statements for a keyspace.
    pub fn statements(&self, keyspace: &str) -> impl Iterator<Item = String> {
        self.statements.iter().map(move |statement| statement.replace("$keyspace", keyspace))
    }

    /// Tells whether a migration that was carried out is the one this version knows.
    pub fn checksum(&self) -> i64 {
        let mut hash = crc32fast::Hasher::new();
        self.statements.iter().for_each(|statement| hash.update(statement.as_bytes()));
        i64::from(hash.finalize())
    }

    /// The statement that notes it as done, at `now_ms` since 1970.
    pub fn note(&self, keyspace: &str, now_ms: u64) -> String {
        let Self { number, name, .. } = self;
        let checksum = self.checksum();
        format!(
            "INSERT INTO {keyspace}.migrations (number, name, checksum, applied_ms) VALUES ({number}, '{name}', {checksum}, {now_ms})"
        )
    }
}

/// The statement that makes the keyspace. ScyllaDB keeps lightweight transactions and tablets apart in many versions.
pub fn keyspace(keyspace: &str, replication: &Replication, is_scylla: bool) -> String {
    let tablets = if is_scylla { " AND tablets = {'enabled': false}" } else { "" };
    format!("CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {}{tablets}", replication.cql())
}

/// The table that remembers which migrations were carried out.
pub fn migrations_table(keyspace: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {keyspace}.migrations (number int PRIMARY KEY, name text, checksum bigint, applied_ms bigint)"
    )
}

/// The statements that set how long messages are kept, seconds; 0 is for ever.
pub fn retention(keyspace: &str, retention_s: u32) -> impl Iterator<Item = String> {
    let compaction = if retention_s == 0 {
        "{'class': 'SizeTieredCompactionStrategy'}".to_owned()
    } else {
        let minutes = retention_s.div_ceil(60).div_ceil(WINDOWS);
        format!(
            "{{'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'MINUTES', 'compaction_window_size': {minutes}}}"
        )
    };
    AGING.into_iter().map(move |table| {
        format!(
            "ALTER TABLE {keyspace}.{table} WITH default_time_to_live = {retention_s} AND compaction = {compaction}"
        )
    })
}

/// The whole schema as a CQL script for ScyllaDB, for those who want to carry it out themselves.
pub fn script(name: &str, replication: &Replication, retention_s: Option<u32>) -> String {
    let mut statements = vec![keyspace(name, replication, true), migrations_table(name)];
    for migration in MIGRATIONS {
        statements.extend(migration.statements(name));
        statements.push(migration.note(name, 0));
    }
    statements.extend(retention_s.into_iter().flat_map(|seconds| retention(name, seconds)));
    let hint = "-- For ScyllaDB. Cassandra knows no tablets: leave that option out there.\n";
    format!("{hint}{};\n", statements.join(";\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_migrations_keep_their_checksums() {
        let checksums: Vec<_> = MIGRATIONS.iter().map(|m| (m.number, m.checksum())).collect();
        assert_eq!(
            checksums,
            [(1, 3_560_340_920), (2, 1_135_517_786)],
            "a migration may not be changed: add another one"
        );
    }

    #[test]
    fn the_script_has_every_statement_once_and_names_its_keyspace() {
        let script = script("chat", &"dc1:3".parse().unwrap(), Some(86_400));
        assert!(!script.contains('$'), "{script}");
        for needed in ["CREATE KEYSPACE IF NOT EXISTS chat", "'dc1': 3", "chat.messages", "chat.leases", "TimeWindow"] {
            assert!(script.contains(needed), "{needed} in {script}");
        }
        assert!(script.contains("'compaction_window_size': 48"), "{script}");
    }
}
