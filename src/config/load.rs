use crate::config::diagnostic::{ConfigError, Location};
use crate::config::parse_context::ParseContext;
use crate::config::section::Section;
use crate::config::sections::{
    OwnEndpoints, alarms, inbound, listener, routing, sink, source, suppression, upstream, user,
};
use crate::config::settings::{Config, HttpTls, Upstream};
use crate::config::unique_names::UniqueNames;
use crate::config::{document, sections};
use mailtrail_mail::descriptors;
use mailtrail_relay::sink::SinkKind;
use mailtrail_relay::submission::{Listener, User};
use mailtrail_trail::suppression::SuppressionSettings;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Loads the file at `path`. `environment` provides the overrides, the variables of `${...}` and
/// `CREDENTIALS_DIRECTORY`.
pub fn load(path: &Path, environment: &BTreeMap<String, String>) -> Result<Config, ConfigError> {
    parse(&read_text(path, environment)?, path, environment)
}

/// Reads only the data directory and the administration socket, so that commands need neither access to the secrets nor
/// a valid file.
pub fn read_paths(
    path: &Path,
    environment: &BTreeMap<String, String>,
) -> Result<(PathBuf, PathBuf), ConfigError> {
    let text = read_text(path, environment)?;
    let reading = ParseContext::new(path, environment);
    let Some(root) = document::parse_document(&text, &reading) else { return Err(reading.into_error()) };
    let mut root = Section::new(&reading, String::new(), Location::File, root);
    let (_, data_dir) = sections::read_server(&mut root);
    let admin = sections::read_admin(&mut root, &data_dir, &mut UniqueNames::default());
    reading.finish().map(|_| (data_dir, admin.socket))
}

/// Reads only the listeners, like [`read_paths`].
pub fn read_listeners(
    path: &Path,
    environment: &BTreeMap<String, String>,
) -> Result<Vec<Listener>, ConfigError> {
    let text = read_text(path, environment)?;
    let reading = ParseContext::new(path, environment);
    let Some(root) = document::parse_document(&text, &reading) else { return Err(reading.into_error()) };
    let mut root = Section::new(&reading, String::new(), Location::File, root);
    let users = root.subsections("user").map_or(0, |users| users.len());
    let mut claims = UniqueNames::default();
    let sections = required_subsections(&mut root, "listener").into_iter();
    let listeners =
        sections.filter_map(|section| listener::read_listener(section, users, &mut claims)).collect();
    reading.finish().map(|_| listeners)
}

/// Reads only the suppression settings, like [`read_paths`].
pub fn read_suppression_settings(
    path: &Path,
    environment: &BTreeMap<String, String>,
) -> Result<SuppressionSettings, ConfigError> {
    let text = read_text(path, environment)?;
    let reading = ParseContext::new(path, environment);
    let Some(root) = document::parse_document(&text, &reading) else { return Err(reading.into_error()) };
    let mut root = Section::new(&reading, String::new(), Location::File, root);
    let (rules, _) = suppression::read_suppression(&mut root);
    reading.finish().map(|_| rules)
}

fn read_text(path: &Path, environment: &BTreeMap<String, String>) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| {
        let reading = ParseContext::new(path, environment);
        reading.add_error(Location::File, "", format!("cannot be read: {error}"));
        reading.into_error()
    })
}

/// Parses `text` as the content of the file `path`, whose directory is the base of relative paths.
pub fn parse(text: &str, path: &Path, environment: &BTreeMap<String, String>) -> Result<Config, ConfigError> {
    let reading = ParseContext::new(path, environment);
    let Some(root) = document::parse_document(text, &reading) else { return Err(reading.into_error()) };
    let config = build_config(Section::new(&reading, String::new(), Location::File, root));
    let secret_files = reading.secret_files();
    reading.finish().map(|warnings| Config { warnings, secret_files, ..config })
}

