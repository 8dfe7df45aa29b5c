//! Which store the relay keeps its messages in: what was typed, what it means, and opening it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use storage::{EmbeddedStore, MemoryStore, Store, StoreError};

use crate::config::Invalid;

/// What was typed about the store; [`StoreArgs::location`] says what it means.
#[derive(Clone, Args)]
pub struct StoreArgs {
    /// Where messages are kept: embedded:DIR (as --data DIR) or memory: (as --memory)
    #[arg(long, value_name = "URL", env = "RELAY_STORE", hide_env_values = true, conflicts_with_all = ["data", "memory"])]
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
}

impl StoreArgs {
    /// Which store is meant, and how it is to be opened by the node of this number.
    pub fn location(&self) -> Result<(Location, Options), Invalid> {
        let location = match (&self.store, &self.data) {
            (Some(url), _) => url.parse().map_err(|why| Invalid(format!("--store (or RELAY_STORE): {why}")))?,
            _ if self.memory => Location::Memory,
            (None, Some(dir)) => Location::Embedded(dir.clone()),
            (None, None) => Location::Embedded("relay-data".into()),
        };
        Ok((location, Options { accept_loss: self.accept_loss }))
    }
}

/// A store that can be opened. Its `Display` is what was typed, without a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `embedded:DIR`
    Embedded(PathBuf),
    /// `memory:`
    Memory,
}

/// How a store is opened; the defaults do for reading.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Go on without acked messages that are missing.
    pub accept_loss: bool,
}

/// An open store.
pub struct Opened {
    pub store: Arc<dyn Store>,
    /// Where and how safely it keeps messages, in one line.
    pub kept: String,
}

impl Location {
    /// Opens it.
    pub fn open(&self, options: &Options) -> Result<Opened, StoreError> {
        match self {
            Self::Embedded(dir) => {
                let options = storage::Options { accept_loss: options.accept_loss, ..storage::Options::default() };
                let store = EmbeddedStore::open(dir, options)?;
                Ok(Opened { store: Arc::new(store), kept: format!("embedded store in {}", dir.display()) })
            }
            Self::Memory => {
                Ok(Opened { store: Arc::new(MemoryStore::default()), kept: "memory only: nothing is kept".into() })
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
            _ => Err("what is wanted is embedded:DIR or memory:".into()),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(dir) => write!(f, "embedded:{}", dir.display()),
            Self::Memory => f.write_str("memory:"),
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

    fn location(flags: &[&str]) -> Result<Location, String> {
        let typed = Typed::try_parse_from(["relay"].iter().chain(flags)).map_err(|error| error.to_string())?;
        typed.store.location().map(|(location, _)| location).map_err(|error| error.to_string())
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
        for url in ["embedded:a/b", "memory:"] {
            assert_eq!(url.parse::<Location>().unwrap().to_string(), url);
        }
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
        ] {
            let error = location(flags).unwrap_err();
            assert!(names.iter().all(|name| error.contains(name)), "{flags:?}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
