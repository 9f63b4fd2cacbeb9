//! Passing sockets from the predecessor process and to the successor: systemd's protocol for socket activation,
//! `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` (sd_listen_fds(3)), in both directions.

use crate::daemon::sockets::Sockets;
use command_fds::{CommandFdExt, FdMapping};
use listenfd::ListenFd;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

impl Sockets {
    /// Takes the sockets that this process was started with. Removes the variables from the environment, so it is
    /// called only once, at the start.
    pub fn from_env() -> Self {
        let names = std::env::var(FD_NAMES_VARIABLE).unwrap_or_default();
        let mut names = names.split(':');
        let mut listed = ListenFd::from_env();
        let mut sockets = Self::default();
        for number in 0..listed.len() {
            let name = names.next().unwrap_or_default();
            if let Err(error) = sockets.add_inherited(&mut listed, number, name != OWN_SOCKET_NAME) {
                tracing::warn!(number, name, %error, "inherited socket cannot be used");
            }
        }
        sockets
    }

    fn add_inherited(&mut self, listed: &mut ListenFd, number: usize, lent: bool) -> io::Result<()> {
        if let Ok(Some(socket)) = listed.take_tcp_listener(number) {
            return self.add_tcp(socket, lent);
        }
        match listed.take_unix_listener(number)? {
            Some(socket) => self.add_unix(socket, lent),
            None => Ok(()),
        }
    }

    /// Replaces this process by `command`, which gets the sockets; returns only on failure. Waits for the end of all
    /// other threads, so they must be about to end.
    pub fn exec_with_sockets(self, mut command: Command) -> io::Error {
        if !wait_for_other_threads(THREAD_EXIT_TIMEOUT) {
            tracing::warn!("a thread still runs; a socket may be lost");
        }
        let descriptors = match self.duplicate_descriptors() {
            Ok(descriptors) => descriptors,
            Err(error) => return error,
        };
        let names: Vec<_> = descriptors
            .iter()
            .map(|(_, lent)| if *lent { INHERITED_SOCKET_NAME } else { OWN_SOCKET_NAME })
            .collect();
        command
            .env("LISTEN_PID", std::process::id().to_string())
            .env("LISTEN_FDS", names.len().to_string())
            .env(FD_NAMES_VARIABLE, names.join(":"));
        let mappings = descriptors.into_iter().zip(FIRST_PASSED_FD..);
        let mappings = mappings.map(|((parent_fd, _), child_fd)| FdMapping { parent_fd, child_fd });
        match command.fd_mappings(mappings.collect()) {
            Ok(command) => command.exec(),
            Err(collision) => io::Error::other(collision),
        }
    }
}

/// Waits for the end of all threads that close a descriptor as they end. Its number may be assigned to a passed socket:
/// closed a moment later, it would close the socket.
fn wait_for_other_threads(longest: Duration) -> bool {
    let end = Instant::now() + longest;
    while count_other_threads().is_ok_and(|count| count > 0) {
        if Instant::now() >= end {
            return false;
        }
        sleep(Duration::from_millis(1));
    }
    true
}

/// Returns the number of other threads; an error if the system does not list them.
fn count_other_threads() -> io::Result<usize> {
    let mut count = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        // A thread that ended in the meantime has no name. The threads of sled's pool never end and have no
        // descriptors.
        let name = std::fs::read_to_string(thread?.path().join("comm")).unwrap_or_default();
        count += usize::from(!name.is_empty() && !name.starts_with("sled-io"));
    }
    Ok(count - 1)
}

const THREAD_EXIT_TIMEOUT: Duration = Duration::from_secs(5);
const FD_NAMES_VARIABLE: &str = "LISTEN_FDNAMES";
/// Name of a socket that the relay opened itself: it is closed when the relay ends permanently.
const OWN_SOCKET_NAME: &str = "mailtrail-own";
/// Name of a socket that another process opened and still has.
const INHERITED_SOCKET_NAME: &str = "mailtrail-lent";
/// First descriptor of the protocol.
const FIRST_PASSED_FD: i32 = 3;
