//! A relay whose upstream is the sandbox.

use crate::cli::Trouble;
use crate::config::{Config, HttpTls};
use crate::daemon::{Daemon, Sockets};
use mailtrail_mail::Clock;
use mailtrail_mail::Secret;
use mailtrail_net::provider_api::{Api, Whose};
use mailtrail_net::tls;
use mailtrail_net::transport::{Login, Security};
use mailtrail_sandbox;
use mailtrail_sandbox::{Face, Sandbox, Weather};
use mailtrail_trail::provider::Provider;
use mailtrail_trail::provider::brevo::Credentials;
use metrics_exporter_prometheus::PrometheusHandle;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Both, running.
pub struct Stage {
    /// The relay.
    pub daemon: Daemon,
    /// Its upstream.
    pub understudy: Understudy,
}

/// The sandbox, ready to stand in for whatever upstreams a configuration names: as Brevo where the first is that, else as
/// Mailgun.
pub struct Understudy {
    /// The sandbox.
    pub sandbox: Sandbox,
    face: Face,
    certificate: PathBuf,
    domain: String,
    password: Secret,
    api_url: reqwest::Url,
    api_key: Secret,
    signing_key: Secret,
}

/// Starts both; the sandbox takes the place of all upstreams and reports to the relay. `pace` scales its times.
pub async fn start(
    sockets: Sockets,
    config: Config,
    pace: f64,
    metrics: Option<PrometheusHandle>,
) -> Result<Stage, Trouble> {
    let understudy = Understudy::start(&config, pace).await?;
    let config = understudy.replace(config);
    let daemon = Daemon::start_on(sockets, &config, Clock::System, metrics).await.map_err(Trouble::from)?;
    understudy.report_to(&daemon);
    Ok(Stage { daemon, understudy })
}

impl Understudy {
    async fn start(config: &Config, pace: f64) -> Result<Self, Trouble> {
        let Some(upstream) = config.upstreams.first() else {
            return Err(Trouble::Failed(
                "the configuration has no upstream for the sandbox to stand in for".into(),
            ));
        };
        let directory = config.data_dir.join("sandbox");
        let failed = |error: &dyn std::fmt::Display| Trouble::Failed(error.to_string());
        let (signing_key, password, api_key) = (random_secret()?, random_secret()?, random_secret()?);
        let usual = || "sandbox.example.com".to_owned();
        let domain = upstream.transport.domain.clone().unwrap_or_else(usual);
        let face = match upstream.transport.provider {
            Provider::Brevo => Face::Brevo,
            Provider::Mailgun | Provider::Plain => Face::Mailgun,
        };
        let sandbox = mailtrail_sandbox::start(mailtrail_sandbox::Settings {
            face,
            smtp: SocketAddr::from(([127, 0, 0, 1], 0)),
            api: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_key: api_key.clone(),
            domain: domain.clone(),
            username: USERNAME.to_owned(),
            password: password.clone(),
            signing_key: signing_key.clone(),
            webhook: None,
            pace,
            weather: Weather::default(),
            clock: Clock::System,
            tls: tls::self_signed(&directory, "localhost").map_err(|error| failed(&error))?,
        });
        let sandbox = sandbox.await.map_err(|error| failed(&error))?;
        let api_url = format!("http://{}", sandbox.api_address());
        let api_url = api_url.parse().map_err(|error| failed(&error))?;
        let certificate = directory.join("relay.pem");
        Ok(Self { sandbox, face, certificate, domain, password, api_url, api_key, signing_key })
    }

    /// The configuration with the sandbox as its only upstream.
    pub fn replace(&self, mut config: Config) -> Config {
        config.upstreams.truncate(1);
        // It is on this machine, and reports to an address that no certificate is made out to.
        config.http_tls = HttpTls::None;
        for upstream in &mut config.upstreams {
            upstream.signing_keys = Vec::new();
            upstream.credentials = Credentials::default();
            let (provider, whose) = match self.face {
                Face::Mailgun => {
                    upstream.signing_keys.push(self.signing_key.clone());
                    (Provider::Mailgun, Whose::Mailgun { domain: self.domain.clone(), api: Api::Events })
                }
                Face::Brevo => {
                    upstream.credentials.tokens.push(self.signing_key.clone());
                    (Provider::Brevo, Whose::Brevo)
                }
            };
            if let Some(account) = &mut upstream.account {
                account.whose = whose;
                (account.base_url, account.key) = (self.api_url.clone(), self.api_key.clone());
            }
            let transport = &mut upstream.transport;
            transport.provider = provider;
            transport.host = self.sandbox.smtp_address().ip().to_string();
            transport.port = self.sandbox.smtp_address().port();
            transport.security = Security::StartTls;
            transport.ca_file = Some(self.certificate.clone());
            transport.login = Some(Login { username: USERNAME.to_owned(), password: self.password.clone() });
            if let Some(api) = &mut transport.api {
                (api.base_url, api.key) = (self.api_url.clone(), self.api_key.clone());
            }
        }
        config
    }

    /// Reports to the relay from now on.
    pub fn report_to(&self, daemon: &Daemon) {
        match (daemon.http_address(), daemon.config().upstreams.first()) {
            (Some(http), Some(upstream)) => {
                self.sandbox.set_webhook(format!("http://{http}/webhooks/{}", upstream.transport.name));
            }
            _ => tracing::warn!("[http] has no address: the sandbox cannot report back"),
        }
    }
}

const USERNAME: &str = "postmaster@sandbox.example.com";

fn random_secret() -> Result<Secret, Trouble> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Trouble::Failed(format!("there is no randomness: {error}")))?;
    Ok(Secret::new(format!("{:032x}", u128::from_ne_bytes(bytes))))
}
