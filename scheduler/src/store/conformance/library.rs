//! Orgs, keys, assets, lists, deletion.

use super::{
    Applied, AssetId, Bench, DeleteOutcome, Digest, Duration, Epoch, Held, NewAsset, Page, Status, Topic,
    Uuid, delivered, everything, new_asset,
};
use crate::store::ObjectKind;
use crate::store::objects::asset_key;
use crate::store::rows::artifact_key;

/// A key is found by its secret, and says when it was revoked.
pub async fn keys_are_found_and_revoked(bench: &Bench) {
    let tenant = bench.tenant(0).await;
    let secret = Digest::of(b"secret");
    let key = bench.store.create_key(tenant.org, "suite", secret).await.expect("store");
    assert_eq!(bench.store.key_by_secret(secret).await.expect("store"), Some(key.clone()));
    assert_eq!(bench.store.key_by_secret(Digest::of(b"guess")).await.expect("store"), None);
    assert!(bench.store.revoke_key(key.id).await.expect("store"));
    let revoked_at = bench.store.key_by_secret(secret).await.expect("store").and_then(|key| key.revoked_at);
    assert!(revoked_at.is_some());
    (bench.advance)(Duration::from_secs(5));
    assert!(bench.store.revoke_key(key.id).await.expect("store"), "revoking twice is fine");
    let keys = bench.store.keys(tenant.org).await.expect("store");
    assert_eq!(keys.iter().map(|key| key.revoked_at).collect::<Vec<_>>(), [revoked_at]);
}

/// The same content is the same asset of its org, and another org's is another.
pub async fn assets_are_addressed_by_content(bench: &Bench) {
    let (one, other) = (bench.tenant(0).await, bench.tenant(0).await);
    let again = NewAsset {
        id: AssetId(Uuid::from_u128(77)),
        object_key: "k".into(),
        ..new_asset(one.org, b"person")
    };
    assert_eq!(bench.store.insert_asset(&again, None).await.expect("store").id, one.person);
    assert_ne!(one.person, other.person);
    assert_eq!(bench.store.asset(other.org, one.person).await.expect("store"), None);
    let found = bench.store.asset_by_digest(other.org, Digest::of(b"person")).await.expect("store");
    assert_eq!(found.map(|asset| asset.id), Some(other.person));
}

/// A deleted asset is gone for readers, its object is queued for erasure, and its content may come again.
pub async fn deleting_an_asset_erases_its_object(bench: &Bench) {
    let tenant = bench.tenant(2).await;
    let render = bench.submit(&tenant, 1).await;
    let refused = bench.store.delete_asset(tenant.org, tenant.person).await.expect("store");
    assert_eq!(refused, DeleteOutcome::InUse);
    bench.store.cancel_render(tenant.org, render.id).await.expect("store");
    assert_eq!(
        bench.store.delete_asset(tenant.org, tenant.person).await.expect("store"),
        DeleteOutcome::Deleted
    );
    assert_eq!(
        bench.store.delete_asset(tenant.org, tenant.person).await.expect("store"),
        DeleteOutcome::NotFound
    );
    assert_eq!(bench.store.asset(tenant.org, tenant.person).await.expect("store"), None);
    let erased = bench.store.outbox(100).await.expect("store");
    let object_key = format!("assets/{}/{}.png", tenant.org, tenant.person);
    assert!(erased.iter().any(|row| row.topic == Topic::Erase { object_key: object_key.clone() }));
    let anew = NewAsset {
        id: AssetId(Uuid::from_u128(78)),
        object_key: "k".into(),
        ..new_asset(tenant.org, b"person")
    };
    assert_eq!(bench.store.insert_asset(&anew, None).await.expect("store").id, anew.id);
    bench.audit().await;
}

/// Lists go from the newest to the oldest, page by page, without gaps or repetitions.
pub async fn lists_are_paged_newest_first(bench: &Bench) {
    let tenant = bench.tenant(100).await;
    let mut ids = Vec::new();
    for _ in 0..7 {
        ids.push(bench.submit(&tenant, 1).await.id);
    }
    ids.reverse();
    let mut seen = Vec::new();
    let mut page = Page { limit: 3, before: None };
    loop {
        let renders = bench.store.renders(tenant.org, None, &page).await.expect("store");
        let Some(last) = renders.last() else { break };
        page.before = Some(last.id.0);
        seen.extend(renders.iter().map(|render| render.id));
    }
    assert_eq!(seen, ids);
    let queued = bench.store.renders(tenant.org, Some(Status::Queued), &everything()).await.expect("store");
    assert_eq!(queued.len(), 7);
    assert!(
        bench.store.renders(tenant.org, Some(Status::Failed), &everything()).await.expect("store").is_empty()
    );
}

