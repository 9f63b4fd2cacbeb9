//! The file and the environment as one tree of values, each with its place. It knows no keys.

use crate::config::diagnostic::Place;
use crate::config::section::Reading;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// A value and where it stands. It has no `Debug`: it may be a secret.
pub(crate) struct Node {
    pub place: Place,
    pub value: Value,
}

impl Node {
    pub fn is_table(&self) -> bool {
        matches!(self.value, Value::Table(_))
    }
}

/// What TOML can say, as far as a configuration needs it.
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    List(Vec<Node>),
    Table(Table),
    /// A date, or a number that does not fit.
    Other(String),
}

/// Keys and their values.
pub(crate) type Table = BTreeMap<String, Node>;

impl Value {
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn is_tables(&self) -> bool {
        matches!(self, Self::List(nodes) if nodes.iter().all(Node::is_table))
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number:?}"),
            Self::Boolean(truth) => write!(f, "{truth}"),
            Self::List(_) => f.write_str("a list"),
            Self::Table(_) => f.write_str("a table"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// Parses `text` and lays the overrides of the environment over it. With a syntax error there is no tree.
pub(crate) fn parse(text: &str, reading: &Reading<'_>) -> Option<Table> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let place = error.span().map_or(Place::File, |span| Source(text).place(&span));
        // Only the message: the error's own display quotes the line, which may hold a secret.
        reading.fault(place, "", format!("not TOML: {}", error.message()));
    }
    let mut root = errors.is_empty().then(|| Source(text).table(table.into_inner()))?;
    lay_over(&mut root, reading);
    Some(root)
}

struct Source<'a>(&'a str);

impl Source<'_> {
    fn table(&self, table: DeTable<'_>) -> Table {
        let entries = table.into_iter();
        entries
            .map(|(key, value)| {
                let place = self.place(&key.span());
                (key.into_inner().into_owned(), Node { place, value: self.value(value.into_inner()) })
            })
            .collect()
    }

    fn value(&self, value: DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix())
                .map_or_else(|_| Value::Other(digits.to_string()), Value::Integer),
            DeValue::Float(digits) => {
                digits.as_str().parse().map_or_else(|_| Value::Other(digits.to_string()), Value::Float)
            }
            DeValue::Boolean(truth) => Value::Boolean(truth),
            DeValue::Datetime(date) => Value::Other(date.to_string()),
            DeValue::Array(nodes) => Value::List(
                nodes
                    .into_iter()
                    .map(|node| Node {
                        place: self.place(&node.span()),
                        value: self.value(node.into_inner()),
                    })
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(self.table(table)),
        }
    }

    fn place(&self, span: &Range<usize>) -> Place {
        let before = self.0.as_bytes().get(..span.start).unwrap_or_default();
        Place::Line(1 + memchr::memchr_iter(b'\n', before).count())
    }
}

/// `MAILTRAIL_SERVER__DATA_DIR` stands above `data_dir` in `[server]`. Variables without two underscores are not
/// ours to judge: they may be named by a `${...}`.
fn lay_over(root: &mut Table, reading: &Reading<'_>) {
    for (variable, value) in reading.environment {
        let Some((section, key)) = variable.strip_prefix(PREFIX).and_then(|name| name.split_once("__"))
        else {
            continue;
        };
        let (section, key) = (section.to_lowercase(), key.to_lowercase());
        let place = Place::Variable(variable.clone());
        if !SINGLE.contains(&section.as_str()) {
            reading.fault(place, &section, format!("unknown section; {} can be set so", SINGLE.join(", ")));
            continue;
        }
        let empty = || Node { place: Place::File, value: Value::Table(Table::new()) };
        // A section of the wrong kind is reported when it is read.
        if let Value::Table(table) = &mut root.entry(section).or_insert_with(empty).value {
            table.insert(key, Node { place, value: Value::Text(value.clone()) });
        }
    }
}

const PREFIX: &str = "MAILTRAIL_";

/// The sections that exist once, so that a variable can name their keys.
const SINGLE: [&str; 11] = [
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
