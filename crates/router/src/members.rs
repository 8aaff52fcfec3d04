//! The instances that discovery shows, and how much this router has under way on each.
//!
//! When the source is lost, what was last known stays in force.

use crate::backend::ServedModel;
use crate::route::{Candidate, Route, missing_role, route};
use futures::StreamExt;
use planes::{Discovery, Instance, MembershipEvent};
use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use types::content::Digest;
use types::stage::Stage;
use types::{Error, ErrorKind, InstanceId, Result};

/// How long an instance whose call failed is passed over; discovery notices a death as soon.
const SUSPICION: Duration = Duration::from_secs(3);

/// Models whose first sight is remembered; who registers more of them is no user of this system.
const N_MODELS_REMEMBERED: usize = 1024;

/// Instances that are asked for one card before the next card's turn.
const N_TELLERS_PER_CARD: usize = 8;

/// Follows discovery in a task of its own, which ends with this.
pub(crate) struct Members {
    table: Arc<Mutex<Table>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Table {
    members: BTreeMap<InstanceId, Member>,
    /// When each model was first seen, in seconds since the Unix epoch.
    created_s: HashMap<String, u64>,
}

struct Member {
    instance: Instance,
    n_running: Arc<AtomicUsize>,
    /// A call to it failed, and until then it is taken only when there is no other.
    suspect_until: Option<Instant>,
}

/// Counts work as under way on an instance until it is dropped.
pub(crate) struct Running {
    n_running: Arc<AtomicUsize>,
    n_counted: usize,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.n_running.fetch_sub(self.n_counted, Ordering::Relaxed);
    }
}

/// A request counted on the instances of its route.
pub(crate) struct Counted {
    /// On its encoders.
    pub(crate) encode: Vec<Running>,
    /// On the others.
    _rest: Vec<Running>,
}

