//! [`Fetcher`]: from an address to bytes, hop by hop.

use crate::connect::Connector;
use crate::failure::{broken, forbidden, origin, too_large, too_slow};
use crate::policy::Policy;
use crate::target::Target;
use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::pin::pin;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use types::{Error, Result};

/// Redirects that are followed.
const N_REDIRECTS_MAX: usize = 3;

/// Fetches under way at once in one process; more wait for a turn, within their deadline.
const N_FETCHES_MAX: usize = 128;

/// Bytes of an answer's header, and of what is read from a connection at once.
const READ_BYTES_MAX: usize = 64 << 10;

/// Header lines of an answer.
const N_HEADERS_MAX: usize = 128;

/// Who asks, as origins see it.
const USER_AGENT: &str = concat!("triptych/", env!("CARGO_PKG_VERSION"));

/// Fetches media under one policy.
pub struct Fetcher {
    policy: Policy,
    connector: Connector,
    turns: Semaphore,
}

/// What an origin answers.
enum Answer {
    Medium(Bytes),
    Elsewhere(Target),
}

impl Fetcher {
    /// With the system's resolver and certificates.
    pub fn new(policy: Policy) -> Self {
        Self::with(policy, Connector::of_system())
    }

    fn with(policy: Policy, connector: Connector) -> Self {
        Self { policy, connector, turns: Semaphore::new(N_FETCHES_MAX) }
    }

    /// The bytes at `address`. Before any are kept, `hold` is told how many there are in all so
    /// far, or will be; its error ends the fetch.
    ///
    /// Errors: `InvalidInput` (no address of HTTP), `Forbidden` (by the policy), `TooLarge`,
    /// `Timeout`, `MediaOrigin` (whatever the origin does wrong), and those of `hold`.
    pub async fn fetch(
        &self,
        address: &str,
        hold: &mut (dyn FnMut(usize) -> Result<()> + Send),
    ) -> Result<Bytes> {
        let most = self.policy.deadlines.total;
        let fetched = timeout(most, self.follow(Target::parse(address)?, hold)).await;
        fetched.map_err(|_| too_slow("did not send the medium", most))?
    }

    async fn follow(
        &self,
        mut target: Target,
        hold: &mut (dyn FnMut(usize) -> Result<()> + Send),
    ) -> Result<Bytes> {
        let _turn = self.turns.acquire().await.map_err(|_| Error::internal("shutting down"))?;
        for _ in 0..=N_REDIRECTS_MAX {
            match self.ask(&target, hold).await? {
                Answer::Medium(bytes) => return Ok(bytes),
                Answer::Elsewhere(next) => target = next,
            }
        }
        Err(origin(format!("its origin redirects more than {N_REDIRECTS_MAX} times")))
    }

    /// Asks one host, over a connection of its own.
    async fn ask(
        &self,
        target: &Target,
        hold: &mut (dyn FnMut(usize) -> Result<()> + Send),
    ) -> Result<Answer> {
        if !self.policy.permits_host(target.host_text()) {
            return Err(forbidden());
        }
        let deadlines = self.policy.deadlines;
        let connecting = self.connector.connect(target, &self.policy);
        let connected = timeout(deadlines.connect, connecting).await;
        let stream =
            connected.map_err(|_| too_slow("could not be connected to", deadlines.connect))??;
        let http = http1::Builder::new()
            .max_buf_size(READ_BYTES_MAX)
            .max_headers(N_HEADERS_MAX)
            .handshake(TokioIo::new(stream));
        let (mut sender, connection) = http.await.map_err(|_| broken())?;
        // Dropped with the answer, which ends it.
        let mut driver = JoinSet::new();
        // What goes wrong with the connection is seen by who waits for the answer.
        driver.spawn(async move { drop(connection.await) });
        let response = timeout(deadlines.read, sender.send_request(request(target)?)).await;
        let response = response.map_err(|_| too_slow("did not answer", deadlines.read))?;
        self.read(target, response.map_err(|_| broken())?, hold).await
    }

    async fn read(
        &self,
        target: &Target,
        response: Response<Incoming>,
        hold: &mut (dyn FnMut(usize) -> Result<()> + Send),
    ) -> Result<Answer> {
        let (status, headers) = (response.status(), response.headers());
        if let Some(to) = redirect(status, headers) {
            return target.redirected(to).map(Answer::Elsewhere);
        }
        if status != StatusCode::OK {
            return Err(origin(format!("its origin answered with status {}", status.as_u16())));
        }
        let coding = headers.get(header::CONTENT_ENCODING);
        if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(origin("its origin sent it compressed, which was not asked for"));
        }
        self.read_body(response.into_body(), hold).await.map(Answer::Medium)
    }

    async fn read_body(
        &self,
        body: Incoming,
        hold: &mut (dyn FnMut(usize) -> Result<()> + Send),
    ) -> Result<Bytes> {
        let (most, idle) = (self.policy.n_bytes_max, self.policy.deadlines.read);
        let mut hold = |n_bytes: usize| match n_bytes > most {
            true => Err(too_large(most)),
            false => hold(n_bytes),
        };
        let mut body = pin!(body);
        let announced = body.size_hint().exact().unwrap_or(0);
        hold(usize::try_from(announced).unwrap_or(usize::MAX))?;
        let mut bytes = BytesMut::new();
        loop {
            let next = timeout(idle, poll_fn(|cx| body.as_mut().poll_frame(cx))).await;
            let next = next.map_err(|_| too_slow("sent nothing more", idle))?;
            let Some(frame) = next else { return Ok(bytes.freeze()) };
            if let Ok(piece) = frame.map_err(|_| broken())?.into_data() {
                hold(bytes.len() + piece.len())?;
                bytes.extend_from_slice(&piece);
            }
        }
    }
}

fn request(target: &Target) -> Result<Request<String>> {
    Request::get(target.path_and_query())
        .header(header::HOST, target.authority())
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, "*/*")
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::CONNECTION, "close")
        .body(String::new())
        .map_err(|_| Error::invalid("the address cannot be asked for over HTTP"))
}

/// Where an answer sends us.
fn redirect(status: StatusCode, headers: &HeaderMap) -> Option<&[u8]> {
    let moves = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
    headers.get(header::LOCATION).filter(|_| moves).map(|to| to.as_bytes())
}

#[cfg(test)]
mod tests;
