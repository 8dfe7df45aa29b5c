//! The attacks: each a few lines of what a hostile client does.

mod answers;
mod floods;
mod history;
mod idle;
mod rooms;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout, timeout_at};

use crate::wire::{Manner, Wire};

/// What is attacked, and until when.
pub struct Target {
    pub address: SocketAddr,
    pub control: SocketAddr,
    pub until: Instant,
    pub pid: u32,
}

/// What an attack answers: an error is an answer of the relay that it should not have given.
type Work = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// One attack.
pub struct Attack {
    pub name: &'static str,
    pub what: &'static str,
    /// Of the relay.
    pub flags: &'static [&'static str],
    /// Before the healthy come.
    pub prepare: Option<fn(Arc<Target>) -> Work>,
    /// The relay is started again between that and the rest.
    pub restarted: bool,
    pub run: fn(Arc<Target>) -> Work,
}

impl Attack {
    const fn new(name: &'static str, what: &'static str, run: fn(Arc<Target>) -> Work) -> Self {
        Self { name, what, flags: &[], prepare: None, restarted: false, run }
    }

    const fn prepared(self, prepare: fn(Arc<Target>) -> Work) -> Self {
        Self { prepare: Some(prepare), ..self }
    }

    const fn restarted(self) -> Self {
        Self { restarted: true, ..self }
    }

    const fn flags(self, flags: &'static [&'static str]) -> Self {
        Self { flags, ..self }
    }
}

/// Limits with which the rooms of an attack are filled quickly.
const FILLED: &[&str] = &["--session-publish-rate=1000000", "--user-publish-rate=1000000"];

pub static ATTACKS: &[Attack] = &[
    Attack::new("nothing", "no attack: what the machine itself does to the figures", |target| {
        Box::pin(idle::nothing(target))
    }),
    Attack::new("pongs-deflated", "frames of 87 bytes that inflate to 32,700 `{}` each, before connect", |target| {
        Box::pin(floods::pongs_deflated(target, None))
    }),
    Attack::new("pongs-deflated-slow", "the same, 100 KB/s of them", |target| {
        Box::pin(floods::pongs_deflated(target, Some(100_000)))
    }),
    Attack::new("pongs", "`{}` after `{}` on 8 connections", |target| Box::pin(floods::pongs(target))),
    Attack::new("control-pongs", "WebSocket pongs on 4 connections", |target| Box::pin(floods::control_pongs(target))),
    Attack::new("control-pings", "WebSocket pings of 125 bytes on 4 connections", |target| {
        Box::pin(floods::control_pings(target))
    }),
    Attack::new("empty-fragments", "a message of endless empty fragments on 4 connections", |target| {
        Box::pin(floods::empty_fragments(target))
    }),
    Attack::new("empty-blocks", "deflated frames of 32,700 empty blocks", |target| {
        Box::pin(floods::empty_blocks(target))
    }),
    Attack::new("publishes", "publishes of 8 KB as fast as they are taken, on 4 connections", |target| {
        Box::pin(floods::publishes(target))
    }),
    Attack::new("subscribe-loop", "subscribe with history and unsubscribe, on 8 connections", |target| {
        Box::pin(floods::subscribe_loop(target))
    }),
    Attack::new("churn", "500 connections a second that connect and are gone", |target| {
        Box::pin(floods::churn(target))
    }),
    Attack::new("history", "pipelined pages of 1,000 messages, read by 1 connection", |target| {
        Box::pin(history::pages(target, 1, true))
    })
    .flags(FILLED)
    .prepared(history::short_messages),
    Attack::new("history-unread", "pipelined pages of 1,000 messages, 8 connections that read nothing", |target| {
        Box::pin(history::pages(target, 8, false))
    })
    .flags(FILLED)
    .prepared(history::short_messages),
    Attack::new("history-deflated", "frames that inflate to 1,000 history commands each", |target| {
        Box::pin(history::pages_deflated(target))
    })
    .flags(FILLED)
    .prepared(history::short_messages),
    Attack::new("history-disk", "pages that only storage has, 8 connections with 1,000 commands a second", |target| {
        Box::pin(history::pages_from_disk(target))
    })
    .flags(FILLED)
    .prepared(history::large_messages),
    Attack::new("replies-unread", "150 connections ask for 1,000 messages each and read 1 KB/s", |target| {
        Box::pin(history::unread_replies(target))
    })
    .flags(FILLED)
    .prepared(history::large_messages),
    Attack::new("reopen", "a room with 16,000 messages of 8 KB is opened after a restart", |target| {
        Box::pin(history::reopen(target))
    })
    .flags(FILLED)
    .prepared(history::many_large_messages)
    .restarted(),
    Attack::new("rooms-read", "history of 100,000 rooms that do not exist, 1 connection", |target| {
        Box::pin(rooms::read(target))
    }),
    Attack::new("rooms-held", "1,010 connections join 100 rooms each", |target| Box::pin(rooms::held(target))),
    Attack::new("rooms-written", "200 connections publish to ever new rooms", |target| {
        Box::pin(rooms::written(target))
    }),
    Attack::new("tails", "100 connections publish 20 messages of 8 KB a second in 4 rooms each", |target| {
        Box::pin(rooms::tails(target))
    })
    .flags(&["--session-publish-rate=20", "--user-publish-rate=10"]),
    Attack::new("slow-readers", "500 members who read nothing, in a room with 500 messages a second", |target| {
        Box::pin(rooms::slow_readers(target))
    })
    .flags(FILLED),
    Attack::new("silent", "5,000 connections that never say connect", |target| Box::pin(idle::silent(target))),
    Attack::new("half-requests", "5,000 connections with half a request", |target| {
        Box::pin(idle::half_requests(target))
    }),
    Attack::new("control-idle", "1,000 silent connections to the control port", |target| {
        Box::pin(idle::control(target))
    }),
    Attack::new("key-again", "a known key with another body", |target| Box::pin(answers::key_again(target))),
    Attack::new("poison", "JSON that common parsers cannot read", |target| Box::pin(answers::poison(target))),
    Attack::new("ghosts", "leave right behind join, join again", |target| Box::pin(answers::ghosts(target))),
    Attack::new("signals", "SIGHUP, SIGUSR1, SIGUSR2", |target| Box::pin(answers::signals(target))),
];

