//! Where the networks' tensors come from: a file, or a list that only writes down what is asked for.
//!
//! A network is built once over a list, which makes the contract that the file must keep, and once over the file:
//! so names and shapes stand in one place, the constructors.

use std::cell::RefCell;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::LayerNorm;

use super::layers::{Conv2d, GroupNorm};
use crate::layers::linear::Linear;
use crate::weights::Tensors;
use crate::weights::contract::Expected;

/// A file that passed its contract, or the making of a contract.
pub(crate) enum Source<'a> {
    /// The tensors are read.
    File(&'a Tensors<'a>),
    /// They are written down, and stand-ins without memory are handed out.
    List(RefCell<Vec<Expected>>),
}

/// Everything that `build` asks for.
pub(crate) fn contract<T>(build: impl FnOnce(&Scope<'_>) -> Result<T>) -> Result<Vec<Expected>> {
    let source = Source::List(RefCell::default());
    build(&Scope::top(&source))?;
    match source {
        Source::List(list) => Ok(list.into_inner()),
        Source::File(_) => unreachable!("the source was made a list above"),
    }
}

/// A place in the tree of names.
#[derive(Clone)]
pub(crate) struct Scope<'a> {
    source: &'a Source<'a>,
    path: String,
    /// Where older files have it, where that is elsewhere.
    older: Option<String>,
}

impl<'a> Scope<'a> {
    /// The root.
    pub(crate) fn top(source: &'a Source<'a>) -> Self {
        Self { source, path: String::new(), older: None }
    }

    /// The place below, as `down_blocks.0`.
    pub(crate) fn at(&self, name: &str) -> Self {
        let below = |path: &String| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        Self { source: self.source, path: below(&self.path), older: self.older.as_ref().map(below) }
    }

    /// The place below that older files call `older`.
    pub(crate) fn renamed(&self, name: &str, older: &str) -> Self {
        Self { older: Some(self.at(older).path), ..self.at(name) }
    }

    /// The `n`th of a list below.
    pub(crate) fn nth(&self, name: &str, n: usize) -> Self {
        self.at(&format!("{name}.{n}"))
    }

    /// The tensor of that name here.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.expect(name, shape, true)?
            .map_or_else(|| Tensor::zeros((), DType::F32, &Device::Cpu)?.broadcast_as(shape), Ok)
    }

    /// A tensor that older files hold and nobody needs.
    pub(crate) fn unused(&self, name: &str, shape: &[usize]) -> Result<()> {
        if matches!(self.source, Source::List(_)) {
            self.expect(name, shape, false)?;
        }
        Ok(())
    }

    fn expect(&self, name: &str, shape: &[usize], used: bool) -> Result<Option<Tensor>> {
        let Self { path: name, older, .. } = self.at(name);
        match self.source {
            Source::File(tensors) => {
                let older = older.filter(|older| tensors.has(older));
                tensors.get(&older.unwrap_or(name)).map(Some)
            }
            Source::List(list) => {
                list.borrow_mut().push(Expected { name, older, shape: shape.to_vec(), used });
                Ok(None)
            }
        }
    }

    /// A linear layer with a bias.
    pub(crate) fn linear(&self, into: usize, out: usize) -> Result<Linear> {
        self.made_linear(self.tensor("weight", &[out, into])?, Some(self.tensor("bias", &[out])?))
    }

    /// A linear layer without.
    pub(crate) fn linear_no_bias(&self, into: usize, out: usize) -> Result<Linear> {
        self.made_linear(self.tensor("weight", &[out, into])?, None)
    }

    /// A linear layer that the file stores as a convolution of one pixel.
    pub(crate) fn linear_as_conv(&self, into: usize, out: usize) -> Result<Linear> {
        let weight = self.tensor("weight", &[out, into, 1, 1])?.reshape((out, into))?;
        self.made_linear(weight, Some(self.tensor("bias", &[out])?))
    }

    fn made_linear(&self, weight: Tensor, bias: Option<Tensor>) -> Result<Linear> {
        match self.source {
            Source::File(_) => Linear::new(&weight, bias),
            // Rearranging a stand-in would give it the memory that it does without.
            Source::List(_) => Ok(Linear::Plain { weight, bias }),
        }
    }

    /// A convolution over `side` x `side` pixels.
    pub(crate) fn conv(
        &self,
        into: usize,
        out: usize,
        side: usize,
        padding: usize,
        stride: usize,
    ) -> Result<Conv2d> {
        let weight = self.tensor("weight", &[out, into, side, side])?;
        Conv2d::new(weight, &self.tensor("bias", &[out])?, padding, stride)
    }

    /// A convolution over 3 x 3 pixels that keeps the size.
    pub(crate) fn conv3(&self, into: usize, out: usize) -> Result<Conv2d> {
        self.conv(into, out, 3, 1, 1)
    }

    /// A convolution of one pixel.
    pub(crate) fn conv1(&self, into: usize, out: usize) -> Result<Conv2d> {
        self.conv(into, out, 1, 0, 1)
    }

    /// A group norm.
    pub(crate) fn group_norm(&self, channels: usize, groups: usize, epsilon: f64) -> Result<GroupNorm> {
        let (scale, shift) = (self.tensor("weight", &[channels])?, self.tensor("bias", &[channels])?);
        GroupNorm::new(&scale, &shift, groups, epsilon)
    }

    /// A layer norm.
    pub(crate) fn layer_norm(&self, width: usize) -> Result<LayerNorm> {
        Ok(LayerNorm::new(self.tensor("weight", &[width])?, self.tensor("bias", &[width])?, 1e-5))
    }
}
