//! Options that all commands share.

use crate::cli::output;
use clap::ValueEnum;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;

/// Context of every command.
pub struct Context {
    pub config: Option<PathBuf>,
    pub json: bool,
    pub color_choice: ColorChoice,
    pub style: output::Style,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    Auto,
    Always,
    Never,
}

impl ColorChoice {
    /// Whether output to `stream` is coloured. `auto`: on a terminal with colours, unless `NO_COLOR` is set
    /// (<https://no-color.org>).
    pub fn is_enabled_for(self, stream: &impl IsTerminal) -> bool {
        let is_set = |name: &str, matches: fn(&OsString) -> bool| {
            std::env::var_os(name).is_some_and(|value| matches(&value))
        };
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                let disabled =
                    is_set("NO_COLOR", |value| !value.is_empty()) || is_set("TERM", |value| value == "dumb");
                stream.is_terminal() && !disabled
            }
        }
    }
}
