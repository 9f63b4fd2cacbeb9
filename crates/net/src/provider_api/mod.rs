//! A client of the providers' management APIs: what happened, and whom they send nothing.
//!
//! Each API's shapes end here: events leave in the shape of the same provider's webhooks, page by page, so that whoever
//! reads webhooks reads them. An error names what was asked for, the cause and the remedy, and never a key. It decides
//! nothing about mail.

mod brevo;
mod domain;
mod error;
mod http;
mod mailgun;
mod suppression_list;
mod webhook;
mod webhook_registration;

pub use domain::Domain;
pub use error::Fault;
pub use suppression_list::{Entry, List};
pub use webhook::Webhook;
pub use webhook_registration::{Act, Change, Wanted};

use crate::provider_api::http::Http;
use bytes::Bytes;
use mailtrail_mail::{Clock, Secret, Timestamp};
use reqwest::Url;
use serde_json::Value;
use std::time::Duration;
use tokio_rustls::TlsConnector;

/// An account at a provider, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The upstream's name, for messages.
    pub upstream: String,
    /// Whose account it is.
    pub whose: Whose,
    /// Where the API begins: scheme, host, port.
    pub base_url: Url,
    /// The account's key.
    pub key: Secret,
}

/// Whose account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Mailgun's.
    Mailgun {
        /// The sending domain.
        domain: String,
        /// Which of its two APIs tells events.
        api: Api,
    },
    /// Brevo's.
    Brevo,
}

/// Mailgun's APIs for events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Api {
    /// `GET /v3/<domain>/events`.
    #[default]
    Events,
    /// `POST /v1/analytics/logs`, which is to take its place.
    Logs,
}

/// A time as a provider writes it, in whichever form.
fn moment(value: &Value) -> Option<Timestamp> {
    match value {
        Value::String(text) => Timestamp::parse_any(text),
        number => Timestamp::from_unix_number(number.as_f64()?),
    }
}

/// An account that can be asked.
#[derive(Debug)]
pub struct Account {
    http: Http,
    whose: Whose,
}

/// Events from `begin` to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first moment.
    pub begin: Timestamp,
    /// The last one.
    pub end: Timestamp,
}

/// Where the next page is; only the provider knows what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next(String);

/// Some of the events of a span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// In the shape of the provider's webhooks.
    pub events: Vec<Value>,
    /// What is no event, or none that can be used.
    pub unread: Vec<Unread>,
    /// Everything of the span that happened before is in this page or in those before it; `None` where the last come
    /// first.
    pub complete_until: Option<Timestamp>,
    /// What comes next; `None` at the end.
    pub next: Option<Next>,
    /// Whether the page's brackets or quotes do not fit together: events may be missing, and so may `next`.
    pub is_torn: bool,
}

/// An item of a page that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// As it came.
    pub raw: Bytes,
    /// Why not.
    pub reason: String,
}

impl Unread {
    fn new(item: &Value, reason: &str) -> Self {
        Self { raw: item.to_string().into(), reason: reason.to_owned() }
    }
}

/// Some of the suppressed addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// In the provider's order, each with the list that it is on.
    pub entries: Vec<(List, Entry)>,
    /// Entries that cannot be read: they may be anybody's.
    pub unread: Vec<Unread>,
    /// What comes next; `None` at the end.
    pub next: Option<Place>,
}

/// A place in the walk through an account's lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    list: List,
    next: Option<Next>,
}

impl Whose {
    /// Where the provider's API begins where the configuration does not say it.
    pub const BREVO: &'static str = "https://api.brevo.com";
}

impl Account {
    /// Entries that one request adds at most.
    pub const MOST_ENTRIES: usize = mailgun::ENTRIES;

    /// A client without connection.
    pub fn new(settings: Settings, tls: &TlsConnector, clock: Clock) -> Result<Self, Fault> {
        let Settings { upstream, whose, base_url, key } = settings;
        Ok(Self { http: Http::new(upstream, base_url, key, tls, clock)?, whose })
    }

    /// The upstream's name.
    pub fn upstream(&self) -> &str {
        self.http.upstream()
    }

    /// How long to wait from one request to the next, so that others who use the account find room, too: Mailgun takes
    /// 300 a minute, Brevo 300 an hour.
    pub fn pause(&self) -> Duration {
        match self.whose {
            Whose::Mailgun { .. } => Duration::from_millis(300),
            Whose::Brevo => Duration::from_secs(15),
        }
    }

    /// The events of a span: the first page, or the `next` one. Events appear late: what is younger than half an hour
    /// is not complete.
    pub async fn events(&self, span: Span, next: Option<&Next>) -> Result<Page, Fault> {
        match &self.whose {
            Whose::Mailgun { domain, api: Api::Events } => {
                mailgun::events(&self.http, domain, span, next).await
            }
            Whose::Mailgun { domain, api: Api::Logs } => mailgun::logs(&self.http, domain, span, next).await,
            Whose::Brevo => brevo::events(&self.http, span, next).await,
        }
    }

