//! Listening sockets, independent of the process that opened them.
//!
//! A socket outlives its service: it stays open when the configuration changes, and when a process passes its sockets
//! on. Clients that connect in the meantime wait in the kernel's queue and are not refused.

use crate::daemon::start_error::StartError;
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

/// Open sockets, each with its address.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    tcp: Vec<OpenSocket<SocketAddr, Arc<net::TcpListener>>>,
    unix: Vec<OpenSocket<PathBuf, Arc<unix::UnixListener>>>,
    /// Addresses that could not be bound and may be later.
    unbound: Vec<UnboundAddress>,
    /// Addresses that may be missing: any at the start, later those that were missing before.
    on_bind_error: BindErrorPolicy,
}

/// Addresses for which a bind error is tolerated.
#[derive(Clone, Debug, Default)]
enum BindErrorPolicy {
    #[default]
    Fail,
    Tolerate,
    TolerateFor(Vec<ListenAddress>),
}

/// One open socket.
#[derive(Clone, Debug)]
struct OpenSocket<P, S> {
    address: P,
    socket: S,
    inherited: bool,
}

/// Address that cannot be bound at present.
#[derive(Clone, Debug)]
pub struct UnboundAddress {
    address: ListenAddress,
    /// Name of the listener and reason.
    pub error: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ListenAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl UnboundAddress {
    /// Returns the address as text.
    pub fn address(&self) -> String {
        match &self.address {
            ListenAddress::Tcp(address) => address.to_string(),
            ListenAddress::Unix(path) => path.display().to_string(),
        }
    }

    /// Returns whether the address can be bound now.
    pub fn can_bind(&self) -> bool {
        match &self.address {
            ListenAddress::Tcp(address) => new_bound_socket(*address).is_ok(),
            ListenAddress::Unix(path) => !path.exists() || is_stale_socket(path),
        }
    }
}

/// Returns whether binding may succeed later: another program has the address, the machine does not have it yet, or
/// space or descriptors are exhausted. A port that needs more privileges is a fault of the configuration.
fn is_transient_bind_error(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let kinds = [AddrInUse, AddrNotAvailable, QuotaExceeded, ReadOnlyFilesystem, StorageFull];
    kinds.contains(&error.kind()) || descriptors::is_descriptor_shortage(error)
}

/// Bound socket of a listener.
pub struct BoundSocket<S> {
    /// Duplicate handle: the socket is closed with its last handle.
    pub socket: S,
    /// Whether another process has it, too, and keeps it open when this one ends.
    pub inherited: bool,
}

impl Sockets {
    /// Creates an empty set that tolerates addresses that cannot be bound at present.
    pub fn for_startup() -> Self {
        Self { on_bind_error: BindErrorPolicy::Tolerate, ..Self::default() }
    }

    /// Creates an empty set that tolerates only the addresses that `before` is missing.
    pub fn for_reload(before: &Self) -> Self {
        let places = before.unbound.iter().map(|missing| missing.address.clone());
        Self { on_bind_error: BindErrorPolicy::TolerateFor(places.collect()), ..Self::default() }
    }

    /// Returns the addresses that could not be bound so far.
    pub fn unbound(&self) -> &[UnboundAddress] {
        &self.unbound
    }

    /// Records a missing address, if it is tolerated.
    fn tolerate_bind_error(
        &mut self,
        address: ListenAddress,
        listener: &'static str,
        error: io::Error,
    ) -> Result<(), StartError> {
        let may_be_missing = match &self.on_bind_error {
            BindErrorPolicy::Fail => false,
            BindErrorPolicy::Tolerate => true,
            BindErrorPolicy::TolerateFor(places) => places.contains(&address),
        };
        let passes = is_transient_bind_error(&error);
        let mut missing = UnboundAddress { address, error: String::new() };
        let fault = StartError::Bind { listener, address: missing.address(), source: error };
        if !may_be_missing || !passes {
            return Err(fault);
        }
        missing.error = fault.to_string();
        self.unbound.push(missing);
        Ok(())
    }

    /// Adds the sockets of another set.
    pub fn add_all(&mut self, other: Self) {
        self.tcp.extend(other.tcp);
        self.unix.extend(other.unix);
    }

