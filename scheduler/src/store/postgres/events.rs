//! What workers report about their claims.

use kraftr_protocol::Event;

use super::{PgStore, renders};
use crate::store::{Applied, StoreError, rules};

pub(super) async fn apply(store: &PgStore, events: &[Event]) -> Result<Vec<Applied>, StoreError> {
    let mut locks = store.begin().await?;
    let rows = renders::lock(&mut locks, events.iter().map(|event| event.render)).await?;
    let write = store.at_work(locks).await?;
    let mut work = write.work();
    let mut outcomes = Vec::with_capacity(events.len());
    for event in events {
        let mut row = work.latest(rows.get(&event.render).cloned());
        outcomes.push(rules::apply(&mut work, row.as_mut(), event)?);
    }
    write.finish(work).await?;
    Ok(outcomes)
}
