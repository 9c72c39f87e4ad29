//! The way of an image from noise to picture: which rows go through the network, and what a step makes of them.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use kraftr_protocol::manifest::Method;

use super::mmdit::{Mmdit, Rows};
use super::pipeline::Conditions;
use crate::model::Evaluations;
use crate::sampler::cache::{self, Kept};
use crate::sampler::guidance::{self, Guidance};
use crate::sampler::solver;
use crate::trace::Trace;

/// One image on its way, in patches.
pub(crate) struct Path {
    /// Where it is, `[1, n, patch]`.
    pub(crate) x: Tensor,
    pub(super) times: Arc<[f32]>,
    pub(super) step: usize,
    pub(super) guidance: Guidance,
    pub(super) method: Method,
    /// Modulations of every step for the halves that it has, `[steps, columns]`: conditional, unconditional.
    pub(super) modulations: [Option<Arc<Tensor>>; 2],
    /// The velocity that was measured last.
    pub(super) velocity: Option<Tensor>,
    /// What the halves remember.
    pub(super) kept: [Option<Kept>; 2],
    pub(super) evaluations: Evaluations,
}

impl Path {
    fn steps(&self) -> usize {
        self.times.len() - 1
    }

    fn is_guided(&self, step: usize) -> bool {
        self.guidance.applies(self.times[step], step as u32, self.steps() as u32)
    }

    /// The picture that the last velocity leads to from here.
    pub(super) fn expected(&self) -> Result<Tensor> {
        Ok(match &self.velocity {
            Some(velocity) => (&self.x + (velocity * f64::from(1.0 - self.times[self.step]))?)?,
            None => self.x.clone(),
        })
    }

    /// Where a step with these velocities, now and before, leads.
    fn moved(&self, velocity: &Tensor) -> Result<Tensor> {
        let time = |step: usize| f64::from(self.times[step]);
        let before = self.velocity.as_ref().map(|_| time(self.step - 1));
        let [of_now, of_before] =
            solver::weights(self.method.solver, before, time(self.step), time(self.step + 1));
        let x = (&self.x + (velocity * of_now)?)?;
        match &self.velocity {
            Some(before) if of_before != 0.0 => x + (before * of_before)?,
            _ => Ok(x),
        }
    }
}

/// A row of a pass: one half of one image.
pub(super) struct Row<'a> {
    pub(super) x: &'a Tensor,
    pub(super) conditions: &'a Conditions,
    /// `[1, columns]`.
    pub(super) modulations: Tensor,
    pub(super) kept: Option<&'a Kept>,
    /// Change below which `kept` is used; 0 remembers nothing.
    pub(super) threshold: f64,
}

/// What a row became.
pub(super) struct Outcome {
    /// `[1, n, patch]`, a view.
    pub(super) velocity: Tensor,
    /// What to remember from now on, if the row went through all blocks and is to remember.
    kept: Option<Kept>,
    whole: bool,
}

