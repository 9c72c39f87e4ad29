//! What is compiled in: two releases, the demo's weights and a pair of sample pictures.

use kraftr_protocol::Category;

/// Manifests by file name.
pub(crate) const MANIFESTS: &[(&str, &str)] = &[
    ("demo-tryon.toml", include_str!("../manifests/demo-tryon.toml")),
    ("noop.toml", include_str!("../manifests/noop.toml")),
];

/// Weights by file name.
pub(crate) const FILES: &[(&str, &[u8])] =
    &[("demo.safetensors", include_bytes!("../demo/demo.safetensors"))];

/// The release that runs without a download.
pub const DEMO_RELEASE: &str = "demo-tryon";

/// A drawn person, PNG, 480 x 720.
pub const SAMPLE_PERSON: &[u8] = include_bytes!("../demo/samples/person-2.png");
/// A drawn garment for [`SAMPLE_PERSON`], PNG, 480 x 720.
pub const SAMPLE_GARMENT: &[u8] = include_bytes!("../demo/samples/garment-striped-longsleeve.png");
/// What [`SAMPLE_GARMENT`] is.
pub const SAMPLE_CATEGORY: Category = Category::Tops;
/// What a release that paints after a description is measured with.
pub const SAMPLE_PROMPT: &str = "a red dress on a hanger in a sunlit shop, photograph";
