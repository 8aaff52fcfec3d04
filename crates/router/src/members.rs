//! The instances that discovery shows, and how much this router has under way on each.
//!
//! When the source is lost, what was last known stays in force.

use crate::backend::ServedModel;
use crate::route::{Candidate, Route, missing_role, route};
use futures::StreamExt;
use planes::{Discovery, Instance, MembershipEvent};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;
use types::stage::Stage;
use types::{Error, ErrorKind, InstanceId, Result};

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
}

/// Counts a request as under way on the instances of its route until it is dropped.
pub(crate) struct Running(Vec<Arc<AtomicUsize>>);

impl Drop for Running {
    fn drop(&mut self) {
        for n_running in &self.0 {
            n_running.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Members {
    /// Begins to follow, and returns with all that are there: nobody may hear that a model does not
    /// exist only because the first snapshot is still on its way.
    pub(crate) async fn watch(discovery: &dyn Discovery) -> Self {
        let table = Arc::new(Mutex::new(Table::default()));
        let (mut events, followed) = (discovery.watch(), Arc::clone(&table));
        if let Some(event) = events.next().await {
            lock(&table).apply(event);
        }
        let task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                lock(&followed).apply(event);
            }
        });
        Self { table, task }
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

    /// Some instance of `model`. Errors: `NotFound` when there is none.
    pub(crate) fn any_of(&self, model: &str) -> Result<Instance> {
        let table = lock(&self.table);
        let mut found = table.members.values().filter(|member| member.instance.model == model);
        found.next().map(|member| member.instance.clone()).ok_or_else(|| no_such_model(model))
    }

    /// The instances for a request, counted as running it. Errors: `NotFound`, or `Unavailable`
    /// with the role that is missing.
    pub(crate) fn route(&self, model: &str, has_media: bool) -> Result<(Route, Running)> {
        let table = lock(&self.table);
        let mut missing = None;
        for set in table.sets(model) {
            match route(&set, has_media) {
                Ok(route) => {
                    let running = table.count(&route);
                    return Ok((route, running));
                }
                Err(stage) => missing = Some(stage),
            }
        }
        Err(missing.map_or_else(|| no_such_model(model), |stage| lacks(model, stage)))
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
        self.created_s.entry(instance.model.clone()).or_insert(now);
        let fresh = || Member { instance: instance.clone(), n_running: Arc::default() };
        self.members.entry(instance.id).or_insert_with(fresh);
    }

    /// The instances of `model`, those with the same card together.
    fn sets(&self, model: &str) -> Vec<Vec<Candidate>> {
        let mut sets: BTreeMap<_, Vec<Candidate>> = BTreeMap::new();
        for member in self.members.values().filter(|member| member.instance.model == model) {
            let n_running = member.n_running.load(Ordering::Relaxed);
            let candidate = Candidate { instance: member.instance.clone(), n_running };
            sets.entry(member.instance.card).or_default().push(candidate);
        }
        sets.into_values().collect()
    }

    fn count(&self, route: &Route) -> Running {
        let visited = [route.encode.as_ref(), Some(&route.prefill), route.decode.as_ref()];
        let members = visited.into_iter().flatten().filter_map(|found| self.members.get(&found.id));
        let counters: Vec<_> = members.map(|member| Arc::clone(&member.n_running)).collect();
        for n_running in &counters {
            n_running.fetch_add(1, Ordering::Relaxed);
        }
        Running(counters)
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
    use types::content::Digest;
    use types::stage::Stages;

    /// Shows one whole instance, a while after it was asked.
    struct LateSnapshot;

    impl Discovery for LateSnapshot {
        fn register(&self, _: Instance) -> BoxFuture<'static, Result<Withdraw>> {
            unreachable!("nobody registers here")
        }

        fn watch(&self) -> BoxStream<'static, MembershipEvent> {
            let instance = Instance {
                id: InstanceId(1),
                model: "m".into(),
                card: Digest::default(),
                stages: Stages::ALL,
                address: Address("w".into()),
                transports: Vec::new(),
                kv: None,
            };
            let late = async {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                MembershipEvent::Snapshot(vec![instance])
            };
            stream::once(late).boxed()
        }
    }

    #[tokio::test]
    async fn the_first_snapshot_is_waited_for() {
        let members = Members::watch(&LateSnapshot).await;
        assert!(members.route("m", true).is_ok());
        assert!(members.route("other", true).is_err());
    }
}
