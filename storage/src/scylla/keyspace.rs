//! The keyspace as it is found: made, brought up to date, or refused; and what there is to say of it.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::serialize::row::SerializeRow;
use scylla::statement::unprepared::Statement;

use super::Options;
use super::link::Failure;
use super::schema::{self, MIGRATIONS, Migration};
use crate::StoreError;

/// Fewer copies than this, and an ack is only as durable as one node's commit log.
const SAFE_COPIES: u32 = 3;

/// How long one step of the schema may take.
const SCHEMA_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes the keyspace and its tables where they are missing, and refuses a schema that this version does not know.
pub async fn prepare(session: &Session, options: &Options) -> Result<(), StoreError> {
    let name = &options.address.keyspace;
    let unusable = |message: String| StoreError::Unusable { store: options.address.to_string(), message };
    check_datacenter(session, options).map_err(unusable)?;
    if !options.create && !is_there(session, options).await? {
        return Err(unusable("no relay has a store in this keyspace; check its name".into()));
    }
    if replication(session, options).await?.is_none() {
        let copies = options.replication.clone().unwrap_or_default();
        let nodes = nodes(session, options);
        if copies.most() > nodes {
            return Err(unusable(format!(
                "the cluster has {nodes} nodes, too few to keep {copies} copies; add nodes, or say --replication {nodes} to make the keyspace with fewer"
            )));
        }
        let is_scylla = session.get_cluster_state().get_nodes_info().iter().any(|node| node.sharder().is_some());
        run(session, options, schema::keyspace(name, &copies, is_scylla)).await?;
    }
    run(session, options, schema::migrations_table(name)).await?;
    migrate(session, options).await?;
    let Some(retention_s) = options.retention_s else { return Ok(()) };
    if retention(session, options).await? != retention_s {
        for statement in schema::retention(name, retention_s) {
            run(session, options, statement).await?;
        }
    }
    Ok(())
}

/// Checks the migrations that were carried out, and carries out those that are missing.
async fn migrate(session: &Session, options: &Options) -> Result<(), StoreError> {
    let name = &options.address.keyspace;
    let unusable = |message: String| StoreError::Unusable { store: options.address.to_string(), message };
    let query = format!("SELECT number, checksum FROM {name}.migrations");
    let done: HashMap<i32, i64> = select::<(i32, i64)>(session, options, query, ()).await?.into_iter().collect();
    if let Some(newer) = done.keys().find(|&&number| MIGRATIONS.iter().all(|known| known.number != number)) {
        return Err(unusable(format!(
            "its schema has migration {newer}, which this relay does not know; use the relay that made it, or a newer one"
        )));
    }
    for migration in MIGRATIONS {
        match done.get(&migration.number) {
            Some(&checksum) if checksum == migration.checksum() => (),
            Some(_) => {
                return Err(unusable(format!(
                    "its migration {} ({}) is not the one this relay knows; use the relay that made it, or another keyspace",
                    migration.number, migration.name
                )));
            }
            None => {
                if !is_added(session, options, migration).await? {
                    for statement in migration.statements(name) {
                        run(session, options, statement).await?;
                    }
                }
                let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
                run(session, options, migration.note(name, now_ms)).await?;
            }
        }
    }
    Ok(())
}

/// The keyspace has the first table of a store.
async fn is_there(session: &Session, options: &Options) -> Result<bool, StoreError> {
    let query = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
    let values = (&options.address.keyspace, "migrations");
    Ok(!select::<(String,)>(session, options, query.to_owned(), values).await?.is_empty())
}

/// The column that a migration adds is there already.
async fn is_added(session: &Session, options: &Options, migration: &Migration) -> Result<bool, StoreError> {
    let Some((table, column)) = migration.adds else { return Ok(false) };
    let query =
        "SELECT column_name FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ? AND column_name = ?";
    let values = (&options.address.keyspace, table, column);
    Ok(!select::<(String,)>(session, options, query.to_owned(), values).await?.is_empty())
}

/// With several data centres, one must be named: a local quorum of one does not see what one of another wrote.
fn check_datacenter(session: &Session, options: &Options) -> Result<(), String> {
    let state = session.get_cluster_state();
    let centres: BTreeSet<&str> = state.get_nodes_info().iter().filter_map(|node| node.datacenter.as_deref()).collect();
    let list = centres.iter().copied().collect::<Vec<_>>().join(", ");
    match &options.address.datacenter {
        Some(name) if !centres.contains(name.as_str()) => {
            Err(format!("there is no data centre {name:?}; the cluster has {list}"))
        }
        None if centres.len() > 1 => {
            Err(format!("the cluster has several data centres ({list}); add ?datacenter=NAME with the one to write in"))
        }
        _ => Ok(()),
    }
}

