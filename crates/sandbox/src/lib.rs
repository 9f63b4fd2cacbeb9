//! A fake Mailgun or Brevo on this machine. It accepts mail over SMTP and HTTP with the provider's own replies, and
//! reports the events of each recipient by webhooks with the provider's retries, and by its APIs. The recipient's local
//! part selects the [`Scenario`]. A fake ActiveCampaign sends contact events on demand.
//!
//! It gives the guarantees of a provider, no others: it may close the connection after the final dot without a reply,
//! report an open before the client has read its `250`, and send an event twice. It never sends mail anywhere.

mod activecampaign;
mod brevo;
mod captured;
mod control_api;
mod event_log;
mod fault_injection;
mod lifecycle;
mod mailgun;
mod message_facts;
mod profile;
mod rate_limit;
mod scenario;
mod seen;
mod smtp;
mod state;
mod tasks;
mod time_scale;
mod webhook_client;
mod webhook_delivery;

pub use activecampaign::{ContactEvent, PostResult};
pub use fault_injection::FaultInjection;
pub use profile::ProviderProfile;
pub use scenario::Scenario;

use crate::captured::{CapturedMessage, SandboxCounters};

use crate::state::SandboxState;
use crate::time_scale::TimeScale;
use mailtrail_mail::{Clock, Secret};
use mailtrail_net::tls;
use mailtrail_net::tls::{CertifiedKey, TlsError};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Settings of a sandbox.
#[derive(Clone, Debug)]
pub struct SandboxSettings {
    /// Emulated provider.
    pub profile: ProviderProfile,
    /// Where it listens; port 0 takes any that is free.
    pub smtp_address: SocketAddr,
    /// Where its API listens, in clear; port 0 takes any that is free.
    pub api_address: SocketAddr,
    /// Accepted key of the API.
    pub api_key: Secret,
    /// Sending domain.
    pub domain: String,
    /// Accepted SMTP login.
    pub username: String,
    /// Password of the login.
    pub password: Secret,
    /// What Mailgun's webhooks are signed with; Brevo's carry it as a bearer token.
    pub signing_key: Secret,
    /// Where events are posted; nowhere for `None`.
    pub webhook_url: Option<String>,
    /// Factor on all of Mailgun's times: 1.0 is real minutes, 0.0 no waiting at all.
    pub time_scale: f64,
    /// Faults from the start.
    pub faults: FaultInjection,
    /// The time of events.
    pub clock: Clock,
    /// Certificate for STARTTLS.
    pub tls: CertifiedKey,
}

/// Error that prevents the start of a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The address cannot be listened on.
    #[error("the sandbox cannot listen on {address}: {source}; choose another address or port")]
    Bind {
        /// Listen address.
        address: SocketAddr,
        /// Underlying I/O error.
        source: io::Error,
    },
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The webhook client cannot be made.
    #[error("the sandbox's webhook client cannot be made: {0}")]
    HttpClient(#[from] reqwest::Error),
    /// Invalid time factor.
    #[error("the sandbox's pace is {0}; give a number of 0 or more, 1 for Mailgun's own times")]
    InvalidTimeScale(f64),
}

/// A running sandbox; dropping it stops everything at once.
#[derive(Debug)]
pub struct Sandbox {
    state: Arc<SandboxState>,
    smtp_address: SocketAddr,
    api_address: SocketAddr,
}

/// Starts a sandbox; it listens when this returns.
pub async fn start(settings: SandboxSettings) -> Result<Sandbox, SandboxError> {
    let pace =
        TimeScale::new(settings.time_scale).ok_or(SandboxError::InvalidTimeScale(settings.time_scale))?;
    let acceptor = tls::build_acceptor(settings.tls.clone())?;
    let (listener, smtp_address) = bind_listener(settings.smtp_address).await?;
    let (api_listener, api_address) = bind_listener(settings.api_address).await?;
    let state = Arc::new(SandboxState::new(settings, pace)?);
    let guests = state.clone();
    let session = move |stream, peer| smtp::serve_smtp(guests.clone(), stream, peer, acceptor.clone());
    state.tasks.spawn(smtp::accept_connections(state.clone(), listener, session));
    let guests = state.clone();
    let management = match state.profile {
        ProviderProfile::Mailgun => mailgun::router(state.clone()),
        ProviderProfile::Brevo => brevo::router(state.clone()),
    };
    let session = move |stream, _| mailgun::serve_http(guests.clone(), management.clone(), stream);
    state.tasks.spawn(smtp::accept_connections(state.clone(), api_listener, session));
    Ok(Sandbox { state, smtp_address, api_address })
}

async fn bind_listener(address: SocketAddr) -> Result<(TcpListener, SocketAddr), SandboxError> {
    let failed = |source| SandboxError::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

impl Sandbox {
    /// Address of the SMTP listener.
    pub fn smtp_address(&self) -> SocketAddr {
        self.smtp_address
    }

    /// Where its API listens.
    pub fn api_address(&self) -> SocketAddr {
        self.api_address
    }

    /// The last messages it took, oldest first: at most 10,000 and at most 64 MiB of them.
    pub fn captured(&self) -> Vec<CapturedMessage> {
        self.state.captured.messages()
    }

    /// Counts since the start.
    pub fn counters(&self) -> SandboxCounters {
        self.state.captured.counters()
    }

    /// Posts events there from now on, retries included.
    pub fn set_webhook_url(&self, url: impl Into<String>) {
        self.state.webhook_client.set_url(url.into());
    }

    /// Sets the URL of ActiveCampaign's webhooks, with the secret in its path.
    pub fn set_contact_webhook_url(&self, url: impl Into<String>) {
        self.state.contact_webhook.set_url(url.into());
    }

    /// Sends an ActiveCampaign event of a contact once and returns the result.
    pub async fn send_contact_event(&self, event: ContactEvent, address: &str) -> PostResult {
        self.state.contact_webhook.send_event(&self.state, event, address).await
    }

    /// Sets the faults.
    pub fn set_faults(&self, weather: FaultInjection) {
        self.state.faults.set(weather);
    }

    /// Stops and returns when all tasks have ended. Unsent webhooks are discarded.
    pub async fn stop(self) {
        self.state.tasks.stop().await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.state.tasks.abort();
    }
}