impl Members {
    /// Begins to follow, and returns with all that are there: nobody may hear that a model does not
    /// exist only because the first snapshot is still on its way.
    ///
    /// Errors: no snapshot came within `patience`.
    pub(crate) async fn watch(discovery: &dyn Discovery, patience: Duration) -> Result<Self> {
        let table = Arc::new(Mutex::new(Table::default()));
        let (mut events, followed) = (discovery.watch(), Arc::clone(&table));
        let silent = || Error::new(ErrorKind::Unavailable, "discovery does not say who is there");
        let first = timeout(patience, events.next()).await.map_err(|_| silent())?;
        lock(&table).apply(first.ok_or_else(silent)?);
        let task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                lock(&followed).apply(event);
            }
        });
        Ok(Self { table, task })
    }

    pub(crate) fn models(&self) -> Vec<ServedModel> {
        let table = lock(&self.table);
        let mut models: BTreeMap<&str, Vec<Instance>> = BTreeMap::new();
        for member in table.members.values() {
            models.entry(&member.instance.model).or_default().push(member.instance.clone());
        }
        let served = |(name, instances): (&str, Vec<Instance>)| ServedModel {
            name: name.to_owned(),
            created_s: table.created_s.get(name).copied().unwrap_or(0),
            missing: missing_of_best_set(&instances).map(|stage| stage.name().to_owned()),
        };
        models.into_iter().map(served).collect()
    }

    /// The instances to ask for the card of `model`, one after another: those first whose card is
    /// known, then those that together lack no role. Whoever registers under a name that others
    /// serve as well may be in error, or a stranger.
    ///
    /// Errors: `Unavailable` when there is none any more, `NotFound` when there never was.
    pub(crate) fn tellers_of(
        &self,
        model: &str,
        is_known: impl Fn(&Digest) -> bool,
    ) -> Result<Vec<Instance>> {
        let table = lock(&self.table);
        let mut sets = table.sets(model);
        sets.sort_by_cached_key(|set| {
            let instances: Vec<Instance> = set.iter().map(|it| it.instance.clone()).collect();
            let is_new = !instances.first().is_some_and(|instance| is_known(&instance.card));
            (is_new, missing_role(&instances).is_some(), Reverse(instances.len()))
        });
        for set in &mut sets {
            set.sort_by_key(|candidate| candidate.is_suspect);
            set.truncate(N_TELLERS_PER_CARD);
        }
        let tellers: Vec<Instance> = sets.into_iter().flatten().map(|it| it.instance).collect();
        match tellers.is_empty() {
            false => Ok(tellers),
            true if table.created_s.contains_key(model) => Err(lacks(model, Stage::Prefill)),
            true => Err(no_such_model(model)),
        }
    }

    /// The instances for a request of `model` whose prompt was made by `card`, counted as running
    /// it; none of those that `is_lost` to it.
    ///
    /// Errors: `Unavailable`, with the role that is missing.
    pub(crate) fn route(
        &self,
        (model, card): (&str, Digest),
        n_media: usize,
        is_lost: impl Fn(InstanceId) -> bool,
    ) -> Result<(Route, Counted)> {
        let table = lock(&self.table);
        let has_card = |set: &Vec<Candidate>| set.iter().any(|it| it.instance.card == card);
        let mut set = table.sets(model).into_iter().find(has_card).unwrap_or_default();
        set.retain(|candidate| !is_lost(candidate.instance.id));
        let route = route(&set, n_media).map_err(|stage| lacks(model, stage))?;
        let counted = table.count(&route);
        Ok((route, counted))
    }

    /// A call to this instance has failed: others come first for a while.
    pub(crate) fn suspect(&self, id: InstanceId) {
        if let Some(member) = lock(&self.table).members.get_mut(&id) {
            member.suspect_until = Some(Instant::now() + SUSPICION);
        }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Table {
    fn apply(&mut self, event: MembershipEvent) {
        match event {
            MembershipEvent::Snapshot(instances) => {
                let there: Vec<InstanceId> = instances.iter().map(|found| found.id).collect();
                self.members.retain(|id, _| there.contains(id));
                instances.into_iter().for_each(|instance| self.join(instance));
            }
            MembershipEvent::Joined(instance) => self.join(instance),
            MembershipEvent::Left(id) => {
                self.members.remove(&id);
            }
            MembershipEvent::SourceLost => tracing::warn!("discovery is out of reach"),
        }
    }

    fn join(&mut self, instance: Instance) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        if self.created_s.len() < N_MODELS_REMEMBERED {
            self.created_s.entry(instance.model.clone()).or_insert(now);
        }
        match self.members.entry(instance.id) {
            Entry::Occupied(mut known) => known.get_mut().instance = instance,
            Entry::Vacant(place) => {
                place.insert(Member { instance, n_running: Arc::default(), suspect_until: None });
            }
        }
    }

    /// The instances of `model`, those with the same card together.
    fn sets(&self, model: &str) -> Vec<Vec<Candidate>> {
        let mut sets: BTreeMap<_, Vec<Candidate>> = BTreeMap::new();
        for member in self.members.values().filter(|member| member.instance.model == model) {
            let n_running = member.n_running.load(Ordering::Relaxed);
            let is_suspect = member.suspect_until.is_some_and(|until| Instant::now() < until);
            let candidate = Candidate { instance: member.instance.clone(), n_running, is_suspect };
            sets.entry(member.instance.card).or_default().push(candidate);
        }
        sets.into_values().collect()
    }

    fn count(&self, route: &Route) -> Counted {
        let count = |found: &Instance, n_counted: usize| {
            let n_running = Arc::clone(&self.members.get(&found.id)?.n_running);
            n_running.fetch_add(n_counted, Ordering::Relaxed);
            Some(Running { n_running, n_counted })
        };
        let rest = std::iter::once(&route.prefill).chain(&route.decode);
        Counted {
            encode: route
                .encode
                .iter()
                .filter_map(|share| count(&share.encoder, share.media.len()))
                .collect(),
            _rest: rest.filter_map(|found| count(found, 1)).collect(),
        }
    }
}

