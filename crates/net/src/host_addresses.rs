//! The addresses of a host: tried side by side (RFC 8305), those that worked first.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::sleep;

/// Recent results of the addresses of one host.
#[derive(Debug, Default)]
pub struct HostAddresses {
    history: Mutex<AddressHistory>,
}

#[derive(Debug, Default)]
struct AddressHistory {
    last_good: Option<IpAddr>,
    /// Those that took a connection and did not serve it, or took none, since they served one.
    failed: VecDeque<IpAddr>,
}

impl HostAddresses {
    /// Resolves a host. Addresses that worked come first, those that failed last; in between, the address families
    /// alternate (RFC 8305 section 4).
    pub async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(self.sort_by_preference(lookup_host((host, port)).await?.collect()))
    }

    fn sort_by_preference(&self, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let mut addresses = interleave_families(addresses);
        let experience = self.history();
        // Stable: equals keep their turns.
        addresses.sort_by_key(|address| {
            let ip = address.ip();
            (
                experience.failed.iter().position(|known| *known == ip).map_or(0, |place| place + 1),
                experience.last_good != Some(ip),
            )
        });
        addresses
    }

    /// Connects to one of these addresses: the next is tried after `CONNECTION_ATTEMPT_DELAY`, or as soon as one failed.
    pub async fn connect(&self, addresses: &[SocketAddr]) -> io::Result<TcpStream> {
        let mut waiting = addresses.iter();
        let mut attempts = FuturesUnordered::new();
        let mut error = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        loop {
            if let Some(address) = waiting.next() {
                attempts.push(async move { (address.ip(), TcpStream::connect(*address).await) });
            } else if attempts.is_empty() {
                return Err(error);
            }
            let more = waiting.len() > 0;
            tokio::select! {
                Some((ip, connected)) = attempts.next() => match connected {
                    Ok(stream) => return Ok(stream),
                    Err(failure) => {
                        self.record_failure(ip);
                        error = failure;
                    }
                },
                () = sleep(CONNECTION_ATTEMPT_DELAY), if more => {}
            }
        }
    }

    /// Records a successful connection.
    pub fn record_success(&self, ip: IpAddr) {
        let mut experience = self.history();
        experience.failed.retain(|known| *known != ip);
        experience.last_good = Some(ip);
    }

    /// An address did not serve.
    pub fn record_failure(&self, ip: IpAddr) {
        let mut experience = self.history();
        experience.failed.retain(|known| *known != ip);
        if experience.failed.len() == MAX_FAILED_ADDRESSES {
            experience.failed.pop_front();
        }
        experience.failed.push_back(ip);
        experience.last_good = experience.last_good.filter(|worked| *worked != ip);
    }

    fn history(&self) -> MutexGuard<'_, AddressHistory> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The families in turns, beginning with that of the first address: so the system prefers them.
fn interleave_families(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (preferred, others): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first);
    let longer = preferred.len().max(others.len());
    let turn = |place| [preferred.get(place), others.get(place)];
    (0..longer).flat_map(turn).flatten().copied().collect()
}

/// Resolver of HTTP clients. The client tries the addresses of a family one after another and waits long for a dead
/// one, so an address that accepts a connection is found first and put in front.
#[derive(Clone, Debug)]
pub struct PreferredResolver {
    addresses: Arc<HostAddresses>,
    port: u16,
}

impl PreferredResolver {
    /// For the host and port of a URL.
    pub fn new(url: &Url, addresses: Arc<HostAddresses>) -> Self {
        Self { addresses, port: url.port_or_known_default().unwrap_or_default() }
    }

    /// Resolves a name to its addresses that are `admitted`.
    pub async fn find(&self, name: &Name, admitted: fn(IpAddr) -> bool) -> io::Result<Addrs> {
        let mut found = self.addresses.resolve(name.as_str(), self.port).await?;
        found.retain(|address| admitted(address.ip()));
        if found.len() > 1 {
            let ip = self.addresses.connect(&found).await?.peer_addr()?.ip();
            self.addresses.record_success(ip);
            found = self.addresses.sort_by_preference(found);
        }
        // The client adds the port that it needs.
        Ok(Box::new(found.into_iter().map(|address| SocketAddr::new(address.ip(), 0))))
    }
}

impl Resolve for PreferredResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move { Ok(resolver.find(&name, |_| true).await?) })
    }
}

/// Connection Attempt Delay (RFC 8305 section 5).
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Addresses that are remembered because they failed.
const MAX_FAILED_ADDRESSES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::timeout;

    /// An address that neither accepts nor refuses a connection while the returned values live, because its backlog is
    /// full.
    async fn unresponsive_listener(ip: [u8; 4], port: u16) -> (SocketAddr, TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((ip, port).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut held = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
            held.push(stream);
            assert!(held.len() < 10, "the queue is never full");
        }
        (address, listener, held)
    }

    #[tokio::test]
    async fn unresponsive_address_delays_nothing_and_sorts_last() {
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good_address = good.local_addr().unwrap();
        let (dead_address, _listener, _held) =
            unresponsive_listener([127, 0, 0, 7], good_address.port()).await;
        let addresses = HostAddresses::default();
        let both = vec![dead_address, good_address];
        assert_eq!(addresses.sort_by_preference(both.clone()), both);
        let stream = timeout(Duration::from_secs(10), addresses.connect(&both)).await.unwrap().unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good_address);
        addresses.record_success(good_address.ip());
        assert_eq!(addresses.sort_by_preference(both), [good_address, dead_address]);
    }

    #[tokio::test]
    async fn refusing_address_costs_no_delay_and_all_refusing_is_an_error() {
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good_address = good.local_addr().unwrap();
        let refusing = SocketAddr::from(([127, 0, 0, 8], good_address.port()));
        let addresses = HostAddresses::default();
        let both = [refusing, good_address];
        tokio::time::pause();
        let before = tokio::time::Instant::now();
        let stream = addresses.connect(&both).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good_address);
        assert!(before.elapsed() <= CONNECTION_ATTEMPT_DELAY, "{:?}", before.elapsed());
        assert_eq!(addresses.sort_by_preference(both.to_vec()), [good_address, refusing]);
        let error = addresses.connect(&[refusing]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(addresses.connect(&[]).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn interleaves_families_and_sorts_failed_last() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let [a6, b6, c6, a4, b4] =
            ["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1", "127.0.0.2:1"].map(address);
        let addresses = HostAddresses::default();
        let all = || vec![a6, b6, c6, a4, b4];
        assert_eq!(addresses.sort_by_preference(all()), [a6, a4, b6, b4, c6]);
        addresses.record_failure(a6.ip());
        addresses.record_failure(a4.ip());
        assert_eq!(addresses.sort_by_preference(all()), [b6, b4, c6, a6, a4]);
        addresses.record_success(a4.ip());
        assert_eq!(addresses.sort_by_preference(all()), [a4, b6, b4, c6, a6]);
        addresses.record_failure(a4.ip());
        assert_eq!(addresses.sort_by_preference(all()), [b6, b4, c6, a6, a4]);
    }
}
