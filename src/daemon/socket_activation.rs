//! Sockets that come from the process before this one, and go to the one behind it: systemd's protocol for socket
//! activation, `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` (sd_listen_fds(3)), in both directions.

use crate::daemon::sockets::Sockets;
use command_fds::{CommandFdExt, FdMapping};
use listenfd::ListenFd;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

impl Sockets {
    /// Those that this process was started with. It takes them out of the environment, so it is for the start only.
    pub fn from_env() -> Self {
        let names = std::env::var(FD_NAMES_VARIABLE).unwrap_or_default();
        let mut names = names.split(':');
        let mut listed = ListenFd::from_env();
        let mut sockets = Self::default();
        for number in 0..listed.len() {
            let name = names.next().unwrap_or_default();
            if let Err(error) = sockets.add_inherited(&mut listed, number, name != OWN_SOCKET_NAME) {
                tracing::warn!(number, name, %error, "a socket that was passed on cannot be used");
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

    /// Replaces this process by `command`, which gets the sockets; returns only if that fails. To be called when
    /// every other thread ends: it waits for them.
    pub fn exec_with_sockets(self, mut command: Command) -> io::Error {
        if !wait_for_other_threads(THREAD_EXIT_TIMEOUT) {
            tracing::warn!("a thread is still at work: a socket may be lost and opened anew");
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

/// Waits for the end of all threads that close something on their way out. Its number may be one that a socket is to
/// get: closed a moment later, it would be the socket.
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

/// Where the system does not say which threads there are, it is an error.
fn count_other_threads() -> io::Result<usize> {
    let mut count = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        // One that has ended meanwhile has no name any more. Those of sled's pool never end, and have nothing.
        let name = std::fs::read_to_string(thread?.path().join("comm")).unwrap_or_default();
        count += usize::from(!name.is_empty() && !name.starts_with("sled-io"));
    }
    Ok(count - 1)
}

const THREAD_EXIT_TIMEOUT: Duration = Duration::from_secs(5);
const FD_NAMES_VARIABLE: &str = "LISTEN_FDNAMES";
/// A socket that the relay opened itself: it is closed when the relay ends for good.
const OWN_SOCKET_NAME: &str = "mailtrail-own";
/// One that somebody else opened, and still has.
const INHERITED_SOCKET_NAME: &str = "mailtrail-lent";
/// The protocol's first descriptor.
const FIRST_PASSED_FD: i32 = 3;
