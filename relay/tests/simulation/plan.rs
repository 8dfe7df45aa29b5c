//! What a seed decides before anything runs: sizes, limits and how often what goes wrong.

use std::sync::Arc;

use fastrand::Rng;
use relay::config::Limits;

/// The knobs of one simulation.
#[derive(Debug, Clone)]
pub struct Plan {
    pub shards: usize,
    pub rooms: Vec<Arc<str>>,
    pub clients: usize,
    /// Users that share the clients: fewer than clients means several devices of one user.
    pub users: usize,
    /// Rounds of disturbance, each ended by calm and its checks, or by a crash.
    pub rounds: usize,
    pub steps_per_round: usize,
    pub limits: Limits,
    /// Sweep every room at this period, microseconds; else the tempo adapts.
    pub period_us: Option<u64>,
    /// Longest time between two turns, microseconds.
    pub turn_us_max: u64,
    /// A turn in a thousand comes after a jump of up to so many milliseconds.
    pub jump_ms_max: u64,
    /// Messages that a lane holds beside the sender's outbox.
    pub lane_messages: usize,
    /// Bytes that a socket takes before it would block.
    pub socket_bytes: usize,
    /// Clients that stop reading for a while, in percent of the looks at them.
    pub stall_percent: u32,
    /// Sockets that take a few bytes at a time, in percent.
    pub trickle_percent: u32,
    /// Clients that break their connection instead of doing anything else, in percent.
    pub drop_percent: u32,
    /// Clients that speak JSON, in percent.
    pub json_percent: u32,
    /// Connections that offer permessage-deflate, in percent.
    pub deflate_percent: u32,
    /// Members from which on frames are deflated.
    pub deflate_members_min: u32,
    /// Failing reads, opens and appends, in percent.
    pub fault_percent: u32,
    /// Storage answers so seldom: one of so many steps of it does something.
    pub storage_rest: u32,
    /// Publishes that a client makes in one go, at most.
    pub burst: u32,
    pub wall_steps_back: bool,
    pub crashes: bool,
    /// Old messages expire.
    pub expires: bool,
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

impl Plan {
    pub fn of(rng: &mut Rng) -> Self {
        let storm = rng.u32(..12) == 0;
        let clients_max = pick(rng, &[4, 12, 40]);
        let clients = if storm { rng.usize(30..=60) } else { rng.usize(2..=clients_max) };
        let rooms = rng.usize(1..=if storm { 2 } else { 6 });
        Self {
            shards: rng.usize(1..=4),
            rooms: (0..rooms).map(|n| Arc::from(format!("room-{n}"))).collect(),
            clients,
            users: if rng.bool() { clients } else { rng.usize(1..=clients) },
            rounds: rng.usize(1..=4),
            steps_per_round: if storm { 6000 } else { rng.usize(200..=1500) },
            limits: limits(rng, rooms, storm),
            period_us: pick(rng, &[None, None, Some(4_000), Some(50_000), Some(700_000)]),
            turn_us_max: if storm { 1000 } else { pick(rng, &[200, 5_000, 100_000, 400_000]) },
            jump_ms_max: pick(rng, &[0, 3_000, 3_000, 100_000]),
            lane_messages: pick(rng, &[1, 8, 64, 4096]),
            socket_bytes: pick(rng, &[300, 2_000, 10_000, 1 << 20]),
            stall_percent: pick(rng, &[0, 2, 10]),
            trickle_percent: pick(rng, &[0, 0, 30]),
            drop_percent: pick(rng, &[2, 2, 15]),
            json_percent: pick(rng, &[0, 30, 100]),
            deflate_percent: pick(rng, &[0, 50, 50, 100]),
            deflate_members_min: pick(rng, &[1, 3, 64]),
            fault_percent: pick(rng, &[0, 5, 40]),
            storage_rest: pick(rng, &[1, 4, 40]),
            burst: if storm { 10 } else { pick(rng, &[1, 3, 20]) },
            wall_steps_back: rng.bool(),
            crashes: rng.u32(..4) != 0,
            expires: rng.u32(..4) == 0,
        }
    }
}

/// Small limits in most seeds, so that each one is met.
fn limits(rng: &mut Rng, rooms: usize, storm: bool) -> Limits {
    let body_bytes_max = pick(rng, &[64, 300, 2_000]);
    let rate = if storm { 100_000 } else { pick(rng, &[2, 20, 100_000]) };
    let ping_interval_ms = pick(rng, &[1_000, 25_000]);
    let replies_bytes_max = pick(rng, &[1024.max(2 * body_bytes_max), 8 << 10, 32 << 10, 4 << 20]);
    let limits = Limits {
        max_connections: pick(rng, &[1000, 1000, 100]),
        max_rooms: pick(rng, &[2, 100, 100]),
        rooms_per_session_max: rng.usize(1..=rooms),
        commands_per_session_max: pick(rng, &[3, 20, 256]),
        body_bytes_max,
        frame_bytes_max: body_bytes_max + 2 * 255 + 1024,
        session_publish_rate: rate,
        session_chatter_rate: pick(rng, &[20, 100]),
        session_work_percent: pick(rng, &[5, 10]),
        user_publish_rate: if storm { rate } else { pick(rng, &[2, 20, 100_000]) },
        publish_burst: if storm { 100_000 } else { pick(rng, &[4, 40, 1000]) },
        session_open_rate: pick(rng, &[1, 20, 20]),
        user_open_rate: pick(rng, &[1, 40]),
        address_open_rate: pick(rng, &[0, 1, 200]),
        memory_bytes_max: 4 * replies_bytes_max + pick(rng, &[10_000, 100_000, 100 << 20]),
        pending_reads_max: pick(rng, &[1, 20, 4096]),
        pending_bytes_max: pick(rng, &[1, 3_000, 1 << 20]),
        tail_bytes_max: pick(rng, &[1, 3_000, 1 << 20]),
        pending_publishes_max: if storm { 4096 } else { pick(rng, &[1, 4, 64, 4096]) },
        publish_timeout_ms: pick(rng, &[50, 500, 10_000]),
        history_messages_max: pick(rng, &[3, 50, 1000]),
        recovery_messages_max: pick(rng, &[5, 50, 5000]),
        tail_messages_max: pick(rng, &[1, 4, 32, 1024]),
        feed_bytes_max: pick(rng, &[1, 2048, 8192, 1 << 20]),
        history_bytes_max: pick(rng, &[1, 1_000.min(replies_bytes_max / 2), replies_bytes_max / 2]),
        replies_bytes_max,
        lane_messages_max: pick(rng, &[16, 24, 64, 65_536]),
        connect_timeout_ms: pick(rng, &[1_000, 10_000]),
        ping_interval_ms,
        idle_timeout_ms: ping_interval_ms * pick(rng, &[2, 3]),
        slow_consumer_timeout_ms: pick(rng, &[500, 60_000]),
        shutdown_timeout_ms: pick(rng, &[1_000, 10_000]),
        ..Limits::defaults()
    };
    limits.check().expect("the plan respects the relations between limits");
    limits
}
