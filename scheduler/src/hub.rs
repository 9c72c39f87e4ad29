//! Progress of running renders, for those who watch: the latest step and preview of each render, and a
//! wake-up for every watcher when something changes.
//!
//! Nothing depends on what is kept here: it may be lost, it is bounded, and it is gone after a restart.
//! The database says what a render's state is.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kraftr_protocol::limits::{PREVIEW_BYTES_MAX, SAMPLES_MAX};
use kraftr_protocol::{Epoch, Progress, ProgressBody, RenderId};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::store::Notice;

/// Renders whose progress is kept.
const RENDERS_MAX: usize = 10_000;
/// Bytes of all previews together.
const PREVIEWS_BYTES_MAX: usize = 64 << 20;
/// Pause before progress is listened to again after the transport failed.
const PAUSE: Duration = Duration::from_secs(1);

/// The latest progress of one render.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latest {
    /// The claim that it belongs to; progress of earlier ones is gone.
    pub epoch: Epoch,
    /// Steps done and steps in all.
    pub step: Option<(u32, u32)>,
    /// The newest preview of each image.
    pub previews: BTreeMap<u32, Preview>,
}

/// A small picture of what the model expects to come out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Steps that were done.
    pub step: u32,
    /// Media type of `data`.
    pub content_type: String,
    /// The file.
    pub data: Bytes,
}

/// What is known about the progress of every running render.
#[derive(Debug, Clone, Default)]
pub struct Hub(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    latest: HashMap<RenderId, (u64, Latest)>,
    /// Renders by when they were last heard of; the first is forgotten first.
    by_age: BTreeMap<u64, RenderId>,
    ticks: u64,
    previews_bytes: usize,
    watchers: HashMap<RenderId, watch::Sender<()>>,
}

impl Hub {
    /// Takes note of a progress message and wakes who watches that render. Progress of a claim that a
    /// newer one has replaced, or that a later step has overtaken, changes nothing.
    pub fn apply(&self, progress: &Progress) {
        let mut inner = self.lock();
        let news = match &progress.body {
            ProgressBody::Step { step, steps } => inner.note(progress, |latest| {
                let newer = latest.step.is_none_or(|(known, _)| known < *step);
                if newer {
                    latest.step = Some((*step, *steps));
                }
                newer
            }),
            ProgressBody::Preview { sample, step, content_type, data } => {
                let fits = data.len() <= PREVIEW_BYTES_MAX && *sample < SAMPLES_MAX;
                fits && inner.note(progress, |latest| {
                    let newer = latest.previews.get(sample).is_none_or(|known| known.step < *step);
                    if newer {
                        let data = Bytes::copy_from_slice(data);
                        let preview = Preview { step: *step, content_type: content_type.clone(), data };
                        latest.previews.insert(*sample, preview);
                    }
                    newer
                })
            }
        };
        if news {
            inner.wake(progress.render);
        }
    }

    /// Wakes who watches that render: its row changed.
    pub fn changed(&self, render: RenderId) {
        self.lock().wake(render);
    }

    /// The latest progress of a render, if any was heard.
    pub fn latest(&self, render: RenderId) -> Option<Latest> {
        self.lock().latest.get(&render).map(|(_, latest)| latest.clone())
    }

    /// Steps that the claim of that epoch has done, as far as was heard.
    pub fn step(&self, render: RenderId, epoch: Epoch) -> Option<u32> {
        let inner = self.lock();
        let (_, latest) = inner.latest.get(&render)?;
        latest.step.filter(|_| latest.epoch == epoch).map(|(step, _)| step)
    }

    /// Wakes on every change from now on. Watch first and read the database then, so that nothing falls
    /// in between.
    pub fn watch(&self, render: RenderId) -> Watch {
        let news = self.lock().watchers.entry(render).or_insert_with(|| watch::Sender::new(())).subscribe();
        Watch { hub: self.clone(), render, news }
    }

