//! Attention of every token to every token, a panel of queries at a time, transposed: keys run down and
//! queries across, so that the softmax of 48 queries is a loop over whole vectors.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::linear::Source;
use super::math;
use super::tile::{self, PANEL};

/// Tokens of one stream: `q`, `k`, `v` side by side in each row, each `heads * head` wide.
#[derive(Clone, Copy)]
pub(crate) struct Stream<'a> {
    /// The rows; `width` is ignored.
    pub(crate) rows: Source<'a>,
    /// Tokens.
    pub(crate) count: usize,
    /// Learned scale of the queries' RMS norm, `[head]`.
    pub(crate) query: &'a [f32],
    /// Learned scale of the keys' RMS norm, `[head]`.
    pub(crate) key: &'a [f32],
}

/// Cosines and sines, `[tokens][head / 2]`; token `n` of a stream reads row `n % tokens`.
#[derive(Clone, Copy)]
pub(crate) struct Tables<'a> {
    /// Cosines.
    pub(crate) cos: &'a [f32],
    /// Sines.
    pub(crate) sin: &'a [f32],
}

/// `softmax(q k^T / sqrt(head)) v` over the tokens of all streams, one after the other:
/// `[entries][tokens][heads * head]`.
pub(crate) fn attend(
    streams: &[Stream<'_>],
    tables: Tables<'_>,
    entries: usize,
    heads: usize,
    head: usize,
) -> Vec<f32> {
    let tokens: usize = streams.iter().map(|stream| stream.count).sum();
    let arch = Arch::new();
    let packed: Vec<Head> = (0..entries * heads)
        .into_par_iter()
        .map(|n| {
            arch.dispatch(Pack { streams, tables, entry: n / heads, at: n % heads, heads, head, tokens })
        })
        .collect();
    let panels = tokens.div_ceil(PANEL);
    // One task is one panel of queries of one head; its result is [head][PANEL].
    let mixed: Vec<Vec<f32>> = (0..entries * heads * panels)
        .into_par_iter()
        .map_init(Vec::new, |scores, n| {
            arch.dispatch(Mix { of: &packed[n / panels], panel: n % panels, head, tokens, scores })
        })
        .collect();
    let width = heads * head;
    let mut result = vec![0.0; entries * tokens * width];
    result.par_chunks_mut(PANEL * width).enumerate().for_each(|(chunk, rows)| {
        for (n, row) in rows.chunks_exact_mut(width).enumerate() {
            let token = chunk * PANEL + n;
            let (entry, token) = (token / tokens, token % tokens);
            for (at, row) in row.chunks_exact_mut(head).enumerate() {
                let block = &mixed[(entry * heads + at) * panels + token / PANEL];
                for (column, value) in row.iter_mut().enumerate() {
                    *value = block[column * PANEL + token % PANEL];
                }
            }
        }
    });
    result
}

/// One head of one batch entry, packed for the tile kernel.
struct Head {
    /// Scaled, normed, turned; `[panel][head][PANEL]`.
    queries: Vec<f32>,
    /// Normed, turned; `[block][head][height]`.
    keys: Vec<f32>,
    /// `[block of columns][tokens][height]`.
    values: Vec<f32>,
}

struct Pack<'a> {
    streams: &'a [Stream<'a>],
    tables: Tables<'a>,
    entry: usize,
    at: usize,
    heads: usize,
    head: usize,
    tokens: usize,
}

