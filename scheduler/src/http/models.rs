//! Models: what can be rendered, and for how much.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use kraftr_protocol::{Category, Class, Credits, Format, GarmentPhoto, Quality};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::auth::Caller;
use crate::catalog::Model;

/// Every model on offer, the default first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Models {
    /// The models.
    pub data: Vec<ModelView>,
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Model)]
pub(super) struct ModelView {
    /// What `model` of a render takes.
    #[schema(example = "demo-tryon")]
    pub id: String,
    /// For people.
    pub title: String,
    /// What it does.
    #[schema(example = "try-on")]
    pub task: &'static str,
    /// The release that runs it now.
    pub release: String,
    /// Garments it knows.
    pub categories: Vec<Category>,
    /// How garments may be photographed.
    pub garment_photos: Vec<GarmentPhoto>,
    /// Pixels it paints, before enlargement.
    pub sizes: Vec<Size>,
    /// Pixels of an artifact.
    pub output: Size,
    /// What a render gets when it does not say otherwise.
    pub defaults: DefaultsView,
    /// What it accepts.
    pub limits: LimitsView,
    /// Credits of one image.
    pub price: Credits,
    /// Whether it takes `scene`.
    pub scene: bool,
    /// Credits that a scene adds to each image; null when it takes none.
    #[schema(required)]
    pub scene_price: Option<Credits>,
    /// What it cannot do; null when there is nothing to say.
    #[schema(required)]
    pub caution: Option<String>,
    /// Licence of its weights, as an SPDX expression.
    pub licence: String,
}

/// Width and height in pixels.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Size {
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

/// What a render gets when it does not say otherwise.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelDefaults)]
pub(super) struct DefaultsView {
    /// Time against fidelity.
    pub quality: Quality,
    /// How the garment was photographed.
    pub garment_photo: GarmentPhoto,
    /// Images.
    pub samples: u32,
    /// Steps of each quality.
    pub steps: StepsView,
    /// Classifier-free guidance.
    pub guidance: f64,
    /// File format.
    pub format: Format,
    /// How urgent.
    pub class: Class,
}

/// Denoise steps of each quality.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = QualitySteps)]
pub(super) struct StepsView {
    /// A look.
    pub fast: u32,
    /// For everyday use.
    pub balanced: u32,
    /// For the catalogue.
    pub best: u32,
}

/// What a model accepts.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelLimits)]
pub(super) struct LimitsView {
    /// Fewest steps.
    pub steps_min: u32,
    /// Most steps.
    pub steps_max: u32,
    /// Most images of one render.
    pub samples_max: u32,
}

impl From<&Model> for ModelView {
    fn from(model: &Model) -> Self {
        let size = |[width, height]: [u32; 2]| Size { width, height };
        let release = &model.release;
        Self {
            id: model.id().to_owned(),
            title: release.title.clone(),
            task: "try-on",
            release: release.name.clone(),
            categories: release.categories.clone(),
            garment_photos: release.garment_photos.clone(),
            sizes: vec![size(release.size)],
            output: size(release.output_size()),
            defaults: DefaultsView {
                quality: Quality::Balanced,
                garment_photo: GarmentPhoto::FlatLay,
                samples: 1,
                steps: StepsView {
                    fast: model.steps(Quality::Fast),
                    balanced: model.steps(Quality::Balanced),
                    best: model.steps(Quality::Best),
                },
                guidance: release.defaults.guidance,
                format: Format::Png,
                class: Class::Interactive,
            },
            limits: LimitsView {
                steps_min: release.limits.steps_min,
                steps_max: release.limits.steps_max,
                samples_max: release.limits.samples_max,
            },
            price: release.price,
            scene: model.painter.is_some(),
            scene_price: model.painter.as_ref().map(|painter| painter.price),
            caution: release.caution.clone(),
            licence: release.licence.clone(),
        }
    }
}

/// Lists the models, the default first.
#[utoipa::path(
    get, path = "/v1/models", tag = "models", operation_id = "list_models", security(("api_key" = [])),
    responses((status = OK, description = "The models on offer.", body = Models)),
)]
pub(super) async fn list(State(api): State<Arc<Api>>, _caller: Caller) -> Json<Models> {
    Json(Models { data: api.app.catalog.models().iter().map(ModelView::from).collect() })
}
