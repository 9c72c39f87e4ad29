//! Whether a manifest store can be handed to the reader: that sets aside as much memory as a length in it names before it
//! looks how much there is, so a few bytes would do for gigabytes.

use std::io::Read;

use brotli_decompressor::Decompressor;
use ciborium_ll::{Decoder, Header};

use super::read::UNFOLDED_MAX;

/// How deep boxes may lie in each other, and CBOR items.
const BOXES_DEEP: usize = 32;
const ITEMS_DEEP: usize = 128;
/// Bytes of a box's length and kind.
const HEADER: usize = 8;

/// Whether all of a store (JUMBF, ISO/IEC 19566-5) is within the bounds that it states: each box in the one around it, and
/// each CBOR item (RFC 8949) in its box.
pub(super) fn is_whole(store: &[u8]) -> bool {
    let mut bytes_to_unfold = u64::from(UNFOLDED_MAX) << 20;
    superbox(store, BOXES_DEEP, &mut bytes_to_unfold).is_some()
}

/// A box in a store.
struct Boxed<'a> {
    kind: [u8; 4],
    content: &'a [u8],
    /// What follows it.
    after: &'a [u8],
}

impl<'a> Boxed<'a> {
    /// The first box of `bytes`.
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        let length = u32::from_be_bytes(*length) as usize;
        let (this, after) = bytes.split_at_checked(length)?;
        Some(Self { kind: *kind, content: this.get(HEADER..)?, after })
    }
}

fn superbox(bytes: &[u8], deep: usize, bytes_to_unfold: &mut u64) -> Option<()> {
    let Boxed { kind, content: mut rest, .. } = Boxed::first(bytes)?;
    if &kind != b"jumb" {
        return None;
    }
    let deep = deep.checked_sub(1)?;
    while !rest.is_empty() {
        let boxed = Boxed::first(rest)?;
        match &boxed.kind {
            b"jumb" => superbox(rest, deep, bytes_to_unfold)?,
            b"cbor" => item(&mut Decoder::from(boxed.content), ITEMS_DEEP)?,
            b"brob" => superbox(&unfolded(boxed.content, bytes_to_unfold)?, deep, bytes_to_unfold)?,
            _ => {}
        }
        rest = boxed.after;
    }
    Some(())
}

/// What a compressed box holds, unless it is more than what is left of the limit for all.
fn unfolded(content: &[u8], bytes_to_unfold: &mut u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    Decompressor::new(content, 4096).take(*bytes_to_unfold + 1).read_to_end(&mut bytes).ok()?;
    *bytes_to_unfold = bytes_to_unfold.checked_sub(bytes.len() as u64)?;
    Some(bytes)
}

/// Reads an item with all that it holds.
fn item(decoder: &mut Decoder<&[u8]>, deep: usize) -> Option<()> {
    let deep = deep.checked_sub(1)?;
    let mut chunk = [0; 256];
    match decoder.pull().ok()? {
        Header::Bytes(length) => {
            let mut segments = decoder.bytes(length);
            while let Some(mut segment) = segments.pull().ok()? {
                while segment.pull(&mut chunk).ok()?.is_some() {}
            }
        }
        Header::Text(length) => {
            let mut segments = decoder.text(length);
            while let Some(mut segment) = segments.pull().ok()? {
                while segment.pull(&mut chunk).ok()?.is_some() {}
            }
        }
        Header::Array(count) => items(decoder, count, 1, deep)?,
        Header::Map(count) => items(decoder, count, 2, deep)?,
        Header::Tag(_) => item(decoder, deep)?,
        Header::Break => return None,
        Header::Positive(_) | Header::Negative(_) | Header::Float(_) | Header::Simple(_) => {}
    }
    Some(())
}

/// Reads so many groups of items, or all until they are said to end.
fn items(decoder: &mut Decoder<&[u8]>, count: Option<usize>, group: usize, deep: usize) -> Option<()> {
    let mut read = 0;
    loop {
        match count {
            Some(count) if read == count => return Some(()),
            Some(_) => {}
            None => match decoder.pull().ok()? {
                Header::Break => return Some(()),
                header => decoder.push(header),
            },
        }
        for _ in 0..group {
            item(decoder, deep)?;
        }
        read += 1;
    }
}

