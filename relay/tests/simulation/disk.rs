//! Storage as the shards meet it: late, out of order between rooms, failing, and cut off by crashes.

use std::rc::Rc;

use fastrand::Rng;
use protocol::snowflake;
use relay::ids::SessionId;
use relay::persist::{self, Reservation};
use relay::room::Most;
use relay::shard::{StoreReply, StoreRequest, Unread};
use storage::{Append, Fault, FaultyStore, MemoryStore, Store};

use crate::plan::Plan;
use crate::sabotage::Sabotage;

/// An append call that failed and is repeated unchanged: its appends and whose they are.
struct Call {
    shards: Vec<usize>,
    appends: Vec<Append>,
}

/// The requests of all shards and the replies that are on their way back.
pub struct Disk {
    store: Rc<FaultyStore>,
    /// Where this node's ids are reserved.
    node: Rc<MemoryStore>,
    ids: Reservation,
    reads: Vec<(usize, StoreRequest)>,
    appends: Vec<(usize, Append)>,
    failed: Vec<Call>,
    pub replies: Vec<Vec<StoreReply>>,
    /// Reads that were not done for connections that had ended.
    pub forgotten: u64,
    /// It does nothing any more.
    pub lost: bool,
    pub sabotage: Option<Sabotage>,
}

impl Disk {
    /// The storage of a process that starts now.
    pub fn new(store: Rc<FaultyStore>, node: Rc<MemoryStore>, shards: usize, sabotage: Option<Sabotage>) -> Self {
        let ids = Reservation::new(node.reserved_ids().expect("it never fails"));
        let replies = (0..shards).map(|_| Vec::new()).collect();
        Self {
            store,
            node,
            ids,
            reads: Vec::new(),
            appends: Vec::new(),
            failed: Vec::new(),
            replies,
            forgotten: 0,
            lost: false,
            sabotage,
        }
    }

    pub fn request(&mut self, shard: usize, request: StoreRequest, rng: &mut Rng) {
        match request {
            StoreRequest::Append(append) => {
                if self.sabotage == Some(Sabotage::AckBeforeStore) && rng.u8(..10) == 0 {
                    let room = append.room.clone();
                    self.replies[shard].push(StoreReply::Appended { room });
                }
                let room = &append.room;
                assert!(!self.is_writing(room) || self.sabotage.is_some(), "two appends of {room} are in flight");
                self.appends.push((shard, append));
            }
            StoreRequest::Forget { session } => self.forget(session),
            read => self.reads.push((shard, read)),
        }
    }

    /// The process ends in good order: what was reserved and not used is given back.
    pub fn stop(&self) {
        self.node.release_ids(self.ids.used_ms()).expect("it never fails");
    }

    /// What the connection asked for is not read any more.
    fn forget(&mut self, session: SessionId) {
        for (shard, request) in std::mem::take(&mut self.reads) {
            match request {
                StoreRequest::Read { room, wanted, asker } if asker == session => {
                    self.forgotten += 1;
                    let found = Err(Unread::Gone(session));
                    self.replies[shard].push(StoreReply::Read { room, wanted, found });
                }
                other => self.reads.push((shard, other)),
            }
        }
    }

    /// An append of the room is in flight.
    pub fn is_writing(&self, room: &str) -> bool {
        self.appends.iter().any(|(_, append)| *append.room == *room)
            || self.failed.iter().any(|call| call.appends.iter().any(|append| *append.room == *room))
    }

    /// What is not done.
    pub fn left(&self) -> String {
        format!("{:?} {:?}", self.reads, self.replies)
    }

    pub fn is_idle(&self) -> bool {
        self.lost
            || self.reads.is_empty()
                && self.appends.is_empty()
                && self.failed.is_empty()
                && self.replies.iter().all(Vec::is_empty)
    }

    /// Does something of what waits; `faults` in percent of the calls.
    pub fn step(&mut self, rng: &mut Rng, plan: &Plan, wall_ms: u64, faults: u32) {
        if self.lost {
            return;
        }
        match rng.u8(..3) {
            0 if !self.failed.is_empty() => {
                let call = self.failed.swap_remove(rng.usize(..self.failed.len()));
                self.append(rng, call, wall_ms, faults);
            }
            1 if !self.appends.is_empty() => {
                let mut call = Call { shards: Vec::new(), appends: Vec::new() };
                for _ in 0..rng.usize(1..=self.appends.len()) {
                    let (shard, append) = self.appends.swap_remove(rng.usize(..self.appends.len()));
                    call.shards.push(shard);
                    call.appends.push(append);
                }
                self.append(rng, call, wall_ms, faults);
            }
            _ if !self.reads.is_empty() => {
                let (shard, request) = self.reads.swap_remove(rng.usize(..self.reads.len()));
                let fails = rng.u32(..100) < faults;
                let tail_max = Most { messages: plan.limits.tail_messages_max, bytes: plan.limits.tail_bytes_max };
                let reply = self.read(request, tail_max, wall_ms, fails);
                self.replies[shard].push(reply);
            }
            _ => {}
        }
    }

    fn append(&mut self, rng: &mut Rng, call: Call, wall_ms: u64, faults: u32) {
        let last_ms =
            call.appends.iter().flat_map(|append| &append.records).map(|record| snowflake::time_ms(record.id));
        let last_ms = last_ms.max().unwrap_or(0);
        if !self.ids.covers(last_ms) || rng.bool() {
            let until_ms = self.ids.renewal(wall_ms).unwrap_or(0);
            self.node.reserve_ids(until_ms).expect("it never fails");
            self.ids.renewed(until_ms);
        }
        let fault = (rng.u32(..100) < faults).then(|| match rng.u8(..4) {
            0 => Fault::Lost,
            1 => Fault::Stored,
            2 => Fault::Partial(rng.usize(..=call.appends.len())),
            _ => Fault::Unsynced,
        });
        self.store.plan_append(fault);
        match self.store.append(&call.appends) {
            Ok(()) => {
                for (shard, append) in call.shards.into_iter().zip(call.appends) {
                    self.replies[shard].push(StoreReply::Appended { room: append.room });
                }
            }
            Err(error) => {
                assert!(fault.is_some() || self.sabotage.is_some(), "storage refused an append: {error}");
                self.failed.push(call);
            }
        }
    }

    fn read(&self, request: StoreRequest, tail_max: Most, wall_ms: u64, fails: bool) -> StoreReply {
        match request {
            StoreRequest::Open { room } => {
                let mut log = persist::open(&*self.store, &room, tail_max, wall_ms).expect("no fault is planned");
                match self.sabotage {
                    Some(Sabotage::ForgetKeys) => log.keys.clear(),
                    Some(Sabotage::ForgetBodies) => log.keys.iter_mut().for_each(|stored| stored.key.body = None),
                    Some(Sabotage::ForgetLastId) => log.state.last_id = 0,
                    _ => {}
                }
                let log = (!fails).then_some(log);
                StoreReply::Opened { room, log }
            }
            StoreRequest::Read { room, wanted, .. } => {
                let mut found = persist::read(&*self.store, &room, wanted).expect("no fault is planned");
                if self.sabotage == Some(Sabotage::ForgetOld) && found.records.len() > 1 {
                    found.records.remove(0);
                    (found.first, found.has_expired) = (found.first + 1, true);
                }
                StoreReply::Read { room, wanted, found: if fails { Err(Unread::Failed) } else { Ok(found) } }
            }
            StoreRequest::Append(_) | StoreRequest::Forget { .. } => unreachable!("they are not read"),
        }
    }
}
