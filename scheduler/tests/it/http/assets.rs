//! Assets: uploading, listing, deleting.

use axum::body::Body;
use axum::http::{Method, StatusCode, header};
use kraftr_imaging::{Encoding, decode};
use kraftr_protocol::limits::ASSET_BYTES_MAX;
use kraftr_protocol::{Credits, Digest};
use serde_json::Value;

use super::pictures::{self, FORM_TYPE};
use super::server::{CREDITS, Server};

#[tokio::test]
async fn an_upload_becomes_an_asset() {
    let server = Server::start().await;
    let file = kraftr_imaging::encode(&pictures::picture(300, 200, 7), Encoding::Webp).unwrap();
    let answer = server.upload(&file).await;
    let asset = answer.is(StatusCode::CREATED).json();
    assert_eq!((&asset["width"], &asset["height"]), (&300.into(), &200.into()));
    assert_eq!(asset["content_type"], "image/png");
    let id = asset["id"].as_str().unwrap();
    assert_eq!(answer.header(header::LOCATION), format!("/v1/assets/{id}"));

    let key = format!("assets/{}/{id}.png", server.org);
    let object = server.app.blobs.get(&key).await.unwrap().unwrap();
    assert_eq!(asset["sha256"], Digest::of(&object).to_string());
    assert_eq!(asset["bytes"], object.len());
    let limits = kraftr_imaging::Limits {
        bytes_max: 1 << 20,
        side_min: 1,
        side_max: 999,
        pixels_max: 99_999,
        aspect_max: 9,
    };
    assert_eq!(decode(&object, &limits).unwrap().image, pictures::picture(300, 200, 7));

    assert_eq!(server.get(&format!("/v1/assets/{id}")).await.json(), asset);
    server.finish().await;
}

