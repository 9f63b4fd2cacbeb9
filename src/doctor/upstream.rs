//! Checks an upstream: connection, TLS, login.

use crate::config::{Config, Upstream};
use crate::doctor::certificate;
use crate::doctor::check_result::{CheckResult, CheckStatus};
use mailtrail_mail::Clock;
use mailtrail_net::provider_api::{ApiError, ProviderApi};
use mailtrail_net::tls;
use mailtrail_net::tls::PeerCertificateInfo;
use mailtrail_net::transport::{Connection, Settings};
use tokio_rustls::TlsConnector;

/// Logs in as for mail, but sends nothing.
pub(super) async fn check_login(config: &Config, upstream: &Upstream, clock: Clock) -> Vec<CheckResult> {
    let settings = &upstream.transport;
    let (tls, seen) = match tls::recording_connector(settings.ca_file.as_deref()) {
        Ok(connector) => connector,
        Err(error) => {
            return vec![CheckResult::from_error(
                CheckStatus::Fail,
                CHECK_NAME,
                &*settings.name,
                &error,
                "check ca_file",
            )];
        }
    };
    let login = match &settings.api {
        None => check_smtp_login(settings, &tls, &config.hostname).await,
        Some(_) => check_api_key(upstream, &tls, clock).await,
    };
    let mut findings = vec![login];
    findings.extend(check_peer_certificate(&settings.name, &seen, clock));
    findings
}

async fn check_smtp_login(settings: &Settings, tls: &TlsConnector, hostname: &str) -> CheckResult {
    let (name, place) = (settings.name.as_str(), format!("{}:{}", settings.host, settings.port));
    match Connection::open(settings, tls, hostname).await {
        Ok(connection) => {
            let login =
                if settings.login.is_some() { "accepts the login" } else { "responds without a login" };
            connection.quit().await;
            CheckResult::ok(CHECK_NAME, name, format!("{place} {login}"))
        }
        Err(fault) => {
            let remedy = "check host and port of this upstream, and whether this network lets SMTP out";
            let finding = CheckResult::from_error(CheckStatus::Fail, CHECK_NAME, name, &fault, remedy);
            CheckResult { message: format!("{place}: {}", finding.message), ..finding }
        }
    }
}

/// Requests the domain, the only request without a side effect. It rejects a domain's sending key, which looks like a
/// wrong key.
async fn check_api_key(upstream: &Upstream, tls: &TlsConnector, clock: Clock) -> CheckResult {
    let (name, domain) =
        (&*upstream.transport.name, upstream.transport.domain.as_deref().unwrap_or_default());
    let Some(settings) = upstream.provider_api.clone() else {
        return CheckResult::problem(
            CheckStatus::Unknown,
            CHECK_NAME,
            name,
            "no api_key configured",
            "give api_key_file",
        );
    };
    let asked = match ProviderApi::new(settings, tls, clock) {
        Ok(account) => account.fetch_domain(domain).await,
        Err(fault) => Err(fault),
    };
    match asked {
        Ok(Some(_)) => CheckResult::ok(CHECK_NAME, name, "the API accepts the key"),
        Ok(None) => {
            let what = format!("the account has no domain {domain}");
            CheckResult::problem(
                CheckStatus::Fail,
                CHECK_NAME,
                name,
                what,
                "check domain and region of this upstream",
            )
        }
        Err(fault @ ApiError::Unauthorized { .. }) => {
            let finding = CheckResult::from_error(CheckStatus::Warn, CHECK_NAME, name, &fault, "");
            let remedy = "a domain sending key is refused here and good enough for mail; any other is wrong";
            CheckResult { remedy: remedy.to_owned(), ..finding }
        }
        Err(fault) => {
            CheckResult::from_error(CheckStatus::Fail, CHECK_NAME, name, &fault, "check api_base_url")
        }
    }
}

/// Checks the upstream's certificate, if it presented one.
fn check_peer_certificate(name: &str, seen: &PeerCertificateInfo, clock: Clock) -> Option<CheckResult> {
    let remedy = "the provider has to renew it; nothing is sent once it has ended";
    Some(certificate::evaluate_expiry(name, Some(seen.earliest_expiry()?), clock.now(), remedy))
}

const CHECK_NAME: &str = "login";
