//! Reads and checks a submission: every mistake at once, nothing written.

use axum::http::HeaderMap;
use kraftr_protocol::limits::{METADATA_BYTES_MAX, SAMPLES_MAX, SCENE_CHARS_MAX, SEED_MAX};
use kraftr_protocol::spec::Prompt;
use kraftr_protocol::{AssetId, Category, Class, Format, GarmentPhoto, OrgId, Quality, RenderSpec};
use serde_json::Value;
use utoipa::ToSchema;

use super::super::Api;
use super::super::fields::{Fields, Wrong, text, whole, word, word_of, wrong};
use super::super::problem::{Code, Problem, echo};
use super::webhook_url;
use crate::app::App;
use crate::catalog::{Catalog, Model};
use crate::store::{Asset, NewRender, StoreError, Ticket};

/// What `POST /v1/renders` takes. Unknown fields are refused; null is the same as absent.
#[expect(dead_code, reason = "describes the request for OpenAPI; its fields are read one by one")]
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RenderRequest {
    /// A model that `GET /v1/models` lists.
    #[schema(example = "demo-tryon")]
    pub model: String,
    /// The person's picture.
    pub person: AssetId,
    /// The garment's picture; another one than the person's.
    pub garment: AssetId,
    /// Where the garment is worn.
    pub category: Category,
    /// How the garment was photographed.
    #[schema(default = "flat-lay")]
    pub garment_photo: Option<GarmentPhoto>,
    /// What the person is put in front of, in words; the background of their picture stays when absent. Only for models
    /// whose `scene` is true.
    #[schema(max_length = 2000, example = "a terrace above the sea at sunset")]
    pub scene: Option<String>,
    /// Time against fidelity: how many steps, unless `steps` says so, and how each is taken.
    #[schema(default = "balanced")]
    pub quality: Option<Quality>,
    /// Images to make.
    #[schema(minimum = 1, maximum = 4, default = 1)]
    pub samples: Option<u32>,
    /// Seed of the random stream; the same seed gives the same images. Random when absent.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_u64)]
    pub seed: Option<u64>,
    /// Denoise steps, within the model's limits.
    #[schema(minimum = 1)]
    pub steps: Option<u32>,
    /// File format of the pictures.
    #[schema(default = "png")]
    pub format: Option<Format>,
    /// `interactive` overtakes `batch`.
    #[schema(default = "interactive")]
    pub class: Option<Class>,
    /// An https URL at a public address, to be told of the end.
    #[schema(max_length = 2048, example = "https://example.com/hooks/kraftr")]
    pub webhook: Option<String>,
    /// Your own words, given back as they come: a JSON object of at most 4,096 bytes.
    #[schema(value_type = Option<Object>, example = json!({"order": "A-1"}))]
    pub metadata: Option<Value>,
}

/// Reads the body and checks it against the catalog and the org's library.
pub(super) async fn read(
    api: &Api,
    org: OrgId,
    headers: &HeaderMap,
    body: &[u8],
    ticket: Option<Ticket>,
) -> Result<NewRender, Problem> {
    let app = &*api.app;
    let mut fields = Fields::from_json(headers, body)?;
    let model = fields.required("model", |value| model(&app.catalog, value));
    let person = fields.required("person", asset_id);
    let garment = fields.required("garment", asset_id);
    let category = fields.required("category", |value| category(model, value));
    let garment_photo = fields.optional("garment_photo", |value| garment_photo(model, value));
    let scene = fields.optional("scene", |value| scene(model, value));
    let quality = fields.optional("quality", word::<Quality>).unwrap_or(Quality::Balanced);
    let samples_max = model.map_or(SAMPLES_MAX, |model| model.release.limits.samples_max.min(SAMPLES_MAX));
    let samples = fields.optional("samples", |value| whole(&value, 1..=samples_max.into()));
    let seed = fields.optional("seed", |value| whole(&value, 0..=SEED_MAX));
    let steps = fields.optional("steps", |value| steps(model, &value));
    let format = fields.optional("format", word::<Format>);
    let class = fields.optional("class", |value| word_of(value, &Class::ALL, Class::as_str));
    let webhook = fields.optional("webhook", text);
    let metadata = fields.optional("metadata", metadata);

    check_pictures(app, org, &mut fields, person, garment).await?;
    let webhook = check_webhook(app, &mut fields, webhook).await;
    fields.finish()?;
    let unread = || Problem::internal("a required field vanished after it was checked");
    let (model, person, garment) =
        (model.ok_or_else(unread)?, person.ok_or_else(unread)?, garment.ok_or_else(unread)?);
    let samples = samples.map_or(1, |samples| samples as u32);
    let steps = steps.unwrap_or_else(|| model.steps(quality));
    let scene = scene.and_then(|prompt| model.scene(prompt, quality));
    Ok(NewRender {
        org,
        ticket,
        model: model.id().to_owned(),
        spec: RenderSpec {
            release: model.release.name.clone(),
            category: category.ok_or_else(unread)?,
            garment_photo: garment_photo.unwrap_or(GarmentPhoto::FlatLay),
            quality,
            steps,
            guidance: model.release.defaults.guidance,
            seed: seed.unwrap_or_else(|| random_seed(app)),
            samples,
            format: format.unwrap_or(Format::Png),
            scene: scene.clone(),
        },
        pool: app.config.pool.clone(),
        class: class.unwrap_or_default(),
        person,
        garment,
        price: model.price(samples, scene.as_ref()),
        estimate: model.estimate(samples, quality, steps, scene.as_ref()),
        webhook,
        metadata,
    })
}