/// Takes rows that share nothing but the pass through the network.
pub(super) fn pass(network: &Mmdit, rows: &[Row<'_>], trace: &mut Trace) -> Result<Vec<Outcome>> {
    let cat = |pick: &dyn Fn(&Row<'_>) -> Tensor| Tensor::cat(&rows.iter().map(pick).collect::<Vec<_>>(), 0);
    let noise = network.embed_noise(&cat(&|row| row.x.clone())?)?;
    let start = Rows {
        person: (noise + cat(&|row| row.conditions.person.clone())?)?,
        garment: cat(&|row| row.conditions.garment.clone())?,
        modulations: cat(&|row| row.modulations.clone())?,
    };
    let opened = network.open(&start, trace)?;
    let remembers = rows.iter().any(|row| row.threshold > 0.0);
    let added = if remembers { Some((&opened.person - &start.person)?) } else { None };
    let reused = added.as_ref().map_or_else(|| Ok(vec![false; rows.len()]), |added| reused(rows, added))?;
    let computed: Vec<usize> = (0..rows.len()).filter(|row| !reused[*row]).collect();
    let mut persons = Vec::with_capacity(rows.len());
    let deep =
        if computed.is_empty() { None } else { Some(network.deepen(&opened.select(&computed)?, trace)?) };
    for (n, row) in rows.iter().enumerate() {
        let after_first = opened.person.narrow(0, n, 1)?;
        persons.push(match (&deep, computed.binary_search(&n), row.kept) {
            (Some(deep), Ok(at), _) => deep.narrow(0, at, 1)?,
            (_, _, Some(kept)) => (after_first + &kept.rest)?,
            (_, _, None) => after_first,
        });
    }
    let velocities = network.close(&Tensor::cat(&persons, 0)?, &start.modulations, trace)?;
    let outcome = |(n, row): (usize, &Row<'_>)| {
        let whole = !reused[n];
        let kept = match &added {
            Some(added) if whole && row.threshold > 0.0 => {
                // In their own memory: views would hold the whole batch.
                let first = added.narrow(0, n, 1)?.copy()?;
                Some(Kept { first, rest: (&persons[n] - opened.person.narrow(0, n, 1)?)? })
            }
            _ => None,
        };
        Ok(Outcome { velocity: velocities.narrow(0, n, 1)?, kept, whole })
    };
    rows.iter().enumerate().map(outcome).collect()
}

/// Which rows may use what they kept; `added` is what the first block added to each.
fn reused(rows: &[Row<'_>], added: &Tensor) -> Result<Vec<bool>> {
    let remembering: Vec<_> =
        rows.iter().enumerate().filter_map(|(n, row)| Some((n, row.kept?, row.threshold))).collect();
    let mut reused = vec![false; rows.len()];
    if remembering.is_empty() {
        return Ok(reused);
    }
    let now: Vec<_> = remembering.iter().map(|(n, ..)| added.narrow(0, *n, 1)).collect::<Result<_>>()?;
    let before: Vec<_> = remembering.iter().map(|(_, kept, _)| &kept.first).collect();
    let changes = cache::change(&Tensor::cat(&now, 0)?, &Tensor::cat(&before, 0)?)?;
    for ((n, _, threshold), change) in remembering.into_iter().zip(changes) {
        reused[n] = cache::may_reuse(change, threshold);
    }
    Ok(reused)
}

/// Where an image's velocity is asked for.
struct Point<'a> {
    path: &'a Path,
    conditions: &'a Conditions,
    x: &'a Tensor,
    step: usize,
    kept: [Option<&'a Kept>; 2],
}

/// The velocity at a point, guidance applied.
struct Measured {
    velocity: Tensor,
    kept: [Option<Kept>; 2],
    evaluations: Evaluations,
}

/// The velocities at all points: all conditional halves, then the unconditional ones of those that are
/// guided, in one pass.
fn measure(network: &Mmdit, blank: &Conditions, points: &[Point<'_>]) -> Result<Vec<Measured>> {
    let guided: Vec<usize> =
        (0..points.len()).filter(|n| points[*n].path.is_guided(points[*n].step)).collect();
    let row = |point: &Point<'_>, half: usize| {
        let table = point.path.modulations[half].as_ref().expect("a guided path has both tables");
        table.narrow(0, point.step, 1)
    };
    let mut rows = Vec::with_capacity(points.len() + guided.len());
    for (n, half) in (0..points.len()).map(|n| (n, 0)).chain(guided.iter().map(|n| (*n, 1))) {
        let point = &points[n];
        rows.push(Row {
            x: point.x,
            conditions: [point.conditions, blank][half],
            modulations: row(point, half)?,
            kept: point.kept[half],
            threshold: point.path.method.cache,
        });
    }
    let mut outcomes = pass(network, &rows, &mut Trace::default())?;
    let mut unconditional = guided.into_iter().zip(outcomes.split_off(points.len())).peekable();
    let mut measured = Vec::with_capacity(points.len());
    for (n, outcome) in outcomes.into_iter().enumerate() {
        let mut evaluations = Evaluations::default();
        evaluations.count(outcome.whole);
        measured.push(match unconditional.next_if(|(guided, _)| *guided == n) {
            Some((_, other)) => {
                evaluations.count(other.whole);
                let scale = points[n].path.guidance.scale;
                let velocity = guidance::mix(&outcome.velocity, &other.velocity, scale)?;
                Measured { velocity, kept: [outcome.kept, other.kept], evaluations }
            }
            // In its own memory: a view would hold the whole batch's velocities.
            None => Measured { velocity: outcome.velocity.copy()?, kept: [outcome.kept, None], evaluations },
        });
    }
    Ok(measured)
}

/// One step of every walk; on an error none has moved.
pub(super) fn advance(
    network: &Mmdit,
    blank: &Conditions,
    walks: &mut [(&mut Path, &Conditions)],
) -> Result<()> {
    let points: Vec<_> = walks
        .iter()
        .map(|(path, conditions)| {
            let kept = path.kept.each_ref().map(Option::as_ref);
            Point { path, conditions, x: &path.x, step: path.step, kept }
        })
        .collect();
    let mut measured = measure(network, blank, &points)?;
    let moved = points.iter().zip(&measured).map(|(point, now)| point.path.moved(&now.velocity));
    let mut moved = moved.collect::<Result<Vec<_>>>()?;
    correct(network, blank, &points, &mut measured, &mut moved)?;
    for (((path, _), now), x) in walks.iter_mut().zip(measured).zip(moved) {
        for (kept, new) in path.kept.iter_mut().zip(now.kept) {
            *kept = new.or_else(|| kept.take());
        }
        path.evaluations += now.evaluations;
        path.velocity = Some(now.velocity);
        path.x = x;
        path.step += 1;
    }
    Ok(())
}

/// Measures again where the solvers of some paths ask for it, and mends their steps.
fn correct(
    network: &Mmdit,
    blank: &Conditions,
    points: &[Point<'_>],
    measured: &mut [Measured],
    moved: &mut [Tensor],
) -> Result<()> {
    let time = |point: &Point<'_>, step: usize| f64::from(point.path.times[step]);
    let mut which = Vec::new();
    for (n, point) in points.iter().enumerate() {
        let weights = solver::correction(
            point.path.method.solver,
            time(point, point.step),
            time(point, point.step + 1),
        );
        which.extend(weights.map(|weights| (n, weights)));
    }
    if which.is_empty() {
        return Ok(());
    }
    let ends = which.iter().map(|(n, _)| {
        let Point { path, conditions, step, kept, .. } = points[*n];
        let new = measured[*n].kept.each_ref().map(Option::as_ref);
        let kept = [new[0].or(kept[0]), new[1].or(kept[1])];
        Point { path, conditions, x: &moved[*n], step: step + 1, kept }
    });
    let then = measure(network, blank, &ends.collect::<Vec<_>>())?;
    for ((n, [of_now, of_then]), then) in which.into_iter().zip(then) {
        let now = &mut measured[n];
        moved[n] = ((points[n].x + (&now.velocity * of_now)?)? + (&then.velocity * of_then)?)?;
        now.velocity = then.velocity;
        now.evaluations += then.evaluations;
        for (kept, new) in now.kept.iter_mut().zip(then.kept) {
            *kept = new.or_else(|| kept.take());
        }
    }
    Ok(())
}
