//! Level two: publishes of native clients through a whole relay.

use std::thread;
use std::time::Duration;

use protocol::{Command, Content};
use relay::persist::wall_ms;

use crate::chat;
use crate::clients::{Answer, Clients};
use crate::meter::{Arrivals, Load, Measured, Meter};
use crate::server::Server;

/// How long the clients' thread rests between two looks at its sockets when there is little to do.
const REST: Duration = Duration::from_micros(500);
/// The tag of the first command; those of publishes come after it.
const HELLO: u32 = 0;

/// A publish under way: what it was intended for, and where it was sent.
#[derive(Clone, Copy)]
struct Sent {
    intended_ns: u64,
    room: usize,
}

/// The clients of one run, and what they publish.
struct Driver<'a> {
    load: &'a Load,
    clients: Clients,
    connections: usize,
    began_ms: u64,
    rooms: Vec<String>,
    lines: Vec<String>,
    /// By tag.
    sent: Vec<Sent>,
    answers: Vec<(u32, Answer)>,
}

impl Driver<'_> {
    fn publish(&mut self, intended_ns: u64, room: usize) {
        let tag = self.sent.len();
        self.sent.push(Sent { intended_ns, room });
        let command = Command::Publish {
            room: self.rooms[room].as_str().into(),
            content: Content::Text,
            body: self.lines[tag % self.lines.len()].as_bytes().into(),
            key: Some(format!("{}-{tag}", self.began_ms).into()),
        };
        self.clients.command(tag % self.connections, tag as u32, command);
    }

    /// Sends what was published and takes what came.
    fn turn(&mut self) -> anyhow::Result<Vec<(Sent, Answer)>> {
        let answers = &mut self.answers;
        self.clients.turn(|tag, answer| answers.push((tag, answer)))?;
        let of_publishes = self.answers.drain(..).filter(|(tag, _)| *tag != HELLO);
        Ok(of_publishes.map(|(tag, answer)| (self.sent[tag as usize], answer)).collect())
    }

    /// One message in each room: from then on the relay has them in memory.
    fn open_rooms(&mut self) -> anyhow::Result<()> {
        (0..self.load.rooms).for_each(|room| self.publish(0, room));
        let mut answered = 0;
        while answered < self.load.rooms {
            answered += self.turn()?.len();
            thread::sleep(REST);
        }
        Ok(())
    }

    fn run(&mut self, mut meter: Meter) -> anyhow::Result<Measured> {
        let mut arrivals = Arrivals::of(self.load);
        for room in self.load.at_first() {
            self.publish(0, room);
            meter.published();
        }
        loop {
            let now_ns = meter.now_ns();
            while let Some((intended_ns, room)) = arrivals.due(now_ns, &meter) {
                self.publish(intended_ns, room);
                meter.published();
            }
            let answers = self.turn()?;
            let now_ns = meter.now_ns();
            for (Sent { intended_ns, room }, answer) in answers {
                match answer {
                    Answer::Acked => meter.acked(intended_ns, now_ns),
                    Answer::Refused => meter.refused(),
                }
                if self.load.is_flat_out() && meter.is_open(now_ns) {
                    self.publish(now_ns, room);
                    meter.published();
                }
            }
            if meter.is_over(now_ns) {
                return Ok(meter.finish());
            }
            thread::sleep(REST);
        }
    }
}

/// Runs one load through the relay.
pub fn run(server: &Server, load: &Load, connections: usize) -> anyhow::Result<Measured> {
    let began_ms = wall_ms();
    let mut driver = Driver {
        load,
        clients: Clients::connect(server.address, connections)?,
        connections,
        began_ms,
        rooms: (0..load.rooms).map(|n| format!("relayed-{began_ms}-{n}")).collect(),
        lines: chat::lines(),
        sent: vec![Sent { intended_ns: 0, room: 0 }],
        answers: Vec::new(),
    };
    driver.open_rooms()?;
    driver.run(Meter::new(load, server.pid(), ""))
}
