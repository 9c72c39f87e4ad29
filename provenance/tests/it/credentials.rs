//! Manifests: what is written is read back, what is changed or stripped is noticed, what is not ours is not signed.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::Cursor;

use c2pa::{Context, Reader};
use kraftr_imaging::{Encoding, Limits, SourceFormat, decode, encode};
use kraftr_provenance::credentials::{
    Anchors, Authority, Chain, ClaimError, Facts, Input, SignError, Signature, Signed, SigningKey, Status,
    check_claim, read,
};
use kraftr_provenance::{Key, KeyRing, Marked, Verdict, examine};
use serde_json::{Value, json};

use crate::pictures::picture;

const NOW: i64 = 1_795_680_000;
const REFERENCE: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
pub(crate) const ENCODINGS: [(Encoding, SourceFormat); 3] = [
    (Encoding::Png, SourceFormat::Png),
    (Encoding::Jpeg { quality: 92 }, SourceFormat::Jpeg),
    (Encoding::Webp, SourceFormat::Webp),
];
const FACTS: Facts<'_> = Facts {
    version: "0.1.0",
    release: "demo-tryon-1",
    scene_release: Some("demo-scene-1"),
    made_at: "2026-11-26T07:00:00.123456Z",
    inputs: &[
        Input { role: "person", content_type: "image/png", sha256: [0xaa; 32] },
        Input { role: "garment", content_type: "image/png", sha256: [0xbb; 32] },
    ],
};

pub(crate) struct Signer {
    pub(crate) authority: Authority,
    chain: Chain,
    key: SigningKey,
}

impl Signer {
    pub(crate) fn new() -> Self {
        let authority = Authority::make(NOW).unwrap();
        let (chain, key) = authority.signer().unwrap();
        Self { authority, chain, key }
    }

    fn anchors(&self) -> Anchors {
        Anchors::from_pem(&self.authority.certificate).unwrap()
    }

    pub(crate) fn sign(&self, encoding: Encoding) -> Signed {
        let sign = |claim: &[u8]| {
            check_claim(claim, &self.chain).unwrap();
            Ok::<_, Infallible>(self.key.sign(claim))
        };
        marked(encoding).sign(&FACTS, &self.chain, sign).unwrap()
    }
}

pub(crate) fn marked(encoding: Encoding) -> Marked {
    Marked::seal(&picture(3, 256, 320), REFERENCE, &Key::development(), encoding).unwrap()
}

pub(crate) fn limits(bytes: &[u8]) -> Limits {
    Limits { bytes_max: bytes.len(), side_min: 1, side_max: 1_000, pixels_max: 1_000_000, aspect_max: 8 }
}

#[test]
fn a_manifest_is_valid_and_trusted_once_its_authority_is_an_anchor() {
    let signer = Signer::new();
    let stranger = Signer::new().anchors();
    for (encoding, format) in ENCODINGS {
        let signed = signer.sign(encoding);
        let reading = read(signed.bytes(), format, &Anchors::none());
        assert_eq!(reading.status, Status::Valid, "{encoding:?} {reading:?}");
        assert_eq!(reading.problems, ["signingCredential.untrusted"], "{encoding:?}");
        assert!(reading.development && reading.is_ours());
        assert_eq!(reading.release.as_deref(), Some("demo-tryon-1"));
        assert_eq!(reading.made_at.as_deref(), Some(FACTS.made_at));
        assert_eq!(reading.reference, Some(REFERENCE));
        assert_eq!(read(signed.bytes(), format, &signer.anchors()).status, Status::Trusted, "{encoding:?}");
        assert_eq!(read(signed.bytes(), format, &stranger).status, Status::Valid, "{encoding:?}");
    }
}

#[test]
fn a_changed_picture_and_a_changed_manifest_are_invalid() {
    let signer = Signer::new();
    for (encoding, format) in ENCODINGS {
        let signed = signer.sign(encoding);
        let unsigned = marked(encoding);
        assert_eq!(read(unsigned.bytes(), format, &signer.anchors()).status, Status::Absent, "{encoding:?}");
        // A byte of the release in the manifest, and one of the pixels' data.
        let find = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).position(|at| at == part).unwrap();
        let tail = &unsigned.bytes()[unsigned.bytes().len() / 2..][..32];
        for at in [find(signed.bytes(), b"demo-tryon-1"), find(signed.bytes(), tail)] {
            let mut changed = signed.bytes().to_vec();
            changed[at] ^= 1;
            let reading = read(&changed, format, &signer.anchors());
            assert_eq!(reading.status, Status::Invalid, "{encoding:?} at {at}: {reading:?}");
            assert!(!reading.is_ours() && !reading.problems.is_empty());
        }
    }
}

