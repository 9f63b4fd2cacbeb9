//! Program on a pseudo-terminal (`terminal.py`). It needs python3.

use crate::run_if_installed;
use serde_json::{Value, json};
use std::process::Command;

/// Terminal with its size, environment and scripted input.
pub struct Terminal {
    columns: u16,
    environment: Vec<(String, String)>,
    steps: Vec<Value>,
}

/// Output of a program on a terminal.
#[derive(Debug)]
pub struct TerminalOutput {
    /// All output, with control sequences.
    pub text: String,
    /// State of the terminal's echo at each step.
    pub echo: Vec<bool>,
    /// Exit code, or the negative signal number.
    pub exit_code: i64,
}

impl Terminal {
    /// Terminal with this number of columns.
    pub fn with_columns(columns: u16) -> Self {
        let environment = vec![("TERM".to_owned(), "xterm-256color".to_owned())];
        Self { columns, environment, steps: Vec::new() }
    }

    /// Adds a variable to the environment.
    pub fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Types keys after the text `see` was shown.
    pub fn type_after(self, keys: &str, see: &str) -> Self {
        self.step(json!({"see": see, "type": keys}))
    }

    /// Types keys after the text `see` was shown and the terminal has disabled echo.
    pub fn type_hidden_after(self, keys: &str, see: &str) -> Self {
        self.step(json!({"see": see, "type": keys, "hidden": true}))
    }

    /// Creates a file after the text `see` was shown.
    pub fn create_file_after(self, file: &std::path::Path, see: &str) -> Self {
        self.step(json!({"see": see, "mark": file}))
    }

    fn step(mut self, step: Value) -> Self {
        self.steps.push(step);
        self
    }

    /// Runs a command until it exits.
    pub async fn run(&self, command: &Command) -> TerminalOutput {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
        let environment: serde_json::Map<_, _> =
            self.environment.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let order = json!({
            "words": words, "columns": self.columns, "environment": environment, "steps": self.steps,
        });
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/terminal.py");
        let output = run_if_installed(Command::new("python3").arg(script).arg(order.to_string())).await;
        let output = output.expect("the terminal needs python3");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["left"], 0, "not all was shown that was waited for: {answer}");
        TerminalOutput {
            text: answer["shown"].as_str().unwrap().to_owned(),
            echo: answer["echoed"].as_array().unwrap().iter().map(|one| one.as_bool().unwrap()).collect(),
            exit_code: answer["ended"].as_i64().unwrap(),
        }
    }
}

impl TerminalOutput {
    /// Returns the lines of the output.
    pub fn lines(&self) -> Vec<&str> {
        self.text.lines().collect()
    }

    /// Returns whether the output has colors.
    pub fn is_coloured(&self) -> bool {
        self.text.contains("\x1b[3") || self.text.contains("\x1b[1m") || self.text.contains("\x1b[2m")
    }
}
