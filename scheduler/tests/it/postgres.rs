//! What only PostgreSQL has: constraints against a buggy writer, plans on a large table, replicas that race.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use kraftr_protocol::message::{Heartbeat, Held, Job, UploadRequest};
use kraftr_protocol::{
    ArtifactReport, AssetId, Category, Class, Credits, Digest, Event, EventBody, Format, GarmentPhoto,
    GpuMillis, Lane, OrgId, Quality, RenderSpec, Status, WorkerId,
};
use kraftr_scheduler::store::postgres::PgStore;
use kraftr_scheduler::store::{
    Applied, ClaimOutcome, Idempotency, NewAsset, NewRender, ObjectKind, Page, Render, Store, SubmitError,
    Term,
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use uuid::Uuid;

use crate::services::Database;

const REPLICA: Uuid = Uuid::from_u128(1);

struct Tenant {
    org: OrgId,
    person: AssetId,
    garment: AssetId,
}

async fn tenant(store: &PgStore, credits: i64) -> Tenant {
    let org = store.create_org("tenant").await.unwrap().id;
    store.grant(org, Credits(credits), "opening").await.unwrap();
    let mut assets = Vec::new();
    for content in [b"person ", b"garment"] {
        let id = AssetId(Uuid::from_u128(org.0.as_u128() ^ u128::from(content[0])));
        let asset = NewAsset {
            id,
            org,
            object_key: format!("assets/{id}"),
            sha256: Digest::of(content),
            content_type: "image/png".into(),
            width: 64,
            height: 64,
            bytes: 1,
        };
        assets.push(store.insert_asset(&asset, None).await.unwrap().id);
    }
    Tenant { org, person: assets[0], garment: assets[1] }
}

fn new_render(tenant: &Tenant) -> NewRender {
    NewRender {
        org: tenant.org,
        ticket: None,
        model: "m".into(),
        spec: RenderSpec {
            release: "r".into(),
            category: Category::Tops,
            garment_photo: GarmentPhoto::FlatLay,
            quality: Quality::Fast,
            steps: 1,
            guidance: 1.5,
            seed: 0,
            samples: 1,
            format: Format::Png,
            scene: None,
        },
        pool: "p".into(),
        class: Class::Interactive,
        person: tenant.person,
        garment: tenant.garment,
        price: Credits(1),
        estimate: GpuMillis(1),
        webhook: None,
        metadata: None,
    }
}

async fn announce(store: &PgStore, slots: u32, held: Vec<Held>) {
    let lane = Lane { pool: "p".into(), release: "r".into(), class: Class::Interactive };
    let heartbeat = Heartbeat { worker: worker(), lanes: vec![lane], slots, held };
    store.renew_leases(&heartbeat).await.unwrap();
}

fn worker() -> WorkerId {
    WorkerId(Uuid::from_u128(9))
}

async fn dispatch(store: &PgStore) -> Option<u32> {
    let term: Term = store.lead(REPLICA).await.unwrap().expect("nobody else leads");
    store.dispatch(term).await.unwrap()
}

async fn claim(store: &PgStore, render: &Render) -> Held {
    let job = Job { render: render.id, attempt: 1 };
    match store.grant_claims(&[(job, worker())]).await.unwrap().remove(0) {
        ClaimOutcome::Granted(claimed) => Held { render: render.id, epoch: claimed.render.epoch },
        refused @ (ClaimOutcome::NotGranted(_) | ClaimOutcome::NotThere) => panic!("{refused:?}"),
    }
}

fn event(held: Held, body: EventBody) -> Event {
    Event { render: held.render, attempt: 1, epoch: held.epoch, worker: worker(), body }
}

fn succeeded() -> EventBody {
    let artifact = ArtifactReport {
        sample: 0,
        sha256: Digest::of(b"picture"),
        bytes: 7,
        width: 64,
        height: 64,
        content_type: "image/png".into(),
    };
    EventBody::Succeeded { artifacts: vec![artifact], device_time: GpuMillis(1) }
}

/// Whatever a writer that knows no rules tries is refused, and the books stay as they were.
#[tokio::test]
async fn the_schema_refuses_a_buggy_writer() {
    let database = Database::new().await;
    let store = database.store().await;
    let tenant = tenant(&store, 100).await;
    let [ended, live] = [0, 1].map(|_| new_render(&tenant));
    let renders = store.submit_renders(&[ended, live], None).await.unwrap();
    let renders: Vec<Render> = renders.into_iter().map(Result::unwrap).collect();
    announce(&store, 8, Vec::new()).await;
    assert_eq!(dispatch(&store).await, Some(2));
    let held = claim(&store, &renders[0]).await;
    assert_eq!(
        store.apply_events(&[event(held, succeeded())]).await.unwrap(),
        [Applied::Changed(Status::Succeeded)]
    );
    let (org, ended, live) = (tenant.org.0, renders[0].id.0, renders[1].id.0);
    let entry = |account: &str, kind: &str, render: Uuid, posted: i64, held: i64, after: &str| {
        format!(
            "INSERT INTO ledger_entries VALUES (gen_random_uuid(), '{org}', '{account}', '{kind}', '{render}', NULL,
             1, {posted}, {held}, {after}, now())"
        )
    };
    let pair = |kind: &str, render: Uuid, posted: i64, after: &str| {
        let first = entry("org", kind, render, posted, 0, after);
        let (_, values) = first.split_once("VALUES").unwrap();
        let second = entry("revenue", kind, render, -posted, 0, "NULL, NULL");
        format!("{second}, {values}")
    };
    let attempts = [
        // Money that moves without entries, twice, one-sided, against the balance, or out of nothing.
        ("a balance by hand", format!("UPDATE accounts SET posted = posted + 1 WHERE org_id = '{org}'")),
        ("a rich account", "INSERT INTO accounts SELECT id, 5, 0 FROM orgs".to_owned()),
        ("an account removed", format!("DELETE FROM accounts WHERE org_id = '{org}'")),
        ("an entry changed", "UPDATE ledger_entries SET amount = 0".to_owned()),
        ("an entry removed", "DELETE FROM ledger_entries".to_owned()),
        ("entries truncated", "TRUNCATE ledger_entries".to_owned()),
        ("one side only", entry("org", "refund", ended, 1, 0, "100, 1")),
        ("a second capture", pair("capture", ended, -1, "98, 1")),
        ("a void after the capture", pair("void", ended, -1, "98, 1")),
        ("a wrong balance after", pair("refund", ended, 1, "777, 1")),
        ("an overdraft", pair("refund", ended, -99, "0, 1")),
        // Renders that move where they cannot, or end without a settlement.
        ("an ended render revived", format!("UPDATE renders SET status = 'queued', revision = revision + 1,
            finished_at = NULL WHERE id = '{ended}'")),
        ("an end without a settlement", format!("UPDATE renders SET status = 'cancelled', revision = revision + 1,
            lease_until = NULL, finished_at = now(), cancel_requested_at = now() WHERE id = '{live}'")),
        ("a jump over a state", format!("UPDATE renders SET status = 'succeeded', revision = revision + 1,
            lease_until = NULL, finished_at = now() WHERE id = '{live}'")),
        ("a move without a revision", format!("UPDATE renders SET status = 'queued', lease_until = NULL
            WHERE id = '{live}'")),
        ("an epoch that falls", format!("UPDATE renders SET epoch = epoch - 1 WHERE id = '{ended}'")),
        ("another price", format!("UPDATE renders SET price = 0 WHERE id = '{live}'")),
        ("a render removed", format!("DELETE FROM renders WHERE id = '{live}'")),
        ("a render without a hold", format!("INSERT INTO renders (id, org_id, status, revision, model, spec, pool,
            release, class, person_id, garment_id, price, estimate_ms, not_before, watermark, created_at)
            SELECT gen_random_uuid(), org_id, 'queued', 1, model, spec, pool, release, class, person_id, garment_id,
            price, estimate_ms, now(), '\\x0102030405060708', now() FROM renders WHERE id = '{live}'")),
        ("a term that falls", "UPDATE leader SET term = term - 1".to_owned()),
    ];
    let mut writer = database.connection().await;
    for (what, attempt) in attempts {
        let refused = writer.execute(AssertSqlSafe(attempt)).await;
        let refused = refused.expect_err(what).into_database_error().unwrap();
        let code = refused.code().unwrap_or_default();
        assert!(code.starts_with("23"), "{what} was refused with {code}: {refused}");
    }
    let audit = store.audit().await.unwrap();
    assert!(audit.ok(), "{:#?}", audit.violations);
    assert_eq!((audit.renders, store.balance(tenant.org).await.unwrap().posted), (2, Credits(99)));
    store.close().await;
    database.remove().await;
}

/// Replicas that submit, dispatch, claim and cancel at the same time never overdraw, and nothing deadlocks.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_replicas_keep_the_books() {
    const CREDITS: i64 = 60;
    let database = Database::new().await;
    let replicas = [Arc::new(database.store().await), Arc::new(database.store().await)];
    let tenants = [tenant(&replicas[0], CREDITS).await, tenant(&replicas[0], CREDITS).await];
    let tenants = Arc::new(tenants);
    announce(&replicas[0], 200, Vec::new()).await;
    let mut crowd = tokio::task::JoinSet::new();
    for n in 0..8usize {
        let (store, tenants) = (Arc::clone(&replicas[n % 2]), Arc::clone(&tenants));
        crowd.spawn(async move {
            let mut accepted = 0;
            for round in 0..12 {
                // Both orders of the two accounts in one batch.
                let turn = (n + round) % 2;
                let batch = [new_render(&tenants[turn]), new_render(&tenants[1 - turn])];
                for outcome in store.submit_renders(&batch, None).await.unwrap() {
                    match outcome {
                        Ok(render) if (n + round) % 5 == 0 => {
                            store.cancel_render(render.org, render.id).await.unwrap();
                        }
                        Ok(_) => accepted += 1,
                        Err(error) => assert!(matches!(error, SubmitError::InsufficientCredits { .. })),
                    }
                }
                if let Some(term) = store.lead(Uuid::from_u128(n as u128)).await.unwrap() {
                    store.dispatch(term).await.unwrap();
                }
                store.reap().await.unwrap();
            }
            accepted
        });
    }
    let accepted: i64 = crowd.join_all().await.into_iter().sum();
    assert_eq!(accepted, 2 * CREDITS, "everything that is covered is accepted, nothing else");
    for tenant in tenants.iter() {
        let balance = replicas[1].balance(tenant.org).await.unwrap();
        assert_eq!((balance.posted, balance.held), (Credits(CREDITS), Credits(CREDITS)));
    }
    let audit = replicas[1].audit().await.unwrap();
    assert!(audit.ok(), "{:#?}", audit.violations);
    drop(replicas);
    database.remove().await;
}

/// A deleted asset and a submission that uses it: one of them comes first, and the other knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_asset_is_not_deleted_under_a_submission() {
    let database = Database::new().await;
    let store = Arc::new(database.store().await);
    for _ in 0..30 {
        let tenant = tenant(&store, 5).await;
        let (org, garment) = (tenant.org, tenant.garment);
        let deleting = {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.delete_asset(org, garment).await.unwrap() })
        };
        let submitted = store.submit_renders(&[new_render(&tenant)], None).await.unwrap().remove(0);
        let deleted = deleting.await.unwrap() == kraftr_scheduler::store::DeleteOutcome::Deleted;
        assert_eq!(submitted.is_ok(), !deleted, "{submitted:?}");
        assert_eq!(store.asset(org, garment).await.unwrap().is_some(), submitted.is_ok());
    }
    drop(store);
    database.remove().await;
}

/// Collects every statement that the store executes.
#[derive(Clone, Default)]
struct Statements(Arc<Mutex<BTreeSet<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Statements {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        #[derive(Default)]
        struct Texts(String, String);
        impl Visit for Texts {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                self.record_str(field, &format!("{value:?}"));
            }

            fn record_str(&mut self, field: &Field, value: &str) {
                match field.name() {
                    "summary" => value.clone_into(&mut self.0),
                    "db.statement" => value.clone_into(&mut self.1),
                    _ => {}
                }
            }
        }
        if event.metadata().target() == "sqlx::query" {
            let mut texts = Texts::default();
            event.record(&mut texts);
            // The summary is the whole statement where it is short.
            let statement = if texts.1.trim().is_empty() { texts.0 } else { texts.1 };
            self.0.lock().unwrap().insert(statement.trim().to_owned());
        }
    }
}

/// A million renders that wait and as many that ended, of one org, beside whatever the test does.
async fn fill(connection: &mut PgConnection, tenant: &Tenant) {
    let spec = serde_json::to_string(&new_render(tenant).spec).unwrap();
    let (org, person, garment) = (tenant.org.0, tenant.person.0, tenant.garment.0);
    for statement in [
        // Rows like any other, without what each of a million would cost to check.
        "SET session_replication_role = replica".to_owned(),
        format!(
            "INSERT INTO renders (id, org_id, status, revision, model, spec, pool, release, class, person_id,
                garment_id, price, estimate_ms, not_before, watermark, created_at, finished_at)
             SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, '{org}',
                CASE WHEN n % 2 = 0 THEN 'queued' ELSE 'succeeded' END, 2, 'm', '{spec}', 'p',
                'r', 'batch', '{person}', '{garment}', 1, 1, now(),
                decode(lpad(to_hex(n), 16, '0'), 'hex'), now(), CASE WHEN n % 2 = 0 THEN NULL ELSE now() END
             FROM generate_series(1, 1000000) AS n"
        ),
        "INSERT INTO render_transitions SELECT id, 2, 'succeed', status, '', 0, 0, now() FROM renders
         WHERE status = 'succeeded'"
            .to_owned(),
        "INSERT INTO ledger_entries SELECT id, org_id, 'org', 'hold', id, NULL, 1, 0, 1, 1, 1, now() FROM renders"
            .to_owned(),
        "INSERT INTO artifacts SELECT id, id, 0, id::text, decode(repeat('00', 32), 'hex'), '', 1, 1, 1, now()
         FROM renders WHERE status = 'succeeded'"
            .to_owned(),
        "INSERT INTO assets SELECT id, org_id, id::text, decode(lpad(replace(id::text, '-', ''), 64, '0'), 'hex'), '',
            1, 1, 1, now(), NULL FROM renders LIMIT 200000"
            .to_owned(),
        "INSERT INTO idempotency_keys SELECT org_id, id::text, decode(repeat('00', 32), 'hex'), 0, now(), 'render', id
         FROM renders LIMIT 200000"
            .to_owned(),
        "INSERT INTO outbox (topic, due_at, created_at, render_id) SELECT '{\"topic\":\"cancel\"}',
            now() + interval '1 hour', now(), id FROM renders LIMIT 100000"
            .to_owned(),
        "SET session_replication_role = origin".to_owned(),
        "ANALYZE".to_owned(),
    ] {
        connection.execute(AssertSqlSafe(statement)).await.unwrap();
    }
}

/// Everything that a request, a worker or a loop makes the store do.
async fn everyday(store: &PgStore, tenant: &Tenant) {
    let org = tenant.org;
    store.ping().await.unwrap();
    let secret = Digest::of(b"secret");
    let key = store.create_key(org, "k", secret).await.unwrap();
    store.key_by_secret(secret).await.unwrap();
    store.revoke_key(key.id).await.unwrap();
    store.grant(org, Credits(50), "more").await.unwrap();
    let Idempotency::Fresh(ticket) = store.begin_idempotent(org, "k", secret).await.unwrap() else {
        panic!("the key is new")
    };
    let with_ticket = NewRender { ticket: Some(ticket), ..new_render(tenant) };
    let batch = [with_ticket, new_render(tenant), new_render(tenant), new_render(tenant)];
    let renders = store.submit_renders(&batch, None).await.unwrap();
    let renders: Vec<Render> = renders.into_iter().map(Result::unwrap).collect();
    store.begin_idempotent(org, "k", secret).await.unwrap();
    announce(store, 4, Vec::new()).await;
    assert_eq!(dispatch(store).await, Some(4), "the backlog is in other lanes");
    let due = store.outbox(10).await.unwrap();
    store.defer_outbox(&[due[0].id]).await.unwrap();
    store.settle_outbox(&[due[1].id]).await.unwrap();
    let held = [claim(store, &renders[0]).await, claim(store, &renders[1]).await];
    announce(store, 4, held.to_vec()).await;
    let upload = UploadRequest {
        held: held[0],
        sample: 0,
        sha256: secret,
        bytes: 7,
        content_type: "image/png".into(),
    };
    assert!(store.authorise_upload(&upload).await.unwrap().is_some());
    store
        .apply_events(&[event(held[0], succeeded()), event(held[1], EventBody::EngineCrashed)])
        .await
        .unwrap();
    store.cancel_render(org, renders[2].id).await.unwrap();
    store.reap().await.unwrap();
    let page = Page { limit: 20, before: Some(renders[3].id.0) };
    let done = store.render(org, renders[0].id).await.unwrap().unwrap();
    store.artifact(org, done.artifacts[0].id).await.unwrap().unwrap();
    for status in [None, Some(Status::Succeeded), Some(Status::Failed)] {
        store.renders(org, status, &page).await.unwrap();
    }
    store.transitions(done.id, 0).await.unwrap();
    store.ledger(org, &page).await.unwrap();
    store.ledger_of_render(done.id).await.unwrap();
    store.balance(org).await.unwrap();
    store.assets(org, &page).await.unwrap();
    store.asset(org, tenant.person).await.unwrap();
    store.asset_by_digest(org, secret).await.unwrap();
    let keys: Vec<String> = done.artifacts.iter().map(|artifact| artifact.object_key.clone()).collect();
    assert_eq!(store.wanted_objects(&keys).await.unwrap().len(), 1);
    for kind in [ObjectKind::Assets, ObjectKind::Artifacts] {
        store.objects(kind, &page).await.unwrap();
    }
    store.lanes_in_flight().await.unwrap();
    store.delete_asset(org, tenant.person).await.unwrap();
    store.delete_render(org, done.id).await.unwrap();
    store.gauges().await.unwrap();
    store.resign(REPLICA).await.unwrap();
}

/// Every statement of every day goes by an index, whatever its parameters: no plan reads a large table whole.
#[tokio::test(flavor = "current_thread")]
async fn no_everyday_statement_reads_a_large_table_whole() {
    let database = Database::new().await;
    let store = database.store().await;
    let tenant = tenant(&store, 100).await;
    let mut connection = database.connection().await;
    fill(&mut connection, &tenant).await;
    for (statement, plan) in everyday_plans(&store, &tenant, &mut connection).await {
        for table in
            ["renders", "ledger_entries", "render_transitions", "artifacts", "idempotency_keys", "assets"]
        {
            let whole = format!("Seq Scan on {table}");
            assert!(!plan.contains(&whole), "{statement}\n\nreads all of {table}:\n{plan}");
            // A primary key without a condition is a walk through the whole table as well.
            let walks = walks(&plan, &format!("{table}_pkey on {table}"));
            assert!(!walks, "{statement}\n\nwalks through all of {table}:\n{plan}");
        }
    }
    connection.close().await.unwrap();
    database.remove().await;
}

/// Plans live as long as their connections, so those that are made while the tables are new must hold later: none
/// walks through everything that is not deleted.
#[tokio::test(flavor = "current_thread")]
async fn no_plan_of_an_empty_table_walks_through_a_large_one() {
    let database = Database::new().await;
    let store = database.store().await;
    let tenant = tenant(&store, 100).await;
    let mut connection = database.connection().await;
    connection.execute("SET enable_seqscan = off").await.unwrap();
    let indexes: Vec<String> = sqlx::query_scalar(
        "SELECT indexname::text FROM pg_indexes WHERE indexdef LIKE '%deleted_at IS NULL%'",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert!(indexes.len() >= 3, "{indexes:?}");
    for (statement, plan) in everyday_plans(&store, &tenant, &mut connection).await {
        for index in &indexes {
            assert!(!walks(&plan, index), "{statement}\n\nwalks through all of {index}:\n{plan}");
        }
    }
    connection.close().await.unwrap();
    database.remove().await;
}

/// True when the plan reads the index that it names like this from one end to the other.
fn walks(plan: &str, index: &str) -> bool {
    let lines: Vec<&str> = plan.lines().collect();
    lines.iter().enumerate().any(|(at, line)| {
        let next = lines.get(at + 1).copied().unwrap_or_default();
        line.contains(index) && !next.contains("Index Cond") && !next.contains("Sort Key")
    })
}

/// What the store executes every day, each with its plan for any parameters. Closes the store.
async fn everyday_plans(
    store: &PgStore,
    tenant: &Tenant,
    connection: &mut PgConnection,
) -> Vec<(String, String)> {
    let statements = Statements::default();
    {
        let _guard =
            tracing::subscriber::set_default(tracing_subscriber::registry().with(statements.clone()));
        everyday(store, tenant).await;
    }
    store.close().await;
    let statements = statements.0.lock().unwrap().clone();
    connection.execute("SET plan_cache_mode = force_generic_plan").await.unwrap();
    let mut plans = Vec::new();
    for statement in statements {
        if ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"].iter().any(|word| statement.starts_with(word)) {
            let plan = explain(connection, &statement).await;
            plans.push((statement, plan));
        }
    }
    assert!(plans.len() > 40, "only {} plans were looked at", plans.len());
    plans
}

/// The plan that the statement gets for any parameters.
async fn explain(connection: &mut PgConnection, statement: &str) -> String {
    let parameters = (1..=99).take_while(|n| statement.contains(&format!("${n}"))).count();
    let nulls = vec!["NULL"; parameters].join(", ");
    let arguments = if parameters == 0 { String::new() } else { format!("({nulls})") };
    connection.execute(AssertSqlSafe(format!("PREPARE looked_at AS {statement}"))).await.unwrap();
    let rows = sqlx::raw_sql(AssertSqlSafe(format!("EXPLAIN EXECUTE looked_at{arguments}")))
        .fetch_all(&mut *connection)
        .await
        .unwrap();
    connection.execute("DEALLOCATE looked_at").await.unwrap();
    let lines: Vec<String> = rows.iter().map(|row| row.get::<String, _>(0)).collect();
    lines.join("\n")
}