/// Only an ended render can be deleted; then nobody finds it or its artifacts, and the books still balance.
pub async fn deleting_a_render_keeps_the_books(bench: &Bench) {
    let tenant = bench.tenant(10).await;
    let render = bench.submit(&tenant, 2).await;
    assert_eq!(bench.store.delete_render(tenant.org, render.id).await.expect("store"), DeleteOutcome::InUse);
    let (job, epoch) = bench.run(render.id).await;
    bench.report(job, epoch, delivered(2)).await;
    let delivered = bench.store.render(tenant.org, render.id).await.expect("store").expect("it is there");
    let artifact = delivered.artifacts[1].id;
    assert!(bench.store.artifact(tenant.org, artifact).await.expect("store").is_some());
    let stranger = bench.tenant(0).await;
    assert!(bench.store.artifact(stranger.org, artifact).await.expect("store").is_none());
    assert_eq!(
        bench.store.delete_render(stranger.org, render.id).await.expect("store"),
        DeleteOutcome::NotFound
    );
    assert_eq!(
        bench.store.delete_render(tenant.org, render.id).await.expect("store"),
        DeleteOutcome::Deleted
    );
    assert!(bench.store.render(tenant.org, render.id).await.expect("store").is_none());
    assert!(bench.store.artifact(tenant.org, artifact).await.expect("store").is_none());
    let erased = bench.store.outbox(100).await.expect("store");
    assert_eq!(erased.iter().filter(|row| matches!(row.topic, Topic::Erase { .. })).count(), 2);
    assert_eq!(bench.balance(&tenant).await, (6, 0));
    bench.audit().await;
}

/// An object is wanted while a row that is not deleted refers to it, and while the claim that may report it runs.
pub async fn objects_are_wanted_while_somebody_may_ask_for_them(bench: &Bench) {
    let tenant = bench.tenant(5).await;
    let render = bench.submit(&tenant, 1).await;
    let (job, epoch) = bench.run(render.id).await;
    let asset = asset_key(tenant.org, tenant.person);
    let held = |epoch| artifact_key(Held { render: render.id, epoch }, 0, "image/png");
    let (current, stale) = (held(epoch), held(Epoch(epoch.0 + 1)));
    let nobodys = asset_key(tenant.org, AssetId(Uuid::from_u128(4)));
    let keys = [asset.clone(), current.clone(), stale.clone(), nobodys, "foreign".to_owned()];
    let wanted =
        async || bench.store.wanted_objects(&keys).await.expect("store").into_iter().collect::<Vec<_>>();
    assert_eq!(wanted().await, [current.clone(), asset.clone()], "the claim runs");
    let load = bench.store.lanes_in_flight().await.expect("store");
    assert_eq!(load.iter().map(|lane| (lane.dispatched, lane.running)).collect::<Vec<_>>(), [(0, 1)]);

    assert_eq!(bench.report(job, epoch, delivered(1)).await, Applied::Changed(Status::Succeeded));
    assert_eq!(wanted().await, [current.clone(), asset.clone()], "the artifact is recorded");
    assert!(bench.store.lanes_in_flight().await.expect("store").is_empty());
    let listed = async |kind| {
        let rows = bench.store.objects(kind, &everything()).await.expect("store");
        rows.into_iter().map(|row| row.key).collect::<Vec<_>>()
    };
    assert_eq!(listed(ObjectKind::Artifacts).await, [current]);
    assert_eq!(listed(ObjectKind::Assets).await.len(), 2);
    let one = bench.store.objects(ObjectKind::Assets, &Page { limit: 1, before: None }).await.expect("store");
    let next = Page { limit: 9, before: Some(one[0].id) };
    assert_eq!(bench.store.objects(ObjectKind::Assets, &next).await.expect("store").len(), 1);

    bench.store.delete_render(tenant.org, render.id).await.expect("store");
    bench.store.delete_asset(tenant.org, tenant.person).await.expect("store");
    assert!(wanted().await.is_empty(), "what is deleted is wanted by nobody");
    assert!(listed(ObjectKind::Artifacts).await.is_empty());
    bench.audit().await;
}
