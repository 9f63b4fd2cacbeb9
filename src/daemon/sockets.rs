//! The sockets that the relay listens on, whoever opened them.
//!
//! A socket outlives what is served on it: a changed configuration, and a process that hands its sockets over. Whoever
//! connects meanwhile waits in the kernel's queue and is not refused.

use super::StartError;
use rustix::net::sockopt::socket_acceptconn;
use std::fmt::Display;
use std::fs::Permissions;
use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpSocket, UnixListener};

/// Sockets that are open, each with what it was opened for.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    tcp: Vec<Open<SocketAddr, Arc<net::TcpListener>>>,
    unix: Vec<Open<PathBuf, Arc<unix::UnixListener>>>,
}

/// One of them.
#[derive(Clone, Debug)]
struct Open<P, S> {
    place: P,
    socket: S,
    lent: bool,
}

/// A socket to listen on.
pub struct Taken<S> {
    /// A handle of its own: when the last one is closed, the socket is.
    pub socket: S,
    /// Whether somebody else has it too and keeps it open when this process ends.
    pub lent: bool,
}

impl Sockets {
    /// Adds a socket that was opened before this process began.
    pub fn add_tcp(&mut self, socket: net::TcpListener, lent: bool) -> io::Result<()> {
        if !socket_acceptconn(&socket)? {
            return Err(io::Error::other("it does not listen"));
        }
        socket.set_nonblocking(true)?;
        self.tcp.push(Open { place: socket.local_addr()?, socket: Arc::new(socket), lent });
        Ok(())
    }

    /// The same for one in the file system.
    pub fn add_unix(&mut self, socket: unix::UnixListener, lent: bool) -> io::Result<()> {
        if !socket_acceptconn(&socket)? {
            return Err(io::Error::other("it does not listen"));
        }
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let path = address.as_pathname().ok_or_else(|| io::Error::other("it has no path"))?;
        self.unix.push(Open { place: path.to_owned(), socket: Arc::new(socket), lent });
        Ok(())
    }

    /// A socket for `address`: taken from `offered`, or opened.
    pub fn listen(
        &mut self,
        offered: &mut Self,
        what: &'static str,
        address: SocketAddr,
    ) -> Result<Taken<TcpListener>, StartError> {
        let open = match offered.tcp.iter().position(|open| open.place == address) {
            Some(place) => Ok(offered.tcp.remove(place)),
            None => {
                bind(address).map(|socket| Open { place: address, socket: Arc::new(socket), lent: false })
            }
        };
        let taken = open.and_then(|open| {
            let socket = TcpListener::from_std(open.socket.try_clone()?)?;
            let lent = open.lent;
            self.tcp.push(open);
            Ok(Taken { socket, lent })
        });
        taken.map_err(bind_error(what, address))
    }

    /// The same at `path`, for this user and its group.
    pub fn listen_at(&mut self, offered: &mut Self, path: &Path) -> Result<UnixListener, StartError> {
        let open = match offered.unix.iter().position(|open| open.place == path) {
            Some(place) => Ok(offered.unix.remove(place)),
            None => bind_path(path).map(|socket| Open {
                place: path.to_owned(),
                socket: Arc::new(socket),
                lent: false,
            }),
        };
        let taken = open.and_then(|open| {
            let socket = UnixListener::from_std(open.socket.try_clone()?)?;
            self.unix.push(open);
            Ok(socket)
        });
        taken.map_err(bind_error("the admin socket", path.display()))
    }

    /// Where they are.
    pub fn places(&self) -> impl Iterator<Item = String> {
        let tcp = self.tcp.iter().map(|open| open.place.to_string());
        tcp.chain(self.unix.iter().map(|open| open.place.display().to_string()))
    }

    /// Removes the files of those that nobody opens any more.
    pub fn remove_files(&self) {
        for open in self.unix.iter().filter(|open| !open.lent) {
            // It is made anew at the next start anyway.
            let _ = std::fs::remove_file(&open.place);
        }
    }

    /// What another process needs of them, and whether somebody has lent it.
    pub fn descriptors(&self) -> io::Result<Vec<(OwnedFd, bool)>> {
        let tcp = self.tcp.iter().map(|open| Ok((open.socket.try_clone()?.into(), open.lent)));
        let unix = self.unix.iter().map(|open| Ok((open.socket.try_clone()?.into(), open.lent)));
        tcp.chain(unix).collect()
    }
}

fn bind(address: SocketAddr) -> io::Result<net::TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

fn bind_path(path: &Path) -> io::Result<unix::UnixListener> {
    // A socket that is still there and that nobody answers on is a dead process's.
    if is_dead_socket(path) {
        std::fs::remove_file(path)?;
    }
    let socket = unix::UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o660))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn is_dead_socket(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    is_socket && unix::UnixStream::connect(path).is_err()
}

fn bind_error(what: &'static str, place: impl Display) -> impl FnOnce(io::Error) -> StartError {
    let place = place.to_string();
    move |source| StartError::Bind { what, place, source }
}

/// Connections that may wait to be taken; a thousand at once is normal when a batch starts.
const BACKLOG: u32 = 4096;
