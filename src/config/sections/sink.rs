//! `[[sink]]`: a receiver of events.

use crate::config::keywords::{SINK_TYPES, SinkType};
use crate::config::section::Section;
use crate::config::sections::{odoo, webhook_endpoint};
use crate::config::unique_names::{NameKind as Claimed, UniqueNames};
use crate::config::units::ONE_DAY;
use crate::config::validators::is_slug;
use mailtrail_relay::sink::{FileSettings, SinkFilter, SinkKind, SinkSettings};
use mailtrail_trail::TrailEventKind;
use std::time::Duration;

/// Reads a sink; `hostname` is the relay's name.
pub(crate) fn read_sink(
    mut section: Section<'_>,
    hostname: &str,
    claims: &mut UniqueNames,
) -> Option<SinkSettings> {
    if !section.contains_key("kind") {
        section.add_warning("", "has no kind: it does nothing");
    }
    let event = |text: &str| TrailEventKind::all_names().contains(text).then(|| text.to_owned());
    let kind = section.keyword("kind", &SINK_TYPES);
    let word =
        kind.and_then(|kind| SINK_TYPES.iter().find(|(_, known)| *known == kind)).map(|(word, _)| *word);
    let name =
        section.parse("name", "a name of a-z, 0-9 and -", |text| is_slug(text).then(|| text.to_owned()));
    let name = name.or_else(|| word.map(str::to_owned)).unwrap_or_default();
    claims.insert_name(Claimed::Sink, &section, "name", &name);
    let filter = SinkFilter {
        events: section.list("events", "a word of the event vocabulary", event).unwrap_or_default(),
        clients: section
            .list("clients", "a client's label", |text| Some(text.to_owned()))
            .unwrap_or_default(),
    };
    let patience = section.duration("give_up_after", Duration::from_secs(60)..=ONE_DAY * 30);
    let kind = match kind? {
        SinkType::File => read_file_sink(&mut section).map(SinkKind::File),
        SinkType::Http => {
            let (usual, longest) = (Duration::from_secs(15), Duration::from_secs(300));
            webhook_endpoint::read_webhook_endpoint(&mut section, "what becomes of the mail", usual, longest)
                .map(SinkKind::Http)
        }
        SinkType::Odoo => {
            odoo::read_odoo_sink(&mut section, &filter.clients, hostname).map(Box::new).map(SinkKind::Odoo)
        }
    };
    let give_up_after = match kind {
        Some(SinkKind::Http(_)) => Some(patience.unwrap_or(ONE_DAY * 3)),
        _ => patience,
    };
    section.reject_unknown();
    Some(SinkSettings { name, kind: kind?, filter, give_up_after })
}

fn read_file_sink(section: &mut Section<'_>) -> Option<FileSettings> {
    section.require_key("path");
    let path = section.file_path("path");
    let max_bytes = section.size("size", 1 << 10..=1 << 40).unwrap_or(100 << 20);
    let max_rotated = section.integer("keep", 0..=1000).unwrap_or(5);
    Some(FileSettings { path: path?, max_bytes, max_rotated })
}