    /// The addresses of all lists: the first page, or the one at a place. Mailgun keeps one list after the other, Brevo has
    /// one for all reasons.
    pub async fn listed(&self, place: Option<&Place>) -> Result<Listed, Fault> {
        let next = place.and_then(|place| place.next.as_ref());
        match &self.whose {
            Whose::Mailgun { domain, .. } => {
                let list = place.map_or(List::ALL[0], |place| place.list);
                let (entries, unread, next) = mailgun::listed(&self.http, domain, list, next).await?;
                let next = match next {
                    Some(next) => Some(Place { list, next: Some(next) }),
                    None => list.following().map(|list| Place { list, next: None }),
                };
                let entries = entries.into_iter().map(|entry| (list, entry)).collect();
                Ok(Listed { entries, unread, next })
            }
            Whose::Brevo => {
                let (entries, unread, next) = brevo::listed(&self.http, next).await?;
                let next = next.map(|next| Place { list: List::ALL[0], next: Some(next) });
                Ok(Listed { entries, unread, next })
            }
        }
    }

    /// Whether entries can be added.
    pub fn takes_entries(&self) -> bool {
        matches!(self.whose, Whose::Mailgun { .. })
    }

    /// Adds entries to a list, at most [`Account::MOST_ENTRIES`], all of them or none; those that are there are replaced.
    /// Brevo has no call for it.
    pub async fn add(&self, list: List, entries: &[Entry]) -> Result<(), Fault> {
        match &self.whose {
            Whose::Mailgun { domain, .. } => mailgun::add(&self.http, domain, list, entries).await,
            Whose::Brevo => Err(self.http.unable("adding to the blocked contacts")),
        }
    }

    /// A mail from outside that Mailgun stored, as it came, by the address that its notification names; at most `most`
    /// bytes. Brevo stores none.
    pub async fn stored(&self, url: &str, most: usize) -> Result<String, Fault> {
        match &self.whose {
            Whose::Mailgun { .. } => mailgun::stored(&self.http, url, most).await,
            Whose::Brevo => Err(self.http.unable("stored mail")),
        }
    }

    /// An attachment of a mail from outside that Brevo parsed, by its token; at most `most` bytes. Mailgun sends them
    /// along.
    pub async fn attachment(&self, token: &str, most: usize) -> Result<Vec<u8>, Fault> {
        match &self.whose {
            Whose::Mailgun { .. } => Err(self.http.unable("attachments")),
            Whose::Brevo => brevo::attachment(&self.http, token, most).await,
        }
    }

    /// Takes an address off a list; whether it was there.
    pub async fn remove(&self, list: List, address: &str) -> Result<bool, Fault> {
        match &self.whose {
            Whose::Mailgun { domain, .. } => mailgun::remove(&self.http, domain, list, address).await,
            Whose::Brevo => brevo::remove(&self.http, address).await,
        }
    }

    /// A sending domain, as the provider sees it; `None` where the account has none of that name.
    pub async fn domain(&self, name: &str) -> Result<Option<Domain>, Fault> {
        match self.whose {
            Whose::Mailgun { .. } => mailgun::domain(&self.http, name).await,
            Whose::Brevo => brevo::domain(&self.http, name).await,
        }
    }

    /// Where events are posted: Mailgun's webhooks of the account's domain, Brevo's transactional ones.
    pub async fn webhooks(&self) -> Result<Vec<Webhook>, Fault> {
        match &self.whose {
            Whose::Mailgun { domain, .. } => mailgun::webhooks(&self.http, domain).await,
            Whose::Brevo => brevo::webhooks(&self.http).await,
        }
    }
    /// What is missing so that every kind of event is told to an address of ours; nothing is changed yet.
    pub async fn to_register(&self, wanted: Wanted<'_>) -> Result<Vec<Change>, Fault> {
        match &self.whose {
            Whose::Mailgun { domain, .. } => {
                let webhooks = mailgun::webhooks(&self.http, domain).await?;
                webhook_registration::at_mailgun(&self.http, domain, &webhooks, wanted.url)
            }
            Whose::Brevo => {
                webhook_registration::at_brevo(&self.http, &brevo::hooks(&self.http).await?, wanted)
            }
        }
    }

    /// What is to be taken out so that nothing is told to an address of ours any more; nothing is changed yet.
    pub async fn to_unregister(&self, ours: &Url) -> Result<Vec<Change>, Fault> {
        match &self.whose {
            Whose::Mailgun { domain, .. } => {
                let webhooks = mailgun::webhooks(&self.http, domain).await?;
                Ok(webhook_registration::out_of_mailgun(&self.http, domain, &webhooks, ours))
            }
            Whose::Brevo => {
                webhook_registration::out_of_brevo(&self.http, &brevo::hooks(&self.http).await?, ours)
            }
        }
    }

    /// Makes a change of webhooks.
    pub async fn carry_out(&self, change: &Change) -> Result<(), Fault> {
        match self.whose {
            Whose::Mailgun { .. } => mailgun::carry_out(&self.http, change).await,
            Whose::Brevo => brevo::carry_out(&self.http, change).await,
        }
    }
}
