//! The session with the database: how it is made, made anew when it broke, and how requests are tried again.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use scylla::client::PoolSize;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::deserialize::row::DeserializeRow;
use scylla::errors::{ExecutionError, RequestAttemptError};
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::response::query_result::QueryRowsResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlValue, Row};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::Options;
use super::figures::{Figures, add};
use super::statements::Statements;
use crate::StoreError;

/// How long one request may take. An append that took longer is unknown, and tried again.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long making a session may take in all.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Between two tries of a request: at first and at most.
const WAIT: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(640));
/// Between two tries to make a new session. The driver's own connections come back as late as ten seconds after the database.
const MEND_EVERY: Duration = Duration::from_millis(400);
/// Trouble that goes on is told this often.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Until when something is tried; None is until it succeeds.
pub type Deadline = Option<Instant>;

/// Why a request failed.
pub struct Failure {
    message: String,
    /// No connection was there for it: a new session may help.
    is_broken: bool,
    /// Trying again would not help.
    over: Option<StoreError>,
}

impl Failure {
    /// A failure that a new session would not mend.
    pub fn new(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), is_broken: false, over: None }
    }

    /// What the driver or the database said.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// As what the store says when it gives up.
    pub fn unavailable(self) -> StoreError {
        StoreError::Unavailable { message: self.message }
    }
}

impl From<ExecutionError> for Failure {
    fn from(error: ExecutionError) -> Self {
        let is_broken = matches!(
            &error,
            ExecutionError::ConnectionPoolError(_)
                | ExecutionError::EmptyPlan
                | ExecutionError::LastAttemptError(RequestAttemptError::BrokenConnectionError(_))
        );
        Self { message: error.to_string(), is_broken, over: None }
    }
}

impl From<StoreError> for Failure {
    /// What cannot be helped by trying again.
    fn from(error: StoreError) -> Self {
        Self { message: error.to_string(), is_broken: false, over: Some(error) }
    }
}

/// A session and the statements prepared on it.
pub struct Wired {
    pub session: Session,
    pub statements: Statements,
}

/// The current session. Lives on the driver's thread.
pub struct Link {
    options: Rc<Options>,
    wired: RefCell<Rc<Wired>>,
    broken: Notify,
    mended: Notify,
    trouble: Cell<Option<Trouble>>,
    figures: Rc<Figures>,
}

/// Since when requests fail, and when that was told last.
#[derive(Clone, Copy)]
struct Trouble {
    since: Instant,
    told: Instant,
}

/// A session whose tables may not exist yet.
pub async fn connect(options: &Options) -> Result<Session, Failure> {
    let address = &options.address;
    let mut policy = DefaultPolicy::builder().token_aware(true);
    if let Some(datacenter) = &address.datacenter {
        policy = policy.prefer_datacenter(datacenter.clone());
    }
    let profile = ExecutionProfile::builder()
        .consistency(Consistency::LocalQuorum)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .load_balancing_policy(policy.build())
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&address.nodes)
        .pool_size(PoolSize::PerShard(std::num::NonZero::<usize>::MIN))
        .connection_timeout(CONNECT_TIMEOUT)
        .keepalive_interval(KEEPALIVE)
        .keepalive_timeout(KEEPALIVE)
        .metadata_request_clientside_timeout(CONNECT_TIMEOUT)
        .default_execution_profile_handle(profile.into_handle());
    if let Some((user, password)) = &address.login {
        builder = builder.user(user, password);
    }
    // Its CQL extension is ScyllaDB's alone, and the client's limit does the same.
    builder.config.metadata_request_serverside_timeout = None;
    match timeout(SESSION_TIMEOUT, builder.build()).await {
        Ok(session) => session.map_err(Failure::new),
        Err(_) => Err(Failure::new(format!("no session within {} s", SESSION_TIMEOUT.as_secs()))),
    }
}

impl Wired {
    /// Prepares the statements on a session.
    pub async fn new(session: Session, keyspace: &str) -> Result<Self, Failure> {
        let statements = Statements::prepare(&session, keyspace).await.map_err(Failure::new)?;
        Ok(Self { session, statements })
    }

    /// Carries out a statement that answers with nothing.
    pub async fn run(&self, statement: &PreparedStatement, values: impl SerializeRow) -> Result<(), Failure> {
        Ok(self.session.execute_unpaged(statement, values).await.map(drop)?)
    }

