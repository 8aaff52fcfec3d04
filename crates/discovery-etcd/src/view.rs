//! What the reader of a watch has been told, and what it is to be told next.
//!
//! An etcd that was out of reach for longer than a lease lasts comes back without the instances
//! that could not renew theirs meanwhile, though they are alive and about to register again. So for
//! [`REMOVAL_GRACE`] after a lost source has returned nobody is reported as gone: neither whoever
//! the new snapshot lacks (the reader's snapshot has them all the same), nor whoever disappears.
//! Who is still missing at the end has left. The price is that a real death or withdrawal in that
//! time is told late, and that an etcd which is lost again and again removes nobody. At all other
//! times removals are told at once.
//!
//! Must not know etcd or tokio; time comes in as an argument.

use crate::registration::LEASE_TTL;
use planes::{Instance, MembershipEvent};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use types::InstanceId;

/// How long after the return of a lost source nobody is reported as gone: two leases, for the
/// instances come back within a pause of 0.5 s and an attempt of at most 3 s.
pub const REMOVAL_GRACE: Duration = Duration::from_secs(2 * LEASE_TTL.as_secs());

#[derive(Default)]
pub(crate) struct View {
    /// Who is there, as the reader knows it.
    told: BTreeMap<InstanceId, Instance>,
    /// Those of `told` that the source lacks.
    missing: BTreeSet<InstanceId>,
    /// Until when the missing are kept; `None` while removals are told at once.
    grace_end: Option<Instant>,
    was_lost: bool,
}

impl View {
    /// The source begins (again) with these.
    pub(crate) fn snapshot(&mut self, found: Vec<Instance>, now: Instant) -> MembershipEvent {
        if self.was_lost {
            self.grace_end = Some(now + REMOVAL_GRACE);
        }
        self.missing = self.told.keys().copied().collect();
        for instance in found {
            self.missing.remove(&instance.id);
            self.told.insert(instance.id, instance);
        }
        MembershipEvent::Snapshot(self.told.values().cloned().collect())
    }

    /// The source shows this one, perhaps as before.
    pub(crate) fn shown(&mut self, instance: Instance) -> Vec<MembershipEvent> {
        let id = instance.id;
        self.missing.remove(&id);
        match self.told.insert(id, instance.clone()) {
            None => vec![MembershipEvent::Joined(instance)],
            Some(before) if before == instance => Vec::new(),
            Some(_) => vec![MembershipEvent::Left(id), MembershipEvent::Joined(instance)],
        }
    }

    /// The source no longer shows this one.
    pub(crate) fn gone(&mut self, id: InstanceId) -> Vec<MembershipEvent> {
        if self.grace_end.is_some() && self.told.contains_key(&id) {
            self.missing.insert(id);
            return Vec::new();
        }
        self.told.remove(&id).map(|_| MembershipEvent::Left(id)).into_iter().collect()
    }

    /// The source is out of reach, and everything stays as it is.
    pub(crate) fn lost(&mut self) -> MembershipEvent {
        self.was_lost = true;
        self.grace_end = None;
        MembershipEvent::SourceLost
    }

    /// When [`Self::end_grace`] is due.
    pub(crate) fn grace_end(&self) -> Option<Instant> {
        self.grace_end
    }

