use crate::provider_api::webhook_registration::{is_ours, shown};
use reqwest::Url;

/// An address that is told one kind of event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// The provider's word for the kind of event, as registrations have it.
    pub event: String,
    /// The address; a password may stand in it.
    pub url: String,
}

impl Webhook {
    /// Whether it has the path of that upstream's webhooks; a web server in front may have put others before it.
    pub fn leads_to(&self, upstream: &str) -> bool {
        self.url.parse::<Url>().is_ok_and(|url| {
            let path = url.path().strip_suffix('/').unwrap_or(url.path());
            path.strip_suffix(upstream).is_some_and(|path| path.ends_with("/webhooks/"))
        })
    }

    /// Whether it leads to that address, with whatever login.
    pub fn is_at(&self, url: &Url) -> bool {
        is_ours(&self.url, url)
    }

    /// The address without the secrets that may stand in it: login and query.
    pub fn shown(&self) -> String {
        self.url.parse().map_or_else(|_| "(no address)".to_owned(), |url| shown(&url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> Webhook {
        Webhook { event: "delivered".to_owned(), url: url.to_owned() }
    }

    #[test]
    fn only_our_path_is_ours() {
        for url in [
            "https://relay.example.com/webhooks/up",
            "https://relay.example.com/webhooks/up/",
            "https://example.com/relay/webhooks/up?a=b",
        ] {
            assert!(at(url).leads_to("up"), "{url}");
        }
        for url in [
            "https://relay.example.com/webhooks/other",
            "https://relay.example.com/webhooks/up//",
            "https://e.com/webhooks/xup",
            "https://e.com/up",
            "up",
        ] {
            assert!(!at(url).leads_to("up"), "{url}");
        }
    }

    #[test]
    fn no_login_is_shown() {
        assert_eq!(at("https://a:b@example.com/x").shown(), "https://example.com/x");
        assert_eq!(at("nowhere").shown(), "(no address)");
    }
}
