//! What is true: the durable logs, and what every client was told. Every check against it names its invariant.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use protocol::{ClientId, Content, Page};
use relay::dedupe::key_hash;
use relay::sizes;
use storage::{FaultyStore, MemoryStore, Record, Store};

use crate::speech::{Body, Line};

/// One message that a client tries to publish, over all its attempts. Its body is its name.
#[derive(Debug)]
pub struct Sent {
    pub room: Arc<str>,
    pub user: String,
    pub key: Option<String>,
    pub content: Content,
    /// The connections that sent it.
    clients: BTreeSet<ClientId>,
    attempts: u32,
    /// Attempts that were refused before a seq was given.
    refusals: u32,
    acked: Option<(u64, u64)>,
}

/// The judge of one simulation.
pub struct Oracle {
    pub store: Rc<FaultyStore>,
    /// What each node has reserved, for which nothing else of these is used.
    pub nodes: [Rc<MemoryStore>; 2],
    pub epoch: u64,
    /// Every message that was ever durable.
    logs: BTreeMap<Arc<str>, Vec<Record>>,
    /// The first seq of each room that has not expired, where some have.
    kept_from: BTreeMap<Arc<str>, u64>,
    sent: BTreeMap<Vec<u8>, Sent>,
    acks: BTreeMap<(Arc<str>, u64), u64>,
    /// Dedupe windows may have passed: a key may be stored again.
    pub windows_passed: bool,
}

impl Oracle {
    pub fn new(store: Rc<FaultyStore>, epoch: u64) -> Self {
        Self {
            store,
            nodes: [Rc::new(MemoryStore::new(epoch)), Rc::new(MemoryStore::new(epoch))],
            epoch,
            logs: BTreeMap::new(),
            kept_from: BTreeMap::new(),
            sent: BTreeMap::new(),
            acks: BTreeMap::new(),
            windows_passed: false,
        }
    }

    /// The durable log of a room.
    pub fn log(&mut self, room: &str) -> &[Record] {
        if !self.logs.contains_key(room) {
            self.logs.insert(room.into(), Vec::new());
        }
        let log = self.logs.get_mut(room).expect("just added");
        log.extend(self.store.read(room, log.len() as u64 + 1, u64::MAX, usize::MAX).expect("no fault is planned"));
        log
    }

    /// Last durable seq.
    pub fn head(&mut self, room: &str) -> u64 {
        self.log(room).len() as u64
    }

    /// The first seq that has not expired.
    pub fn kept_from(&self, room: &str) -> u64 {
        self.kept_from.get(room).copied().unwrap_or(1)
    }

    /// These messages are not kept any longer, nor are the keys of those that were not loaded with the room. Those before
    /// them may still be there, but need not be found.
    pub fn expire(&mut self, room: &Arc<str>, seqs: Range<u64>) {
        self.log(room);
        self.kept_from.insert(room.clone(), seqs.end.max(self.kept_from(room)));
        self.store.expire(room, seqs);
        self.windows_passed = true;
    }

    /// Bytes of the bodies of `first..=last`, as far as they exist.
    pub fn bodies_bytes(&mut self, room: &str, first: u64, last: u64) -> usize {
        self.part_of(room, first, last).map(|record| record.body.len()).sum()
    }

    /// What they take at most when they are sent, bytes.
    pub fn sent_bytes(&mut self, room: &str, first: u64, last: u64) -> usize {
        self.part_of(room, first, last).map(|record| sizes::sent_bytes(room, record)).sum()
    }

    fn part_of(&mut self, room: &str, first: u64, last: u64) -> impl Iterator<Item = &Record> {
        self.log(room).iter().skip(first.saturating_sub(1) as usize).take_while(move |record| record.seq <= last)
    }

    pub fn acks(&self) -> usize {
        self.acks.len()
    }

    /// A client sends a message, perhaps again.
    pub fn attempt(&mut self, body: &[u8], client: ClientId, sent: impl FnOnce() -> Sent) {
        let sent = self.sent.entry(body.to_vec()).or_insert_with(sent);
        sent.attempts += 1;
        sent.clients.insert(client);
    }

    pub fn sent(&self, body: &[u8]) -> &Sent {
        &self.sent[body]
    }

    /// An attempt was refused: it must not be stored.
    pub fn refused(&mut self, body: &[u8]) {
        self.sent.get_mut(body).expect("was sent").refusals += 1;
    }

