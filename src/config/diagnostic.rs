use std::fmt;
use std::path::PathBuf;

/// A fault or warning of the configuration: location, key and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Path of the configuration file.
    pub file: PathBuf,
    /// Line of the file or environment variable.
    pub location: Location,
    /// Key with its path, such as `upstream[0].port`; empty if it concerns the whole file.
    pub key: String,
    /// Value and allowed values.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Location::Line(line) => write!(f, "{}:{line}: ", self.file.display())?,
            Location::File => write!(f, "{}: ", self.file.display())?,
            Location::Variable(name) => write!(f, "{name}: ")?,
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Location of a fault, in the order of reporting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// Line number, from 1.
    Line(usize),
    /// The file as a whole, for missing keys.
    File,
    /// Name of an environment variable.
    Variable(String),
}

/// All faults of a configuration; never empty. Displays one per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(Vec<Diagnostic>);

impl ConfigError {
    pub(crate) fn new(mut findings: Vec<Diagnostic>) -> Self {
        findings.sort_by(|one, other| one.location.cmp(&other.location));
        Self(findings)
    }

    /// Iterates over the faults in the order of their lines.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a ConfigError {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fmt::Display::fmt(finding, f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
