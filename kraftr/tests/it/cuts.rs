//! The ways between the parts of a fleet break, and messages come twice.

use std::time::{Duration, Instant};

use kraftr_protocol::message::Job;
use kraftr_protocol::{Class, Lane, RenderId};
use kraftr_transport::Transport as _;
use kraftr_transport::rabbit::{RabbitConfig, RabbitMq};
use uuid::Uuid;

use crate::deployment::{Deployment, Process, Proxies};
use crate::faults::{Client, url};
use crate::program::{LOOK_AGAIN, PATIENCE};
use crate::proxy::{Fault, Proxy, Whose};

/// A way that can break.
struct Way {
    name: &'static str,
    proxy: fn(&Proxies) -> &Proxy,
    whose: Whose,
}

const WAYS: &[Way] = &[
    Way { name: "scheduler and database", proxy: |proxies| &proxies.database, whose: Whose::Everyone },
    Way { name: "scheduler and broker", proxy: |proxies| &proxies.scheduler_broker, whose: Whose::Everyone },
    Way { name: "worker and broker", proxy: |proxies| &proxies.worker_broker, whose: Whose::Everyone },
    Way { name: "scheduler and object store", proxy: |proxies| &proxies.s3, whose: Whose::Own },
    Way { name: "worker and object store", proxy: |proxies| &proxies.s3, whose: Whose::Presigned },
];

const OBJECTS: Way =
    Way { name: "everyone and object store", proxy: |proxies| &proxies.s3, whose: Whose::Everyone };

/// A cut is noticed at once; what is silent is believed for a while, and longer than a leader is.
const CUT: Duration = Duration::from_secs(2);
const SILENCE: Duration = Duration::from_secs(7);
/// The object store is away.
const AWAY: Duration = Duration::from_secs(5);