    /// Forgets a render that has ended.
    pub fn forget(&self, render: RenderId) {
        self.lock().forget(render);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Lets `change` write to what is known about the claim that `progress` is of; true when it did.
    fn note(&mut self, progress: &Progress, change: impl FnOnce(&mut Latest) -> bool) -> bool {
        let known = self.latest.get(&progress.render).map(|(_, latest)| latest.epoch);
        if known.is_some_and(|epoch| epoch > progress.epoch) {
            return false;
        }
        let mut latest = self.forget(progress.render).filter(|latest| latest.epoch == progress.epoch);
        let fresh = Latest { epoch: progress.epoch, ..Latest::default() };
        let changed = change(latest.get_or_insert(fresh));
        if let Some(latest) = latest {
            self.keep(progress.render, latest);
        }
        changed
    }

    fn wake(&self, render: RenderId) {
        if let Some(watchers) = self.watchers.get(&render) {
            watchers.send_replace(());
        }
    }

    fn keep(&mut self, render: RenderId, latest: Latest) {
        self.ticks += 1;
        self.previews_bytes += weight(&latest);
        self.by_age.insert(self.ticks, render);
        self.latest.insert(render, (self.ticks, latest));
        while self.latest.len() > RENDERS_MAX || self.previews_bytes > PREVIEWS_BYTES_MAX {
            let Some((_, oldest)) = self.by_age.first_key_value() else { break };
            self.forget(*oldest);
        }
    }

    fn forget(&mut self, render: RenderId) -> Option<Latest> {
        let (tick, latest) = self.latest.remove(&render)?;
        self.by_age.remove(&tick);
        self.previews_bytes -= weight(&latest);
        Some(latest)
    }
}

fn weight(latest: &Latest) -> usize {
    latest.previews.values().map(|preview| preview.data.len()).sum()
}

/// A watcher of one render.
#[derive(Debug)]
pub struct Watch {
    hub: Hub,
    render: RenderId,
    news: watch::Receiver<()>,
}

impl Watch {
    /// Resolves when something changed since the last call, or since the watch began.
    pub async fn changed(&mut self) {
        if self.news.changed().await.is_err() {
            // The sender lives as long as a watcher does; without it nothing will ever change.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut inner = self.hub.lock();
        if inner.watchers.get(&self.render).is_some_and(|watchers| watchers.receiver_count() <= 1) {
            inner.watchers.remove(&self.render);
        }
    }
}

/// Feeds the hub until `shutdown` or until the transport closes.
pub async fn run(app: &App, shutdown: CancellationToken) {
    tokio::join!(hear_workers(app, &shutdown), hear_store(app, &shutdown));
}

async fn hear_store(app: &App, shutdown: &CancellationToken) {
    let mut notices = app.store.notices();
    loop {
        let notice = tokio::select! {
            () = shutdown.cancelled() => return,
            notice = notices.recv() => notice,
        };
        match notice {
            Ok(Notice::Changed(renders)) => renders.iter().for_each(|render| app.hub.changed(*render)),
            // Watchers that missed something poll.
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

async fn hear_workers(app: &App, shutdown: &CancellationToken) {
    loop {
        match app.transport.consume_progress().await {
            Ok(mut source) => loop {
                let progress = tokio::select! {
                    () = shutdown.cancelled() => return,
                    progress = source.next() => progress,
                };
                match progress {
                    Some(progress) => app.hub.apply(&progress),
                    None => break,
                }
            },
            Err(error) if error.is_permanent() => return,
            Err(error) => tracing::warn!(%error, "progress cannot be listened to"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use uuid::Uuid;

    fn render(n: u128) -> RenderId {
        RenderId(Uuid::from_u128(n))
    }

    fn step(n: u128, epoch: i64, step: u32) -> Progress {
        Progress { render: render(n), epoch: Epoch(epoch), body: ProgressBody::Step { step, steps: 20 } }
    }

    fn preview(n: u128, sample: u32, step: u32, bytes: usize) -> Progress {
        let body = ProgressBody::Preview {
            sample,
            step,
            content_type: "image/jpeg".into(),
            data: vec![step as u8; bytes],
        };
        Progress { render: render(n), epoch: Epoch(1), body }
    }

    #[test]
    fn a_stale_claim_never_overwrites_a_newer_one() {
        let hub = Hub::default();
        hub.apply(&step(1, 1, 9));
        hub.apply(&step(1, 2, 3));
        hub.apply(&step(1, 1, 10));
        assert_eq!(hub.latest(render(1)).unwrap().step, Some((3, 20)));
        assert_eq!(hub.step(render(1), Epoch(2)), Some(3));
        assert_eq!(hub.step(render(1), Epoch(3)), None);
        hub.apply(&step(1, 2, 2));
        assert_eq!(hub.step(render(1), Epoch(2)), Some(3), "a reordered step goes backwards");
    }

    #[test]
    fn a_new_claim_begins_without_the_old_one_s_previews() {
        let hub = Hub::default();
        hub.apply(&preview(1, 0, 5, 10));
        hub.apply(&preview(1, 1, 6, 10));
        hub.apply(&preview(1, 0, 4, 10));
        let steps: Vec<u32> =
            hub.latest(render(1)).unwrap().previews.values().map(|preview| preview.step).collect();
        assert_eq!(steps, [5, 6]);
        hub.apply(&step(1, 2, 1));
        assert!(hub.latest(render(1)).unwrap().previews.is_empty());
        assert_eq!(hub.lock().previews_bytes, 0);
    }

    #[tokio::test]
    async fn watchers_wake_on_news_and_only_then() {
        let hub = Hub::default();
        let mut watch = hub.watch(render(1));
        assert!(watch.changed().now_or_never().is_none());
        hub.apply(&step(2, 1, 1));
        assert!(watch.changed().now_or_never().is_none());
        hub.apply(&step(1, 1, 1));
        assert!(watch.changed().now_or_never().is_some());
        hub.apply(&step(1, 1, 1));
        assert!(watch.changed().now_or_never().is_none(), "the same step again is no news");
        hub.changed(render(1));
        assert!(watch.changed().now_or_never().is_some());
        drop(watch);
        assert!(hub.lock().watchers.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let hub = Hub::default();
        for n in 0..RENDERS_MAX as u128 + 5 {
            hub.apply(&step(n, 1, 1));
        }
        assert_eq!(hub.lock().latest.len(), RENDERS_MAX);
        assert_eq!(hub.latest(render(4)), None);
        assert!(hub.latest(render(5)).is_some());
        for n in 0..2_000 {
            hub.apply(&preview(n, 0, 1, PREVIEW_BYTES_MAX));
        }
        assert!(hub.lock().previews_bytes <= PREVIEWS_BYTES_MAX);
        hub.apply(&step(20_000, 1, 1));
        hub.apply(&preview(20_000, 0, 1, PREVIEW_BYTES_MAX + 1));
        hub.apply(&preview(20_000, SAMPLES_MAX, 1, 1));
        assert!(hub.latest(render(20_000)).unwrap().previews.is_empty());
        let inner = hub.lock();
        assert_eq!(inner.latest.len(), inner.by_age.len());
    }
}
