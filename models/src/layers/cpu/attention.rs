//! Attention of queries to every token, some panels of queries at a time, transposed: keys run down and queries
//! across, so that the softmax of 48 queries is a loop over whole vectors. Keys come in blocks that stay in
//! the second cache, and the softmax is corrected from block to block (Dao et al. 2022, `FlashAttention`).

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::linear::Source;
use super::math;
use super::tile::{self, PANEL};

/// Keys of a block: a multiple of every tile's height.
const KEYS: usize = 256;

/// Panels of queries in one task: they share each block of keys while it is in the cache.
const PANELS: usize = 2;

/// Tokens of one stream, each head's numbers side by side in a row.
#[derive(Clone, Copy)]
pub(crate) struct Stream<'a> {
    /// Tokens.
    pub(crate) count: usize,
    /// Queries, where somebody reads what comes out of them.
    pub(crate) queries: Option<Source<'a>>,
    /// Keys.
    pub(crate) keys: Source<'a>,
    /// Values.
    pub(crate) values: Source<'a>,
    /// Learned scale of the queries' RMS norm, `[head]`.
    pub(crate) query_norm: &'a [f32],
    /// Learned scale of the keys' RMS norm, `[head]`.
    pub(crate) key_norm: &'a [f32],
}

/// Cosines and sines, `[tokens][head / 2]`; token `n` of a stream reads row `n % tokens`.
#[derive(Clone, Copy)]
pub(crate) struct Tables<'a> {
    /// Cosines.
    pub(crate) cos: &'a [f32],
    /// Sines.
    pub(crate) sin: &'a [f32],
}

/// `softmax(q k^T / sqrt(head)) v` for the queries of all streams, one after the other, over the tokens of all
/// streams: `[entries][queries][heads * head]`.
pub(crate) fn attend(
    streams: &[Stream<'_>],
    tables: Tables<'_>,
    entries: usize,
    heads: usize,
    head: usize,
) -> Vec<f32> {
    let arch = Arch::new();
    let (width, tokens) = (heads * head, streams.iter().map(|stream| stream.count).sum());
    let asking: Vec<_> = streams.iter().filter_map(|stream| Some((stream, stream.queries?))).collect();
    let packed: Vec<Head> = (0..entries * heads)
        .into_par_iter()
        .map(|n| arch.dispatch(Pack { streams, tables, entry: n / heads, at: n % heads, head, tokens }))
        .collect();
    let queries: usize = asking.iter().map(|(stream, _)| stream.count).sum();
    let mut result = vec![0.0; entries * queries * width];
    result.par_chunks_mut(queries * width).enumerate().for_each(|(entry, rows)| {
        rows.par_chunks_mut(PANELS * PANEL * width).enumerate().for_each(|(n, rows)| {
            let asks = Asks { streams: &asking, tables, entry, first: n * PANELS * PANEL };
            arch.dispatch(Mix { asks, packed: &packed[entry * heads..][..heads], head, tokens, rows });
        });
    });
    result
}

/// Keys and values of one head of one batch entry, packed for the tile kernel.
struct Head {
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
    head: usize,
    tokens: usize,
}

impl WithSimd for Pack<'_> {
    type Output = Head;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Head {
        let Self { streams, tables, entry, at, head, tokens } = self;
        let height = tile::rows::<S>();
        let mut keys = vec![0.0; tokens.div_ceil(height) * head * height];
        let mut values = vec![0.0; head.div_ceil(height) * tokens * height];
        let mut turned = vec![0.0; height * head];
        let all = streams.iter().flat_map(|stream| (0..stream.count).map(move |n| (stream, n)));
        for (token, (stream, n)) in all.enumerate() {
            let (block, row) = (token / height, token % height);
            let key = &stream.keys.row(entry, n)[at * head..][..head];
            turn(key, stream.key_norm, tables, n, 1.0, &mut turned[row * head..][..head]);
            if row + 1 == height || token + 1 == tokens {
                tile::transpose(&turned, head, height, &mut keys[block * head * height..][..head * height]);
            }
            let value = &stream.values.row(entry, n)[at * head..][..head];
            for (block, group) in value.chunks(height).enumerate() {
                values[(block * tokens + token) * height..][..group.len()].copy_from_slice(group);
            }
        }
        Head { keys, values }
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

/// Where a task's queries are.
struct Asks<'a> {
    streams: &'a [(&'a Stream<'a>, Source<'a>)],
    tables: Tables<'a>,
    entry: usize,
    /// Of the queries of all streams.
    first: usize,
}

impl Asks<'_> {
    /// Head `at` of `count` queries from `from` on, scaled, normed and turned: `[head][PANEL]`.
    #[inline(always)]
    fn panel(&self, from: usize, count: usize, at: usize, head: usize, panel: &mut [f32]) {
        let mut turned = vec![0.0; PANEL * head];
        let scale = 1.0 / (head as f32).sqrt();
        let all = self
            .streams
            .iter()
            .flat_map(|(stream, queries)| (0..stream.count).map(move |n| (stream, queries, n)));
        let these = all.skip(self.first + from).take(count);
        for ((stream, queries, n), turned) in these.zip(turned.chunks_exact_mut(head)) {
            let query = &queries.row(self.entry, n)[at * head..][..head];
            turn(query, stream.query_norm, self.tables, n, scale, turned);
        }
        tile::transpose(&turned, head, PANEL, panel);
    }
}

