//! Seeded random weights: a file that fits a contract, for benches and tests of releases nobody has downloaded.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use kraftr_protocol::{Digest, Hasher};
use rand::rngs::ChaCha8Rng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Map, Value, json};

use super::contract::Expected;
use super::receipt;
use crate::ModelError;

/// Numbers made between two writes.
const CHUNK: usize = 1 << 18;
/// Bytes of a bf16.
const BF16: usize = 2;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) sha256: Digest,
    pub(crate) bytes: u64,
}

/// Length of the file that [`write`] makes.
pub(crate) fn length(contract: &[Expected]) -> u64 {
    let (header, data) = layout(contract);
    8 + header.len() as u64 + data
}

/// Writes the contract's tensors as bf16 safetensors, the same for the same seed. Matrices are uniform with the
/// variance `1 / fan-in`, which keeps activations in range at any depth; norm scales are near 1. Memory stays
/// constant: nothing is held but a chunk. The file appears whole, beside its place first.
pub(crate) fn write(
    path: &Path,
    contract: &[Expected],
    seed: u64,
    on_bytes: &mut dyn FnMut(u64),
) -> Result<Made, ModelError> {
    whole(path, |part| fill(part, contract, seed, on_bytes))
}

/// Writes a text, likewise.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<Made, ModelError> {
    whole(path, |part| {
        fs::write(part, text)?;
        Ok(Made { sha256: Digest::of(text.as_bytes()), bytes: text.len() as u64 })
    })
}

/// `fill` writes beside the place of the file, which then appears whole, with its receipt.
fn whole(path: &Path, fill: impl FnOnce(&Path) -> io::Result<Made>) -> Result<Made, ModelError> {
    let failed = |source| ModelError::Write { path: path.to_owned(), source };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(format!(".{name}.part.{}", std::process::id()));
    let made = fill(&part).and_then(|made| {
        fs::rename(&part, path)?;
        receipt::remember(path, made.sha256, &fs::metadata(path)?)?;
        Ok(made)
    });
    if made.is_err() {
        // What could not be written must not take up room; the first error is the one to tell.
        fs::remove_file(&part).ok();
    }
    made.map_err(failed)
}

fn fill(part: &Path, contract: &[Expected], seed: u64, on_bytes: &mut dyn FnMut(u64)) -> io::Result<Made> {
    let (header, _) = layout(contract);
    let mut out = Hashed {
        to: BufWriter::with_capacity(1 << 20, File::create(part)?),
        hasher: Hasher::default(),
        bytes: 0,
    };
    out.write(&(header.len() as u64).to_le_bytes())?;
    out.write(header.as_bytes())?;
    let mut chunk = vec![0; CHUNK * BF16];
    for (n, tensor) in contract.iter().enumerate() {
        // A stream of its own for each tensor: another depth changes no tensor that both have.
        let mut stream = ChaCha8Rng::seed_from_u64(seed);
        stream.set_stream(n as u64);
        let (middle, reach) = range(tensor);
        let mut left = tensor.shape.iter().product::<usize>();
        while left > 0 {
            let bytes = &mut chunk[..left.min(CHUNK) * BF16];
            stream.fill_bytes(bytes);
            for number in bytes.chunks_exact_mut(BF16) {
                let uniform = f32::from(i16::from_le_bytes([number[0], number[1]])) / 32_768.0;
                number.copy_from_slice(&bf16(middle + reach * uniform).to_le_bytes());
            }
            out.write(bytes)?;
            on_bytes(bytes.len() as u64);
            left -= bytes.len() / BF16;
        }
    }
    out.to.flush()?;
    out.to.get_ref().sync_all()?;
    Ok(Made { sha256: out.hasher.finish(), bytes: out.bytes })
}

struct Hashed<W> {
    to: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W: Write> Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Middle and reach of a tensor's uniform numbers.
fn range(tensor: &Expected) -> (f32, f32) {
    match tensor.shape.as_slice() {
        // Of one dimension, a norm's scale alone is called a weight. A variance is positive.
        [_] if matches!(tensor.name.rsplit('.').next(), Some("scale" | "weight" | "running_var")) => {
            (1.0, 0.1)
        }
        // One number is a count that nothing reads.
        [] | [_] => (0.0, 0.02),
        shape => {
            let fan_in: usize = shape[1..].iter().product();
            (0.0, (3.0 / fan_in.max(1) as f32).sqrt())
        }
    }
}

/// The nearest bf16, ties to even. Never given what is not finite.
fn bf16(number: f32) -> u16 {
    let bits = number.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// The header, padded so that numbers lie on addresses divisible by eight, and how many bytes follow it.
fn layout(contract: &[Expected]) -> (String, u64) {
    let mut at = 0;
    let mut tensors = Map::new();
    for Expected { name, shape, .. } in contract {
        let end = at + (shape.iter().product::<usize>() * BF16) as u64;
        tensors.insert(name.clone(), json!({ "dtype": "BF16", "shape": shape, "data_offsets": [at, end] }));
        at = end;
    }
    let mut header = Value::Object(tensors).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    (header, at)
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    fn contract(rows: usize) -> Vec<Expected> {
        let tensor = |name: &str, shape: &[usize]| Expected {
            name: name.to_owned(),
            older: None,
            shape: shape.to_vec(),
            used: true,
        };
        vec![
            tensor("a.weight", &[rows, 300]),
            tensor("a.bias", &[rows]),
            tensor("norm.scale", &[64]),
            tensor("norm.weight", &[64]),
            tensor("norm.running_var", &[64]),
            tensor("norm.num_batches_tracked", &[]),
        ]
    }

    #[test]
    fn the_file_fits_its_contract_and_its_seed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let contract = contract(1_000);
        let mut told = 0;
        let mut make = |seed| write(&path, &contract, seed, &mut |bytes| told += bytes).unwrap();
        let made = make(7);
        let bytes = fs::read(&path).unwrap();
        assert_eq!(made, Made { sha256: Digest::of(&bytes), bytes: bytes.len() as u64 });
        assert_eq!(made.bytes, length(&contract));
        assert_ne!(make(8).sha256, made.sha256);
        assert_eq!(make(7), made);
        assert_eq!(told, 3 * 2 * (300_000 + 1_000 + 3 * 64 + 1));
        let files = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 2, "the weights and their receipt");

        let file = SafeTensors::deserialize(&bytes).unwrap();
        let numbers = |name: &str| -> Vec<f64> {
            let data = file.tensor(name).unwrap().data();
            let number = |two: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([two[0], two[1]])) << 16);
            data.chunks_exact(2).map(|two| f64::from(number(two))).collect()
        };
        let weights = numbers("a.weight");
        assert_eq!(file.tensor("a.weight").unwrap().shape(), [1_000, 300]);
        let mean_square = weights.iter().map(|x| x * x).sum::<f64>() / weights.len() as f64;
        assert!((mean_square * 300.0 - 1.0).abs() < 0.02, "{mean_square}");
        for name in ["norm.scale", "norm.weight", "norm.running_var"] {
            assert!(numbers(name).iter().all(|scale| (0.89..1.11).contains(scale)));
        }
    }

    #[test]
    fn nearest_bf16() {
        for (number, bits) in
            [(1.0, 0x3f80), (-2.5, 0xc020), (1.003_906_3, 0x3f80), (1.011_718_8, 0x3f82), (0.0, 0)]
        {
            assert_eq!(bf16(number), bits, "{number}");
        }
    }

    #[test]
    fn where_nothing_can_be_written_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/a.safetensors");
        let error = write(&path, &contract(1), 0, &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error}");
    }
}