fn build_config(mut root: Section<'_>) -> Config {
    let mut claims = UniqueNames::default();
    let (hostname, data_dir) = sections::read_server(&mut root);
    let users = root.subsections("user").unwrap_or_default();
    let listeners = required_subsections(&mut root, "listener");
    let upstreams = required_subsections(&mut root, "upstream");
    let many = users.len();
    let users: Vec<_> =
        users.into_iter().filter_map(|section| user::read_user(section, &mut claims)).collect();
    let listeners: Vec<_> = listeners
        .into_iter()
        .filter_map(|section| listener::read_listener(section, many, &mut claims))
        .collect();
    let us = OwnEndpoints { hostname: &hostname, listeners: &listeners };
    let upstreams: Vec<_> = upstreams
        .into_iter()
        .filter_map(|section| upstream::read_upstream(section, &us, &mut claims))
        .collect();
    let names: Vec<_> = upstreams.iter().map(|upstream: &Upstream| &*upstream.transport.name).collect();
    let logins: Vec<_> = users.iter().map(|user: &User| &*user.account.name).collect();
    let routing = routing::read_routing(&mut root, &names, &logins, &mut claims);
    let sinks = root.subsections("sink").unwrap_or_default();
    let sinks: Vec<_> =
        sinks.into_iter().filter_map(|section| sink::read_sink(section, &hostname, &mut claims)).collect();
    let sources = root.subsections("source").unwrap_or_default().into_iter();
    let sources = sources.filter_map(|section| source::read_source(section, &names, &mut claims)).collect();
    let (alarm_thresholds, alarm_notifications) = alarms::read_alarms(&mut root, &names);
    let (limits, login_policy) = sections::read_limits(&mut root);
    let (http_address, http_tls, webhook_settings) = sections::read_http(&mut root, &mut claims);
    let (suppression, suppression_sync_interval) = suppression::read_suppression(&mut root);
    let (inbound_rules, inbound_targets) = inbound::read_inbound(&mut root, &mut claims);
    let config = Config {
        certificate: sections::read_tls(&mut root),
        limits,
        login_policy,
        routing,
        http_address,
        http_tls,
        webhook_settings,
        sources,
        admin: sections::read_admin(&mut root, &data_dir, &mut claims),
        log: sections::read_log(&mut root),
        retention: sections::read_retention(&mut root),
        send_dsns: sections::read_reports(&mut root, &sinks),
        dedup_window: sections::read_duplicates(&mut root),
        suppression,
        suppression_sync_interval,
        heartbeat: sections::read_heartbeat(&mut root),
        alarm_thresholds,
        alarm_notifications,
        sinks,
        inbound_rules,
        inbound_targets,
        hostname,
        data_dir,
        listeners,
        users,
        upstreams,
        warnings: Vec::new(),
        secret_files: Vec::new(),
    };
    let reports =
        |upstream: &Upstream| !(upstream.webhook_signing_keys.is_empty() && upstream.webhook_auth.is_empty());
    if config.http_address.is_none() && (config.upstreams.iter().any(reports) || !config.sources.is_empty()) {
        root.add_warning(
            "http",
            "has no address, so no event can arrive although secrets for webhooks are set",
        );
    }
    if config.http_address.is_none() && !config.inbound_targets.is_empty() {
        root.add_warning(
            "http",
            "has no address, so no inbound mail can arrive although [[inbound.target]] is configured",
        );
    }
    if config.http_address.is_some()
        && config.http_tls == HttpTls::Implicit(None)
        && config.certificate.is_none()
    {
        root.add_warning(
            "http",
            "speaks TLS with a self-signed certificate, which no provider trusts; give it a certificate of a public \
             authority, here or in [tls]",
        );
    }
    warn_unused_certificates(&root, &config);
    warn_descriptor_limit(&root, &config);
    warn_double_bounces(&root, &config);
    root.reject_unknown();
    config
}

fn warn_unused_certificates(root: &Section<'_>, config: &Config) {
    let certified = config.users.iter().any(|user| !user.certificate_identities.is_empty());
    let trusted = config.listeners.iter().any(|listener| listener.client_ca.is_some());
    if certified && !trusted {
        root.add_warning(
            "user",
            "has certificates, but no [[listener]] has a client_ca_file; they have no effect",
        );
    }
    if trusted && !certified {
        root.add_warning(
            "listener",
            "has a client_ca_file, but no [[user]] has certificates; it has no effect",
        );
    }
}

/// Warns if the configured connections need more file descriptors than this process may open.
fn warn_descriptor_limit(root: &Section<'_>, config: &Config) {
    let needed = config.required_descriptors();
    if let Some(allowed) = descriptors::hard_limit().filter(|allowed| *allowed < needed) {
        root.add_warning(
            "limits",
            format!(
                "allows more connections than this process may open: all listeners and upstreams need {needed} files, the \
                 hard limit is {allowed}; raise LimitNOFILE (ulimit -Hn), or lower `connections` here, in [http] or in \
                 [[upstream]]"
            ),
        );
    }
}

fn warn_double_bounces(root: &Section<'_>, config: &Config) {
    let shows_bounces = |sink: &mailtrail_relay::sink::SinkSettings| matches!(&sink.kind, SinkKind::Odoo(odoo) if odoo.status_options.bounced);
    if config.send_dsns && config.sinks.iter().any(shows_bounces) {
        root.add_warning(
            "reports",
            "are sent although a sink reports failures to Odoo; if they also reach Odoo, it counts a bounce twice: \
             failures = \"nobody\" stops them",
        );
    }
}

/// Returns the sections `[[key]]`; reports a fault if there is none.
fn required_subsections<'a>(root: &mut Section<'a>, key: &str) -> Vec<Section<'a>> {
    let absent = !root.contains_key(key);
    let sections = root.subsections(key);
    if absent || sections.as_ref().is_some_and(Vec::is_empty) {
        root.add_error(key, format!("at least one [[{key}]] is required"));
    }
    sections.unwrap_or_default()
}
