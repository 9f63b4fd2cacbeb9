use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Trusted proxies and connection limits of the webhook listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Proxies whose `X-Forwarded-For` is trusted. Default: loopback.
    pub proxies: Vec<IpNet>,
    /// Connections at once. Default 1000.
    pub connections: usize,
    /// Of them of one address (IPv6: /64) that is no such web server. Default 200.
    pub connections_per_ip: usize,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        let loopback = [
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
        ];
        Self { proxies: loopback.to_vec(), connections: 1000, connections_per_ip: 200 }
    }
}
