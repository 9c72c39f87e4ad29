//! The engine's loop: commands, one forward pass, results; then again.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kraftr_models::{ModelError, Sample};
use kraftr_protocol::{Failure, FailureCode};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::EngineSettings;
use super::batch::{Candidate, pick};
use super::command::{Begin, Command, Outcome};
use super::residency::Residency;
use super::slot::{Models, Slot};

/// What can go wrong inside a model.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It said so.
    Failed(Failure),
    /// It panicked: what it was working on is undefined.
    Crashed,
}

impl From<ModelError> for Fault {
    fn from(error: ModelError) -> Self {
        tracing::warn!(%error, "the model failed");
        let code = error.failure_code();
        // Only what concerns the inputs is for their owner; the rest names files and devices.
        let message = match code {
            FailureCode::InputInvalid => error.to_string(),
            FailureCode::OutOfMemory => "the device ran out of memory".to_owned(),
            FailureCode::ReleaseUnavailable => "the release cannot be used on this worker".to_owned(),
            _ => "the model could not compute this render".to_owned(),
        };
        Self::Failed(Failure::new(code, message))
    }
}

impl Fault {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Failed(failure) => Outcome::Failed(failure.clone()),
            Self::Crashed => Outcome::Crashed,
        }
    }

    fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Failed(Failure { code: FailureCode::OutOfMemory, .. }))
    }
}

