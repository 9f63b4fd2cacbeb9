//! The program that takes the place of this process, in the same place: usually the same one, or its upgrade.

use crate::cli::{CliError, Context};
use crate::daemon::Sockets;
use std::ffi::OsString;
use std::path::{Path, PathBuf, absolute};
use std::process::Command;

/// How it is started.
pub struct Reexec {
    /// As this process was called, so that a symbolic link is followed anew.
    program: PathBuf,
    arguments: Vec<OsString>,
    /// The configuration, where one was named.
    config: Option<PathBuf>,
    sockets: Sockets,
}

impl Reexec {
    /// Another of this process. To be asked at the start: later the program's file may be gone.
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

    /// Whether the program starts and likes the configuration; if not, why.
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

    /// The same with the sockets that it gets.
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
