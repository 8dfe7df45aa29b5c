//! What a few bytes make the relay read, keep and send.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::time::sleep;

use super::Target;
use crate::wire::{Manner, TEXT, Wire, deflated_frame, drain, frame};

const ROOM: &str = "history";
/// More than the newest messages that are kept in memory.
const OLD_MESSAGES: usize = 4000;

/// A room of 1,100 short messages.
pub fn short_messages(target: Arc<Target>) -> super::Work {
    Box::pin(async move { Ok(fill(&target, 1100, 10).await?) })
}

pub fn large_messages(target: Arc<Target>) -> super::Work {
    Box::pin(async move { Ok(fill(&target, OLD_MESSAGES, 8000).await?) })
}

pub fn many_large_messages(target: Arc<Target>) -> super::Work {
    Box::pin(async move { Ok(fill(&target, 16_000, 8000).await?) })
}

/// Publishes so many messages of so many bytes, 32 at a time.
async fn fill(target: &Target, messages: usize, bytes: usize) -> io::Result<()> {
    let mut wire = Wire::connect(target.address, "filler").await?;
    let line = json!({ "channel": ROOM, "data": { "text": "x".repeat(bytes) } });
    for _ in 0..messages / 32 {
        for _ in 1..32 {
            let command = wire.command("publish", line.clone());
            wire.send(&command).await?;
        }
        let reply = wire.call("publish", line.clone()).await?;
        if !reply["error"].is_null() {
            return Err(io::Error::other(format!("cannot fill the room: {reply}")));
        }
    }
    Ok(())
}

/// History commands without waiting for their replies, which are read or not.
pub async fn pages(target: Arc<Target>, connections: usize, are_read: bool) -> anyhow::Result<()> {
    target
        .each(connections, move |target, n| async move {
            let mut wire = Wire::connect(target.address, &format!("reader-{n}")).await?;
            let bytes: Vec<u8> =
                (0..256).flat_map(|_| wire.command("history", json!({ "channel": ROOM, "limit": 1000 }))).collect();
            if !are_read {
                return target.flood(&mut wire, &bytes, None).await;
            }
            wire.flood_and_drain(&bytes).await
        })
        .await
}

pub async fn pages_deflated(target: Arc<Target>) -> anyhow::Result<()> {
    let lines: Vec<String> =
        (2..1002).map(|id| json!({ "id": id, "history": { "channel": ROOM, "limit": 1000 } }).to_string()).collect();
    let message = deflated_frame(lines.join("\n").as_bytes());
    target
        .each(1, move |target, _| {
            let message = message.clone();
            async move {
                let manner = Manner { deflate: true, ..Manner::default() };
                let mut wire = Wire::connect_with(target.address, "deflated", manner).await?;
                target.flood(&mut wire, &message, Some(100_000)).await
            }
        })
        .await
}

pub async fn pages_from_disk(target: Arc<Target>) -> anyhow::Result<()> {
    target
        .each(8, |target, n| async move {
            let mut wire = Wire::connect(target.address, &format!("disk-{n}")).await?;
            let epoch = wire.call("history", json!({ "channel": ROOM, "limit": 0 })).await?["history"]["epoch"].clone();
            let (mut reader, mut writer) = tokio::io::split(wire.stream);
            let write = async {
                for id in 10.. {
                    // Each a page of its own: pages that many wait for are read once.
                    let since = json!({ "offset": (id * 37) % 2000 + 1, "epoch": epoch });
                    let page = json!({ "channel": ROOM, "limit": 1000, "since": since });
                    let command = json!({ "id": id, "history": page }).to_string();
                    tokio::io::AsyncWriteExt::write_all(&mut writer, &frame(TEXT, command.as_bytes())).await?;
                    sleep(Duration::from_millis(1)).await;
                }
                Ok(())
            };
            tokio::select! {
                ended = drain(&mut reader) => ended,
                ended = write => ended,
            }
        })
        .await
}

/// Two commands, whose replies are then read at 1 KB/s.
pub async fn unread_replies(target: Arc<Target>) -> anyhow::Result<()> {
    target
        .each(150, |target, n| async move {
            let manner = Manner { receive_bytes: Some(4096), ..Manner::default() };
            let mut wire = Wire::connect_with(target.address, &format!("unread-{n}"), manner).await?;
            let mut commands = wire.command("subscribe", json!({ "channel": ROOM, "recent": 1000 }));
            commands.extend(wire.command("history", json!({ "channel": ROOM, "limit": 1000 })));
            wire.send(&commands).await?;
            let mut buffer = [0; 256];
            while wire.stream.read(&mut buffer).await? > 0 {
                sleep(Duration::from_millis(250)).await;
            }
            Ok(())
        })
        .await
}

/// Joins and leaves a room that is not in memory, on 8 connections.
pub async fn reopen(target: Arc<Target>) -> anyhow::Result<()> {
    target
        .each(8, |target, n| async move {
            let mut wire = Wire::connect(target.address, &format!("reopen-{n}")).await?;
            for _ in 0..100 {
                wire.call("subscribe", json!({ "channel": ROOM })).await?;
                wire.call("unsubscribe", json!({ "channel": ROOM })).await?;
                sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        })
        .await
}
