//! The one kernel: a few rows times 48 columns of a product, held in registers while k runs.

use pulp::Simd;

/// Columns of a panel: a whole number of vectors on every machine (3 of AVX-512, 6 of AVX2, 12 of NEON).
pub(crate) const PANEL: usize = 48;

/// Rows of a tile on this machine, as many as the registers hold beside a panel's row.
pub(crate) fn rows<S: Simd>() -> usize {
    match S::F32_LANES {
        16 => 8,
        4 | 8 => 2,
        _ => 1,
    }
}

/// `a` is `[k][rows]`, `b` is `[k][PANEL]`; their product is added to `out`, `[rows][PANEL]`.
#[inline(always)]
pub(crate) fn accumulate<S: Simd>(simd: S, a: &[f32], b: &[f32], out: &mut [f32]) {
    match S::F32_LANES {
        16 => kernel::<S, 8, 3>(simd, a, b, out),
        8 => kernel::<S, 2, 6>(simd, a, b, out),
        4 => kernel::<S, 2, 12>(simd, a, b, out),
        _ => kernel::<S, 1, PANEL>(simd, a, b, out),
    }
}

#[inline(always)]
fn kernel<S: Simd, const R: usize, const V: usize>(simd: S, a: &[f32], b: &[f32], out: &mut [f32]) {
    let (b, _) = S::as_simd_f32s(b);
    let (a, _) = a.as_chunks::<R>();
    let (b, _) = b.as_chunks::<V>();
    let (out, _) = S::as_mut_simd_f32s(out);
    let (out, _) = out.as_chunks_mut::<V>();
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    for (sums, out) in sums.iter_mut().zip(out.iter()) {
        *sums = *out;
    }
    for (a, b) in a.iter().zip(b) {
        for r in 0..R {
            let left = simd.splat_f32s(a[r]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_e_f32s(left, b[v], sums[r][v]);
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(&sums) {
        *out = *sums;
    }
}

/// Rows of `width`, one after the other, to `[width][height]`: what [`accumulate`] reads as its `a`, and with a
/// height of [`PANEL`] as its `b`.
#[inline(always)]
pub(crate) fn transpose(rows: &[f32], width: usize, height: usize, turned: &mut [f32]) {
    for (column, turned) in turned.chunks_exact_mut(height).enumerate() {
        for (value, row) in turned.iter_mut().zip(rows.chunks_exact(width)) {
            *value = row[column];
        }
    }
}
