//! A release of another task, text to image, as an ML engineer meets it.

use std::fs;

use crate::model::{Place, decode};
use crate::program::{arg, failure_of, run, stdout_of};

/// Another architecture and another task, with everything small.
const PAINTER: &str = r#"
name = "painter"
title = "A small painter"
task = "text-to-image"
architecture = "stable-diffusion"
size = [64, 64]
output_scale = 4
price = 1
device_time_ms = 100
licence = "Apache-2.0"
defaults = { guidance = 4 }
quality = { fast = { steps = 1 }, balanced = { steps = 2 }, best = { steps = 3 } }
limits = { steps_min = 1, steps_max = 10, samples_max = 4 }

[config]
text_encoder = { vocab_size = 600, hidden_size = 16, intermediate_size = 24, num_hidden_layers = 1,
                 num_attention_heads = 2, max_position_embeddings = 8 }
unet = { block_out_channels = [8, 16], down_block_types = ["CrossAttnDownBlock2D", "DownBlock2D"],
         layers_per_block = 1, cross_attention_dim = 16, attention_head_dim = 2, norm_num_groups = 4 }
vae = { block_out_channels = [4, 8, 8], layers_per_block = 1, norm_num_groups = 4 }
"#;

#[test]
fn a_release_of_text_to_image_goes_the_same_ways() {
    let place = Place::new();
    let file = |role: &str| {
        let pin = "0".repeat(64);
        format!("[[files]]\nrole = '{role}'\nname = 'painter-{role}'\nsha256 = '{pin}'\nbytes = 1\n")
    };
    place.write(
        "painter.toml",
        &(PAINTER.to_owned() + &["merges", "text_encoder", "unet", "vae"].map(file).concat()),
    );
    let made = stdout_of(&place.model("init painter"));
    assert!(made.contains("painter-random-merges.txt") && made.contains("painter-random-vae.safetensors"));
    assert!(stdout_of(&place.model("list")).contains("text-to-image"));
    assert!(stdout_of(&place.model("show painter-random")).contains("merges"));
    assert!(stdout_of(&place.model("check painter-random")).contains("painter-random is right"));
    let bench = place.json("bench painter-random --json");
    assert_eq!((bench["steps"].as_u64(), bench["precision"].as_str()), (Some(2), Some("f32")));
    assert!(bench["model_flops_per_image"].as_f64().unwrap() > 1e6);

    let (out, set) = (place.root().join("out.png"), place.root().join("set.json"));
    fs::write(&set, r#"[{"prompt": "a beach"}, {"prompt": "a street at night"}]"#).unwrap();
    let line = format!("compare painter-random painter-random --set {} --out {}", arg(&set), arg(&out));
    assert!(stdout_of(&place.model(&line)).contains("100.00"), "a release is equal to itself");
    let said = failure_of(&place.model(&format!("compare small painter-random --out {}", arg(&out))), 1);
    assert!(said.contains("small is for try-on and painter-random for text-to-image"), "{said}");

    let picture = |name: &str, shade: u8| {
        let path = place.root().join(name);
        let picture = kraftr_imaging::RgbImage::from_pixel(64, 64, [shade; 3].into());
        fs::write(&path, kraftr_imaging::encode(&picture, kraftr_imaging::Encoding::Png).unwrap()).unwrap();
        path
    };
    let (keep, matte, painted) =
        (picture("keep.png", 90), picture("matte.png", 255), place.root().join("p.png"));
    let (manifests, weights) = (place.manifests(), place.weights());
    let render = |more: &[&str]| {
        let folders = ["--manifests", arg(&manifests), "--weights", arg(&weights), "--out", arg(&painted)];
        run([&["render"], &folders[..], more].concat())
    };
    stdout_of(&render(&["--prompt", "a beach", "--keep", arg(&keep), "--matte", arg(&matte)]));
    let pixels = decode(&painted);
    assert_eq!(pixels.dimensions(), (256, 256));
    // But for the watermark, the whole picture was to be kept.
    assert!(pixels.as_raw().iter().all(|byte| byte.abs_diff(90) < 20));
    for (more, code, part) in [
        (vec!["--prompt", "a beach", "--model", "small"], 1, "say --person, --garment and --category"),
        (vec!["--prompt", "a beach", "--model", "painter"], 1, "painter-merges of painter is not in"),
        (vec!["--prompt", "a beach", "--keep", arg(&keep)], 2, "--matte"),
        (vec!["--prompt", "a beach", "--category", "tops"], 2, "--category"),
    ] {
        let said = failure_of(&render(&more), code);
        assert!(said.contains(part), "{part} is not in {said}");
    }
}
