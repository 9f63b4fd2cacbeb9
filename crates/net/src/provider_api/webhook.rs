use crate::provider_api::webhook_registration::{redacted, same_target};
use reqwest::Url;

/// A registered webhook: one URL for one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredWebhook {
    /// Provider's name of the event, as in registrations.
    pub event: String,
    /// URL; may contain a password.
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

    /// Returns whether it leads to `url`, ignoring the login.
    pub fn targets_url(&self, url: &Url) -> bool {
        same_target(&self.url, url)
    }

    /// URL without login and query, which may be secrets.
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
