//! Group commit: calls that arrive while a batch is under way form the next batch.
//!
//! A database commits a hundred rows for little more than one. Whoever calls first runs the batch for
//! everybody who waits by then; nobody waits for a batch to fill, so a lonely call is as fast as
//! without.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// What runs a batch: as many outcomes as items, in order.
type Run<T, R> = dyn Fn(Vec<T>) -> Pin<Box<dyn Future<Output = Vec<R>> + Send>> + Send + Sync;

/// Turns single calls into batches, one batch at a time.
pub(crate) struct Group<T, R> {
    shared: Arc<Shared<T, R>>,
}

struct Shared<T, R> {
    waiting: Mutex<Vec<(T, oneshot::Sender<R>)>>,
    turn: Arc<tokio::sync::Mutex<()>>,
    batch_max: usize,
    run: Box<Run<T, R>>,
}

impl<T, R> std::fmt::Debug for Group<T, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("batch_max", &self.shared.batch_max).finish_non_exhaustive()
    }
}

impl<T: Send + 'static, R: Send + 'static> Group<T, R> {
    /// A group whose batches have at most `batch_max` items and are done by `run`.
    pub(crate) fn new<F>(batch_max: usize, run: impl Fn(Vec<T>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Vec<R>> + Send + 'static,
    {
        let run: Box<Run<T, R>> = Box::new(move |items| Box::pin(run(items)));
        let turn = Arc::default();
        Self { shared: Arc::new(Shared { waiting: Mutex::default(), turn, batch_max, run }) }
    }

    /// Does `item` within some batch. `None` when that batch crashed.
    ///
    /// The batch goes on when this future is dropped: it holds other callers' items too.
    pub(crate) async fn call(&self, item: T) -> Option<R> {
        let (sender, mut outcome) = oneshot::channel();
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((item, sender));
        loop {
            tokio::select! {
                biased;
                outcome = &mut outcome => return outcome.ok(),
                turn = Arc::clone(&self.shared.turn).lock_owned() => {
                    let shared = Arc::clone(&self.shared);
                    let batch = tokio::spawn(async move {
                        shared.run_batch().await;
                        drop(turn);
                    });
                    if let Err(crash) = batch.await {
                        tracing::error!(%crash, "a batch crashed");
                    }
                }
            }
        }
    }
}

impl<T, R> Shared<T, R> {
    async fn run_batch(&self) {
        let batch: Vec<_> = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let count = waiting.len().min(self.batch_max);
            waiting.drain(..count).collect()
        };
        if batch.is_empty() {
            return;
        }
        let (items, senders): (Vec<T>, Vec<_>) = batch.into_iter().unzip();
        for (sender, outcome) in senders.into_iter().zip((self.run)(items).await) {
            // A caller that has gone does not want to know.
            drop(sender.send(outcome));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn calls_that_wait_together_are_one_batch() {
        let batches = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let group = {
            let (batches, gate) = (Arc::clone(&batches), Arc::clone(&gate));
            Group::new(100, move |items: Vec<u32>| {
                let (batches, gate) = (Arc::clone(&batches), Arc::clone(&gate));
                async move {
                    batches.fetch_add(1, Ordering::SeqCst);
                    gate.acquire().await.unwrap().forget();
                    items.into_iter().map(|item| item * 2).collect()
                }
            })
        };
        let group = Arc::new(group);
        let mut calls = tokio::task::JoinSet::new();
        for item in 0..50 {
            let group = Arc::clone(&group);
            calls.spawn(async move { (item, group.call(item).await) });
        }
        tokio::task::yield_now().await;
        gate.add_permits(1_000);
        while let Some(done) = calls.join_next().await {
            let (item, outcome) = done.unwrap();
            assert_eq!(outcome, Some(item * 2));
        }
        assert!(batches.load(Ordering::SeqCst) <= 2, "{batches:?} batches for 50 calls that waited together");
    }

    #[tokio::test]
    async fn a_batch_is_bounded_and_everybody_is_answered() {
        let group = Arc::new(Group::new(3, |items: Vec<u32>| async move {
            assert!(items.len() <= 3);
            items
        }));
        let answers = futures::future::join_all((0..20).map(|item| group.call(item))).await;
        assert_eq!(answers, (0..20).map(Some).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_caller_that_goes_does_not_take_its_batch_along() {
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let group = {
            let gate = Arc::clone(&gate);
            Arc::new(Group::new(10, move |items: Vec<u32>| {
                let gate = Arc::clone(&gate);
                async move {
                    gate.acquire().await.unwrap().forget();
                    items
                }
            }))
        };
        let first = tokio::spawn({
            let group = Arc::clone(&group);
            async move { group.call(1).await }
        });
        tokio::task::yield_now().await;
        let second = tokio::spawn({
            let group = Arc::clone(&group);
            async move { group.call(2).await }
        });
        tokio::task::yield_now().await;
        first.abort();
        gate.add_permits(10);
        assert_eq!(second.await.unwrap(), Some(2));
    }

    #[tokio::test]
    async fn a_crash_ends_its_own_batch_only() {
        let group = Group::new(10, |items: Vec<u32>| async move {
            assert!(!items.contains(&13), "unlucky");
            items
        });
        assert_eq!(group.call(13).await, None);
        assert_eq!(group.call(14).await, Some(14));
    }
}
