//! Harnesses, mock servers and clients of mailtrail's tests.
//!
//! `relay` runs the daemon inside the test, `relay_process` runs the real program. The mock servers share no code with
//! mailtrail, so that a fault in it cannot hide itself.
#![allow(missing_docs, reason = "only tests use it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

pub mod browser;
pub mod expected_events;
pub mod fake_odoo;
pub mod log_capture;
pub mod mock_dns;
pub mod mock_http;
pub mod mock_smtp;
pub mod mount_namespace;
pub mod queue_harness;
pub mod relay;
pub mod relay_process;
pub mod sandbox_harness;
pub mod session_model;
pub mod smtp_client;
pub mod smtp_sink;
pub mod terminal;
pub mod test_ca;
mod wait;
pub mod webhook_harness;

use std::fs::File;
use std::io::{ErrorKind, Seek, Write};
use std::path::PathBuf;
use std::process::{Command, Output};
pub use wait::{WAIT_TIMEOUT, eventually, eventually_within};

/// Returns the path of the program. Cargo sets the variable for integration tests of the root package.
pub fn mailtrail_program() -> PathBuf {
    std::env::var_os("CARGO_BIN_EXE_mailtrail").expect("an integration test of the package mailtrail").into()
}

/// Returns a command that runs one test of this test program in a process of its own. `module` is `module_path!()`.
pub fn test_as_child(module: &str, test: &str) -> Command {
    let (_, module) = module.split_once("::").expect("a module of the test program");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("{module}::{test}"), "--test-threads=1"]);
    command
}

/// Returns the value of the first header line with this name.
pub fn header_value<'a>(message: &'a [u8], name: &str) -> Option<&'a str> {
    let end = message.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(message.len());
    let head = std::str::from_utf8(&message[..end]).ok()?;
    head.split("\r\n").find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Returns a file with these bytes, for the standard input of a program.
pub fn stdin_file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// Runs a program until it exits; `None` if it is not installed.
pub async fn run_if_installed(command: &mut Command) -> Option<Output> {
    let mut command = std::mem::replace(command, Command::new(""));
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    match output {
        Ok(output) => Some(output),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("{error}"),
    }
}
