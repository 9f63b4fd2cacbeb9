//! Takes typed values out of sections and notes every fault on the way.

use crate::config::diagnostic::{Faults, Finding, Place};
use crate::config::document::{Node, Table, Value};
use crate::config::keywords::{Words, quoted};
use crate::config::units;
use crate::config::validators::is_plain;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One reading of one file: where things are looked up, and what was found wrong.
pub(crate) struct Reading<'a> {
    file: &'a Path,
    pub environment: &'a BTreeMap<String, String>,
    faults: RefCell<Vec<Finding>>,
    warnings: RefCell<Vec<Finding>>,
    secret_files: RefCell<Vec<PathBuf>>,
}

impl<'a> Reading<'a> {
    pub fn new(file: &'a Path, environment: &'a BTreeMap<String, String>) -> Self {
        Self {
            file,
            environment,
            faults: RefCell::default(),
            warnings: RefCell::default(),
            secret_files: RefCell::default(),
        }
    }

    pub fn fault(&self, place: Place, key: &str, message: String) {
        self.faults.borrow_mut().push(self.finding(place, key, message));
    }

    pub fn warn(&self, place: Place, key: &str, message: String) {
        self.warnings.borrow_mut().push(self.finding(place, key, message));
    }

    fn finding(&self, place: Place, key: &str, message: String) -> Finding {
        Finding { file: self.file.into(), place, key: key.into(), message }
    }

    /// A relative path belongs to the folder of the file.
    pub fn beside(&self, path: &Path) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }

    /// A file that must exist already: systemd's credentials come first.
    pub fn existing(&self, path: &Path) -> PathBuf {
        let credential =
            self.environment.get("CREDENTIALS_DIRECTORY").map(|folder| Path::new(folder).join(path));
        credential.filter(|path| path.exists()).unwrap_or_else(|| self.beside(path))
    }

    /// A secret was read from there.
    pub fn note_secret_file(&self, path: PathBuf) {
        self.secret_files.borrow_mut().push(path);
    }

    /// Where secrets were read from.
    pub fn secret_files(&self) -> Vec<PathBuf> {
        self.secret_files.borrow().clone()
    }

    /// The warnings, unless there are faults.
    pub fn conclude(self) -> Result<Vec<Finding>, Faults> {
        if !self.faults.borrow().is_empty() {
            return Err(self.into_faults());
        }
        let mut warnings = self.warnings.into_inner();
        warnings.sort_by(|one, other| one.place.cmp(&other.place));
        Ok(warnings)
    }

    /// What was wrong.
    pub fn into_faults(self) -> Faults {
        Faults::new(self.faults.into_inner())
    }
}

/// A table whose keys are taken one by one; what is left at the end is unknown.
pub(crate) struct Section<'a> {
    pub reading: &'a Reading<'a>,
    path: String,
    place: Place,
    entries: BTreeMap<String, (Place, Option<Value>)>,
    sound: Cell<bool>,
}

impl<'a> Section<'a> {
    pub fn new(reading: &'a Reading<'a>, path: String, place: Place, table: Table) -> Self {
        let entries = table.into_iter().map(|(key, node)| (key, (node.place, Some(node.value)))).collect();
        Self { reading, path, place, entries, sound: Cell::new(true) }
    }

