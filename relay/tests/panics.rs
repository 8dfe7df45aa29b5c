//! A thread that ends by itself ends the relay, which names it and tells its clients to go. One test, for the hook of
//! panics and the signals belong to the whole process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use protocol::frame::{self, Opcode};
use protocol::{centrifuge, handshake};
use relay::config::Limits;
use relay::serve::{self, Plan};
use relay::store::Opened;
use storage::{Append, LogState, MemoryStore, Record, Store, StoreError};

/// Fails as no engine may.
#[derive(Default)]
struct Panicking(MemoryStore);

impl Store for Panicking {
    fn open_log(&self, room: &str) -> Result<LogState, StoreError> {
        self.0.open_log(room)
    }

    fn append(&self, _: &[Append]) -> Result<(), StoreError> {
        panic!("an engine with a mistake in it")
    }

    fn read(&self, room: &str, first: u64, last: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.0.read(room, first, last, limit)
    }

    fn reserved_ids(&self) -> Result<u64, StoreError> {
        self.0.reserved_ids()
    }

    fn reserve_ids(&self, until_ms: u64) -> Result<(), StoreError> {
        self.0.reserve_ids(until_ms)
    }

    fn release_ids(&self, used_ms: u64) -> Result<(), StoreError> {
        self.0.release_ids(used_ms)
    }

    fn rooms(&self, after: Option<&str>, limit: usize) -> Result<Vec<Arc<str>>, StoreError> {
        self.0.rooms(after, limit)
    }
}

#[test]
fn a_storage_thread_that_panics_ends_the_relay_which_tells_its_clients() {
    let listen = free_address();
    let plan = Plan { listen, shards: 2, node: 0, limits: Limits::defaults(), echo: false, control: None };
    let opened = Opened { store: Arc::new(Panicking::default()), kept: String::new(), warnings: Vec::new() };
    let relay = thread::spawn(move || serve::run(&plan, || Ok(opened)));
    let mut client = connect(listen, &relay);
    let commands =
        [r#"{"id":1,"connect":{"data":{"user":"ann"}}}"#, r#"{"id":2,"publish":{"channel":"r","data":"x"}}"#];
    for command in commands {
        let mut bytes = Vec::new();
        frame::write_masked(Opcode::Text, command.as_bytes(), [1, 2, 3, 4], &mut bytes);
        client.write_all(&bytes).unwrap();
    }
    let mut heard = Vec::new();
    // A reset is an end too.
    let _ = client.read_to_end(&mut heard);
    let heard = String::from_utf8_lossy(&heard);
    assert!(heard.contains(r#""disconnect":{"code":3001"#), "{heard}");
    assert!(!heard.contains(r#""id":2,"publish""#), "nothing is acked: {heard}");
    let why = relay.join().unwrap().unwrap_err().to_string();
    assert!(why.contains("thread append "), "{why}");
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Shakes hands as soon as the relay listens.
fn connect(address: SocketAddr, relay: &thread::JoinHandle<anyhow::Result<()>>) -> TcpStream {
    let mut stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(_) => assert!(!relay.is_finished(), "the relay did not start"),
        }
        thread::yield_now();
    };
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let mut request = Vec::new();
    handshake::request("relay", centrifuge::PATH, None, false, [7; 16], &mut request);
    stream.write_all(&request).unwrap();
    stream
}
