//! Why a run could not begin: not everybody joined. One sentence that says whose doing it is.

use std::io;

use rustix::io::Errno;

use crate::Error;
use crate::faults::Faults;
use crate::report::group;

/// What classes of fault begin with, by what went wrong.
pub const OWN_LIMIT: &str = "a limit of this machine: ";
pub const CONNECT: &str = "connect: ";
pub const HANDSHAKE: &str = "handshake: ";
pub const JOIN: &str = "could not join: ";

/// Users that had begun to connect when the run gave up, by what they waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    pub connection: u64,
    pub handshake: u64,
    pub join: u64,
    /// Answers that the server is too busy for a join.
    pub joins_busy: u64,
}

/// How far the users came.
#[derive(Debug, Clone, Copy)]
pub struct Reached<'a> {
    pub done: u64,
    pub wanted: u64,
    /// What was counted, for example "joined".
    pub what: &'a str,
    /// Host and port.
    pub server: &'a str,
    /// How long nothing has moved when no fault ended it, seconds.
    pub waited_s: u64,
}

impl Waiting {
    /// Adds another thread's.
    pub fn add(&mut self, other: &Self) {
        self.connection += other.connection;
        self.handshake += other.handshake;
        self.join += other.join;
        self.joins_busy += other.joins_busy;
    }
}

/// The class of a connection that could not be opened: this machine's doing or not.
pub fn class_of_connect(error: &io::Error) -> String {
    let own = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOMEM, Errno::NOBUFS];
    let is_own = Errno::from_io_error(error).is_some_and(|number| own.contains(&number));
    if is_own { format!("{OWN_LIMIT}{error}") } else { format!("{CONNECT}{error}") }
}

/// Says what happened and to whom.
pub fn error(reached: &Reached<'_>, faults: &Faults, waiting: &Waiting) -> Error {
    let Reached { done, wanted, what, server, .. } = reached;
    let all = faults.by_frequency();
    let found = |beginning: &str| {
        all.iter().find_map(|(class, users)| Some((class.strip_prefix(beginning)?.to_owned(), group(*users))))
    };
    let so_far = format!("{} of {} {what}", group(*done), group(*wanted));
    if let Some((why, users)) = found(OWN_LIMIT) {
        let help = if why.contains("os error 24") { "; raise the limit of open files (ulimit -n)" } else { "" };
        return Error::Preflight(format!("{users} users could not open a connection: {why}{help}"));
    }
    let words = if let Some((why, users)) = found(HANDSHAKE) {
        format!("{server} refuses connections: {why} ({users} users; {so_far})")
    } else if let Some((why, users)) = found(JOIN) {
        format!("{server} refuses users: {why} ({users} users; {so_far})")
    } else if let Some((why, users)) = found(CONNECT) {
        match (done, why.contains("refused")) {
            (0, true) => format!("nobody listens on {server}: {why}"),
            (0, false) => format!("{server} cannot be reached: {why}"),
            _ => format!("{server} takes no more connections: {why} ({users} users; {so_far})"),
        }
    } else if all.is_empty() {
        in_silence(reached, waiting, &so_far)
    } else {
        let met = all.iter().take(3).map(|(class, users)| format!("{} users: {class}", group(*users)));
        format!("{server} lost users that had come: {} ({so_far})", met.collect::<Vec<_>>().join("; "))
    };
    Error::Unreachable(words)
}

fn in_silence(reached: &Reached<'_>, waiting: &Waiting, so_far: &str) -> String {
    let Reached { server, waited_s, .. } = reached;
    let Waiting { connection, handshake, join, joins_busy } = *waiting;
    let (did, users, awaited) = if joins_busy > 0 {
        ("says again and again that it is too busy for joins", join, "joined")
    } else if join > 0 {
        ("does not answer", join, "joined")
    } else if handshake > 0 {
        ("takes connections and says nothing", handshake, "had the WebSocket handshake's answer")
    } else if connection > 0 {
        ("does not answer", connection, "had a connection")
    } else {
        return format!("{server} does not answer what it is sent ({so_far} after {waited_s} s without any progress)");
    };
    format!("{server} {did}: {} users have not {awaited} in {waited_s} s ({so_far})", group(users))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(done: u64, class: &str, waiting: Waiting) -> (u8, String) {
        let mut faults = Faults::default();
        if !class.is_empty() {
            (0..3).for_each(|user| faults.count(user, class.to_owned()));
        }
        let reached = Reached { done, wanted: 100, what: "joined", server: "host:8000", waited_s: 20 };
        let error = error(&reached, &faults, &waiting);
        (error.exit_code(), error.to_string())
    }

    #[test]
    fn each_reason_has_a_sentence_of_its_own_and_the_users_are_never_said_to_be_too_many() {
        let waiting = Waiting::default();
        for (done, class, waiting, code, words) in [
            (334, "a limit of this machine: Too many open files (os error 24)", waiting, 3, "ulimit -n"),
            (0, "connect: Connection refused (os error 111)", waiting, 4, "nobody listens on host:8000"),
            (0, "connect: No route to host (os error 113)", waiting, 4, "host:8000 cannot be reached: No route"),
            (5, "connect: Connection refused (os error 111)", waiting, 4, "takes no more connections"),
            (5, "handshake: 503 Service Unavailable: full", waiting, 4, "refuses connections: 503 Service Unavailable"),
            (0, "handshake: 404 Not Found: paths", waiting, 4, "refuses connections: 404 Not Found"),
            (0, "could not join: denied (no)", waiting, 4, "refuses users: denied (no)"),
            (9, "connection ended: without a close frame", waiting, 4, "lost users that had come: 3 users: connection"),
            (
                0,
                "",
                Waiting { handshake: 9, ..waiting },
                4,
                "says nothing: 9 users have not had the WebSocket handshake",
            ),
            (0, "", Waiting { connection: 9, ..waiting }, 4, "does not answer: 9 users have not had a connection"),
            (7, "", Waiting { join: 9, joins_busy: 50, ..waiting }, 4, "too busy for joins: 9 users"),
        ] {
            let (found, sentence) = said(done, class, waiting);
            assert_eq!(found, code, "{sentence}");
            assert!(sentence.contains(words) && !sentence.contains("cannot carry"), "{words}: {sentence}");
            assert_eq!(sentence.lines().count(), 1);
        }
    }

    #[test]
    fn running_out_of_files_or_ports_is_not_the_servers_doing() {
        for (number, own) in [(Errno::MFILE, true), (Errno::ADDRNOTAVAIL, true), (Errno::CONNREFUSED, false)] {
            let class = class_of_connect(&io::Error::from(number));
            assert_eq!(class.starts_with(OWN_LIMIT), own, "{class}");
        }
    }
}
