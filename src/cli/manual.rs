//! What the command line is documented by, made of the commands themselves.

use super::Trouble;
use clap::Command;
use clap_complete::Shell;
use std::io::{self, Write};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Completions {
    /// For which shell
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub struct Pages {
    /// The folder; it is made where it does not exist
    folder: PathBuf,
}

/// What stands below the options in the help.
pub const COMPLETIONS: &str = "\
Where they go:
  bash  /usr/share/bash-completion/completions/mailtrail
  zsh   /usr/share/zsh/vendor-completions/_mailtrail
  fish  /usr/share/fish/vendor_completions.d/mailtrail.fish

Example: mailtrail completions bash > ~/.local/share/bash-completion/completions/mailtrail";

/// Prints what a shell completes commands by.
pub fn completions(mut command: Command, arguments: &Completions) -> Result<(), Trouble> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, NAME, &mut script);
    match io::stdout().write_all(&script) {
        // A reader that has gone has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(cannot_write("standard output", &error))
        }
        _ => Ok(()),
    }
}

/// Writes a page for the program and for each command.
pub fn pages(command: Command, arguments: &Pages) -> Result<(), Trouble> {
    let folder = &arguments.folder;
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(command, folder))
        .map_err(|error| cannot_write(&folder.display().to_string(), &error))
}

fn cannot_write(place: &str, error: &io::Error) -> Trouble {
    Trouble::Failed(format!("{place} cannot be written: {error}"))
}

const NAME: &str = "mailtrail";
