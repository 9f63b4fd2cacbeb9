//! State of reading one configuration file: environment, faults, warnings.

use crate::config::diagnostic::{ConfigError, Diagnostic, Location};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// State of one parse: environment and collected diagnostics.
pub(crate) struct ParseContext<'a> {
    file: &'a Path,
    pub environment: &'a BTreeMap<String, String>,
    errors: RefCell<Vec<Diagnostic>>,
    warnings: RefCell<Vec<Diagnostic>>,
    secret_files: RefCell<Vec<PathBuf>>,
}

impl<'a> ParseContext<'a> {
    pub fn new(file: &'a Path, environment: &'a BTreeMap<String, String>) -> Self {
        Self {
            file,
            environment,
            errors: RefCell::default(),
            warnings: RefCell::default(),
            secret_files: RefCell::default(),
        }
    }

    pub fn add_error(&self, place: Location, key: &str, message: String) {
        self.errors.borrow_mut().push(self.new_diagnostic(place, key, message));
    }

    pub fn add_warning(&self, place: Location, key: &str, message: String) {
        self.warnings.borrow_mut().push(self.new_diagnostic(place, key, message));
    }

    fn new_diagnostic(&self, location: Location, key: &str, message: String) -> Diagnostic {
        Diagnostic { file: self.file.into(), location, key: key.into(), message }
    }

    /// Resolves a path relative to the directory of the file.
    pub fn resolve_path(&self, path: &Path) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }

    /// Resolves the path of an existing file; systemd's credentials take precedence.
    pub fn resolve_existing(&self, path: &Path) -> PathBuf {
        let credential =
            self.environment.get("CREDENTIALS_DIRECTORY").map(|folder| Path::new(folder).join(path));
        credential.filter(|path| path.exists()).unwrap_or_else(|| self.resolve_path(path))
    }

    /// Records that a secret was read from this file.
    pub fn record_secret_file(&self, path: PathBuf) {
        self.secret_files.borrow_mut().push(path);
    }

    /// Files from which secrets were read.
    pub fn secret_files(&self) -> Vec<PathBuf> {
        self.secret_files.borrow().clone()
    }

    /// Returns the warnings, or the faults if there are any.
    pub fn finish(self) -> Result<Vec<Diagnostic>, ConfigError> {
        if !self.errors.borrow().is_empty() {
            return Err(self.into_error());
        }
        let mut warnings = self.warnings.into_inner();
        warnings.sort_by(|one, other| one.location.cmp(&other.location));
        Ok(warnings)
    }

    /// Returns the collected faults.
    pub fn into_error(self) -> ConfigError {
        ConfigError::new(self.errors.into_inner())
    }
}
