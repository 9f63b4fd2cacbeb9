//! The program that replaces this process, with the same process id: usually the same program or its upgrade.

use crate::cli::{CliError, Context};
use crate::daemon::Sockets;
use std::ffi::OsString;
use std::path::{Path, PathBuf, absolute};
use std::process::Command;

/// Command line, configuration and sockets of the successor.
pub struct Reexec {
    /// Path as this process was called, so that a symbolic link is resolved again.
    program: PathBuf,
    arguments: Vec<OsString>,
    /// Path of the configuration, if one was given.
    config: Option<PathBuf>,
    sockets: Sockets,
}

impl Reexec {
    /// Command line of this process. Call it at the start; later the program's file may have been removed.
    pub fn from_current_process(context: &Context) -> Self {
        let mut words = std::env::args_os();
        let called = words.next().map(PathBuf::from).filter(|called| called.components().count() > 1);
        let called = called.and_then(|called| absolute(called).ok());
        Self {
            program: called.or_else(|| std::env::current_exe().ok()).unwrap_or_else(|| "mailtrail".into()),
            arguments: words.collect(),
            config: context.config.clone(),
            sockets: Sockets::default(),
        }
    }

    /// Runs `config check` with the new program. The error is its output.
    pub async fn check_config(&self) -> Result<(), String> {
        let mut command = Command::new(&self.program);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        command.args(["config", "check"]);
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.map_err(|panic| panic.to_string())?;
        let output = output.map_err(|error| format!("{}: {error}", self.program.display()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{} config check: {}: {}", self.program.display(), output.status, said.trim()))
    }

    /// Passes the listening sockets to the new program.
    pub fn with_sockets(self, sockets: Sockets) -> Self {
        Self { sockets, ..self }
    }

    /// Replaces this process; returns only if that fails.
    pub fn exec(self) -> CliError {
        let program = self.program.clone();
        let mut command = Command::new(&program);
        command.args(self.arguments);
        exec_error(&program, &self.sockets.exec_with_sockets(command))
    }
}

fn exec_error(program: &Path, error: &std::io::Error) -> CliError {
    CliError::Other(format!(
        "{} cannot take over: {error}; the mail is safe, start it again",
        program.display()
    ))
}
