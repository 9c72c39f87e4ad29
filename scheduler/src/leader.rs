//! Who leads: one replica dispatches, relays, reaps and sweeps; the others serve requests, claims and
//! events and stand by.
//!
//! The store is authoritative: a row names the leader, its term and until when it leads. A term is a
//! number that rises whenever leadership changes hands; [`Store::dispatch`](crate::store::Store::dispatch)
//! checks it inside its transaction, so a replica that was stopped for an hour and wakes up believing
//! that it leads dispatches nothing. The other loops of a leader may run twice for a while: what they do
//! may be done twice.
//!
//! ```text
//! leader    ask ──── trust: ask + lease ──┤ stops by itself
//! store       granted ──── lease ───────────┤ free
//! standby        ask     ask     ask     ask  └ ask: the next term
//!            every `LEADER_RENEW`
//! ```
//!
//! A leader that ends on purpose resigns, and a standby takes over at its next look; one that dies is
//! followed after the lease and one look: `LEADER_LEASE + LEADER_RENEW`.

use kraftr_protocol::limits::{LEADER_LEASE, LEADER_RENEW};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::app::App;
use crate::store::{StoreError, Term};

/// Whether this replica leads.
#[derive(Debug)]
pub struct Leadership {
    replica: Uuid,
    term: watch::Sender<Option<Term>>,
}

/// Why a replica leads no more.
#[derive(Debug, Clone, Copy)]
enum Why {
    Lost,
    Resigned,
}

impl Leadership {
    /// A replica that does not lead yet.
    pub fn new(replica: Uuid) -> Self {
        Self { replica, term: watch::Sender::new(None) }
    }

    /// Who this replica is in the leader's row: new at every start.
    pub const fn replica(&self) -> Uuid {
        self.replica
    }

    /// The term in which this replica leads, if it does.
    pub fn term(&self) -> Option<Term> {
        *self.term.borrow()
    }

    /// Resolves once this replica leads.
    pub async fn leading(&self) -> Term {
        let mut term = self.term.subscribe();
        let term = term.wait_for(Option::is_some).await.map(|term| *term);
        // The sender is part of `self`, so it is there.
        term.ok().flatten().expect("a leadership outlives who waits for it")
    }

    /// Takes note that `term` is over, as the database said.
    pub fn lost(&self, term: Term) {
        if self.term() == Some(term) {
            self.set(None, Why::Lost);
        }
    }

    fn set(&self, term: Option<Term>, why: Why) {
        self.term.send_if_modified(|known| {
            let changed = *known != term;
            if changed {
                match (term, why) {
                    (Some(Term(number)), _) => tracing::info!(leader.term = number, "leads"),
                    (None, Why::Lost) => tracing::warn!("leads no more"),
                    (None, Why::Resigned) => tracing::info!("resigns"),
                }
            }
            *known = term;
            changed
        });
    }
}

/// Asks for the lead, or for more of it; one look.
pub async fn step(app: &App) -> Result<Option<Term>, StoreError> {
    let term = app.store.lead(app.leadership.replica()).await?;
    app.leadership.set(term, Why::Lost);
    Ok(term)
}

/// Leads or stands by until `shutdown`, then resigns.
pub async fn run(app: &App, shutdown: CancellationToken) {
    let mut trusted_until = Instant::now();
    loop {
        let asked = Instant::now();
        // An answer that comes after the trust is over is one about the past.
        match tokio::time::timeout(LEADER_LEASE, step(app)).await {
            Ok(Ok(Some(_))) => trusted_until = asked + LEADER_LEASE,
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::error!(%error, "the leader's row could not be read"),
            Err(_) => tracing::error!("the database does not answer"),
        }
        if app.leadership.term().is_some() && trusted_until <= Instant::now() {
            app.leadership.set(None, Why::Lost);
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(LEADER_RENEW) => {}
        }
    }
    if app.leadership.term().is_some() {
        app.leadership.set(None, Why::Resigned);
        if let Err(error) = app.store.resign(app.leadership.replica()).await {
            tracing::warn!(%error, "could not resign; the lease runs out by itself");
        }
    }
}
