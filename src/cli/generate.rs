//! Shell completions and manual pages, generated from the command definitions.

use crate::cli::{CliError, write_stdout};
use clap::Command;
use clap_complete::Shell;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// Shell
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Target directory; created if absent
    folder: PathBuf,
}

/// Help text after the options.
pub const AFTER_HELP: &str = "\
Where they go:
  bash  /usr/share/bash-completion/completions/mailtrail
  zsh   /usr/share/zsh/vendor-completions/_mailtrail
  fish  /usr/share/fish/vendor_completions.d/mailtrail.fish

Example: mailtrail completions bash > ~/.local/share/bash-completion/completions/mailtrail";

/// Prints the completion script of a shell.
pub fn write_completions(mut command: Command, arguments: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, PROGRAM_NAME, &mut script);
    write_stdout(&script);
    Ok(())
}

/// Writes a page for the program and for each command.
pub fn write_man_pages(command: Command, arguments: &ManArgs) -> Result<(), CliError> {
    let folder = &arguments.folder;
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(command, folder))
        .map_err(|error| CliError::Other(format!("cannot write {}: {error}", folder.display())))
}

const PROGRAM_NAME: &str = "mailtrail";
