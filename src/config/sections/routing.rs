//! `[[route]]` and `[bulk]`: choice of upstream and priority.

use crate::config::section::Section;
use crate::config::unique_names::{NameKind, UniqueNames};
use crate::config::validators::{is_address_pattern, is_header_name, is_slug};
use mailtrail_trail::{HeaderMatch, Match, Route, Routing};

/// Reads both; `upstreams` and `users` are the configured names.
pub(crate) fn read_routing(
    root: &mut Section<'_>,
    upstreams: &[&str],
    users: &[&str],
    claims: &mut UniqueNames,
) -> Routing {
    let routes = root.subsections("route").unwrap_or_default().into_iter();
    let routes = routes.filter_map(|section| read_route(section, upstreams, users, claims)).collect();
    let given = root.contains_key("bulk");
    let mut section = root.subsection("bulk");
    let mut bulk_match = read_match(&mut section, users, false);
    if !given || !section.contains_key("headers") && bulk_match.headers.is_empty() {
        bulk_match.headers =
            DEFAULT_BULK_HEADERS.iter().filter_map(|text| parse_header_match(text)).collect();
    }
    let min_bulk_recipients = section.integer("recipients", 0..=10_000).unwrap_or(DEFAULT_BULK_RECIPIENTS);
    section.reject_unknown();
    Routing { routes, bulk_match, min_bulk_recipients }
}

fn read_route(
    mut section: Section<'_>,
    upstreams: &[&str],
    users: &[&str],
    claims: &mut UniqueNames,
) -> Option<Route> {
    section.require_key("name");
    section.require_key("upstreams");
    let name =
        section.parse("name", "a name of a-z, 0-9 and -", |text| is_slug(text).then(|| text.to_owned()));
    if let Some(name) = &name {
        claims.insert_name(NameKind::Route, &section, "name", name);
    }
    let named = section.list("upstreams", "the name of an [[upstream]]", one_of_names(upstreams));
    let criteria = read_match(&mut section, users, true);
    if named.as_ref().is_some_and(Vec::is_empty) && section.is_valid() {
        section.add_error("upstreams", "names none");
    }
    section.reject_unknown();
    Some(Route { name: name?.into(), criteria, upstreams: named? })
}

fn read_match(section: &mut Section<'_>, users: &[&str], recipients: bool) -> Match {
    let address = |text: &str| is_address_pattern(text).then(|| text.to_owned());
    let addresses = "an address, \"*@domain\" or \"*\"";
    Match {
        users: section.list("users", "the name of a [[user]]", one_of_names(users)).unwrap_or_default(),
        senders: section.list("senders", addresses, address).unwrap_or_default(),
        recipients: if recipients {
            section.list("recipients", addresses, address).unwrap_or_default()
        } else {
            Vec::new()
        },
        headers: section
            .list("headers", "\"Name\" or \"Name: value\"", parse_header_match)
            .unwrap_or_default(),
    }
}

fn one_of_names<'a>(names: &'a [&'a str]) -> impl Fn(&str) -> Option<String> + 'a {
    |text| names.contains(&text).then(|| text.to_owned())
}

fn parse_header_match(text: &str) -> Option<HeaderMatch> {
    let (name, value) = match text.split_once(':') {
        Some((name, value)) => (name, Some(value.trim())),
        None => (text, None),
    };
    let sound = is_header_name(name) && value.is_none_or(|value| !value.is_empty());
    sound.then(|| HeaderMatch { name: name.to_owned(), value: value.map(str::to_owned) })
}

/// Formats a header condition, the inverse of parsing.
pub(crate) fn format_header_match(field: &HeaderMatch) -> String {
    match &field.value {
        Some(value) => format!("{}: {value}", field.name),
        None => field.name.clone(),
    }
}

/// Header fields of newsletters, Odoo's included.
const DEFAULT_BULK_HEADERS: [&str; 3] = ["List-Unsubscribe", "Precedence: bulk", "Precedence: list"];
/// Minimum number of recipients of a bulk message.
const DEFAULT_BULK_RECIPIENTS: usize = 50;
