//! Networks that come as ONNX files, on the CPU.

use rten::{Model, ModelOptions};
use rten_tensor::prelude::*;
use rten_tensor::{NdTensor, Tensor};

use crate::ModelError;

/// A network.
pub(crate) struct Network {
    name: String,
    model: Model,
}

/// What a network answers.
pub(crate) struct Output {
    pub(crate) shape: Vec<usize>,
    /// Row by row.
    pub(crate) values: Vec<f32>,
}

impl Network {
    /// A network from the bytes of its file, which `name` names in errors.
    pub(crate) fn load(name: &str, bytes: Vec<u8>) -> Result<Self, ModelError> {
        let model = ModelOptions::with_all_ops().load(bytes);
        let model =
            model.map_err(|error| ModelError::Onnx { file: name.to_owned(), reason: error.to_string() })?;
        Ok(Self { name: name.to_owned(), model })
    }

    /// Every output for one input of that shape, which the network's only input must take.
    pub(crate) fn run(&self, input: Vec<f32>, shape: [usize; 4]) -> Result<Vec<Output>, ModelError> {
        let &[node] = self.model.input_ids() else {
            return Err(self.failed(format!("it has {} inputs instead of one", self.model.input_ids().len())));
        };
        let input = NdTensor::from_data(shape, input);
        let outputs = self.model.run(vec![(node, input.view().into())], self.model.output_ids(), None);
        outputs
            .map_err(|error| self.failed(error.to_string()))?
            .into_iter()
            .map(|output| {
                let output: Tensor<f32> =
                    output.try_into().map_err(|_| self.failed("an output holds no floats".to_owned()))?;
                Ok(Output { shape: output.shape().to_vec(), values: output.to_vec() })
            })
            .collect()
    }

    /// The error for outputs of other shapes than `expected`.
    pub(crate) fn unexpected(&self, outputs: &[Output], expected: &str) -> ModelError {
        let shapes: Vec<_> = outputs.iter().map(|output| &output.shape).collect();
        self.failed(format!("it answers {shapes:?} instead of {expected}"))
    }

    fn failed(&self, reason: String) -> ModelError {
        ModelError::Onnx { file: self.name.clone(), reason }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use candle_core::Device;

    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/onnx").join(name)
    }

    /// The same numbers as `benches/baselines/onnx_person.py`.
    fn wave(height: usize, width: usize) -> Vec<f32> {
        (0..3 * height * width).map(|n| ((n % 1013) as f32 / 1013.0 - 0.5) * 2.0).collect()
    }

    #[test]
    fn golden_outputs_are_those_of_onnx_runtime() {
        let recorded = candle_core::safetensors::load(fixture("outputs.safetensors"), &Device::Cpu).unwrap();
        let cases = [
            ("yolox_l.onnx", [640, 640], vec![("output", vec![1, 8_400, 85])]),
            (
                "dw-ll_ucoco_384.onnx",
                [384, 288],
                vec![("simcc_x", vec![1, 133, 576]), ("simcc_y", vec![1, 133, 768])],
            ),
        ];
        for (name, [height, width], expected) in cases {
            let network = Network::load(name, std::fs::read(fixture(name)).unwrap()).unwrap();
            let outputs = network.run(wave(height, width), [1, 3, height, width]).unwrap();
            assert_eq!(outputs.len(), expected.len());
            for (output, (key, shape)) in outputs.iter().zip(expected) {
                assert_eq!(output.shape, shape, "{key}");
                let theirs: Vec<f32> = recorded[key].to_vec1().unwrap();
                let largest = theirs.iter().fold(0.0f32, |most, value| most.max(value.abs()));
                let ours = output.values.iter().step_by(101);
                let off = ours.zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
                assert!(off < 1e-4 * largest, "{key} is off by {off}");
            }
        }
    }

    #[test]
    fn what_is_no_network_is_said_by_name() {
        let error = Network::load("yolox_l.onnx", b"no network".to_vec()).err().unwrap().to_string();
        assert!(error.contains("yolox_l.onnx"), "{error}");
    }
}
