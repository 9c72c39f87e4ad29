//! Marks come back from what they were put into, and are found nowhere else.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod c2patool;
mod credentials;
mod pictures;
mod reading;
mod sealing;
