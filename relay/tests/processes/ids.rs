//! Ids over restarts: unique, rising, and near the clock.

use std::path::Path;

use protocol::snowflake::time_ms;

use crate::client::Client;
use crate::process::Relay;

const KILLS: usize = 20;
/// How far ahead of the clock an id may be, however often the relay was killed.
const AHEAD_MS_MAX: u64 = 5_000;

/// A relay on this directory, and the id of a message it stored.
fn spoken(dir: &Path) -> (Relay, u64) {
    let relay = Relay::on(dir, &[]);
    let id = Client::native(relay.address, "ann").say("r", "hello").1;
    (relay, id)
}

#[test]
fn ids_rise_and_stay_near_the_clock_however_often_a_relay_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for kill in 0..KILLS {
        let (relay, id) = spoken(dir.path());
        assert!(id > last, "after {kill} kills: {id} after {last}");
        let ahead_ms = time_ms(id).saturating_sub(relay::persist::wall_ms());
        assert!(ahead_ms <= AHEAD_MS_MAX, "after {kill} kills: {ahead_ms} ms ahead");
        relay.kill();
        last = id;
    }
}

#[test]
fn after_a_stop_ids_go_on_with_the_clock() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for _ in 0..3 {
        let (relay, id) = spoken(dir.path());
        let now_ms = relay::persist::wall_ms();
        assert!(id > last && time_ms(id) <= now_ms, "{} ms ahead", time_ms(id).saturating_sub(now_ms));
        assert_eq!(relay.stop().code, Some(0));
        last = id;
    }
}
