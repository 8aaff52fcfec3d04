//! Connections to etcd: one member at a time, in turn, with pauses between failures.
//!
//! Must not know what is asked.

use crate::config::EtcdConfig;
use etcd_client::Client;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use types::{Error, ErrorKind};

/// Longest time for an attempt: to connect, to show who we are, and to ask what is to be asked.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause after the first failure; each further one doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Makes attempts, each on a fresh connection and never in quick succession.
///
/// A connection goes to one member only: spread over all of them, a single dead member would fail
/// a part of every conversation.
pub(crate) struct Dialer {
    config: Arc<EtcdConfig>,
    endpoint_idx: usize,
    pause: Duration,
    not_before: Instant,
}

impl Dialer {
    pub(crate) fn new(config: Arc<EtcdConfig>) -> Self {
        Self { config, endpoint_idx: 0, pause: PAUSE_MIN, not_before: Instant::now() }
    }

    /// The member that the next attempt goes to: the last one's, unless that failed or was lost.
    pub(crate) fn endpoint(&self) -> &str {
        &self.config.endpoints[self.endpoint_idx]
    }

    /// Turns away from a member whose connection was lost: where it fell silent, a further wait for
    /// it would outlast the lease.
    pub(crate) fn move_on(&mut self) {
        self.endpoint_idx = (self.endpoint_idx + 1) % self.config.endpoints.len();
    }

    /// Connects and asks, after a pause that grows with each failure.
    pub(crate) async fn attempt<T, Asked>(
        &mut self,
        ask: impl FnOnce(Client) -> Asked,
    ) -> Result<T, Failure>
    where
        Asked: Future<Output = Result<T, Failure>>,
    {
        sleep_until(self.not_before).await;
        let outcome = match timeout(ATTEMPT_TIMEOUT, self.ask(ask)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::passing(format!("no answer within {ATTEMPT_TIMEOUT:?}"))),
        };
        match &outcome {
            Ok(_) => self.pause = PAUSE_MIN,
            Err(_) => self.move_on(),
        }
        self.not_before = Instant::now() + self.pause;
        if outcome.is_err() {
            self.pause = PAUSE_MAX.min(self.pause * 2);
        }
        outcome
    }

    async fn ask<T, Asked>(&self, ask: impl FnOnce(Client) -> Asked) -> Result<T, Failure>
    where
        Asked: Future<Output = Result<T, Failure>>,
    {
        let options = self.config.connect_options();
        ask(Client::connect([self.endpoint()], Some(options)).await?).await
    }

    /// Makes attempts until one succeeds or fails for good, up to the start deadline.
    pub(crate) async fn until_deadline<T, Asked>(
        &mut self,
        ask: impl Fn(Client) -> Asked,
    ) -> types::Result<T>
    where
        Asked: Future<Output = Result<T, Failure>>,
    {
        let give_up = Instant::now() + self.config.start_deadline;
        let mut last = Failure::passing("no answer");
        loop {
            match timeout_at(give_up, self.attempt(&ask)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) if failure.may_pass() => last = failure,
                Ok(Err(failure)) => return Err(self.explain(&failure)),
                Err(_) => return Err(self.explain(&last)),
            }
        }
    }

    fn explain(&self, failure: &Failure) -> Error {
        let (kind, trouble) = match failure.blame {
            Blame::Etcd => {
                let waited = self.config.start_deadline;
                (ErrorKind::Unavailable, format!("did not serve us within {waited:?}"))
            }
            Blame::Credentials => (ErrorKind::Forbidden, "refuses us".to_owned()),
            Blame::Configuration => {
                (ErrorKind::InvalidInput, "cannot be reached as configured".to_owned())
            }
        };
        let (endpoints, cause) = (self.config.endpoints.join(", "), &failure.cause);
        Error::new(kind, format!("etcd at {endpoints} {trouble}: {cause}"))
    }
}

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) struct Failure {
    blame: Blame,
    cause: String,
}

/// Whom a failure is to be blamed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    /// It is out of reach or in trouble, which may pass.
    Etcd,
    /// The user and the password, or the rights that they give.
    Credentials,
    /// What is configured cannot work.
    Configuration,
}

impl Failure {
    /// etcd is out of reach or in trouble.
    pub(crate) fn passing(cause: impl Into<String>) -> Self {
        Self { blame: Blame::Etcd, cause: cause.into() }
    }

    fn of_configuration(cause: &impl ToString) -> Self {
        Self { blame: Blame::Configuration, cause: cause.to_string() }
    }

    /// Whether trying again at start is of use.
    fn may_pass(&self) -> bool {
        self.blame == Blame::Etcd
    }

    pub(crate) fn cause(&self) -> &str {
        &self.cause
    }
}

/// gRPC's codes for a wrong password or none, and for a missing right.
const REFUSALS: [i32; 2] = [3, 7];

impl From<etcd_client::Error> for Failure {
    fn from(error: etcd_client::Error) -> Self {
        use etcd_client::Error as Etcd;
        let is_refused = grpc_code(&error).is_some_and(|code| REFUSALS.contains(&code));
        let blame = if is_refused { Blame::Credentials } else { Blame::Etcd };
        match error {
            Etcd::GRpcStatus(status) => {
                let answered = || status.message().to_owned();
                let cause = StdError::source(&status).map_or_else(answered, root_cause);
                Self { blame, cause }
            }
            // What does not come from the network comes from the configuration.
            Etcd::TransportError(error) => Self::of_configuration(&root_cause(&error)),
            Etcd::InvalidUri(error) => Self::of_configuration(&error),
            Etcd::InvalidArgs(cause) => Self::of_configuration(&cause),
            other => Self::passing(other.to_string()),
        }
    }
}

/// The gRPC code that etcd answered with, where it did.
pub(crate) fn grpc_code(error: &etcd_client::Error) -> Option<i32> {
    match error {
        etcd_client::Error::GRpcStatus(status) => Some(status.code() as i32),
        _ => None,
    }
}

/// What the innermost of the errors says: "connection refused" rather than "transport error".
fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
