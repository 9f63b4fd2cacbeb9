use crate::config::diagnostic::{Faults, Place};
use crate::config::section::{Reading, Section};
use crate::config::sections::{
    Ourselves, alarms, inbound, listener, routing, sink, source, suppression, upstream, user,
};
use crate::config::settings::{Config, HttpTls, Upstream};
use crate::config::uniqueness::Claims;
use crate::config::{document, sections};
use mailtrail_mail::descriptors;
use mailtrail_relay::sink::Kind;
use mailtrail_relay::submission::{Listener, User};
use mailtrail_trail::suppression::Settings;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Reads the file at `path`; `environment` holds the overrides, what `${...}` names, and `CREDENTIALS_DIRECTORY`.
pub fn load(path: &Path, environment: &BTreeMap<String, String>) -> Result<Config, Faults> {
    parse(&read(path, environment)?, path, environment)
}

/// Where a relay with that file keeps its data and answers questions. Nothing else is read, so whoever asks needs
/// neither its secrets nor a file without faults.
pub fn whereabouts(
    path: &Path,
    environment: &BTreeMap<String, String>,
) -> Result<(PathBuf, PathBuf), Faults> {
    let text = read(path, environment)?;
    let reading = Reading::new(path, environment);
    let Some(root) = document::parse(&text, &reading) else { return Err(reading.into_faults()) };
    let mut root = Section::new(&reading, String::new(), Place::File, root);
    let (_, data_dir) = sections::server(&mut root);
    let admin = sections::admin(&mut root, &data_dir, &mut Claims::default());
    reading.conclude().map(|_| (data_dir, admin.socket))
}

/// The listeners of a relay with that file. As with [`whereabouts`], nothing else is read.
pub fn listeners(path: &Path, environment: &BTreeMap<String, String>) -> Result<Vec<Listener>, Faults> {
    let text = read(path, environment)?;
    let reading = Reading::new(path, environment);
    let Some(root) = document::parse(&text, &reading) else { return Err(reading.into_faults()) };
    let mut root = Section::new(&reading, String::new(), Place::File, root);
    let users = root.tables("user").map_or(0, |users| users.len());
    let mut claims = Claims::default();
    let sections = some_tables(&mut root, "listener").into_iter();
    let listeners = sections.filter_map(|section| listener::read(section, users, &mut claims)).collect();
    reading.conclude().map(|_| listeners)
}

/// The suppression rules of a relay with that file. As with [`whereabouts`], nothing else is read.
pub fn suppression_rules(path: &Path, environment: &BTreeMap<String, String>) -> Result<Settings, Faults> {
    let text = read(path, environment)?;
    let reading = Reading::new(path, environment);
    let Some(root) = document::parse(&text, &reading) else { return Err(reading.into_faults()) };
    let mut root = Section::new(&reading, String::new(), Place::File, root);
    let (rules, _) = suppression::read(&mut root);
    reading.conclude().map(|_| rules)
}

fn read(path: &Path, environment: &BTreeMap<String, String>) -> Result<String, Faults> {
    std::fs::read_to_string(path).map_err(|error| {
        let reading = Reading::new(path, environment);
        reading.fault(Place::File, "", format!("cannot be read: {error}"));
        reading.into_faults()
    })
}

/// Reads `text` as if it stood in the file `path`: its folder is where relative paths begin.
pub fn parse(text: &str, path: &Path, environment: &BTreeMap<String, String>) -> Result<Config, Faults> {
    let reading = Reading::new(path, environment);
    let Some(root) = document::parse(text, &reading) else { return Err(reading.into_faults()) };
    let config = assemble(Section::new(&reading, String::new(), Place::File, root));
    let secret_files = reading.secret_files();
    reading.conclude().map(|warnings| Config { warnings, secret_files, ..config })
}

