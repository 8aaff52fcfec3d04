//! A worker's place in the membership: taken at the start, left when it drains, and taken anew
//! under another id when the process stood still for so long that its peers have given it up.
//!
//! It is also left while the engine cannot do its work: for good when it has broken down, else
//! until a step of one token succeeds. Who is asked for nothing fails at nothing, so it is asked
//! from here.

use crate::prefill::block_root;
use crate::sequence::AbortOnDrop;
use crate::worker::Shared;
use engine::{Condition, SeqRequest, Until};
use planes::{Beat, Instance, Pulse, Withdraw, random};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use types::Result;
use types::prompt::ExpandedPrompt;
use types::sampling::SamplingParams;

/// Time between two attempts to register again.
const RETRY: Duration = Duration::from_millis(500);

/// Time between two looks at the engine's condition.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Time between two steps that an engine whose steps fail is asked for.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// Registered until this is dropped, as long as the engine can do its work.
pub(crate) struct Presence {
    _pulse: Option<Pulse>,
    keeping: JoinHandle<()>,
    held: Held,
}

/// The registration, while there is one.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<Option<Withdraw>>>);

impl Held {
    /// Takes the place of the registration before; gives that one.
    fn replace(&self, registered: Option<Withdraw>) -> Option<Withdraw> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *held, registered)
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // First nobody registers any more. What was being registered goes with its task.
        self.keeping.abort();
        drop(self.held.replace(None));
    }
}

impl Presence {
    /// Registers `instance`, and does it again whenever the process wakes. Errors: discovery
    /// refused the first time.
    pub(crate) async fn take(shared: &Arc<Shared>, instance: Instance) -> Result<Self> {
        let held = Held::default();
        held.replace(Some(shared.planes.discovery.register(instance.clone()).await?));
        let (woke, wakings) = watch::channel(0_u64);
        let watch_sleep = move |beat| match beat {
            Beat::Regular => {}
            Beat::Woke { silence } => {
                tracing::warn!("this process stood still for {silence:?}; it joins anew");
                woke.send_modify(|n_wakings| *n_wakings += 1);
            }
        };
        // Peers in this process stand still with it.
        let pulse = shared.planes.are_apart.then(|| Pulse::start(watch_sleep));
        let keeper = Keeper { instance, held: held.clone(), probing: None };
        let keeping = tokio::spawn(keeper.keep(Arc::downgrade(shared), wakings));
        Ok(Self { _pulse: pulse, keeping, held })
    }
}

/// Whoever takes and leaves the worker's place.
struct Keeper {
    instance: Instance,
    held: Held,
    /// The step that the engine was last asked for, and when.
    probing: Option<(Instant, AbortOnDrop)>,
}

impl Keeper {
    async fn keep(mut self, shared: Weak<Shared>, mut wakings: watch::Receiver<u64>) {
        loop {
            let has_woken = tokio::select! {
                Ok(()) = wakings.changed() => true,
                () = sleep(LOOK_PAUSE) => false,
            };
            let Some(shared) = shared.upgrade() else { return };
            if has_woken {
                // Nobody may read what was lent before.
                shared.leases.revoke_all();
                self.leave();
            }
            match shared.engine.condition() {
                Condition::Well => self.join(&shared).await,
                Condition::Failing => self.try_engine(&shared),
                // Why is said by the process, which ends.
                Condition::Broken => return self.leave(),
            }
        }
    }

    /// Registers under a new id unless it is registered; takes as long as it takes, for without
    /// that nobody would ever find the worker again.
    async fn join(&mut self, shared: &Shared) {
        if let Some((_, probe)) = self.probing.take() {
            probe.disarm();
            tracing::info!("the engine computes again: this worker joins the cluster again");
        }
        while self.held.is_empty() {
            let instance = Instance { id: random::instance_id(), ..self.instance.clone() };
            match shared.planes.discovery.register(instance).await {
                Ok(registered) => drop(self.held.replace(Some(registered))),
                Err(failure) => {
                    tracing::warn!("cannot register again yet: {failure}");
                    sleep(RETRY).await;
                }
            }
        }
    }

    fn leave(&self) {
        drop(self.held.replace(None));
    }

    /// Leaves, and has the engine try a step every now and then: its condition says how it went.
    fn try_engine(&mut self, shared: &Shared) {
        match &self.probing {
            Some((began, _)) if began.elapsed() < PROBE_PAUSE => return,
            Some(_) => {}
            None => tracing::warn!("the engine fails at each step: this worker leaves for now"),
        }
        self.leave();
        self.probing = Some((Instant::now(), probe(shared)));
    }
}

/// Asks the engine for one token behind one, until the guard is dropped.
fn probe(shared: &Shared) -> AbortOnDrop {
    let id = random::request_id();
    let guard = AbortOnDrop::request(&shared.engine, id);
    let request = SeqRequest {
        id,
        prompt: ExpandedPrompt { tokens: vec![0], items: Vec::new() },
        sampling: SamplingParams { max_tokens: Some(1), ..SamplingParams::default() },
        block_root: block_root(shared, ""),
        until: Until::End,
        priority: 0,
        first_choice: 0,
        n_answered: 0,
    };
    // A full queue is an answer too: others have it try.
    drop(shared.engine.submit(request, Box::new(|_| {})));
    guard
}
