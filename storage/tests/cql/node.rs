//! A real CQL server for a test: one Apache Cassandra node on loopback, started by `conformance/cql/cassandra`. It ends with
//! this process, however that ends. Self-contained, so that the tests of other crates can include it by its path.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longest a start may take: seconds, but for the first on a machine, which fetches 63 MB.
const START: Duration = Duration::from_mins(5);

/// When the server answers a write.
#[derive(Clone, Copy)]
pub enum CommitLog {
    /// Once it is on the disk: `kill -9` loses nothing that was acked.
    Batch,
    /// At once: quicker, for nodes that are not killed.
    Periodic,
}

/// A running, stopped or killed node; removed with its data when it is dropped.
pub struct Node {
    port: u16,
    dir: PathBuf,
    commit_log: CommitLog,
    /// Its standard input is held open: the server is killed when that ends.
    server: Child,
}

impl Node {
    /// The node that all tests of this process share who do it no harm. Its commit log is periodic.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Node> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(CommitLog::Periodic))
    }

    /// Starts a node of one's own, which takes some six seconds, and waits until it serves.
    pub fn start(commit_log: CommitLog) -> Self {
        let port = free_ports();
        let dir = root().join(format!("target/conformance/cql/{}-{port}", std::process::id()));
        let server = spawn(port, &dir, commit_log);
        let mut node = Self { port, dir, commit_log, server };
        node.wait();
        node
    }

    /// Where it serves CQL, `host:port`.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// `kill -9`. Its data stays.
    pub fn kill(&mut self) {
        let mut input = self.server.stdin.take().expect("a node is killed once, then restarted");
        input.write_all(b"keep").expect("the watch reads until the input ends");
        drop(input);
        self.server.wait().expect("a child can be waited for");
    }

    /// Starts it again after [`Node::kill`], with its data, and waits until it serves.
    pub fn restart(&mut self) {
        self.server = spawn(self.port, &self.dir, self.commit_log);
        self.wait();
    }

    /// SIGSTOP: its connections stay open and nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.server), signal).expect("the node runs");
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + START;
        while !serves(self.address()) {
            if let Some(status) = self.server.try_wait().expect("a child can be waited for") {
                panic!("the CQL server ended with {status} instead of starting; its last words:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "the CQL server is not ready after {START:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("stdout.log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let Some(input) = self.server.stdin.take() else {
            // Killed and not restarted.
            let _ = std::fs::remove_dir_all(&self.dir);
            return;
        };
        drop(input);
        let _ = self.server.wait();
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a crate lies in the workspace")
}

fn spawn(port: u16, dir: &Path, commit_log: CommitLog) -> Child {
    let sync = match commit_log {
        CommitLog::Batch => "batch",
        CommitLog::Periodic => "periodic",
    };
    Command::new(root().join("conformance/cql/cassandra"))
        .args(["run", &port.to_string()])
        .arg(dir)
        .env("CQL_SYNC", sync)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the recipe conformance/cql/cassandra can be run")
}

/// A port for CQL whose next one, for other nodes, is free too. Below the ports that outgoing connections use: while a
/// node is down, a connection attempt to such a port could meet itself.
fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    loop {
        let offset = std::process::id() * 40 + u32::from(NEXT.fetch_add(2, Ordering::Relaxed));
        let port = 20_000 + (offset % 12_000) as u16;
        if is_free(port) && is_free(port + 1) {
            return port;
        }
    }
}

/// Tells whether an OPTIONS frame of protocol version 4 is answered by SUPPORTED (opcode 6).
fn serves(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<[u8; 5]> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(&[4, 0, 0, 0, 5, 0, 0, 0, 0])?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer[0] == 0x84 && answer[4] == 6)
}
