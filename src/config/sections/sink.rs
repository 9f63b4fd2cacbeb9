//! `[[sink]]`: who is told what becomes of the mail.

use crate::config::keywords::{SINKS, SinkKind};
use crate::config::section::Section;
use crate::config::sections::{DAY, odoo, webhook_endpoint};
use crate::config::uniqueness::{Claims, Kind as Claimed};
use crate::config::validators::is_slug;
use mailtrail_relay::sink::{FileSettings, Kind, Settings, Wants};
use mailtrail_trail::What;
use std::time::Duration;

/// Reads one; `hostname` is our name.
pub(crate) fn read(mut section: Section<'_>, hostname: &str, claims: &mut Claims) -> Option<Settings> {
    if !section.has("kind") {
        section.warn("", "has no kind: it does nothing");
    }
    let event = |text: &str| What::words().contains(text).then(|| text.to_owned());
    let kind = section.one_of("kind", &SINKS);
    let word = kind.and_then(|kind| SINKS.iter().find(|(_, known)| *known == kind)).map(|(word, _)| *word);
    let name =
        section.parsed("name", "a name of a-z, 0-9 and -", |text| is_slug(text).then(|| text.to_owned()));
    let name = name.or_else(|| word.map(str::to_owned)).unwrap_or_default();
    claims.name(Claimed::Sink, &section, "name", &name);
    let wants = Wants {
        events: section.list("events", "a word of the event vocabulary", event).unwrap_or_default(),
        clients: section
            .list("clients", "a client's label", |text| Some(text.to_owned()))
            .unwrap_or_default(),
    };
    let patience = section.duration("give_up_after", Duration::from_secs(60)..=DAY * 30);
    let kind = match kind? {
        SinkKind::File => file(&mut section).map(Kind::File),
        SinkKind::Http => {
            let (usual, longest) = (Duration::from_secs(15), Duration::from_secs(300));
            webhook_endpoint::read(&mut section, "what becomes of the mail", usual, longest).map(Kind::Http)
        }
        SinkKind::Odoo => odoo::read(&mut section, &wants.clients, hostname).map(Box::new).map(Kind::Odoo),
    };
    let give_up_after = match kind {
        Some(Kind::Http(_)) => Some(patience.unwrap_or(DAY * 3)),
        _ => patience,
    };
    section.finish();
    Some(Settings { name, kind: kind?, wants, give_up_after })
}

fn file(section: &mut Section<'_>) -> Option<FileSettings> {
    section.require("path");
    let path = section.path_of("path");
    let size = section.size("size", 1 << 10..=1 << 40).unwrap_or(100 << 20);
    let keep = section.integer("keep", 0..=1000).unwrap_or(5);
    Some(FileSettings { path: path?, size, keep })
}
