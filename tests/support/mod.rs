//! What the tests on real sockets share: a relay, the server behind it, a client in front of it.
#![allow(dead_code, reason = "each test takes what it needs")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

pub mod client;
pub mod namespace;
pub mod process;
pub mod relay;
pub mod sink;

use std::fs::File;
use std::io::{ErrorKind, Seek, Write};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Longest wait for anything; reached only by a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Looks until there is something to be seen.
pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, &mut look).await
}

/// The same, with another patience.
pub async fn eventually_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(started.elapsed() < patience, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The value of the first header line of that name in a message.
pub fn header<'a>(message: &'a [u8], name: &str) -> Option<&'a str> {
    let end = message.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(message.len());
    let head = std::str::from_utf8(&message[..end]).ok()?;
    head.split("\r\n").find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// What a program is to read.
pub fn input(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// Runs a program to its end; `None` where there is no such program.
pub async fn run(command: &mut Command) -> Option<Output> {
    let mut command = std::mem::replace(command, Command::new(""));
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    match output {
        Ok(output) => Some(output),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("{error}"),
    }
}
