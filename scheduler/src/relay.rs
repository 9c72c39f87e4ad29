//! Carries out what transactions promised, while this replica leads: publishes jobs, tells workers, erases
//! objects.
//!
//! A row is forgotten only after its deed is done, so a crash in between does it twice; every deed
//! may be done twice. Many are under way at once; those of one render one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kraftr_protocol::RenderId;
use kraftr_protocol::message::Control;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ahead::Ahead;
use crate::app::App;
use crate::store::{Notice, OutboxRow, StoreError, Topic};
use crate::wake::woken;

/// Rows of one pass.
const BATCH: u32 = 512;
/// Deeds under way at once.
const AT_ONCE: usize = 256;
/// Rows under way, those that are done and not yet forgotten included.
const UNDER_WAY_MAX: usize = 512;
/// How long what is done may wait to be forgotten, and how much of it.
const SETTLE_EVERY: Duration = Duration::from_millis(25);
/// See [`SETTLE_EVERY`].
const SETTLE_AT_ONCE: usize = 128;
/// How often it looks without being woken.
const POLL: Duration = Duration::from_millis(250);

/// What became of rows that follow on each other.
#[derive(Default)]
struct Outcome {
    done: Vec<i64>,
    put_off: Vec<i64>,
}

/// One pass over the oldest rows that are due; says how many were done.
pub async fn step(app: &App) -> Result<usize, StoreError> {
    let rows = app.store.outbox(BATCH).await?;
    let done = carry_out(app, rows).await?;
    settle(app, &done).await?;
    Ok(done.len())
}

/// Does what these rows say, and puts off what could not be done; which are done.
async fn carry_out(app: &App, rows: Vec<OutboxRow>) -> Result<Vec<i64>, StoreError> {
    let outcome = futures::stream::iter(chains(rows))
        .map(|chain| perform_in_order(app, chain))
        .buffer_unordered(AT_ONCE)
        .fold(Outcome::default(), async |mut all, chain| {
            all.done.extend(chain.done);
            all.put_off.extend(chain.put_off);
            all
        })
        .await;
    if !outcome.put_off.is_empty() {
        app.store.defer_outbox(&outcome.put_off).await?;
    }
    Ok(outcome.done)
}

/// Forgets what is done.
async fn settle(app: &App, done: &[i64]) -> Result<(), StoreError> {
    if done.is_empty() { Ok(()) } else { app.store.settle_outbox(done).await }
}

/// The rows of each render, in order; a row without a render stands alone.
fn chains(rows: Vec<OutboxRow>) -> Vec<Vec<OutboxRow>> {
    let mut chains: Vec<Vec<OutboxRow>> = Vec::new();
    let mut of_render: BTreeMap<RenderId, usize> = BTreeMap::new();
    for row in rows {
        let next = chains.len();
        let at = row.topic.render().map_or(next, |render| *of_render.entry(render).or_insert(next));
        if at == next {
            chains.push(Vec::new());
        }
        chains[at].push(row);
    }
    chains
}

/// Stops at the first that fails: what comes after it waits behind it.
async fn perform_in_order(app: &App, rows: Vec<OutboxRow>) -> Outcome {
    let mut outcome = Outcome::default();
    for row in rows {
        match perform(app, &row.topic).await {
            Ok(()) => outcome.done.push(row.id),
            Err(error) => {
                tracing::warn!(outbox.id = row.id, outbox.tries = row.tries, error, "put off");
                outcome.put_off.push(row.id);
                break;
            }
        }
    }
    outcome
}

