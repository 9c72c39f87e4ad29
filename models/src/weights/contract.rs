//! Which tensors a file must hold, and every way in which it does not.

use std::collections::BTreeMap;
use std::fmt;

use safetensors::Dtype;
use serde::Serialize;

/// Names listed of each kind of difference before the rest is only counted.
const LISTED: usize = 8;

/// One tensor that a configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// Its name in the file.
    pub name: String,
    /// What older files call it: it counts where a file does not hold the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older: Option<String>,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Whether the network does anything with it: what is unused may be left out.
    pub used: bool,
}

/// A tensor with another shape than expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Misshaped {
    /// Its name.
    pub name: String,
    /// The shape that the configuration asks for.
    pub expected: Vec<usize>,
    /// The shape in the file.
    pub found: Vec<usize>,
}

/// Every difference between a file and a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// Asked for, not in the file.
    pub missing: Vec<String>,
    /// In the file, not asked for.
    pub surplus: Vec<String>,
    /// In both, with different shapes.
    pub misshaped: Vec<Misshaped>,
    /// In both, and the file's numbers are neither f32, f16 nor bf16.
    pub mistyped: Vec<String>,
}

impl Mismatch {
    /// Compares names, shapes and types.
    pub fn between<'a>(
        expected: &[Expected],
        found: impl Iterator<Item = (&'a str, (&'a [usize], Dtype))>,
    ) -> Self {
        let mut found: BTreeMap<_, _> = found.collect();
        let mut mismatch = Self::default();
        for Expected { name, older, shape, used } in expected {
            let held = found.remove(name.as_str());
            match held.or_else(|| found.remove(older.as_deref()?)) {
                Some((actual, Dtype::F32 | Dtype::F16 | Dtype::BF16)) if actual == shape => {}
                // A counter of the training, for one, which is whole numbers.
                Some((actual, _)) if actual == shape && !used => {}
                Some((actual, dtype)) if actual == shape => {
                    mismatch.mistyped.push(format!("{name} ({dtype})"));
                }
                Some((actual, _)) => mismatch.misshaped.push(Misshaped {
                    name: name.clone(),
                    expected: shape.clone(),
                    found: actual.to_vec(),
                }),
                None if *used => mismatch.missing.push(name.clone()),
                None => {}
            }
        }
        mismatch.surplus = found.into_keys().map(str::to_owned).collect();
        mismatch
    }

    /// Whether file and configuration agree.
    pub fn is_empty(&self) -> bool {
        let Self { missing, surplus, misshaped, mistyped } = self;
        missing.is_empty() && surplus.is_empty() && misshaped.is_empty() && mistyped.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let misshaped: Vec<_> = self
            .misshaped
            .iter()
            .map(|Misshaped { name, expected, found }| format!("{name} ({found:?} instead of {expected:?})"))
            .collect();
        let kinds = [
            ("missing", &self.missing),
            ("surplus", &self.surplus),
            ("misshaped", &misshaped),
            ("of a type that is not f32, f16 or bf16", &self.mistyped),
        ];
        let mut between = "";
        for (kind, names) in kinds.into_iter().filter(|(_, names)| !names.is_empty()) {
            write!(f, "{between}{} {kind}: {}", names.len(), names[..names.len().min(LISTED)].join(", "))?;
            if names.len() > LISTED {
                f.write_str(", ...")?;
            }
            between = "; ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(name: &str, shape: &[usize], used: bool) -> Expected {
        Expected { name: name.to_owned(), older: None, shape: shape.to_vec(), used }
    }

    fn mismatch(wanted: &[Expected], file: &[(&str, &[usize], Dtype)]) -> Mismatch {
        Mismatch::between(wanted, file.iter().map(|(name, shape, dtype)| (*name, (*shape, *dtype))))
    }

    #[test]
    fn every_difference_is_reported() {
        let wanted = ["a", "b", "c", "e"].map(|name| expected(name, &[2, 3], true));
        let file: [(&str, &[usize], Dtype); 4] = [
            ("a", &[2, 3], Dtype::BF16),
            ("b", &[5], Dtype::F32),
            ("d", &[1], Dtype::F32),
            ("e", &[2, 3], Dtype::I64),
        ];
        assert_eq!(
            mismatch(&wanted, &file).to_string(),
            "1 missing: c; 1 surplus: d; 1 misshaped: b ([5] instead of [2, 3]); \
             1 of a type that is not f32, f16 or bf16: e (I64)"
        );
    }

    #[test]
    fn what_is_unused_may_be_missing_but_not_misshaped() {
        let wanted = [expected("token", &[7], false)];
        assert!(mismatch(&wanted, &[]).is_empty());
        assert!(!mismatch(&wanted, &[("token", &[8], Dtype::F32)]).is_empty());
    }

    #[test]
    fn an_older_name_counts_and_both_are_one_too_many() {
        let wanted = [Expected { older: Some("query".to_owned()), ..expected("to_q", &[7], true) }];
        assert!(mismatch(&wanted, &[("query", &[7], Dtype::F32)]).is_empty());
        assert_eq!(mismatch(&wanted, &[]).missing, ["to_q"]);
        let both: [(&str, &[usize], Dtype); 2] = [("to_q", &[7], Dtype::F32), ("query", &[7], Dtype::F32)];
        assert_eq!(mismatch(&wanted, &both).surplus, ["query"]);
    }

    #[test]
    fn long_lists_are_cut() {
        let wanted: Vec<_> = (0..20).map(|n| expected(&format!("t{n}"), &[1], true)).collect();
        let text = mismatch(&wanted, &[]).to_string();
        assert!(text.starts_with("20 missing: t0, t1") && text.ends_with("t7, ..."), "{text}");
    }
}