    /// An attempt was refused since its key belongs to another message, stored here.
    pub fn key_taken(&mut self, body: &[u8], seq: u64, id: u64) {
        self.refused(body);
        let room = self.sent[body].room.clone();
        let record = self.log_of(&room, seq);
        let Sent { user, key, .. } = &self.sent[body];
        let hash = key.as_ref().map(|key| key_hash(user, key));
        let right = record
            .as_ref()
            .is_some_and(|record| record.id == id && record.key.map(|key| key.hash) == hash && *record.body != *body);
        assert!(right, "invariant 13, another body hears where the first is stored: {room} {seq} {id} has {record:?}");
    }

    /// An ack arrived.
    pub fn acked(&mut self, body: &[u8], seq: u64, id: u64) {
        let room = self.sent[body].room.clone();
        let Some(record) = self.log_of(&room, seq) else {
            panic!("invariant 1, acks are durable: {room} {seq} was acked and is not stored")
        };
        let sent = &self.sent[body];
        let is_its_key =
            record.id == id && record.key.map(|key| key.hash) == sent.key.as_ref().map(|key| key_hash(&sent.user, key));
        let other_body = is_its_key && *record.body != *body;
        assert!(!other_body, "invariant 13, a key with another body is never acked: {room} {seq} has {record:?}");
        let right = record.id == id && *record.body == *body && *record.sender == sent.user;
        assert!(right, "invariant 1, acks are durable: {room} {seq} {id} was acked, but {record:?} is stored");
        let sent = self.sent.get_mut(body).expect("was sent");
        if let Some(before) = sent.acked
            && !self.windows_passed
        {
            assert!(before == (seq, id), "invariant 4, a key is stored once: acked as {before:?} and {:?}", (seq, id));
        }
        sent.acked = Some((seq, id));
        self.acks.insert((room, seq), id);
    }

    fn log_of(&mut self, room: &str, seq: u64) -> Option<Record> {
        self.log(room).get((seq as usize).checked_sub(1)?).cloned()
    }

    /// A client reads a message.
    pub fn delivered(&mut self, room: &str, line: &Line<'_>) {
        let cached = self.logs.get(room).is_some_and(|log| log.len() as u64 >= line.seq);
        let log = if cached { &self.logs[room] } else { self.log(room) };
        let Some(record) = (line.seq as usize).checked_sub(1).and_then(|at| log.get(at)) else {
            panic!("invariant 2, only durable messages are delivered: {room} {} is not stored", line.seq)
        };
        let same =
            (line.seq, line.id, line.time_ms, &*line.user) == (record.seq, record.id, record.time_ms, &*record.sender);
        let body = match &line.body {
            Body::Stored(content, bytes) => *content == record.content && **bytes == *record.body,
            Body::Shown(json) => *json == shown(record),
        };
        let named = record.parts.get().client().map_or(String::new(), |client| client.to_string());
        let client = line.client.as_ref().is_none_or(|client| *client == named);
        assert!(
            same && body && client,
            "invariant 3, one order for everybody: {room} {line:?} was read, {record:?} is stored"
        );
    }

