//! The event stream of a render: `state`, `step`, `preview`, and `done` at the end.
//!
//! States come from the database, so none is ever missing; steps and previews come from the hub, where
//! only the latest is kept. An id says `revision.step`: with `Last-Event-ID` the stream goes on after
//! the states up to that revision and the steps up to that step.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use futures::Stream;
use kraftr_protocol::{Epoch, OrgId, RenderId, Status, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::auth::Caller;
use super::path::{Id, Noun};
use super::problem::{Code, Problem};
use super::renders::view::RenderView;
use crate::hub::{Latest, Watch};
use crate::store::{Render, StoreError, TransitionRow};

/// How often the database is read without being woken.
const POLL: Duration = Duration::from_secs(2);
/// How often a silent stream says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const LAST_EVENT_ID: &str = "Last-Event-ID";

/// Data of a `state` event.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StateEvent {
    /// Where the render stands now.
    pub status: Status,
    /// Rises by one at every change, from 1.
    pub revision: i64,
    /// When it changed.
    pub at: Timestamp,
    /// Why, in a few words.
    pub reason: String,
}

/// Data of a `step` event.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StepEvent {
    /// Steps done.
    pub step: u32,
    /// Steps in all.
    pub steps: u32,
}

/// Data of a `preview` event: a small marked picture of what is expected to come out.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PreviewEvent {
    /// Which image, from 0.
    pub sample: u32,
    /// Steps that were done.
    pub step: u32,
    /// Media type of the file.
    pub content_type: String,
    /// The file, in base64.
    pub data: String,
}

/// Where a stream goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Position {
    revision: i64,
    step: u32,
}

impl Position {
    fn parse(text: &str) -> Option<Self> {
        let (revision, step) = text.split_once('.')?;
        let plain = |number: &str| number.bytes().all(|digit| digit.is_ascii_digit());
        if !plain(revision) || !plain(step) {
            return None;
        }
        Some(Self { revision: revision.parse().ok()?, step: step.parse().ok()? })
    }

    fn id(self) -> String {
        format!("{}.{}", self.revision, self.step)
    }
}

/// Follows a render until it has ended.
///
/// Server-sent events: `state` for every change of state, `step` and `preview` while it runs, `done` with the
/// whole render at the end, after which the stream closes. A client that lost the connection sends the last id it
/// saw as `Last-Event-ID` and misses no state.
#[utoipa::path(
    get, path = "/v1/renders/{id}/events", tag = "renders", operation_id = "follow_render",
    security(("api_key" = [])),
    params(
        ("id" = RenderId, Path, description = "The render."),
        ("Last-Event-ID" = Option<String>, Header, description = "The last id that was seen, such as `3.12`."),
    ),
    responses((status = OK, description = "The events: `state` has a StateEvent as data, `step` a StepEvent, \
        `preview` a PreviewEvent, `done` a Render.", body = String, content_type = "text/event-stream",
        example = "id: 1.0\nevent: state\ndata: {\"status\":\"queued\",\"revision\":1,\
            \"at\":\"2026-11-23T20:44:00.000000Z\",\"reason\":\"submitted\"}\n\n\
            id: 3.7\nevent: step\ndata: {\"step\":7,\"steps\":20}\n\n")),
)]
pub(super) async fn events(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(id): Id<RenderId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let position = last_position(&headers)?;
    // Watching begins before the database is read: a change in between wakes the watch.
    let watch = api.app.hub.watch(id);
    let found = api.app.store.render(caller.org, id).await?;
    let render = found.ok_or_else(|| Problem::not_found(RenderId::NOUN))?;
    let follower = Follower::new(api, caller.org, watch, &render, position);
    let stream = Sse::new(follower.into_stream()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // Proxies that collect an answer before they pass it on would hold back the events.
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))];
    Ok((unbuffered, stream).into_response())
}

fn last_position(headers: &HeaderMap) -> Result<Position, Problem> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(Position::default()) };
    match value.to_str() {
        // What browsers send before they have seen an id.
        Ok("") => Ok(Position::default()),
        Ok(text) => Position::parse(text).ok_or(()),
        Err(_) => Err(()),
    }
    .map_err(|()| {
        let message = "must be an id of this stream such as 3.12; leave the header out to begin at the start";
        Problem::field(Code::InvalidField, LAST_EVENT_ID, message)
    })
}

/// One open stream.
struct Follower {
    api: Arc<Api>,
    org: OrgId,
    id: RenderId,
    watch: Watch,
    position: Position,
    /// The claim whose previews were sent, and the newest step of each image.
    previewed: (Epoch, BTreeMap<u32, u32>),
    waiting: VecDeque<Event>,
    over: bool,
}

