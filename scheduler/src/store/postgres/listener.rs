//! Notices between processes: `NOTIFY` after the transactions that have something to tell, `LISTEN` in every
//! replica. Not within them: commits that notify wait for each other.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kraftr_protocol::RenderId;
use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::{Notify, broadcast};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::store::notices::{Notice, Notices};

const CHANNEL: &str = "kraftr";
/// Renders named in one notification, which has less than 8,000 bytes.
const RENDERS_MAX: usize = 200;
/// Pause between two notifications.
const TELL_EVERY: Duration = Duration::from_millis(10);
/// Pause before the connection that listens is made again.
const PAUSE: Duration = Duration::from_secs(1);

/// Who told something: it need not hear it again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender(u64);

impl Sender {
    pub(super) const fn new(random: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(random))
    }

    fn prefix(self) -> String {
        format!("{:016x}:", self.0)
    }
}

/// Tells the other replicas what was committed, in the background and many commits at once.
pub(super) struct Teller {
    line: Arc<Line>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Line {
    waiting: Mutex<Notices>,
    added: Notify,
}

impl Teller {
    pub(super) fn start(pool: PgPool, sender: Sender) -> Self {
        let line = Arc::<Line>::default();
        let task = tokio::spawn(tell_all(pool, sender, Arc::clone(&line)));
        Self { line, _task: AbortOnDropHandle::new(task) }
    }

    /// Never waits. What the process takes with it when it ends is found by polling.
    pub(super) fn tell(&self, notices: Notices) {
        self.line.waiting.lock().unwrap_or_else(PoisonError::into_inner).merge(notices);
        self.line.added.notify_one();
    }
}

async fn tell_all(pool: PgPool, sender: Sender, line: Arc<Line>) {
    loop {
        line.added.notified().await;
        let notices = mem::take(&mut *line.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if let Err(error) = notify(&pool, sender, &notices).await {
            tracing::warn!(%error, "other replicas were not told; they poll");
        }
        tokio::time::sleep(TELL_EVERY).await;
    }
}

async fn notify(pool: &PgPool, sender: Sender, notices: &Notices) -> Result<(), sqlx::Error> {
    let prefix = sender.prefix();
    let payloads: Vec<String> =
        payloads(notices).into_iter().map(|payload| prefix.clone() + &payload).collect();
    if !payloads.is_empty() {
        sqlx::query("SELECT pg_notify($1, payload) FROM UNNEST($2::text[]) AS told (payload)")
            .bind(CHANNEL)
            .bind(payloads)
            .execute(pool)
            .await?;
    }
    Ok(())
}

/// `q` for the queue, `o` for the outbox, then the renders that changed.
fn payloads(notices: &Notices) -> Vec<String> {
    let mut flags = String::new();
    if notices.queue {
        flags.push('q');
    }
    if notices.outbox {
        flags.push('o');
    }
    let mut payloads: Vec<String> = notices
        .changed
        .chunks(RENDERS_MAX)
        .map(|renders| renders.iter().map(|render| render.0.simple().to_string()).collect())
        .collect();
    if payloads.is_empty() && !flags.is_empty() {
        payloads.push(String::new());
    }
    if let Some(first) = payloads.first_mut() {
        first.insert_str(0, &flags);
    }
    payloads
}

/// What a payload says; what it does not say well is nothing.
fn read(payload: &str) -> Notices {
    let ids = payload.trim_start_matches(['q', 'o']);
    let flags = &payload[..payload.len() - ids.len()];
    let changed =
        ids.as_bytes().chunks(32).filter_map(|id| Uuid::try_parse_ascii(id).ok().map(RenderId)).collect();
    Notices { queue: flags.contains('q'), outbox: flags.contains('o'), changed }
}

/// Passes on what others tell, for ever. Whatever is missed while the connection is away is hinted at
/// afterwards.
pub(super) async fn listen(pool: PgPool, own: Sender, channel: broadcast::Sender<Notice>) {
    loop {
        if let Err(error) = listen_once(&pool, own, &channel).await {
            tracing::warn!(%error, "the database's notices cannot be heard; polling meanwhile");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen_once(
    pool: &PgPool,
    own: Sender,
    channel: &broadcast::Sender<Notice>,
) -> Result<(), sqlx::Error> {
    let own = own.prefix();
    let mut listener = PgListener::connect_with(pool).await?;
    listener.ignore_pool_close_event(false);
    listener.listen(CHANNEL).await?;
    Notices { queue: true, outbox: true, changed: Vec::new() }.send(channel);
    // `None` says that the connection was lost.
    while let Some(notification) = listener.try_recv().await? {
        let told = notification.payload();
        if let Some((_, payload)) = told.split_once(':').filter(|_| !told.starts_with(&own)) {
            read(payload).send(channel);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_read_back_and_stay_short() {
        for (queue, outbox, count) in
            [(true, true, 0), (true, false, 1), (false, true, 450), (false, false, 3)]
        {
            let changed: Vec<RenderId> =
                (0..count).map(|n: u128| RenderId(Uuid::from_u128(u128::MAX - n))).collect();
            let payloads = payloads(&Notices { queue, outbox, changed: changed.clone() });
            assert!(payloads.iter().all(|payload| payload.len() < 8_000));
            let read: Vec<Notices> = payloads.iter().map(|payload| read(payload)).collect();
            assert_eq!(read.iter().any(|notices| notices.queue), queue);
            assert_eq!(read.iter().any(|notices| notices.outbox), outbox);
            assert_eq!(read.into_iter().flat_map(|notices| notices.changed).collect::<Vec<_>>(), changed);
        }
        assert!(payloads(&Notices::default()).is_empty());
        assert!(read("nonsense").changed.is_empty());
    }
}
