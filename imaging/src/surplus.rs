//! PNG files whose data goes on after their last row.
//!
//! Decoders stop at the last row and never look at what follows, so such a file does no harm here; but it
//! is built to inflate to gigabytes in programs that do, and nobody's camera makes one.

use std::io::{self, Read};

use flate2::read::ZlibDecoder;

/// Inflated bytes looked at in one go.
const WINDOW: usize = 64 * 1024;

/// The data of every `IDAT` chunk, one after the other.
struct Data<'b> {
    chunks: Vec<&'b [u8]>,
}

impl Read for Data<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while let Some(chunk) = self.chunks.last_mut() {
            let read = chunk.read(into)?;
            if read > 0 || into.is_empty() {
                return Ok(read);
            }
            self.chunks.pop();
        }
        Ok(0)
    }
}

/// True when the picture data of a PNG inflates to more than its header says it has.
///
/// The caller has walked the chunks, so they lie inside of `bytes`. A stream that does not inflate is the
/// decoder's to report.
pub(crate) fn has_surplus(bytes: &[u8]) -> bool {
    let Some(&[w0, w1, w2, w3, h0, h1, h2, h3, depth, colour]) = bytes.get(16..26) else { return false };
    let (width, height) = (u32::from_be_bytes([w0, w1, w2, w3]), u32::from_be_bytes([h0, h1, h2, h3]));
    let channels = match colour {
        2 => 3,
        4 => 2,
        6 => 4,
        _ => 1,
    };
    let row = (u64::from(width) * channels * u64::from(depth)).div_ceil(8);
    // Each row has a filter byte; seven interlaced passes have under four rows for each of the picture's,
    // and each may end in a part of a byte.
    let most = (row + 1) * u64::from(height) + 8 * u64::from(height) + 64;
    let mut inflated = ZlibDecoder::new(Data { chunks: data(bytes) });
    let (mut window, mut total) = (vec![0; WINDOW], 0);
    while let Ok(read @ 1..) = inflated.read(&mut window) {
        total += read as u64;
        if total > most {
            return true;
        }
    }
    false
}

/// The bodies of the `IDAT` chunks, the last one first.
fn data(bytes: &[u8]) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let Some((&[l0, l1, l2, l3, ref kind @ ..], after)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let Some((body, next)) = after.split_at_checked(length) else { break };
        if kind == b"IDAT" {
            chunks.push(body);
        }
        rest = next.get(4..).unwrap_or_default();
    }
    chunks.reverse();
    chunks
}
