//! The fleet of processes on real services: nothing that a user pays for is lost or charged twice, whatever
//! is killed.

use std::time::{Duration, Instant};

use kraftr_models::bundled;
use kraftr_protocol::limits;
use serde_json::{Value, json};

use crate::api::Api;
use crate::deployment::{Deployment, Process};
use crate::program::PATIENCE;

const CREDITS: i64 = 500;
/// Steps of a render: long enough to be caught in the middle.
const STEPS: u32 = 12;

/// An org's view of a deployment.
pub(crate) struct Client {
    pub(crate) api: Api,
    body: Value,
    pub(crate) submitted: Vec<String>,
}

impl Client {
    pub(crate) async fn new(deployment: &Deployment, url: &str) -> Self {
        deployment.admin(&["org", "create", "shop"]);
        deployment.admin(&["grant", "--credits", &CREDITS.to_string(), "--reference", "first"]);
        let key = deployment.admin(&["key", "create", "--label", "test"]);
        let api = Api::new(url, key.trim());
        let person = api.upload(bundled::SAMPLE_PERSON).await;
        let garment = api.upload(bundled::SAMPLE_GARMENT).await;
        let body = json!({ "model": "demo-tryon", "person": person, "garment": garment,
                           "category": bundled::SAMPLE_CATEGORY, "steps": STEPS });
        Self { api, body, submitted: Vec::new() }
    }

    /// Submits until it is answered, under one idempotency key for each render.
    pub(crate) async fn submit(&mut self, count: usize) {
        for _ in 0..count {
            let key = format!("render-{}", self.submitted.len());
            let id = loop {
                if let Some(id) = self.api.submit(&self.body, &key).await {
                    break id;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            };
            self.submitted.push(id);
        }
    }

    /// Waits until one of the renders submitted last is in that state.
    pub(crate) async fn wait_for(&self, status: &str, last: usize) {
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < PATIENCE, "no render gets {status}");
            for id in self.submitted.iter().rev().take(last) {
                if self.api.get(&format!("/v1/renders/{id}")).await["status"] == status {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Everything that was ever submitted succeeds and is charged once, and the books are right.
    pub(crate) async fn settle(&self, deployment: &Deployment, after: &str) {
        for id in &self.submitted {
            let render = self.api.wait_ended(id).await;
            assert_eq!(render["status"], "succeeded", "after {after}: {render}");
        }
        let balance = self.api.get("/v1/balance").await;
        let spent = i64::try_from(self.submitted.len()).unwrap();
        assert_eq!(
            (&balance["posted"], &balance["held"]),
            (&json!(CREDITS - spent), &json!(0)),
            "after {after}"
        );
        deployment.audit();
    }
}

pub(crate) fn url(ready: &Value) -> &str {
    ready["url"].as_str().unwrap()
}

/// Two schedulers, two workers: a render that one scheduler takes is seen by the other, its picture comes from
/// the object store with our mark, and everyone ends well when asked to.
#[tokio::test(flavor = "multi_thread")]
async fn separate_processes_render_together() {
    let scratch = tempfile::tempdir().unwrap();
    let mut deployment = Deployment::new(scratch.path()).await;
    let mut schedulers = [deployment.scheduler(), deployment.scheduler()];
    let ready: Vec<Value> = schedulers.iter_mut().map(Process::wait_ready).collect();
    let mut workers = [deployment.worker(2), deployment.worker(2)];
    for worker in &mut workers {
        worker.wait_ready();
    }
    let mut client = Client::new(&deployment, url(&ready[0])).await;
    client.submit(6).await;
    client.settle(&deployment, "nothing").await;

    let key = deployment.admin(&["key", "create", "--label", "other"]);
    let other = Api::new(url(&ready[1]), key.trim());
    let render = other.get(&format!("/v1/renders/{}", client.submitted[0])).await;
    let picture = other.picture(render["artifacts"][0]["id"].as_str().unwrap()).await;
    let file = scratch.path().join("picture.png");
    std::fs::write(&file, picture).unwrap();
    let arguments = ["watermark", "detect", crate::program::arg(&file)];
    let said = crate::program::stdout_of(&crate::program::run(arguments));
    assert!(said.contains("\"found\":true"), "{said}");

    workers.into_iter().for_each(Process::terminate);
    schedulers.into_iter().for_each(Process::terminate);
    deployment.audit();
}

/// One fault after the other, each with renders in flight.
#[tokio::test(flavor = "multi_thread")]
async fn faults_lose_nothing_and_charge_nothing_twice() {
    let scratch = tempfile::tempdir().unwrap();
    let mut deployment = Deployment::new(scratch.path()).await;
    // The first one leads.
    let mut leader = deployment.scheduler();
    leader.wait_ready();
    let mut standby = deployment.scheduler();
    let ready = standby.wait_ready();
    let mut worker = deployment.worker(2);
    worker.wait_ready();
    let mut client = Client::new(&deployment, url(&ready)).await;

    client.submit(3).await;
    client.wait_for("running", 3).await;
    worker.kill();
    let mut worker = deployment.worker(2);
    client.settle(&deployment, "a worker was killed").await;

    client.submit(3).await;
    client.wait_for("running", 3).await;
    leader.kill();
    client.submit(1).await;
    client.settle(&deployment, "the leader was killed").await;
    assert!(standby.log().contains("leads"), "{}", standby.log());

    for service in ["rabbitmq", "postgres", "s3"] {
        client.submit(3).await;
        client.wait_for("running", 3).await;
        deployment.services().restart(service);
        client.submit(1).await;
        client.settle(&deployment, service).await;
    }

    client.submit(2).await;
    client.wait_for("running", 2).await;
    worker.signal("STOP");
    let mut other = deployment.worker(2);
    other.wait_ready();
    // Stopped for longer than it may believe that it holds its claims.
    tokio::time::sleep(limits::LEASE + Duration::from_secs(1)).await;
    worker.signal("CONT");
    client.submit(1).await;
    client.settle(&deployment, "a worker that slept").await;

    worker.wait_ready();
    worker.terminate();
    other.terminate();
    standby.terminate();
    deployment.audit();
}
