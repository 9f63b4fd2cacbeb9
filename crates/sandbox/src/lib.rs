//! A fake Mailgun, or Brevo, on this machine: it takes mail over SMTP and over HTTP as the real one does, with the same
//! words, and reports what became of each recipient by webhooks, with the real one's retries, and when asked. The
//! recipient's local part decides the [`Fate`]. Beside it stands a fake ActiveCampaign, which tells what it is asked to
//! tell about a contact.
//!
//! It promises their honesty, no more and no less: it may close after the final dot without a word, report an open
//! before the client has read its `250`, and say one thing twice. It must never send a mail anywhere.

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

pub use activecampaign::{ContactEvent, Told};
pub use fault_injection::Weather;
pub use profile::Face;
pub use scenario::Fate;

use crate::captured::{Message, Tally};

use crate::state::House;
use crate::time_scale::Pace;
use mailtrail_mail::{Clock, Secret};
use mailtrail_net::tls;
use mailtrail_net::tls::{Pair, TlsError};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

/// What a sandbox pretends to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which provider.
    pub face: Face,
    /// Where it listens; port 0 takes any that is free.
    pub smtp: SocketAddr,
    /// Where its API listens, in clear; port 0 takes any that is free.
    pub api: SocketAddr,
    /// The key that its API knows.
    pub api_key: Secret,
    /// The sending domain.
    pub domain: String,
    /// The login it knows.
    pub username: String,
    /// Its password.
    pub password: Secret,
    /// What Mailgun's webhooks are signed with; Brevo's carry it as a bearer token.
    pub signing_key: Secret,
    /// Where events are posted; nowhere for `None`.
    pub webhook: Option<String>,
    /// Factor on all of Mailgun's times: 1.0 is real minutes, 0.0 no waiting at all.
    pub pace: f64,
    /// What goes wrong from the start.
    pub weather: Weather,
    /// The time of events.
    pub clock: Clock,
    /// For STARTTLS.
    pub tls: Pair,
}

/// Why a sandbox does not start.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The address cannot be listened on.
    #[error("the sandbox cannot listen on {address}: {source}; choose another address or port")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The webhook client cannot be made.
    #[error("the sandbox's webhook client cannot be made: {0}")]
    Client(#[from] reqwest::Error),
    /// Not a factor.
    #[error("the sandbox's pace is {0}; give a number of 0 or more, 1 for Mailgun's own times")]
    Pace(f64),
}

/// A running sandbox; dropping it stops everything at once.
#[derive(Debug)]
pub struct Sandbox {
    house: Arc<House>,
    smtp: SocketAddr,
    api: SocketAddr,
}

/// Starts a sandbox; it listens when this returns.
pub async fn start(settings: Settings) -> Result<Sandbox, SandboxError> {
    let pace = Pace::new(settings.pace).ok_or(SandboxError::Pace(settings.pace))?;
    let acceptor = tls::acceptor(settings.tls.clone())?;
    let (listener, smtp) = bind(settings.smtp).await?;
    let (api_listener, api) = bind(settings.api).await?;
    let house = Arc::new(House::new(settings, pace)?);
    let guests = house.clone();
    let session = move |stream, peer| smtp::serve(guests.clone(), stream, peer, acceptor.clone());
    house.tasks.spawn(smtp::listen(house.clone(), listener, session));
    let guests = house.clone();
    let management = match house.face {
        Face::Mailgun => mailgun::router(house.clone()),
        Face::Brevo => brevo::router(house.clone()),
    };
    let session = move |stream, _| mailgun::serve(guests.clone(), management.clone(), stream);
    house.tasks.spawn(smtp::listen(house.clone(), api_listener, session));
    Ok(Sandbox { house, smtp, api })
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), SandboxError> {
    let failed = |source| SandboxError::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

impl Sandbox {
    /// Where it listens.
    pub fn smtp_address(&self) -> SocketAddr {
        self.smtp
    }

    /// Where its API listens.
    pub fn api_address(&self) -> SocketAddr {
        self.api
    }

    /// The last messages it took, oldest first: at most 10,000 and at most 64 MiB of them.
    pub fn taken(&self) -> Vec<Message> {
        self.house.shelf.messages()
    }

    /// What it did since it started.
    pub fn tally(&self) -> Tally {
        self.house.shelf.tally()
    }

    /// Posts events there from now on, retries included.
    pub fn set_webhook(&self, url: impl Into<String>) {
        self.house.webhook.set_url(url.into());
    }

    /// Posts what ActiveCampaign tells there from now on: to an address with the secret in its path.
    pub fn set_contact_webhook(&self, url: impl Into<String>) {
        self.house.campaigns.post_to(url.into());
    }

    /// Has ActiveCampaign tell that something happened to a contact, once, and says what became of that.
    pub async fn tell_contact(&self, event: ContactEvent, address: &str) -> Told {
        self.house.campaigns.tell(&self.house, event, address).await
    }

    /// What goes wrong from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.house.sky.set(weather);
    }

    /// Stops, and returns once nothing runs any more. What was not posted yet never will be.
    pub async fn stop(self) {
        self.house.tasks.stop().await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.house.tasks.abort();
    }
}
