//! Who may write: a lease, kept by lightweight transactions, and the timestamps of its term.
//!
//! A row names the holder, its term and the last timestamp it may write with. A term begins above every timestamp of the
//! terms before it, so that whatever a former owner sends late can be shadowed with one timestamp. Whether a lease has
//! expired is measured by each side on its own `CLOCK_BOOTTIME`: the holder from when it began to renew, another relay
//! from when it saw the row last change. Nobody compares wall clocks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::Options;
use super::holder::Holder;
use super::link::{Deadline, Failure, Link, Wired};
use crate::StoreError;

/// How long a lease lasts after the holder began to renew it.
pub const LEASE: Duration = Duration::from_secs(10);
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// After a renewal that failed, and while another's lease is watched.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a store may take to get its first answer.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// In place of the count of renewals: its holder does not need it any more.
const RELEASED: i64 = -1;
const SCOPE: &str = "relay";

type Told = Box<dyn FnOnce(StoreError) + Send>;

/// The lease this process holds, or held. Lives on the driver's thread.
pub struct Lease {
    options: Rc<Options>,
    holder: Holder,
    /// When it began, microseconds; all timestamps of the holder's writes lie above it.
    pub term: i64,
    renewals: Cell<i64>,
    /// Last timestamp this holder may write with, and the last one it did.
    until: Cell<i64>,
    last: Cell<i64>,
    expires: Cell<Duration>,
    lost_to: RefCell<Option<Holder>>,
    told: RefCell<Vec<Told>>,
    changed: Notify,
}

/// The stored row.
struct Stored {
    term: i64,
    until: i64,
    renewals: i64,
    holder: Holder,
}

