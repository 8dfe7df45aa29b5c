//! Questions with one right answer.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::Target;
use crate::wire::{TEXT, Wire, frame};

pub async fn key_again(target: Arc<Target>) -> anyhow::Result<()> {
    let mut wire = Wire::connect(target.address, "ann").await?;
    let publish = |text: &str| json!({ "channel": "keys", "data": text, "key": "same" });
    let first = wire.call("publish", publish("one")).await?;
    ensure!(first["error"].is_null(), "the first was refused: {first}");
    let again = wire.call("publish", publish("one")).await?;
    ensure!(again["publish"] == first["publish"], "a repeat was answered {again}, the first {first}");
    let other = wire.call("publish", publish("two")).await?;
    ensure!(other["error"]["code"].as_u64() >= Some(400), "another body was answered {other}");
    Ok(())
}

/// Each is refused, and whoever is in the room hears nothing of it.
pub async fn poison(target: Arc<Target>) -> anyhow::Result<()> {
    let bodies = [
        format!("{}{}", "[".repeat(4000), "]".repeat(4000)),
        "9".repeat(8000),
        r#""\ud800""#.to_owned(),
        r#"{"\udc00":1}"#.to_owned(),
    ];
    for body in bodies {
        let mut wire = Wire::connect(target.address, "poisoner").await?;
        let command = format!(r#"{{"id":9,"publish":{{"channel":"poison","data":{body}}}}}"#);
        wire.send(&frame(TEXT, command.as_bytes())).await?;
        // An error, or the end of the connection.
        let answer = timeout(Duration::from_secs(8), wire.next()).await?;
        let is_refused = answer.as_ref().map_or(true, |replies| replies.iter().all(|reply| !reply["error"].is_null()));
        ensure!(is_refused, "{body:.40}… was answered {answer:?}");
    }
    Ok(())
}

pub async fn ghosts(target: Arc<Target>) -> anyhow::Result<()> {
    for n in 0..40 {
        let mut wire = Wire::connect(target.address, "ghost").await?;
        let room = format!("ghosts-{n}");
        let mut commands = wire.command("subscribe", json!({ "channel": room }));
        commands.extend(wire.command("unsubscribe", json!({ "channel": room })));
        commands.extend(wire.command("subscribe", json!({ "channel": room })));
        wire.send(&commands).await?;
        let left = wire.call("unsubscribe", json!({ "channel": room })).await?;
        ensure!(left["error"].is_null(), "a leave behind join, leave, join was answered {left}");
        let ack = wire.call("publish", json!({ "channel": room, "data": n })).await?;
        ensure!(ack["error"].is_null(), "a publish was answered {ack}");
        let history = wire.call("history", json!({ "channel": room, "limit": 1 })).await?;
        ensure!(history["error"].is_null(), "{history}");
        let heard = timeout(Duration::from_millis(50), wire.next()).await;
        ensure!(heard.is_err(), "who left still hears the room: {heard:?}");
    }
    Ok(())
}

pub async fn signals(target: Arc<Target>) -> anyhow::Result<()> {
    let pid = Pid::from_raw(target.pid as i32).expect("the relay has a pid");
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::ALARM] {
        kill_process(pid, signal)?;
        sleep(Duration::from_millis(200)).await;
        Wire::connect(target.address, "after-signal")
            .await
            .map_err(|error| anyhow::anyhow!("after {signal:?}: {error}"))?;
    }
    Ok(())
}