    /// Whoever is still missing has left.
    pub(crate) fn end_grace(&mut self) -> Vec<MembershipEvent> {
        self.grace_end = None;
        let missing = std::mem::take(&mut self.missing);
        missing.into_iter().flat_map(|id| self.gone(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use planes::Address;
    use types::content::Digest;
    use types::stage::Stages;

    fn instance(id: u128) -> Instance {
        Instance {
            id: InstanceId(id),
            model: "m".into(),
            card: Digest::default(),
            stages: Stages::ALL,
            address: Address("a".into()),
            transports: Vec::new(),
            kv: None,
            encode_endpoint: None,
        }
    }

    fn told(ids: &[u128]) -> MembershipEvent {
        MembershipEvent::Snapshot(ids.iter().map(|&id| instance(id)).collect())
    }

    fn joined(id: u128) -> MembershipEvent {
        MembershipEvent::Joined(instance(id))
    }

    fn left(id: u128) -> MembershipEvent {
        MembershipEvent::Left(InstanceId(id))
    }

    /// What the source does, as the tables below say it.
    enum Source {
        Begins(&'static [u128]),
        Shows(u128),
        Loses(u128),
        IsLost,
        IsCalmUntilGraceEnds,
    }

    use Source::{Begins, IsCalmUntilGraceEnds, IsLost, Loses, Shows};

    fn check(story: &[(Source, &[MembershipEvent])]) {
        let (mut view, now) = (View::default(), Instant::now());
        for (step_idx, (source, expected)) in story.iter().enumerate() {
            let events = match source {
                Begins(ids) => {
                    let found = ids.iter().map(|&id| instance(id)).collect();
                    vec![view.snapshot(found, now)]
                }
                Shows(id) => view.shown(instance(*id)),
                Loses(id) => view.gone(InstanceId(*id)),
                IsLost => vec![view.lost()],
                IsCalmUntilGraceEnds => {
                    assert_eq!(view.grace_end(), Some(now + REMOVAL_GRACE));
                    view.end_grace()
                }
            };
            assert_eq!(&events, expected, "step {step_idx}");
        }
    }

    #[test]
    fn changes_are_told_once_and_at_once() {
        check(&[
            (Begins(&[1]), &[told(&[1])]),
            (Shows(1), &[]),
            (Shows(2), &[joined(2)]),
            (Shows(2), &[]),
            (Loses(1), &[left(1)]),
            (Loses(1), &[]),
            (Loses(9), &[]),
            (Shows(1), &[joined(1)]),
        ]);
    }

    #[test]
    fn who_comes_back_in_the_grace_was_never_away() {
        check(&[
            (Begins(&[1, 2, 3]), &[told(&[1, 2, 3])]),
            (IsLost, &[MembershipEvent::SourceLost]),
            (Begins(&[3]), &[told(&[1, 2, 3])]),
            (Shows(2), &[]),
            (Loses(3), &[]),
            (Shows(3), &[]),
            (Shows(1), &[]),
            (IsCalmUntilGraceEnds, &[]),
            (Loses(1), &[left(1)]),
        ]);
    }

    #[test]
    fn who_does_not_come_back_has_left_when_the_grace_ends() {
        check(&[
            (Begins(&[1, 2, 3]), &[told(&[1, 2, 3])]),
            (IsLost, &[MembershipEvent::SourceLost]),
            (Begins(&[2, 3, 4]), &[told(&[1, 2, 3, 4])]),
            (Loses(3), &[]),
            (Shows(5), &[joined(5)]),
            (IsCalmUntilGraceEnds, &[left(1), left(3)]),
            (Loses(2), &[left(2)]),
        ]);
    }

    #[test]
    fn a_second_loss_begins_the_grace_anew() {
        check(&[
            (Begins(&[1, 2]), &[told(&[1, 2])]),
            (IsLost, &[MembershipEvent::SourceLost]),
            (Begins(&[]), &[told(&[1, 2])]),
            (IsLost, &[MembershipEvent::SourceLost]),
            (Begins(&[2]), &[told(&[1, 2])]),
            (IsCalmUntilGraceEnds, &[left(1)]),
        ]);
    }

    #[test]
    fn an_instance_that_changed_left_and_joined() {
        let mut view = View::default();
        view.snapshot(vec![instance(1)], Instant::now());
        let changed = Instance { model: "other".into(), ..instance(1) };
        let expected = vec![left(1), MembershipEvent::Joined(changed.clone())];
        assert_eq!(view.shown(changed), expected);
    }
}