impl WithSimd for Pack<'_> {
    type Output = Head;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Head {
        let Self { head, tokens, .. } = self;
        let height = tile::rows::<S>();
        let mut queries = vec![0.0; tokens.div_ceil(PANEL) * head * PANEL];
        let mut keys = vec![0.0; tokens.div_ceil(height) * head * height];
        let mut values = vec![0.0; head.div_ceil(height) * tokens * height];
        let scale = 1.0 / (head as f32).sqrt();
        let mut turned = vec![0.0; head];
        let mut token = 0;
        for stream in self.streams {
            for n in 0..stream.count {
                let row = &stream.rows.data
                    [stream.rows.offset + self.entry * stream.rows.entry + n * stream.rows.row..];
                let part = |which: usize| &row[(which * self.heads + self.at) * head..][..head];
                turn(part(0), stream.query, self.tables, n, scale, &mut turned);
                let panel = &mut queries[token / PANEL * head * PANEL..][..head * PANEL];
                for (k, value) in turned.iter().enumerate() {
                    panel[k * PANEL + token % PANEL] = *value;
                }
                turn(part(1), stream.key, self.tables, n, 1.0, &mut turned);
                let block = &mut keys[token / height * head * height..][..head * height];
                for (k, value) in turned.iter().enumerate() {
                    block[k * height + token % height] = *value;
                }
                for (block, group) in part(2).chunks(height).enumerate() {
                    values[(block * tokens + token) * height..][..group.len()].copy_from_slice(group);
                }
                token += 1;
            }
        }
        Head { queries, keys, values }
    }
}

/// RMS norm with its learned scale, rotation of pairs by position, and a factor.
#[inline(always)]
fn turn(x: &[f32], learned: &[f32], tables: Tables<'_>, token: usize, factor: f32, turned: &mut [f32]) {
    let half = x.len() / 2;
    let at = (token * half) % tables.cos.len();
    let (cos, sin) = (&tables.cos[at..][..half], &tables.sin[at..][..half]);
    let inverse = factor / (math::sum(x, |x| x * x) / x.len() as f32 + 1e-6).sqrt();
    let pairs = x.chunks_exact(2).zip(learned.chunks_exact(2)).zip(cos.iter().zip(sin));
    for (turned, ((x, learned), (cos, sin))) in turned.chunks_exact_mut(2).zip(pairs) {
        let (even, odd) = (x[0] * inverse * learned[0], x[1] * inverse * learned[1]);
        turned[0] = cos * even - sin * odd;
        turned[1] = sin * even + cos * odd;
    }
}

struct Mix<'a> {
    of: &'a Head,
    panel: usize,
    head: usize,
    tokens: usize,
    scores: &'a mut Vec<f32>,
}

impl WithSimd for Mix<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self { of, panel, head, tokens, scores } = self;
        let height = tile::rows::<S>();
        scores.resize(tokens.div_ceil(height) * height * PANEL, 0.0);
        let queries = &of.queries[panel * head * PANEL..][..head * PANEL];
        let blocks = of.keys.chunks_exact(head * height);
        for (keys, scores) in blocks.zip(scores.chunks_exact_mut(height * PANEL)) {
            tile::multiply(simd, keys, queries, scores);
        }
        let scores = &mut scores[..tokens * PANEL];
        let inverse = softmax(scores);
        let mut mixed = vec![0.0; head.div_ceil(height) * height * PANEL];
        let blocks = of.values.chunks_exact(tokens * height);
        for (values, mixed) in blocks.zip(mixed.chunks_exact_mut(height * PANEL)) {
            tile::multiply(simd, values, scores, mixed);
        }
        for row in mixed.as_chunks_mut::<PANEL>().0 {
            for (value, inverse) in row.iter_mut().zip(&inverse) {
                *value *= inverse;
            }
        }
        mixed
    }
}

/// Exponentials less the maximum, down each column; what the columns are to be multiplied with follows.
#[inline(always)]
fn softmax(scores: &mut [f32]) -> [f32; PANEL] {
    let (rows, _) = scores.as_chunks_mut::<PANEL>();
    let mut highest = [f32::NEG_INFINITY; PANEL];
    for row in rows.iter() {
        for (highest, score) in highest.iter_mut().zip(row) {
            *highest = if *score > *highest { *score } else { *highest };
        }
    }
    let mut sums = [0.0; PANEL];
    for row in rows {
        for ((score, highest), sum) in row.iter_mut().zip(&highest).zip(&mut sums) {
            *score = math::exp(*score - highest);
            *sum += *score;
        }
    }
    sums.map(|sum| 1.0 / sum)
}
