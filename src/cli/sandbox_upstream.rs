//! A relay with the sandbox as its upstream.

use crate::cli::CliError;
use crate::config::{Config, HttpTls};
use crate::daemon::{Daemon, Sockets};
use mailtrail_mail::Clock;
use mailtrail_mail::Secret;
use mailtrail_net::provider_api::{EventsApi, ProviderKind};
use mailtrail_net::tls;
use mailtrail_net::transport::{Login, Security};
use mailtrail_sandbox;
use mailtrail_sandbox::{FaultInjection, ProviderProfile, Sandbox};
use mailtrail_trail::provider::Provider;
use mailtrail_trail::provider::brevo::WebhookAuth;
use metrics_exporter_prometheus::PrometheusHandle;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A running relay and its sandbox.
pub struct SandboxRelay {
    pub daemon: Daemon,
    pub upstream: SandboxUpstream,
}

/// The sandbox in place of the configured upstreams. It simulates Brevo if the first upstream is Brevo, otherwise
/// Mailgun.
pub struct SandboxUpstream {
    pub sandbox: Sandbox,
    profile: ProviderProfile,
    certificate: PathBuf,
    domain: String,
    password: Secret,
    api_url: reqwest::Url,
    api_key: Secret,
    signing_key: Secret,
}

/// Starts both; the sandbox takes the place of all upstreams and reports to the relay. `pace` scales its times.
pub async fn start_sandbox_relay(
    sockets: Sockets,
    config: Config,
    pace: f64,
    metrics: Option<PrometheusHandle>,
) -> Result<SandboxRelay, CliError> {
    let upstream = SandboxUpstream::start(&config, pace).await?;
    let config = upstream.patch_config(config);
    let daemon = Daemon::start_on(sockets, &config, Clock::System, metrics).await.map_err(CliError::from)?;
    upstream.set_webhook_target(&daemon);
    Ok(SandboxRelay { daemon, upstream })
}

impl SandboxUpstream {
    async fn start(config: &Config, time_scale: f64) -> Result<Self, CliError> {
        let Some(upstream) = config.upstreams.first() else {
            return Err(CliError::Other(
                "the configuration has no upstream that the sandbox could replace".into(),
            ));
        };
        let directory = config.data_dir.join("sandbox");
        let failed = |error: &dyn std::fmt::Display| CliError::Other(error.to_string());
        let (signing_key, password, api_key) = (generate_secret()?, generate_secret()?, generate_secret()?);
        let usual = || "sandbox.example.com".to_owned();
        let domain = upstream.transport.domain.clone().unwrap_or_else(usual);
        let profile = match upstream.transport.provider {
            Provider::Brevo => ProviderProfile::Brevo,
            Provider::Mailgun | Provider::Plain => ProviderProfile::Mailgun,
        };
        let sandbox = mailtrail_sandbox::start(mailtrail_sandbox::SandboxSettings {
            profile,
            smtp_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_key: api_key.clone(),
            domain: domain.clone(),
            username: SMTP_USERNAME.to_owned(),
            password: password.clone(),
            signing_key: signing_key.clone(),
            webhook_url: None,
            time_scale,
            faults: FaultInjection::default(),
            clock: Clock::System,
            tls: tls::load_self_signed(&directory, "localhost").map_err(|error| failed(&error))?,
        });
        let sandbox = sandbox.await.map_err(|error| failed(&error))?;
        let api_url = format!("http://{}", sandbox.api_address());
        let api_url = api_url.parse().map_err(|error| failed(&error))?;
        let certificate = directory.join("relay.pem");
        Ok(Self { sandbox, profile, certificate, domain, password, api_url, api_key, signing_key })
    }

    /// The configuration with the sandbox as its only upstream.
    pub fn patch_config(&self, mut config: Config) -> Config {
        config.upstreams.truncate(1);
        // It is on this machine, and reports to an address that no certificate is made out to.
        config.http_tls = HttpTls::None;
        for upstream in &mut config.upstreams {
            upstream.webhook_signing_keys = Vec::new();
            upstream.webhook_auth = WebhookAuth::default();
            let (provider, whose) = match self.profile {
                ProviderProfile::Mailgun => {
                    upstream.webhook_signing_keys.push(self.signing_key.clone());
                    (
                        Provider::Mailgun,
                        ProviderKind::Mailgun { domain: self.domain.clone(), events_api: EventsApi::Events },
                    )
                }
                ProviderProfile::Brevo => {
                    upstream.webhook_auth.tokens.push(self.signing_key.clone());
                    (Provider::Brevo, ProviderKind::Brevo)
                }
            };
            if let Some(account) = &mut upstream.provider_api {
                account.provider = whose;
                (account.base_url, account.api_key) = (self.api_url.clone(), self.api_key.clone());
            }
            let transport = &mut upstream.transport;
            transport.provider = provider;
            transport.host = self.sandbox.smtp_address().ip().to_string();
            transport.port = self.sandbox.smtp_address().port();
            transport.security = Security::StartTls;
            transport.ca_file = Some(self.certificate.clone());
            transport.login =
                Some(Login { username: SMTP_USERNAME.to_owned(), password: self.password.clone() });
            if let Some(api) = &mut transport.api {
                (api.base_url, api.key) = (self.api_url.clone(), self.api_key.clone());
            }
        }
        config
    }

    /// Reports to the relay from now on.
    pub fn set_webhook_target(&self, daemon: &Daemon) {
        match (daemon.http_address(), daemon.config().upstreams.first()) {
            (Some(http), Some(upstream)) => {
                self.sandbox.set_webhook_url(format!("http://{http}/webhooks/{}", upstream.transport.name));
            }
            _ => tracing::warn!("[http] has no address: the sandbox cannot report back"),
        }
    }
}

const SMTP_USERNAME: &str = "postmaster@sandbox.example.com";

fn generate_secret() -> Result<Secret, CliError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| CliError::Other(format!("there is no randomness: {error}")))?;
    Ok(Secret::new(format!("{:032x}", u128::from_ne_bytes(bytes))))
}
