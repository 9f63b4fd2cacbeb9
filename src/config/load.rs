use super::claims::Claims;
use super::document;
use super::fault::{Faults, Place};
use super::reader::{Reading, Section};
use super::settings::Config;
use super::upstream::Ourselves;
use super::{listener, sections, upstream, user};
use std::collections::BTreeMap;
use std::path::Path;

/// Reads the file at `path`; `environment` holds the overrides, what `${...}` names, and `CREDENTIALS_DIRECTORY`.
pub fn load(path: &Path, environment: &BTreeMap<String, String>) -> Result<Config, Faults> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, path, environment),
        Err(error) => {
            let reading = Reading::new(path, environment);
            reading.fault(Place::File, "", format!("cannot be read: {}", error.kind()));
            Err(reading.into_faults())
        }
    }
}

/// Reads `text` as if it stood in the file `path`: its folder is where relative paths begin.
pub fn parse(text: &str, path: &Path, environment: &BTreeMap<String, String>) -> Result<Config, Faults> {
    let reading = Reading::new(path, environment);
    let Some(root) = document::parse(text, &reading) else { return Err(reading.into_faults()) };
    let config = assemble(Section::new(&reading, String::new(), Place::File, root));
    reading.conclude().map(|warnings| Config { warnings, ..config })
}

fn assemble(mut root: Section<'_>) -> Config {
    let mut claims = Claims::default();
    let (hostname, data_dir) = sections::server(&mut root);
    let users = root.tables("user").unwrap_or_default();
    let listeners = some_tables(&mut root, "listener");
    let upstreams = some_tables(&mut root, "upstream");
    let many = users.len();
    let users = users.into_iter().filter_map(|section| user::read(section, &mut claims)).collect();
    let listeners: Vec<_> =
        listeners.into_iter().filter_map(|section| listener::read(section, many, &mut claims)).collect();
    for later in upstreams.iter().skip(1) {
        later.warn("name", "all mail goes to the first upstream in this version");
    }
    let us = Ourselves { hostname: &hostname, listeners: &listeners };
    let upstreams =
        upstreams.into_iter().filter_map(|section| upstream::read(section, &us, &mut claims)).collect();
    sections::not_acted_on(&mut root);
    let config = Config {
        certificate: sections::certificate(&mut root),
        limits: sections::limits(&mut root),
        http: sections::http(&mut root, &mut claims),
        admin: sections::admin(&mut root, &data_dir, &mut claims),
        log: sections::log(&mut root),
        hostname,
        data_dir,
        listeners,
        users,
        upstreams,
        warnings: Vec::new(),
    };
    root.finish();
    config
}

/// The sections `[[key]]`, of which there must be one.
fn some_tables<'a>(root: &mut Section<'a>, key: &str) -> Vec<Section<'a>> {
    let absent = !root.has(key);
    let sections = root.tables(key);
    if absent || sections.as_ref().is_some_and(Vec::is_empty) {
        root.fault(key, format!("at least one [[{key}]] is required"));
    }
    sections.unwrap_or_default()
}
