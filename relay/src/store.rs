//! Which store the relay keeps its messages in: what was typed, what it means, and opening it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use storage::scylla::{self, Address, Replication, ScyllaStore, schema};
use storage::{EmbeddedStore, MemoryStore, Store, StoreError};
use tracing::warn;

use crate::dedupe::WINDOW_MS;
use crate::invalid::Invalid;

/// What was typed about the store; [`StoreArgs::location`] says what it means.
#[derive(Clone, Args)]
pub struct StoreArgs {
    /// Where messages are kept: embedded:DIR (as --data DIR), memory: (as --memory), or
    /// `scylla://[user:password@]host1[:9042],host2/keyspace[?datacenter=NAME]`
    #[arg(long, value_name = "URL", env = "RELAY_STORE", hide_env_values = true)]
    store: Option<String>,
    /// Directory of the embedded store; made if it does not exist [default: relay-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Keep messages in memory only: nothing survives a restart (for trying things out)
    #[arg(long, conflicts_with = "data")]
    memory: bool,
    /// Start even though the log of a room is shorter than what was acked; such a log goes on under a new epoch
    #[arg(long)]
    accept_loss: bool,
    #[command(flatten)]
    keyspace: KeyspaceArgs,
}

/// What was typed about a keyspace of a database.
#[derive(Debug, Clone, Args)]
pub struct KeyspaceArgs {
    /// Copies of each message, when the keyspace has to be made: a number, or one for each data centre as dc1:3,dc2:3
    /// [default: 3]
    #[arg(long, value_name = "N")]
    pub replication: Option<Replication>,
    /// How long messages are kept in a scylla:// store, seconds, at least 300; 0 is for ever [default: as the keyspace
    /// says]
    #[arg(long, value_name = "S", value_parser = retention_s)]
    pub retention_s: Option<u32>,
}

fn retention_s(text: &str) -> Result<u32, String> {
    let least = u32::try_from(WINDOW_MS / 1000).expect("a few minutes");
    match text.parse() {
        Ok(seconds) if seconds == 0 || seconds >= least => Ok(seconds),
        Ok(_) => Err(format!("must be 0 or at least {least}: idempotency keys are remembered that long")),
        Err(error) => Err(error.to_string()),
    }
}

/// What was typed for `relay schema`.
#[derive(Clone, Args)]
pub struct SchemaArgs {
    /// The `scylla://` store whose schema is wanted; it is not connected to
    #[arg(long, value_name = "URL", env = "RELAY_STORE", hide_env_values = true)]
    store: String,
    #[command(flatten)]
    keyspace: KeyspaceArgs,
}

impl SchemaArgs {
    /// The CQL that makes the keyspace and its tables.
    pub fn script(&self) -> Result<String, Invalid> {
        let Location::Scylla(address) = location(&self.store)? else {
            return Err(Invalid("--store (or RELAY_STORE): only a scylla:// store has a schema".into()));
        };
        let replication = self.keyspace.replication.clone().unwrap_or_default();
        Ok(schema::script(&address.keyspace, &replication, self.keyspace.retention_s))
    }
}

fn location(url: &str) -> Result<Location, Invalid> {
    url.parse().map_err(|why| Invalid(format!("--store (or RELAY_STORE): {why}")))
}

impl StoreArgs {
    /// Which store is meant, and how it is to be opened by the node of this number.
    pub fn location(&self, node: u16) -> Result<(Location, Options), Invalid> {
        // Not left to clap, which would not say that a variable of the environment counts as well.
        for (flag, is_given) in [("--data", self.data.is_some()), ("--memory", self.memory)] {
            if is_given && self.store.is_some() {
                return Err(Invalid(format!(
                    "--store (or RELAY_STORE) and {flag} both name the store: give one of them"
                )));
            }
        }
        let location = match (&self.store, &self.data) {
            (Some(url), _) => location(url)?,
            _ if self.memory => Location::Memory,
            (None, Some(dir)) => Location::Embedded(dir.clone()),
            (None, None) => Location::Embedded("relay-data".into()),
        };
        let KeyspaceArgs { replication, retention_s } = self.keyspace.clone();
        for (flag, is_given) in [("--replication", replication.is_some()), ("--retention-s", retention_s.is_some())] {
            if is_given && !matches!(location, Location::Scylla(_)) {
                return Err(Invalid(format!("{flag} is for a scylla:// store, but the store is {location}")));
            }
        }
        Ok((location, Options { node, exists: false, accept_loss: self.accept_loss, replication, retention_s }))
    }
}

/// A store that can be opened. Its `Display` is what was typed, without a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `embedded:DIR`
    Embedded(PathBuf),
    /// `memory:`
    Memory,
    /// `scylla://…`
    Scylla(Address),
}

/// How a store is opened; the defaults do for reading.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The node's number in the deployment.
    pub node: u16,
    /// The store must be there already: none is made.
    pub exists: bool,
    /// Go on without acked messages that are missing.
    pub accept_loss: bool,
    /// Copies of each row of a keyspace that has to be made; None is three.
    pub replication: Option<Replication>,
    /// How long a keyspace's messages are kept, seconds, 0 for ever; None leaves it as it is.
    pub retention_s: Option<u32>,
}

/// An open store.
pub struct Opened {
    pub store: Arc<dyn Store>,
    /// Where and how safely it keeps messages, in one line.
    pub kept: String,
    /// What is unsafe about that, a line each.
    pub warnings: Vec<String>,
}

impl Opened {
    fn new(store: impl Store, kept: String) -> Self {
        Self { store: Arc::new(store), kept, warnings: Vec::new() }
    }
}