    /// The rows that a statement answers with.
    pub async fn rows(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<QueryRowsResult, Failure> {
        self.session.execute_unpaged(statement, values).await?.into_rows_result().map_err(Failure::new)
    }

    /// The first row that a statement answers with, if there is one.
    pub async fn row<R>(&self, statement: &PreparedStatement, values: impl SerializeRow) -> Result<Option<R>, Failure>
    where
        R: for<'a> DeserializeRow<'a, 'a>,
    {
        self.rows(statement, values).await?.maybe_first_row().map_err(Failure::new)
    }

    /// Carries out a lightweight transaction; whether its condition held, which its first column says.
    pub async fn applies(&self, statement: &PreparedStatement, values: impl SerializeRow) -> Result<bool, Failure> {
        match self.row::<Row>(statement, values).await?.as_ref().and_then(|row| row.columns.first()) {
            Some(Some(CqlValue::Boolean(applies))) => Ok(*applies),
            _ => Err(Failure::new("a lightweight transaction did not say whether it was applied")),
        }
    }
}

impl Link {
    pub fn new(options: Rc<Options>, wired: Wired, figures: Rc<Figures>) -> Self {
        let wired = RefCell::new(Rc::new(wired));
        let trouble = Cell::new(None);
        Self { options, wired, broken: Notify::new(), mended: Notify::new(), trouble, figures }
    }

    /// The current session.
    pub fn wired(&self) -> Rc<Wired> {
        self.wired.borrow().clone()
    }

    /// Makes a new session whenever there is no connection left; never returns.
    pub async fn mend(&self) {
        loop {
            self.broken.notified().await;
            loop {
                match self.connect_anew().await {
                    Ok(wired) => {
                        self.figures.retire(&self.wired().session.get_metrics());
                        *self.wired.borrow_mut() = Rc::new(wired);
                        self.mended.notify_waiters();
                        break;
                    }
                    Err(failure) => self.tell(&failure),
                }
                sleep(MEND_EVERY).await;
            }
            // Requests that failed on the old session ask for a new one too; once is enough.
            sleep(MEND_EVERY).await;
        }
    }

    async fn connect_anew(&self) -> Result<Wired, Failure> {
        Wired::new(connect(&self.options).await?, &self.options.address.keyspace).await
    }

    /// Tries a request until it succeeds or it is too late, ever more slowly.
    pub async fn until<T>(
        &self,
        deadline: Deadline,
        mut attempt: impl AsyncFnMut(&Wired) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let mut wait = WAIT.0;
        loop {
            let failure = match attempt(&self.wired()).await {
                Ok(done) => {
                    self.well();
                    return Ok(done);
                }
                Err(Failure { over: Some(error), .. }) => return Err(error),
                Err(failure) => failure,
            };
            if deadline.is_some_and(|deadline| Instant::now() + wait >= deadline) {
                self.tell(&failure);
                return Err(failure.unavailable());
            }
            self.wait_after(&failure, wait).await;
            wait = (wait * 2).min(WAIT.1);
        }
    }

    /// Waits before a request is tried again: for `wait`, or until there is a new session.
    async fn wait_after(&self, failure: &Failure, wait: Duration) {
        self.note(failure);
        tokio::select! {
            () = sleep(wait) => {}
            () = self.mended.notified() => {}
        }
    }

    /// A request that is tried again elsewhere failed.
    pub fn note(&self, failure: &Failure) {
        self.tell(failure);
        add(&self.figures.retries, 1);
        if failure.is_broken {
            self.broken.notify_one();
        }
    }

    fn tell(&self, failure: &Failure) {
        let now = Instant::now();
        let trouble = self.trouble.get();
        if trouble.is_none_or(|trouble| now >= trouble.told + TELL_EVERY) {
            (self.options.log)(&format!("{}; trying again", failure.message));
            self.trouble.set(Some(Trouble { since: trouble.map_or(now, |trouble| trouble.since), told: now }));
        }
    }

    fn well(&self) {
        if let Some(trouble) = self.trouble.take() {
            (self.options.log)(&format!(
                "the database serves again after {:.1} s",
                trouble.since.elapsed().as_secs_f64()
            ));
        }
    }
}
