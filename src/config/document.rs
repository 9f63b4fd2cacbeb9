//! The configuration file and the environment as one tree of values with their locations. Keys are not interpreted
//! here.

use crate::config::diagnostic::Location;
use crate::config::parse_context::ParseContext;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// A value and its location. Has no `Debug`, because it may be a secret.
pub(crate) struct SpannedValue {
    pub location: Location,
    pub value: Value,
}

impl SpannedValue {
    pub fn is_table(&self) -> bool {
        matches!(self.value, Value::Table(_))
    }
}

/// TOML values that a configuration uses.
pub(crate) enum Value {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Array(Vec<SpannedValue>),
    Table(Table),
    /// A date, or a number out of range.
    Unsupported(String),
}

/// Values by key.
pub(crate) type Table = BTreeMap<String, SpannedValue>;

impl Value {
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn is_array_of_tables(&self) -> bool {
        matches!(self, Self::Array(nodes) if nodes.iter().all(SpannedValue::is_table))
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(text) => write!(f, "{text:?}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number:?}"),
            Self::Boolean(truth) => write!(f, "{truth}"),
            Self::Array(_) => f.write_str("a list"),
            Self::Table(_) => f.write_str("a table"),
            Self::Unsupported(text) => f.write_str(text),
        }
    }
}

/// Parses `text` and applies the overrides of the environment. Returns `None` after a syntax error.
pub(crate) fn parse_document(text: &str, reading: &ParseContext<'_>) -> Option<Table> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let place = error.span().map_or(Location::File, |span| TomlSource(text).location_of(&span));
        // Only the message: the error's own display quotes the line, which may hold a secret.
        reading.add_error(place, "", format!("not TOML: {}", error.message()));
    }
    let mut root = errors.is_empty().then(|| TomlSource(text).convert_table(table.into_inner()))?;
    apply_env_overrides(&mut root, reading);
    Some(root)
}

struct TomlSource<'a>(&'a str);

impl TomlSource<'_> {
    fn convert_table(&self, table: DeTable<'_>) -> Table {
        let entries = table.into_iter();
        entries
            .map(|(key, value)| {
                let location = self.location_of(&key.span());
                (
                    key.into_inner().into_owned(),
                    SpannedValue { location, value: self.convert_value(value.into_inner()) },
                )
            })
            .collect()
    }

    fn convert_value(&self, value: DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::String(text.into_owned()),
            DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix())
                .map_or_else(|_| Value::Unsupported(digits.to_string()), Value::Integer),
            DeValue::Float(digits) => {
                digits.as_str().parse().map_or_else(|_| Value::Unsupported(digits.to_string()), Value::Float)
            }
            DeValue::Boolean(truth) => Value::Boolean(truth),
            DeValue::Datetime(date) => Value::Unsupported(date.to_string()),
            DeValue::Array(nodes) => Value::Array(
                nodes
                    .into_iter()
                    .map(|node| SpannedValue {
                        location: self.location_of(&node.span()),
                        value: self.convert_value(node.into_inner()),
                    })
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(self.convert_table(table)),
        }
    }

    fn location_of(&self, span: &Range<usize>) -> Location {
        let before = self.0.as_bytes().get(..span.start).unwrap_or_default();
        Location::Line(1 + memchr::memchr_iter(b'\n', before).count())
    }
}

/// Applies overrides: `MAILTRAIL_SERVER__DATA_DIR` overrides `data_dir` in `[server]`. Variables without two
/// underscores are ignored, because a `${...}` may name them.
fn apply_env_overrides(root: &mut Table, reading: &ParseContext<'_>) {
    for (variable, value) in reading.environment {
        let Some((section, key)) = variable.strip_prefix(ENV_PREFIX).and_then(|name| name.split_once("__"))
        else {
            continue;
        };
        let (section, key) = (section.to_lowercase(), key.to_lowercase());
        let location = Location::Variable(variable.clone());
        if !SINGLETON_SECTIONS.contains(&section.as_str()) {
            reading.add_error(
                location,
                &section,
                format!("unknown section; {} can be set so", SINGLETON_SECTIONS.join(", ")),
            );
            continue;
        }
        let empty = || SpannedValue { location: Location::File, value: Value::Table(Table::new()) };
        // A section of the wrong type is reported when it is read.
        if let Value::Table(table) = &mut root.entry(section).or_insert_with(empty).value {
            table.insert(key, SpannedValue { location, value: Value::String(value.clone()) });
        }
    }
}

const ENV_PREFIX: &str = "MAILTRAIL_";

/// Sections that occur once, so that a variable can name their keys.
const SINGLETON_SECTIONS: [&str; 11] = [
    "server",
    "tls",
    "limits",
    "http",
    "admin",
    "log",
    "retention",
    "suppression",
    "reports",
    "duplicates",
    "inbound",
];