impl Location {
    /// Opens it. A database may take some ten seconds until it is certain that nobody else writes there.
    pub fn open(&self, options: &Options) -> Result<Opened, StoreError> {
        match self {
            Self::Embedded(dir) => {
                let Options { exists, accept_loss, .. } = *options;
                let options = storage::Options { create: !exists, accept_loss, ..storage::Options::default() };
                let store = EmbeddedStore::open(dir, options)?;
                let kept = store.describe();
                Ok(Opened::new(store, kept))
            }
            Self::Memory => Ok(Opened::new(MemoryStore::default(), "memory only: nothing is kept".into())),
            Self::Scylla(address) => {
                let Options { node, exists, accept_loss, replication, retention_s } = options.clone();
                let mut options = scylla::Options::new(address.clone());
                options = scylla::Options { node, create: !exists, accept_loss, replication, retention_s, ..options };
                options.log = Arc::new(|line| warn!("storage: {line}"));
                let store = ScyllaStore::open(options)?;
                let (kept, warnings) = (store.describe(), store.warnings());
                Ok(Opened { warnings, ..Opened::new(store, kept) })
            }
        }
    }
}

impl FromStr for Location {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        // The URL itself stays out of the message: it may hold a password.
        match url.split_once(':') {
            Some(("embedded", dir)) if !dir.is_empty() => Ok(Self::Embedded(dir.into())),
            Some(("embedded", _)) => Err("embedded: names no directory; what is wanted is embedded:DIR".into()),
            Some(("memory", "")) => Ok(Self::Memory),
            Some(("scylla", _)) => url.parse().map(Self::Scylla),
            _ => Err("what is wanted is embedded:DIR, memory: or scylla://HOST/KEYSPACE".into()),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(dir) => write!(f, "embedded:{}", dir.display()),
            Self::Memory => f.write_str("memory:"),
            Self::Scylla(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        store: StoreArgs,
    }

    fn typed(flags: &[&str]) -> Result<(Location, Options), String> {
        let typed = Typed::try_parse_from(["relay"].iter().chain(flags)).map_err(|error| error.to_string())?;
        typed.store.location(7).map_err(|error| error.to_string())
    }

    fn location(flags: &[&str]) -> Result<Location, String> {
        typed(flags).map(|(location, _)| location)
    }

    #[test]
    fn the_flags_name_one_store() {
        assert_eq!(location(&[]), Ok(Location::Embedded("relay-data".into())));
        for same in [["--data", "a/b"], ["--store", "embedded:a/b"]] {
            assert_eq!(location(&same), Ok(Location::Embedded("a/b".into())));
        }
        for same in [&["--memory"][..], &["--store", "memory:"]] {
            assert_eq!(location(same), Ok(Location::Memory));
        }
        for url in ["embedded:a/b", "memory:", "scylla://one:9042,two:19042/chat"] {
            assert_eq!(url.parse::<Location>().unwrap().to_string(), url);
        }
    }

    #[test]
    fn a_database_takes_what_was_typed_about_its_keyspace() {
        let url = "scylla://ann:secret@one/chat";
        let (location, options) =
            typed(&["--store", url, "--replication", "dc1:3", "--retention-s", "300", "--accept-loss"]).unwrap();
        assert_eq!(location.to_string(), "scylla://one:9042/chat");
        assert_eq!(options.replication, Some("dc1:3".parse().unwrap()));
        assert_eq!((options.node, options.accept_loss, options.retention_s), (7, true, Some(300)));
        let (_, options) = typed(&["--store", url]).unwrap();
        assert_eq!((options.replication, options.retention_s), (None, None));
    }

    #[test]
    fn the_schema_is_that_of_the_keyspace_that_was_typed() {
        #[derive(Parser)]
        struct Typed {
            #[command(flatten)]
            schema: SchemaArgs,
        }
        let script = |flags: &[&str]| {
            let typed = Typed::try_parse_from(["relay"].iter().chain(flags)).unwrap();
            typed.schema.script().map_err(|error| error.to_string())
        };
        let made = script(&["--store", "scylla://h/chat", "--replication", "2", "--retention-s", "600"]).unwrap();
        for part in ["EXISTS chat WITH", "'replication_factor': 2", "default_time_to_live = 600"] {
            assert!(made.contains(part), "{part} in {made}");
        }
        assert!(script(&["--store", "embedded:d"]).unwrap_err().contains("scylla://"));
    }

    #[test]
    fn contradictions_and_unknown_stores_are_refused_by_name() {
        for (flags, names) in [
            (&["--store", "memory:", "--data", "d"][..], ["--store", "--data"]),
            (&["--store", "memory:", "--memory"], ["--store", "--memory"]),
            (&["--data", "d", "--memory"], ["--data", "--memory"]),
            (&["--store", "postgres://u:secret@h/k"], ["--store", "embedded:DIR"]),
            (&["--store", "embedded:"], ["--store", "embedded:DIR"]),
            (&["--store", "relay-data"], ["--store", "embedded:DIR"]),
            (&["--store", "scylla://u:secret@h"], ["--store", "keyspace"]),
            (&["--store", "scylla://h/k", "--replication", "none"], ["--replication", "dc1:3"]),
            (&["--store", "scylla://h/k", "--retention-s", "299"], ["--retention-s", "300"]),
            (&["--replication", "2"], ["--replication", "embedded:relay-data"]),
            (&["--memory", "--retention-s", "600"], ["--retention-s", "memory:"]),
        ] {
            let error = location(flags).unwrap_err();
            assert!(names.iter().all(|name| error.contains(name)), "{flags:?}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
