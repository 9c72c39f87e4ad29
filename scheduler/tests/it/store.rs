//! The store's conformance suite over SQLite, in memory and in a file, and over PostgreSQL.

use std::sync::Arc;

use kraftr_protocol::{Clock, Timestamp};
use kraftr_scheduler::clock::{ManualClock, SeededIds};
use kraftr_scheduler::store::conformance::{self, Bench};
use kraftr_scheduler::store::sqlite::SqliteStore;

use crate::services::Database;

async fn bench(store: impl AsyncFnOnce(Arc<dyn Clock>, Arc<SeededIds>) -> SqliteStore) -> Bench {
    let clock = Arc::new(ManualClock::new(Timestamp(1_790_000_000_000_000)));
    let store = store(Arc::clone(&clock) as Arc<dyn Clock>, Arc::new(SeededIds::new(7))).await;
    Bench { store: Arc::new(store), advance: Box::new(move |by| clock.advance(by)) }
}

macro_rules! suite {
    ($($promise:ident)+) => {
        mod in_memory {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let bench = bench(async |clock, ids| SqliteStore::in_memory(clock, ids).await.unwrap()).await;
                conformance::$promise(&bench).await;
            })+
        }

        mod in_a_file {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("kraftr.db");
                let bench = bench(async |clock, ids| SqliteStore::open(&path, clock, ids).await.unwrap()).await;
                conformance::$promise(&bench).await;
            })+
        }

        mod in_postgres {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let database = Database::new().await;
                let skew = Arc::clone(&database.skew);
                let bench = Bench {
                    store: Arc::new(database.store().await),
                    advance: Box::new(move |by| Database::advance(&skew, by)),
                };
                conformance::$promise(&bench).await;
                database.remove().await;
            })+
        }
    };
}

suite! {
    grants_count_once
    submit_holds_or_refuses
    a_batch_is_judged_one_by_one
    racing_submissions_never_overdraw
    success_captures_once
    a_partial_result_is_charged_its_part
    a_report_that_does_not_fit_is_no_delivery
    an_idempotency_key_charges_once
    an_unfinished_request_frees_its_key
    keys_are_found_and_revoked
    assets_are_addressed_by_content
    deleting_an_asset_erases_its_object
    lists_are_paged_newest_first
    deleting_a_render_keeps_the_books
    the_window_is_bounded
    urgent_first_then_oldest
    nobody_waits_for_a_free_place
    jobs_go_ahead_of_their_commit
    claims_raise_the_epoch
    claims_are_refused_when_not_current
    the_outbox_keeps_what_is_not_settled
    the_outbox_keeps_the_order_of_a_render
    one_replica_leads
    commits_are_noticed
    events_change_only_the_claim_that_holds
    failures_are_retried_and_then_refunded
    a_cancel_never_charges
    lost_leases_requeue_and_then_poison
    lost_job_messages_are_sent_again
    a_cancel_survives_its_worker
    a_restart_requeues_without_blame
    the_history_is_whole
    poison_becomes_a_dead_letter
    objects_are_wanted_while_somebody_may_ask_for_them
}