/// Nodes of the data centre that is written in.
fn nodes(session: &Session, options: &Options) -> u32 {
    let state = session.get_cluster_state();
    let wanted = options.address.datacenter.as_deref();
    let is_here = |centre: Option<&str>| wanted.is_none_or(|wanted| centre == Some(wanted));
    state.get_nodes_info().iter().filter(|node| is_here(node.datacenter.as_deref())).count() as u32
}

/// The replication options of the keyspace; None when there is no such keyspace.
async fn replication(session: &Session, options: &Options) -> Result<Option<HashMap<String, String>>, StoreError> {
    let query = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?".to_owned();
    let rows = select::<(HashMap<String, String>,)>(session, options, query, (&options.address.keyspace,)).await?;
    Ok(rows.into_iter().next().map(|(replication,)| replication))
}

/// How long messages are kept, seconds; 0 is for ever.
async fn retention(session: &Session, options: &Options) -> Result<u32, StoreError> {
    let query = "SELECT default_time_to_live FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
    let values = (&options.address.keyspace, schema::AGING[0]);
    let rows = select::<(i32,)>(session, options, query.to_owned(), values).await?;
    Ok(rows.first().map_or(0, |&(seconds,)| seconds as u32))
}

/// A statement that may take longer than those of every day: all nodes have to learn of a new table.
fn patient(text: &str) -> Statement {
    let mut statement = Statement::new(text);
    statement.set_request_timeout(Some(SCHEMA_TIMEOUT));
    statement
}

async fn run(session: &Session, options: &Options, statement: String) -> Result<(), StoreError> {
    let outcome = session.query_unpaged(patient(&statement), ()).await;
    outcome.map(drop).map_err(|error| StoreError::Unusable {
        store: options.address.to_string(),
        message: format!("{error} (while running: {statement})"),
    })
}

async fn select<R>(
    session: &Session,
    options: &Options,
    query: String,
    values: impl SerializeRow,
) -> Result<Vec<R>, StoreError>
where
    R: for<'f, 'm> DeserializeRow<'f, 'm>,
{
    let rows = async {
        let result = session.query_unpaged(patient(&query), values).await.map_err(Failure::from)?;
        let rows = result.into_rows_result().map_err(Failure::new)?;
        rows.rows::<R>().map_err(Failure::new)?.collect::<Result<Vec<R>, _>>().map_err(Failure::new)
    };
    rows.await.map_err(|failure| StoreError::Unusable {
        store: options.address.to_string(),
        message: format!("{} (while running: {query})", failure.message()),
    })
}

/// What there is to say of a keyspace when a relay starts.
#[derive(Debug, Clone)]
pub struct About {
    /// Hosts, keyspace, copies, retention.
    pub line: String,
    /// What is unsafe about it.
    pub warnings: Vec<String>,
    /// How long messages are kept, seconds; 0 is for ever.
    pub retention_s: u32,
}

impl About {
    pub async fn of(session: &Session, options: &Options) -> Result<Self, StoreError> {
        let options_of = replication(session, options).await?.unwrap_or_default();
        let copies: HashMap<&str, u32> = options_of
            .iter()
            .filter_map(|(centre, factor)| Some((centre.as_str(), factor.split('/').next()?.parse().ok()?)))
            .collect();
        let here = options.address.datacenter.as_deref();
        let fewest = here.and_then(|here| copies.get(here)).or_else(|| copies.values().min()).copied().unwrap_or(1);
        let retention_s = retention(session, options).await?;
        let kept = if retention_s == 0 { "for ever".to_owned() } else { format!("for {retention_s} s") };
        let mut warnings = Vec::new();
        if fewest < SAFE_COPIES {
            warnings.push(format!(
                "keyspace {} keeps {fewest} copies of a message: an ack is only as durable as one node's commit log, and no node may be down; production wants 3 (ALTER KEYSPACE … replication)",
                options.address.keyspace
            ));
        }
        let line = format!("{}: {fewest} copies, LOCAL_QUORUM, messages kept {kept}", options.address);
        Ok(Self { line, warnings, retention_s })
    }
}
