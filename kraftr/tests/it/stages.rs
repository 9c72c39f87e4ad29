//! SIGKILL of a worker at every stage of a render: another one finishes it, and it is charged once.

use std::time::Instant;

use crate::deployment::{Deployment, Process, Proxies};
use crate::faults::{Client, url};
use crate::program::PATIENCE;
use crate::proxy::{Fault, Proxy, Whose};

/// Where a worker dies.
#[derive(Debug, Clone, Copy)]
enum At {
    /// A request to the broker waits.
    Broker(Fault),
    /// A request to the object store waits.
    Objects(Fault),
    /// It says in its log that this stage begins, and the next one does not.
    Stage { this: &'static str, next: &'static str },
}

const PLACES: &[(&str, At)] = &[
    (
        "the claim was granted and the grant is on its way",
        At::Broker(Fault::BeforeAnswer(r#""type":"claim""#)),
    ),
    ("inputs are being fetched", At::Objects(Fault::BeforeAnswer("GET /"))),
    ("pictures are being prepared", At::Stage { this: "prepare", next: "denoise" }),
    ("the model runs", At::Stage { this: "denoise", next: "finish" }),
    ("a picture is being marked and encoded", At::Stage { this: "finish", next: "upload" }),
    ("a picture is about to be uploaded", At::Objects(Fault::BeforeRequest("PUT /"))),
    ("a picture was uploaded, unknown to the worker", At::Objects(Fault::BeforeAnswer("PUT /"))),
    ("the event is about to be sent", At::Broker(Fault::BeforeRequest(r#""type":"succeeded""#))),
    (
        "the event was sent, not confirmed and the job not acked",
        At::Broker(Fault::BeforeAnswer(r#""type":"succeeded""#)),
    ),
];

/// A stage that ends before the signal arrives is tried again so often.
const TRIES: u32 = 20;

impl At {
    /// The proxy and what it does.
    fn trap(self, proxies: &Proxies) -> Option<(&Proxy, Fault, Whose)> {
        match self {
            Self::Broker(fault) => Some((&proxies.worker_broker, fault, Whose::Everyone)),
            Self::Objects(fault) => Some((&proxies.s3, fault, Whose::Presigned)),
            Self::Stage { .. } => None,
        }
    }
}

fn has_begun(log: &str, stage: &str) -> bool {
    log.lines().any(|line| line.contains("begins") && line.contains(&format!("stage=\"{stage}\"")))
}

/// Kills a worker that has one render there; false when the render was faster.
async fn kill_at(at: At, worker: Process, proxies: &Proxies) -> bool {
    let hit = match (at, at.trap(proxies)) {
        (_, Some((proxy, ..))) => {
            proxy.sprung().await;
            worker.signal("KILL");
            true
        }
        (At::Stage { this, next }, None) => {
            let started = Instant::now();
            while !has_begun(&worker.log(), this) {
                assert!(started.elapsed() < PATIENCE, "{this} never begins:\n{}", worker.log());
                tokio::task::yield_now().await;
            }
            worker.signal("KILL");
            !has_begun(&worker.log(), next)
        }
        _ => unreachable!("only a stage has no trap"),
    };
    worker.kill();
    if let Some((proxy, ..)) = at.trap(proxies) {
        // What the dead worker had sent and did not get through is gone with it.
        proxy.sever().await;
    }
    hit
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_die_at_any_stage() {
    let scratch = tempfile::tempdir().unwrap();
    let mut deployment = Deployment::new(scratch.path()).await;
    let proxies = deployment.proxied().await;
    let mut scheduler = deployment.scheduler();
    let ready = scheduler.wait_ready();
    let mut client = Client::new(&deployment, url(&ready)).await;

    for (place, at) in PLACES {
        let mut tries = 0;
        loop {
            let mut worker = deployment.worker(1);
            worker.wait_ready();
            if let Some((proxy, fault, whose)) = at.trap(&proxies) {
                proxy.fault(fault, whose);
            }
            client.submit(1).await;
            let hit = kill_at(*at, worker, &proxies).await;
            let mut other = deployment.worker(1);
            other.wait_ready();
            client.settle(&deployment, place).await;
            other.terminate();
            if hit {
                break;
            }
            tries += 1;
            assert!(tries < TRIES, "no worker was killed while {place}");
        }
    }
    scheduler.terminate();
    deployment.audit();
}
