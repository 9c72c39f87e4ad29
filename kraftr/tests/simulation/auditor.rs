//! An independent model of the fleet: it sees requests and answers, and knows what must come of each.

use std::collections::BTreeMap;

use kraftr_protocol::{FailureCode, OrgId, RenderId, Status, limits};
use kraftr_scheduler::blobs::BlobStore;
use kraftr_scheduler::domain::ledger::EntryKind;
use kraftr_scheduler::store::{Render, Store};

use crate::workload::Destiny;

/// What the model knows of a render.
#[derive(Debug, Clone)]
struct Expectation {
    org: OrgId,
    price: i64,
    samples: u32,
    destiny: Destiny,
    cancelled: bool,
    seen: Status,
    epoch: i64,
}

impl Expectation {
    /// What the render costs in the end.
    fn charge(&self) -> i64 {
        if self.cancelled {
            0
        } else {
            self.price / i64::from(self.samples) * i64::from(self.destiny.delivered(self.samples))
        }
    }
}

/// The model.
#[derive(Debug, Default)]
pub(crate) struct Auditor {
    granted: BTreeMap<OrgId, i64>,
    renders: BTreeMap<RenderId, Expectation>,
    keys: BTreeMap<String, RenderId>,
}

impl Auditor {
    /// Credits were granted.
    pub(crate) fn granted(&mut self, org: OrgId, amount: i64) {
        *self.granted.entry(org).or_default() += amount;
    }

    /// What an org could still hold, by the model: everything that has not ended counts as held.
    pub(crate) fn available(&self, org: OrgId) -> i64 {
        let taken: i64 = self
            .renders
            .values()
            .filter(|render| render.org == org)
            .map(
                |render| {
                    if render.seen.is_terminal() { Self::charged_when_ended(render) } else { render.price }
                },
            )
            .sum();
        self.granted[&org] - taken
    }

    fn charged_when_ended(render: &Expectation) -> i64 {
        if render.seen == Status::Succeeded { render.charge() } else { 0 }
    }

    /// A submission was accepted.
    pub(crate) fn submitted(&mut self, render: &Render, key: Option<String>) {
        if let Some(key) = key {
            let before = self.keys.insert(key, render.id);
            assert_eq!(before, None, "a key made a second render");
        }
        let expectation = Expectation {
            org: render.org,
            price: render.price.0,
            samples: render.spec.samples,
            destiny: Destiny::of(render.spec.seed),
            cancelled: false,
            seen: Status::Queued,
            epoch: 0,
        };
        assert!(self.renders.insert(render.id, expectation).is_none(), "an id was given twice");
    }

    /// A repeated request was answered with this render.
    pub(crate) fn repeated(&self, key: &str, render: RenderId) {
        assert_eq!(self.keys.get(key), Some(&render), "a key was answered with another render");
    }

    /// A cancel was accepted: whatever happens now, the render is cancelled and costs nothing.
    pub(crate) fn cancelled(&mut self, render: RenderId) {
        let known = self.renders.get_mut(&render).expect("only known renders are cancelled");
        assert!(!known.seen.is_terminal() || known.cancelled, "an ended render took a cancel");
        known.cancelled = true;
    }

    /// A cancel was refused because the render had ended.
    pub(crate) fn cancel_refused(&mut self, render: &Render) {
        assert!(render.status.is_terminal());
        self.observe(render);
    }

    /// Renders that have not been seen to end.
    pub(crate) fn live(&self) -> Vec<RenderId> {
        self.renders.iter().filter(|(_, render)| !render.seen.is_terminal()).map(|(id, _)| *id).collect()
    }

    /// Every render there is.
    pub(crate) fn all(&self) -> Vec<(OrgId, RenderId)> {
        self.renders.iter().map(|(id, render)| (render.org, *id)).collect()
    }

    fn observe(&mut self, render: &Render) {
        let known = self.renders.get_mut(&render.id).expect("the store has no render of its own making");
        assert!(
            !known.seen.is_terminal() || known.seen == render.status,
            "{} left a terminal state",
            render.id
        );
        assert!(known.epoch <= render.epoch.0, "the epoch of {} fell", render.id);
        known.seen = render.status;
        known.epoch = render.epoch.0;
    }

    /// What must hold at every moment.
    pub(crate) async fn check(&mut self, store: &dyn Store) {
        let audit = store.audit().await.expect("the store answers");
        assert!(audit.ok(), "{:#?}", audit.violations);
        assert_eq!(audit.renders as usize, self.renders.len(), "renders were lost or made up");
        for id in self.live() {
            let org = self.renders[&id].org;
            let render = store.render(org, id).await.expect("the store answers").expect("no render is lost");
            self.observe(&render);
        }
        for org in self.granted.keys() {
            let balance = store.balance(*org).await.expect("the store answers");
            assert_eq!(balance.posted.0 - balance.held.0, self.available(*org), "available credits of {org}");
        }
    }

    /// What must have come of everything once all has ended.
    pub(crate) async fn check_end(&mut self, store: &dyn Store, blobs: &dyn BlobStore) {
        self.check(store).await;
        for (id, expected) in &self.renders {
            let render =
                store.render(expected.org, *id).await.expect("the store answers").expect("no render is lost");
            let poisoned =
                render.failure.as_ref().is_some_and(|failure| failure.code == FailureCode::LeaseLost);
            let kinds: Vec<EntryKind> = store
                .ledger_of_render(*id)
                .await
                .expect("the store answers")
                .iter()
                .map(|entry| entry.kind)
                .collect();
            let status = match (expected.cancelled, expected.destiny.failure()) {
                (true, _) => Status::Cancelled,
                (false, None) if !poisoned => Status::Succeeded,
                (false, _) => Status::Failed,
            };
            assert_eq!(render.status, status, "{id}: {expected:?}, {:?}", render.failure);
            if poisoned {
                assert!(
                    render.epoch.0 >= i64::from(limits::LOST_LEASES_MAX),
                    "{id} was called poison too early"
                );
            } else if status == Status::Failed {
                assert_eq!(render.failure.map(|failure| failure.code), expected.destiny.failure(), "{id}");
            }
            if status == Status::Succeeded {
                assert_eq!(kinds, [EntryKind::Hold, EntryKind::Capture], "{id}");
                assert_eq!(
                    render.artifacts.len() as u32,
                    expected.destiny.delivered(expected.samples),
                    "{id}"
                );
            } else {
                assert_eq!(kinds, [EntryKind::Hold, EntryKind::Void], "{id}");
            }
            for artifact in &render.artifacts {
                let bytes = blobs.len(&artifact.object_key).await.expect("the object store answers");
                assert_eq!(bytes, Some(artifact.bytes), "an artifact of {id} is not there");
            }
        }
        for org in self.granted.keys() {
            assert_eq!(store.balance(*org).await.expect("the store answers").held.0, 0);
        }
    }
}
