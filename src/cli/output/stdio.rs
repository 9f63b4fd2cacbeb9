//! Standard output and standard error. `println!` panics if nothing reads its output; these functions do not.

use std::io::{ErrorKind, Write};

/// Prints a line on standard output.
pub fn print_line(line: impl std::fmt::Display) {
    write_stdout(format!("{line}\n").as_bytes());
}

/// Writes to standard output and flushes. If the reader has closed it, as `head` does, the process exits with 0. After
/// any other error it exits with 1, because the output is incomplete.
pub fn write_stdout(bytes: &[u8]) {
    let mut out = std::io::stdout();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprint_line(format!("mailtrail: cannot write to standard output: {error}"));
            std::process::exit(1);
        }
    }
}

/// Prints a line on standard error, within `STDERR_TIMEOUT`. If nothing reads it, the exit code still reports the
/// error.
pub fn eprint_line(line: impl std::fmt::Display) {
    let line = format!("{line}\n");
    let (written, wait) = std::sync::mpsc::channel();
    let write = move || {
        let _ = std::io::stderr().write_all(line.as_bytes());
        written.send(())
    };
    if std::thread::Builder::new().spawn(write).is_ok() {
        let _ = wait.recv_timeout(STDERR_TIMEOUT);
    }
}

/// Time for the reader of standard error to accept a line.
pub const STDERR_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// Prints a JSON object on one line.
pub fn print_json(value: &impl serde::Serialize) {
    match serde_json::to_string(value) {
        Ok(line) => print_line(line),
        Err(error) => eprint_line(format!("mailtrail: cannot write a response as JSON: {error}")),
    }
}
