//! Peer of an HTTP connection.

use std::net::IpAddr;

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The address of the connection.
    pub address: IpAddr,
    /// Whether the connection exceeds a limit, so that its requests are rejected.
    pub is_over_limit: bool,
}