/// Runs model code, so that a panic in it is a fault and not the end of the thread.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, ModelError>) -> Result<T, Fault> {
    // Whatever the model was working on is dropped, so nobody sees it half changed.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => Ok(result?),
        Err(panic) => {
            tracing::error!(panic = message(&*panic), "the model crashed");
            Err(Fault::Crashed)
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// The state of the engine's thread.
pub(super) struct Engine {
    inbox: mpsc::Receiver<Command>,
    residency: Arc<Residency>,
    settings: EngineSettings,
    /// In the order of arrival.
    slots: Vec<Slot>,
    /// Releases that ran out of memory with more samples than this, while renders of theirs are here.
    room: BTreeMap<String, usize>,
    broken: bool,
}

impl Engine {
    pub(super) fn new(
        inbox: mpsc::Receiver<Command>,
        residency: Arc<Residency>,
        settings: EngineSettings,
    ) -> Self {
        Self { inbox, residency, settings, slots: Vec::new(), room: BTreeMap::new(), broken: false }
    }

    /// Until the handle is dropped, or until a release that crashed cannot be loaded again.
    pub(super) fn run(mut self) {
        while !self.broken && self.take_commands() {
            self.turn();
        }
        self.abandon();
    }

    /// One turn: at most one forward pass.
    fn turn(&mut self) {
        self.forget_unwanted();
        self.step();
        self.deliver_finished();
        self.room.retain(|release, _| self.slots.iter().any(|slot| slot.uses(release)));
    }

    /// Takes every command that has come, and waits for one while there is nothing to do. False once
    /// nobody can send any more.
    fn take_commands(&mut self) -> bool {
        if self.slots.is_empty() {
            match self.inbox.blocking_recv() {
                Some(command) => self.obey(command),
                None => return false,
            }
        }
        loop {
            match self.inbox.try_recv() {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Load(load) => {
                // A caller that has gone does not want to know.
                drop(load.done.send(self.residency.load(&load.release)));
            }
            Command::Begin(begin) => self.begin(*begin),
        }
    }

    fn begin(&mut self, begin: Begin) {
        let Begin { release, class, prepared, samplings, scene, line } = begin;
        if line.is_unwanted() {
            return line.end(Outcome::Stopped);
        }
        let painter_is_here = scene.as_ref().is_none_or(|scene| self.residency.get(&scene.release).is_some());
        let Some(model) = self.residency.get(&release).filter(|_| painter_is_here) else {
            let failure = Failure::new(FailureCode::ReleaseUnavailable, "the release is not on this worker");
            return line.end(Outcome::Failed(failure));
        };
        match Slot::new(&model, release.clone(), class, &prepared, &samplings, scene, line) {
            Ok(slot) => self.slots.push(slot),
            Err((line, fault)) => {
                self.recover(&release, &fault);
                line.end(fault.outcome());
            }
        }
    }

    fn forget_unwanted(&mut self) {
        for slot in self.slots.extract_if(.., |slot| slot.line.is_unwanted()) {
            slot.line.end(Outcome::Stopped);
        }
    }

    /// Steps the samples that [`pick`] chooses.
    fn step(&mut self) {
        let mut owners = Vec::new();
        let mut candidates = Vec::new();
        for (owner, slot) in self.slots.iter().enumerate() {
            candidates.extend(slot.undone().map(|release| Candidate { class: slot.class, release }));
            owners.resize(candidates.len(), owner);
        }
        let room = |release: &str| self.room.get(release).copied().unwrap_or(self.settings.max_batch);
        let picked = pick(&candidates, room);
        let Some(release) = picked.first().map(|&n| candidates[n].release.to_owned()) else {
            return;
        };
        let chosen: Vec<usize> = picked.iter().map(|&n| owners[n]).collect();
        let Some(model) = self.residency.get(&release) else {
            let gone =
                Failure::new(FailureCode::ReleaseUnavailable, "the release is not on this worker any more");
            return self.end(&chosen, &release, &Fault::Failed(gone));
        };
        let mut samples: Vec<&mut Sample> = self.slots.iter_mut().flat_map(Slot::samples).collect();
        let mut nth = 0;
        samples.retain(|_| {
            nth += 1;
            picked.binary_search(&(nth - 1)).is_ok()
        });
        let started = Instant::now();
        let result = guarded(|| model.step(&mut samples));
        self.account(&release, &chosen, started.elapsed(), result);
    }

    /// Draws the consequences of a pass in which `chosen` names the slot of each sample.
    fn account(&mut self, release: &str, chosen: &[usize], elapsed: Duration, result: Result<(), Fault>) {
        let share = elapsed / u32::try_from(chosen.len()).unwrap_or(u32::MAX).max(1);
        for &owner in chosen {
            self.slots[owner].device_time += share;
        }
        match result {
            Ok(()) => self.show(release, chosen),
            Err(fault) if fault.is_out_of_memory() && chosen.len() > 1 => {
                // Nothing has moved: the same samples go again, fewer at a time.
                tracing::warn!(release, samples = chosen.len(), "out of memory: smaller batches from now on");
                self.room.insert(release.to_owned(), chosen.len() / 2);
            }
            Err(fault) => self.end(chosen, release, &fault),
        }
    }

    fn show(&mut self, release: &str, chosen: &[usize]) {
        let (mut crashed, mut others) = (Vec::new(), BTreeSet::new());
        let Self { slots, residency, settings, .. } = self;
        for (owner, slot) in slots.iter_mut().enumerate().filter(|(owner, _)| chosen.contains(owner)) {
            let Some(models) = Models::of(slot, residency) else { continue };
            // A preview that fails is not shown; one that crashes may have changed the model.
            if let Err(Fault::Crashed) = slot.show(&models, settings.preview_every) {
                crashed.push(owner);
                others.extend(slot.releases());
            }
        }
        others.remove(release);
        for other in &others {
            self.recover(other, &Fault::Crashed);
        }
        self.end(&crashed, release, &Fault::Crashed);
    }

    fn deliver_finished(&mut self) {
        let mut faults = Vec::new();
        for (owner, slot) in self.slots.iter_mut().enumerate() {
            if slot.has_done_samples()
                && let Some(models) = Models::of(slot, &self.residency)
                && let Err(fault) = slot.finish(&models)
            {
                faults.push((owner, slot.releases(), fault));
            }
        }
        // From behind, so that the numbers before stay right.
        for (owner, releases, fault) in faults.into_iter().rev() {
            // Either of the two may have crashed: both are built anew.
            for release in &releases {
                self.recover(release, &fault);
            }
            self.slots.remove(owner).line.end(fault.outcome());
        }
        self.slots.extract_if(.., |slot| slot.is_finished()).for_each(Slot::deliver);
    }

    /// Ends the renders in those slots, which were in one pass of that release.
    fn end(&mut self, owners: &[usize], release: &str, fault: &Fault) {
        if owners.is_empty() {
            return;
        }
        self.recover(release, fault);
        let mut owner = 0;
        let ended: Vec<Slot> = self
            .slots
            .extract_if(.., |_| {
                owner += 1;
                owners.contains(&(owner - 1))
            })
            .collect();
        for slot in ended {
            slot.line.end(fault.outcome());
        }
    }

    /// After a crash the network may be half changed: its release is loaded anew, and where that
    /// fails the engine is of no use any more.
    fn recover(&mut self, release: &str, fault: &Fault) {
        if matches!(fault, Fault::Crashed)
            && let Err(error) = self.residency.load(release)
        {
            tracing::error!(%error, release, "the release cannot be loaded again");
            self.broken = true;
        }
    }

    /// Lets go of everything that is here or on its way, as nobody's fault.
    fn abandon(mut self) {
        self.slots.drain(..).for_each(|slot| slot.line.end(Outcome::Stopped));
        self.inbox.close();
        while let Ok(command) = self.inbox.try_recv() {
            if let Command::Begin(begin) = command {
                begin.line.end(Outcome::Stopped);
            }
        }
    }
}

#[cfg(test)]
mod scenes;

#[cfg(test)]
mod tests {
    use kraftr_models::{Device, Inputs, Registry, RgbImage, Sampling, TryOn};
    use kraftr_protocol::manifest::Method;
    use kraftr_protocol::{Category, Class, GarmentPhoto};

    use super::*;
    use crate::engine::command::{Heard, Report, Running};

    const NOOP: &str = "noop";

    fn engine(max_batch: usize, preview_every: u32) -> Engine {
        let residency = Residency::new(Arc::new(Registry::bundled()), Device::Cpu);
        residency.load(NOOP).unwrap();
        let settings = EngineSettings { max_batch, preview_every, commands: 1 };
        Engine::new(mpsc::channel(1).1, Arc::new(residency), settings)
    }

    /// Puts a render into the engine.
    fn put(engine: &mut Engine, class: Class, seeds: &[u64], steps: u32) -> Running {
        let picture = RgbImage::new(64, 64);
        let inputs = Inputs::TryOn(TryOn {
            person: picture.clone(),
            garment: picture,
            category: Category::Tops,
            garment_photo: GarmentPhoto::FlatLay,
        });
        let prepared = engine.residency.get(NOOP).unwrap().prepare(&inputs).unwrap();
        let samplings = seeds
            .iter()
            .map(|&seed| Sampling { steps, guidance: 1.0, seed, method: Method::default() })
            .collect();
        let (line, running) = Running::line();
        engine.begin(Begin { release: NOOP.to_owned(), class, prepared, samplings, scene: None, line });
        running
    }

    /// Everything a task has heard so far: steps as `s3`, previews as `p1@2`, and the outcome.
    pub(super) fn heard(running: &mut Running) -> (Vec<String>, Option<Outcome>) {
        use futures::FutureExt as _;
        let mut reports = Vec::new();
        loop {
            match running.next().now_or_never() {
                Some(Heard::Report(Report::Step(step))) => reports.push(format!("s{step}")),
                Some(Heard::Report(Report::Preview { sample, step, .. })) => {
                    reports.push(format!("p{sample}@{step}"));
                }
                Some(Heard::Outcome(outcome)) => return (reports, Some(outcome)),
                None => return (reports, None),
            }
        }
    }

    pub(super) fn outcome(running: &mut Running) -> Outcome {
        heard(running).1.expect("it has ended")
    }

    pub(super) fn run(engine: &mut Engine) {
        while !engine.slots.is_empty() {
            engine.turn();
        }
    }

    pub(super) fn out_of_memory() -> Fault {
        Fault::Failed(Failure::new(FailureCode::OutOfMemory, "no room"))
    }

    #[test]
    fn every_step_of_the_slowest_image_is_told_with_previews_in_between() {
        let mut engine = engine(1, 2);
        let mut running = put(&mut engine, Class::Batch, &[1, 2], 5);
        run(&mut engine);
        let (reports, outcome) = heard(&mut running);
        // One sample fits: the first image runs ahead, and the second decides what is told.
        assert_eq!(reports, ["s1", "s2", "p1@2", "s3", "s4", "p1@4", "s5"]);
        assert!(matches!(outcome, Some(Outcome::Done { pictures, .. }) if pictures.len() == 2));
    }

    #[test]
    fn images_come_out_in_the_order_of_their_seeds_alone_or_in_company() {
        let mut alone = engine(1, 0);
        let mut first = put(&mut alone, Class::Batch, &[5], 3);
        run(&mut alone);
        let Outcome::Done { pictures: expected, .. } = outcome(&mut first) else { panic!("not done") };

        let mut mixed = engine(4, 0);
        let mut other = put(&mut mixed, Class::Batch, &[1], 7);
        mixed.turn();
        let mut second = put(&mut mixed, Class::Batch, &[4, 5], 3);
        run(&mut mixed);
        let Outcome::Done { pictures, .. } = outcome(&mut second) else { panic!("not done") };
        assert_eq!(pictures[1], expected[0]);
        assert_ne!(pictures[0], expected[0]);
        assert!(matches!(outcome(&mut other), Outcome::Done { .. }));
    }

    #[test]
    fn an_urgent_render_overtakes_within_a_step() {
        let mut engine = engine(1, 0);
        let mut slow = put(&mut engine, Class::Batch, &[1], 9);
        engine.turn();
        let mut urgent = put(&mut engine, Class::Interactive, &[2], 2);
        engine.turn();
        engine.turn();
        assert!(matches!(outcome(&mut urgent), Outcome::Done { .. }));
        assert_eq!(heard(&mut slow).0, ["s1"]);
    }

    #[test]
    fn a_render_that_nobody_waits_for_leaves_before_the_next_step() {
        let mut engine = engine(4, 0);
        let gone = put(&mut engine, Class::Batch, &[1], 9);
        let mut stays = put(&mut engine, Class::Batch, &[2], 9);
        engine.turn();
        drop(gone);
        engine.turn();
        assert_eq!(engine.slots.len(), 1);
        assert_eq!(heard(&mut stays).0, ["s1", "s2"]);
        drop(stays);
        let never_begun = put(&mut engine, Class::Batch, &[3], 9);
        drop(never_begun);
        engine.turn();
        assert!(engine.slots.is_empty());
    }

    #[test]
    fn a_pass_is_shared_by_those_who_were_in_it() {
        let mut engine = engine(4, 0);
        let _one = put(&mut engine, Class::Batch, &[1], 9);
        let _two = put(&mut engine, Class::Batch, &[2, 3], 9);
        engine.account(NOOP, &[0, 1, 1], Duration::from_millis(30), Ok(()));
        let times: Vec<u128> = engine.slots.iter().map(|slot| slot.device_time.as_millis()).collect();
        assert_eq!(times, [10, 20]);
    }

    #[test]
    fn a_crash_ends_who_was_in_the_pass_and_the_others_go_on_with_a_new_model() {
        let mut engine = engine(1, 0);
        let mut hit = put(&mut engine, Class::Batch, &[1], 3);
        let mut spared = put(&mut engine, Class::Batch, &[2], 3);
        let model = engine.residency.get(NOOP).unwrap();
        let crash = guarded::<()>(|| panic!("as a kernel does"));
        assert!(matches!(crash, Err(Fault::Crashed)));
        engine.account(NOOP, &[0], Duration::ZERO, crash);
        assert!(matches!(outcome(&mut hit), Outcome::Crashed));
        assert!(!Arc::ptr_eq(&model, &engine.residency.get(NOOP).unwrap()), "the model is built anew");
        run(&mut engine);
        assert!(matches!(outcome(&mut spared), Outcome::Done { .. }));
        assert!(!engine.broken);
    }

    #[test]
    fn a_model_that_cannot_be_built_again_ends_the_engine_and_blames_nobody() {
        let (sender, inbox) = mpsc::channel(4);
        let mut engine = Engine { inbox, ..engine(1, 0) };
        let mut here = put(&mut engine, Class::Batch, &[1], 3);
        let (line, mut on_its_way) = Running::line();
        let prepared = {
            let model = engine.residency.get(NOOP).unwrap();
            let picture = RgbImage::new(64, 64);
            let (category, garment_photo) = (Category::Tops, GarmentPhoto::Model);
            let inputs = TryOn { person: picture.clone(), garment: picture, category, garment_photo };
            model.prepare(&Inputs::TryOn(inputs)).unwrap()
        };
        let samplings = vec![Sampling { steps: 1, guidance: 1.0, seed: 1, method: Method::default() }];
        let (release, class) = (NOOP.to_owned(), Class::Batch);
        let begin = Begin { release, class, prepared, samplings, scene: None, line };
        assert!(sender.try_send(Command::Begin(Box::new(begin))).is_ok());
        engine.recover("no such release", &Fault::Crashed);
        engine.run();
        assert!(matches!(outcome(&mut here), Outcome::Stopped));
        assert!(matches!(outcome(&mut on_its_way), Outcome::Stopped));
        assert!(sender.is_closed());
    }

    #[test]
    fn out_of_memory_makes_batches_smaller_while_that_helps() {
        let mut engine = engine(4, 0);
        let mut first = put(&mut engine, Class::Batch, &[1], 2);
        let mut second = put(&mut engine, Class::Batch, &[2], 1);
        engine.account(NOOP, &[0, 1], Duration::ZERO, Err(out_of_memory()));
        engine.turn();
        assert_eq!(heard(&mut first).0, ["s1"]);
        assert!(heard(&mut second).0.is_empty(), "one at a time");
        run(&mut engine);
        assert!(matches!(outcome(&mut first), Outcome::Done { .. }));
        assert!(matches!(outcome(&mut second), Outcome::Done { .. }));
        assert!(engine.room.is_empty(), "the next render may try a full batch again");

        let mut alone = put(&mut engine, Class::Batch, &[3], 2);
        engine.account(NOOP, &[0], Duration::ZERO, Err(out_of_memory()));
        let Outcome::Failed(failure) = outcome(&mut alone) else { panic!("not failed") };
        assert_eq!(failure.code, FailureCode::OutOfMemory);
    }

    #[test]
    fn a_render_that_the_model_refuses_fails_alone() {
        let mut engine = engine(4, 0);
        let mut good = put(&mut engine, Class::Batch, &[1], 2);
        let mut bad = put(&mut engine, Class::Batch, &[2], 0);
        assert!(matches!(outcome(&mut bad), Outcome::Failed(_)), "no steps at all");
        run(&mut engine);
        assert!(matches!(outcome(&mut good), Outcome::Done { .. }));
    }
}
