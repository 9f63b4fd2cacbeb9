//! The way to an upstream: connection, TLS, login.

use crate::config::{Config, Upstream};
use crate::doctor::certificate;
use crate::doctor::check_result::{Finding, Status};
use mailtrail_mail::Clock;
use mailtrail_net::provider_api::{Account, Fault};
use mailtrail_net::tls;
use mailtrail_net::tls::Seen;
use mailtrail_net::transport::{Connection, Settings};
use tokio_rustls::TlsConnector;

/// Logs in as mail does, and sends nothing.
pub(super) async fn look(config: &Config, upstream: &Upstream, clock: Clock) -> Vec<Finding> {
    let settings = &upstream.transport;
    let (tls, seen) = match tls::observing_connector(settings.ca_file.as_deref()) {
        Ok(connector) => connector,
        Err(error) => {
            return vec![Finding::error(Status::Fail, CHECK, &*settings.name, &error, "check ca_file")];
        }
    };
    let login = match &settings.api {
        None => smtp(settings, &tls, &config.hostname).await,
        Some(_) => api(upstream, &tls, clock).await,
    };
    let mut findings = vec![login];
    findings.extend(shown(&settings.name, &seen, clock));
    findings
}

async fn smtp(settings: &Settings, tls: &TlsConnector, hostname: &str) -> Finding {
    let (name, place) = (settings.name.as_str(), format!("{}:{}", settings.host, settings.port));
    match Connection::open(settings, tls, hostname).await {
        Ok(connection) => {
            let login = if settings.login.is_some() { "takes the login" } else { "answers without a login" };
            connection.quit().await;
            Finding::ok(CHECK, name, format!("{place} {login}"))
        }
        Err(fault) => {
            let remedy = "check host and port of this upstream, and whether this network lets SMTP out";
            let finding = Finding::error(Status::Fail, CHECK, name, &fault, remedy);
            Finding { what: format!("{place}: {}", finding.what), ..finding }
        }
    }
}

/// Asks for the domain: nothing else can be asked without sending. A domain's sending key is refused there, and nobody
/// can tell it from a wrong one.
async fn api(upstream: &Upstream, tls: &TlsConnector, clock: Clock) -> Finding {
    let (name, domain) =
        (&*upstream.transport.name, upstream.transport.domain.as_deref().unwrap_or_default());
    let Some(settings) = upstream.account.clone() else {
        return Finding::bad(Status::Unknown, CHECK, name, "no api_key is known", "give api_key_file");
    };
    let asked = match Account::new(settings, tls, clock) {
        Ok(account) => account.domain(domain).await,
        Err(fault) => Err(fault),
    };
    match asked {
        Ok(Some(_)) => Finding::ok(CHECK, name, "the API takes the key"),
        Ok(None) => {
            let what = format!("the account has no domain {domain}");
            Finding::bad(Status::Fail, CHECK, name, what, "check domain and region of this upstream")
        }
        Err(fault @ Fault::Key { .. }) => {
            let finding = Finding::error(Status::Warn, CHECK, name, &fault, "");
            let remedy = "a domain sending key is refused here and good enough for mail; any other is wrong";
            Finding { remedy: remedy.to_owned(), ..finding }
        }
        Err(fault) => Finding::error(Status::Fail, CHECK, name, &fault, "check api_base_url"),
    }
}

/// The certificate that was shown, if one was.
fn shown(name: &str, seen: &Seen, clock: Clock) -> Option<Finding> {
    let remedy = "the provider has to renew it; nothing is sent once it has ended";
    Some(certificate::judge(name, Some(seen.expiry()?), clock.now(), remedy))
}

const CHECK: &str = "login";