/// One task: some queries, all heads.
struct Mix<'a> {
    asks: Asks<'a>,
    packed: &'a [Head],
    head: usize,
    tokens: usize,
    /// `[queries][heads * head]`.
    rows: &'a mut [f32],
}

/// What 48 queries of one head have gathered from the keys so far.
struct Gathered {
    /// `[head][PANEL]`.
    queries: Vec<f32>,
    /// `[head][PANEL]`, filled up to whole tiles.
    mixed: Vec<f32>,
    softmax: Softmax,
}

impl WithSimd for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { asks, packed, head, tokens, rows } = self;
        let (height, width) = (tile::rows::<S>(), packed.len() * head);
        let mut scores = vec![0.0; KEYS * PANEL];
        let mut panels: Vec<_> = rows
            .chunks(PANEL * width)
            .map(|_| Gathered {
                queries: vec![0.0; head * PANEL],
                mixed: vec![0.0; head.next_multiple_of(height) * PANEL],
                softmax: Softmax::START,
            })
            .collect();
        for (at, of) in packed.iter().enumerate() {
            for (n, panel) in panels.iter_mut().enumerate() {
                let count = PANEL.min(rows.len() / width - n * PANEL);
                asks.panel(n * PANEL, count, at, head, &mut panel.queries);
                panel.mixed.fill(0.0);
                panel.softmax = Softmax::START;
            }
            for first in (0..tokens).step_by(KEYS) {
                let count = KEYS.min(tokens - first);
                for panel in &mut panels {
                    panel.gather(simd, of, first, count, head, &mut scores);
                }
            }
            for (panel, rows) in panels.iter().zip(rows.chunks_mut(PANEL * width)) {
                let inverse = panel.softmax.sums.map(|sum| 1.0 / sum);
                for ((column, row), inverse) in rows.chunks_exact_mut(width).enumerate().zip(inverse) {
                    for (value, mixed) in
                        row[at * head..][..head].iter_mut().zip(panel.mixed.chunks_exact(PANEL))
                    {
                        *value = mixed[column] * inverse;
                    }
                }
            }
        }
    }
}

impl Gathered {
    /// Adds `count` keys from `first` on.
    #[inline(always)]
    fn gather<S: Simd>(
        &mut self,
        simd: S,
        of: &Head,
        first: usize,
        count: usize,
        head: usize,
        scores: &mut [f32],
    ) {
        let height = tile::rows::<S>();
        let scores = &mut scores[..count.next_multiple_of(height) * PANEL];
        scores.fill(0.0);
        let blocks = of.keys[first * head..].chunks_exact(head * height);
        for (keys, scores) in blocks.zip(scores.chunks_exact_mut(height * PANEL)) {
            tile::accumulate(simd, keys, &self.queries, scores);
        }
        let scores = &mut scores[..count * PANEL];
        let correction = self.softmax.add(scores);
        for row in self.mixed.as_chunks_mut::<PANEL>().0 {
            for (value, correction) in row.iter_mut().zip(&correction) {
                *value *= correction;
            }
        }
        let blocks = of.values.chunks_exact(of.values.len() / head.div_ceil(height));
        for (values, mixed) in blocks.zip(self.mixed.chunks_exact_mut(height * PANEL)) {
            tile::accumulate(simd, &values[first * height..][..count * height], scores, mixed);
        }
    }
}

/// Highest score and sum of exponentials of each column so far.
struct Softmax {
    highest: [f32; PANEL],
    sums: [f32; PANEL],
}

impl Softmax {
    /// Nothing seen yet. Finite, so that the first correction is no NaN.
    const START: Self = Self { highest: [f32::MIN; PANEL], sums: [0.0; PANEL] };

    /// Turns scores into exponentials less the highest score, down each column; what was gathered before is to be
    /// multiplied with what is returned.
    #[inline(always)]
    fn add(&mut self, scores: &mut [f32]) -> [f32; PANEL] {
        let (rows, _) = scores.as_chunks_mut::<PANEL>();
        let mut highest = self.highest;
        for row in rows.iter() {
            for (highest, score) in highest.iter_mut().zip(row) {
                *highest = if *score > *highest { *score } else { *highest };
            }
        }
        let mut correction = [0.0; PANEL];
        for ((correction, before), now) in correction.iter_mut().zip(&self.highest).zip(&highest) {
            *correction = math::exp(before - now);
        }
        let mut sums = [0.0; PANEL];
        for row in rows {
            for ((score, highest), sum) in row.iter_mut().zip(&highest).zip(&mut sums) {
                *score = math::exp(*score - highest);
                *sum += *score;
            }
        }
        for ((total, sum), correction) in self.sums.iter_mut().zip(&sums).zip(&correction) {
            *total = *total * correction + sum;
        }
        self.highest = highest;
        correction
    }
}
