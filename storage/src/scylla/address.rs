//! Where the database is: what `--store` and `--replication` take.

use std::fmt;
use std::str::FromStr;

/// The port of CQL.
const PORT: u16 = 9042;
/// Longest name of a keyspace in Cassandra and ScyllaDB, bytes.
const KEYSPACE_BYTES_MAX: usize = 48;

/// `scylla://[user:password@]host1[:9042],host2/keyspace[?datacenter=dc1]`. Its `Display` leaves the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// `host:port` of some nodes; the driver finds the others.
    pub nodes: Vec<String>,
    /// Lower case letters, digits and `_`, beginning with a letter.
    pub keyspace: String,
    /// The data centre whose nodes are asked; needed where there are several.
    pub datacenter: Option<String>,
    /// User and password.
    pub login: Option<(String, String)>,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        // The URL itself stays out of the message: it may hold a password.
        let wrong =
            |why: &str| format!("{why}; what is wanted is scylla://[user:password@]host1[:9042],host2/keyspace");
        let rest = url.strip_prefix("scylla://").ok_or_else(|| wrong("the store does not begin with scylla://"))?;
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (server, keyspace) = rest.rsplit_once('/').ok_or_else(|| wrong("the store names no keyspace"))?;
        let (login, nodes) = match server.rsplit_once('@') {
            Some((login, nodes)) => {
                let (user, password) =
                    login.split_once(':').ok_or_else(|| wrong("before the @ there is no user:password"))?;
                (Some((user.to_owned(), password.to_owned())), nodes)
            }
            None => (None, server),
        };
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if keyspace.len() > KEYSPACE_BYTES_MAX
            || !keyspace.starts_with(|c: char| c.is_ascii_lowercase())
            || !keyspace.chars().all(is_name)
        {
            return Err(wrong(&format!(
                "{keyspace:?} cannot be a keyspace: up to {KEYSPACE_BYTES_MAX} lower case letters, digits and _, beginning with a letter"
            )));
        }
        let datacenter = match query.map(|query| query.split_once('=')) {
            None => None,
            Some(Some(("datacenter", name))) if is_plain(name) => Some(name.to_owned()),
            Some(_) => return Err(wrong("behind the ? only datacenter=NAME is understood")),
        };
        let nodes = nodes.split(',').map(node).collect::<Option<Vec<_>>>();
        let nodes = nodes.ok_or_else(|| wrong("a host is empty, or its port is not 1 to 65535"))?;
        Ok(Self { nodes, keyspace: keyspace.to_owned(), datacenter, login })
    }
}

/// `host` or `host:port`, IPv6 addresses in brackets, as `host:port`.
fn node(text: &str) -> Option<String> {
    let host_end = text.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match text[host_end..].split_once(':') {
        Some((rest, port)) => (&text[..host_end + rest.len()], port.parse().ok().filter(|&port: &u16| port > 0)?),
        None => (text, PORT),
    };
    (!host.is_empty() && !host.contains(char::is_whitespace)).then(|| format!("{host}:{port}"))
}

/// A name that can stand in a CQL string.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "scylla://{}/{}", self.nodes.join(","), self.keyspace)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How many nodes keep each row: `3` in every data centre, or `dc1:3,dc2:3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replication(Vec<(String, u8)>);

/// What stands for all data centres in the options of `NetworkTopologyStrategy`.
const EVERYWHERE: &str = "replication_factor";

impl Default for Replication {
    /// Three copies: one node may be lost or down without anybody noticing.
    fn default() -> Self {
        Self(vec![(EVERYWHERE.into(), 3)])
    }
}

impl FromStr for Replication {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let factor = |text: &str| text.parse().ok().filter(|&factor: &u8| factor > 0);
        let centres = match factor(text) {
            Some(factor) => Some(vec![(EVERYWHERE.to_owned(), factor)]),
            None => text
                .split(',')
                .map(|part| {
                    let (name, count) = part.split_once(':')?;
                    Some((name.to_owned(), factor(count)?)).filter(|_| is_plain(name))
                })
                .collect(),
        };
        centres.map(Self).ok_or_else(|| format!("{text:?} is neither a number of copies (3) nor dc1:3,dc2:3"))
    }
}

impl Replication {
    /// The most copies in one data centre.
    pub(super) fn most(&self) -> u32 {
        self.0.iter().map(|(_, factor)| u32::from(*factor)).max().unwrap_or(0)
    }

    /// The options of a keyspace, as CQL.
    pub(super) fn cql(&self) -> String {
        let centres: Vec<_> = self.0.iter().map(|(name, factor)| format!("'{name}': {factor}")).collect();
        format!("{{'class': 'NetworkTopologyStrategy', {}}}", centres.join(", "))
    }
}

impl fmt::Display for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let centres = self.0.iter().map(|(name, factor)| match name.as_str() {
            EVERYWHERE => factor.to_string(),
            name => format!("{name}:{factor}"),
        });
        f.write_str(&centres.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_shown_without_its_password() {
        let address: Address = "scylla://ann:p@ss:w/rd@one,two:19042,[::1]:7/chat?datacenter=eu-1".parse().unwrap();
        assert_eq!(address.nodes, ["one:9042", "two:19042", "[::1]:7"]);
        assert_eq!(address.login, Some(("ann".into(), "p@ss:w/rd".into())));
        assert_eq!((address.keyspace.as_str(), address.datacenter.as_deref()), ("chat", Some("eu-1")));
        assert_eq!(address.to_string(), "scylla://one:9042,two:19042,[::1]:7/chat");
        assert_eq!(format!("{address:?}"), address.to_string());
        assert_eq!("scylla://[::1]/k".parse::<Address>().unwrap().nodes, ["[::1]:9042"]);
    }

    #[test]
    fn a_wrong_address_says_what_is_wanted_and_never_the_password() {
        for wrong in [
            "cassandra://a/k",
            "scylla://a",
            "scylla://a/",
            "scylla://a/Keyspace",
            "scylla://a/1k",
            "scylla://a/k;drop",
            "scylla:///k",
            "scylla://a,,b/k",
            "scylla://a:0/k",
            "scylla://a:99999/k",
            "scylla://a/k?dc=x",
            "scylla://a/k?datacenter='",
            "scylla://secret@a/k",
            "scylla://u:secret@/k",
        ] {
            let error = wrong.parse::<Address>().unwrap_err();
            assert!(error.contains("host2/keyspace") && !error.contains("secret"), "{wrong}: {error}");
        }
    }

    #[test]
    fn replication_is_a_number_or_one_for_each_data_centre() {
        for (text, cql) in [("3", "'replication_factor': 3"), ("dc1:3,eu-2:2", "'dc1': 3, 'eu-2': 2")] {
            let replication: Replication = text.parse().unwrap();
            assert_eq!(replication.to_string(), text);
            assert_eq!(replication.cql(), format!("{{'class': 'NetworkTopologyStrategy', {cql}}}"));
        }
        for wrong in ["", "0", "-1", "dc1", "dc1:0", "dc1:3,", "d'c:3", "300"] {
            assert!(wrong.parse::<Replication>().is_err(), "{wrong}");
        }
    }
}
