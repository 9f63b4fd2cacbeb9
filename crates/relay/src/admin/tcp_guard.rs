//! Access control for TCP: metrics and the static web page for every client; the API for clients with the
//! token.
//!
//! A browser on this machine can connect, too, on behalf of any web page. A page whose own name resolves to
//! this machine (DNS rebinding) is detected by `Host`, one of another origin by `Origin`. Neither page has
//! the token.

use crate::admin::router::api_router;
use crate::admin::state::{ApiState, Caller};
use crate::admin::web::page_router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use mailtrail_mail::Secret;
use mailtrail_net::{Refusal, RefusalLog, http_server};
use metrics_exporter_prometheus::PrometheusHandle;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Access rules of the API over TCP.
#[derive(Clone, Debug)]
pub struct AccessPolicy {
    /// Token of clients: `Authorization: Bearer <token>` (RFC 6750).
    pub token: Secret,
    /// Names of this machine in lower case, besides those of loopback.
    pub hosts: Vec<String>,
    /// Log and metrics of rejected requests.
    pub refusals: RefusalLog,
}

/// Serves the web page, `/healthz`, `/metrics` if enabled and, after access control, `/api/v1`.
pub async fn serve_tcp(
    socket: TcpListener,
    metrics: Option<PrometheusHandle>,
    questions: Option<(ApiState, AccessPolicy)>,
    quiet: CancellationToken,
) {
    let mut router = page_router().route("/healthz", get(|| async { "ok\n" }));
    if let Some(metrics) = metrics {
        router = router.route("/metrics", get(move || std::future::ready(metrics.render())));
    }
    if let Some((api, gate)) = questions {
        router = router
            .merge(api_router(api).route_layer(middleware::from_fn_with_state(Arc::new(gate), check_access)));
    }
    http_server::serve(socket, MAX_TCP_CONNECTIONS, router, ConnectInfo::<SocketAddr>, quiet).await;
}

/// Reason for a denied request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum AccessDenied {
    #[error("unknown Host header; add it to `hosts` in [admin]")]
    UnknownHost,
    #[error("pages of other origins are not answered")]
    ForeignOrigin,
    #[error("Authorization: Bearer with the token of [admin] is needed")]
    InvalidToken,
}

impl AccessDenied {
    fn status_code(self) -> StatusCode {
        match self {
            Self::UnknownHost => StatusCode::MISDIRECTED_REQUEST,
            Self::ForeignOrigin => StatusCode::FORBIDDEN,
            Self::InvalidToken => StatusCode::UNAUTHORIZED,
        }
    }

    fn rejection_reason(self) -> Refusal {
        match self {
            Self::UnknownHost => Refusal::ApiHost,
            Self::ForeignOrigin => Refusal::ApiOrigin,
            Self::InvalidToken => Refusal::ApiToken,
        }
    }
}

async fn check_access(
    State(gate): State<Arc<AccessPolicy>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let Err(barred) = gate.authorize(request.headers()) else {
        let operator = Caller(format!("token from {}", peer.ip().to_canonical()));
        request.extensions_mut().insert(ConnectInfo(operator));
        return next.run(request).await;
    };
    gate.refusals.record_refusal(peer.ip(), barred.rejection_reason(), &"");
    let mut answer = (barred.status_code(), barred.to_string()).into_response();
    if barred == AccessDenied::InvalidToken {
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    }
    answer
}

impl AccessPolicy {
    fn authorize(&self, headers: &HeaderMap) -> Result<(), AccessDenied> {
        let host = single_header(headers, header::HOST).flatten().filter(|host| self.is_known_host(host));
        let host = host.ok_or(AccessDenied::UnknownHost)?;
        let origin = single_header(headers, header::ORIGIN).ok_or(AccessDenied::ForeignOrigin)?;
        if headers.contains_key(header::ORIGIN) && !origin.is_some_and(|origin| is_same_origin(origin, host))
        {
            return Err(AccessDenied::ForeignOrigin);
        }
        let words =
            single_header(headers, header::AUTHORIZATION).flatten().and_then(|words| words.split_once(' '));
        let named = words.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let admitted = named.is_some_and(|(_, token)| self.token.ct_eq(token.trim().as_bytes()));
        if admitted { Ok(()) } else { Err(AccessDenied::InvalidToken) }
    }

