//! Level two: publishes of native clients through a whole relay.

use std::time::Duration;

use protocol::{Command, Content};
use relay::persist::wall_ms;

use crate::chat;
use crate::clients::{Answer, Clients};
use crate::meter::{Arrivals, Load, Measured, Meter};
use crate::server::Server;

/// How long the clients' thread rests between two looks at its sockets when there is little to do.
const REST: Duration = Duration::from_micros(500);
/// A tag of another command than a publish; theirs begin behind it.
const HELLO: u32 = 0;

/// A publish under way: what it was intended for, and where it was sent.
struct Sent {
    intended_ns: u64,
    room: usize,
}

/// Runs one load through the relay.
pub fn run(server: &Server, load: &Load, connections: usize) -> anyhow::Result<Measured> {
    let mut clients = Clients::connect(server.address, connections)?;
    let began_ms = wall_ms();
    let rooms: Vec<String> = (0..load.rooms).map(|n| format!("relayed-{began_ms}-{n}")).collect();
    let lines = chat::lines();
    let mut sent: Vec<Sent> = vec![Sent { intended_ns: 0, room: 0 }];
    let publish = |clients: &mut Clients, sent: &mut Vec<Sent>, intended_ns: u64, room: usize| {
        let tag = sent.len() as u32;
        sent.push(Sent { intended_ns, room });
        let command = Command::Publish {
            room: rooms[room].as_str().into(),
            content: Content::Text,
            body: lines[sent.len() % lines.len()].as_bytes().into(),
            key: Some(format!("{began_ms}-{tag}").into()),
        };
        clients.command(sent.len() % connections, tag, command);
    };

    let mut meter = Meter::new(load, server.pid(), "");
    let mut arrivals = Arrivals::of(load);
    let mut answers = Vec::new();
    for room in load.at_first() {
        publish(&mut clients, &mut sent, 0, room);
        meter.published();
    }
    loop {
        let now_ns = meter.now_ns();
        while let Some((intended_ns, room)) = arrivals.due(now_ns).filter(|(at_ns, _)| meter.is_open(*at_ns)) {
            publish(&mut clients, &mut sent, intended_ns, room);
            meter.published();
        }
        clients.turn(|tag, answer| answers.push((tag, answer)))?;
        let now_ns = meter.now_ns();
        for (tag, answer) in answers.drain(..).filter(|(tag, _)| *tag != HELLO) {
            let Sent { intended_ns, room } = sent[tag as usize];
            match answer {
                Answer::Acked => meter.acked(intended_ns, now_ns),
                Answer::Refused => meter.refused(),
            }
            if load.is_flat_out() && meter.is_open(now_ns) {
                publish(&mut clients, &mut sent, now_ns, room);
                meter.published();
            }
        }
        if meter.is_over(now_ns) {
            return Ok(meter.finish());
        }
        std::thread::sleep(REST);
    }
}
