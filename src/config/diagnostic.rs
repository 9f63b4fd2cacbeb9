use std::fmt;
use std::path::PathBuf;

/// Something to say about the configuration: where, about which key, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The configuration file.
    pub file: PathBuf,
    /// Where it was found.
    pub place: Place,
    /// The key with its path, such as `upstream[0].port`; empty where it concerns the whole file.
    pub key: String,
    /// The value and what is allowed.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Line(line) => write!(f, "{}:{line}: ", self.file.display())?,
            Place::File => write!(f, "{}: ", self.file.display())?,
            Place::Variable(name) => write!(f, "{name}: ")?,
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Where something was found, in the order of reporting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A line of the file, from 1.
    Line(usize),
    /// The file as a whole: what is missing has no line.
    File,
    /// An environment variable.
    Variable(String),
}

/// All that is wrong with a configuration; never empty. Displays one per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Finding>);

impl Faults {
    pub(crate) fn new(mut findings: Vec<Finding>) -> Self {
        findings.sort_by(|one, other| one.place.cmp(&other.place));
        Self(findings)
    }

    /// One after the other, by line.
    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Finding;
    type IntoIter = std::slice::Iter<'a, Finding>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Faults {
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

impl std::error::Error for Faults {}
