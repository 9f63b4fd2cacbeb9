//! Log of clients that are rejected before they are identified. They control the frequency, so one line per minute is
//! written for each network and reason.

use crate::client_network::ClientNetwork;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Reason for which a client is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its address is not among those that may connect.
    Network,
    /// A proxy's client, likewise.
    ProxiedNetwork,
    /// A PROXY header is missing or wrong.
    ProxyHeader,
    /// XCLIENT names no user.
    ProxiedUser,
    /// There are as many connections as may be.
    TooManyConnections,
    /// Connection limit of the webhook listener.
    TooManyHttpConnections,
    /// TLS where SMTP begins in clear.
    TlsOnClearPort,
    /// TLS where HTTP is spoken in clear.
    TlsOnHttpPort,
    /// HTTP where TLS comes first.
    HttpOnTlsPort,
    /// Anything but TLS where that comes first.
    ClearOnTlsPort,
    /// A TLS version below 1.2.
    TlsVersion,
    /// No cipher suite, curve or signature in common.
    TlsAlgorithms,
    /// The client does not trust our certificate.
    CertificateDistrusted,
    /// Its own certificate is not trusted.
    ClientCertificate,
    /// It left in the middle of the handshake.
    TlsAborted,
    /// The handshake did not end in time.
    TlsTimeout,
    /// Timeout at the webhook listener.
    HttpsTimeout,
    /// The handshake failed otherwise.
    TlsHandshake,
    /// MAIL or AUTH before STARTTLS.
    BeforeTls,
    /// MAIL before a login.
    BeforeLogin,
    /// AUTH where there are no logins.
    LoginNotOffered,
    /// STARTTLS where there is none.
    TlsNotOffered,
    /// A sender that the user may not have.
    SenderNotAllowed,
    /// XCLIENT from an address without permission.
    XclientNotAllowed,
    /// Another protocol than SMTP.
    NotSmtp,
    /// A request to a path that nothing has.
    UnknownPath,
    /// A path with another method than POST.
    MethodNotAllowed,
    /// Invalid HTTP framing or syntax.
    HttpFraming,
    /// API request with an unknown Host.
    ApiHost,
    /// An API request of a page that another machine serves.
    ApiOrigin,
    /// An API request without a valid token.
    ApiToken,
}