impl Follower {
    fn new(api: Arc<Api>, org: OrgId, watch: Watch, render: &Render, position: Position) -> Self {
        // An id from another render's stream: begin at the start rather than wait for a revision to come.
        let position = if position.revision > render.revision { Position::default() } else { position };
        api.app.metrics.http_event_streams.inc();
        Self {
            api,
            org,
            id: render.id,
            watch,
            position,
            previewed: (Epoch(0), BTreeMap::new()),
            waiting: VecDeque::new(),
            over: false,
        }
    }

    fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        // The first read comes before the first wait.
        futures::stream::unfold((self, true), async |(mut follower, mut at_start)| {
            while follower.waiting.is_empty() {
                if follower.over || !(at_start || follower.woken().await) {
                    return None;
                }
                at_start = false;
                if let Err(error) = follower.catch_up().await {
                    // The client connects again with its last id and misses nothing.
                    tracing::error!(render.id = %follower.id, %error, "an event stream broke off");
                    return None;
                }
            }
            let event = follower.waiting.pop_front()?;
            Some((Ok(event), (follower, at_start)))
        })
    }

    /// Waits for news; false when the server stops.
    async fn woken(&mut self) -> bool {
        tokio::select! {
            () = self.api.app.stopping.cancelled() => false,
            () = self.watch.changed() => true,
            () = tokio::time::sleep(POLL) => true,
        }
    }

    /// Queues everything that is new, in the order in which it happened.
    async fn catch_up(&mut self) -> Result<(), StoreError> {
        let store = Arc::clone(&self.api.app.store);
        // Progress first: whatever claim it is of, the row that is read after it knows that claim.
        let latest = self.api.app.hub.latest(self.id);
        let Some(mut render) = store.render(self.org, self.id).await? else {
            self.over = true;
            return Ok(());
        };
        let changes = store.transitions(self.id, self.position.revision).await?;
        let ends = changes.last().is_some_and(|change| change.status.is_terminal());
        if ends && !render.status.is_terminal() {
            match store.render(self.org, self.id).await? {
                Some(ended) => render = ended,
                None => self.over = true,
            }
        }
        let latest = latest
            .filter(|latest| latest.epoch == render.epoch && (ends || render.status == Status::Running));
        for change in changes.iter().filter(|change| !change.status.is_terminal()) {
            self.state(change);
        }
        if let Some(latest) = &latest {
            self.progress(latest);
        }
        for change in changes.iter().filter(|change| change.status.is_terminal()) {
            self.state(change);
        }
        if render.status.is_terminal() && !self.over {
            self.done(render);
        }
        Ok(())
    }

    fn state(&mut self, change: &TransitionRow) {
        self.position = Position { revision: change.revision, step: 0 };
        let TransitionRow { status, revision, at, reason, .. } = change.clone();
        self.queue("state", Some(self.position), &StateEvent { status, revision, at, reason });
    }

    fn progress(&mut self, latest: &Latest) {
        if let Some((step, steps)) = latest.step.filter(|(step, _)| *step > self.position.step) {
            self.position.step = step;
            self.queue("step", Some(self.position), &StepEvent { step, steps });
        }
        if self.previewed.0 != latest.epoch {
            self.previewed = (latest.epoch, BTreeMap::new());
        }
        for (sample, preview) in &latest.previews {
            if self.previewed.1.get(sample).is_some_and(|sent| *sent >= preview.step) {
                continue;
            }
            self.previewed.1.insert(*sample, preview.step);
            let event = PreviewEvent {
                sample: *sample,
                step: preview.step,
                content_type: preview.content_type.clone(),
                data: BASE64_STANDARD.encode(&preview.data),
            };
            // Without an id: whoever reconnects gets the latest preview again, and loses no step for it.
            self.queue("preview", None, &event);
        }
    }

    fn done(&mut self, render: Render) {
        self.over = true;
        let view = RenderView::new(&self.api.app, render);
        self.queue("done", Some(self.position), &view);
        self.api.app.hub.forget(self.id);
    }

    fn queue(&mut self, name: &str, position: Option<Position>, data: &impl Serialize) {
        let data = serde_json::to_string(data).expect("events have string keys only");
        let event = Event::default().event(name).data(data);
        self.waiting.push_back(match position {
            Some(position) => event.id(position.id()),
            None => event,
        });
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.api.app.metrics.http_event_streams.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_where_the_stream_goes_on() {
        let position = Position { revision: 3, step: 12 };
        assert_eq!(Position::parse(&position.id()), Some(position));
        for wrong in ["", "3", "3.", ".3", "a.b", "-1.0", "+1.0", "1.2.3", "99999999999999999999.0", "1. 2"] {
            assert_eq!(Position::parse(wrong), None, "{wrong:?}");
        }
    }
}
