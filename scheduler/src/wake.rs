//! Waiting for work: a notice of the store makes a loop prompt, polling makes it sure.

use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::store::Notice;

/// Resolves at the next notice that is `wanted` (one that came since the last call counts), or after `poll`.
pub(crate) async fn woken(
    notices: &mut Receiver<Notice>,
    poll: Duration,
    wanted: impl Fn(&Notice) -> bool + Send,
) {
    let notice = async {
        loop {
            match notices.recv().await {
                Ok(notice) if !wanted(&notice) => {}
                // Whoever fell behind may have missed the one.
                Ok(_) | Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
        // One pass serves all that wait by now.
        while !matches!(notices.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {}
    };
    // Either is as good as the other.
    tokio::time::timeout(poll, notice).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    #[tokio::test(start_paused = true)]
    async fn a_notice_that_came_before_wakes_at_once_and_only_once() {
        let (sender, mut notices) = tokio::sync::broadcast::channel(4);
        let start = tokio::time::Instant::now();
        for notice in [Notice::Outbox, Notice::Queue, Notice::Queue] {
            sender.send(notice).unwrap();
        }
        woken(&mut notices, LONG, |notice| *notice == Notice::Queue).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        woken(&mut notices, LONG, |notice| *notice == Notice::Queue).await;
        assert_eq!(start.elapsed(), LONG, "three notices were one wake-up");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_fell_behind_is_woken() {
        let (sender, mut notices) = tokio::sync::broadcast::channel(2);
        for _ in 0..9 {
            sender.send(Notice::Outbox).unwrap();
        }
        let start = tokio::time::Instant::now();
        woken(&mut notices, LONG, |notice| *notice == Notice::Queue).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
