//! A program on a terminal of its own (`terminal.py`). It needs python3, which has what it takes.

use crate::run_if_installed;
use serde_json::{Value, json};
use std::process::Command;

/// How a program is called, and what is typed.
pub struct Terminal {
    columns: u16,
    environment: Vec<(String, String)>,
    steps: Vec<Value>,
}

/// What was to be seen.
#[derive(Debug)]
pub struct TerminalOutput {
    /// Everything, with its control sequences.
    pub text: String,
    /// Whether the terminal echoed at each step.
    pub echo: Vec<bool>,
    /// The exit code, or minus the signal.
    pub exit_code: i64,
}

impl Terminal {
    /// One so wide.
    pub fn with_columns(columns: u16) -> Self {
        let environment = vec![("TERM".to_owned(), "xterm-256color".to_owned())];
        Self { columns, environment, steps: Vec::new() }
    }

    /// With another variable in the environment.
    pub fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Types this once that was shown.
    pub fn type_after(self, keys: &str, see: &str) -> Self {
        self.step(json!({"see": see, "type": keys}))
    }

    /// The same, once the terminal has stopped to echo.
    pub fn type_hidden_after(self, keys: &str, see: &str) -> Self {
        self.step(json!({"see": see, "type": keys, "hidden": true}))
    }

    /// Makes a file once that was shown.
    pub fn create_file_after(self, file: &std::path::Path, see: &str) -> Self {
        self.step(json!({"see": see, "mark": file}))
    }

    fn step(mut self, step: Value) -> Self {
        self.steps.push(step);
        self
    }

    /// Runs a command to its end.
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
    /// The lines as they were written.
    pub fn lines(&self) -> Vec<&str> {
        self.text.lines().collect()
    }

    /// Whether it was coloured.
    pub fn is_coloured(&self) -> bool {
        self.text.contains("\x1b[3") || self.text.contains("\x1b[1m") || self.text.contains("\x1b[2m")
    }
}
