//! Cheap frames and commands, as fast as the relay takes them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::Target;
use crate::wire::{Manner, PING, PONG, TEXT, Wire, deflated_frame, frame, raw_frame};

const DEFLATE: Manner = Manner { receive_bytes: None, deflate: true, elsewhere: false };

/// Commands of one message of the size limit.
const PONGS: usize = 32_700;

/// The lines `{}` as often as they fit in one message.
fn pong_lines() -> String {
    let lines = "{}\n".repeat(PONGS * 2 / 3);
    lines.trim_end().to_owned()
}

pub async fn pongs_deflated(target: Arc<Target>, bytes_per_s: Option<usize>) -> anyhow::Result<()> {
    let frame = deflated_frame("{}".repeat(PONGS).as_bytes());
    target
        .each(1, move |target, _| {
            let frame = frame.clone();
            async move {
                let mut wire = Wire::open(target.address, DEFLATE).await?;
                target.flood(&mut wire, &frame, bytes_per_s).await
            }
        })
        .await
}

pub async fn pongs(target: Arc<Target>) -> anyhow::Result<()> {
    flood_connected(target, 8, frame(TEXT, pong_lines().as_bytes())).await
}

pub async fn control_pongs(target: Arc<Target>) -> anyhow::Result<()> {
    flood_connected(target, 4, frame(PONG, b"").repeat(4096)).await
}

pub async fn empty_fragments(target: Arc<Target>) -> anyhow::Result<()> {
    // The first begins a text, the others continue it and never end it.
    target
        .each(4, |target, n| async move {
            let mut wire = Wire::connect(target.address, &format!("fragments-{n}")).await?;
            wire.send(&raw_frame(TEXT, b"")).await?;
            target.flood(&mut wire, &raw_frame(0, b"").repeat(4096), None).await
        })
        .await
}

pub async fn empty_blocks(target: Arc<Target>) -> anyhow::Result<()> {
    // An empty final block of DEFLATE with fixed codes, padded to two bytes.
    let blocks = [3, 0].repeat(PONGS);
    let frame = raw_frame(0x80 | 0x40 | TEXT, &blocks);
    target
        .each(1, move |target, _| {
            let frame = frame.clone();
            async move {
                let mut wire = Wire::connect_with(target.address, "blocks", DEFLATE).await?;
                target.flood(&mut wire, &frame, None).await
            }
        })
        .await
}

async fn flood_connected(target: Arc<Target>, connections: usize, bytes: Vec<u8>) -> anyhow::Result<()> {
    target
        .each(connections, move |target, n| {
            let bytes = bytes.clone();
            async move {
                let mut wire = Wire::connect(target.address, &format!("flood-{n}")).await?;
                target.flood(&mut wire, &bytes, None).await
            }
        })
        .await
}

/// Their pongs are read, so that nothing piles up but work.
pub async fn control_pings(target: Arc<Target>) -> anyhow::Result<()> {
    let bytes = frame(PING, &[7; 125]).repeat(256);
    target
        .each(4, move |target, n| {
            let bytes = bytes.clone();
            async move { Wire::connect(target.address, &format!("pings-{n}")).await?.flood_and_drain(&bytes).await }
        })
        .await
}

pub async fn publishes(target: Arc<Target>) -> anyhow::Result<()> {
    target
        .each(4, |target, n| async move {
            let mut wire = Wire::connect(target.address, &format!("publisher-{n}")).await?;
            let line = json!({ "channel": "publishes", "data": { "text": "x".repeat(8000) } });
            let bytes: Vec<u8> = (0..16).flat_map(|_| wire.command("publish", line.clone())).collect();
            wire.flood_and_drain(&bytes).await
        })
        .await
}

pub async fn subscribe_loop(target: Arc<Target>) -> anyhow::Result<()> {
    target
        .each(8, |target, n| async move {
            let mut wire = Wire::connect(target.address, &format!("loop-{n}")).await?;
            let mut bytes = Vec::new();
            for _ in 0..64 {
                bytes.extend(wire.command("subscribe", json!({ "channel": "loop", "recent": 1000 })));
                bytes.extend(wire.command("unsubscribe", json!({ "channel": "loop" })));
            }
            wire.flood_and_drain(&bytes).await
        })
        .await
}

pub async fn churn(target: Arc<Target>) -> anyhow::Result<()> {
    target
        .each(10, |target, n| async move {
            let wire = Wire::connect(target.address, &format!("churn-{n}")).await?;
            drop(wire);
            sleep(Duration::from_millis(20)).await;
            Ok(())
        })
        .await
}