    /// Adds a socket that was opened before this process started.
    pub fn add_tcp(&mut self, socket: net::TcpListener, inherited: bool) -> io::Result<()> {
        if !socket_acceptconn(&socket)? {
            return Err(io::Error::other("it does not listen"));
        }
        socket.set_nonblocking(true)?;
        self.tcp.push(OpenSocket { address: socket.local_addr()?, socket: Arc::new(socket), inherited });
        Ok(())
    }

    /// Adds a Unix socket that was opened before this process started.
    pub fn add_unix(&mut self, socket: unix::UnixListener, inherited: bool) -> io::Result<()> {
        if !socket_acceptconn(&socket)? {
            return Err(io::Error::other("it does not listen"));
        }
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let path = address.as_pathname().ok_or_else(|| io::Error::other("it has no path"))?;
        self.unix.push(OpenSocket { address: path.to_owned(), socket: Arc::new(socket), inherited });
        Ok(())
    }

    /// Returns a socket for `address`, taken from `offered` or newly opened; `None` if it is missing.
    pub fn listen_tcp(
        &mut self,
        offered: &mut Self,
        what: &'static str,
        address: SocketAddr,
    ) -> Result<Option<BoundSocket<TcpListener>>, StartError> {
        let open = match offered.tcp.iter().position(|open| open.address == address) {
            Some(place) => Ok(offered.tcp.remove(place)),
            None => bind_tcp(address).map(|socket| OpenSocket {
                address,
                socket: Arc::new(socket),
                inherited: false,
            }),
        };
        let taken = open.and_then(|open| {
            let socket = TcpListener::from_std(open.socket.try_clone()?)?;
            let inherited = open.inherited;
            self.tcp.push(open);
            Ok(BoundSocket { socket, inherited })
        });
        match taken {
            Ok(taken) => Ok(Some(taken)),
            Err(error) => self.tolerate_bind_error(ListenAddress::Tcp(address), what, error).map(|()| None),
        }
    }

    /// Returns a socket at `path`, for this user and its group, like [`Self::listen_tcp`].
    pub fn listen_unix(
        &mut self,
        offered: &mut Self,
        path: &Path,
    ) -> Result<Option<UnixListener>, StartError> {
        let open = match offered.unix.iter().position(|open| open.address == path) {
            Some(place) => Ok(offered.unix.remove(place)),
            None => bind_unix(path).map(|socket| OpenSocket {
                address: path.to_owned(),
                socket: Arc::new(socket),
                inherited: false,
            }),
        };
        let taken = open.and_then(|open| {
            let socket = UnixListener::from_std(open.socket.try_clone()?)?;
            self.unix.push(open);
            Ok(socket)
        });
        match taken {
            Ok(taken) => Ok(Some(taken)),
            Err(error) => self
                .tolerate_bind_error(ListenAddress::Unix(path.to_owned()), "the admin socket", error)
                .map(|()| None),
        }
    }

    /// Returns the addresses of all open sockets.
    pub fn addresses(&self) -> impl Iterator<Item = String> {
        let tcp = self.tcp.iter().map(|open| open.address.to_string());
        tcp.chain(self.unix.iter().map(|open| open.address.display().to_string()))
    }

    /// Removes the files of Unix sockets that no other process has open.
    pub fn remove_socket_files(&self) {
        for open in self.unix.iter().filter(|open| !open.inherited) {
            // The next start creates it again in any case.
            let _ = std::fs::remove_file(&open.address);
        }
    }

    /// Returns duplicate descriptors for another process, each with whether the socket was inherited.
    pub fn duplicate_descriptors(&self) -> io::Result<Vec<(OwnedFd, bool)>> {
        let tcp = self.tcp.iter().map(|open| Ok((open.socket.try_clone()?.into(), open.inherited)));
        let unix = self.unix.iter().map(|open| Ok((open.socket.try_clone()?.into(), open.inherited)));
        tcp.chain(unix).collect()
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<net::TcpListener> {
    new_bound_socket(address)?.listen(LISTEN_BACKLOG)?.into_std()
}

/// Returns a bound socket that does not listen.
fn new_bound_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn bind_unix(path: &Path) -> io::Result<unix::UnixListener> {
    // A socket file that refuses connections is left over from a dead process.
    if is_stale_socket(path) {
        std::fs::remove_file(path)?;
    }
    let socket = unix::UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o660))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn is_stale_socket(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    is_socket && unix::UnixStream::connect(path).is_err()
}

/// Connections waiting for their accept; a thousand at once is normal when a batch starts.
const LISTEN_BACKLOG: u32 = 4096;
