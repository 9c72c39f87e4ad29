//! A worker that does what a test says, over the real transport and the real links.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use kraftr_protocol::message::Request as Ask;
use kraftr_protocol::message::{Control, Grant, Heartbeat, Held, Job, Link, Reply, UploadRequest};
use kraftr_protocol::{
    ArtifactReport, Class, Digest, Event, EventBody, Failure, FailureCode, GpuMillis, Ids as _, Lane,
    Progress, ProgressBody, WorkerId,
};
use kraftr_scheduler::clock::SystemIds;
use kraftr_transport::{BoxSource, Delivery};
use uuid::Uuid;

use super::server::{Answer, MODEL, PATIENCE, POOL, Server};

pub(super) struct TestWorker<'s> {
    server: &'s Server,
    id: WorkerId,
    jobs: BoxSource<Delivery<Job>>,
    control: BoxSource<Control>,
}

/// A render that the worker holds.
pub(super) struct Running<'s, 'w> {
    worker: &'w mut TestWorker<'s>,
    pub grant: Grant,
    delivery: Delivery<Job>,
}

impl<'s> TestWorker<'s> {
    pub(super) async fn start(server: &'s Server) -> Self {
        let mut bytes = [0; 16];
        SystemIds.fill(&mut bytes);
        let id = WorkerId(Uuid::from_bytes(bytes));
        let lane = |class| Lane { pool: POOL.into(), release: MODEL.into(), class };
        let lanes: Vec<Lane> = Class::ALL.into_iter().map(lane).collect();
        let transport = &server.app.transport;
        let jobs = transport.consume_jobs(&lanes, 1).await.unwrap();
        let control = transport.consume_control().await.unwrap();
        let heartbeat = Heartbeat { worker: id, lanes, slots: 1, held: Vec::new() };
        let reply = transport.call(Ask::Heartbeat(heartbeat)).await.unwrap();
        assert_eq!(reply, Reply::Leases { verdicts: Vec::new() });
        Self { server, id, jobs, control }
    }

    /// Takes the next job and claims it.
    pub(super) async fn take<'w>(&'w mut self) -> Running<'s, 'w> {
        let delivery = tokio::time::timeout(PATIENCE, self.jobs.next()).await.expect("a job comes").unwrap();
        let ask = Ask::Claim { job: delivery.body, worker: self.id };
        let reply = self.server.app.transport.call(ask).await.unwrap();
        let Reply::Granted(grant) = reply else { panic!("{reply:?}") };
        Running { worker: self, grant: *grant, delivery }
    }
}

impl Running<'_, '_> {
    fn held(&self) -> Held {
        Held { render: self.grant.render, epoch: self.grant.epoch }
    }

    /// Follows a link of the grant or of an upload.
    pub(super) async fn follow(&self, method: &str, link: &Link, body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(path_of(&link.url));
        for (name, value) in &link.headers {
            request = request.header(name, value);
        }
        self.worker.server.send(request.body(body.into()).unwrap()).await
    }

    pub(super) fn step(&self, step: u32) {
        self.progress(ProgressBody::Step { step, steps: self.grant.spec.steps });
    }

    pub(super) fn preview(&self, step: u32, data: &[u8]) {
        let content_type = "image/jpeg".to_owned();
        self.progress(ProgressBody::Preview { sample: 0, step, content_type, data: data.to_vec() });
    }

    fn progress(&self, body: ProgressBody) {
        let progress = Progress { render: self.grant.render, epoch: self.grant.epoch, body };
        self.worker.server.app.transport.publish_progress(progress);
    }

    /// Uploads the images and reports success.
    pub(super) async fn succeed(self, images: &[&[u8]]) {
        let mut artifacts = Vec::new();
        for (sample, image) in images.iter().enumerate() {
            let (sha256, bytes) = (Digest::of(image), image.len() as u64);
            let (sample, content_type) = (sample as u32, self.grant.spec.format.content_type().to_owned());
            let ask = UploadRequest {
                held: self.held(),
                sample,
                sha256,
                bytes,
                content_type: content_type.clone(),
            };
            let reply = self.worker.server.app.transport.call(Ask::Upload(ask)).await.unwrap();
            let Reply::UploadTo(link) = reply else { panic!("{reply:?}") };
            self.follow("PUT", &link, Bytes::copy_from_slice(image)).await.is(StatusCode::NO_CONTENT);
            artifacts.push(ArtifactReport { sample, sha256, bytes, width: 384, height: 576, content_type });
        }
        self.report(EventBody::Succeeded { artifacts, device_time: GpuMillis(5) }).await;
    }

    pub(super) async fn fail(self) {
        let failure = Failure::new(FailureCode::InputInvalid, "the picture cannot be used");
        self.report(EventBody::Failed { failure }).await;
    }

    /// Waits until it is told to stop, then reports the step.
    pub(super) async fn stop_when_told(self, step: u32) {
        loop {
            let told = tokio::time::timeout(PATIENCE, self.worker.control.next());
            if told.await.expect("a word of control comes")
                == Some(Control::Cancel { render: self.grant.render })
            {
                return self.report(EventBody::Cancelled { step }).await;
            }
        }
    }

    async fn report(self, body: EventBody) {
        let event = Event {
            render: self.grant.render,
            attempt: self.grant.attempt,
            epoch: self.grant.epoch,
            worker: self.worker.id,
            body,
        };
        self.worker.server.app.transport.publish_event(event).await.unwrap();
        self.delivery.ack();
    }
}

/// What follows the host.
pub(super) fn path_of(url: &str) -> &str {
    let start = url.match_indices('/').nth(2).map_or(url.len(), |(at, _)| at);
    &url[start..]
}
