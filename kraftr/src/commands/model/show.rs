//! `kraftr model list` and `show`.

use anyhow::Result;
use kraftr_models::{Place, Registry};
use kraftr_protocol::manifest::ManifestFile;
use kraftr_protocol::{Quality, ReleaseManifest};
use serde::Serialize;

use crate::output;

/// A release in a list.
#[derive(Serialize)]
struct Listed<'a> {
    release: &'a str,
    title: &'a str,
    task: &'a str,
    size: [u32; 2],
    price: i64,
    licence: &'a str,
    /// Whether everything is there that loading needs.
    present: bool,
    missing: Vec<&'a str>,
    /// The release that paints its scenes, where it offers any.
    scene: Option<&'a str>,
    /// Why they cannot be painted here.
    #[serde(skip_serializing_if = "Option::is_none")]
    scene_missing: Option<String>,
}

impl<'a> Listed<'a> {
    fn of(registry: &Registry, manifest: &'a ReleaseManifest) -> Self {
        let missing = Registry::needed_to_load(manifest).filter(|file| !registry.place(file).is_present());
        Self {
            release: &manifest.name,
            title: &manifest.title,
            task: manifest.task.as_str(),
            size: manifest.output_size(),
            price: manifest.price.0,
            licence: &manifest.licence,
            present: registry.is_present(manifest),
            missing: missing.map(|file| file.name.as_str()).collect(),
            scene: manifest.scene.as_deref(),
            scene_missing: registry.painter(manifest).err().map(|error| error.to_string()),
        }
    }
}

/// Prints every release.
pub(super) fn list(registry: &Registry, json: bool) -> Result<()> {
    let listed: Vec<Listed<'_>> =
        registry.manifests().map(|manifest| Listed::of(registry, manifest)).collect();
    if json {
        output::json(&listed)?;
        return Ok(());
    }
    let head = ["RELEASE", "WEIGHTS", "TASK", "PIXELS", "STEPS", "CREDITS", "SCENES", "TITLE"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (row, manifest) in listed.iter().zip(registry.manifests()) {
        let [width, height] = row.size;
        rows.push(vec![
            row.release.to_owned(),
            if row.present { "present" } else { "missing" }.to_owned(),
            row.task.to_owned(),
            format!("{width}x{height}"),
            manifest.quality(Quality::Balanced).steps.to_string(),
            row.price.to_string(),
            match (row.scene, &row.scene_missing) {
                (None, _) => "none",
                (Some(painter), None) => painter,
                (Some(_), Some(_)) => "missing",
            }
            .to_owned(),
            row.title.to_owned(),
        ]);
    }
    output::table(&rows)?;
    for (row, manifest) in listed.iter().zip(registry.manifests()) {
        if let Some(caution) = &manifest.caution {
            output::line(format_args!("{}: {caution}", row.release))?;
        }
        if !row.present {
            output::line(format_args!("{}: {}", row.release, how_to_get(manifest, &row.missing)))?;
        }
        if let Some(why) = &row.scene_missing {
            output::line(format_args!("{} takes no scenes here: {why}", row.release))?;
        }
    }
    Ok(())
}

/// Where files that are missing may come from.
fn how_to_get(manifest: &ReleaseManifest, missing: &[&str]) -> String {
    let release = &manifest.name;
    let is_sourced =
        |name: &&str| manifest.files.iter().any(|file| file.name == *name && file.source.is_some());
    if missing.iter().all(is_sourced) {
        return format!("`kraftr model pull {release}` fetches its weights");
    }
    format!(
        "its manifest names no source for {}; `kraftr model pull {release} --from DIR` takes it from a folder, \
         `kraftr model init {release}` makes random weights",
        missing.iter().filter(|name| !is_sourced(name)).copied().collect::<Vec<_>>().join(", ")
    )
}

/// A file of a release and where it is.
#[derive(Serialize)]
struct ShownFile<'a> {
    #[serde(flatten)]
    file: &'a ManifestFile,
    present: bool,
    place: String,
}

#[derive(Serialize)]
struct Shown<'a> {
    manifest: &'a ReleaseManifest,
    present: bool,
    files: Vec<ShownFile<'a>>,
    pull: Option<String>,
}

/// Prints one release.
pub(super) fn show(registry: &Registry, release: &str, json: bool) -> Result<()> {
    let manifest = registry.get(release)?;
    let files: Vec<ShownFile<'_>> = manifest
        .files
        .iter()
        .map(|file| {
            let place = registry.place(file);
            ShownFile { file, present: place.is_present(), place: in_words(&place) }
        })
        .collect();
    let pull = files.iter().any(|file| !file.present).then(|| pull_command(registry, release));
    let shown = Shown { manifest, present: registry.is_present(manifest), files, pull };
    if json {
        output::json(&shown)?;
        return Ok(());
    }
    output::text(&manifest.to_toml())?;
    output::line("")?;
    for ShownFile { file, place, .. } in &shown.files {
        output::line(format_args!("# {} ({}): {place}", file.name, file.role))?;
        match &file.source {
            Some(source) => output::line(format_args!("#   from {source}"))?,
            None if place == COMPILED_IN => {}
            None => output::line(
                "#   the manifest names no source: put it there yourself, or pull --from a folder",
            )?,
        }
    }
    if let Some(pull) = &shown.pull {
        output::line(format_args!("# {pull}"))?;
    }
    Ok(())
}

const COMPILED_IN: &str = "compiled in";

fn in_words(place: &Place) -> String {
    match place {
        Place::CompiledIn => COMPILED_IN.to_owned(),
        Place::There(path) => format!("present, {}", path.display()),
        Place::OtherLength(path, found) => format!("another file, {} has {found} bytes", path.display()),
        Place::Missing(Some(path)) => format!("missing, looked for {}", path.display()),
        Place::Missing(None) => "missing, and no weights folder is named (--weights)".to_owned(),
    }
}

fn pull_command(registry: &Registry, release: &str) -> String {
    let weights = registry.weights_folder();
    let weights = weights
        .map_or_else(|| "--weights DIR".to_owned(), |folder| format!("--weights {}", folder.display()));
    format!("kraftr model {weights} pull {release}")
}
