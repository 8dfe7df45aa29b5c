//! One shard, flooders and a healthy client, turn by turn: whatever flooders send, a turn stays short, what is kept of them
//! is little, and the healthy one is answered within a few turns.

use protocol::frame::{self, Deflater, Opcode};
use protocol::{Command, Page, Start};
use relay::config::Limits;
use relay::ids::SessionId;

use crate::rig::{MASK, Rig, TURN_US, closed_with, said, text};
use crate::speech;

/// Slot of the one that behaves.
const HEALTHY: u16 = 0;
const FLOODERS: u16 = 30;
/// What the kernel hands over in a turn, bytes of each connection.
const RECEIVE_BYTES: usize = 32 * 1024;
const TURNS: usize = 400;
/// All of the flood that comes at once, a page of a third of a millisecond each, and as much of what came before.
const TURNS_TO_WAIT: u64 = 20;
/// No command costs less than 200 ns, and a turn has 2 ms for them, give or take a share of each kind.
const COMMANDS_A_TURN_MAX: u64 = 11_000;
/// What came before a pause, twice as long as it is not moved, and the rest of one message.
const LEFT_BYTES_MAX: usize = 2 * 2 * RECEIVE_BYTES + 64 * 1024;

/// What flooders say again and again, once they are connected or before that.
struct Flood {
    name: &'static str,
    connects: bool,
    piece: Vec<u8>,
    /// It has no effect, and ends with this status; else the connection may stay.
    ends_with: Option<u16>,
}

fn deflated(payload: &str) -> Vec<u8> {
    let mut out = Vec::new();
    Deflater::new(9).write_masked(Opcode::Text, payload.as_bytes(), MASK, &mut out);
    out
}

fn control(opcode: Opcode) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write_masked(opcode, &[b'x'; 125], MASK, &mut out);
    out
}

