//! The benches as processes: every figure is there, and everything that was submitted arrived.

use serde_json::Value;

use crate::program::{failure_of, run, stdout_of};

fn report(arguments: &str) -> Value {
    let arguments = ["bench", "control-plane", "--json"].into_iter().chain(arguments.split_whitespace());
    serde_json::from_str(&stdout_of(&run(arguments))).unwrap()
}

#[test]
fn the_control_plane_is_measured_from_submission_to_capture() {
    let report = report("--jobs 60 --orgs 3 --workers 2 --slots 4 --rate 40 --backlog 30");
    for figure in [
        "renders_per_s",
        "accepted_one_by_one_per_s",
        "accepted_batch_per_s",
        "burn_down_per_s",
        "backlog_accepted_per_s",
    ] {
        assert!(report[figure].as_f64().unwrap() > 0.0, "{figure} in {report}");
    }
    let claimed = &report["submit_to_claimed"];
    assert_eq!(claimed["jobs"], 60, "every render of the open loop was claimed: {report}");
    assert!(claimed["p99_ms"].as_f64().unwrap() >= claimed["p50_ms"].as_f64().unwrap());
    for part in ["submit", "dispatch", "queued_to_dispatched", "completion"] {
        assert_eq!(report[part]["jobs"], 60, "{part} of every render is told: {report}");
    }
    let anatomy = &report["anatomy"];
    assert!(anatomy["sql_round_trips"].as_f64().unwrap() > 1.0, "{anatomy}");
    assert!(anatomy["statements"][0]["ms_per_render"].as_f64().unwrap() > 0.0, "{anatomy}");
    assert_eq!(anatomy["messages_published"], Value::Null, "no broker, no messages");
    assert_eq!((&report["store"], &report["bare"]), (&Value::from("sqlite"), &Value::Null));
}

#[test]
fn bare_measures_the_transport_alone() {
    let report = report("--bare --jobs 5000 --workers 2 --rate 200");
    assert_eq!(report["store"], Value::Null);
    assert!(report["bare"]["publishes_per_s"].as_f64().unwrap() > 0.0);
    assert!(report["bare"]["burn_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(report["bare"]["open_loop"]["jobs"], 2_000);
}

#[test]
fn nothing_to_measure_is_refused() {
    let said = failure_of(&run(["bench", "control-plane", "--jobs", "0"]), 2);
    assert!(said.contains("--jobs"), "{said}");
}