impl Refusal {
    /// Returns the label value for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Network | Self::ProxiedNetwork => "network",
            Self::ProxyHeader => "proxy-header",
            Self::ProxiedUser => "proxied-user",
            Self::TooManyConnections | Self::TooManyHttpConnections => "connections",
            Self::TlsOnClearPort | Self::TlsOnHttpPort => "tls-on-clear-port",
            Self::ClearOnTlsPort | Self::HttpOnTlsPort => "clear-on-tls-port",
            Self::TlsVersion => "tls-version",
            Self::TlsAlgorithms => "tls-algorithms",
            Self::CertificateDistrusted => "certificate-distrusted",
            Self::ClientCertificate => "client-certificate",
            Self::TlsAborted => "tls-left",
            Self::TlsTimeout | Self::HttpsTimeout => "tls-timeout",
            Self::TlsHandshake => "tls-handshake",
            Self::BeforeTls => "before-tls",
            Self::BeforeLogin => "before-login",
            Self::LoginNotOffered => "login-not-offered",
            Self::TlsNotOffered => "tls-not-offered",
            Self::SenderNotAllowed => "sender",
            Self::XclientNotAllowed => "xclient",
            Self::NotSmtp => "not-smtp",
            Self::UnknownPath => "path",
            Self::MethodNotAllowed => "method",
            Self::HttpFraming => "http-framing",
            Self::ApiHost => "api-host",
            Self::ApiOrigin => "api-origin",
            Self::ApiToken => "api-token",
        }
    }

    /// What happened, and what helps.
    const fn description(self) -> &'static str {
        match self {
            Self::Network => {
                "connection from outside the allowed networks refused; see `allow` of the listener"
            }
            Self::ProxiedNetwork => {
                "a proxy's client from outside the allowed networks refused; see `allow` of the listener"
            }
            Self::ProxyHeader => "a proxy's connection refused; see `proxy_protocol_from` of the listener",
            Self::ProxiedUser => "XCLIENT names a user that is not configured; see [[user]]",
            Self::TooManyConnections => {
                "too many connections; see `connections` and `connections_per_ip` in [limits]"
            }
            Self::TooManyHttpConnections => {
                "too many connections; see `connections` and `connections_per_ip` in [http]"
            }
            Self::TlsOnClearPort => {
                "TLS from the first byte on a listener that begins in clear; set the client to STARTTLS, or `tls` of the \
                 listener to \"implicit\""
            }
            Self::TlsOnHttpPort => {
                "HTTPS on a listener that speaks HTTP; see `tls` in [http], or send the provider to the web server in \
                 front"
            }
            Self::HttpOnTlsPort => {
                "HTTP on a listener that speaks HTTPS; begin the provider's address with https://, or see `tls` in [http]"
            }
            Self::ClearOnTlsPort => {
                "a client without TLS on a listener that begins with TLS; set the client to SSL/TLS, or `tls` of the \
                 listener to \"starttls\""
            }
            Self::TlsVersion => {
                "TLS handshake failed: the client speaks nothing newer than TLS 1.1; it needs TLS 1.2"
            }
            Self::TlsAlgorithms => {
                "TLS handshake failed: the client has no cipher suite or curve in common; update its TLS library"
            }
            Self::CertificateDistrusted => {
                "TLS handshake failed: the client does not trust our certificate; let it trust the issuer, or set \
                 `certificate` in [tls] or [http] to one that it trusts"
            }
            Self::ClientCertificate => {
                "TLS handshake failed: the client's certificate is not trusted; see `client_ca_file` of the listener"
            }
            Self::TlsAborted => {
                "TLS handshake failed: the client closed it; it may not trust our certificate: see `certificate` in [tls] \
                 or [http]"
            }
            Self::TlsTimeout => {
                "TLS handshake failed: nothing came in time; a client without TLS waits so: set it to SSL/TLS, or `tls` of \
                 the listener to \"starttls\""
            }
            Self::HttpsTimeout => {
                "no whole TLS handshake came in time; look at the client and at firewalls and proxies on the way"
            }
            Self::TlsHandshake => "TLS handshake failed; see the TLS settings of the client",
            Self::BeforeTls => {
                "MAIL or AUTH before STARTTLS refused; switch STARTTLS on in the client, or see `require_tls` of the \
                 listener"
            }
            Self::BeforeLogin => {
                "MAIL without a login refused; give the client the name and password of a [[user]], or see `auth` of the \
                 listener"
            }
            Self::LoginNotOffered => {
                "AUTH on a listener without logins refused; take name and password out of the client, or see `auth` of \
                 the listener"
            }
            Self::TlsNotOffered => {
                "STARTTLS on a listener without it refused; switch it off in the client, or see `tls` of the listener"
            }
            Self::SenderNotAllowed => {
                "a sender that the user may not have was refused; see `senders` of the [[user]]"
            }
            Self::XclientNotAllowed => "XCLIENT refused; see `xclient_from` of the listener",
            Self::NotSmtp => "another protocol than SMTP refused; the client has the wrong port",
            Self::UnknownPath => {
                "a request to an unknown path was refused; correct the address at the provider"
            }
            Self::MethodNotAllowed => "a request with another method than POST was refused",
            Self::HttpFraming => {
                "a request that is not HTTP was refused; look at the client and what is on the way"
            }
            Self::ApiHost => {
                "a request to the API was refused: unknown Host header; add it to `hosts` in [admin]"
            }
            Self::ApiOrigin => {
                "a request to the API was refused: its Origin is another host; open the page by this host's address"
            }
            Self::ApiToken => {
                "a request to the API was refused: no valid token; give the client the `token` of [admin]"
            }
        }
    }
}

/// Writes and counts refusals. Its clones are one.
#[derive(Clone, Debug, Default)]
pub struct RefusalLog(Arc<Mutex<RateLimitState>>);

#[derive(Debug, Default)]
struct RateLimitState {
    open: HashMap<(ClientNetwork, Cow<'static, str>), LogWindow>,
    /// Refusals that found [`MOST_WINDOWS`] open.
    suppressed: u64,
    has_sweeper: bool,
}

/// The minute after a line.
#[derive(Debug)]
struct LogWindow {
    address: IpAddr,
    ends_at: Instant,
    /// Lines that were left out.
    repeated: u64,
}

impl RefusalLog {
    /// Counts a refusal and logs it, unless it was logged within a minute. `detail` must not contain a secret.
    pub fn record_refusal(&self, address: IpAddr, refusal: Refusal, detail: &dyn Display) {
        metrics::counter!("mailtrail_client_refusals_total", "reason" => refusal.as_str()).increment(1);
        if self.should_log(address, refusal.as_str()) {
            let (peer, detail) = (address.to_canonical(), detail.to_string());
            let detail = Some(detail).filter(|detail| !detail.is_empty());
            tracing::warn!(%peer, detail, "{}", refusal.description());
        }
    }

