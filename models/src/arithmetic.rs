//! How much a network computes, from its configuration: what benches compare a device's speed with.

use serde::Serialize;

/// Work of one image, as the reference algorithm does it. A multiplication with its addition counts as 2.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Arithmetic {
    /// Forward passes of one sample; a step with guidance is two.
    pub passes: u32,
    /// One pass, part by part.
    pub parts: Vec<Part>,
}

/// Work of one kind of blocks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// Which blocks.
    pub name: &'static str,
    /// In matrix products with weights.
    pub matmul_flops: f64,
    /// In products of queries with keys and of scores with values.
    pub attention_flops: f64,
}

impl Arithmetic {
    /// Work of one image in all.
    pub fn image_flops(&self) -> f64 {
        f64::from(self.passes) * self.pass_flops()
    }

    /// Work of one pass in all.
    pub fn pass_flops(&self) -> f64 {
        self.parts.iter().map(|part| part.matmul_flops + part.attention_flops).sum()
    }
}
