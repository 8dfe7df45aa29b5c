//! Makes a Cassandra node look like a ScyllaDB node of four shards, and keeps count of which shard's connection each
//! statement came over. Only SUPPORTED frames are changed; a connection to the shard-aware port belongs to the shard
//! `source port % 4`, others to one after the other.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use scylla::routing::Sharder;

use crate::frame::{Frame, Keys, Statement, opcode};

/// Shards of the node that is played.
pub const SHARDS: u16 = 4;
/// ScyllaDB's default: how many of a token's highest bits do not choose the shard.
const IGNORED_BITS: u8 = 12;

/// Where statements of one table came in.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Routed {
    /// Over the connection of the shard that owns the partition, by shard.
    pub right: [u64; SHARDS as usize],
    /// Over another one.
    pub wrong: u64,
}

/// A shim in front of one node; takes no more connections once it is dropped.
pub struct Shim {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    node: SocketAddr,
    shard_aware_port: u16,
    next_shard: AtomicU16,
    ended: AtomicBool,
    /// Prepared statements by id: table and where the partition key is.
    prepared: Mutex<HashMap<Vec<u8>, Keys>>,
    routed: Mutex<BTreeMap<String, Routed>>,
}

impl Shim {
    /// Starts one in front of `node`.
    pub fn start(node: SocketAddr) -> Self {
        let [plain, aware] = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let [address, aware_address] = [&plain, &aware].map(|listener| listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            node,
            shard_aware_port: aware_address.port(),
            next_shard: AtomicU16::new(0),
            ended: AtomicBool::new(false),
            prepared: Mutex::default(),
            routed: Mutex::default(),
        });
        let by_source: fn(&Shared, u16) -> u16 = |_, port| port % SHARDS;
        let in_turn: fn(&Shared, u16) -> u16 = |shared, _| shared.next_shard.fetch_add(1, Ordering::Relaxed) % SHARDS;
        for (listener, shard) in [(plain, in_turn), (aware, by_source)] {
            let shared = shared.clone();
            std::thread::spawn(move || {
                for client in listener.incoming() {
                    let client = client.unwrap();
                    if shared.ended.load(Ordering::Acquire) {
                        return;
                    }
                    let shard = shard(&shared, client.peer_addr().unwrap().port());
                    pass(&shared, shard, &client);
                }
            });
        }
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where statements came in since the last call, by `keyspace.table`.
    pub fn routed(&self) -> BTreeMap<String, Routed> {
        std::mem::take(&mut *self.shared.routed.lock().unwrap())
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        for port in [self.address.port(), self.shared.shard_aware_port] {
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        }
    }
}

/// Connects a client with the node; both directions end together.
fn pass(shared: &Arc<Shared>, shard: u16, client: &TcpStream) {
    let Ok(node) = TcpStream::connect(shared.node) else { return };
    for socket in [client, &node] {
        socket.set_nodelay(true).unwrap();
    }
    let [to_node, to_client] =
        [(client, &node), (&node, client)].map(|(from, to)| (from.try_clone().unwrap(), to.try_clone().unwrap()));
    let [up, down] = [(); 2].map(|()| shared.clone());
    std::thread::spawn(move || copy(to_node, |frame| up.count(shard, frame)));
    std::thread::spawn(move || copy(to_client, |frame| down.change(shard, frame)));
}

fn copy((mut from, mut to): (TcpStream, TcpStream), mut each: impl FnMut(&mut Frame)) {
    while let Ok(mut frame) = Frame::read(&mut from) {
        each(&mut frame);
        if frame.write(&mut to).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

impl Shared {
    /// Notes over which shard's connection the statements of a request come.
    fn count(&self, shard: u16, frame: &Frame) {
        let prepared = self.prepared.lock().unwrap();
        let mut routed = self.routed.lock().unwrap();
        for Statement { id, values } in frame.statements() {
            let Some(keys) = prepared.get(&id) else { continue };
            let Some(token) = keys.token(&values) else { continue };
            let sharder = Sharder::new(NonZeroU16::new(SHARDS).unwrap(), IGNORED_BITS);
            let routed = routed.entry(keys.table.clone()).or_default();
            if sharder.shard_of(token) == u32::from(shard) {
                routed.right[usize::from(shard)] += 1;
            } else {
                routed.wrong += 1;
            }
        }
    }

    /// Adds what a ScyllaDB node says of itself; learns the statements that are prepared.
    fn change(&self, shard: u16, frame: &mut Frame) {
        match frame.opcode {
            opcode::SUPPORTED => frame.add_options(&[
                ("SCYLLA_SHARD", &shard.to_string()),
                ("SCYLLA_NR_SHARDS", &SHARDS.to_string()),
                ("SCYLLA_SHARDING_IGNORE_MSB", &IGNORED_BITS.to_string()),
                ("SCYLLA_SHARDING_ALGORITHM", "biased-token-round-robin"),
                ("SCYLLA_PARTITIONER", "org.apache.cassandra.dht.Murmur3Partitioner"),
                ("SCYLLA_SHARD_AWARE_PORT", &self.shard_aware_port.to_string()),
            ]),
            opcode::RESULT => {
                if let Some((id, keys)) = frame.prepared() {
                    self.prepared.lock().unwrap().insert(id, keys);
                }
            }
            _ => {}
        }
    }
}
