//! `[[sink]]` with `kind = "odoo"`.

use crate::config::keywords::{UNSUBSCRIBED, WAYS};
use crate::config::section::Section;
use crate::config::validators::is_loopback;
use mailtrail_mail::fold_domain;
use mailtrail_net::odoo;
use mailtrail_net::odoo::Place;
use mailtrail_relay::sink::odoo::{Effects, OdooSettings, Way};
use reqwest::Url;
use std::time::Duration;

/// Reads the keys of the kind; `clients` are those of the section.
pub(crate) fn read(section: &mut Section<'_>, clients: &[String], hostname: &str) -> Option<OdooSettings> {
    let login = login(section, Duration::from_secs(60));
    let way = section.one_of("way", &WAYS).unwrap_or(Way::Action);
    let action = section.integer("action", 1..=i64::from(i32::MAX)).and_then(|id| u64::try_from(id).ok());
    let folded = |text: &str| Some(fold_domain(text));
    let release = section.integer("release", 16..=19).unwrap_or(18);
    let senders = section.list("senders", "a domain", folded).unwrap_or_default();
    let hosts = section.list("hosts", "a host", |text| Some(text.to_owned())).unwrap_or_default();
    let effects = effects(section);
    if effects.relayed && !effects.delivered {
        section.warn("delivered", "is off, and relayed is not: mail that arrived stays \"Sent\"");
    }
    let login = login?;
    let place = Place { url: login.url.clone(), release, clients: clients.to_vec(), senders, hosts };
    Some(OdooSettings { login, place, way, action, effects, hostname: hostname.to_owned() })
}

/// Where a database is, and who logs in there; `patience` is the usual timeout.
pub(crate) fn login(section: &mut Section<'_>, patience: Duration) -> Option<odoo::Settings> {
    ["url", "database", "username"].iter().for_each(|key| section.require(key));
    let url = section.parsed("url", "a text", |text| Some(address(text)));
    if url == Some(None) {
        // The value is not shown: a password may stand in it.
        section.fault("url", "is not an http:// or https:// address without login");
    }
    let url = url.flatten();
    let host = url.as_ref().and_then(Url::host_str).map(|host| host.trim_matches(['[', ']']));
    if url.as_ref().is_some_and(|url| url.scheme() == "http") && !host.is_some_and(is_loopback) {
        section
            .warn("url", "is not https: whoever is on the way reads the API key, and what is about the mail");
    }
    let (database, username) = (section.text("database"), section.text("username"));
    if !section.has("api_key") && !section.has("api_key_file") {
        section.fault("api_key", "or api_key_file is required");
    }
    let key = section.secret("api_key");
    let timeout = section.duration("timeout", Duration::from_secs(1)..=Duration::from_secs(600));
    let ca_file = section.file("ca_file");
    let timeout = timeout.unwrap_or(patience);
    Some(odoo::Settings { url: url?, database: database?, username: username?, key: key?, timeout, ca_file })
}

/// Where Odoo answers; who logs in there stands elsewhere.
fn address(text: &str) -> Option<Url> {
    let url: Url = text.parse().ok()?;
    let anonymous = url.username().is_empty() && url.password().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && anonymous).then_some(url)
}

fn effects(section: &mut Section<'_>) -> Effects {
    let usual = Effects::default();
    let mut shown = |key: &str, word: &'static str, usual: bool| {
        section.one_of(key, &[(word, true), ("off", false)]).unwrap_or(usual)
    };
    Effects {
        relayed: shown("relayed", RELAYED, usual.relayed),
        delivered: shown("delivered", DELIVERED, usual.delivered),
        bounced: shown("bounced", BOUNCED, usual.bounced),
        failed: shown("failed", FAILED, usual.failed),
        opened: shown("opened", OPENED, usual.opened),
        clicked: shown("clicked", CLICKED, usual.clicked),
        complained: shown("complained", COMPLAINED, usual.complained),
        unsubscribed: section.one_of("unsubscribed", &UNSUBSCRIBED).unwrap_or(usual.unsubscribed),
        note: section.boolean("note").unwrap_or(usual.note),
    }
}

pub(crate) const RELAYED: &str = "pending";
pub(crate) const DELIVERED: &str = "sent";
pub(crate) const BOUNCED: &str = "bounce";
pub(crate) const FAILED: &str = "exception";
pub(crate) const OPENED: &str = "open";
pub(crate) const CLICKED: &str = "click";
pub(crate) const COMPLAINED: &str = "blacklist";
