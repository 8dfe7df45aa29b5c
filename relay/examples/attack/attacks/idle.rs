//! Connections that say nothing.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use super::Target;
use crate::wire::{Manner, Wire, drain};

const CONNECTIONS: usize = 5000;

/// No attack at all.
pub async fn nothing(target: Arc<Target>) -> anyhow::Result<()> {
    sleep(target.left()).await;
    Ok(())
}

/// Upgraded, and then only its kernel is there.
pub async fn silent(target: Arc<Target>) -> anyhow::Result<()> {
    target
        .each(
            CONNECTIONS,
            |target, _| async move { Wire::open(target.address, Manner::default()).await?.drain().await },
        )
        .await
}

pub async fn half_requests(target: Arc<Target>) -> anyhow::Result<()> {
    target
        .each(CONNECTIONS, |target, _| async move {
            let mut stream = Wire::tcp(target.address, Manner::default()).await?;
            stream.write_all(b"GET /connection/websocket HTTP/1.1\r\nHost: re").await?;
            drain(&mut stream).await
        })
        .await
}

pub async fn control(target: Arc<Target>) -> anyhow::Result<()> {
    target
        .each(1000, |target, _| async move {
            let _stream = Wire::tcp(target.control, Manner::default()).await?;
            sleep(target.left()).await;
            Ok(())
        })
        .await
}
