//! HTTP endpoints that mailtrail posts to: of `[[sink]]` and `[[inbound.target]]`.

use crate::config::section::Section;
use mailtrail_net::WebhookEndpoint;
use reqwest::Url;
use std::time::Duration;

/// Reads the URL of an endpoint. A fault does not show it, because any part of it may be a secret.
pub(crate) fn read_url(section: &mut Section<'_>, key: &'static str) -> Option<Url> {
    let parse = |text: &str| {
        text.parse::<Url>().ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
    };
    let url = section.parse(key, "a text", |text| Some(parse(text)));
    if url == Some(None) {
        section.add_error(key, "is not an http:// or https:// address");
    }
    url.flatten()
}

/// Reads the keys of an endpoint; `goods` names the posted data, `usual` and `longest` are timeouts.
pub(crate) fn read_webhook_endpoint(
    section: &mut Section<'_>,
    goods: &str,
    usual: Duration,
    longest: Duration,
) -> Option<WebhookEndpoint> {
    section.require_key("url");
    let url = read_url(section, "url");
    let secrets = section.secrets("secret", 2);
    if secrets.is_empty() && section.is_valid() {
        section.require_key("secret");
    }
    let allow_private_address = section.boolean("allow_private").unwrap_or(false);
    if url.as_ref().is_some_and(|url| url.scheme() == "http") && !allow_private_address {
        section.add_warning("url", format!("is not https: {goods} cross the network unencrypted"));
    }
    let timeout = section.duration("timeout", Duration::from_secs(1)..=longest).unwrap_or(usual);
    Some(WebhookEndpoint { url: url?, secrets, allow_private_address, timeout })
}