/// What the most complete of the sets with equal cards lacks.
fn missing_of_best_set(instances: &[Instance]) -> Option<Stage> {
    let mut sets: BTreeMap<_, Vec<Instance>> = BTreeMap::new();
    for instance in instances {
        sets.entry(instance.card).or_default().push(instance.clone());
    }
    let missing: Vec<Option<Stage>> = sets.values().map(|set| missing_role(set)).collect();
    if missing.contains(&None) { None } else { missing.into_iter().flatten().next() }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn no_such_model(model: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("the model `{model}` does not exist")).at("model")
}

fn lacks(model: &str, stage: Stage) -> Error {
    let role = stage.name();
    Error::new(ErrorKind::Unavailable, format!("no {role} worker is there for the model `{model}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::BoxFuture;
    use futures::stream::{self, BoxStream};
    use planes::{Address, Withdraw};
    use types::stage::Stages;

    fn instance(id: u128, card: u8, stages: Stages) -> Instance {
        Instance {
            id: InstanceId(id),
            model: "m".into(),
            card: Digest([card; 32]),
            stages,
            address: Address("w".into()),
            transports: Vec::new(),
            kv: None,
            encode_endpoint: None,
        }
    }

    /// Shows one whole instance, a while after it was asked.
    struct LateSnapshot;

    impl Discovery for LateSnapshot {
        fn register(&self, _: Instance) -> BoxFuture<'static, Result<Withdraw>> {
            unreachable!("nobody registers here")
        }

        fn watch(&self) -> BoxStream<'static, MembershipEvent> {
            let instance = instance(1, 0, Stages::ALL);
            let late = async {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                MembershipEvent::Snapshot(vec![instance])
            };
            stream::once(late).boxed()
        }
    }

    #[test]
    fn cards_are_asked_of_those_who_serve_together() {
        let check = |known: u8, expect: [u128; 4]| {
            let mut table = Table::default();
            // A stranger claims all stages; two workers share another card, one of them suspect.
            let there = [(1, 9, Stages::ALL), (2, 5, Stages::ALL), (3, 5, Stages::ALL)];
            for (id, card, stages) in there {
                table.join(instance(id, card, stages));
            }
            table.join(instance(4, 1, Stages::of(&[Stage::Encode])));
            let suspect = table.members.get_mut(&InstanceId(2)).unwrap();
            suspect.suspect_until = Some(Instant::now() + SUSPICION);
            let table = Arc::new(Mutex::new(table));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let members = Members { table, task: runtime.spawn(async {}) };
            let found = members.tellers_of("m", |card| *card == Digest([known; 32])).unwrap();
            assert_eq!(found.iter().map(|it| it.id.0).collect::<Vec<_>>(), expect);
        };
        check(0, [3, 2, 1, 4]);
        check(1, [4, 3, 2, 1]);
    }

    #[tokio::test]
    async fn a_snapshot_that_never_comes_is_an_error() {
        struct Silent;
        impl Discovery for Silent {
            fn register(&self, _: Instance) -> BoxFuture<'static, Result<Withdraw>> {
                unreachable!("nobody registers here")
            }

            fn watch(&self) -> BoxStream<'static, MembershipEvent> {
                stream::pending().boxed()
            }
        }
        let failed = Members::watch(&Silent, Duration::from_millis(10)).await;
        assert_eq!(failed.err().map(|failure| failure.kind), Some(ErrorKind::Unavailable));
    }

    #[tokio::test]
    async fn the_first_snapshot_is_waited_for() {
        let members = Members::watch(&LateSnapshot, Duration::from_secs(60)).await.unwrap();
        let card = Digest::default();
        assert!(members.route(("m", card), 1, |_| false).is_ok());
        let lost = members.route(("m", card), 1, |id| id == InstanceId(1));
        assert!(lost.err().unwrap().message.contains("no prefill worker"));
        let failure =
            |model, card| members.route((model, card), 1, |_| false).err().map(|it| it.kind);
        assert_eq!(failure("other", card), Some(ErrorKind::Unavailable));
        assert_eq!(failure("m", Digest([1; 32])), Some(ErrorKind::Unavailable));
        let unknown = members.tellers_of("other", |_| false).unwrap_err();
        assert_eq!(unknown.kind, ErrorKind::NotFound);
    }
}
