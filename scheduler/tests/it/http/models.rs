//! Models: what is on offer.

use serde_json::json;

use super::server::{MODEL, Server};

#[tokio::test]
async fn the_models_on_offer_are_listed() {
    let server = Server::start().await;
    let models = server.get("/v1/models").await.json();
    assert_eq!(
        models,
        json!({ "data": [{
            "id": MODEL,
            "title": "A model for tests",
            "task": "try-on",
            "release": MODEL,
            "categories": ["tops", "bottoms", "one-pieces"],
            "garment_photos": ["flat-lay", "model"],
            "sizes": [{ "width": 96, "height": 144 }],
            "output": { "width": 384, "height": 576 },
            "defaults": {
                "quality": "balanced", "garment_photo": "flat-lay", "samples": 1, "format": "png",
                "class": "interactive", "guidance": 1.5, "steps": { "fast": 8, "balanced": 20, "best": 40 },
            },
            "limits": { "steps_min": 1, "steps_max": 100, "samples_max": 4 },
            "price": 1,
            "scene": false,
            "scene_price": null,
            "caution": "Paints nothing",
            "licence": "Apache-2.0",
        }] })
    );
    server.finish().await;
}

#[tokio::test]
async fn a_model_whose_painter_is_there_takes_scenes() {
    let server = Server::start_with_scenes().await;
    let models = server.get("/v1/models").await.json();
    assert_eq!(models["data"].as_array().unwrap().len(), 1, "a painter alone is not on offer: {models}");
    let model = &models["data"][0];
    assert_eq!(
        (&model["id"], &model["scene"], &model["scene_price"]),
        (&json!(MODEL), &json!(true), &json!(2))
    );
    server.finish().await;
}
