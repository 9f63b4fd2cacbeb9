//! Client of the providers' management APIs: events and suppression lists.
//!
//! The formats of each API end here: events are returned page by page in the form of the provider's webhooks, so that
//! one decoder handles both. An error names operation, cause and remedy, and never a key. No decision about mail is
//! made here.

mod brevo;
mod domain;
mod error;
mod http;
mod mailgun;
mod suppression_list;
mod webhook;
mod webhook_registration;

pub use domain::SendingDomain;
pub use error::ApiError;
pub use suppression_list::{SuppressionEntry, SuppressionList};
pub use webhook::RegisteredWebhook;
pub use webhook_registration::{DesiredWebhook, WebhookChange, WebhookChangeKind};

use crate::provider_api::http::ApiHttpClient;
use bytes::Bytes;
use mailtrail_mail::{Clock, Secret, Timestamp};
use reqwest::Url;
use serde_json::Value;
use std::time::Duration;
use tokio_rustls::TlsConnector;

/// An account at a provider, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderApiSettings {
    /// The upstream's name, for messages.
    pub upstream: String,
    /// Provider with its parameters.
    pub provider: ProviderKind,
    /// Where the API begins: scheme, host, port.
    pub base_url: Url,
    /// API key of the account.
    pub api_key: Secret,
}

/// Provider of an API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderKind {
    /// Mailgun, for one domain.
    Mailgun {
        /// Sending domain.
        domain: String,
        /// API that events are polled from.
        events_api: EventsApi,
    },
    /// Brevo, for the whole account.
    Brevo,
}

/// Mailgun's APIs for events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventsApi {
    /// `GET /v3/<domain>/events`.
    #[default]
    Events,
    /// `POST /v1/analytics/logs`, which is to take its place.
    Logs,
}

/// A time as a provider writes it, in whichever form.
fn parse_time(value: &Value) -> Option<Timestamp> {
    match value {
        Value::String(text) => Timestamp::parse_any(text),
        number => Timestamp::from_unix_number(number.as_f64()?),
    }
}

/// Client of a provider's API.
#[derive(Debug)]
pub struct ProviderApi {
    http: ApiHttpClient,
    provider: ProviderKind,
}

/// Events from `begin` to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    /// Start, inclusive.
    pub start: Timestamp,
    /// End, inclusive.
    pub end: Timestamp,
}

/// Position of the next page, opaque to the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken(String);

/// Some of the events of a span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventPage {
    /// In the shape of the provider's webhooks.
    pub events: Vec<Value>,
    /// Items that are not usable events.
    pub unreadable: Vec<UnreadableItem>,
    /// Everything of the span that happened before is in this page or in those before it; `None` where the last come
    /// first.
    pub complete_until: Option<Timestamp>,
    /// Next page; `None` at the end.
    pub next: Option<PageToken>,
    /// Whether the page's brackets or quotes do not fit together: events may be missing, and so may `next`.
    pub is_torn: bool,
}

/// An item of a page that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableItem {
    /// Raw bytes of the item.
    pub raw: Bytes,
    /// Reason for which it is unreadable.
    pub reason: String,
}

impl UnreadableItem {
    fn new(item: &Value, reason: &str) -> Self {
        Self { raw: item.to_string().into(), reason: reason.to_owned() }
    }
}

/// Some of the suppressed addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SuppressionPage {
    /// In the provider's order, each with the list that it is on.
    pub entries: Vec<(SuppressionList, SuppressionEntry)>,
    /// Unreadable entries, which may belong to any address.
    pub unreadable: Vec<UnreadableItem>,
    /// Next page; `None` at the end.
    pub next: Option<ListCursor>,
}

/// A place in the walk through an account's lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListCursor {
    list: SuppressionList,
    page: Option<PageToken>,
}

impl ProviderKind {
    /// Default base URL of Brevo's API.
    pub const BREVO_BASE_URL: &'static str = "https://api.brevo.com";
}

impl ProviderApi {
    /// Entries that one request adds at most.
    pub const MAX_ENTRIES_PER_REQUEST: usize = mailgun::MAX_ENTRIES_PER_REQUEST;

    /// A client without connection.
    pub fn new(settings: ProviderApiSettings, tls: &TlsConnector, clock: Clock) -> Result<Self, ApiError> {
        let ProviderApiSettings { upstream, provider, base_url, api_key } = settings;
        Ok(Self { http: ApiHttpClient::new(upstream, base_url, api_key, tls, clock)?, provider })
    }

    /// Name of the upstream.
    pub fn upstream(&self) -> &str {
        self.http.upstream()
    }

    /// Interval between requests that leaves capacity to other users of the account: Mailgun accepts 300 per minute,
    /// Brevo 300 per hour.
    pub fn request_interval(&self) -> Duration {
        match self.provider {
            ProviderKind::Mailgun { .. } => Duration::from_millis(300),
            ProviderKind::Brevo => Duration::from_secs(15),
        }
    }

    /// Fetches events of a time range: the first page, or the `next` one. Events appear late: the last half hour is not
    /// complete.
    pub async fn fetch_events(
        &self,
        span: TimeRange,
        next: Option<&PageToken>,
    ) -> Result<EventPage, ApiError> {
        match &self.provider {
            ProviderKind::Mailgun { domain, events_api: EventsApi::Events } => {
                mailgun::fetch_events(&self.http, domain, span, next).await
            }
            ProviderKind::Mailgun { domain, events_api: EventsApi::Logs } => {
                mailgun::fetch_logs(&self.http, domain, span, next).await
            }
            ProviderKind::Brevo => brevo::fetch_events(&self.http, span, next).await,
        }
    }

