//! Ids on standard input, for commands after a pipe.

use crate::cli::CliError;
use std::io::Read;

/// Reads ids separated by white space and converts them to upper case, the form in which they are stored.
pub fn read_ids() -> Result<Vec<String>, CliError> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|error| CliError::Usage(format!("cannot read standard input: {error}")))?;
    Ok(text.split_whitespace().map(str::to_uppercase).collect())
}
