//! `[[route]]` and `[bulk]`: which mail goes where, and which goes first.

use crate::config::section::Section;
use crate::config::uniqueness::{Claims, Kind};
use crate::config::validators::{is_header_name, is_sender_pattern, is_slug};
use mailtrail_trail::{Field, Pattern, Route, Routing};

/// Reads both; `upstreams` and `users` are the names that there are.
pub(crate) fn read(
    root: &mut Section<'_>,
    upstreams: &[&str],
    users: &[&str],
    claims: &mut Claims,
) -> Routing {
    let routes = root.tables("route").unwrap_or_default().into_iter();
    let routes = routes.filter_map(|section| route(section, upstreams, users, claims)).collect();
    let given = root.has("bulk");
    let mut section = root.table("bulk");
    let mut bulk = pattern(&mut section, users, false);
    if !given || !section.has("headers") && bulk.headers.is_empty() {
        bulk.headers = USUAL.iter().filter_map(|text| field(text)).collect();
    }
    let bulk_recipients = section.integer("recipients", 0..=10_000).unwrap_or(RECIPIENTS);
    section.finish();
    Routing { routes, bulk, bulk_recipients }
}

fn route(mut section: Section<'_>, upstreams: &[&str], users: &[&str], claims: &mut Claims) -> Option<Route> {
    section.require("name");
    section.require("upstreams");
    let name =
        section.parsed("name", "a name of a-z, 0-9 and -", |text| is_slug(text).then(|| text.to_owned()));
    if let Some(name) = &name {
        claims.name(Kind::Route, &section, "name", name);
    }
    let named = section.list("upstreams", "the name of an [[upstream]]", known(upstreams));
    let pattern = pattern(&mut section, users, true);
    if named.as_ref().is_some_and(Vec::is_empty) && section.is_sound() {
        section.fault("upstreams", "names none");
    }
    section.finish();
    Some(Route { name: name?.into(), pattern, upstreams: named? })
}

fn pattern(section: &mut Section<'_>, users: &[&str], recipients: bool) -> Pattern {
    let address = |text: &str| is_sender_pattern(text).then(|| text.to_owned());
    let addresses = "an address, \"*@domain\" or \"*\"";
    Pattern {
        users: section.list("users", "the name of a [[user]]", known(users)).unwrap_or_default(),
        senders: section.list("senders", addresses, address).unwrap_or_default(),
        recipients: if recipients {
            section.list("recipients", addresses, address).unwrap_or_default()
        } else {
            Vec::new()
        },
        headers: section.list("headers", "\"Name\" or \"Name: value\"", field).unwrap_or_default(),
    }
}

fn known<'a>(names: &'a [&'a str]) -> impl Fn(&str) -> Option<String> + 'a {
    |text| names.contains(&text).then(|| text.to_owned())
}

fn field(text: &str) -> Option<Field> {
    let (name, value) = match text.split_once(':') {
        Some((name, value)) => (name, Some(value.trim())),
        None => (text, None),
    };
    let sound = is_header_name(name) && value.is_none_or(|value| !value.is_empty());
    sound.then(|| Field { name: name.to_owned(), value: value.map(str::to_owned) })
}

/// As [`read`] reads it.
pub(crate) fn show_field(field: &Field) -> String {
    match &field.value {
        Some(value) => format!("{}: {value}", field.name),
        None => field.name.clone(),
    }
}

/// What newsletters have, Odoo's among them.
const USUAL: [&str; 3] = ["List-Unsubscribe", "Precedence: bulk", "Precedence: list"];
/// Recipients from which on a mail is bulk.
const RECIPIENTS: usize = 50;
