//! Two minutes of everything that can go wrong, in random order, under load.
//!
//! `KRAFTR_SOAK_SEED` repeats the faults of a run; the run prints its seed.
#![allow(clippy::print_stderr, reason = "whoever looks for a fault reads what happened before it")]
#![allow(clippy::disallowed_methods, reason = "the seed is a test's and not the program's to configure")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kraftr_models::bundled;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::api::Api;
use crate::deployment::{Deployment, Process, Proxies};
use crate::faults::url;
use crate::program::PATIENCE;
use crate::proxy::{Fault, Whose};

const RENDERS: usize = 2_000;
const CREDITS: usize = 5_000;
const WORKERS: usize = 8;
const SLOTS: u32 = 4;
const LASTS: Duration = Duration::from_mins(2);
/// How long nothing goes wrong at first: RabbitMQ 3.10 forgets a quorum queue that it made in the seconds before it is
/// killed, and then never has a leader for it.
const UNHURT: Duration = Duration::from_secs(10);
/// Submissions under way at once.
const CLIENTS: usize = 16;
/// How long a client waits before it sends again what was not answered.
const AGAIN: Duration = Duration::from_millis(200);

const SERVICES: [&str; 3] = ["postgres", "rabbitmq", "s3"];
const FAULTS: [Fault; 4] = [Fault::Cut, Fault::Silence, Fault::Hang, Fault::Unavailable];

/// Where the replicas are now.
type Urls = Arc<Mutex<Vec<String>>>;

/// The fleet and what happens to it.
struct Soak {
    random: ChaCha8Rng,
    deployment: Deployment,
    proxies: Arc<Proxies>,
    schedulers: Vec<Process>,
    workers: Vec<Process>,
    urls: Urls,
    started: Instant,
}

impl Soak {
    async fn start(seed: u64, mut deployment: Deployment) -> Self {
        let proxies = Arc::new(deployment.proxied().await);
        let mut schedulers = vec![deployment.scheduler(), deployment.scheduler()];
        let urls = schedulers.iter_mut().map(|scheduler| url(&scheduler.wait_ready()).to_owned()).collect();
        let mut workers: Vec<Process> = (0..WORKERS).map(|_| deployment.worker_for("noop", SLOTS)).collect();
        for worker in &mut workers {
            worker.wait_ready();
        }
        let random = ChaCha8Rng::seed_from_u64(seed);
        let urls = Arc::new(Mutex::new(urls));
        Self { random, deployment, proxies, schedulers, workers, urls, started: Instant::now() }
    }

    fn seconds(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(range.start * 1_000..range.end * 1_000))
    }

    fn say(&self, what: &str) {
        eprintln!("{:6.1} s  {what}", self.started.elapsed().as_secs_f64());
    }

    /// One fault, from its beginning to its end; a broken way heals later.
    async fn fault(&mut self) {
        match self.random.random_range(0..8) {
            0 | 1 => {
                let n = self.random.random_range(0..WORKERS);
                self.say(&format!("kill worker {n}"));
                let next = self.deployment.worker_for("noop", SLOTS);
                std::mem::replace(&mut self.workers[n], next).kill();
            }
            2 => {
                let n = self.random.random_range(0..self.schedulers.len());
                self.say(&format!("kill scheduler {n}"));
                let next = self.deployment.scheduler();
                std::mem::replace(&mut self.schedulers[n], next).kill();
                let ready = self.schedulers[n].wait_ready();
                url(&ready).clone_into(&mut self.urls.lock().unwrap_or_else(PoisonError::into_inner)[n]);
            }
            3 => {
                let n = self.random.random_range(0..WORKERS);
                // Now and then for longer than a lease.
                let lasts = if self.random.random_bool(0.25) { 16..18 } else { 1..6 };
                let lasts = self.seconds(lasts);
                self.say(&format!("stop worker {n} for {lasts:?}"));
                self.workers[n].signal("STOP");
                tokio::time::sleep(lasts).await;
                self.workers[n].signal("CONT");
            }
            4 => {
                let n = self.random.random_range(0..self.schedulers.len());
                let lasts = self.seconds(1..9);
                self.say(&format!("stop scheduler {n} for {lasts:?}"));
                self.schedulers[n].signal("STOP");
                tokio::time::sleep(lasts).await;
                self.schedulers[n].signal("CONT");
            }
            5 => {
                let service = SERVICES[self.random.random_range(0..SERVICES.len())];
                self.say(&format!("restart {service}"));
                self.deployment.services().restart(service);
            }
            _ => self.break_a_way(),
        }
    }

    /// Breaks the way to a service for some seconds, in which other things go wrong.
    fn break_a_way(&mut self) {
        let ways: [fn(&Proxies) -> &crate::proxy::Proxy; 4] = [
            |proxies| &proxies.database,
            |proxies| &proxies.scheduler_broker,
            |proxies| &proxies.worker_broker,
            |proxies| &proxies.s3,
        ];
        let way = self.random.random_range(0..ways.len());
        let speaks_http = way == 3;
        let faults = if speaks_http { &FAULTS[..] } else { &FAULTS[..2] };
        let fault = faults[self.random.random_range(0..faults.len())];
        let lasts = self.seconds(1..6);
        self.say(&format!("{fault:?} of way {way} for {lasts:?}"));
        let (way, proxies) = (ways[way], Arc::clone(&self.proxies));
        way(&proxies).fault(fault, Whose::Everyone);
        tokio::spawn(async move {
            tokio::time::sleep(lasts).await;
            way(&proxies).heal();
        });
    }
}

