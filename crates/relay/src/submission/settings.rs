use crate::submission::password::Password;
use ipnet::IpNet;
use mailtrail_mail::{HeaderCleanup, Rate};
use mailtrail_net::transport::QuotaLimit;
use mailtrail_smtp::{Account, Authentication};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// One place where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Listen address.
    pub address: SocketAddr,
    /// TLS mode.
    pub tls: ListenerTls,
    /// Whether MAIL and AUTH wait for TLS.
    pub require_tls: bool,
    /// Whether clients log in.
    pub authentication: Authentication,
    /// Networks that may connect.
    pub allow: Vec<IpNet>,
    /// Networks of proxies that send a PROXY header.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Networks of proxies that may use XCLIENT.
    pub xclient_from: Vec<IpNet>,
    /// CA file for client certificates, if they can log in.
    pub client_ca: Option<PathBuf>,
    /// Header cleanup for clients without a login.
    pub cleanup: HeaderCleanup,
}

/// How TLS begins on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerTls {
    /// TLS after STARTTLS.
    StartTls,
    /// With the first byte.
    Implicit,
    /// No TLS.
    None,
}

/// A user with its credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Name and permissions.
    pub account: Arc<Account>,
    /// How its password is checked; without one it logs in by its certificate only.
    pub password: Option<Password>,
    /// Identities of its certificates, in the form of `certificate_identity`.
    pub certificate_identities: Vec<String>,
    /// How many messages it may send; without one all.
    pub rate: Option<Rate>,
    /// How many recipients its mail may have in a time; without one any number.
    pub quota: Option<QuotaLimit>,
}

/// What holds clients back that guess or send too much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginPolicy {
    /// Different wrong logins from one address within the window that lock their user for it. Default 10, 0 to 10,000; 0:
    /// never.
    pub login_failures: u32,
    /// How long a failed login counts. Default 10 min, 1 s to 1 day.
    pub login_window: Duration,
    /// How long that lasts. Default 10 min, 1 s to 1 day.
    pub login_lockout: Duration,
    /// How many messages one address may send. Default all: Odoo never retries.
    pub rate_per_ip: Option<Rate>,
}

impl Default for LoginPolicy {
    fn default() -> Self {
        Self {
            login_failures: 10,
            login_window: Duration::from_secs(600),
            login_lockout: Duration::from_secs(600),
            rate_per_ip: None,
        }
    }
}