#[cfg(test)]
mod tests {
    use ciborium::{Value, cbor};

    use super::*;

    fn boxed(kind: &[u8], content: &[u8]) -> Vec<u8> {
        [&((content.len() + HEADER) as u32).to_be_bytes()[..], kind, content].concat()
    }

    /// A store of one manifest with this content.
    fn store(content: &[u8]) -> Vec<u8> {
        boxed(b"jumb", &[boxed(b"jumd", b"a store"), boxed(b"jumb", content)].concat())
    }

    fn compressed(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        brotli::BrotliCompress(&mut &bytes[..], &mut out, &brotli::enc::BrotliEncoderParams::default())
            .unwrap();
        out
    }

    #[test]
    fn what_lies_within_its_bounds_is_whole() {
        let value =
            cbor!({ "text" => "a", "list" => [1, -2, 0.5, null, true], "bytes" => Value::Bytes(vec![0; 3]) })
                .unwrap();
        let mut item = Vec::new();
        ciborium::into_writer(&value, &mut item).unwrap();
        let boxes = [boxed(b"cbor", &item), boxed(b"json", b"{}"), boxed(b"bidb", &[0; 40])].concat();
        assert!(is_whole(&store(&boxes)));
        assert!(is_whole(&store(&boxed(b"brob", &compressed(&boxed(b"jumb", &boxes))))));
        // Indefinite lengths, tags, and what follows the first item.
        for item in [&b"\x9F\x01\xBF\x61a\x02\xFF\xFF"[..], b"\x5F\x41a\x42bc\xFF", b"\xC1\x00", b"\xF6\x7B"]
        {
            assert!(is_whole(&store(&boxed(b"cbor", item))), "{item:?}");
        }
    }

    #[test]
    fn what_names_more_than_there_is_is_refused() {
        let huge = b"\x7A\x64\x65\x66\x67abc";
        for item in [
            &huge[..],
            b"\x5B\x00\x00\x00\xFF\xFF\xFF\xFF\xFF",
            &[b"\xA1\x61a", &huge[..]].concat(),
            &[b"\x9F", &huge[..], b"\xFF"].concat(),
            &[b"\xC2", &huge[..]].concat(),
            b"\x9B\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x00",
            b"\xFF",
            b"",
            &vec![0x81; 100_000],
        ] {
            let content = boxed(b"cbor", item);
            assert!(!is_whole(&store(&content)), "{item:?}");
            assert!(!is_whole(&store(&boxed(b"brob", &compressed(&boxed(b"jumb", &content))))), "{item:?}");
        }
    }

    #[test]
    fn boxes_end_where_the_one_around_them_does() {
        let whole = store(&boxed(b"json", b"{}"));
        for length in 0..whole.len() {
            assert!(!is_whole(&whole[..length]), "{length}");
        }
        assert!(!is_whole(&boxed(b"json", b"{}")));
        let longer = [&20u32.to_be_bytes(), &b"json{}"[..]].concat();
        assert!(!is_whole(&store(&longer)));
        let nested = |deep: usize| (0..deep).fold(boxed(b"json", b"{}"), |inner, _| boxed(b"jumb", &inner));
        assert!(is_whole(&nested(BOXES_DEEP)));
        assert!(!is_whole(&nested(BOXES_DEEP + 1)));
    }

    #[test]
    fn what_unfolds_beyond_the_limit_is_refused() {
        let zeros = |megabytes: u32| vec![1; (megabytes as usize) << 20];
        let folded =
            |megabytes| boxed(b"brob", &compressed(&boxed(b"jumb", &boxed(b"bidb", &zeros(megabytes)))));
        assert!(is_whole(&store(&folded(UNFOLDED_MAX - 1))));
        assert!(!is_whole(&store(&folded(UNFOLDED_MAX + 1))));
        let half = folded(UNFOLDED_MAX / 2 + 1);
        assert!(!is_whole(&store(&[half.clone(), half].concat())), "all together count");
    }
}