fn assemble(mut root: Section<'_>) -> Config {
    let mut claims = Claims::default();
    let (hostname, data_dir) = sections::server(&mut root);
    let users = root.tables("user").unwrap_or_default();
    let listeners = some_tables(&mut root, "listener");
    let upstreams = some_tables(&mut root, "upstream");
    let many = users.len();
    let users: Vec<_> = users.into_iter().filter_map(|section| user::read(section, &mut claims)).collect();
    let listeners: Vec<_> =
        listeners.into_iter().filter_map(|section| listener::read(section, many, &mut claims)).collect();
    let us = Ourselves { hostname: &hostname, listeners: &listeners };
    let upstreams: Vec<_> =
        upstreams.into_iter().filter_map(|section| upstream::read(section, &us, &mut claims)).collect();
    let names: Vec<_> = upstreams.iter().map(|upstream: &Upstream| &*upstream.transport.name).collect();
    let logins: Vec<_> = users.iter().map(|user: &User| &*user.account.name).collect();
    let routing = routing::read(&mut root, &names, &logins, &mut claims);
    let sinks = root.tables("sink").unwrap_or_default();
    let sinks: Vec<_> =
        sinks.into_iter().filter_map(|section| sink::read(section, &hostname, &mut claims)).collect();
    let sources = root.tables("source").unwrap_or_default().into_iter();
    let sources = sources.filter_map(|section| source::read(section, &names, &mut claims)).collect();
    let (thresholds, herald) = alarms::read(&mut root, &names);
    let (limits, policy) = sections::limits(&mut root);
    let (http, http_tls, webhooks) = sections::http(&mut root, &mut claims);
    let (suppression, sync) = suppression::read(&mut root);
    let (mail_rules, targets) = inbound::read(&mut root, &mut claims);
    let config = Config {
        certificate: sections::certificate(&mut root),
        limits,
        policy,
        routing,
        http,
        http_tls,
        webhooks,
        sources,
        admin: sections::admin(&mut root, &data_dir, &mut claims),
        log: sections::log(&mut root),
        retention: sections::retention(&mut root),
        reports: sections::reports(&mut root, &sinks),
        duplicates: sections::duplicates(&mut root),
        suppression,
        sync,
        heartbeat: sections::heartbeat(&mut root),
        thresholds,
        herald,
        sinks,
        mail_rules,
        targets,
        hostname,
        data_dir,
        listeners,
        users,
        upstreams,
        warnings: Vec::new(),
        secret_files: Vec::new(),
    };
    let reports =
        |upstream: &Upstream| !(upstream.signing_keys.is_empty() && upstream.credentials.is_empty());
    if config.http.is_none() && (config.upstreams.iter().any(reports) || !config.sources.is_empty()) {
        root.warn("http", "has no address, so no event can arrive although secrets for webhooks are set");
    }
    if config.http.is_none() && !config.targets.is_empty() {
        root.warn("http", "has no address, so no mail from outside can arrive although [[inbound.target]] says where it goes");
    }
    if config.http.is_some() && config.http_tls == HttpTls::Implicit(None) && config.certificate.is_none() {
        root.warn(
            "http",
            "speaks TLS with a self-signed certificate, which no provider trusts; give it a certificate of a public \
             authority, here or in [tls]",
        );
    }
    check_certificates(&root, &config);
    check_descriptors(&root, &config);
    check_odoo(&root, &config);
    root.finish();
    config
}

fn check_certificates(root: &Section<'_>, config: &Config) {
    let certified = config.users.iter().any(|user| !user.certificates.is_empty());
    let trusted = config.listeners.iter().any(|listener| listener.client_ca.is_some());
    if certified && !trusted {
        root.warn("user", "has certificates, but no [[listener]] has a client_ca_file; they log nobody in");
    }
    if trusted && !certified {
        root.warn("listener", "has a client_ca_file, but no [[user]] has certificates; they log nobody in");
    }
}

/// Whether all connections that are allowed fit what this process can be allowed to open.
fn check_descriptors(root: &Section<'_>, config: &Config) {
    let needed = config.needed_descriptors();
    if let Some(allowed) = descriptors::most_allowed().filter(|allowed| *allowed < needed) {
        root.warn(
            "limits",
            format!(
                "allows more connections than this process may open: all listeners and upstreams need {needed} files, the \
                 hard limit is {allowed}; raise LimitNOFILE (ulimit -Hn), or lower `connections` here, in [http] or in \
                 [[upstream]]"
            ),
        );
    }
}

fn check_odoo(root: &Section<'_>, config: &Config) {
    let shows_bounces = |sink: &mailtrail_relay::sink::Settings| matches!(&sink.kind, Kind::Odoo(odoo) if odoo.effects.bounced);
    if config.reports && config.sinks.iter().any(shows_bounces) {
        root.warn(
            "reports",
            "are sent although a sink tells Odoo of failures; where they reach Odoo, too, it counts a bounce twice: \
             failures = \"nobody\" stops them",
        );
    }
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
