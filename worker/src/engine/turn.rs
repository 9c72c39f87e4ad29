//! The engine's loop: commands, one forward pass, results; then again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kraftr_models::Sample;
use kraftr_protocol::{Failure, FailureCode};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::EngineSettings;
use super::batch::{Candidate, pick};
use super::command::{Begin, Command, Outcome};
use super::fault::{Fault, guarded};
use super::residency::Residency;
use super::slot::{Models, Slot};

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
mod tests;
