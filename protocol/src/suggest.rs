//! What somebody who misspelled a name most likely meant.

/// The name among `known` that is nearest to `given`, if it is near enough to be meant.
pub fn did_you_mean(given: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    let given_last = last_part(given);
    let distance = |name: &String| {
        let whole = strsim::damerau_levenshtein(given, name);
        // The right name in the wrong table is one slip, however long the names of the tables are.
        let moved = if given_last == last_part(name) { 1 } else { usize::MAX };
        whole.min(moved)
    };
    let nearest = known.into_iter().min_by_key(|name| (distance(name), name.clone()))?;
    (distance(&nearest) <= (given.len() / 4).clamp(1, 3)).then_some(nearest)
}

/// The part after the last dot.
fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_pen_are_understood() {
        let known = ["http.listen", "database.url", "worker.slots", "worker.pool", "s3.bucket", "log"];
        for (given, meant) in [
            ("http.listne", Some("http.listen")),
            ("databse.url", Some("database.url")),
            ("http.slots", Some("worker.slots")),
            ("slots", Some("worker.slots")),
            ("s3.buckets", Some("s3.bucket")),
            ("lgo", Some("log")),
            ("colour", None),
            ("worker.temperature", None),
        ] {
            let found = did_you_mean(given, known.map(str::to_owned));
            assert_eq!(found.as_deref(), meant, "{given}");
        }
    }
}