impl Target {
    pub fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Does it again and again until the time is over: whoever is closed comes back.
    async fn again<W: Future<Output = std::io::Result<()>>>(self: &Arc<Self>, mut work: impl FnMut(Arc<Self>) -> W) {
        while !self.left().is_zero() {
            let ended = timeout_at(self.until.into(), work(self.clone())).await;
            // Refused or closed: at most so many connections a second.
            if !matches!(ended, Ok(Ok(()))) {
                sleep(Duration::from_millis(5).min(self.left())).await;
            }
        }
    }

    /// [`Target::again`] on so many connections at once, each with its number.
    async fn each<W: Future<Output = std::io::Result<()>> + 'static>(
        self: Arc<Self>,
        connections: usize,
        work: impl Fn(Arc<Self>, usize) -> W + Clone + 'static,
    ) -> anyhow::Result<()> {
        tokio::task::LocalSet::new()
            .run_until(async {
                let mut tasks = JoinSet::new();
                for n in 0..connections {
                    let (target, work) = (self.clone(), work.clone());
                    tasks.spawn_local(async move { target.again(|target| work(target, n)).await });
                }
                tasks.join_all().await;
            })
            .await;
        Ok(())
    }

    /// Writes the same bytes until the time is over or the relay has enough.
    async fn flood(&self, wire: &mut Wire, bytes: &[u8], bytes_per_s: Option<usize>) -> std::io::Result<()> {
        let began = Instant::now();
        for n in 1.. {
            wire.send(bytes).await?;
            if let Some(rate) = bytes_per_s {
                let due = Duration::from_secs_f64((n * bytes.len()) as f64 / rate as f64);
                sleep(due.saturating_sub(began.elapsed())).await;
            }
        }
        Ok(())
    }

    /// How long `/metrics` needs to answer; None when it does not within ten seconds.
    pub async fn scrape_time(&self) -> Option<Duration> {
        let since = Instant::now();
        let scraped = timeout(Duration::from_secs(10), self.scrape()).await.ok()?;
        scraped.is_ok().then(|| since.elapsed())
    }

    async fn scrape(&self) -> anyhow::Result<()> {
        let mut stream = Wire::tcp(self.control, Manner::default()).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        if !answer.starts_with(b"HTTP/1.1 200") {
            bail!("{}", String::from_utf8_lossy(&answer));
        }
        Ok(())
    }
}