/// Submits every render, each until it is answered: the ids by their idempotency keys.
async fn submit_all(api: Api, body: Value, urls: Urls) -> BTreeMap<String, String> {
    let (numbers, taken) = mpsc::channel(1);
    let taken = Arc::new(tokio::sync::Mutex::new(taken));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (api, body, urls, taken) = (api.clone(), body.clone(), Arc::clone(&urls), Arc::clone(&taken));
        clients.spawn(async move {
            let mut promised = Vec::new();
            loop {
                let number: Option<usize> = taken.lock().await.recv().await;
                let Some(number) = number else { return promised };
                let key = format!("soak-{number}");
                for attempt in number.. {
                    let url = {
                        let urls = urls.lock().unwrap_or_else(PoisonError::into_inner);
                        urls[attempt % urls.len()].clone()
                    };
                    if let Some(id) = api.at(&url).submit(&body, &key).await {
                        promised.push((key, id));
                        break;
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
        });
    }
    // Spread over the time in which things go wrong.
    let mut pace = tokio::time::interval((UNHURT + LASTS) / u32::try_from(RENDERS).unwrap());
    for number in 0..RENDERS {
        pace.tick().await;
        numbers.send(number).await.unwrap();
    }
    drop(numbers);
    clients.join_all().await.into_iter().flatten().collect()
}

/// Every promise was kept, and every ending is charged or given back once.
async fn audit(api: &Api, promised: &BTreeMap<String, String>) {
    assert_eq!(promised.len(), RENDERS);
    let mut ended: BTreeMap<String, usize> = BTreeMap::new();
    let (mut captured, mut voided) = (BTreeMap::new(), BTreeMap::new());
    for id in promised.values() {
        let render = api.wait_ended(id).await;
        let status = render["status"].as_str().unwrap();
        *ended.entry(status.to_owned()).or_default() += 1;
        if status == "succeeded" {
            assert_eq!(render["artifacts"].as_array().unwrap().len(), 1, "{render}");
            captured.insert(id.clone(), 1);
        } else {
            assert_eq!(status, "failed", "{render}");
            assert!(render["error"]["code"].is_string(), "an ending says why: {render}");
            eprintln!("not delivered: {render}");
            voided.insert(id.clone(), 1);
        }
    }
    eprintln!("{ended:?}");

    let listed: BTreeSet<String> = api
        .list("/v1/renders")
        .await
        .iter()
        .map(|render| render["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(listed, promised.values().cloned().collect(), "each key has made one render");
    let once = promised.values().map(|id| (id.clone(), 1)).collect();
    assert_eq!(api.entries("hold").await, once);
    assert_eq!(api.entries("capture").await, captured);
    assert_eq!(api.entries("void").await, voided);
    let balance = api.get("/v1/balance").await;
    assert_eq!((&balance["posted"], &balance["held"]), (&json!(CREDITS - captured.len()), &json!(0)));
    assert!(voided.is_empty(), "no fault lasted long enough to be a render's fault");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_minutes_of_faults_lose_nothing_and_charge_nothing_twice() {
    let seed = match std::env::var("KRAFTR_SOAK_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::random_range(0..1_000_000),
    };
    eprintln!("KRAFTR_SOAK_SEED={seed}");
    let scratch = tempfile::tempdir().unwrap();
    let mut soak = Soak::start(seed, Deployment::new(scratch.path()).await).await;
    soak.deployment.admin(&["org", "create", "shop"]);
    soak.deployment.admin(&["grant", "--credits", &CREDITS.to_string(), "--reference", "first"]);
    let key = soak.deployment.admin(&["key", "create", "--label", "test"]);
    let first = soak.urls.lock().unwrap()[0].clone();
    let api = Api::new(&first, key.trim());
    let person = api.upload(bundled::SAMPLE_PERSON).await;
    let garment = api.upload(bundled::SAMPLE_GARMENT).await;
    let body = json!({ "model": "noop", "person": person, "garment": garment,
                       "category": bundled::SAMPLE_CATEGORY });

    let submitting = tokio::spawn(submit_all(api.clone(), body, Arc::clone(&soak.urls)));
    soak.started = Instant::now();
    while soak.started.elapsed() < LASTS {
        soak.fault().await;
        let pause = soak.seconds(1..4);
        tokio::time::sleep(pause).await;
    }
    for proxy in [
        &soak.proxies.database,
        &soak.proxies.scheduler_broker,
        &soak.proxies.worker_broker,
        &soak.proxies.s3,
    ] {
        proxy.heal();
    }
    soak.say("healed");
    let promised = tokio::time::timeout(PATIENCE, submitting).await.expect("it heals").unwrap();
    let last = soak.urls.lock().unwrap()[0].clone();
    audit(&api.at(&last), &promised).await;
    soak.deployment.audit();
    soak.say("audited");

    for process in &mut soak.workers {
        process.wait_ready();
    }
    soak.workers.into_iter().for_each(Process::terminate);
    soak.schedulers.into_iter().for_each(Process::terminate);
    soak.deployment.audit();
}
