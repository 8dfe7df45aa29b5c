//! Rooms without end, and what they hold in memory.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::Target;
use crate::wire::{Manner, Wire};

/// The room table's default size.
const ROOMS: usize = 100_000;

pub async fn read(target: Arc<Target>) -> anyhow::Result<()> {
    target
        .each(1, |target, _| async move {
            let mut wire = Wire::connect(target.address, "reader").await?;
            for first in (0..ROOMS).step_by(100) {
                let commands: Vec<u8> = (first..first + 99)
                    .flat_map(|room| wire.command("history", json!({ "channel": format!("none-{room}"), "limit": 1 })))
                    .collect();
                wire.send(&commands).await?;
                // Replies in between, or the relay stops reading.
                wire.call("history", json!({ "channel": format!("none-{first}-last"), "limit": 1 })).await?;
            }
            Ok(())
        })
        .await
}

pub async fn held(target: Arc<Target>) -> anyhow::Result<()> {
    target
        .each(1010, |target, n| async move {
            let mut wire = Wire::connect(target.address, &format!("holder-{n}")).await?;
            for room in 0..100 {
                wire.call("subscribe", json!({ "channel": format!("held-{n}-{room}") })).await?;
            }
            sleep(target.left()).await;
            Ok(())
        })
        .await
}

pub async fn written(target: Arc<Target>) -> anyhow::Result<()> {
    target
        .each(200, |target, n| async move {
            let mut wire = Wire::connect(target.address, &format!("writer-{n}")).await?;
            for room in 0.. {
                let line = json!({ "channel": format!("written-{n}-{room}"), "data": "x" });
                wire.call("publish", line).await?;
            }
            Ok(())
        })
        .await
}

pub async fn tails(target: Arc<Target>) -> anyhow::Result<()> {
    target
        .each(100, |target, n| async move {
            let mut wire = Wire::connect(target.address, &format!("talker-{n}")).await?;
            for line in 0.. {
                let room = format!("tails-{n}-{}", line % 4);
                wire.call("publish", json!({ "channel": room, "data": { "text": "x".repeat(8000) } })).await?;
                sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        })
        .await
}

pub async fn slow_readers(target: Arc<Target>) -> anyhow::Result<()> {
    let room = "slow";
    target
        .each(505, move |target, n| async move {
            if n < 5 {
                let mut wire = Wire::connect(target.address, &format!("speaker-{n}")).await?;
                loop {
                    wire.call("publish", json!({ "channel": room, "data": { "text": "x".repeat(200) } })).await?;
                    sleep(Duration::from_millis(10)).await;
                }
            }
            let manner = Manner { receive_bytes: Some(1024), ..Manner::default() };
            let mut wire = Wire::connect_with(target.address, &format!("slow-{n}"), manner).await?;
            wire.call("subscribe", json!({ "channel": room })).await?;
            sleep(target.left()).await;
            Ok(())
        })
        .await
}