#[tokio::test]
async fn the_same_picture_is_the_same_asset() {
    let server = Server::start().await;
    let picture = pictures::picture(96, 144, 1);
    let mut ids = Vec::new();
    for encoding in [Encoding::Png, Encoding::Webp, Encoding::Png] {
        let answer = server.upload(&kraftr_imaging::encode(&picture, encoding).unwrap()).await;
        ids.push(answer.is(StatusCode::CREATED).json()["id"].clone());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(server.get("/v1/assets").await.json()["data"].as_array().unwrap().len(), 1);
    server.finish().await;
}

#[tokio::test]
async fn racing_uploads_of_one_picture_leave_one_object() {
    let server = Server::start().await;
    let file = pictures::png(96, 144, 1);
    let uploads = (0..8).map(|_| server.upload(&file));
    let answers = futures::future::join_all(uploads).await;
    let first = answers[0].json();
    assert!(answers.iter().all(|answer| answer.status == 201 && answer.json() == first));
    server.finish().await;
}

#[tokio::test]
async fn bad_pictures_are_refused_and_leave_nothing() {
    let server = Server::start().await;
    let png = pictures::png(96, 144, 1);
    let jpeg =
        kraftr_imaging::encode(&pictures::picture(96, 144, 1), Encoding::Jpeg { quality: 90 }).unwrap();
    let cases: [(&str, Vec<u8>, u16, &str); 13] = [
        ("nothing", Vec::new(), 422, "image_empty"),
        (
            "text",
            b"this is not a picture at all, whatever it is called".to_vec(),
            415,
            "image_format_unsupported",
        ),
        ("gif", b"GIF89a\x60\0\x90\0\0\0\0;".to_vec(), 415, "image_format_unsupported"),
        ("one pixel", pictures::png(1, 1, 1), 422, "image_dimensions"),
        ("too narrow", pictures::png(64, 513, 1), 422, "image_aspect"),
        ("a side too short", pictures::png(63, 100, 1), 422, "image_dimensions"),
        ("30,000 x 30,000", pictures::png_header(30_000, 30_000), 422, "image_dimensions"),
        ("8,000 x 8,000", pictures::png_header(8_000, 8_000), 422, "image_dimensions"),
        ("cut png", png[..png.len() / 2].to_vec(), 422, "image_unreadable"),
        ("cut jpeg", jpeg[..jpeg.len() / 2].to_vec(), 422, "image_unreadable"),
        ("animated", pictures::animated_webp(), 422, "image_animated"),
        ("cmyk", pictures::cmyk_jpeg(), 422, "image_colour_unsupported"),
        ("too many bytes", vec![0; ASSET_BYTES_MAX + 1], 413, "image_too_large"),
    ];
    for (name, file, status, code) in cases {
        let answer = server.upload(&file).await;
        assert_eq!(answer.json()["code"], code, "{name}");
        answer.is_problem(status, code, &["file"]);
    }
    assert_eq!(server.balance().await.posted, Credits(CREDITS));
    assert_eq!(server.get("/v1/assets").await.json()["data"], Value::Array(Vec::new()));
    server.finish().await;
}

#[tokio::test]
async fn bad_forms_are_refused() {
    let server = Server::start().await;
    let png = pictures::png(96, 144, 1);
    server.upload_form(None, &[]).await.is_problem(422, "missing_field", &["file"]);
    server.upload_form(None, &[("picture", &png)]).await.is_problem(422, "unknown_field", &["picture"]);
    server.upload_form(None, &[("file", &png), ("note", b"x")]).await.is_problem(
        422,
        "unknown_field",
        &["note"],
    );
    server.upload_form(None, &[("file", &png), ("file", &png)]).await.is_problem(
        422,
        "invalid_field",
        &["file"],
    );
    for (media_type, body, status, code, field) in [
        ("application/json", "{}".into(), 415, "unsupported_media_type", "Content-Type"),
        ("image/png", png.clone(), 415, "unsupported_media_type", "Content-Type"),
        ("multipart/form-data", pictures::form(&[("file", &png)]), 400, "malformed_multipart", "body"),
        (FORM_TYPE, pictures::form(&[("file", &png)])[..200].to_vec(), 400, "malformed_multipart", "body"),
        (FORM_TYPE, b"no form".to_vec(), 400, "malformed_multipart", "body"),
        (FORM_TYPE, Vec::new(), 400, "malformed_multipart", "body"),
    ] {
        let request = server.request(Method::POST, "/v1/assets").header(header::CONTENT_TYPE, media_type);
        let answer = server.send(request.body(Body::from(body)).unwrap()).await;
        answer.is_problem(status, code, &[field]);
    }
    let bare = server.request(Method::POST, "/v1/assets").body(Body::empty()).unwrap();
    server.send(bare).await.is_problem(415, "unsupported_media_type", &["Content-Type"]);
    server.finish().await;
}

#[tokio::test]
async fn the_library_is_listed_in_pages() {
    let server = Server::start().await;
    let mut ids = Vec::new();
    for seed in 0..5 {
        ids.push(server.upload(&pictures::png(64, 64, seed)).await.json()["id"].clone());
    }
    ids.reverse();
    let (mut seen, mut path) = (Vec::new(), "/v1/assets?limit=2".to_owned());
    loop {
        let page = server.get(&path).await.is(StatusCode::OK).json();
        seen.extend(page["data"].as_array().unwrap().iter().map(|asset| asset["id"].clone()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/assets?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ids);
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=", "limit"),
        ("cursor=nonsense", "cursor"),
        ("cursor=", "cursor"),
        ("limit=1&limit=2", "limit"),
    ] {
        server.get(&format!("/v1/assets?{query}")).await.is_problem(422, "invalid_field", &[field]);
    }
    server.get("/v1/assets?page=2").await.is_problem(422, "unknown_field", &["page"]);
    server.finish().await;
}

#[tokio::test]
async fn a_deleted_asset_is_gone_with_its_object() {
    let server = Server::start().await;
    let id = server.upload(&pictures::png(64, 64, 1)).await.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/assets/{id}");
    assert_eq!(server.call(Method::DELETE, &path).await.status, 204);
    server.get(&path).await.is_problem(404, "not_found", &["id"]);
    server.call(Method::DELETE, &path).await.is_problem(404, "not_found", &["id"]);
    server
        .until("the object is erased", async || {
            server.app.blobs.list("assets/", None, 9).await.unwrap().is_empty().then_some(())
        })
        .await;
    let again = server.upload(&pictures::png(64, 64, 1)).await.is(StatusCode::CREATED).json();
    assert_ne!(again["id"], id, "a deleted asset does not come back");
    server.finish().await;
}

#[tokio::test]
async fn an_asset_in_use_stays() {
    let server = Server::start().await;
    let body = server.body().await;
    let render = server.post("/v1/renders", &body).await.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/assets/{}", body["garment"].as_str().unwrap());
    server.call(Method::DELETE, &path).await.is_problem(409, "asset_in_use", &["id"]);
    assert_eq!(server.call(Method::POST, &format!("/v1/renders/{render}/cancel")).await.status, 200);
    assert_eq!(server.call(Method::DELETE, &path).await.status, 204);
    server.finish().await;
}
