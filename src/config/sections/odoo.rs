//! Keys of `[[sink]]` with `kind = "odoo"`.

use crate::config::keywords::{ODOO_MODES, ODOO_UNSUBSCRIBE_ACTIONS};
use crate::config::section::Section;
use crate::config::validators::is_loopback;
use mailtrail_mail::fold_domain;
use mailtrail_net::odoo;
use mailtrail_net::odoo::OdooInstance;
use mailtrail_relay::sink::odoo::{OdooMode, OdooSettings, OdooStatusOptions};
use reqwest::Url;
use std::time::Duration;

/// Reads the keys of the kind; `clients` are those of the section.
pub(crate) fn read_odoo_sink(
    section: &mut Section<'_>,
    clients: &[String],
    hostname: &str,
) -> Option<OdooSettings> {
    let login = read_odoo_login(section, Duration::from_secs(60));
    let mode = section.keyword("way", &ODOO_MODES).unwrap_or(OdooMode::Action);
    let action_id = section.integer("action", 1..=i64::from(i32::MAX)).and_then(|id| u64::try_from(id).ok());
    let folded = |text: &str| Some(fold_domain(text));
    let release = section.integer("release", 16..=19).unwrap_or(18);
    let sender_domains = section.list("senders", "a domain", folded).unwrap_or_default();
    let message_id_hosts = section.list("hosts", "a host", |text| Some(text.to_owned())).unwrap_or_default();
    let status_options = read_status_options(section);
    if status_options.relayed && !status_options.delivered {
        section.add_warning("delivered", "is off, and relayed is not: mail that arrived stays \"Sent\"");
    }
    let login = login?;
    let instance = OdooInstance {
        url: login.url.clone(),
        release,
        client_labels: clients.to_vec(),
        sender_domains,
        message_id_hosts,
    };
    Some(OdooSettings { login, instance, mode, action_id, status_options, hostname: hostname.to_owned() })
}

/// Reads the server, the database and the login; `patience` is the default timeout.
pub(crate) fn read_odoo_login(section: &mut Section<'_>, patience: Duration) -> Option<odoo::OdooConnection> {
    ["url", "database", "username"].iter().for_each(|key| section.require_key(key));
    let url = section.parse("url", "a text", |text| Some(parse_url(text)));
    if url == Some(None) {
        // The value is not shown, because it may contain a password.
        section.add_error("url", "is not an http:// or https:// address without login");
    }
    let url = url.flatten();
    let host = url.as_ref().and_then(Url::host_str).map(|host| host.trim_matches(['[', ']']));
    if url.as_ref().is_some_and(|url| url.scheme() == "http") && !host.is_some_and(is_loopback) {
        section.add_warning(
            "url",
            "is not https: the API key and data about messages cross the network unencrypted",
        );
    }
    let (database, username) = (section.text("database"), section.text("username"));
    if !section.contains_key("api_key") && !section.contains_key("api_key_file") {
        section.add_error("api_key", "or api_key_file is required");
    }
    let key = section.secret("api_key");
    let timeout = section.duration("timeout", Duration::from_secs(1)..=Duration::from_secs(600));
    let ca_file = section.existing_file("ca_file");
    let timeout = timeout.unwrap_or(patience);
    Some(odoo::OdooConnection {
        url: url?,
        database: database?,
        username: username?,
        api_key: key?,
        timeout,
        ca_file,
    })
}

/// Parses the URL of Odoo, which must not contain a login.
fn parse_url(text: &str) -> Option<Url> {
    let url: Url = text.parse().ok()?;
    let anonymous = url.username().is_empty() && url.password().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && anonymous).then_some(url)
}

fn read_status_options(section: &mut Section<'_>) -> OdooStatusOptions {
    let usual = OdooStatusOptions::default();
    let mut shown = |key: &str, word: &'static str, usual: bool| {
        section.keyword(key, &[(word, true), ("off", false)]).unwrap_or(usual)
    };
    OdooStatusOptions {
        relayed: shown("relayed", RELAYED_STATUS, usual.relayed),
        delivered: shown("delivered", DELIVERED_STATUS, usual.delivered),
        bounced: shown("bounced", BOUNCED_STATUS, usual.bounced),
        failed: shown("failed", FAILED_STATUS, usual.failed),
        opened: shown("opened", OPENED_STATUS, usual.opened),
        clicked: shown("clicked", CLICKED_STATUS, usual.clicked),
        complained: shown("complained", COMPLAINED_STATUS, usual.complained),
        unsubscribed: section
            .keyword("unsubscribed", &ODOO_UNSUBSCRIBE_ACTIONS)
            .unwrap_or(usual.unsubscribed),
        note: section.boolean("note").unwrap_or(usual.note),
    }
}

pub(crate) const RELAYED_STATUS: &str = "pending";
pub(crate) const DELIVERED_STATUS: &str = "sent";
pub(crate) const BOUNCED_STATUS: &str = "bounce";
pub(crate) const FAILED_STATUS: &str = "exception";
pub(crate) const OPENED_STATUS: &str = "open";
pub(crate) const CLICKED_STATUS: &str = "click";
pub(crate) const COMPLAINED_STATUS: &str = "blacklist";
