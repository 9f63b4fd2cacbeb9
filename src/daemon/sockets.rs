//! The sockets that the relay listens on, whoever opened them.
//!
//! A socket outlives what is served on it: a changed configuration, and a process that hands its sockets over. Whoever
//! connects meanwhile waits in the kernel's queue and is not refused.

use crate::daemon::StartError;
use mailtrail_mail::descriptors;
use rustix::net::sockopt::socket_acceptconn;
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
    /// Where none could be opened and may be later.
    missing: Vec<Missing>,
    /// Whether a place that is not there yet is passed over: at the start, and where it was missing before.
    passes_over: PassesOver,
}

/// Which places may be missing.
#[derive(Clone, Debug, Default)]
enum PassesOver {
    /// None.
    #[default]
    None,
    /// Any.
    All,
    /// Those.
    Some(Vec<Place>),
}

/// One of them.
#[derive(Clone, Debug)]
struct Open<P, S> {
    place: P,
    socket: S,
    lent: bool,
}

/// A place that cannot be listened on for now.
#[derive(Clone, Debug)]
pub struct Missing {
    place: Place,
    /// Whose socket it is to be, and why it is not.
    pub fault: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Address(SocketAddr),
    Path(PathBuf),
}

impl Missing {
    /// The place.
    pub fn place(&self) -> String {
        match &self.place {
            Place::Address(address) => address.to_string(),
            Place::Path(path) => path.display().to_string(),
        }
    }

    /// Whether it can be listened on now.
    pub fn can_be_opened(&self) -> bool {
        match &self.place {
            Place::Address(address) => bound(*address).is_ok(),
            Place::Path(path) => !path.exists() || is_dead_socket(path),
        }
    }
}

/// Whether a listener may come later: another program has the address, the machine does not have it yet, or there is no
/// room or descriptor for it. A port that this user may not have is a fault of the configuration.
fn passes_by_itself(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let kinds = [AddrInUse, AddrNotAvailable, QuotaExceeded, ReadOnlyFilesystem, StorageFull];
    kinds.contains(&error.kind()) || descriptors::is_shortage(error)
}

/// A socket to listen on.
pub struct Taken<S> {
    /// A handle of its own: when the last one is closed, the socket is.
    pub socket: S,
    /// Whether somebody else has it too and keeps it open when this process ends.
    pub lent: bool,
}

impl Sockets {
    /// None yet; places that cannot be listened on for now are passed over.
    pub fn for_a_start() -> Self {
        Self { passes_over: PassesOver::All, ..Self::default() }
    }

    /// None yet; places that `before` was missing may be missing on.
    pub fn for_a_change(before: &Self) -> Self {
        let places = before.missing.iter().map(|missing| missing.place.clone());
        Self { passes_over: PassesOver::Some(places.collect()), ..Self::default() }
    }

    /// The places that could not be listened on so far.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// Passes over a place, where that may be.
    fn pass_over(&mut self, place: Place, what: &'static str, error: io::Error) -> Result<(), StartError> {
        let may_be_missing = match &self.passes_over {
            PassesOver::None => false,
            PassesOver::All => true,
            PassesOver::Some(places) => places.contains(&place),
        };
        let passes = passes_by_itself(&error);
        let mut missing = Missing { place, fault: String::new() };
        let fault = StartError::Bind { what, place: missing.place(), source: error };
        if !may_be_missing || !passes {
            return Err(fault);
        }
        missing.fault = fault.to_string();
        self.missing.push(missing);
        Ok(())
    }

    /// Adds those of another.
    pub fn add_all(&mut self, other: Self) {
        self.tcp.extend(other.tcp);
        self.unix.extend(other.unix);
    }

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

    /// A socket for `address`: taken from `offered`, or opened; none where it is missing.
    pub fn listen(
        &mut self,
        offered: &mut Self,
        what: &'static str,
        address: SocketAddr,
    ) -> Result<Option<Taken<TcpListener>>, StartError> {
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
        match taken {
            Ok(taken) => Ok(Some(taken)),
            Err(error) => self.pass_over(Place::Address(address), what, error).map(|()| None),
        }
    }

    /// The same at `path`, for this user and its group.
    pub fn listen_at(&mut self, offered: &mut Self, path: &Path) -> Result<Option<UnixListener>, StartError> {
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
        match taken {
            Ok(taken) => Ok(Some(taken)),
            Err(error) => {
                self.pass_over(Place::Path(path.to_owned()), "the admin socket", error).map(|()| None)
            }
        }
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
    bound(address)?.listen(BACKLOG)?.into_std()
}

/// A socket that has the address and does not listen.
fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
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

/// Connections that may wait to be taken; a thousand at once is normal when a batch starts.
const BACKLOG: u32 = 4096;
