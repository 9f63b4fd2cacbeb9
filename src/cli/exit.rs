//! Errors of the commands and the exit code of each.

use crate::cli::output::eprint_line;
use std::process::ExitCode;

/// Errors that end a command, each with its exit code.
#[derive(Debug)]
pub enum CliError {
    /// No result, or a failed check; already reported.
    AlreadyReported,
    /// Exit code of a result that is already reported.
    ExitCode(u8),
    Usage(String),
    /// Neither the daemon nor the store is available.
    Unreachable(String),
    Damaged(String),
    Configuration(String),
    Other(String),
    /// Error with an exit code of sysexits.h.
    Sysexits(u8, String),
}

pub fn exit_code(ended: Result<(), CliError>, sysexits: bool) -> ExitCode {
    let Err(trouble) = ended else { return ExitCode::SUCCESS };
    let code = match &trouble {
        CliError::AlreadyReported => return ExitCode::from(1),
        CliError::ExitCode(code) => return ExitCode::from(*code),
        CliError::Usage(_) => usage_exit_code(sysexits),
        CliError::Unreachable(_) => 3,
        CliError::Damaged(_) => 4,
        CliError::Configuration(_) => {
            if sysexits {
                78
            } else {
                2
            }
        }
        CliError::Other(_) => 1,
        CliError::Sysexits(code, _) => *code,
    };
    eprint_line(format!("mailtrail: {}", trouble.message()));
    ExitCode::from(code)
}

impl CliError {
    /// Message for the user.
    pub fn message(&self) -> &str {
        match self {
            Self::AlreadyReported | Self::ExitCode(_) => "",
            Self::Usage(text)
            | Self::Unreachable(text)
            | Self::Damaged(text)
            | Self::Configuration(text)
            | Self::Other(text)
            | Self::Sysexits(_, text) => text,
        }
    }
}

/// Returns 2, or 64 (`EX_USAGE`) for commands with sysexits codes.
pub fn usage_exit_code(sysexits: bool) -> u8 {
    if sysexits { 64 } else { 2 }
}