    /// Whether a line with this cause is to be written: none was within a minute.
    pub fn should_log(&self, address: IpAddr, cause: impl Into<Cow<'static, str>>) -> bool {
        let (now, key) = (Instant::now(), (ClientNetwork::from(address), cause.into()));
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = windows.open.len() >= MAX_OPEN_WINDOWS;
        match windows.open.get_mut(&key) {
            Some(window) if now < window.ends_at => {
                window.repeated += 1;
                return false;
            }
            None if is_full => {
                windows.suppressed += 1;
                return false;
            }
            _ => {}
        }
        let window = LogWindow { address: address.to_canonical(), ends_at: now + LOG_WINDOW, repeated: 0 };
        if let Some(ended) = windows.open.insert(key.clone(), window) {
            ended.log_repeated(&key.1);
        }
        if !std::mem::replace(&mut windows.has_sweeper, true) {
            tokio::spawn(self.clone().close_windows());
        }
        true
    }

    /// Closes each window at its end and logs the number of suppressed lines.
    async fn close_windows(self) {
        while let Some(next) = self.close_ended_windows() {
            tokio::time::sleep_until(next).await;
        }
    }

    /// When the next window ends; `None` where none is open.
    fn close_ended_windows(&self) -> Option<Instant> {
        let (now, mut ended) = (Instant::now(), Vec::new());
        let (more, next) = {
            let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            ended.extend(windows.open.extract_if(|_, window| now >= window.ends_at));
            let next = windows.open.values().map(|window| window.ends_at).min();
            windows.has_sweeper = next.is_some();
            let more = if ended.is_empty() { 0 } else { std::mem::take(&mut windows.suppressed) };
            (more, next)
        };
        ended.iter().for_each(|((_, cause), window)| window.log_repeated(cause));
        if more > 0 {
            tracing::info!(
                repeated = more,
                "clients of more addresses were refused; nothing else was said of them"
            );
        }
        next
    }
}

impl LogWindow {
    fn log_repeated(&self, reason: &str) {
        if self.repeated > 0 {
            let (peer, repeated) = (self.address, self.repeated);
            tracing::info!(%peer, reason, repeated, "a client was refused as before within a minute");
        }
    }
}

const LOG_WINDOW: Duration = Duration::from_secs(60);
/// Maximum number of lines per minute over all networks.
const MAX_OPEN_WINDOWS: usize = 1000;

#[cfg(test)]
#[path = "../../../testkit/src/log_capture.rs"]
mod log_capture;

#[cfg(test)]
mod tests {
    use super::log_capture::LogCapture;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn logs_one_line_a_minute_per_network_and_reason() {
        let log = LogCapture::default();
        let _listening = log.install();
        let refusals = RefusalLog::default();
        for _ in 0..500 {
            for address in ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"] {
                let address = address.parse().unwrap();
                refusals.record_refusal(address, Refusal::Network, &"");
                refusals.record_refusal(address, Refusal::BeforeTls, &"");
            }
        }
        assert_eq!(log.lines("WARN").len(), 6);
        assert_eq!(log.lines("repeated=").len(), 0);
        tokio::time::sleep(LOG_WINDOW).await;
        tokio::task::yield_now().await;
        assert_eq!(log.lines("peer=192.0.2.1 reason=\"network\" repeated=499").len(), 1);
        assert_eq!(log.lines("peer=2001:db8::1 reason=\"network\" repeated=999").len(), 1);
        assert_eq!(log.lines("repeated=").len(), 6);
        let windows = refusals.0.lock().unwrap();
        assert!(windows.open.is_empty() && !windows.has_sweeper, "nothing is left");
        drop(windows);
        refusals.record_refusal("192.0.2.1".parse().unwrap(), Refusal::Network, &"");
        assert_eq!(log.lines("WARN").len(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn bounds_lines_and_memory_for_many_addresses() {
        let log = LogCapture::default();
        let _listening = log.install();
        let refusals = RefusalLog::default();
        for number in 0..MAX_OPEN_WINDOWS as u32 + 500 {
            refusals.record_refusal(IpAddr::V4(number.into()), Refusal::Network, &"");
        }
        assert_eq!(log.lines("WARN").len(), MAX_OPEN_WINDOWS);
        tokio::time::sleep(LOG_WINDOW).await;
        tokio::task::yield_now().await;
        assert_eq!(log.lines("clients of more addresses were refused").len(), 1);
        assert_eq!(log.lines("repeated=500").len(), 1);
    }
}