    /// The addresses of all lists: the first page, or the one at a place. Mailgun keeps one list after the other, Brevo has
    /// one for all reasons.
    pub async fn fetch_suppressions(&self, place: Option<&ListCursor>) -> Result<SuppressionPage, ApiError> {
        let next = place.and_then(|place| place.page.as_ref());
        match &self.provider {
            ProviderKind::Mailgun { domain, .. } => {
                let list = place.map_or(SuppressionList::ALL[0], |place| place.list);
                let (entries, unreadable, next) =
                    mailgun::fetch_suppressions(&self.http, domain, list, next).await?;
                let next = match next {
                    Some(next) => Some(ListCursor { list, page: Some(next) }),
                    None => list.next().map(|list| ListCursor { list, page: None }),
                };
                let entries = entries.into_iter().map(|entry| (list, entry)).collect();
                Ok(SuppressionPage { entries, unreadable, next })
            }
            ProviderKind::Brevo => {
                let (entries, unreadable, next) = brevo::fetch_suppressions(&self.http, next).await?;
                let next = next.map(|next| ListCursor { list: SuppressionList::ALL[0], page: Some(next) });
                Ok(SuppressionPage { entries, unreadable, next })
            }
        }
    }

    /// Whether entries can be added.
    pub fn can_add_suppressions(&self) -> bool {
        matches!(self.provider, ProviderKind::Mailgun { .. })
    }

    /// Adds entries to a list, at most [`ProviderApi::MAX_ENTRIES_PER_REQUEST`], all of them or none; those that are there are replaced.
    /// Brevo has no call for it.
    pub async fn add_suppressions(
        &self,
        list: SuppressionList,
        entries: &[SuppressionEntry],
    ) -> Result<(), ApiError> {
        match &self.provider {
            ProviderKind::Mailgun { domain, .. } => {
                mailgun::add_suppressions(&self.http, domain, list, entries).await
            }
            ProviderKind::Brevo => Err(self.http.unsupported("adding to the blocked contacts")),
        }
    }

    /// A mail from outside that Mailgun stored, as it came, by the address that its notification names; at most `most`
    /// bytes. Brevo stores none.
    pub async fn fetch_stored_message(&self, url: &str, most: usize) -> Result<String, ApiError> {
        match &self.provider {
            ProviderKind::Mailgun { .. } => mailgun::fetch_stored_message(&self.http, url, most).await,
            ProviderKind::Brevo => Err(self.http.unsupported("stored mail")),
        }
    }

    /// An attachment of a mail from outside that Brevo parsed, by its token; at most `most` bytes. Mailgun sends them
    /// along.
    pub async fn fetch_attachment(&self, token: &str, most: usize) -> Result<Vec<u8>, ApiError> {
        match &self.provider {
            ProviderKind::Mailgun { .. } => Err(self.http.unsupported("attachments")),
            ProviderKind::Brevo => brevo::fetch_attachment(&self.http, token, most).await,
        }
    }

    /// Takes an address off a list; whether it was there.
    pub async fn remove_suppression(&self, list: SuppressionList, address: &str) -> Result<bool, ApiError> {
        match &self.provider {
            ProviderKind::Mailgun { domain, .. } => {
                mailgun::remove_suppression(&self.http, domain, list, address).await
            }
            ProviderKind::Brevo => brevo::remove_suppression(&self.http, address).await,
        }
    }

    /// A sending domain, as the provider sees it; `None` where the account has none of that name.
    pub async fn fetch_domain(&self, name: &str) -> Result<Option<SendingDomain>, ApiError> {
        match self.provider {
            ProviderKind::Mailgun { .. } => mailgun::fetch_domain(&self.http, name).await,
            ProviderKind::Brevo => brevo::find_domain(&self.http, name).await,
        }
    }

    /// Where events are posted: Mailgun's webhooks of the account's domain, Brevo's transactional ones.
    pub async fn fetch_webhooks(&self) -> Result<Vec<RegisteredWebhook>, ApiError> {
        match &self.provider {
            ProviderKind::Mailgun { domain, .. } => mailgun::fetch_webhooks(&self.http, domain).await,
            ProviderKind::Brevo => brevo::fetch_webhooks(&self.http).await,
        }
    }
    /// Plans the changes that register every event for our URL; nothing is changed yet.
    pub async fn plan_registration(
        &self,
        wanted: DesiredWebhook<'_>,
    ) -> Result<Vec<WebhookChange>, ApiError> {
        match &self.provider {
            ProviderKind::Mailgun { domain, .. } => {
                let webhooks = mailgun::fetch_webhooks(&self.http, domain).await?;
                webhook_registration::plan_mailgun(&self.http, domain, &webhooks, wanted.url)
            }
            ProviderKind::Brevo => webhook_registration::plan_brevo(
                &self.http,
                &brevo::fetch_raw_webhooks(&self.http).await?,
                wanted,
            ),
        }
    }

    /// Plans the changes that remove our URL from every event; nothing is changed yet.
    pub async fn plan_removal(&self, ours: &Url) -> Result<Vec<WebhookChange>, ApiError> {
        match &self.provider {
            ProviderKind::Mailgun { domain, .. } => {
                let webhooks = mailgun::fetch_webhooks(&self.http, domain).await?;
                Ok(webhook_registration::plan_mailgun_removal(&self.http, domain, &webhooks, ours))
            }
            ProviderKind::Brevo => webhook_registration::plan_brevo_removal(
                &self.http,
                &brevo::fetch_raw_webhooks(&self.http).await?,
                ours,
            ),
        }
    }

    /// Makes a change of webhooks.
    pub async fn apply_change(&self, change: &WebhookChange) -> Result<(), ApiError> {
        match self.provider {
            ProviderKind::Mailgun { .. } => mailgun::apply_change(&self.http, change).await,
            ProviderKind::Brevo => brevo::apply_change(&self.http, change).await,
        }
    }
}
