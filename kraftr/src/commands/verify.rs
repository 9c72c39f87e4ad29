//! `kraftr verify`: where a picture comes from, by what this machine knows or by asking a scheduler.

use std::path::Path;

use anyhow::{Context, Result, bail};
use kraftr_imaging::Limits;
use kraftr_protocol::WatermarkRef;
use kraftr_protocol::limits::{ASSET_BYTES_MAX, ASSET_PIXELS_MAX, ASSET_SIDE_MAX};
use kraftr_provenance::credentials::Status;
use kraftr_provenance::{Evidence, examine};
use serde_json::{Value, json};

use crate::cli::VerifyArgs;
use crate::client::Problem;
use crate::commands::{Outcome, read_file};
use crate::config::VerifyConfig;
use crate::{output, provenance};

/// What may be verified: the same as over HTTP.
const LIMITS: Limits = Limits {
    bytes_max: ASSET_BYTES_MAX,
    side_min: 1,
    side_max: ASSET_SIDE_MAX,
    pixels_max: ASSET_PIXELS_MAX,
    aspect_max: ASSET_SIDE_MAX,
};

/// Exit code 0 when the picture is recognised, 1 when nothing in it that counts speaks of Kraftr.
pub async fn run(args: VerifyArgs) -> Result<Outcome> {
    let file = read_file(&args.picture)?;
    let found = if let Some(url) = &args.url {
        asked(url, args.api_key_file.as_deref(), file).await?
    } else {
        let config = VerifyConfig::load(&args.flags.sources())?;
        let (keys, anchors) =
            (provenance::keys(&config.watermark), provenance::anchors(&config.credentials)?);
        let evidence = examine(&file, &LIMITS, &keys, &anchors);
        report(&evidence.with_context(|| args.picture.display().to_string())?)
    };
    if args.json {
        output::json(&found)?;
    } else {
        for line in lines(&found) {
            output::line(line)?;
        }
    }
    Ok(if is_recognised(&found) { Outcome::Done } else { Outcome::FoundFault })
}

/// A mark counts, since it takes a key to make one; a manifest counts when somebody who is trusted signed it.
fn is_recognised(found: &Value) -> bool {
    match found["verdict"].as_str() {
        Some("credentials_only") => found["credentials"]["status"] == "trusted",
        Some("kraftr" | "marked" | "unknown_reference") => true,
        _ => false,
    }
}

/// What a scheduler says.
async fn asked(url: &str, key_file: Option<&Path>, file: Vec<u8>) -> Result<Value> {
    let form = reqwest::multipart::Form::new().part("file", reqwest::multipart::Part::bytes(file));
    let url = format!("{}/v1/verify", url.trim_end_matches('/'));
    let mut request = crate::client::http().build()?.post(&url).multipart(form);
    if let Some(path) = key_file {
        let key = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        request = request.bearer_auth(key.trim());
    }
    let response = request.send().await.with_context(|| format!("{url} does not answer"))?;
    if !response.status().is_success() {
        let status = response.status();
        let problem: Problem = response.json().await.with_context(|| format!("{url}: {status}"))?;
        bail!("{url}: {} ({})", problem.detail, problem.code);
    }
    response.json().await.with_context(|| format!("{url} answered no verdict"))
}

/// The same words as over HTTP, and the mark's payload, which is for those who have the key.
fn report(evidence: &Evidence) -> Value {
    let (mark, credentials) = (&evidence.mark, &evidence.credentials);
    let mut report = json!({
        "verdict": evidence.verdict(None),
        "watermark": {
            "found": mark.payload.is_some(), "score": mark.score, "key": mark.key,
            "payload": mark.payload.map(WatermarkRef), "false_positive_bound": mark.false_positive_bound,
        },
        "credentials": {
            "status": credentials.status, "development": credentials.development, "signer": credentials.signer,
            "problems": credentials.problems,
        },
    });
    if credentials.status != Status::Absent {
        report["credentials"]["source"] = json!("file");
    }
    if credentials.is_ours() {
        report["release"] = json!(credentials.release);
        report["created_at"] = json!(credentials.made_at);
    }
    report
}

/// The report for people.
fn lines(found: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let verdict = match found["verdict"].as_str().unwrap_or_default() {
        "kraftr" => "made by Kraftr",
        "marked" => "marked by Kraftr; a scheduler (--url) knows when and by what",
        "unknown_reference" => "marked by Kraftr, and not known there",
        "credentials_only" if found["credentials"]["status"] == "trusted" => {
            "made by Kraftr, as its credentials say; there is no mark"
        }
        "credentials_only" => {
            "its credentials name Kraftr, which anybody could have written: nobody who is trusted signed them, and \
             there is no mark"
        }
        _ => "nothing says that it comes from Kraftr, which does not prove that it does not",
    };
    let mark = &found["watermark"];
    let watermark = if mark["found"] == true {
        let (score, bound) = (mark["score"].as_f64(), mark["false_positive_bound"].as_f64());
        let key = mark["key"].as_str().map_or_else(String::new, |key| format!(", key {key}"));
        format!(
            "found, score {:.1}, false-positive bound {:.1e}{key}",
            score.unwrap_or(0.0),
            bound.unwrap_or(1.0)
        )
    } else {
        "none".to_owned()
    };
    let credentials = &found["credentials"];
    let mut manifest = text(&credentials["status"]);
    if credentials["source"] == "store" {
        manifest += ", stripped from the file and kept with the original";
    }
    if credentials["development"] == true {
        manifest += ", signed with a certificate for development";
    }
    let problems: Vec<String> = credentials["problems"].as_array().into_iter().flatten().map(text).collect();
    if !problems.is_empty() {
        manifest = format!("{manifest} ({})", problems.join(", "));
    }
    let mut lines = vec![
        format!("verdict      {verdict}"),
        format!("watermark    {watermark}"),
        format!("credentials  {manifest}"),
    ];
    for (name, key) in
        [("release", "release"), ("made at", "created_at"), ("render", "render"), ("org", "org")]
    {
        if let Some(value) = found[key].as_str() {
            lines.push(format!("{name:<12} {value}"));
        }
    }
    lines
}
