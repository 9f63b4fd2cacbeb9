use crate::provider_api::webhook_registration::{redacted, same_target};
use reqwest::Url;

/// An address that is told one kind of event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredWebhook {
    /// The provider's word for the kind of event, as registrations have it.
    pub event: String,
    /// The address; a password may stand in it.
    pub url: String,
}

impl RegisteredWebhook {
    /// Whether it has the path of that upstream's webhooks; a web server in front may have put others before it.
    pub fn targets_upstream(&self, upstream: &str) -> bool {
        self.url.parse::<Url>().is_ok_and(|url| {
            let path = url.path().strip_suffix('/').unwrap_or(url.path());
            path.strip_suffix(upstream).is_some_and(|path| path.ends_with("/webhooks/"))
        })
    }

    /// Whether it leads to that address, with whatever login.
    pub fn targets_url(&self, url: &Url) -> bool {
        same_target(&self.url, url)
    }

    /// The address without the secrets that may stand in it: login and query.
    pub fn redacted_url(&self) -> String {
        self.url.parse().map_or_else(|_| "(no address)".to_owned(), |url| redacted(&url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook_at(url: &str) -> RegisteredWebhook {
        RegisteredWebhook { event: "delivered".to_owned(), url: url.to_owned() }
    }

    #[test]
    fn recognizes_only_the_upstream_path() {
        for url in [
            "https://relay.example.com/webhooks/up",
            "https://relay.example.com/webhooks/up/",
            "https://example.com/relay/webhooks/up?a=b",
        ] {
            assert!(webhook_at(url).targets_upstream("up"), "{url}");
        }
        for url in [
            "https://relay.example.com/webhooks/other",
            "https://relay.example.com/webhooks/up//",
            "https://e.com/webhooks/xup",
            "https://e.com/up",
            "up",
        ] {
            assert!(!webhook_at(url).targets_upstream("up"), "{url}");
        }
    }

    #[test]
    fn redacts_the_login() {
        assert_eq!(webhook_at("https://a:b@example.com/x").redacted_url(), "https://example.com/x");
        assert_eq!(webhook_at("nowhere").redacted_url(), "(no address)");
    }
}
