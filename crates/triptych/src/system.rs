//! The system port of a process: `/health`, `/live` and `/metrics`, from its first moment to its
//! last.

use config::ProcessConfig;
use engine::{Condition, Engine};
use router::Backend;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use telemetry::{Health, Telemetry};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use types::{Error, ErrorKind, Result};
use worker::WorkerView;

/// What a process says of itself while it lives; dropping it closes the port.
pub struct System {
    /// Its metrics.
    pub telemetry: Arc<Telemetry>,
    phase: Arc<Mutex<Phase>>,
    serving: Option<JoinHandle<std::io::Result<()>>>,
}

/// Where a process is between its start and its end.
enum Phase {
    /// Not ready yet; says what it does.
    Starting(String),
    /// A worker that has registered; ready when its engine is.
    Ready(WorkerView),
    /// Ready when the backend is.
    Fronting(Arc<dyn Backend>),
    /// Finishes what it has begun.
    Stopping,
}

impl System {
    /// Listens, if there is a port to listen on. Errors: it is taken.
    pub async fn start(config: &ProcessConfig) -> Result<Self> {
        let telemetry = Arc::new(Telemetry::new());
        let phase = Arc::new(Mutex::new(Phase::Starting("starting".to_owned())));
        let mut system = Self { telemetry, phase, serving: None };
        if let Some(address) = config.system_address {
            let listener = listen(address, "--system-port").await?;
            if address.port() == 0 {
                tracing::info!("system port on http://{}", local_address(&listener)?);
            }
            system.serving = Some(tokio::spawn(system.serve(listener)));
        }
        Ok(system)
    }

    fn serve(&self, listener: TcpListener) -> impl Future<Output = std::io::Result<()>> + use<> {
        let phase = Arc::clone(&self.phase);
        let health = move || phase.lock().unwrap_or_else(PoisonError::into_inner).health();
        let router = telemetry::system::router(Arc::clone(&self.telemetry), health);
        telemetry::system::serve(listener, router, std::future::pending())
    }

    /// Not ready yet, because of `what`.
    pub(crate) fn starting(&self, what: &str) {
        self.enter(Phase::Starting(what.to_owned()));
    }

    /// Ready from now on, whenever the engine of `worker` can do its work.
    pub(crate) fn ready(&self, worker: WorkerView) {
        self.enter(Phase::Ready(worker));
    }

    /// Ready whenever `backend` can answer for some model.
    pub(crate) fn fronting(&self, backend: &Arc<dyn Backend>) {
        self.enter(Phase::Fronting(Arc::clone(backend)));
    }

    /// Not ready any more.
    pub fn stopping(&self) {
        self.enter(Phase::Stopping);
    }

    fn enter(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

impl Phase {
    fn health(&self) -> Health {
        match self {
            Self::Starting(what) => Health { missing: vec![what.clone()] },
            Self::Ready(worker) => Health { missing: health_of_engine(worker.engine()) },
            Self::Fronting(backend) => health_of(&**backend),
            Self::Stopping => Health { missing: vec!["the process is stopping".to_owned()] },
        }
    }
}

/// What keeps an engine from its work.
fn health_of_engine(engine: &Engine) -> Vec<String> {
    match engine.condition() {
        Condition::Well => Vec::new(),
        Condition::Failing => {
            vec!["the engine fails at each step; it is asked for one every second".to_owned()]
        }
        Condition::Broken => {
            let why = engine.breakdown().unwrap_or_default();
            vec![format!("the engine has broken down: {why}")]
        }
    }
}

/// Ready when one model can answer; otherwise what each lacks.
fn health_of(backend: &dyn Backend) -> Health {
    let mut missing = Vec::new();
    for model in backend.models() {
        match model.missing {
            None => return Health::default(),
            Some(role) => missing.push(format!("{}: no {role} worker", model.name)),
        }
    }
    if missing.is_empty() {
        missing.push("no worker has registered".to_owned());
    }
    Health { missing }
}

/// Listens on `address`. Errors name the flag that chose it.
pub(crate) async fn listen(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let message = format!("{flag}: cannot listen on {address}: {error}");
        Error::new(ErrorKind::Unavailable, message)
    })
}

/// Where a listener listens, its port known.
pub(crate) fn local_address(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|error| Error::internal(format!("no local address: {error}")))
}