fn model(catalog: &Catalog, value: Value) -> Result<&Model, Wrong> {
    let name = text(value)?;
    catalog.get(&name).ok_or_else(|| {
        let known: Vec<&str> = catalog.models().iter().map(Model::id).collect();
        let message = format!("there is no model {:?}; use one of: {}", echo(&name), known.join(", "));
        Wrong(Code::UnknownModel, message.into())
    })
}

fn asset_id(value: Value) -> Result<AssetId, Wrong> {
    text(value)?.parse().map_err(|error| {
        Wrong(Code::UnknownAsset, format!("{error}; use the id that POST /v1/assets answered").into())
    })
}

fn category(model: Option<&Model>, value: Value) -> Result<Category, Wrong> {
    let category: Category = word(value)?;
    match model {
        Some(model) if !model.release.categories.contains(&category) => {
            let known: Vec<&str> = model.release.categories.iter().map(|known| known.as_str()).collect();
            Err(wrong(format!(
                "{} does not know {category}; expected one of: {}",
                model.id(),
                known.join(", ")
            )))
        }
        _ => Ok(category),
    }
}

fn garment_photo(model: Option<&Model>, value: Value) -> Result<GarmentPhoto, Wrong> {
    let photo: GarmentPhoto = word(value)?;
    match model {
        Some(model) if !model.release.garment_photos.contains(&photo) => {
            let known: Vec<&str> = model.release.garment_photos.iter().map(|known| known.as_str()).collect();
            let message =
                format!("{} takes no such photos; expected one of: {}", model.id(), known.join(", "));
            Err(Wrong(Code::GarmentPhotoUnsupported, message.into()))
        }
        _ => Ok(photo),
    }
}

fn scene(model: Option<&Model>, value: Value) -> Result<Prompt, Wrong> {
    let scene = text(value)?;
    if scene.chars().count() > SCENE_CHARS_MAX {
        return Err(wrong(format!("must have at most {SCENE_CHARS_MAX} characters")));
    }
    if scene.trim().is_empty() {
        return Err(wrong("must describe something; leave the field out to keep the background"));
    }
    if scene.contains('\0') {
        return Err(wrong("must not contain the character NUL"));
    }
    match model {
        Some(model) if model.painter.is_none() => {
            let message = format!("{} offers no scenes; leave the field out", model.id());
            Err(Wrong(Code::SceneUnsupported, message.into()))
        }
        _ => Ok(Prompt::new(scene)),
    }
}

fn steps(model: Option<&Model>, value: &Value) -> Result<u32, Wrong> {
    let bounds =
        model.map_or((1, u32::MAX), |model| (model.release.limits.steps_min, model.release.limits.steps_max));
    whole(value, bounds.0.into()..=bounds.1.into()).map(|steps| steps as u32)
}

fn metadata(value: Value) -> Result<Value, Wrong> {
    if !value.is_object() {
        return Err(wrong("must be a JSON object"));
    }
    let bytes = value.to_string().len();
    if bytes > METADATA_BYTES_MAX {
        return Err(wrong(format!("has {bytes} bytes as JSON; send at most {METADATA_BYTES_MAX}")));
    }
    Ok(value)
}

/// Both pictures must be in the org's library, and be two.
async fn check_pictures(
    app: &App,
    org: OrgId,
    fields: &mut Fields,
    person: Option<AssetId>,
    garment: Option<AssetId>,
) -> Result<(), StoreError> {
    let mut found: Vec<Asset> = Vec::new();
    for (field, id) in [("person", person), ("garment", garment)] {
        let Some(id) = id else { continue };
        if let Some(asset) = app.store.asset(org, id).await? {
            found.push(asset);
        } else {
            let message = format!("there is no asset {id}; upload the picture with POST /v1/assets first");
            fields.refuse(Code::UnknownAsset, field, message);
        }
    }
    if let [person, garment] = found.as_slice()
        && (person.id == garment.id || person.sha256 == garment.sha256)
    {
        fields.refuse(
            Code::SamePicture,
            "garment",
            "is the same picture as the person; use two different ones",
        );
    }
    Ok(())
}

async fn check_webhook(app: &App, fields: &mut Fields, webhook: Option<String>) -> Option<String> {
    match webhook_url::check(&webhook?, app.config.allow_private_webhooks).await {
        Ok(url) => Some(url),
        Err(message) => {
            fields.refuse(Code::WebhookRefused, "webhook", message);
            None
        }
    }
}

fn random_seed(app: &App) -> u64 {
    let mut bytes = [0; 8];
    app.ids.fill(&mut bytes);
    u64::from_be_bytes(bytes) & SEED_MAX
}
