//! Every bound of the fleet in one place, and how the bounds relate.

use std::time::Duration;

/// Sides of an asset in pixels.
pub const ASSET_SIDE_MIN: u32 = 64;
/// See [`ASSET_SIDE_MIN`].
pub const ASSET_SIDE_MAX: u32 = 8_192;
/// Pixels of an asset: 40 megapixels.
pub const ASSET_PIXELS_MAX: u64 = 40_000_000;
/// Bytes of an uploaded file: 20 MB.
pub const ASSET_BYTES_MAX: usize = 20_000_000;
/// The longer side of an asset divided by the shorter.
pub const ASSET_ASPECT_MAX: u32 = 8;
/// Uploads decoded at once; each may hold an asset's pixels twice.
pub const DECODES_AT_ONCE: usize = 2;
/// Bytes of a request body that is not an upload.
pub const BODY_BYTES_MAX: usize = 1_000_000;
/// Nesting of a JSON body.
pub const JSON_DEPTH_MAX: usize = 64;
/// Characters of a scene description.
pub const SCENE_CHARS_MAX: usize = 2_000;
/// Bytes of a render's metadata as JSON.
pub const METADATA_BYTES_MAX: usize = 4_096;
/// Characters of an `Idempotency-Key`.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;
/// Images of one render.
pub const SAMPLES_MAX: u32 = 4;
/// Files of one release.
pub const RELEASE_FILES_MAX: usize = 64;
/// Rows of one page.
pub const PAGE_MAX: u32 = 100;
/// Rows of one page when the caller names no limit.
pub const PAGE_DEFAULT: u32 = 20;
/// Seeds are JSON numbers, which are exact up to 2^53.
pub const SEED_MAX: u64 = 9_007_199_254_740_991;
/// Bytes of an artifact that a worker may upload.
pub const ARTIFACT_BYTES_MAX: u64 = 64_000_000;
/// Bytes of a preview picture inside a progress message.
pub const PREVIEW_BYTES_MAX: usize = 96 * 1024;

/// How long a granted claim holds without a heartbeat.
pub const LEASE: Duration = Duration::from_secs(15);
/// How often a worker renews its leases.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(4);
/// How long a dispatched render may wait for a claim before it is dispatched again.
pub const DISPATCH_PATIENCE: Duration = Duration::from_mins(1);
/// How long one claim of a render may run.
pub const RENDER_TIME_MAX: Duration = Duration::from_mins(10);
/// How long a render may wait in the queue before it expires.
pub const QUEUE_TIME_MAX: Duration = Duration::from_hours(24);
/// How long a worker counts as present after it last announced itself.
pub const WORKER_PRESENCE: Duration = Duration::from_secs(15);
/// Failures of a render, each on a worker that blamed it, before it fails for good.
pub const FAILURES_MAX: u32 = 3;
/// Crashes that supervisors reported while the render was in the engine, before it is poison.
pub const CRASHES_MAX: u32 = 3;
/// Lost leases before a render is poison.
pub const LOST_LEASES_MAX: u32 = 20;
/// How long a replica leads without renewing.
pub const LEADER_LEASE: Duration = Duration::from_secs(6);
/// How often the leader renews, and the others look whether they may lead.
pub const LEADER_RENEW: Duration = Duration::from_secs(2);
/// Renders waiting at a worker beyond those it runs, per slot.
pub const LOOKAHEAD: u32 = 1;
/// How long an input or upload URL of a claim is good for.
pub const URL_TTL: Duration = Duration::from_mins(15);
/// How long an unfinished request holds its idempotency key.
pub const IDEMPOTENCY_LEASE: Duration = Duration::from_mins(1);

const _: () =
    assert!(HEARTBEAT_EVERY.as_millis() * 3 < LEASE.as_millis(), "a lease survives two lost heartbeats");
const _: () = assert!(
    LEADER_LEASE.as_secs() + LEADER_RENEW.as_secs() < 10,
    "another replica leads within ten seconds after a leader vanished"
);
const _: () =
    assert!(RENDER_TIME_MAX.as_secs() < 30 * 60, "a render ends before a broker's consumer timeout");
const _: () =
    assert!(URL_TTL.as_secs() > RENDER_TIME_MAX.as_secs(), "URLs outlive the render that uses them");
