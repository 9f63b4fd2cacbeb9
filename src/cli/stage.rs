//! A relay whose upstream is the sandbox.

use super::Trouble;
use crate::clock::Clock;
use crate::config::Config;
use crate::daemon::Daemon;
use crate::provider::Provider;
use crate::sandbox::{self, Sandbox};
use crate::secret::Secret;
use crate::tls;
use crate::transport::{Login, Security};
use metrics_exporter_prometheus::PrometheusHandle;
use std::net::SocketAddr;

/// Both, running.
pub struct Stage {
    /// The relay.
    pub daemon: Daemon,
    /// Its upstream.
    pub sandbox: Sandbox,
}

/// Starts both; the sandbox takes the place of all upstreams and reports to the relay. `pace` scales its times.
pub async fn start(
    mut config: Config,
    pace: f64,
    metrics: Option<PrometheusHandle>,
) -> Result<Stage, Trouble> {
    let directory = config.data_dir.join("sandbox");
    let failed = |error: &dyn std::fmt::Display| Trouble::Failed(error.to_string());
    let (signing_key, password, api_key) = (random_secret()?, random_secret()?, random_secret()?);
    config.upstreams.truncate(1);
    let Some(upstream) = config.upstreams.first_mut() else {
        return Err(Trouble::Failed(
            "the configuration has no upstream for the sandbox to stand in for".into(),
        ));
    };
    let username = "postmaster@sandbox.example.com";
    let sandbox = sandbox::start(sandbox::Settings {
        smtp: SocketAddr::from(([127, 0, 0, 1], 0)),
        api: SocketAddr::from(([127, 0, 0, 1], 0)),
        api_key: api_key.clone(),
        domain: upstream.transport.domain.clone().unwrap_or_else(|| "sandbox.example.com".to_owned()),
        username: username.to_owned(),
        password: password.clone(),
        signing_key: signing_key.clone(),
        webhook: None,
        pace,
        tls: tls::self_signed(&directory, "localhost").map_err(|error| failed(&error))?,
    });
    let sandbox = sandbox.await.map_err(|error| failed(&error))?;
    upstream.signing_keys = vec![signing_key];
    let transport = &mut upstream.transport;
    transport.provider = Provider::Mailgun;
    transport.host = sandbox.smtp_address().ip().to_string();
    transport.port = sandbox.smtp_address().port();
    transport.security = Security::StartTls;
    transport.ca_file = Some(directory.join("relay.pem"));
    transport.login = Some(Login { username: username.to_owned(), password });
    if let Some(api) = &mut transport.api {
        let address = format!("http://{}", sandbox.api_address());
        (api.base_url, api.key) = (address.parse().map_err(|error| failed(&error))?, api_key);
    }
    let name = transport.name.clone();
    let daemon = Daemon::start(&config, Clock::System, metrics).await.map_err(|error| failed(&error))?;
    match daemon.http_address() {
        Some(http) => sandbox.set_webhook(format!("http://{http}/webhooks/{name}")),
        None => tracing::warn!("[http] has no address: the sandbox cannot report back"),
    }
    Ok(Stage { daemon, sandbox })
}

fn random_secret() -> Result<Secret, Trouble> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Trouble::Failed(format!("there is no randomness: {error}")))?;
    Ok(Secret::new(format!("{:032x}", u128::from_ne_bytes(bytes))))
}