/// Most bytes of memory that this process ever held.
#[cfg(target_os = "linux")]
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[cfg(target_os = "linux")]
#[test]
fn a_manifest_that_names_gigabytes_gets_none() {
    let signer = Signer::new();
    for (encoding, format) in ENCODINGS {
        let mut bytes = signer.sign(encoding).bytes().to_vec();
        let text = b"\x67release\x6Cdemo-tryon-1";
        let at = bytes.windows(text.len()).position(|at| at == text).unwrap() + 8;
        bytes[at..at + 5].copy_from_slice(b"\x7A\xF0\x00\x00\x00");
        let reading = read(&bytes, format, &Anchors::none());
        assert_eq!(
            (reading.status, &reading.problems[..]),
            (Status::Invalid, &["unreadable".to_owned()][..])
        );
    }
    assert!(peak_memory() < 2 << 30, "{}", peak_memory());
}

#[test]
fn the_mark_outlives_the_manifest() {
    let signer = Signer::new();
    let keys = KeyRing::development();
    for (encoding, _) in ENCODINGS {
        let signed = signer.sign(encoding);
        let evidence = examine(signed.bytes(), &limits(signed.bytes()), &keys, &signer.anchors()).unwrap();
        assert_eq!(evidence.mark.payload, Some(REFERENCE), "{encoding:?}");
        assert_eq!(evidence.credentials.status, Status::Trusted, "{encoding:?}");
        let picture = decode(signed.bytes(), &limits(signed.bytes())).unwrap().image;
        let copy = encode(&picture, Encoding::Jpeg { quality: 85 }).unwrap();
        let evidence = examine(&copy, &limits(&copy), &keys, &signer.anchors()).unwrap();
        assert_eq!(evidence.mark.payload, Some(REFERENCE), "{encoding:?}");
        assert_eq!(evidence.credentials.status, Status::Absent, "{encoding:?}");
        assert_eq!(evidence.verdict(Some(true)), Verdict::Kraftr);
        assert_eq!(evidence.verdict(Some(false)), Verdict::UnknownReference);
        assert_eq!(evidence.verdict(None), Verdict::Marked);
    }
    let plain = encode(&picture(3, 256, 320), Encoding::Png).unwrap();
    let evidence = examine(&plain, &limits(&plain), &keys, &signer.anchors()).unwrap();
    assert_eq!(evidence.verdict(Some(false)), Verdict::NotFound);
    assert!(evidence.mark.false_positive_bound < 1e-9);
}

#[test]
fn only_claims_of_ours_are_signed() {
    let (signer, other) = (Signer::new(), Signer::new());
    let claim = RefCell::new(Vec::new());
    let refused = marked(Encoding::Png).sign(&FACTS, &signer.chain, |bytes| {
        *claim.borrow_mut() = bytes.to_vec();
        Err("no")
    });
    assert!(matches!(refused, Err(SignError::Refused("no"))), "{refused:?}");
    let claim = claim.into_inner();
    assert_eq!(check_claim(&claim, &signer.chain), Ok(()));
    assert_eq!(check_claim(&claim, &other.chain), Err(ClaimError::Chain));
    assert_eq!(check_claim(b"", &signer.chain), Err(ClaimError::NoClaim));
    assert_eq!(check_claim(b"a contract", &signer.chain), Err(ClaimError::NoClaim));
    assert_eq!(check_claim(&vec![0; 64 * 1024], &signer.chain), Err(ClaimError::TooLong));
    for (part, instead, lacks) in [
        (&b"Kraftr\x67version"[..], &b"Kraftx\x67version"[..], "our name as its generator"),
        (b"c2pa.hash.data", b"c2pa.hash.none", "the hash of the picture"),
        (b"com.kraftr.render", b"com.kraftr.rendex", "the release"),
    ] {
        let at = claim.windows(part.len()).rposition(|at| at == part).unwrap();
        let mut changed = claim.clone();
        changed[at..at + part.len()].copy_from_slice(instead);
        assert_eq!(check_claim(&changed, &signer.chain), Err(ClaimError::Lacks(lacks)));
    }
    for end in 0..claim.len() {
        assert!(check_claim(&claim[..end], &signer.chain).is_err(), "{end}");
    }
}

