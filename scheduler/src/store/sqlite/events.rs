//! What workers report about their claims.

use kraftr_protocol::Event;

use super::SqliteStore;
use super::renders::load;
use crate::store::{Applied, StoreError, rules};

pub(super) async fn apply(store: &SqliteStore, events: &[Event]) -> Result<Vec<Applied>, StoreError> {
    let mut write = store.write().await?;
    let mut work = write.work();
    let mut outcomes = Vec::with_capacity(events.len());
    for event in events {
        let mut row = work.latest(load(&mut write.tx, event.render).await?);
        outcomes.push(rules::apply(&mut work, row.as_mut(), event)?);
    }
    write.finish(work).await?;
    Ok(outcomes)
}
