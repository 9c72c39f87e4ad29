//! The `config` table of a manifest, read into the structs of an architecture with every mistake.

use kraftr_protocol::suggest::did_you_mean;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The keys of a table that nobody has taken yet, and what is wrong with those that somebody did.
pub(crate) struct Keys {
    path: String,
    left: toml::Table,
    known: Vec<String>,
    mistakes: Vec<String>,
}

impl Keys {
    pub(crate) fn of(config: &toml::Table) -> Self {
        Self::at("config".to_owned(), config.clone())
    }

    fn at(path: String, left: toml::Table) -> Self {
        Self { path, left, known: Vec::new(), mistakes: Vec::new() }
    }

    /// Takes a table below, all of whose keys are those of one struct.
    pub(crate) fn section<T: Default + Serialize + DeserializeOwned>(&mut self, name: &str) -> T {
        self.known.push(name.to_owned());
        let path = format!("{}.{name}", self.path);
        let table = match self.left.remove(name) {
            Some(toml::Value::Table(table)) => table,
            Some(_) => {
                self.mistakes.push(format!("{path}: must be a table"));
                toml::Table::new()
            }
            None => toml::Table::new(),
        };
        let mut keys = Self::at(path, table);
        let section = keys.take();
        self.mistakes.extend(keys.finish());
        section
    }

    /// Takes the keys of a struct whose every field has a default; a wrong value is noted and counts as left out.
    pub(crate) fn take<T: Default + Serialize + DeserializeOwned>(&mut self) -> T {
        let defaults = toml::Table::try_from(T::default()).expect("a configuration is a table");
        let mut given = toml::Table::new();
        for key in defaults.keys() {
            let Some(value) = self.left.remove(key) else { continue };
            let alone = toml::Table::from_iter([(key.clone(), value.clone())]);
            match alone.try_into::<T>() {
                Ok(_) => drop(given.insert(key.clone(), value)),
                Err(error) => self.mistakes.push(format!("{}.{key}: {}", self.path, error.message())),
            }
        }
        self.known.extend(defaults.keys().cloned());
        given.try_into().expect("each of its keys was read alone")
    }

    /// Everything that is wrong, also the keys that nobody took.
    pub(crate) fn finish(mut self) -> Vec<String> {
        for key in self.left.keys() {
            let advice = match did_you_mean(key, self.known.iter().cloned()) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("there are {}", self.known.join(", ")),
            };
            self.mistakes.push(format!("{}.{key}: there is no such key; {advice}", self.path));
        }
        self.mistakes
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Sizes {
        width: u32,
        depth: u32,
    }

    #[test]
    fn every_mistake_is_noted_and_the_rest_is_read() {
        let mut keys = Keys::of(&"width = 'wide'\ndepth = 3\ndept = 4\ncolour = 5".parse().unwrap());
        assert_eq!(keys.take::<Sizes>(), Sizes { width: 0, depth: 3 });
        let mistakes = keys.finish();
        assert_eq!(mistakes.len(), 3, "{mistakes:?}");
        assert!(mistakes[0].starts_with("config.width: invalid type"), "{mistakes:?}");
        assert!(mistakes.iter().any(|mistake| mistake.ends_with("did you mean depth?")), "{mistakes:?}");
        assert!(mistakes.iter().any(|mistake| mistake.ends_with("there are depth, width")), "{mistakes:?}");
    }

    #[test]
    fn sections_say_where_their_mistakes_are() {
        let mut keys = Keys::of(&"outer = 3\ninner = { depth = 3, widht = 1 }".parse().unwrap());
        assert_eq!(keys.section::<Sizes>("inner"), Sizes { width: 0, depth: 3 });
        assert_eq!(keys.section::<Sizes>("outer"), Sizes::default());
        let mistakes = keys.finish();
        let expected = [
            "config.inner.widht: there is no such key; did you mean width?",
            "config.outer: must be a table",
        ];
        assert_eq!(mistakes, expected);
    }
}
