//! State of an erasure that survives an interruption.

use crate::erase::error::EraseError;
use mailtrail_mail::Pseudonym;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Key of the pseudonym, stored in a file until the erasure is complete.
pub struct ErasureState {
    path: PathBuf,
    key: [u8; 16],
    pub pseudonym: String,
}

impl ErasureState {
    /// Loads the state of an interrupted erasure of the same address, or creates a new one.
    pub fn load_or_create(journal: &Path, address: &str) -> Result<Self, EraseError> {
        let path = journal.parent().unwrap_or(journal).join(STATE_FILE);
        let known = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(EraseError::Io { path, source }),
        };
        // An incomplete file was interrupted before anything was changed.
        let noted = known.trim_end().split_once(' ').and_then(|(key, name)| {
            let key = u128::from_str_radix(key, 16).ok()?.to_be_bytes();
            Pseudonym::Trail.is_pseudonym(name).then(|| (key, name.to_owned()))
        });
        let (key, pseudonym) = noted.unwrap_or_else(|| {
            let key = random_salt();
            (key, Pseudonym::Trail.derive(address, &key))
        });
        if Pseudonym::Trail.derive(address, &key) != pseudonym {
            return Err(EraseError::OtherInProgress { pseudonym, path });
        }
        Ok(Self { path, key, pseudonym })
    }

    /// Writes the state to stable storage.
    pub fn save(&self) -> Result<(), EraseError> {
        let written = || {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
            writeln!(file, "{:032x} {}", u128::from_be_bytes(self.key), self.pseudonym)?;
            file.sync_all()?;
            self.sync_directory()
        };
        written().map_err(|source| EraseError::Io { path: self.path.clone(), source })
    }

    pub fn remove(&self) -> Result<(), EraseError> {
        let removed = std::fs::remove_file(&self.path).and_then(|()| self.sync_directory());
        removed.map_err(|source| EraseError::Io { path: self.path.clone(), source })
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(self.path.parent().unwrap_or(&self.path))?.sync_all()
    }
}

/// Logs a warning if an erasure in this data directory was interrupted.
pub fn warn_if_interrupted(data_dir: &Path) {
    if data_dir.join(STATE_FILE).exists() {
        tracing::warn!(
            "an erasure of an address was cut off: run `mailtrail erase` with the same address again"
        );
    }
}

/// Returns a salt from the operating system's random source; it must be unpredictable.
pub fn random_salt() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    bytes
}

const STATE_FILE: &str = "erasing";