    /// Returns whether `host` is a name of this machine; the port is ignored.
    fn is_known_host(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let is_loopback = name.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback());
        !host.contains('@') && (name == "localhost" || is_loopback || self.hosts.contains(&name))
    }
}

/// Returns a field's value if it is text; `None` for a repeated field.
fn single_header(headers: &HeaderMap, name: HeaderName) -> Option<Option<&str>> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().and_then(|value| value.to_str().ok());
    values.next().is_none().then_some(value)
}

/// Returns whether an Origin belongs to the page's own host.
fn is_same_origin(origin: &str, host: &str) -> bool {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// Maximum number of concurrent TCP connections.
pub const MAX_TCP_CONNECTIONS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn authorize_headers(fields: &[(HeaderName, &str)]) -> Result<(), AccessDenied> {
        let gate = AccessPolicy {
            token: Secret::new(TEST_TOKEN),
            hosts: vec!["relay.lan".to_owned()],
            refusals: RefusalLog::default(),
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value.parse().unwrap());
        }
        gate.authorize(&headers)
    }

    const TEST_TOKEN: &str = "0123456789abcdef";

    #[test]
    fn rejects_unknown_host_headers() {
        let bearer = format!("Bearer {TEST_TOKEN}");
        for host in [
            "localhost",
            "LocalHost:8025",
            "127.0.0.1:8025",
            "127.1.2.3",
            "[::1]:8025",
            "relay.lan",
            "Relay.LAN:1",
        ] {
            assert_eq!(
                authorize_headers(&[(header::HOST, host), (header::AUTHORIZATION, &bearer)]),
                Ok(()),
                "{host}"
            );
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.0.2.1",
            "a@localhost",
            "localhost/",
            "lan",
            "relay.lan.",
            "[::1",
            "0.0.0.0:8025",
        ] {
            let fields = [(header::HOST, host), (header::AUTHORIZATION, &*bearer)];
            assert_eq!(authorize_headers(&fields), Err(AccessDenied::UnknownHost), "{host}");
        }
        assert_eq!(authorize_headers(&[(header::AUTHORIZATION, &bearer)]), Err(AccessDenied::UnknownHost));
        let twice = [(header::HOST, "localhost"), (header::HOST, "evil.example")];
        assert_eq!(authorize_headers(&twice), Err(AccessDenied::UnknownHost));
    }

    #[test]
    fn rejects_foreign_origins() {
        let bearer = format!("Bearer {TEST_TOKEN}");
        for (origin, expected) in [
            ("http://localhost:8025", Ok(())),
            ("https://LOCALHOST:8025", Ok(())),
            ("http://localhost", Err(AccessDenied::ForeignOrigin)),
            ("http://localhost:8026", Err(AccessDenied::ForeignOrigin)),
            ("http://evil.example", Err(AccessDenied::ForeignOrigin)),
            ("localhost:8025", Err(AccessDenied::ForeignOrigin)),
            ("null", Err(AccessDenied::ForeignOrigin)),
            ("", Err(AccessDenied::ForeignOrigin)),
        ] {
            let fields = [
                (header::HOST, "localhost:8025"),
                (header::ORIGIN, origin),
                (header::AUTHORIZATION, &*bearer),
            ];
            assert_eq!(authorize_headers(&fields), expected, "{origin}");
        }
    }

    #[test]
    fn requires_the_complete_token() {
        for (words, expected) in [
            (format!("Bearer {TEST_TOKEN}"), Ok(())),
            (format!("bearer  {TEST_TOKEN}"), Ok(())),
            (format!("Bearer {TEST_TOKEN}0"), Err(AccessDenied::InvalidToken)),
            (format!("Bearer {}", &TEST_TOKEN[1..]), Err(AccessDenied::InvalidToken)),
            (format!("Basic {TEST_TOKEN}"), Err(AccessDenied::InvalidToken)),
            (TEST_TOKEN.to_owned(), Err(AccessDenied::InvalidToken)),
            ("Bearer ".to_owned(), Err(AccessDenied::InvalidToken)),
        ] {
            let fields = [(header::HOST, "localhost"), (header::AUTHORIZATION, &*words)];
            assert_eq!(authorize_headers(&fields), expected, "{words}");
        }
        assert_eq!(authorize_headers(&[(header::HOST, "localhost")]), Err(AccessDenied::InvalidToken));
    }
}
