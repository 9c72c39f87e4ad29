//! Jobs whose messages go out beside the commit that dispatches them, so that the database's disk and the broker's
//! are waited for at the same time.
//!
//! Only the job of a render that the same transaction submits may go ahead: nobody else can know of it yet. Its outbox
//! row is written all the same and decides: the relay publishes whatever is not known to have gone out in time. A claim
//! that comes before the commit waits for it ([`claims`](crate::claims)), and the message of a commit that failed
//! claims nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{join, join_all};
use futures::stream::FuturesUnordered;
use kraftr_protocol::message::Job;
use kraftr_protocol::{Lane, RenderId};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::app::App;

/// How late a commit may come after its message. After a later one the message counts as lost, since a claim may have
/// been refused by then.
pub(crate) const COMMIT_WITHIN: Duration = Duration::from_secs(1);
/// How long what went out is remembered for the relay, which looks far more often.
const REMEMBERED_FOR: Duration = Duration::from_mins(1);
/// Jobs that are remembered before the old ones are looked for.
const REMEMBERED: usize = 4_096;

/// What went ahead, for the relay.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    jobs: Mutex<BTreeMap<RenderId, (u32, State)>>,
    line: Mutex<Option<mpsc::UnboundedSender<Departure>>>,
    failed: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    UnderWay,
    Published(Instant),
}

/// Jobs of one transaction.
struct Departure {
    jobs: Vec<(Lane, Job)>,
    at: Instant,
    committed: oneshot::Receiver<Instant>,
}

/// To be told of the commit; a transaction that fails drops it.
#[derive(Debug)]
pub(crate) struct Commit(oneshot::Sender<Instant>);

impl Commit {
    /// The transaction is committed.
    pub(crate) fn done(self) {
        // Nobody waits for it when the scheduler stops.
        self.0.send(Instant::now()).ok();
    }
}

impl Ahead {
    /// Sends the jobs of a transaction that is about to be committed. `None` while nobody publishes here.
    pub(crate) fn depart(&self, jobs: &[(Lane, Job)]) -> Option<Commit> {
        let (sender, committed) = oneshot::channel();
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let line = line.as_ref()?;
        self.jobs().extend(jobs.iter().map(|(_, job)| (job.render, (job.attempt, State::UnderWay))));
        let departure = Departure { jobs: jobs.to_vec(), at: Instant::now(), committed };
        line.send(departure).ok().map(|()| Commit(sender))
    }

    /// Whether a job of that render is being published now: its outbox rows wait.
    pub(crate) fn is_under_way(&self, render: RenderId) -> bool {
        matches!(self.jobs().get(&render), Some((_, State::UnderWay)))
    }

    /// Whether that job went out already. Asked once: whoever asks carries out its outbox row.
    pub(crate) fn take_published(&self, job: Job) -> bool {
        let mut jobs = self.jobs();
        let published =
            matches!(jobs.get(&job.render), Some((attempt, State::Published(_))) if *attempt == job.attempt);
        if published {
            jobs.remove(&job.render);
        }
        published
    }

    /// Resolves when a job did not go out.
    pub(crate) async fn failed(&self) {
        self.failed.notified().await;
    }

    fn landed(&self, job: Job, published: bool) {
        let mut jobs = self.jobs();
        if published {
            jobs.insert(job.render, (job.attempt, State::Published(Instant::now())));
        } else {
            jobs.remove(&job.render);
            self.failed.notify_one();
        }
        if jobs.len() > REMEMBERED {
            jobs.retain(
                |_, (_, state)| !matches!(state, State::Published(at) if at.elapsed() > REMEMBERED_FOR),
            );
        }
    }

    fn jobs(&self) -> MutexGuard<'_, BTreeMap<RenderId, (u32, State)>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_line(&self, line: Option<mpsc::UnboundedSender<Departure>>) {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = line;
    }
}

async fn publish(app: &App, departure: Departure) {
    let Departure { jobs, at, committed } = departure;
    let published = join_all(jobs.iter().map(|(lane, job)| app.transport.publish_job(lane, *job)));
    let (published, committed) = join(published, committed).await;
    let in_time = committed.is_ok_and(|commit| commit.duration_since(at) < COMMIT_WITHIN);
    for ((_, job), outcome) in jobs.into_iter().zip(published) {
        if let Err(error) = &outcome {
            tracing::warn!(%error, render.id = %job.render, "could not go ahead of its commit");
        }
        app.ahead.landed(job, in_time && outcome.is_ok());
    }
}

/// Publishes until `shutdown`; while it runs, jobs go ahead.
pub(crate) async fn run(app: &App, shutdown: CancellationToken) {
    let (sender, mut departures) = mpsc::unbounded_channel();
    app.ahead.set_line(Some(sender));
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(departure) = departures.recv() => under_way.push(publish(app, departure)),
            Some(()) = under_way.next() => {}
        }
    }
    app.ahead.set_line(None);
}

#[cfg(test)]
mod tests {
    use kraftr_protocol::Class;
    use uuid::Uuid;

    use super::*;

    fn job(attempt: u32) -> Job {
        Job { render: RenderId(Uuid::from_u128(7)), attempt }
    }

    #[tokio::test]
    async fn the_relay_learns_what_went_out_and_only_that() {
        let ahead = Ahead::default();
        let lane = Lane { pool: "p".into(), release: "r".into(), class: Class::Interactive };
        let jobs = [(lane, job(1))];
        assert!(ahead.depart(&jobs).is_none(), "nobody publishes");
        assert!(!ahead.is_under_way(job(1).render));
        let (sender, _departures) = mpsc::unbounded_channel();
        ahead.set_line(Some(sender));
        assert!(ahead.depart(&jobs).is_some());
        assert!(ahead.is_under_way(job(1).render) && !ahead.take_published(job(1)));
        ahead.landed(job(1), true);
        assert!(!ahead.is_under_way(job(1).render));
        assert!(!ahead.take_published(job(2)), "another attempt is another message");
        assert!(ahead.take_published(job(1)));
        assert!(!ahead.take_published(job(1)), "whoever asks again publishes");
        assert!(ahead.depart(&jobs).is_some());
        ahead.landed(job(1), false);
        ahead.failed().await;
        assert!(!ahead.is_under_way(job(1).render) && !ahead.take_published(job(1)));
    }
}
