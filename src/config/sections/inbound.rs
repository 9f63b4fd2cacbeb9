//! `[inbound]`: rules and targets of inbound mail.

use crate::config::keywords::{AUTO_REPLY_MODES, INBOUND_TRANSPORTS, InboundTransport, UPSTREAM_TLS_MODES};
use crate::config::section::Section;
use crate::config::sections::{odoo, webhook_endpoint};
use crate::config::unique_names::{NameKind as Claimed, UniqueNames};
use crate::config::units;
use crate::config::units::ONE_DAY;
use crate::config::validators::{is_address_pattern, is_hostname, is_loopback, is_slug};
use mailtrail_net::transport::{Login, Protocol, Security};
use mailtrail_relay::inbound::{SmtpSettings, TargetKind, TargetSettings};
use mailtrail_relay::webhook::inbound::InboundRules;
use std::time::Duration;

/// Reads the section and its targets.
pub(crate) fn read_inbound(
    root: &mut Section<'_>,
    claims: &mut UniqueNames,
) -> (InboundRules, Vec<TargetSettings>) {
    let mut section = root.subsection("inbound");
    let usual = InboundRules::default();
    let window = section.parse("duplicates", "\"off\" or a duration from \"1min\" to \"30d\"", |text| {
        let allowed = |duration: &Duration| (Duration::from_secs(60)..=ONE_DAY * 30).contains(duration);
        if text == "off" { Some(Duration::ZERO) } else { units::parse_duration(text).filter(allowed) }
    });
    let rules = InboundRules {
        max_size: section.size("size", 64 << 10..=200 << 20).unwrap_or(usual.max_size),
        dedup_window: window.unwrap_or(usual.dedup_window),
        auto_replies: section.keyword("auto_replies", &AUTO_REPLY_MODES).unwrap_or(usual.auto_replies),
    };
    let targets = section.subsections("target").unwrap_or_default();
    let targets = targets.into_iter().filter_map(|section| read_target(section, claims)).collect();
    section.reject_unknown();
    (rules, targets)
}

fn read_target(mut section: Section<'_>, claims: &mut UniqueNames) -> Option<TargetSettings> {
    section.require_key("deliver");
    let deliver = section.keyword("deliver", &INBOUND_TRANSPORTS);
    let word = deliver
        .and_then(|deliver| INBOUND_TRANSPORTS.iter().find(|(_, known)| *known == deliver))
        .map(|(word, _)| *word);
    let name =
        section.parse("name", "a name of a-z, 0-9 and -", |text| is_slug(text).then(|| text.to_owned()));
    let name = name.or_else(|| word.map(str::to_owned)).unwrap_or_default();
    claims.insert_name(Claimed::Target, &section, "name", &name);
    let recipients = section.list("recipients", "an address, \"*@domain\" or \"*\"", |text| {
        is_address_pattern(text).then(|| text.to_owned())
    });
    let patience = section.duration("give_up_after", Duration::from_secs(3600)..=ONE_DAY * 30);
    let kind = match deliver? {
        InboundTransport::Smtp => read_smtp_target(&mut section, Protocol::Smtp).map(TargetKind::Smtp),
        InboundTransport::Lmtp => read_smtp_target(&mut section, Protocol::Lmtp).map(TargetKind::Smtp),
        InboundTransport::Http => {
            let (usual, longest) = (Duration::from_secs(60), Duration::from_secs(600));
            webhook_endpoint::read_webhook_endpoint(&mut section, "the mail", usual, longest)
                .map(TargetKind::Http)
        }
        InboundTransport::Odoo => {
            odoo::read_odoo_login(&mut section, DEFAULT_ODOO_TIMEOUT).map(TargetKind::Odoo)
        }
    };
    section.reject_unknown();
    Some(TargetSettings {
        name,
        recipients: recipients.unwrap_or_default(),
        give_up_after: patience.unwrap_or(ONE_DAY * 5),
        kind: kind?,
    })
}

fn read_smtp_target(section: &mut Section<'_>, protocol: Protocol) -> Option<SmtpSettings> {
    section.require_key("host");
    let host: Option<String> =
        section.parse("host", "a host name or an IP address", |text| is_hostname(text).then(|| text.into()));
    let usual = match protocol {
        Protocol::Smtp => 25,
        Protocol::Lmtp => 24,
    };
    let port = section.integer("port", 1..=u16::MAX).unwrap_or(usual);
    let security = section.keyword("tls", &UPSTREAM_TLS_MODES).unwrap_or(Security::StartTls);
    if security == Security::None && host.as_deref().is_some_and(|host| !is_loopback(host)) {
        section.add_warning("tls", "is \"none\": mail crosses the network unencrypted");
    }
    let ca_file = section.existing_file("ca_file");
    let has_password = section.contains_key("password") || section.contains_key("password_file");
    let username = section.text("username");
    if username.is_some() != has_password {
        section.add_error("username", "and password_file (or password) belong together");
    }
    let login = username.zip(section.secret("password"));
    let login = login.map(|(username, password)| Login { username, password });
    Some(SmtpSettings { protocol, host: host?, port, security, ca_file, login })
}

/// Default timeout of a delivery to Odoo.
const DEFAULT_ODOO_TIMEOUT: Duration = Duration::from_secs(120);
