//! Every metric, declared once: the doc comment is the help text.
//!
//! Counters and durations live in the process. Gauges are computed from the database when somebody
//! asks, so that a restart does not reset them and a drained queue reports 0 instead of vanishing.

use std::sync::atomic::AtomicU64;

use kraftr_protocol::Status;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::domain::invariants::{Audit, Invariant};
use crate::store::Gauges;

/// Media type of the page.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What an HTTP request is counted under.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// A standard method, or `OTHER`.
    pub method: &'static str,
    /// The route's template, never the path: `/v1/renders/{id}`.
    pub route: String,
    /// `2xx`, `3xx`, `4xx` or `5xx`.
    pub status: &'static str,
}

/// What a duration is counted under.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteLabels {
    /// The route's template.
    pub route: String,
}

/// What a number of renders is counted under.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StatusLabels {
    /// A render's state.
    pub status: &'static str,
}

/// What a number of violations is counted under.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct InvariantLabels {
    /// The invariant's name.
    pub invariant: String,
}

type Durations = Family<RouteLabels, Histogram, fn() -> Histogram>;

macro_rules! metrics {
    ($(#[doc = $help:literal] $field:ident: $type:ty = $name:literal, $new:expr;)+) => {
        /// The metrics of one process.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $(#[doc = $help] pub $field: $type,)+
        }

        impl Metrics {
            /// Name and meaning of every metric; a counter's name gets `_total` on the page.
            pub const DECLARED: &[(&str, &str)] = &[$(($name, $help)),+];
        }

        impl Default for Metrics {
            fn default() -> Self {
                let mut registry = Registry::default();
                $(
                    let $field: $type = $new;
                    registry.register($name, $help.trim().trim_end_matches('.'), $field.clone());
                )+
                Self { registry, $($field),+ }
            }
        }
    };
}

metrics! {
    /// HTTP requests answered, by method, route template and status class.
    http_requests: Family<RequestLabels, Counter<u64, AtomicU64>> = "kraftr_http_requests", Family::default();
    /// Time until an answer's headers, by route template.
    http_request_seconds: Durations = "kraftr_http_request_seconds",
        Family::new_with_constructor(|| Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]));
    /// Event streams that are open.
    http_event_streams: Gauge = "kraftr_http_event_streams", Gauge::default();
    /// Bytes of uploaded files that were read.
    asset_upload_bytes: Counter = "kraftr_asset_upload_bytes", Counter::default();
    /// Renders accepted.
    renders_submitted: Counter = "kraftr_renders_submitted", Counter::default();
    /// Renders that a worker's report ended, by the state they ended in.
    renders_ended: Family<StatusLabels, Counter<u64, AtomicU64>> = "kraftr_renders_ended", Family::default();
    /// Renders in each state that is not an end.
    renders: Family<StatusLabels, Gauge> = "kraftr_renders", Family::default();
    /// Outbox rows that wait.
    outbox_rows: Gauge = "kraftr_outbox_rows", Gauge::default();
    /// Objects that no row referred to and that were erased.
    objects_swept: Counter = "kraftr_objects_swept", Counter::default();
    /// Renders that the present workers can run at once.
    worker_slots: Gauge = "kraftr_worker_slots", Gauge::default();
    /// Places where the ledger breaks an invariant, at the last audit; must be 0.
    ledger_violations: Family<InvariantLabels, Gauge> = "kraftr_ledger_violations", Family::default();
    /// 1 when the database answered this scrape; the gauges computed from it are absent when 0.
    store_up: Gauge = "kraftr_store_up", Gauge::default();
}

impl Metrics {
    /// Takes over what the database says; `None` when it did not answer.
    pub fn set_gauges(&self, gauges: Option<&Gauges>) {
        self.store_up.set(i64::from(gauges.is_some()));
        let Some(gauges) = gauges else {
            self.renders.clear();
            return;
        };
        for status in Status::ALL.into_iter().filter(|status| !status.is_terminal()) {
            let count =
                gauges.renders.iter().find(|(other, _)| *other == status).map_or(0, |(_, count)| *count);
            self.renders.get_or_create(&StatusLabels { status: status.as_str() }).set(count);
        }
        self.outbox_rows.set(gauges.outbox_pending);
        self.worker_slots.set(gauges.slots);
    }

    /// Takes over what an audit found.
    pub fn set_audit(&self, audit: &Audit) {
        for invariant in Invariant::ALL {
            let found = audit.violations.iter().filter(|violation| violation.invariant == invariant).count();
            let name = serde_json::to_value(invariant).ok().and_then(|name| name.as_str().map(str::to_owned));
            let labels = InvariantLabels { invariant: name.unwrap_or_default() };
            self.ledger_violations.get_or_create(&labels).set(i64::try_from(found).unwrap_or(i64::MAX));
        }
    }

    /// The page, in the `OpenMetrics` text format.
    pub fn page(&self) -> Result<String, std::fmt::Error> {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drained_queue_reports_zero() {
        let metrics = Metrics::default();
        metrics.set_gauges(Some(&Gauges { renders: vec![(Status::Queued, 3)], ..Gauges::default() }));
        assert!(metrics.page().unwrap().contains("kraftr_renders{status=\"queued\"} 3\n"));
        metrics.set_gauges(Some(&Gauges::default()));
        metrics.set_audit(&Audit::default());
        let page = metrics.page().unwrap();
        for line in [
            "kraftr_renders{status=\"queued\"} 0",
            "kraftr_renders{status=\"running\"} 0",
            "kraftr_ledger_violations{invariant=\"held_within_posted\"} 0",
            "kraftr_store_up 1",
        ] {
            assert!(page.contains(&format!("{line}\n")), "{line} is not in\n{page}");
        }
        metrics.set_gauges(None);
        assert!(!metrics.page().unwrap().contains("status=\"queued\""));
    }

    #[test]
    fn names_follow_the_pattern() {
        for (name, help) in Metrics::DECLARED {
            assert!(name.starts_with("kraftr_") && !name.ends_with("_total"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert!(help.trim().ends_with('.'), "{name}");
        }
    }
}
