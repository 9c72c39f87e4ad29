//! Our reading of manifests beside that of c2patool, the reference program, which is not part of the build:
//! `cargo install c2patool`, then `cargo test --release --workspace --test it -- --ignored c2patool`.

use std::process::Command;

use kraftr_imaging::{Encoding, decode, encode};
use kraftr_provenance::credentials::{Anchors, Status, read};
use serde_json::Value;

use crate::credentials::{ENCODINGS, Signer, limits, marked};

/// What c2patool says: a status and the codes of what is wrong.
fn reference(file: &[u8], name: &str, anchors: Option<&str>) -> (Status, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, file).unwrap();
    let mut command = Command::new("c2patool");
    command.arg(&path);
    if let Some(anchors) = anchors {
        let list = folder.path().join("anchors.pem");
        std::fs::write(&list, anchors).unwrap();
        command.arg("trust").arg("--trust_anchors").arg(list);
    }
    let output = command.output().expect("c2patool is on the PATH: cargo install c2patool");
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let absent = said.contains("No claim found");
        return if absent {
            (Status::Absent, vec![])
        } else {
            (Status::Invalid, vec!["unreadable".to_owned()])
        };
    }
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let status = match report["validation_state"].as_str().unwrap() {
        "Trusted" => Status::Trusted,
        "Valid" => Status::Valid,
        "Invalid" => Status::Invalid,
        other => panic!("c2patool says {other}"),
    };
    let codes = report["validation_status"].as_array().into_iter().flatten();
    (status, codes.map(|problem| problem["code"].as_str().unwrap().to_owned()).collect())
}

#[test]
#[ignore = "needs c2patool on the PATH"]
fn c2patool_and_we_judge_alike() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    for (encoding, format) in ENCODINGS {
        let signed = signer.sign(encoding).into_bytes();
        let unsigned = marked(encoding);
        let find = |part: &[u8]| signed.windows(part.len()).position(|at| at == part).unwrap();
        let flipped = |at: usize| {
            let mut file = signed.clone();
            file[at] ^= 1;
            file
        };
        let picture = decode(&signed, &limits(&signed)).unwrap().image;
        let cases = [
            ("whole", signed.clone(), Status::Trusted),
            ("another release", flipped(find(b"demo-tryon-1")), Status::Invalid),
            ("another generator", flipped(find(b"Kraftr\x67version")), Status::Invalid),
            ("a broken claim", flipped(find(b"claim_generator_info") + 25), Status::Invalid),
            ("another signer", flipped(find(b"Kraftr development signer")), Status::Invalid),
            (
                "other pixels",
                flipped(find(&unsigned.bytes()[unsigned.bytes().len() / 2..][..32])),
                Status::Invalid,
            ),
            ("saved again", encode(&picture, encoding).unwrap(), Status::Absent),
            ("saved as JPEG", encode(&picture, Encoding::Jpeg { quality: 80 }).unwrap(), Status::Absent),
        ];
        for (case, file, expected) in cases {
            let format = kraftr_imaging::SourceFormat::sniff(&file).unwrap_or(format);
            let name = format!("picture.{}", format.content_type().rsplit('/').next().unwrap());
            for authority in [None, Some(&signer.authority), Some(&stranger.authority)] {
                let pem = authority.map(|authority| &*authority.certificate);
                let anchors = pem.map_or(Anchors::none(), |pem| Anchors::from_pem(pem).unwrap());
                let ours = read(&file, format, &anchors);
                let (status, mut codes) = reference(&file, &name, pem);
                assert_eq!(ours.status, status, "{case}, {encoding:?}: {ours:?} {codes:?}");
                codes.sort();
                codes.dedup();
                let mut problems = ours.problems.clone();
                problems.sort();
                assert_eq!(problems, codes, "{case}, {encoding:?}");
                if pem == Some(&*signer.authority.certificate) {
                    assert_eq!(status, expected, "{case}, {encoding:?}: {ours:?}");
                }
            }
        }
    }
}
