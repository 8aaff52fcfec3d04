//! Connections: how many, how slow and how large their header lines may be, and how they close.

use crate::patience::Patient;
use axum::Router;
use config::FrontendConfig;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// Most connections at once; others wait to be accepted.
const CONNECTIONS_MAX: usize = 8192;

/// Pause after the system refused to accept (no file descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Longest time to agree on TLS.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// The connections of one listener. Dropping it closes them all.
pub(crate) struct Connections {
    http: http1::Builder,
    tls: Option<TlsAcceptor>,
    routes: TowerToHyperService<Router>,
    send_deadline: Duration,
    graceful: GracefulShutdown,
    tasks: JoinSet<()>,
}

impl Connections {
    pub(crate) fn new(routes: Router, tls: Option<TlsAcceptor>, config: &FrontendConfig) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(config.receive_deadline)
            .max_buf_size(config.limits.header_bytes_max)
            .max_headers(config.limits.n_headers_max);
        Self {
            http,
            tls,
            routes: TowerToHyperService::new(routes),
            send_deadline: config.send_deadline,
            graceful: GracefulShutdown::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Takes connections until `stop`.
    pub(crate) async fn accept(&mut self, listener: &TcpListener, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            let has_room = self.tasks.len() < CONNECTIONS_MAX;
            tokio::select! {
                () = &mut stop => return,
                Some(_) = self.tasks.join_next() => {}
                accepted = listener.accept(), if has_room => match accepted {
                    Ok((stream, _)) => self.serve(stream),
                    Err(error) => {
                        tracing::warn!(%error, "could not accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    /// Closes each connection after the request it is at work on. What is not closed after `most`
    /// stays, and the rest of the connections comes back.
    pub(crate) async fn close(self, most: Duration) -> Option<JoinSet<()>> {
        let Self { graceful, mut tasks, .. } = self;
        tokio::select! {
            () = graceful.shutdown() => None,
            () = sleep(most) => {
                while tasks.try_join_next().is_some() {}
                Some(tasks)
            }
        }
    }

    fn serve(&mut self, stream: TcpStream) {
        // Pieces of a streamed answer leave as they come. A socket that refuses works all the same.
        let _ = stream.set_nodelay(true);
        let answering = Answering {
            http: self.http.clone(),
            routes: self.routes.clone(),
            send_deadline: self.send_deadline,
            watcher: self.graceful.watcher(),
        };
        match &self.tls {
            None => self.tasks.spawn(answering.all(stream)),
            Some(tls) => {
                let handshake = timeout(HANDSHAKE_TIME, tls.accept(stream));
                self.tasks.spawn(async move {
                    // Who does not speak TLS, or not with us, is not talked to.
                    if let Ok(Ok(stream)) = handshake.await {
                        answering.all(stream).await;
                    }
                })
            }
        };
    }
}

/// What one connection needs.
struct Answering {
    http: http1::Builder,
    routes: TowerToHyperService<Router>,
    send_deadline: Duration,
    watcher: Watcher,
}

impl Answering {
    /// Answers all requests of a connection.
    async fn all(self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let stream = TokioIo::new(Patient::new(stream, self.send_deadline));
        let connection = self.http.serve_connection(stream, self.routes);
        // A client that breaks off is no fault of ours; its request was dropped with it.
        let _ = self.watcher.watch(connection).await;
    }
}

/// Waits for connections whose requests were cancelled, and drops what then still hangs.
pub(crate) async fn finish(mut tasks: JoinSet<()>, most: Duration) {
    let _ = timeout(most, async { while tasks.join_next().await.is_some() {} }).await;
}
