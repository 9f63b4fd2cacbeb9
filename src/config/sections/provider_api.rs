//! `api_key` and `[upstream.reconcile]`: access to the provider's API, and polling of its events.

use crate::config::keywords::EVENT_APIS;
use crate::config::section::Section;
use crate::config::units::{ONE_DAY, ONE_MINUTE};
use crate::config::validators::is_loopback;
use mailtrail_mail::Secret;
use mailtrail_net::provider_api::{ProviderApiSettings, ProviderKind};
use mailtrail_relay::reconcile;
use mailtrail_trail::provider::{Provider, Region};
use reqwest::Url;

/// The API keys of an upstream, before their use is decided.
pub(crate) struct ApiKeyEntry {
    /// Configuration key in use, or the one to name in a fault.
    pub key_name: &'static str,
    pub is_present: bool,
    pub key: Option<Secret>,
    /// Base URL of the API, if configured.
    pub base_url: Option<Url>,
}

impl ApiKeyEntry {
    pub fn read_api_key(section: &mut Section<'_>) -> Self {
        let key_name = if section.contains_key("api_key_file") { "api_key_file" } else { "api_key" };
        let is_present = section.contains_key(key_name);
        let key = section.secret("api_key");
        let base_url = section.parse("api_base_url", "a text", |text| Some(parse_base_url(text)));
        if base_url == Some(None) {
            // The value is not shown, because it may contain a key.
            section.add_error("api_base_url", EXPECTED_BASE_URL);
        }
        Self { key_name, is_present, key, base_url: base_url.flatten() }
    }
}

/// Reads the API settings and the polling of events.
pub(crate) fn read_provider_api(
    section: &mut Section<'_>,
    upstream: &str,
    provider: Option<Provider>,
    region: Region,
    domain: Option<&str>,
    key: &ApiKeyEntry,
) -> (Option<ProviderApiSettings>, Option<reconcile::PollSettings>) {
    let mut reconciling = section.subsection("reconcile");
    let keys = ["enabled", "every", "api", "reach"];
    let named: Vec<_> = keys.into_iter().filter(|key| reconciling.contains_key(key)).collect();
    let usual = reconcile::PollSettings::default();
    let enabled = reconciling.boolean("enabled").unwrap_or(true);
    let events_api = reconciling.keyword("api", &EVENT_APIS).unwrap_or_default();
    let settings = reconcile::PollSettings {
        interval: reconciling.duration("every", ONE_MINUTE..=ONE_DAY).unwrap_or(usual.interval),
        lookback: reconciling.duration("reach", ONE_MINUTE * 60..=ONE_DAY * 30).unwrap_or(usual.lookback),
    };
    let account = provider.and_then(|provider| {
        let (whose, usual) = match (provider, domain) {
            (Provider::Mailgun, Some(domain)) => (
                ProviderKind::Mailgun { domain: domain.to_owned(), events_api },
                provider.default_api_url(region)?,
            ),
            (Provider::Brevo, _) => (ProviderKind::Brevo, ProviderKind::BREVO_BASE_URL),
            (Provider::Mailgun, None) => {
                let why = "has no effect without domain: the provider's events cannot be polled";
                return key.is_present.then(|| section.add_warning(key.key_name, why)).and(None);
            }
            (Provider::Plain, _) => {
                let why = "has no meaning with provider = \"plain\"";
                return key.is_present.then(|| section.add_warning(key.key_name, why)).and(None);
            }
        };
        let base_url = key.base_url.clone().or_else(|| usual.parse().ok())?;
        Some(ProviderApiSettings {
            upstream: upstream.to_owned(),
            provider: whose,
            base_url,
            api_key: key.key.clone()?,
        })
    });
    if !key.is_present {
        named.iter().for_each(|key| reconciling.add_warning(key, NEEDS_KEY));
        if section.contains_key("api_base_url") {
            section.add_warning("api_base_url", NEEDS_KEY);
        }
    }
    if provider == Some(Provider::Brevo) && reconciling.contains_key("api") {
        reconciling.add_warning("api", "is for Mailgun");
    }
    reconciling.reject_unknown();
    let settings = account.as_ref().filter(|_| enabled).map(|_| settings);
    (account, settings)
}

/// Parses scheme, host and port of a URL that may receive a key.
fn parse_base_url(text: &str) -> Option<Url> {
    let url: Url = text.parse().ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']);
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let anonymous = url.username().is_empty() && url.password().is_none();
    let safe = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(host));
    (bare && anonymous && safe).then_some(url)
}

const EXPECTED_BASE_URL: &str = "is not an address such as \"https://api.mailgun.net\": without login and path, http:// for loopback hosts only";
const NEEDS_KEY: &str = "has no meaning without api_key";
