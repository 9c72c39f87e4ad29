//! Messages to send about.

use kraftr_protocol::message::{Heartbeat, Job, Request};
use kraftr_protocol::{Class, Epoch, Event, EventBody, Lane, Progress, ProgressBody, RenderId, WorkerId};
use uuid::Uuid;

pub(crate) fn render(n: u128) -> RenderId {
    RenderId(Uuid::from_u128(n))
}

pub(crate) fn lane() -> Lane {
    Lane { pool: "cpu".to_owned(), release: "noop".to_owned(), class: Class::Interactive }
}

pub(crate) fn job(attempt: u32) -> Job {
    Job { render: render(1), attempt }
}

pub(crate) fn event(n: u128) -> Event {
    let worker = WorkerId(Uuid::from_u128(7));
    Event { render: render(n), attempt: 1, epoch: Epoch(1), worker, body: EventBody::HandedBack }
}

pub(crate) fn step(step: u32) -> Progress {
    Progress { render: render(1), epoch: Epoch(1), body: ProgressBody::Step { step, steps: 20 } }
}

pub(crate) fn heartbeat() -> Request {
    let worker = WorkerId(Uuid::from_u128(7));
    Request::Heartbeat(Heartbeat { worker, lanes: vec![lane()], slots: 1, held: Vec::new() })
}