    /// The path of this section, or of a key in it.
    pub fn path(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            ("", key) => key.into(),
            (path, "") => path.into(),
            (path, key) => format!("{path}.{key}"),
        }
    }

    /// Where a key stands; the section itself where the key is absent.
    pub fn place(&self, key: &str) -> Place {
        self.entries.get(key).map_or(&self.place, |(place, _)| place).clone()
    }

    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Whether everything taken so far was as it should be: what follows from wrong values is not worth a fault.
    pub fn is_sound(&self) -> bool {
        self.sound.get()
    }

    pub fn fault(&self, key: &str, message: impl Into<String>) {
        self.sound.set(false);
        self.reading.fault(self.place(key), &self.path(key), message.into());
    }

    pub fn warn(&self, key: &str, message: impl Into<String>) {
        self.reading.warn(self.place(key), &self.path(key), message.into());
    }

    /// A key without a default.
    pub fn require(&self, key: &str) {
        if !self.has(key) {
            self.fault(key, "is required");
        }
    }

    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.entries.get_mut(key).and_then(|(_, value)| value.take())
    }

    /// The heart of all typed methods: a value that `convert` refuses is a fault.
    pub fn value<T>(
        &mut self,
        key: &str,
        expected: impl Display,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.take(key)?;
        let converted = convert(&value);
        if converted.is_none() {
            self.fault(key, format!("{value} is not {expected}"));
        }
        converted
    }

    /// A text that `convert` takes.
    pub fn parsed<T>(
        &mut self,
        key: &str,
        expected: impl Display,
        convert: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.value(key, expected, |value| value.text().and_then(convert))
    }

    /// A text of at least one character, none of them a control character.
    pub fn text(&mut self, key: &str) -> Option<String> {
        self.parsed(key, "a text", |text| is_plain(text).then(|| text.into()))
    }

    pub fn boolean(&mut self, key: &str) -> Option<bool> {
        self.value(key, "true or false", |value| match value {
            Value::Boolean(truth) => Some(*truth),
            _ => None,
        })
    }

    pub fn integer<T>(&mut self, key: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        let from_variable = matches!(self.place(key), Place::Variable(_));
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.value(key, expected, |value| {
            let number = match value {
                Value::Integer(number) => Some(*number),
                Value::Text(text) if from_variable => text.parse().ok(),
                _ => None,
            };
            T::try_from(number?).ok().filter(|number| range.contains(number))
        })
    }

    pub fn number(&mut self, key: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let expected = format!("a number from {:?} to {:?}", range.start(), range.end());
        self.value(key, expected, |value| {
            match value {
                Value::Integer(number) => Some(*number as f64),
                Value::Float(number) => Some(*number),
                _ => None,
            }
            .filter(|number| range.contains(number))
        })
    }

    pub fn duration(&mut self, key: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let [least, most] = [range.start(), range.end()].map(|end| units::show_duration(*end));
        self.parsed(key, format!("a duration from \"{least}\" to \"{most}\""), |text| {
            units::duration(text).filter(|duration| range.contains(duration))
        })
    }

    pub fn size(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let [least, most] = [range.start(), range.end()].map(|end| units::show_size(*end));
        self.parsed(key, format!("a size from \"{least}\" to \"{most}\""), |text| {
            units::size(text).filter(|size| range.contains(size))
        })
    }

    /// One of a closed set.
    pub fn one_of<T: Copy>(&mut self, key: &str, words: &Words<T>) -> Option<T> {
        let expected = format!("one of {}", quoted(words.iter().map(|(word, _)| *word)));
        self.parsed(key, expected, |text| {
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
        })
    }

    /// A path that may not exist yet.
    pub fn path_of(&mut self, key: &str) -> Option<PathBuf> {
        self.text(key).map(|path| self.reading.beside(Path::new(&path)))
    }

    /// A file that must be there; an empty text means none.
    pub fn file(&mut self, key: &str) -> Option<PathBuf> {
        let text = self.parsed(key, "a path", |text| Some(text.to_owned()))?;
        let path = self.reading.existing(Path::new(&text));
        if text.is_empty() {
            return None;
        }
        match std::fs::File::open(&path) {
            Ok(_) => Some(path),
            Err(error) => {
                self.fault(key, format!("{text:?} cannot be read ({}: {error})", path.display()));
                None
            }
        }
    }

    /// A list of texts that `convert` takes; each that it refuses is a fault of its own.
    pub fn list<T>(
        &mut self,
        key: &str,
        expected: &str,
        convert: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let nodes = self.value_owned(key, "a list", |value| match value {
            Value::List(nodes) => Ok(nodes),
            other => Err(other),
        })?;
        let mut list = Vec::with_capacity(nodes.len());
        for (index, Node { place, value }) in nodes.into_iter().enumerate() {
            match value.text().and_then(&convert) {
                Some(converted) => list.push(converted),
                None => {
                    self.sound.set(false);
                    let path = format!("{}[{index}]", self.path(key));
                    self.reading.fault(place, &path, format!("{value} is not {expected}"));
                }
            }
        }
        Some(list)
    }

    /// The section `[key]`; an empty one where it is absent.
    pub fn table(&mut self, key: &str) -> Section<'a> {
        let expected = format!("a section [{}]", self.path(key));
        let table = self.value_owned(key, &expected, |value| match value {
            Value::Table(table) => Ok(table),
            other => Err(other),
        });
        Section::new(self.reading, self.path(key), self.place(key), table.unwrap_or_default())
    }

    /// The sections `[[key]]`, where there are any.
    pub fn tables(&mut self, key: &str) -> Option<Vec<Section<'a>>> {
        let expected = format!("a list of sections [[{}]]", self.path(key));
        let nodes = self.value_owned(key, &expected, |value| match value {
            Value::List(nodes) if nodes.iter().all(Node::is_table) => Ok(nodes),
            other => Err(other),
        })?;
        let tables = nodes.into_iter().enumerate().filter_map(|(index, Node { place, value })| match value {
            Value::Table(table) => Some((format!("{}[{index}]", self.path(key)), place, table)),
            _ => None,
        });
        Some(tables.map(|(path, place, table)| Section::new(self.reading, path, place, table)).collect())
    }

    fn value_owned<T>(
        &mut self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(Value) -> Result<T, Value>,
    ) -> Option<T> {
        match convert(self.take(key)?) {
            Ok(converted) => Some(converted),
            Err(value) => {
                self.fault(key, format!("{value} is not {expected}"));
                None
            }
        }
    }

    /// Nothing more is known here.
    pub fn finish(self) {
        for (key, (place, value)) in &self.entries {
            let what = match value {
                None => continue,
                Some(Value::Table(_)) => "unknown section",
                Some(value) if value.is_tables() => "unknown section",
                Some(_) => "unknown key",
            };
            self.reading.fault(place.clone(), &self.path(key), what.into());
        }
    }
}
