//! What is served over TCP: figures and the web page, which knows nothing, for everybody who reaches it; questions and
//! orders for who has the token.
//!
//! A browser on this machine reaches it, too, and does what any page wants. A page that had its own name lead here (DNS
//! rebinding) is known by `Host`, one of another origin by `Origin`; neither can know the token.

use crate::admin::router::api;
use crate::admin::state::{Operator, Panel};
use crate::admin::web::web;
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

/// Whom questions and orders are taken from.
#[derive(Clone, Debug)]
pub struct Gate {
    /// What they prove themselves with: `Authorization: Bearer <token>` (RFC 6750).
    pub token: Secret,
    /// Names that this machine may be called by, in small letters, besides those of loopback.
    pub hosts: Vec<String>,
    /// What the log and the metrics say of refused requests.
    pub refusals: RefusalLog,
}

/// The web page, `/healthz`, `/metrics` where figures are kept and, behind a gate, `/api/v1`.
pub async fn serve_page(
    socket: TcpListener,
    metrics: Option<PrometheusHandle>,
    questions: Option<(Panel, Gate)>,
    quiet: CancellationToken,
) {
    let mut router = web().route("/healthz", get(|| async { "ok\n" }));
    if let Some(metrics) = metrics {
        router = router.route("/metrics", get(move || std::future::ready(metrics.render())));
    }
    if let Some((panel, gate)) = questions {
        router = router.merge(api(panel).route_layer(middleware::from_fn_with_state(Arc::new(gate), guard)));
    }
    http_server::serve(socket, PAGE_CONNECTIONS, router, ConnectInfo::<SocketAddr>, quiet).await;
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Barred {
    #[error("this machine is not called so here; see `hosts` in [admin]")]
    Host,
    #[error("pages of other origins are not answered")]
    Origin,
    #[error("Authorization: Bearer with the token of [admin] is needed")]
    Token,
}

impl Barred {
    fn status(self) -> StatusCode {
        match self {
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::Token => StatusCode::UNAUTHORIZED,
        }
    }

    fn refusal(self) -> Refusal {
        match self {
            Self::Host => Refusal::ApiHost,
            Self::Origin => Refusal::ApiOrigin,
            Self::Token => Refusal::ApiToken,
        }
    }
}

async fn guard(
    State(gate): State<Arc<Gate>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let Err(barred) = gate.admit(request.headers()) else {
        let operator = Operator(format!("token from {}", peer.ip().to_canonical()));
        request.extensions_mut().insert(ConnectInfo(operator));
        return next.run(request).await;
    };
    gate.refusals.note(peer.ip(), barred.refusal(), &"");
    let mut answer = (barred.status(), barred.to_string()).into_response();
    if barred == Barred::Token {
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    }
    answer
}

impl Gate {
    fn admit(&self, headers: &HeaderMap) -> Result<(), Barred> {
        let host = only(headers, header::HOST).flatten().filter(|host| self.knows(host));
        let host = host.ok_or(Barred::Host)?;
        let origin = only(headers, header::ORIGIN).ok_or(Barred::Origin)?;
        if headers.contains_key(header::ORIGIN) && !origin.is_some_and(|origin| is_origin_of(origin, host)) {
            return Err(Barred::Origin);
        }
        let words = only(headers, header::AUTHORIZATION).flatten().and_then(|words| words.split_once(' '));
        let named = words.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let admitted = named.is_some_and(|(_, token)| self.token.is(token.trim().as_bytes()));
        if admitted { Ok(()) } else { Err(Barred::Token) }
    }

    /// Whether that is a name of this machine; the port says nothing.
    fn knows(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let is_loopback = name.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback());
        !host.contains('@') && (name == "localhost" || is_loopback || self.hosts.contains(&name))
    }
}

/// A field's value, if it is text; `None` for a field that stands there twice.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<Option<&str>> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().and_then(|value| value.to_str().ok());
    values.next().is_none().then_some(value)
}

/// Whether a page that came from that host says so.
fn is_origin_of(origin: &str, host: &str) -> bool {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// Connections to the page at once.
pub const PAGE_CONNECTIONS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(fields: &[(HeaderName, &str)]) -> Result<(), Barred> {
        let gate = Gate {
            token: Secret::new(TOKEN),
            hosts: vec!["relay.lan".to_owned()],
            refusals: RefusalLog::default(),
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value.parse().unwrap());
        }
        gate.admit(&headers)
    }

    const TOKEN: &str = "0123456789abcdef";

    #[test]
    fn only_names_of_this_machine_lead_here() {
        let bearer = format!("Bearer {TOKEN}");
        for host in [
            "localhost",
            "LocalHost:8025",
            "127.0.0.1:8025",
            "127.1.2.3",
            "[::1]:8025",
            "relay.lan",
            "Relay.LAN:1",
        ] {
            assert_eq!(admitted(&[(header::HOST, host), (header::AUTHORIZATION, &bearer)]), Ok(()), "{host}");
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
            assert_eq!(admitted(&fields), Err(Barred::Host), "{host}");
        }
        assert_eq!(admitted(&[(header::AUTHORIZATION, &bearer)]), Err(Barred::Host));
        let twice = [(header::HOST, "localhost"), (header::HOST, "evil.example")];
        assert_eq!(admitted(&twice), Err(Barred::Host));
    }

    #[test]
    fn pages_from_elsewhere_are_not_answered() {
        let bearer = format!("Bearer {TOKEN}");
        for (origin, expected) in [
            ("http://localhost:8025", Ok(())),
            ("https://LOCALHOST:8025", Ok(())),
            ("http://localhost", Err(Barred::Origin)),
            ("http://localhost:8026", Err(Barred::Origin)),
            ("http://evil.example", Err(Barred::Origin)),
            ("localhost:8025", Err(Barred::Origin)),
            ("null", Err(Barred::Origin)),
            ("", Err(Barred::Origin)),
        ] {
            let fields = [
                (header::HOST, "localhost:8025"),
                (header::ORIGIN, origin),
                (header::AUTHORIZATION, &*bearer),
            ];
            assert_eq!(admitted(&fields), expected, "{origin}");
        }
    }

    #[test]
    fn the_token_is_asked_for_whole() {
        for (words, expected) in [
            (format!("Bearer {TOKEN}"), Ok(())),
            (format!("bearer  {TOKEN}"), Ok(())),
            (format!("Bearer {TOKEN}0"), Err(Barred::Token)),
            (format!("Bearer {}", &TOKEN[1..]), Err(Barred::Token)),
            (format!("Basic {TOKEN}"), Err(Barred::Token)),
            (TOKEN.to_owned(), Err(Barred::Token)),
            ("Bearer ".to_owned(), Err(Barred::Token)),
        ] {
            let fields = [(header::HOST, "localhost"), (header::AUTHORIZATION, &*words)];
            assert_eq!(admitted(&fields), expected, "{words}");
        }
        assert_eq!(admitted(&[(header::HOST, "localhost")]), Err(Barred::Token));
    }
}
