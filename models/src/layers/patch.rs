//! Pictures as tokens and back: patches in row-major order, values of a patch in (c, row, column) order.

use candle_core::{Result, Tensor};

/// `[b, c, h, w]` to `[b, tokens, c * p * p]`.
pub(crate) fn cut(x: &Tensor, p: usize) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    x.reshape(&[b, c, h / p, p, w / p, p])? // (b, c, rows, p, columns, p)
        .permute([0, 2, 4, 1, 3, 5])? // (b, rows, columns, c, p, p)
        .reshape((b, (h / p) * (w / p), c * p * p))
}

/// `[b, tokens, c * p * p]` to `[b, c, h, w]`.
pub(crate) fn paste(tokens: &Tensor, p: usize, [h, w]: [usize; 2]) -> Result<Tensor> {
    let (b, _, values) = tokens.dims3()?;
    let c = values / (p * p);
    tokens
        .reshape(&[b, h / p, w / p, c, p, p])? // (b, rows, columns, c, p, p)
        .permute([0, 3, 1, 4, 2, 5])? // (b, c, rows, p, columns, p)
        .reshape((b, c, h, w))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn patches_are_row_major_and_come_back() {
        let x = Tensor::arange(0f32, 48.0, &Device::Cpu).unwrap().reshape((1, 2, 4, 6)).unwrap();
        let tokens = cut(&x, 2).unwrap();
        assert_eq!(tokens.dims(), [1, 6, 8]);
        let second = tokens.get(0).unwrap().get(1).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(second, [2.0, 3.0, 8.0, 9.0, 26.0, 27.0, 32.0, 33.0]);
        let back = paste(&tokens, 2, [4, 6]).unwrap();
        assert_eq!(
            back.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            x.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        );
    }
}
