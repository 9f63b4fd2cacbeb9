//! Peer of an HTTP connection.

use std::net::IpAddr;

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The address of the connection.
    pub address: IpAddr,
    /// Whether there are as many connections as may be: it is told to come again.
    pub is_over_limit: bool,
}
