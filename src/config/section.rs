//! Reads typed values from sections and collects every fault.

use crate::config::diagnostic::Location;
use crate::config::document::{SpannedValue, Table, Value};
use crate::config::keywords::{Keywords, quote_list};
use crate::config::parse_context::ParseContext;
use crate::config::units;
use crate::config::validators::is_single_line;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A table whose keys are taken one by one; keys left at the end are unknown.
pub(crate) struct Section<'a> {
    pub context: &'a ParseContext<'a>,
    key_path: String,
    location: Location,
    entries: BTreeMap<String, (Location, Option<Value>)>,
    valid: Cell<bool>,
}

impl<'a> Section<'a> {
    pub fn new(context: &'a ParseContext<'a>, key_path: String, location: Location, table: Table) -> Self {
        let entries = table.into_iter().map(|(key, node)| (key, (node.location, Some(node.value)))).collect();
        Self { context, key_path, location, entries, valid: Cell::new(true) }
    }

    /// Path of this section, or of a key in it.
    pub fn key_path(&self, key: &str) -> String {
        match (self.key_path.as_str(), key) {
            ("", key) => key.into(),
            (path, "") => path.into(),
            (path, key) => format!("{path}.{key}"),
        }
    }

    /// Location of a key, or of the section if the key is absent.
    pub fn location(&self, key: &str) -> Location {
        self.entries.get(key).map_or(&self.location, |(place, _)| place).clone()
    }

    pub fn contains_key(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Whether no fault was found so far; consequences of invalid values are not reported.
    pub fn is_valid(&self) -> bool {
        self.valid.get()
    }

    pub fn add_error(&self, key: &str, message: impl Into<String>) {
        self.valid.set(false);
        self.context.add_error(self.location(key), &self.key_path(key), message.into());
    }

    pub fn add_warning(&self, key: &str, message: impl Into<String>) {
        self.context.add_warning(self.location(key), &self.key_path(key), message.into());
    }

    /// Reports a fault if a key without a default is missing.
    pub fn require_key(&self, key: &str) {
        if !self.contains_key(key) {
            self.add_error(key, "is required");
        }
    }

    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.entries.get_mut(key).and_then(|(_, value)| value.take())
    }

    /// Basis of the typed methods: reports a fault if `convert` rejects the value.
    pub fn convert<T>(
        &mut self,
        key: &str,
        expected: impl Display,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.take(key)?;
        let converted = convert(&value);
        if converted.is_none() {
            self.add_error(key, format!("{value} is not {expected}"));
        }
        converted
    }

    /// Reads a text that `convert` accepts.
    pub fn parse<T>(
        &mut self,
        key: &str,
        expected: impl Display,
        convert: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.convert(key, expected, |value| value.as_text().and_then(convert))
    }

    /// Reads a text of at least one character, without control characters.
    pub fn text(&mut self, key: &str) -> Option<String> {
        self.parse(key, "a text", |text| is_single_line(text).then(|| text.into()))
    }

    pub fn boolean(&mut self, key: &str) -> Option<bool> {
        self.convert(key, "true or false", |value| match value {
            Value::Boolean(truth) => Some(*truth),
            _ => None,
        })
    }

    pub fn integer<T>(&mut self, key: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        let from_variable = matches!(self.location(key), Location::Variable(_));
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.convert(key, expected, |value| {
            let number = match value {
                Value::Integer(number) => Some(*number),
                Value::String(text) if from_variable => text.parse().ok(),
                _ => None,
            };
            T::try_from(number?).ok().filter(|number| range.contains(number))
        })
    }

    pub fn float(&mut self, key: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let expected = format!("a number from {:?} to {:?}", range.start(), range.end());
        self.convert(key, expected, |value| {
            match value {
                Value::Integer(number) => Some(*number as f64),
                Value::Float(number) => Some(*number),
                _ => None,
            }
            .filter(|number| range.contains(number))
        })
    }

    pub fn duration(&mut self, key: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let [least, most] = [range.start(), range.end()].map(|end| units::format_duration(*end));
        self.parse(key, format!("a duration from \"{least}\" to \"{most}\""), |text| {
            units::parse_duration(text).filter(|duration| range.contains(duration))
        })
    }

