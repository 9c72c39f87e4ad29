//! What happens to a render after something went wrong with it.

use std::time::Duration;

use kraftr_protocol::{Failure, FailureClass, FailureCode, limits};

/// How often something went wrong with a render.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Blame {
    /// Failures that workers reported.
    pub failures: u32,
    /// Crashes of the engine with the render in it.
    pub crashes: u32,
    /// Leases that ran out.
    pub lost_leases: u32,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// A worker reported a failure.
    Failed(Failure),
    /// A supervisor reported a crash.
    Crashed,
    /// The lease ran out.
    LeaseLost,
    /// The worker gave it back; nobody is to blame.
    HandedBack,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Back to the queue, not before the delay has passed.
    Retry {
        /// How long it waits.
        delay: Duration,
    },
    /// It ends, and the credits are given back.
    End(Failure),
}

/// Decides from the blame so far, and says what the blame is then.
pub fn judge(blame: Blame, trouble: Trouble) -> (Blame, Verdict) {
    let mut blame = blame;
    let verdict = match trouble {
        Trouble::HandedBack => Verdict::Retry { delay: Duration::ZERO },
        Trouble::Failed(failure) => {
            blame.failures += 1;
            if failure.class == FailureClass::Retryable && blame.failures < limits::FAILURES_MAX {
                Verdict::Retry { delay: backoff(blame.failures) }
            } else {
                Verdict::End(failure)
            }
        }
        Trouble::Crashed => {
            blame.crashes += 1;
            if blame.crashes < limits::CRASHES_MAX {
                Verdict::Retry { delay: backoff(blame.crashes) }
            } else {
                Verdict::End(Failure::new(
                    FailureCode::EngineCrash,
                    format!("the engine crashed {} times while it ran this render", blame.crashes),
                ))
            }
        }
        Trouble::LeaseLost => {
            blame.lost_leases += 1;
            if blame.lost_leases < limits::LOST_LEASES_MAX {
                Verdict::Retry { delay: Duration::ZERO }
            } else {
                Verdict::End(Failure::new(
                    FailureCode::LeaseLost,
                    format!("{} workers stopped answering while they held this render", blame.lost_leases),
                ))
            }
        }
    };
    (blame, verdict)
}

/// One second, then four, then nine.
fn backoff(times: u32) -> Duration {
    Duration::from_secs(u64::from(times) * u64::from(times))
}

/// How long an outbox row waits after that many tries that failed.
pub fn outbox_delay(tries: i64) -> Duration {
    const DELAY_MAX: Duration = Duration::from_mins(1);
    Duration::from_millis(250u64 << tries.clamp(0, 10)).min(DELAY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(trouble: &Trouble, times: u32) -> (Blame, Verdict) {
        let mut last = (Blame::default(), Verdict::Retry { delay: Duration::ZERO });
        for _ in 0..times {
            last = judge(last.0, trouble.clone());
        }
        last
    }

    #[test]
    fn a_permanent_failure_ends_at_once() {
        let failure = Failure::new(FailureCode::InputInvalid, "not a picture");
        assert_eq!(verdicts(&Trouble::Failed(failure.clone()), 1).1, Verdict::End(failure));
    }

    #[test]
    fn a_retryable_failure_ends_at_the_third() {
        let failure = Failure::new(FailureCode::ModelError, "not a number");
        let trouble = Trouble::Failed(failure.clone());
        assert_eq!(verdicts(&trouble, 2).1, Verdict::Retry { delay: Duration::from_secs(4) });
        assert_eq!(verdicts(&trouble, 3).1, Verdict::End(failure));
    }

    #[test]
    fn lost_leases_and_crashes_become_poison_and_hand_backs_never_count() {
        let class = |verdict| match verdict {
            Verdict::End(failure) => Some(failure.class),
            Verdict::Retry { .. } => None,
        };
        assert_eq!(class(verdicts(&Trouble::LeaseLost, 19).1), None);
        assert_eq!(class(verdicts(&Trouble::LeaseLost, 20).1), Some(FailureClass::Poison));
        assert_eq!(class(verdicts(&Trouble::Crashed, 2).1), None);
        assert_eq!(class(verdicts(&Trouble::Crashed, 3).1), Some(FailureClass::Poison));
        assert_eq!(verdicts(&Trouble::HandedBack, 100).0, Blame::default());
    }
}
