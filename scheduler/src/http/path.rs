//! Ids in paths.

use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::Api;
use super::problem::Problem;
use kraftr_protocol::{ArtifactId, AssetId, RenderId};

/// The `{id}` of the path. A malformed one is answered like one that does not exist.
#[derive(Debug, Clone, Copy)]
pub(super) struct Id<T>(pub T);

/// What a path can name.
pub(super) trait Noun: FromStr {
    /// For messages.
    const NOUN: &'static str;
}

impl Noun for AssetId {
    const NOUN: &'static str = "asset";
}

impl Noun for RenderId {
    const NOUN: &'static str = "render";
}

impl Noun for ArtifactId {
    const NOUN: &'static str = "artifact";
}

impl<T: Noun + Send> FromRequestParts<Arc<Api>> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let text = Path::<String>::from_request_parts(parts, api).await;
        let id = text.ok().and_then(|Path(text)| text.parse().ok());
        id.map(Self).ok_or_else(|| Problem::not_found(T::NOUN))
    }
}
