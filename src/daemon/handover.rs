//! Sockets that come from the process before this one, and go to the one behind it: systemd's protocol for socket
//! activation, `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` (sd_listen_fds(3)), in both directions.

use super::Sockets;
use command_fds::{CommandFdExt, FdMapping};
use listenfd::ListenFd;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

impl Sockets {
    /// Those that this process was started with. It takes them out of the environment, so it is for the start only.
    pub fn inherited() -> Self {
        let names = std::env::var(NAMES).unwrap_or_default();
        let mut names = names.split(':');
        let mut listed = ListenFd::from_env();
        let mut sockets = Self::default();
        for number in 0..listed.len() {
            let name = names.next().unwrap_or_default();
            if let Err(error) = sockets.inherit(&mut listed, number, name != OWN) {
                tracing::warn!(number, name, %error, "a socket that was passed on cannot be used");
            }
        }
        sockets
    }

    fn inherit(&mut self, listed: &mut ListenFd, number: usize, lent: bool) -> io::Result<()> {
        if let Ok(Some(socket)) = listed.take_tcp_listener(number) {
            return self.add_tcp(socket, lent);
        }
        match listed.take_unix_listener(number)? {
            Some(socket) => self.add_unix(socket, lent),
            None => Ok(()),
        }
    }

    /// Replaces this process by `command`, which gets the sockets; returns only if that fails.
    pub fn pass_to(self, mut command: Command) -> io::Error {
        let descriptors = match self.descriptors() {
            Ok(descriptors) => descriptors,
            Err(error) => return error,
        };
        let names: Vec<_> = descriptors.iter().map(|(_, lent)| if *lent { LENT } else { OWN }).collect();
        command
            .env("LISTEN_PID", std::process::id().to_string())
            .env("LISTEN_FDS", names.len().to_string())
            .env(NAMES, names.join(":"));
        let mappings = descriptors.into_iter().zip(FIRST..);
        let mappings = mappings.map(|((parent_fd, _), child_fd)| FdMapping { parent_fd, child_fd });
        match command.fd_mappings(mappings.collect()) {
            Ok(command) => command.exec(),
            Err(collision) => io::Error::other(collision),
        }
    }
}

const NAMES: &str = "LISTEN_FDNAMES";
/// A socket that the relay opened itself: it is closed when the relay ends for good.
const OWN: &str = "mailtrail-own";
/// One that somebody else opened, and still has.
const LENT: &str = "mailtrail-lent";
/// The protocol's first descriptor.
const FIRST: i32 = 3;
