//! Any transport, made unreliable on purpose: seeded loss, duplication, reordering and delay.
//!
//! The same seed and the same sequence of calls give the same faults. There are no timers: a delayed
//! message stays here until [`Faulty::release_some`] or [`Faulty::release_all`] lets it go, and a
//! reordered one until the next message of its kind has gone past it (or it is released).

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use kraftr_protocol::message::{Control, Job, Reply, Request};
use kraftr_protocol::{Event, Lane, Progress};
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::{BoxSource, Call, Delivery, Transport, TransportError};

/// How likely each fault is for one kind of message, from 0 (never) to 1 (always).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// It was accepted and is gone. For jobs and events this is a broker that loses its storage.
    pub loss: f64,
    /// It arrives twice.
    pub duplication: f64,
    /// It stays behind until it is released.
    pub delay: f64,
    /// The next message of its kind overtakes it.
    pub reordering: f64,
}

/// How likely each fault of a call is, from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CallRates {
    /// The scheduler never hears the request; the caller times out.
    pub request_loss: f64,
    /// The scheduler hears the request twice; the caller gets the second answer.
    pub duplication: f64,
    /// The scheduler has answered; the caller times out.
    pub reply_loss: f64,
}

/// Everything that can go wrong. The default is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Faults {
    /// Job messages.
    pub jobs: Rates,
    /// Events. Without loss, an event that was accepted arrives at the latest when it is released.
    pub events: Rates,
    /// Progress.
    pub progress: Rates,
    /// Control.
    pub control: Rates,
    /// Calls.
    pub calls: CallRates,
    /// A job or event was accepted, but its publisher is told [`TransportError::Timeout`].
    pub unconfirmed: f64,
}

#[derive(Debug, Clone)]
enum Message {
    Job(Lane, Job),
    Event(Event),
    Progress(Progress),
    Control(Control),
}

