//! File descriptors of this process: limit, usage and shortages.

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::fs::File;
use std::io;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// Whether a call failed because this process, or the machine, has no descriptor left.
pub fn is_descriptor_shortage(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .is_some_and(|code| [Errno::MFILE, Errno::NFILE].iter().any(|errno| errno.raw_os_error() == code))
}

/// Waits a little after a connection could not be taken: the next try would fail alike. A shortage is noted.
pub async fn backoff_after_accept_error(error: &io::Error) {
    if is_descriptor_shortage(error) {
        SHORTAGES.send_modify(|count| *count += 1);
    } else {
        tracing::error!(%error, "a connection cannot be taken");
    }
    tokio::time::sleep(ACCEPT_ERROR_BACKOFF).await;
}

/// Opens the descriptor in reserve. Without one, clients wait for a descriptor as long as there is none.
pub fn fill_reserve() {
    let mut reserve = RESERVE.lock().unwrap_or_else(PoisonError::into_inner);
    if reserve.is_none() {
        *reserve = File::open("/dev/null").ok();
    }
}

/// Takes a connection with the descriptor in reserve, and lets `refuse` answer it. False where none could be taken:
/// another thread was faster, or no client waits.
pub async fn refuse_one<F: Future<Output = ()>>(
    socket: &TcpListener,
    refuse: impl FnOnce(TcpStream) -> F,
) -> bool {
    let reserve = RESERVE.lock().unwrap_or_else(PoisonError::into_inner).take();
    let refused = reserve.is_some() && {
        drop(reserve);
        match timeout(ACCEPT_ERROR_BACKOFF, socket.accept()).await {
            Ok(Ok((stream, _))) => {
                refuse(stream).await;
                true
            }
            Ok(Err(_)) | Err(_) => false,
        }
    };
    fill_reserve();
    refused
}

/// Subscribes to the count of connections that could not be accepted for lack of a descriptor.
pub fn subscribe_shortages() -> watch::Receiver<u64> {
    SHORTAGES.subscribe()
}

/// Returns the number of open descriptors and the limit; `None` if the system does not report them.
pub fn open_and_allowed() -> Option<(u64, u64)> {
    let allowed = getrlimit(Resource::Nofile).current?;
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some((open as u64, allowed))
}

/// Descriptors that this process can be allowed; `None`: as many as it likes.
pub fn hard_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Raises the limit to the system's maximum.
pub fn raise_limit() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

static RESERVE: Mutex<Option<File>> = Mutex::new(None);
static SHORTAGES: LazyLock<watch::Sender<u64>> = LazyLock::new(|| watch::Sender::new(0));
const ACCEPT_ERROR_BACKOFF: Duration = Duration::from_millis(200);