    /// What a history command must have answered when the log ended at `head`.
    pub fn check_page(&mut self, room: &str, page: Page, limits: (u64, usize), head: u64, lines: &[Line<'_>]) {
        let (limit, bytes_max) = limits;
        assert!(head <= self.head(room), "invariant 2: the head {head} of a page of {room} is not durable");
        let newest = |last: u64| ((last + 1).saturating_sub(limit).max(1), last);
        let (first, last) = match page {
            Page::Newest => newest(head),
            Page::Before(seq) => newest(head.min(seq.saturating_sub(1))),
            Page::After(seq) => (seq.saturating_add(1), head.min(seq.saturating_add(limit))),
            Page::Around(seq) => {
                let first = seq.saturating_sub(limit / 2).max(1);
                (first, head.min(first + limit - 1))
            }
        };
        let found: Vec<u64> = lines.iter().map(|line| line.seq).collect();
        let asked = format!("history {page:?} of {room}, limit {limit}, head {head}");
        let is_forward = matches!(page, Page::After(_) | Page::Around(_));
        // A page that goes forward begins with what is kept, others end where they were asked to.
        let kept_from = self.kept_from(room);
        let kept_end = if is_forward { head } else { last };
        if limit == 0 || first > last || (found.is_empty() && kept_from > kept_end) {
            return assert!(found.is_empty(), "{asked}: {found:?} instead of nothing");
        }
        assert!(!found.is_empty(), "{asked}: nothing instead of {first}..={last}, kept from {kept_from}");
        let (from, to) = (found[0], found[found.len() - 1]);
        let is_dense = found.iter().copied().eq(from..=to) && from >= first && found.len() as u64 <= limit;
        assert!(is_dense && to <= kept_end, "{asked}: {found:?}");
        // A page of too many bytes ends earlier, at the end that is farther from what was asked for.
        let is_cut = match page {
            Page::Newest | Page::Before(_) => to == last && self.sent_bytes(room, from - 1, to) > bytes_max,
            Page::After(_) => from == first && self.sent_bytes(room, from, to + 1) > bytes_max,
            Page::Around(seq) => {
                let centre = seq.clamp(first, last);
                from <= centre && to >= centre && self.sent_bytes(room, first, last) > bytes_max
            }
        };
        if (from, to) != (first, last) && !is_cut {
            let is_whole = if is_forward { from > first || to == last } else { to == last };
            assert!(is_whole, "{asked}: {found:?} instead of {first}..={last}");
            assert!(
                from <= kept_from.max(first),
                "invariant 11, what has not expired is found: {asked}: {found:?}, kept from {kept_from}"
            );
        }
        let fits = found.len() == 1 || self.sent_bytes(room, from, to) <= bytes_max;
        assert!(fits, "{asked}: {found:?} are more than {bytes_max} bytes");
        for line in lines {
            self.delivered(room, line);
        }
    }

    /// Everything that must hold of what is stored, whatever happened.
    pub fn check_logs(&mut self, rooms: &[Arc<str>]) {
        let mut ids = BTreeSet::new();
        let mut stored = BTreeSet::new();
        let mut keys = BTreeSet::new();
        for room in rooms {
            let mut last_id = 0;
            for (at, record) in self.log(room).to_vec().iter().enumerate() {
                assert!(record.seq == at as u64 + 1, "invariant 3, seqs are dense: {record:?} at {at} of {room}");
                assert!(record.id > last_id, "invariant 3, ids rise: {} after {last_id} in {room}", record.id);
                assert!(ids.insert(record.id), "invariant 3, ids are unique: {} again in {room}", record.id);
                last_id = record.id;
                let Some(sent) = self.sent.get(&*record.body) else { panic!("{room}: nobody sent {record:?}") };
                let is_sent = sent.room == *room && *sent.user == *record.sender && sent.content == record.content;
                assert!(is_sent, "{room}: {record:?} is not what was sent, {sent:?}");
                let client = record.parts.get().client();
                assert!(
                    client.is_none_or(|client| sent.clients.contains(&client)),
                    "{room}: {record:?} names {client:?}"
                );
                if let Some(key) = record.key {
                    let once = keys.insert((room.clone(), key.hash));
                    assert!(once || self.windows_passed, "invariant 4, a key is stored once: {record:?} in {room}");
                }
                assert!(sent.refusals < sent.attempts, "{room}: {record:?} is stored, but every attempt was refused");
                let once = stored.insert(record.body.clone());
                assert!(
                    once || (self.windows_passed && sent.key.is_some()),
                    "invariant 4, a message is stored once: {record:?} is in {room} again"
                );
            }
        }
        for ((room, seq), id) in self.acks.clone() {
            let found = self.log_of(&room, seq).map(|record| record.id);
            assert!(
                found == Some(id),
                "invariant 1, nothing acked is lost: {room} {seq} {id}, but {found:?} is stored"
            );
        }
    }
}

impl Sent {
    /// Nobody sent it twice.
    pub fn is_first_attempt(&self) -> bool {
        self.attempts == 1
    }

    pub fn new(room: &Arc<str>, user: &str, key: Option<String>, content: Content) -> Self {
        let (room, user) = (room.clone(), user.to_owned());
        Self { room, user, key, content, clients: BTreeSet::new(), attempts: 0, refusals: 0, acked: None }
    }
}

/// How the JSON dialect shows a body.
fn shown(record: &Record) -> String {
    match record.content {
        Content::Text => serde_json::to_string(str::from_utf8(&record.body).expect("a text")).expect("a string"),
        Content::Json => String::from_utf8(record.body.to_vec()).expect("JSON is text"),
        Content::Binary => {
            format!(r#"{{"base64":"{}"}}"#, base64::prelude::BASE64_STANDARD.encode(&record.body))
        }
    }
}