fn floods() -> Vec<Flood> {
    let flood = |name, connects, piece, ends_with| Flood { name, connects, piece, ends_with };
    let history = r#"{"id":7,"history":{"channel":"deep","limit":1000,"reverse":true}}"#;
    let publish = r#"{"id":7,"publish":{"channel":"deep","data":"x"}}"#;
    let empty_fragment = [0x00, 0x80, 1, 2, 3, 4];
    let small_fragment = [0x00, 0x81, 1, 2, 3, 4, b'{' ^ 1];
    let last_blocks = {
        let payload = [1, 0, 0, 0xff, 0xff].repeat(1000);
        let mut out = Vec::new();
        frame::write_masked(Opcode::Text, &payload, MASK, &mut out);
        out[0] |= speech::RSV1;
        out
    };
    vec![
        flood("deflated pongs", false, deflated(&"{}".repeat(32_700)), Some(3013)),
        flood("pongs", true, text(&"{}".repeat(32_000)), Some(3013)),
        flood("WebSocket pongs", true, control(Opcode::Pong), Some(3013)),
        flood("WebSocket pings", true, control(Opcode::Ping), Some(3013)),
        flood("pings", true, text(&r#"{"id":3,"ping":{}}"#.repeat(900)), Some(3013)),
        flood("commands before connect", false, text(&history.repeat(900)), Some(3013)),
        flood(
            "commands that are refused",
            true,
            text(&r#"{"id":3,"unsubscribe":{"channel":"no"}}"#.repeat(900)),
            Some(3013),
        ),
        flood("empty fragments", true, [&[0x01, 0x80, 1, 2, 3, 4], &*empty_fragment.repeat(5000)].concat(), Some(1002)),
        flood("fragments", true, [&[0x01, 0x80, 1, 2, 3, 4], &*small_fragment.repeat(60_000)].concat(), Some(1002)),
        flood("last blocks", true, last_blocks, Some(1007)),
        flood("deflated history", true, deflated(&history.repeat(900)), None),
        flood("publishes", true, text(&publish.repeat(900)), None),
    ]
}

fn hold(flood: &Flood) {
    let Flood { name, .. } = flood;
    let mut rig = Rig::new(Limits::defaults());
    let (healthy, head) = rig.open(HEALTHY);
    rig.turn(&[(healthy, &head)]);
    rig.turn(&[(healthy, &said(1, Command::Connect { user: Some("ann".into()), device: None }))]);
    rig.turn(&[]);
    let mut flooders: Vec<(SessionId, Vec<u8>)> = (1..=FLOODERS).map(|slot| rig.open(slot)).collect();
    for (n, (_, up)) in flooders.iter_mut().enumerate() {
        if flood.connects {
            up.extend(said(1, Command::Connect { user: Some(format!("user-{n}").into()), device: None }));
        }
    }
    rig.heard(healthy);
    let (mut longest_wait, mut waits) = (0, 0);
    for turn in 0..TURNS {
        let mut inputs = Vec::new();
        for (id, up) in &mut flooders {
            if !rig.open.contains(id) || rig.paused.contains(id) {
                continue;
            }
            while up.len() < RECEIVE_BYTES {
                up.extend_from_slice(&flood.piece);
            }
            inputs.push((*id, up.drain(..RECEIVE_BYTES).collect::<Vec<u8>>()));
        }
        let ping = said(100, Command::Ping);
        if waits == 0 {
            // The flood is there first.
            inputs.push((healthy, ping));
        }
        let before = rig.shard.turn.stats.commands;
        let inputs: Vec<_> = inputs.iter().map(|(id, bytes)| (*id, &**bytes)).collect();
        rig.turn(&inputs);
        let commands = rig.shard.turn.stats.commands - before;
        assert!(commands <= COMMANDS_A_TURN_MAX, "{name}: {commands} commands in turn {turn}");
        let left = rig.shard.gauges().left_bytes;
        assert!(left <= LEFT_BYTES_MAX, "{name}: {left} bytes of one connection are kept in turn {turn}");
        assert!(rig.open.contains(&healthy) && !rig.paused.contains(&healthy), "{name}: the healthy one is hurt");
        waits = if rig.heard(healthy).is_empty() { waits + 1 } else { 0 };
        longest_wait = longest_wait.max(waits);
    }
    assert!(longest_wait <= TURNS_TO_WAIT, "{name}: the healthy client waited for {longest_wait} turns");
    for (id, _) in flooders {
        let heard = rig.heard(id);
        let code = closed_with(&heard);
        match flood.ends_with {
            Some(_) => assert_eq!(code, flood.ends_with, "{name}: {id:?} of {} bytes", heard.len()),
            None => assert!(code.is_none_or(|code| code == 3008), "{name}: {id:?} is closed with {code:?}"),
        }
    }
}

#[test]
fn a_flood_makes_no_turn_long_and_keeps_nobody_from_being_answered() {
    floods().iter().for_each(hold);
}

#[test]
fn who_says_much_that_has_an_effect_is_read_later_and_not_closed() {
    let mut rig = Rig::new(Limits::defaults());
    let (id, mut up) = rig.open(1);
    up.extend(said(1, Command::Connect { user: None, device: None }));
    rig.turn(&[(id, &up)]);
    for n in 0..20 {
        up = said(2 + n, Command::Join { room: format!("room-{n}").into(), start: Start::Recent(1000) });
        rig.turn(&[(id, &up)]);
    }
    let page = said(99, Command::history("room-0", Page::Newest, 1000));
    let (mut given, mut turns) = (0, 0);
    while given < 2_000 {
        turns += 1;
        if rig.paused.contains(&id) {
            rig.turn(&[]);
        } else {
            rig.turn(&[(id, &page.repeat(10))]);
            given += 10;
        }
    }
    // A tenth of a core, and a second's worth of it at once.
    let work_us = 2_000 * 300;
    assert!(turns * TURN_US >= (work_us - 100_000) * 10 / 2, "{given} pages were taken in {turns} turns");
    assert!(rig.open.contains(&id) && rig.shard.turn.stats.flood_closed == 0);
}
