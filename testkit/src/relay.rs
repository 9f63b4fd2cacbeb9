//! Relay in this process, with a directory of its own.

use crate::smtp_sink::SmtpSink;
use mailtrail::config;
use mailtrail::daemon::Daemon;
use mailtrail_mail::{Clock, Timestamp, TrackingId};
use mailtrail_store::Store;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

pub const USER: &str = "odoo";
pub const PASSWORD: &str = "lab-secret";

/// Running relay and its directory, which is removed with it.
pub struct Relay {
    daemon: Daemon,
    directory: TempDir,
}

impl Relay {
    /// Starts a relay with five listeners that sends its mail to `sink`.
    pub async fn start(sink: &SmtpSink, limits: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let text = configuration(directory.path().to_str().unwrap(), [0; 3], sink.port(), limits);
        let config = config::parse(&text, directory.path(), &BTreeMap::new()).unwrap();
        let daemon = Daemon::start(&config, Clock::System, None).await.unwrap();
        Self { daemon, directory }
    }

    /// Listener that requires STARTTLS and authentication.
    pub fn guarded(&self) -> SocketAddr {
        self.daemon.smtp_addresses()[0]
    }

    /// Listener without TLS and authentication.
    pub fn open(&self) -> SocketAddr {
        self.daemon.smtp_addresses()[1]
    }

    /// Listener that rejects clients on this machine.
    pub fn closed(&self) -> SocketAddr {
        self.daemon.smtp_addresses()[2]
    }

    /// Listener with TLS from the first byte and authentication.
    pub fn implicit(&self) -> SocketAddr {
        self.daemon.smtp_addresses()[3]
    }

    /// Listener for which 127.0.0.1 is a proxy of 192.0.2.0/24 and 2001:db8::/32, and 192.0.2.7 may send XCLIENT.
    pub fn proxied(&self) -> SocketAddr {
        self.daemon.smtp_addresses()[4]
    }

    /// Returns the address of a listener by its index in the configuration.
    pub fn listener_at(&self, place: usize) -> SocketAddr {
        self.daemon.smtp_addresses()[place]
    }

    /// Returns its data directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the path of its self-signed certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory().join("tls/relay.pem")
    }

    /// Returns a client's connector that trusts this certificate.
    pub fn tls_connector(&self) -> TlsConnector {
        mailtrail_net::tls::build_connector(Some(&self.certificate())).unwrap()
    }

    pub fn store(&self) -> &Store {
        self.daemon.store()
    }

    /// Stops the relay. The returned values keep the store and its directory.
    pub async fn stop(self) -> (Store, TempDir) {
        let store = self.daemon.store().clone();
        self.daemon.stop().await;
        (store, self.directory)
    }
}

/// Returns the ids of all messages in a store, newest first.
pub fn all_message_ids(store: &Store) -> Vec<TrackingId> {
    let low = TrackingId::new(Timestamp::from_millis(0), 0);
    let high = TrackingId::new(Timestamp::from_millis((1 << 48) - 1), u128::MAX);
    store.ids_in_range(low, high, usize::MAX).unwrap()
}

/// Configuration of five listeners, in order: STARTTLS and authentication; neither; no client allowed; and on any port TLS
/// from the first byte, and proxies.
pub fn configuration(data_dir: &str, ports: [u16; 3], sink: u16, limits: &str) -> String {
    let [guarded, open, closed] = ports;
    format!(
        r#"
[server]
hostname = "relay.example.com"
data_dir = "{data_dir}"
[[listener]]
address = "127.0.0.1:{guarded}"
[[listener]]
address = "127.0.0.1:{open}"
tls = "none"
auth = "none"
[[listener]]
address = "127.0.0.1:{closed}"
tls = "none"
auth = "none"
allow = ["192.0.2.0/24"]
[[listener]]
address = "127.0.0.1:0"
tls = "implicit"
[[listener]]
address = "127.0.0.1:0"
tls = "none"
auth = "none"
allow = ["192.0.2.0/24", "2001:db8::/32"]
proxy_protocol_from = ["127.0.0.1"]
xclient_from = ["192.0.2.7"]
[[user]]
name = "{USER}"
password = "{PASSWORD}"
senders = ["*@example.com"]
[limits]
{limits}
[[upstream]]
name = "sink"
provider = "plain"
host = "127.0.0.1"
port = {sink}
tls = "none"
[upstream.retry]
first = "100ms"
"#
    )
}
