//! SIGKILL at any moment loses no render, charges nothing twice and leaves the books right.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use kraftr_models::bundled;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::api::Api;
use crate::program::{Dev, arg, failure_of, run, stdout_of};

const ROUNDS: u64 = 6;
const RENDERS_A_ROUND: u64 = 3;
/// A render of six steps takes about as long as the longest delay before a kill.
const STEPS: u32 = 6;
const KILLED_WITHIN_MS: u64 = 900;

fn audit(directory: &Path) {
    let said = stdout_of(&run(["admin", "--data-dir", arg(directory), "ledger", "audit", "--json"]));
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["ok"], true, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn renders_in_flight_survive_sigkill_and_are_charged_once() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("fleet");
    let mut random = ChaCha8Rng::seed_from_u64(7);

    let mut dev = Dev::spawn(&directory);
    let ready = dev.wait_ready();
    let key = ready.api_key.clone().expect("the first start shows a key");
    let mut api = Api::new(&ready.url, &key);
    let (person, garment) =
        (api.upload(bundled::SAMPLE_PERSON).await, api.upload(bundled::SAMPLE_GARMENT).await);
    let body = |seed: u64| {
        json!({ "model": "demo-tryon", "person": person, "garment": garment,
                "category": bundled::SAMPLE_CATEGORY, "steps": STEPS, "seed": seed })
    };

    // Idempotency key -> the render that a server has promised.
    let mut promised: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..ROUNDS {
        let submissions = (0..RENDERS_A_ROUND).map(|n| (format!("{round}-{n}"), round * RENDERS_A_ROUND + n));
        let killed_after = Duration::from_millis(random.random_range(0..KILLED_WITHIN_MS));
        // The moment of death is what this test varies: here a sleep is the fault, not a wait.
        let killer = tokio::task::spawn_blocking(move || {
            std::thread::sleep(killed_after);
            dev.kill();
        });
        for (key, seed) in submissions.clone() {
            if let Some(id) = api.submit(&body(seed), &key).await {
                promised.insert(key, id);
            }
        }
        killer.await.unwrap();

        dev = Dev::spawn(&directory);
        let ready = dev.wait_ready();
        assert!(ready.api_key.is_none(), "a key that was shown is not shown again");
        api = Api::new(&ready.url, &key);
        for (key, seed) in submissions {
            let id = api.submit(&body(seed), &key).await.expect("the server lives");
            assert_eq!(promised.entry(key).or_insert_with(|| id.clone()), &id, "a promise is kept");
        }
        // Half of the rounds die again with renders under way.
        if round % 2 == 0 {
            for id in promised.values() {
                assert_eq!(api.wait_ended(id).await["status"], "succeeded");
            }
        }
        audit(&directory);
    }

    for id in promised.values() {
        assert_eq!(api.wait_ended(id).await["status"], "succeeded");
    }
    let captures = api.entries("capture").await;
    let expected: BTreeMap<String, usize> = promised.into_values().map(|id| (id, 1)).collect();
    assert_eq!(captures, expected, "every render is charged, and none twice");
    let balance = api.get("/v1/balance").await;
    let posted = 1_000 - i64::try_from(ROUNDS * RENDERS_A_ROUND).unwrap();
    assert_eq!((&balance["posted"], &balance["held"]), (&json!(posted), &json!(0)));
    dev.terminate();
    audit(&directory);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_is_killed_leaves_a_usable_key() {
    let scratch = tempfile::tempdir().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(11);
    for round in 0..6 {
        let directory = scratch.path().join(format!("fleet-{round}"));
        let first = Dev::spawn(&directory);
        tokio::time::sleep(Duration::from_millis(random.random_range(0..250))).await;
        let shown = first.ready().and_then(|ready| ready.api_key);
        first.kill();

        let mut second = Dev::spawn(&directory);
        let ready = second.wait_ready();
        let key = ready.api_key.clone().or(shown).expect("one of the two starts has shown a key");
        let balance = Api::new(&ready.url, &key).get("/v1/balance").await;
        assert_eq!(balance["available"], 1_000, "the welcome is granted once");
        second.terminate();
    }
}

#[test]
fn a_data_directory_has_one_fleet_at_a_time() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("fleet");
    let mut dev = Dev::spawn(&directory);
    dev.wait_ready();
    let error = failure_of(&run(["dev", "--listen", "127.0.0.1:0", "--data-dir", arg(&directory)]), 1);
    assert!(error.contains("in use by process"), "{error}");
    dev.terminate();
}
