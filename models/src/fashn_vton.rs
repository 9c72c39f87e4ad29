//! FASHN VTON v1.5: a rectified-flow transformer that paints a garment onto a person.
//!
//! Source: github.com/fashn-AI/fashn-vton-1.5 at 7c0f10a (Apache-2.0).

pub(crate) mod agnostic;
mod arithmetic;
pub(crate) mod config;
pub(crate) mod mmdit;
pub(crate) mod pipeline;
pub(crate) mod prepare;
mod walk;

pub(crate) use pipeline::FashnVton;
