//! `[inbound]`: mail from outside, and where it goes.

use crate::config::keywords::{AUTO_REPLIES, Deliver, INBOUND, SECURITY};
use crate::config::section::Section;
use crate::config::sections::{DAY, odoo, webhook_endpoint};
use crate::config::uniqueness::{Claims, Kind as Claimed};
use crate::config::units;
use crate::config::validators::{is_host, is_loopback, is_sender_pattern, is_slug};
use mailtrail_net::transport::{Dialect, Login, Security};
use mailtrail_relay::inbound::{Kind, Settings, SmtpSettings};
use mailtrail_relay::webhook::inbound::MailRules;
use std::time::Duration;

/// Reads the section and its targets.
pub(crate) fn read(root: &mut Section<'_>, claims: &mut Claims) -> (MailRules, Vec<Settings>) {
    let mut section = root.table("inbound");
    let usual = MailRules::default();
    let window = section.parsed("duplicates", "\"off\" or a duration from \"1min\" to \"30d\"", |text| {
        let allowed = |duration: &Duration| (Duration::from_secs(60)..=DAY * 30).contains(duration);
        if text == "off" { Some(Duration::ZERO) } else { units::duration(text).filter(allowed) }
    });
    let rules = MailRules {
        size: section.size("size", 64 << 10..=200 << 20).unwrap_or(usual.size),
        duplicates: window.unwrap_or(usual.duplicates),
        auto_replies: section.one_of("auto_replies", &AUTO_REPLIES).unwrap_or(usual.auto_replies),
    };
    let targets = section.tables("target").unwrap_or_default();
    let targets = targets.into_iter().filter_map(|section| target(section, claims)).collect();
    section.finish();
    (rules, targets)
}

fn target(mut section: Section<'_>, claims: &mut Claims) -> Option<Settings> {
    section.require("deliver");
    let deliver = section.one_of("deliver", &INBOUND);
    let word = deliver
        .and_then(|deliver| INBOUND.iter().find(|(_, known)| *known == deliver))
        .map(|(word, _)| *word);
    let name =
        section.parsed("name", "a name of a-z, 0-9 and -", |text| is_slug(text).then(|| text.to_owned()));
    let name = name.or_else(|| word.map(str::to_owned)).unwrap_or_default();
    claims.name(Claimed::Target, &section, "name", &name);
    let recipients = section.list("recipients", "an address, \"*@domain\" or \"*\"", |text| {
        is_sender_pattern(text).then(|| text.to_owned())
    });
    let patience = section.duration("give_up_after", Duration::from_secs(3600)..=DAY * 30);
    let kind = match deliver? {
        Deliver::Smtp => smtp(&mut section, Dialect::Smtp).map(Kind::Smtp),
        Deliver::Lmtp => smtp(&mut section, Dialect::Lmtp).map(Kind::Smtp),
        Deliver::Http => {
            let (usual, longest) = (Duration::from_secs(60), Duration::from_secs(600));
            webhook_endpoint::read(&mut section, "the mail", usual, longest).map(Kind::Http)
        }
        Deliver::Odoo => odoo::login(&mut section, TO_ODOO).map(Kind::Odoo),
    };
    section.finish();
    Some(Settings {
        name,
        recipients: recipients.unwrap_or_default(),
        give_up_after: patience.unwrap_or(DAY * 5),
        kind: kind?,
    })
}

fn smtp(section: &mut Section<'_>, dialect: Dialect) -> Option<SmtpSettings> {
    section.require("host");
    let host: Option<String> =
        section.parsed("host", "a host name or an IP address", |text| is_host(text).then(|| text.into()));
    let usual = match dialect {
        Dialect::Smtp => 25,
        Dialect::Lmtp => 24,
    };
    let port = section.integer("port", 1..=u16::MAX).unwrap_or(usual);
    let security = section.one_of("tls", &SECURITY).unwrap_or(Security::StartTls);
    if security == Security::None && host.as_deref().is_some_and(|host| !is_loopback(host)) {
        section.warn("tls", "is \"none\": whoever is on the way to the target reads the mail");
    }
    let ca_file = section.file("ca_file");
    let has_password = section.has("password") || section.has("password_file");
    let username = section.text("username");
    if username.is_some() != has_password {
        section.fault("username", "and password_file (or password) belong together");
    }
    let login = username.zip(section.secret("password"));
    let login = login.map(|(username, password)| Login { username, password });
    Some(SmtpSettings { dialect, host: host?, port, security, ca_file, login })
}

/// How long Odoo may take for a mail.
const TO_ODOO: Duration = Duration::from_secs(120);
