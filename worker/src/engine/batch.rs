//! Which samples go through the network together.

use kraftr_protocol::Class;

/// A sample that has steps to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate<'a> {
    /// How urgent its render is.
    pub(crate) class: Class,
    /// Only samples of one release fit into one pass: they have one network and one shape.
    pub(crate) release: &'a str,
}

/// Indices of the samples to step next, in the order of `candidates`, at most `room(release)` of
/// them, all of one release. `candidates` come in the order in which their renders arrived.
///
/// The most urgent sample that came first decides the release; then come urgent ones of that
/// release, then others. First come, first served within a class: for a given amount of work that
/// has the shortest mean waiting time among renders of one size.
pub(crate) fn pick(candidates: &[Candidate<'_>], room: impl Fn(&str) -> usize) -> Vec<usize> {
    let Some(first) = candidates.iter().min_by_key(|candidate| candidate.class) else {
        return Vec::new();
    };
    let mut fitting: Vec<usize> =
        (0..candidates.len()).filter(|&n| candidates[n].release == first.release).collect();
    fitting.sort_by_key(|&n| candidates[n].class);
    fitting.truncate(room(first.release).max(1));
    fitting.sort_unstable();
    fitting
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ia` is an interactive sample of release `a`, `bb` a batch sample of release `b`.
    fn check(samples: &str, room: usize, expect: &[usize]) {
        let candidates: Vec<Candidate<'_>> = samples
            .split_whitespace()
            .map(|word| Candidate {
                class: if word.starts_with('i') { Class::Interactive } else { Class::Batch },
                release: &word[1..],
            })
            .collect();
        assert_eq!(pick(&candidates, |_| room), expect, "{samples} in {room}");
    }

    #[test]
    fn picks() {
        check("", 4, &[]);
        check("ba", 4, &[0]);
        check("ba ba ba", 2, &[0, 1]);
        check("ba ia", 1, &[1]);
        check("ba ia", 2, &[0, 1]);
        check("ba ba ia ba", 2, &[0, 2]);
        check("ba bb ba", 4, &[0, 2]);
        check("ba ib ba bb", 4, &[1, 3]);
        check("ba ib ia", 4, &[1]);
        check("ia ib ia", 4, &[0, 2]);
        check("ia ia", 0, &[0]);
    }
}