impl Message {
    fn rates(&self, faults: &Faults) -> Rates {
        match self {
            Self::Job(..) => faults.jobs,
            Self::Event(_) => faults.events,
            Self::Progress(_) => faults.progress,
            Self::Control(_) => faults.control,
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// A message that was accepted and has not been handed over.
struct Held {
    message: Message,
    /// Goes as soon as another of its kind has gone.
    overtakable: bool,
}

struct Dice {
    rng: ChaCha8Rng,
    faults: Faults,
    held: Vec<Held>,
}

impl Dice {
    /// Draws even when the outcome is certain, so that a change of one rate moves no other fault.
    fn roll(&mut self, rate: f64) -> bool {
        self.rng.random::<f64>() < rate
    }
}

/// What to hand over when a message is published.
struct Route {
    own: Vec<Message>,
    overtaken: Vec<Message>,
    unconfirmed: bool,
}

/// A transport that misbehaves as its [`Faults`] say.
pub struct Faulty<T> {
    inner: T,
    dice: Mutex<Dice>,
}

impl<T: Transport> Faulty<T> {
    /// Wraps `inner`; `seed` decides which message meets which fault.
    pub fn new(inner: T, seed: u64, faults: Faults) -> Self {
        let dice = Dice { rng: ChaCha8Rng::seed_from_u64(seed), faults, held: Vec::new() };
        Self { inner, dice: Mutex::new(dice) }
    }

    /// The transport inside, which has no faults.
    pub const fn inner(&self) -> &T {
        &self.inner
    }

    /// From now on these faults; [`Faults::default`] heals. What is held stays held.
    pub fn set_faults(&self, faults: Faults) {
        self.dice().faults = faults;
    }

    /// Messages that are held back.
    pub fn held(&self) -> usize {
        self.dice().held.len()
    }

    /// Forgets what is held back, as a broker does that loses its storage.
    pub fn lose_held(&self) {
        self.dice().held.clear();
    }

    /// Lets each held message go with probability one half, in random order, and says how many went.
    /// What the transport refuses stays held, unless it is closed.
    pub async fn release_some(&self) -> usize {
        let released = {
            let mut dice = self.dice();
            let held = std::mem::take(&mut dice.held);
            let (mut released, kept): (Vec<Held>, Vec<Held>) = held.into_iter().partition(|_| dice.roll(0.5));
            dice.held = kept;
            released.shuffle(&mut dice.rng);
            released
        };
        self.release(released).await
    }

    /// Lets everything go in the order in which it was held back, and says how many went. What the
    /// transport refuses stays held, unless it is closed.
    pub async fn release_all(&self) -> usize {
        let released = std::mem::take(&mut self.dice().held);
        self.release(released).await
    }

    async fn release(&self, released: Vec<Held>) -> usize {
        let mut gone = 0;
        for Held { message, .. } in released {
            gone += usize::from(self.hand_over_held(message).await);
        }
        gone
    }

    /// Its publisher was told that it is safe, so it goes back among the held when it is refused.
    async fn hand_over_held(&self, message: Message) -> bool {
        match self.hand_over(message.clone()).await {
            Ok(()) => true,
            Err(refusal) => {
                if !refusal.is_permanent() {
                    self.dice().held.push(Held { message, overtakable: false });
                }
                false
            }
        }
    }

    async fn hand_over(&self, message: Message) -> Result<(), TransportError> {
        match message {
            Message::Job(lane, job) => self.inner.publish_job(&lane, job).await,
            Message::Event(event) => self.inner.publish_event(event).await,
            broadcast => {
                self.show(broadcast);
                Ok(())
            }
        }
    }

    /// Hands over what needs no confirmation.
    fn show(&self, message: Message) {
        match message {
            Message::Progress(progress) => self.inner.publish_progress(progress),
            Message::Control(control) => self.inner.publish_control(control),
            Message::Job(..) | Message::Event(_) => unreachable!("jobs and events are confirmed"),
        }
    }

    /// Decides the fate of `message` and of those that it overtakes.
    fn route(&self, message: &Message) -> Route {
        let mut dice = self.dice();
        let rates = message.rates(&dice.faults);
        let unconfirmed_rate = dice.faults.unconfirmed;
        let (lost, doubled) = (dice.roll(rates.loss), dice.roll(rates.duplication));
        let unconfirmed = dice.roll(unconfirmed_rate);
        let copies = if lost { 0 } else { 1 + usize::from(doubled) };
        let mut own = Vec::with_capacity(copies);
        let mut held = Vec::new();
        for _ in 0..copies {
            let (delayed, overtakable) = (dice.roll(rates.delay), dice.roll(rates.reordering));
            if delayed || overtakable {
                held.push(Held { message: message.clone(), overtakable: !delayed });
            } else {
                own.push(message.clone());
            }
        }
        let mut overtaken = Vec::new();
        if !own.is_empty() {
            let passes = |held: &mut Held| held.overtakable && held.message.is_like(message);
            overtaken.extend(dice.held.extract_if(.., passes).map(|held| held.message));
        }
        dice.held.extend(held);
        Route { own, overtaken, unconfirmed }
    }

    async fn publish(&self, message: &Message) -> Result<(), TransportError> {
        let route = self.route(message);
        for message in route.own {
            self.hand_over(message).await?;
        }
        for message in route.overtaken {
            self.hand_over_held(message).await;
        }
        if route.unconfirmed { Err(TransportError::Timeout { millis: 0 }) } else { Ok(()) }
    }

    fn broadcast(&self, message: &Message) {
        let route = self.route(message);
        for message in route.own.into_iter().chain(route.overtaken) {
            self.show(message);
        }
    }

    fn dice(&self) -> MutexGuard<'_, Dice> {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl<T: Transport> Transport for Faulty<T> {
    async fn publish_job(&self, lane: &Lane, job: Job) -> Result<(), TransportError> {
        self.publish(&Message::Job(lane.clone(), job)).await
    }

    async fn consume_jobs(
        &self,
        lanes: &[Lane],
        prefetch: usize,
    ) -> Result<BoxSource<Delivery<Job>>, TransportError> {
        self.inner.consume_jobs(lanes, prefetch).await
    }

    async fn consume_given_up(&self) -> Result<BoxSource<Delivery<Job>>, TransportError> {
        self.inner.consume_given_up().await
    }

    async fn publish_event(&self, event: Event) -> Result<(), TransportError> {
        self.publish(&Message::Event(event)).await
    }

    async fn consume_events(&self, prefetch: usize) -> Result<BoxSource<Delivery<Event>>, TransportError> {
        self.inner.consume_events(prefetch).await
    }

    fn publish_progress(&self, progress: Progress) {
        self.broadcast(&Message::Progress(progress));
    }

    async fn consume_progress(&self) -> Result<BoxSource<Progress>, TransportError> {
        self.inner.consume_progress().await
    }

    async fn call(&self, request: Request) -> Result<Reply, TransportError> {
        let (request_lost, doubled, reply_lost) = {
            let mut dice = self.dice();
            let rates = dice.faults.calls;
            (dice.roll(rates.request_loss), dice.roll(rates.duplication), dice.roll(rates.reply_loss))
        };
        if request_lost {
            return Err(TransportError::Timeout { millis: 0 });
        }
        if doubled {
            self.inner.call(request.clone()).await?;
        }
        let reply = self.inner.call(request).await?;
        if reply_lost { Err(TransportError::Timeout { millis: 0 }) } else { Ok(reply) }
    }

    async fn serve_calls(&self) -> Result<BoxSource<Call>, TransportError> {
        self.inner.serve_calls().await
    }

    fn publish_control(&self, control: Control) {
        self.broadcast(&Message::Control(control));
    }

    async fn consume_control(&self) -> Result<BoxSource<Control>, TransportError> {
        self.inner.consume_control().await
    }
}