    pub fn size(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let [least, most] = [range.start(), range.end()].map(|end| units::format_size(*end));
        self.parse(key, format!("a size from \"{least}\" to \"{most}\""), |text| {
            units::parse_size(text).filter(|size| range.contains(size))
        })
    }

    /// Reads a keyword of a closed set.
    pub fn keyword<T: Copy>(&mut self, key: &str, words: &Keywords<T>) -> Option<T> {
        let expected = format!("one of {}", quote_list(words.iter().map(|(word, _)| *word)));
        self.parse(key, expected, |text| {
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
        })
    }

    /// Reads a path that need not exist.
    pub fn file_path(&mut self, key: &str) -> Option<PathBuf> {
        self.text(key).map(|path| self.context.resolve_path(Path::new(&path)))
    }

    /// Reads the path of an existing file; an empty text means none.
    pub fn existing_file(&mut self, key: &str) -> Option<PathBuf> {
        let text = self.parse(key, "a path", |text| Some(text.to_owned()))?;
        let path = self.context.resolve_existing(Path::new(&text));
        if text.is_empty() {
            return None;
        }
        match std::fs::File::open(&path) {
            Ok(_) => Some(path),
            Err(error) => {
                self.add_error(key, format!("{text:?} cannot be read ({}: {error})", path.display()));
                None
            }
        }
    }

    /// Reads a list of texts. Each text that `convert` rejects is a fault of its own.
    pub fn list<T>(
        &mut self,
        key: &str,
        expected: &str,
        convert: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let nodes = self.convert_owned(key, "a list", |value| match value {
            Value::Array(nodes) => Ok(nodes),
            other => Err(other),
        })?;
        let mut list = Vec::with_capacity(nodes.len());
        for (index, SpannedValue { location, value }) in nodes.into_iter().enumerate() {
            match value.as_text().and_then(&convert) {
                Some(converted) => list.push(converted),
                None => {
                    self.valid.set(false);
                    let path = format!("{}[{index}]", self.key_path(key));
                    self.context.add_error(location, &path, format!("{value} is not {expected}"));
                }
            }
        }
        Some(list)
    }

    /// Returns the section `[key]`, empty if it is absent.
    pub fn subsection(&mut self, key: &str) -> Section<'a> {
        let expected = format!("a section [{}]", self.key_path(key));
        let table = self.convert_owned(key, &expected, |value| match value {
            Value::Table(table) => Ok(table),
            other => Err(other),
        });
        Section::new(self.context, self.key_path(key), self.location(key), table.unwrap_or_default())
    }

    /// Returns the sections `[[key]]`, if there are any.
    pub fn subsections(&mut self, key: &str) -> Option<Vec<Section<'a>>> {
        let expected = format!("a list of sections [[{}]]", self.key_path(key));
        let nodes = self.convert_owned(key, &expected, |value| match value {
            Value::Array(nodes) if nodes.iter().all(SpannedValue::is_table) => Ok(nodes),
            other => Err(other),
        })?;
        let tables =
            nodes.into_iter().enumerate().filter_map(
                |(index, SpannedValue { location, value })| match value {
                    Value::Table(table) => {
                        Some((format!("{}[{index}]", self.key_path(key)), location, table))
                    }
                    _ => None,
                },
            );
        Some(tables.map(|(path, place, table)| Section::new(self.context, path, place, table)).collect())
    }

    fn convert_owned<T>(
        &mut self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(Value) -> Result<T, Value>,
    ) -> Option<T> {
        match convert(self.take(key)?) {
            Ok(converted) => Some(converted),
            Err(value) => {
                self.add_error(key, format!("{value} is not {expected}"));
                None
            }
        }
    }

    /// Reports every key that was not taken as unknown.
    pub fn reject_unknown(self) {
        for (key, (place, value)) in &self.entries {
            let what = match value {
                None => continue,
                Some(Value::Table(_)) => "unknown section",
                Some(value) if value.is_array_of_tables() => "unknown section",
                Some(_) => "unknown key",
            };
            self.context.add_error(place.clone(), &self.key_path(key), what.into());
        }
    }
}
