//! How many connections each address has.

use crate::webhook::settings::WebhookSettings;
use ipnet::IpNet;
use mailtrail_net::ClientNetwork;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts of open connections.
#[derive(Debug)]
pub struct HttpConnectionLimiter {
    /// Proxies, whose connections belong to many clients and are not counted per address.
    proxies: Vec<IpNet>,
    /// Connections of one address.
    max_per_network: usize,
    per_network: Mutex<HashMap<ClientNetwork, usize>>,
}

/// One connection's seat, given back when it ends however it ends.
#[derive(Debug)]
pub struct HttpConnectionPermit {
    limiter: Arc<HttpConnectionLimiter>,
    network: Option<ClientNetwork>,
    /// Whether the address exceeds its limit; requests are rejected.
    pub is_over_limit: bool,
}

impl HttpConnectionLimiter {
    /// Creates a limiter without connections.
    pub fn new(settings: WebhookSettings) -> Self {
        let (proxies, max_per_network) = (settings.proxies, settings.connections_per_ip);
        Self { proxies, max_per_network, per_network: Mutex::default() }
    }

    /// Returns a permit for a connection of the address; `None` if there are too many even for a rejection.
    pub fn acquire(self: &Arc<Self>, address: IpAddr) -> Option<HttpConnectionPermit> {
        let address = address.to_canonical();
        if self.proxies.iter().any(|network| network.contains(&address)) {
            return Some(HttpConnectionPermit { limiter: self.clone(), network: None, is_over_limit: false });
        }
        let origin = ClientNetwork::from(address);
        let mut here = self.per_network.lock().unwrap_or_else(PoisonError::into_inner);
        let many = here.entry(origin).or_default();
        if *many >= self.max_per_network + MAX_OVERFLOW_PER_NETWORK {
            return None;
        }
        *many += 1;
        Some(HttpConnectionPermit {
            limiter: self.clone(),
            network: Some(origin),
            is_over_limit: *many > self.max_per_network,
        })
    }
}

impl Drop for HttpConnectionPermit {
    fn drop(&mut self) {
        let Some(origin) = self.network else { return };
        let mut here = self.limiter.per_network.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(many) = here.get_mut(&origin) {
            *many -= 1;
            if *many == 0 {
                here.remove(&origin);
            }
        }
    }
}

/// Rejected connections of one address that may be open: a small part of the total.
const MAX_OVERFLOW_PER_NETWORK: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_connections_per_network() {
        let settings = WebhookSettings { connections_per_ip: 2, ..WebhookSettings::default() };
        let connections = Arc::new(HttpConnectionLimiter::new(settings));
        let enter = |address: &str| connections.acquire(address.parse().unwrap());
        let mut seats: Vec<_> =
            (0..2 + MAX_OVERFLOW_PER_NETWORK).map(|_| enter("192.0.2.1").unwrap()).collect();
        let many: Vec<_> = seats.iter().map(|seat| seat.is_over_limit).collect();
        assert_eq!(many, [vec![false; 2], vec![true; MAX_OVERFLOW_PER_NETWORK]].concat());
        assert!(enter("192.0.2.1").is_none() && enter("::ffff:192.0.2.1").is_none());
        assert!(!enter("192.0.2.2").unwrap().is_over_limit);
        // A trusted proxy forwards requests of many clients.
        let proxied: Vec<_> = (0..20).map(|_| enter("127.0.0.1").unwrap()).collect();
        assert!(proxied.iter().all(|seat| !seat.is_over_limit));
        seats.pop();
        assert!(enter("192.0.2.1").unwrap().is_over_limit);
        drop((seats, proxied));
        assert!(!enter("192.0.2.1").unwrap().is_over_limit);
        assert!(connections.per_network.lock().unwrap().is_empty(), "nobody is left");
    }
}
