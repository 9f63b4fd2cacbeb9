//! The program, run on files of a directory of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A directory with a configuration, in which commands are run.
pub struct Place {
    directory: TempDir,
}

impl Place {
    /// With this configuration.
    pub fn new(configuration: &str) -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        std::fs::write(place.path().join("mailtrail.toml"), configuration).unwrap();
        place
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// The program with these words, without the tester's environment.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailtrail"));
        command.args(["--config", "mailtrail.toml"]).args(words).current_dir(self.path());
        command.env_clear().env("TZ", "UTC").stdin(Stdio::null());
        command
    }

    /// `$ words`, what the command prints, and its exit code if it is not 0.
    pub fn transcript(&self, words: &str) -> String {
        let output = self.command(&words.split(' ').collect::<Vec<_>>()).output().unwrap();
        let code = match output.status.code() {
            Some(0) => String::new(),
            code => format!("exit {}\n", code.expect("an exit code")),
        };
        format!("$ {words}\n{}{code}\n", String::from_utf8(output.stdout).unwrap())
    }
}
