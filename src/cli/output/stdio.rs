//! Standard output and standard error. `println!` panics if nothing reads its output; these functions do not.

use std::io::{ErrorKind, Write};

/// Prints one line.
pub fn print_line(line: impl std::fmt::Display) {
    write_stdout(format!("{line}\n").as_bytes());
}

/// Writes all of that to standard output. A reader that has gone, as `head` does, has seen enough: the program ends
/// quietly and well. Any other failure ends it with 1, since what was asked for is not all there.
pub fn write_stdout(bytes: &[u8]) {
    let mut out = std::io::stdout();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprint_line(format!("mailtrail: standard output cannot be written: {error}"));
            std::process::exit(1);
        }
    }
}

/// Says one line on standard error. Where nothing reads it, the exit code still tells the same.
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

/// For the reader of standard error to take a line.
pub const STDERR_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// Prints a JSON object on one line.
pub fn print_json(value: &impl serde::Serialize) {
    match serde_json::to_string(value) {
        Ok(line) => print_line(line),
        Err(error) => eprint_line(format!("mailtrail: an answer cannot be written as JSON: {error}")),
    }
}
