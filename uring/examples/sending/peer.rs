//! The other ends, in a process of their own: connects, reads and drops what it reads.

use std::env;
use std::io::{self, Error};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command};
use std::time::Duration;

use uring::{Config, Event, Ring, Wake};

/// Connections of one listener.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    pub port: u16,
    pub count: usize,
    /// Nothing is read from them.
    pub stalled: bool,
}

/// Sockets of one source address: the search for a free port gets slow beyond.
const PER_SOURCE: usize = 3_000;
/// Connects under way at most.
const CONNECTING: usize = 256;
/// It looks at its own pace, as a receiver of everything does: its wake-ups would be paid by the sender.
const PACE: Duration = Duration::from_micros(500);

/// Starts this program again as the peer.
pub fn start(groups: &[Group]) -> io::Result<Child> {
    let words = groups.iter().map(|group| format!("{}:{}:{}", group.port, group.count, u8::from(group.stalled)));
    Command::new(env::current_exe()?).arg("peer").args(words).spawn()
}

/// Runs until the sender closes the connections.
pub fn run(words: &[&str]) -> io::Result<()> {
    let groups = words.iter().map(|word| parse(word)).collect::<Option<Vec<_>>>();
    let groups = groups.ok_or_else(|| Error::other("a group is port:count:stalled"))?;
    let all: Vec<_> = groups.iter().flat_map(|group| std::iter::repeat_n(*group, group.count)).collect();
    let wake = Wake::new()?;
    let config =
        Config { sockets: all.len() as u16, recv_buffers: 1024, recv_buffer_bytes: 8 << 10, queue_entries: 1024 };
    let mut ring = Ring::new(config, &wake).map_err(Error::other)?;
    ring.set_quiet(true);
    let (mut opened, mut connected, mut ended) = (0, 0, 0);
    let mut stalled = Vec::new();
    while ended < all.len() - stalled.len() || connected < all.len() {
        while opened < all.len() && opened - connected < CONNECTING {
            let source = Ipv4Addr::new(127, 0, 1, (opened / PER_SOURCE) as u8);
            let target = SocketAddr::from((Ipv4Addr::LOCALHOST, all[opened].port));
            let socket = ring.connect(Some((source, 0).into()), target)?;
            if all[opened].stalled {
                ring.pause(socket);
                stalled.push(socket);
            }
            opened += 1;
        }
        wake.clear();
        ring.turn(|event| match event {
            Event::Connected(_, result) => {
                result.expect("the sender listens");
                connected += 1;
            }
            Event::Ended(..) => ended += 1,
            _ => {}
        });
        wake.wait(if opened < all.len() { Duration::ZERO } else { PACE });
    }
    Ok(())
}

fn parse(word: &str) -> Option<Group> {
    let mut parts = word.split(':');
    let (port, count, stalled) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Group { port: port.parse().ok()?, count: count.parse().ok()?, stalled: stalled != "0" })
}
