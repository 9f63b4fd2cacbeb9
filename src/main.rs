//! The mailtrail command.

use std::process::ExitCode;

fn main() -> ExitCode {
    mailtrail::cli::run(std::env::args_os())
}
