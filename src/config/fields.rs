//! Reading one object of the configuration, so that everything that is wrong in it can be named.

use serde_json::{Map, Value};

use super::ConfigError;

/// The fields of one object: what was read, so that what is left over can be named.
pub(super) struct Fields<'a, 'e> {
    map: &'a Map<String, Value>,
    path: String,
    known: Vec<&'static str>,
    errors: &'e mut Vec<ConfigError>,
}

impl<'a, 'e> Fields<'a, 'e> {
    pub(super) fn new(map: &'a Map<String, Value>, path: &str, errors: &'e mut Vec<ConfigError>) -> Self {
        Self { map, path: path.into(), known: Vec::new(), errors }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.into() } else { format!("{}.{name}", self.path) }
    }

    /// Looks a field up and remembers that it is known. `null` counts as absent.
    pub(super) fn get(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Adds an error at a path, where `problem` is what must be different there.
    pub(super) fn refuse(&mut self, path: String, problem: impl Into<String>) {
        self.errors.push(ConfigError { path, problem: problem.into() });
    }

    fn wrong(&mut self, path: String, allowed: &str) {
        self.refuse(path, format!("must be {allowed}"));
    }

    /// Names the field where it is absent.
    pub(super) fn require(&mut self, name: &'static str, allowed: &str) {
        if !self.has(name) {
            self.refuse(self.path_of(name), format!("is required: {allowed}"));
        }
    }

    /// Reads a field with `read`, and says what is allowed where that gives nothing.
    pub(super) fn value<T>(
        &mut self,
        name: &'static str,
        allowed: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let path = self.path_of(name);
        let read = read(self.get(name)?);
        if read.is_none() {
            self.wrong(path, allowed);
        }
        read
    }

    pub(super) fn text(
        &mut self,
        name: &'static str,
        allowed: &str,
        fits: fn(&str) -> bool,
    ) -> Option<String> {
        self.value(name, allowed, |value| value.as_str().filter(|text| fits(text)).map(str::to_owned))
    }

    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> Option<bool> {
        if !self.has(name) {
            self.known.push(name);
            return Some(default);
        }
        self.value(name, "true or false", Value::as_bool)
    }

    /// One of several words; the first is the default.
    pub(super) fn word<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> Option<T> {
        if !self.has(name) {
            self.known.push(name);
            return words.first().map(|(_, meaning)| *meaning);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.value(name, &one_of(&names), |value| {
            let text = value.as_str()?;
            words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning)
        })
    }

    pub(super) fn number(
        &mut self,
        name: &'static str,
        default: usize,
        min: usize,
        max: usize,
    ) -> Option<usize> {
        if !self.has(name) {
            self.known.push(name);
            return Some(default);
        }
        self.value(name, &format!("a whole number from {min} to {max}"), |value| {
            // A YAML struct carries every number as a double.
            let number =
                value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..=1e9).contains(number))?;
            Some(number as usize).filter(|number| (min..=max).contains(number))
        })
    }

    /// A required list of at least `least` items.
    pub(super) fn list<T>(
        &mut self,
        name: &'static str,
        least: usize,
        allowed: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Option<Vec<T>> {
        let size = if least == 0 { "a list" } else { "a list of at least one item" };
        let allowed_list = format!("{size}, each {allowed}");
        self.require(name, &allowed_list);
        self.items(name, least, &allowed_list, allowed, |item, _, _| read(item))
    }

    /// A list of objects, each read with its own fields. Absent counts as empty.
    pub(super) fn objects<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(Fields<'_, '_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        if !self.has(name) {
            self.known.push(name);
            return Some(Vec::new());
        }
        self.items(name, 0, "a list of objects", "an object", |item, path, errors| {
            let Value::Object(map) = item else { return None };
            let before = errors.len();
            let read = read(Fields::new(map, path, errors));
            // An error of its own already says what is wrong.
            if read.is_none() && errors.len() == before {
                errors.push(ConfigError { path: path.to_owned(), problem: "cannot be read".into() });
            }
            Some(read)
        })
        .map(|items| items.into_iter().flatten().collect())
    }

    fn items<T>(
        &mut self,
        name: &'static str,
        least: usize,
        allowed_list: &str,
        allowed: &str,
        read: impl Fn(&Value, &str, &mut Vec<ConfigError>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let path = self.path_of(name);
        match self.get(name)? {
            Value::Array(items) if items.len() >= least => {
                let mut list = Vec::with_capacity(items.len());
                for (at, item) in items.iter().enumerate() {
                    let path = format!("{path}[{at}]");
                    match read(item, &path, self.errors) {
                        Some(item) => list.push(item),
                        None => self.wrong(path, allowed),
                    }
                }
                Some(list)
            }
            _ => {
                self.wrong(path, allowed_list);
                None
            }
        }
    }

    pub(super) fn object<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Fields<'_, '_>) -> Option<T>,
    ) -> Option<T> {
        let path = self.path_of(name);
        match self.get(name)? {
            Value::Object(map) => read(Fields::new(map, &path, self.errors)),
            _ => {
                self.wrong(path, "an object");
                None
            }
        }
    }

    /// As [`Self::finish`], after a check across fields.
    pub(super) fn finish_with(self, check: impl FnOnce(&mut Vec<ConfigError>)) {
        check(self.errors);
        self.finish();
    }

    /// Names the fields that nobody asked for.
    pub(super) fn finish(self) {
        for name in self.map.keys().filter(|name| !self.known.contains(&name.as_str())) {
            let shown = if name.is_empty() { "\"\"" } else { name };
            let path = if self.path.is_empty() { shown.into() } else { format!("{}.{shown}", self.path) };
            let problem = format!("is not a field; allowed are {}", self.known.join(", "));
            self.errors.push(ConfigError { path, problem });
        }
    }
}

/// `a, b or c`.
fn one_of(words: &[&str]) -> String {
    match words {
        [before @ .., last] if !before.is_empty() => format!("{} or {last}", before.join(", ")),
        _ => words.concat(),
    }
}