async fn perform(app: &App, topic: &Topic) -> Result<(), String> {
    match topic {
        Topic::Job { lane, job } => {
            if !app.ahead.take_published(*job) {
                app.transport.publish_job(lane, *job).await.map_err(|error| error.to_string())?;
            }
        }
        Topic::Cancel { render } => app.transport.publish_control(Control::Cancel { render: *render }),
        Topic::Erase { object_key } => {
            app.blobs.delete(object_key).await.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// What is under way: the rows that the outbox still has and nobody may take, and the renders whose later rows wait.
#[derive(Default)]
struct UnderWay {
    rows: BTreeSet<i64>,
    renders: BTreeSet<RenderId>,
    /// The last look found rows that wait behind others of their render.
    held_back: bool,
}

impl UnderWay {
    /// Takes on what is neither under way nor behind something that is.
    fn take_on(&mut self, due: Vec<OutboxRow>, ahead: &Ahead) -> Vec<OutboxRow> {
        let busy = self.renders.clone();
        let mut taken = Vec::new();
        self.held_back = false;
        for row in due {
            let render = row.topic.render();
            if self.rows.contains(&row.id) {
                continue;
            }
            if render.is_some_and(|render| busy.contains(&render) || ahead.is_under_way(render)) {
                self.held_back = true;
                continue;
            }
            self.rows.insert(row.id);
            self.renders.extend(render);
            taken.push(row);
        }
        taken
    }

    /// A pass has ended: what is not done is due again, now or when it was put off to.
    fn tried(&mut self, rows: &[OutboxRow], done: &[i64]) {
        let done: BTreeSet<&i64> = done.iter().collect();
        for row in rows {
            if let Some(render) = row.topic.render() {
                self.renders.remove(&render);
            }
            if !done.contains(&row.id) {
                self.rows.remove(&row.id);
            }
        }
    }

    /// The outbox does not have these any more, or they are done again.
    fn settled(&mut self, done: &[i64]) {
        for row in done {
            self.rows.remove(row);
        }
    }
}

/// Passes until `shutdown`; the next begins while the deeds of the last are confirmed. What is done is forgotten for
/// many passes together.
pub async fn run(app: &App, shutdown: CancellationToken) {
    let mut notices = app.store.notices();
    let mut under_way = UnderWay::default();
    let mut passes = FuturesUnordered::new();
    let mut done = Vec::new();
    let mut settle_at = Instant::now();
    let mut look = true;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = app.leadership.leading() => {}
        }
        if look && under_way.rows.len() < UNDER_WAY_MAX {
            match app.store.outbox(BATCH).await {
                Ok(due) => {
                    // A full answer may not be all; what waits behind something under way is looked for after that.
                    look = due.len() == BATCH as usize;
                    let rows = under_way.take_on(due, &app.ahead);
                    if !rows.is_empty() {
                        passes.push(async { (carry_out(app, rows.clone()).await, rows) });
                    }
                }
                Err(error) => tracing::error!(%error, "the outbox could not be read"),
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some((outcome, rows)) = passes.next() => {
                let now_done = outcome.unwrap_or_else(|error| {
                    tracing::error!(%error, "the outbox could not be written; its deeds are done again");
                    Vec::new()
                });
                look |= now_done.len() < rows.len() || under_way.held_back;
                under_way.tried(&rows, &now_done);
                if done.is_empty() {
                    settle_at = Instant::now() + SETTLE_EVERY;
                }
                done.extend(now_done);
            }
            () = app.ahead.failed() => look = true,
            () = tokio::time::sleep_until(settle_at), if !done.is_empty() => {}
            () = woken(&mut notices, POLL, |notice| *notice == Notice::Outbox) => look = true,
        }
        if done.len() >= SETTLE_AT_ONCE || (!done.is_empty() && settle_at <= Instant::now()) {
            if let Err(error) = settle(app, &done).await {
                tracing::error!(%error, "the outbox could not be settled; its deeds are done again");
                tokio::time::sleep(POLL).await;
            }
            under_way.settled(&done);
            done.clear();
        }
    }
    if let Err(error) = settle(app, &done).await {
        tracing::warn!(%error, "the outbox could not be settled; its deeds are done again");
    }
}

#[cfg(test)]
mod tests {
    use kraftr_protocol::message::Job;
    use kraftr_protocol::{Class, Lane};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn rows_of_a_render_follow_on_each_other_and_the_others_do_not() {
        let render = |n| RenderId(Uuid::from_u128(n));
        let lane = Lane { pool: "p".into(), release: "r".into(), class: Class::Batch };
        let topics = [
            Topic::Job { lane, job: Job { render: render(1), attempt: 1 } },
            Topic::Erase { object_key: "a".into() },
            Topic::Cancel { render: render(2) },
            Topic::Cancel { render: render(1) },
            Topic::Erase { object_key: "b".into() },
        ];
        let rows = (0i64..).zip(topics).map(|(id, topic)| OutboxRow { id, topic, tries: 0 }).collect();
        let rows: Vec<OutboxRow> = rows;
        let (mut under_way, ahead) = (UnderWay::default(), Ahead::default());
        let first = under_way.take_on(rows[..1].to_vec(), &ahead);
        let second: Vec<i64> = under_way.take_on(rows.clone(), &ahead).iter().map(|row| row.id).collect();
        assert_eq!(second, [1, 2, 4], "a row waits behind one of its render that is under way");
        under_way.tried(&first, &[0]);
        let ids = |rows: Vec<OutboxRow>| rows.iter().map(|row| row.id).collect::<Vec<_>>();
        assert_eq!(
            ids(under_way.take_on(rows.clone(), &ahead)),
            [3],
            "what is done and not yet forgotten stays away"
        );
        under_way.tried(&rows[3..4], &[]);
        assert_eq!(ids(under_way.take_on(rows.clone(), &ahead)), [3], "what is not done is taken again");
        under_way.tried(&rows[3..4], &[3]);
        under_way.settled(&[0, 3]);
        assert_eq!(
            under_way.take_on(rows.clone(), &ahead).iter().map(|row| row.id).collect::<Vec<_>>(),
            [0, 3]
        );
        let ids: Vec<Vec<i64>> =
            chains(rows).iter().map(|chain| chain.iter().map(|row| row.id).collect()).collect();
        assert_eq!(ids, [vec![0, 3], vec![1], vec![2], vec![4]]);
    }
}