impl Lease {
    /// Takes the lease: at once when nobody holds it, after [`LEASE`] when its holder does not renew it any more.
    pub async fn acquire(options: Rc<Options>, link: &Link) -> Result<Self, StoreError> {
        let holder = Holder::me();
        let start = || Some(Instant::now() + START_TIMEOUT);
        let mut seen: Option<(i64, i64, Duration)> = None;
        loop {
            let stored = link.until(start(), async |wired| read(wired).await).await?;
            if let Some(stored) = &stored
                && stored.renewals != RELEASED
                && stored.holder != holder
                && !stored.holder.is_dead()
            {
                let (term, renewals, since) = *seen.get_or_insert_with(|| {
                    (options.log)(&format!("waiting to see whether {} still writes here", stored.holder));
                    (stored.term, stored.renewals, boottime())
                });
                if (term, renewals) != (stored.term, stored.renewals) {
                    let store = options.address.to_string();
                    return Err(StoreError::Held { store, holder: stored.holder.to_string() });
                }
                if boottime() < since + LEASE {
                    sleep(LOOK_EVERY).await;
                    continue;
                }
            }
            let lease = Self::next(options.clone(), holder.clone(), stored.as_ref());
            match lease.take(&link.wired(), stored.as_ref()).await {
                Ok(true) => return Ok(lease),
                // Somebody was faster, or the outcome is unknown: the next look tells.
                Ok(false) | Err(_) => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// The lease that would follow the stored one.
    fn next(options: Rc<Options>, holder: Holder, stored: Option<&Stored>) -> Self {
        let above = stored.map_or(0, |stored| stored.until.max(stored.term) + 1);
        let term = wall_us().max(above);
        Self {
            options,
            holder,
            term,
            renewals: Cell::new(0),
            until: Cell::new(term + 2 * LEASE.as_micros() as i64),
            last: Cell::new(term),
            expires: Cell::new(boottime() + LEASE),
            lost_to: RefCell::new(None),
            told: RefCell::default(),
            changed: Notify::new(),
        }
    }

    async fn take(&self, wired: &Wired, stored: Option<&Stored>) -> Result<bool, Failure> {
        let (term, until, holder) = (self.term, self.until.get(), self.holder.as_str());
        match stored {
            None => wired.applies(&wired.statements.first_lease, (SCOPE, term, until, 0_i64, holder)).await,
            Some(stored) => {
                let values = (term, until, 0_i64, holder, SCOPE, stored.term, stored.renewals);
                wired.applies(&wired.statements.take_lease, values).await
            }
        }
    }

    /// Renews the lease until it is lost; never returns before.
    pub async fn keep(&self, link: &Link) {
        let mut wait = RENEW_EVERY;
        loop {
            sleep(wait).await;
            wait = match self.renew(&link.wired()).await {
                Ok(true) => RENEW_EVERY,
                Ok(false) => return,
                Err(failure) => {
                    link.note(&failure);
                    LOOK_EVERY
                }
            };
        }
    }

    /// Renews it once; false when somebody else holds it.
    async fn renew(&self, wired: &Wired) -> Result<bool, Failure> {
        let began = boottime();
        let until = self.until.get().max(wall_us().max(self.last.get()) + 2 * LEASE.as_micros() as i64);
        let (old, new) = (self.renewals.get(), self.renewals.get() + 1);
        let values = (until, new, SCOPE, self.term, old);
        if wired.applies(&wired.statements.renew_lease, values).await? {
            self.until.set(until);
            self.renewals.set(new);
            self.expires.set(began + LEASE);
            self.changed.notify_waiters();
            return Ok(true);
        }
        match read(wired).await? {
            // An earlier try, whose outcome was unknown, was carried out.
            Some(stored) if stored.term == self.term && stored.renewals >= old => {
                self.renewals.set(stored.renewals);
                self.until.set(stored.until.max(self.until.get()));
                Err(Failure::new("an earlier renewal of the lease was late"))
            }
            stored => {
                self.lose(stored.map_or_else(|| Holder::stored(String::new()), |stored| stored.holder));
                Ok(false)
            }
        }
    }

    fn lose(&self, to: Holder) {
        *self.lost_to.borrow_mut() = Some(to);
        self.changed.notify_waiters();
        for told in self.told.take() {
            told(self.lost().expect("it was just lost"));
        }
    }

    /// Calls `told` when the lease is lost.
    pub fn on_lost(&self, told: Told) {
        match self.lost() {
            Some(error) => told(error),
            None => self.told.borrow_mut().push(told),
        }
    }

    fn lost(&self) -> Option<StoreError> {
        let holder = self.lost_to.borrow().as_ref()?.to_string();
        Some(StoreError::Lost { store: self.options.address.to_string(), holder })
    }

    /// Returns once this process certainly may write at this moment. What was written before that, in this term, was
    /// written by the only writer.
    pub async fn hold(&self, deadline: Deadline) -> Result<(), StoreError> {
        loop {
            if let Some(lost) = self.lost() {
                return Err(lost);
            }
            if boottime() < self.expires.get() {
                return Ok(());
            }
            let changed = self.changed.notified();
            match deadline {
                None => changed.await,
                Some(deadline) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(deadline) => {
                        return Err(StoreError::Unavailable { message: "the lease could not be renewed in time".into() });
                    }
                },
            }
        }
    }

    /// The timestamp of the next write: rising, and inside this term.
    pub fn timestamp(&self) -> i64 {
        let next = wall_us().max(self.last.get() + 1).min(self.until.get());
        self.last.set(next);
        next
    }

    /// How long it still lasts, seconds; negative when it is over.
    pub fn left_s(&self) -> f64 {
        self.expires.get().as_secs_f64() - boottime().as_secs_f64()
    }

    /// Lets the next relay begin without waiting. Nothing may be acked from here on, and nothing renews it any more.
    pub async fn release(&self, wired: &Wired) {
        self.expires.set(Duration::ZERO);
        // Nothing is written with a later timestamp either, so the next term need not begin ahead of the clock.
        self.until.set(self.last.get());
        // Where it fails, the next one waits. The last renewal may have been carried out unheard, so the row is asked.
        let Ok(Some(stored)) = read(wired).await else { return };
        if stored.term == self.term {
            let until = self.until.get();
            let values = (self.term, until, RELEASED, self.holder.as_str(), SCOPE, self.term, stored.renewals);
            let _ = wired.run(&wired.statements.take_lease, values).await;
        }
    }
}

async fn read(wired: &Wired) -> Result<Option<Stored>, Failure> {
    let row = wired.row::<(i64, i64, i64, String)>(&wired.statements.lease, (SCOPE,)).await?;
    Ok(row.map(|(term, until, renewals, holder)| Stored { term, until, renewals, holder: Holder::stored(holder) }))
}

/// Time since boot, while suspended too.
fn boottime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Microseconds since 1970.
pub fn wall_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