#[test]
fn a_manifest_names_nobody_and_holds_no_content() {
    let signed = Signer::new().sign(Encoding::Png);
    let text = String::from_utf8_lossy(signed.bytes()).into_owned();
    assert!(text.contains(&"aa".repeat(32)) && text.contains("0102030405060708"));
    for part in ["thumbnail", "c2pa.metadata", "stds.exif", "dc:creator"] {
        assert!(!text.contains(part), "{part}");
    }
}

#[test]
fn an_authority_survives_being_kept_and_ends_one_day() {
    let signer = Signer::new();
    let kept: Authority = serde_json::from_str(&serde_json::to_string(&signer.authority).unwrap()).unwrap();
    assert_eq!(kept.signer().unwrap().0, signer.chain);
    let year = 365 * 24 * 3_600;
    assert!(!kept.ends_soon(NOW) && !kept.ends_soon(NOW + 8 * year) && kept.ends_soon(NOW + 9 * year + 1));
    assert!(!format!("{kept:?}").contains("PRIVATE KEY"));
}

#[test]
fn signatures_come_raw_or_in_der() {
    let signer = Signer::new();
    let signature = signer.key.sign(b"claim");
    assert!(signer.chain.verifies(b"claim", &signature) && !signer.chain.verifies(b"other", &signature));
    assert_eq!(Signature::parse(&signature.0), Some(signature));
    let integer = |bytes: &[u8]| {
        let bytes: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
        let pad = usize::from(bytes[0] > 127);
        [&[2, (bytes.len() + pad) as u8], &[0][..pad], &bytes].concat()
    };
    let body = [integer(&signature.0[..32]), integer(&signature.0[32..])].concat();
    let der = [&[0x30, body.len() as u8], &body[..]].concat();
    assert_eq!(Signature::parse(&der), Some(signature));
    for wrong in [&b""[..], &[0; 63], &[0; 64], b"no signature"] {
        assert_eq!(Signature::parse(wrong), None);
    }
}

#[test]
fn chains_that_readers_refuse_are_refused_at_once() {
    let signer = Signer::new();
    let refusal = |text: &str| Chain::from_pem(text).unwrap_err().to_string();
    assert!(refusal("").contains("PEM"));
    assert!(refusal(&signer.authority.certificate).contains("self-signed"));
    let leaf = signer.chain.pem().split_inclusive("-----END CERTIFICATE-----").next().unwrap();
    assert!(Chain::from_pem(leaf).is_ok(), "the authority may be left out");
    let strange = format!("{leaf}\n{leaf}");
    assert!(refusal(&strange).contains("certificate 2"), "{}", refusal(&strange));
    assert!(SigningKey::from_pem(leaf).unwrap_err().to_string().contains("openssl genpkey"));
}

#[test]
fn a_release_is_named_with_its_version_where_it_has_one() {
    let signer = Signer::new();
    for (release, agent) in [
        ("demo-tryon", json!({ "name": "demo-tryon" })),
        ("demo-tryon-1", json!({ "name": "demo-tryon", "version": "1" })),
        ("demo", json!({ "name": "demo" })),
    ] {
        let sign = |claim: &[u8]| Ok::<_, Infallible>(signer.key.sign(claim));
        let facts = Facts { release, ..FACTS };
        let signed = marked(Encoding::Png).sign(&facts, &signer.chain, sign).unwrap();
        let reader = Reader::from_context(Context::new());
        let reader = reader.with_stream("image/png", Cursor::new(signed.bytes())).unwrap();
        let actions: Value = reader.active_manifest().unwrap().find_assertion("c2pa.actions").unwrap();
        assert_eq!(actions["actions"][0]["softwareAgent"], agent, "{actions}");
        assert_eq!(actions["actions"][1]["action"], "c2pa.watermarked.bound");
    }
}