/// Breaks a way with renders in flight and one more submitted meanwhile; everything ends well.
async fn survive(
    client: &mut Client,
    deployment: &Deployment,
    proxies: &Proxies,
    way: &Way,
    (fault, lasts): (Fault, Duration),
) {
    let started = Instant::now();
    let proxy = (way.proxy)(proxies);
    client.submit(3).await;
    client.wait_for("running", 3).await;
    proxy.fault(fault, way.whose);
    let broken = async {
        tokio::time::sleep(lasts).await;
        while proxy.stopped() == 0 {
            assert!(started.elapsed() < PATIENCE, "nothing goes between {}", way.name);
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        proxy.heal();
    };
    tokio::join!(broken, client.submit(1));
    client.settle(deployment, &format!("{fault:?} between {}", way.name)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_may_be_cut_and_the_object_store_may_be_away() {
    let scratch = tempfile::tempdir().unwrap();
    let mut deployment = Deployment::new(scratch.path()).await;
    let proxies = deployment.proxied().await;
    let mut scheduler = deployment.scheduler();
    let ready = scheduler.wait_ready();
    let mut workers = [deployment.worker(1), deployment.worker(1)];
    for worker in &mut workers {
        worker.wait_ready();
    }
    let mut client = Client::new(&deployment, url(&ready)).await;

    for way in WAYS {
        for fault in [(Fault::Cut, CUT), (Fault::Silence, SILENCE)] {
            survive(&mut client, &deployment, &proxies, way, fault).await;
        }
    }
    for fault in [(Fault::Unavailable, AWAY), (Fault::Hang, AWAY)] {
        survive(&mut client, &deployment, &proxies, &OBJECTS, fault).await;
    }
    let captures = client.api.entries("capture").await;
    assert!(captures.len() == client.submitted.len() && captures.values().all(|count| *count == 1));

    workers.into_iter().for_each(Process::terminate);
    scheduler.terminate();
    deployment.audit();
}

/// The same job many times, while it runs and after it has ended, and jobs that nobody wants.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_delivered_many_times_is_charged_once() {
    const WHILE_RUNNING: usize = 4;
    const AFTERWARDS: usize = 50;
    let scratch = tempfile::tempdir().unwrap();
    let mut deployment = Deployment::new(scratch.path()).await;
    let mut scheduler = deployment.scheduler();
    let ready = scheduler.wait_ready();
    let mut workers = [deployment.worker(2), deployment.worker(2)];
    for worker in &mut workers {
        worker.wait_ready();
    }
    let mut client = Client::new(&deployment, url(&ready)).await;
    let broker = RabbitMq::connect(RabbitConfig::new(deployment.amqp_url())).await.unwrap();
    let lane =
        Lane { pool: "default".to_owned(), release: "demo-tryon".to_owned(), class: Class::Interactive };

    client.submit(2).await;
    client.wait_for("running", 2).await;
    let mut jobs = Vec::new();
    for id in &client.submitted {
        let render: RenderId = id.parse().unwrap();
        let shown = client.api.get(&format!("/v1/renders/{id}")).await;
        let attempt = u32::try_from(shown["attempts"].as_u64().unwrap()).unwrap();
        jobs.push(Job { render, attempt });
    }
    for _ in 0..WHILE_RUNNING {
        for job in &jobs {
            broker.publish_job(&lane, *job).await.unwrap();
        }
    }
    client.settle(&deployment, "a job was delivered again while it ran").await;
    for _ in 0..AFTERWARDS {
        for job in &jobs {
            broker.publish_job(&lane, *job).await.unwrap();
            broker.publish_job(&lane, Job { attempt: job.attempt + 1, ..*job }).await.unwrap();
        }
    }
    // These stand behind the doubles in the same queue.
    client.submit(4).await;
    client.settle(&deployment, "a job was delivered again after it had ended").await;

    let once = client.submitted.iter().map(|id| (id.clone(), 1)).collect();
    assert_eq!(client.api.entries("capture").await, once);
    for id in &client.submitted {
        let render = client.api.get(&format!("/v1/renders/{id}")).await;
        assert_eq!(render["artifacts"].as_array().unwrap().len(), 1, "{render}");
    }
    let told = workers.iter().filter(|worker| worker.log().contains("not granted")).count();
    assert!(told > 0, "the doubles reached a worker");
    broker.close().await;
    workers.into_iter().for_each(Process::terminate);
    scheduler.terminate();
    deployment.audit();
}

/// Jobs that the broker gives up reach the replica that leads, whoever else is there.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_gives_up_wakes_the_leader() {
    const JOBS: u32 = 4;
    /// Nothing more comes: what is given up was given up before.
    const QUIET: Duration = Duration::from_secs(2);
    let scratch = tempfile::tempdir().unwrap();
    let mut deployment = Deployment::new(scratch.path()).await;
    let mut leader = deployment.scheduler();
    leader.wait_ready();
    let mut standby = deployment.scheduler();
    standby.wait_ready();
    let broker = RabbitConfig::new(deployment.amqp_url());
    let limit = broker.delivery_limit;
    let broker = RabbitMq::connect(broker).await.unwrap();
    let lane = Lane { pool: "nobody".to_owned(), release: "r".to_owned(), class: Class::Batch };
    let mut jobs = broker.consume_jobs(std::slice::from_ref(&lane), JOBS as usize).await.unwrap();
    for attempt in 0..JOBS {
        broker.publish_job(&lane, Job { render: RenderId(Uuid::nil()), attempt }).await.unwrap();
    }
    let heard = |scheduler: &Process| scheduler.log().matches("the broker gave a job up").count() as u32;
    // Given back until the broker allows it no more.
    let mut given_back = 0;
    while let Ok(Some(delivery)) = tokio::time::timeout(QUIET, jobs.next()).await {
        drop(delivery);
        given_back += 1;
    }
    assert!(given_back >= limit * JOBS, "the broker gave up after {given_back} deliveries");
    let started = Instant::now();
    while heard(&leader) < JOBS {
        assert!(started.elapsed() < PATIENCE, "the leader heard of {} of {JOBS}", heard(&leader));
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    assert_eq!(heard(&standby), 0, "nobody else takes them");
    broker.close().await;
    standby.terminate();
    leader.terminate();
}
