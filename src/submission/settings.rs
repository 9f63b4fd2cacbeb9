use super::password::Password;
use crate::smtp::{Account, Authentication};
use ipnet::IpNet;
use std::net::SocketAddr;
use std::sync::Arc;

/// One place where clients connect.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// How TLS begins.
    pub tls: ListenerTls,
    /// Whether MAIL and AUTH wait for TLS.
    pub require_tls: bool,
    /// Whether clients log in.
    pub authentication: Authentication,
    /// Networks that may connect.
    pub allow: Vec<IpNet>,
}

/// How TLS begins on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerTls {
    /// With STARTTLS.
    StartTls,
    /// With the first byte.
    Implicit,
    /// Never.
    None,
}

/// One user and how it proves who it is.
#[derive(Clone, Debug)]
pub struct User {
    /// What it is and may.
    pub account: Arc<Account>,
    /// How its password is checked; without one it cannot log in.
    pub password: Option<Password>,
}
