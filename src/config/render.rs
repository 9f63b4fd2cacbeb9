use crate::config::keywords::{
    AUTHENTICATION_MODES, AUTO_REPLY_MODES, DSN_RECIPIENTS, EVENT_APIS, HTTP_TLS_MODES, INBOUND_TRANSPORTS,
    InboundTransport, LISTENER_TLS_MODES, LOG_ADDRESS_MODES, LOG_FORMATS, LOG_LEVELS, ODOO_MODES,
    ODOO_UNSUBSCRIBE_ACTIONS, PIPELINING_MODES, PROVIDER_NAMES, SOURCE_TYPES, SUPPRESSION_MODES, SourceType,
    TRANSPORT_KINDS, TransportKind, UNSUBSCRIBE_SCOPES, UPSTREAM_TLS_MODES, keyword_of,
};
use crate::config::sections::{NEVER_KEYWORD, OFF_KEYWORD, format_header_match, odoo};
use crate::config::settings::{CertificateFiles, Config, HttpTls, Upstream};
use crate::config::units::{format_duration, format_percentage, format_quota, format_rate, format_size};
use mailtrail_mail::HeaderCleanup;
use mailtrail_net::provider_api::ProviderKind;
use mailtrail_net::transport::{Protocol, Settings};
use mailtrail_net::{provider_api, webhook_client};
use mailtrail_relay::alarms::AlarmNotifications;
use mailtrail_relay::monitoring::Thresholds;
use mailtrail_relay::submission::{Listener, Password, User};
use mailtrail_relay::webhook::{SourceKind, WebhookSource};
use mailtrail_relay::{inbound, reconcile, sink};
use mailtrail_trail::{Match, Routing, suppression};
use reqwest::Url;
use std::fmt::{Display, Write as _};
use std::path::Path;
use std::time::Duration;

impl Config {
    /// Formats the effective configuration as TOML: every key with its value. Secrets and password hashes are shown as
    /// `"******"`.
    pub fn to_toml(&self) -> String {
        let mut page = TomlWriter::default();
        page.section("[server]");
        page.string("hostname", &self.hostname);
        page.path("data_dir", &self.data_dir);
        self.listeners.iter().for_each(|listener| page.write_listener(listener));
        if let Some(files) = &self.certificate {
            page.section("[tls]");
            page.write_certificate_files(files);
        }
        self.users.iter().for_each(|user| page.write_user(user));
        page.write_limits(self);
        self.upstreams.iter().for_each(|upstream| page.write_upstream(upstream));
        page.write_routing(&self.routing);
        if let Some(address) = self.http_address {
            page.section("[http]");
            page.string("address", address);
            page.string("tls", keyword_of(&HTTP_TLS_MODES, &(self.http_tls != HttpTls::None)));
            if let HttpTls::Implicit(Some(files)) = &self.http_tls {
                page.write_certificate_files(files);
            }
            page.list("proxies", &self.webhook_settings.proxies);
            page.literal("connections", self.webhook_settings.connections);
            page.literal("connections_per_ip", self.webhook_settings.connections_per_ip);
        }
        self.sources.iter().for_each(|source| page.write_source(source));
        page.section("[admin]");
        page.path("socket", &self.admin.socket);
        page.optional("address", self.admin.address.as_ref());
        page.optional("token", self.admin.token.as_ref());
        page.list("hosts", &self.admin.hosts);
        page.section("[log]");
        page.string("level", keyword_of(&LOG_LEVELS, &self.log.level));
        page.string("format", keyword_of(&LOG_FORMATS, &self.log.format));
        page.string("addresses", keyword_of(&LOG_ADDRESS_MODES, &self.log.address_redaction));
        page.path("journal", &self.log.journald_socket);
        page.section("[retention]");
        page.string("ledger", format_duration(self.retention.ledger));
        page.string("bodies", format_duration(self.retention.bodies));
        page.string("events", format_duration(self.retention.events));
        page.section("[reports]");
        page.string("failures", keyword_of(&DSN_RECIPIENTS, &self.send_dsns));
        page.section("[duplicates]");
        page.string("window", self.dedup_window.map_or_else(|| "off".to_owned(), format_duration));
        page.write_suppression(&self.suppression, self.suppression_sync_interval);
        if let Some(heartbeat) = &self.heartbeat {
            page.section("[heartbeat]");
            page.string("to", &heartbeat.recipient);
            page.string("from", &heartbeat.sender);
            page.duration("every", heartbeat.interval);
            page.duration("patience", heartbeat.timeout);
        }
        self.sinks.iter().for_each(|sink| page.write_sink(sink));
        page.write_alarms(&self.alarm_thresholds, &self.alarm_notifications);
        page.write_inbound(self);
        page.0
    }
}

/// TOML writer.
#[derive(Default)]
struct TomlWriter(String);

impl TomlWriter {
    fn write_certificate_files(&mut self, files: &CertificateFiles) {
        self.path("certificate", &files.certificate);
        self.path("private_key", &files.private_key);
    }

    fn write_listener(&mut self, listener: &Listener) {
        self.section("[[listener]]");
        self.string("address", listener.address);
        self.string("tls", keyword_of(&LISTENER_TLS_MODES, &listener.tls));
        self.literal("require_tls", listener.require_tls);
        self.string("auth", keyword_of(&AUTHENTICATION_MODES, &listener.authentication));
        self.list("allow", &listener.allow);
        self.list("proxy_protocol_from", &listener.proxy_protocol_from);
        self.list("xclient_from", &listener.xclient_from);
        self.optional("client_ca_file", listener.client_ca.as_ref().map(|path| path.display()));
        self.write_cleanup(&listener.cleanup);
    }

    fn write_cleanup(&mut self, cleanup: &HeaderCleanup) {
        self.list("drop_headers", &cleanup.drop_headers);
        self.literal("replace_unusable", cleanup.replace_unusable);
        self.literal("mbox_line", cleanup.convert_mbox_line);
        self.literal("repair", cleanup.rewrite_list_unsubscribe);
    }

    fn write_user(&mut self, user: &User) {
        self.section("[[user]]");
        self.string("name", &user.account.name);
        match user.password {
            Some(Password::Hash(_)) => self.string("password_hash", SECRET_MASK),
            Some(Password::Plain(_)) => self.string("password", SECRET_MASK),
            None => {}
        }
        self.list("senders", &user.account.sender_patterns);
        self.string("client", &user.account.client_label);
        self.list("request_headers", &user.account.allowed_request_headers);
        self.write_cleanup(&user.account.header_cleanup);
        self.list("certificates", &user.certificate_identities);
        self.optional("rate", user.rate.map(format_rate));
        self.optional("quota", user.quota.map(format_quota));
    }

    fn write_limits(&mut self, config: &Config) {
        let limits = &config.limits;
        self.section("[limits]");
        self.string("message_size", format_size(limits.max_message_bytes));
        self.literal("recipients", limits.max_recipients);
        self.literal("connections", limits.max_connections);
        self.literal("connections_per_ip", limits.max_connections_per_ip);
        self.duration("command_timeout", limits.command_timeout);
        self.duration("data_timeout", limits.data_timeout);
        self.duration("message_timeout", limits.message_timeout);
        self.duration("session_timeout", limits.session_timeout);
        let policy = &config.login_policy;
        self.literal("login_failures", policy.login_failures);
        self.duration("login_window", policy.login_window);
        self.duration("login_lockout", policy.login_lockout);
        self.optional("rate_per_ip", policy.rate_per_ip.map(format_rate));
    }

    fn write_upstream(&mut self, upstream: &Upstream) {
        self.write_transport(&upstream.transport);
        if let Some(account) = &upstream.provider_api {
            self.string("api_base_url", &account.base_url);
            self.string("api_key", SECRET_MASK);
        }
        if !upstream.webhook_signing_keys.is_empty() {
            self.list("webhook_signing_key", &vec![SECRET_MASK; upstream.webhook_signing_keys.len()]);
        }
        let credentials = &upstream.webhook_auth;
        if !credentials.tokens.is_empty() {
            self.list("webhook_token", &vec![SECRET_MASK; credentials.tokens.len()]);
        }
        self.optional("webhook_header", credentials.token_header.as_ref());
        if let Some((username, _)) = &credentials.basic {
            self.string("webhook_username", username);
            self.string("webhook_password", SECRET_MASK);
        }
        if let Some(account) = &upstream.provider_api {
            self.write_reconcile(account, upstream.reconcile);
        }
        let breaker = &upstream.transport.breaker;
        self.section("[upstream.breaker]");
        self.literal("failures", breaker.failure_threshold);
        self.literal("successes", breaker.success_threshold);
        self.duration("pause", breaker.initial_pause);
        self.duration("longest_pause", breaker.max_pause);
        let retry = &upstream.retry;
        self.section("[upstream.retry]");
        self.duration("first", retry.initial_backoff);
        self.literal("factor", format_args!("{:?}", retry.backoff_factor));
        self.duration("max", retry.max_backoff);
        self.literal("jitter", format_args!("{:?}", retry.jitter));
        self.duration("give_up_after", retry.give_up_after);
        self.duration("unknown_wait", retry.unknown_wait);
        self.literal("unknown_elsewhere", retry.retry_unknown_elsewhere);
    }

    fn write_reconcile(
        &mut self,
        account: &provider_api::ProviderApiSettings,
        settings: Option<reconcile::PollSettings>,
    ) {
        self.section("[upstream.reconcile]");
        self.literal("enabled", settings.is_some());
        let Some(settings) = settings else { return };
        self.duration("every", settings.interval);
        if let ProviderKind::Mailgun { events_api, .. } = &account.provider {
            self.string("api", keyword_of(&EVENT_APIS, events_api));
        }
        self.duration("reach", settings.lookback);
    }

    fn write_source(&mut self, source: &WebhookSource) {
        self.section("[[source]]");
        self.string("name", &source.name);
        let (reporter, secrets, upstream, suppress) = match &source.kind {
            SourceKind::Generic { secrets, upstream } => {
                (SourceType::Generic, secrets, upstream.as_ref(), None)
            }
            SourceKind::ActiveCampaign { secrets, suppress } => {
                (SourceType::ActiveCampaign, secrets, None, Some(suppress))
            }
            // These are written with their upstreams.
            SourceKind::Mailgun { .. } | SourceKind::Brevo(_) => return,
        };
        self.string("kind", keyword_of(&SOURCE_TYPES, &reporter));
        self.list("secret", &vec![SECRET_MASK; secrets.len()]);
        self.optional("upstream", upstream);
        suppress.into_iter().for_each(|suppress| self.list("suppress", suppress));
    }

    fn write_routing(&mut self, routing: &Routing) {
        for route in &routing.routes {
            self.section("[[route]]");
            self.string("name", &route.name);
            self.write_match(&route.criteria);
            self.list("recipients", &route.criteria.recipients);
            self.list("upstreams", &route.upstreams);
        }
        self.section("[bulk]");
        self.write_match(&routing.bulk_match);
        self.literal("recipients", routing.min_bulk_recipients);
    }

    fn write_suppression(&mut self, settings: &suppression::SuppressionSettings, sync: Option<Duration>) {
        let expiry =
            |expiry: Option<Duration>| expiry.map_or_else(|| NEVER_KEYWORD.to_owned(), format_duration);
        self.section("[suppression]");
        self.string("policy", keyword_of(&SUPPRESSION_MODES, &settings.mode));
        self.string("hard_bounce", expiry(settings.hard_bounce_expiry));
        self.string("complaint", expiry(settings.complaint_expiry));
        self.string("unsubscribe", keyword_of(&UNSUBSCRIBE_SCOPES, &settings.unsubscribe_scope));
        self.literal("soft_bounces", settings.soft_bounce_limit);
        self.duration("soft_bounce_window", settings.soft_bounce_window);
        self.duration("soft_bounce_pause", settings.soft_bounce_pause);
        self.string("sync", sync.map_or_else(|| OFF_KEYWORD.to_owned(), format_duration));
    }

    fn write_match(&mut self, pattern: &Match) {
        self.list("users", &pattern.users);
        self.list("senders", &pattern.senders);
        self.list("headers", &pattern.headers.iter().map(format_header_match).collect::<Vec<_>>());
    }

    fn write_transport(&mut self, settings: &Settings) {
        self.section("[[upstream]]");
        self.string("name", &settings.name);
        self.string("provider", keyword_of(&PROVIDER_NAMES, &settings.provider));
        self.optional("domain", settings.domain.as_ref());
        match &settings.api {
            Some(_) => self.string("transport", keyword_of(&TRANSPORT_KINDS, &TransportKind::Api)),
            None => self.write_smtp(settings),
        }
        self.optional("ca_file", settings.ca_file.as_ref().map(|path| path.display()));
        self.literal("connections", settings.connections);
        self.optional("rate", settings.rate.map(format_rate));
        self.optional("quota", settings.quota_limit.map(format_quota));
        self.duration("idle_timeout", settings.idle_timeout);
    }

    fn write_smtp(&mut self, settings: &Settings) {
        self.string("transport", keyword_of(&TRANSPORT_KINDS, &TransportKind::Smtp));
        self.string("host", &settings.host);
        self.literal("port", settings.port);
        self.string("tls", keyword_of(&UPSTREAM_TLS_MODES, &settings.security));
        if let Some(login) = &settings.login {
            self.string("username", &login.username);
            self.string("password", SECRET_MASK);
        }
        self.string("pipelining", keyword_of(&PIPELINING_MODES, &settings.pipelining));
        self.duration("connection_age", settings.connection_age);
        self.literal("messages_per_connection", settings.messages_per_connection);
    }

    fn write_inbound(&mut self, config: &Config) {
        let rules = &config.inbound_rules;
        self.section("[inbound]");
        self.string("size", format_size(rules.max_size));
        let window = Some(rules.dedup_window).filter(|window| !window.is_zero());
        self.string("duplicates", window.map_or_else(|| "off".to_owned(), format_duration));
        self.string("auto_replies", keyword_of(&AUTO_REPLY_MODES, &rules.auto_replies));
        for target in &config.inbound_targets {
            self.section("[[inbound.target]]");
            self.string("name", &target.name);
            self.write_target(&target.kind);
            self.list("recipients", &target.recipients);
            self.duration("give_up_after", target.give_up_after);
        }
    }

    fn write_target(&mut self, kind: &inbound::TargetKind) {
        match kind {
            inbound::TargetKind::Smtp(smtp) => {
                let deliver = match smtp.protocol {
                    Protocol::Smtp => InboundTransport::Smtp,
                    Protocol::Lmtp => InboundTransport::Lmtp,
                };
                self.string("deliver", keyword_of(&INBOUND_TRANSPORTS, &deliver));
                self.string("host", &smtp.host);
                self.literal("port", smtp.port);
                self.string("tls", keyword_of(&UPSTREAM_TLS_MODES, &smtp.security));
                self.optional("ca_file", smtp.ca_file.as_ref().map(|path| path.display()));
                if let Some(login) = &smtp.login {
                    self.string("username", &login.username);
                    self.string("password", SECRET_MASK);
                }
            }
            inbound::TargetKind::Http(http) => {
                self.string("deliver", keyword_of(&INBOUND_TRANSPORTS, &InboundTransport::Http));
                self.write_webhook_endpoint(http);
            }
            inbound::TargetKind::Odoo(odoo) => {
                self.string("deliver", keyword_of(&INBOUND_TRANSPORTS, &InboundTransport::Odoo));
                self.write_odoo_login(odoo);
            }
        }
    }

    fn write_sink(&mut self, sink: &sink::SinkSettings) {
        self.section("[[sink]]");
        self.string("name", &sink.name);
        match &sink.kind {
            sink::SinkKind::File(file) => {
                self.string("kind", "file");
                self.path("path", &file.path);
                self.string("size", format_size(file.max_bytes));
                self.literal("keep", file.max_rotated);
            }
            sink::SinkKind::Http(http) => {
                self.string("kind", "http");
                self.write_webhook_endpoint(http);
            }
            sink::SinkKind::Odoo(settings) => self.write_odoo_sink(settings),
        }
        self.list("events", &sink.filter.events);
        self.list("clients", &sink.filter.clients);
        self.optional("give_up_after", sink.give_up_after.map(format_duration));
    }

    fn write_webhook_endpoint(&mut self, endpoint: &webhook_client::WebhookEndpoint) {
        self.string("url", redact_secrets(&endpoint.url));
        self.list("secret", &vec![SECRET_MASK; endpoint.secrets.len()]);
        self.literal("allow_private", endpoint.allow_private_address);
        self.duration("timeout", endpoint.timeout);
    }

    fn write_odoo_login(&mut self, login: &mailtrail_net::odoo::OdooConnection) {
        self.string("url", redact_password(&login.url));
        self.string("database", &login.database);
        self.string("username", &login.username);
        self.string("api_key", SECRET_MASK);
        self.duration("timeout", login.timeout);
        if let Some(file) = &login.ca_file {
            self.path("ca_file", file);
        }
    }

    fn write_odoo_sink(&mut self, settings: &sink::OdooSettings) {
        let sink::OdooSettings { login, instance, mode, action_id, status_options, hostname: _ } = settings;
        self.string("kind", "odoo");
        self.write_odoo_login(login);
        self.string("way", keyword_of(&ODOO_MODES, mode));
        if let Some(action) = action_id {
            self.literal("action", action);
        }
        self.literal("release", instance.release);
        self.list("senders", &instance.sender_domains);
        self.list("hosts", &instance.message_id_hosts);
        for (key, shown, word) in [
            ("relayed", status_options.relayed, odoo::RELAYED_STATUS),
            ("delivered", status_options.delivered, odoo::DELIVERED_STATUS),
            ("bounced", status_options.bounced, odoo::BOUNCED_STATUS),
            ("failed", status_options.failed, odoo::FAILED_STATUS),
            ("opened", status_options.opened, odoo::OPENED_STATUS),
            ("clicked", status_options.clicked, odoo::CLICKED_STATUS),
            ("complained", status_options.complained, odoo::COMPLAINED_STATUS),
        ] {
            self.string(key, if shown { word } else { "off" });
        }
        self.string("unsubscribed", keyword_of(&ODOO_UNSUBSCRIBE_ACTIONS, &status_options.unsubscribed));
        self.literal("note", status_options.note);
    }

    fn write_alarms(&mut self, thresholds: &Thresholds, notifications: &AlarmNotifications) {
        self.section("[alarms]");
        self.string("silence", thresholds.event_silence.map_or_else(|| "off".to_owned(), format_duration));
        self.literal("queue", thresholds.max_queued_messages);
        self.duration("relay_time", thresholds.max_relay_latency);
        self.duration("window", thresholds.rate_window);
        self.literal("least", thresholds.min_recipients);
        self.string("bounce_rate", format_percentage(thresholds.max_bounce_rate));
        self.string("complaint_rate", format_percentage(thresholds.max_complaint_rate));
        self.string("delivery_rate", format_percentage(thresholds.min_delivery_rate));
        self.string("disk", format_size(thresholds.min_free_disk_bytes));
        if let Some(webhook) = &notifications.webhook {
            self.string("webhook_url", redact_secrets(&webhook.url));
            self.list("webhook_secret", &vec![SECRET_MASK; webhook.secrets.len()]);
            self.literal("allow_private", webhook.allow_private_address);
        }
        if let Some(mail) = &notifications.email {
            self.list("mail_to", &mail.recipients);
            self.string("mail_from", &mail.sender);
            self.optional("mail_upstream", mail.preferred_upstream.as_ref());
        }
        self.duration("after", notifications.delay);
        self.duration("repeat", notifications.repeat_interval);
    }

    fn section(&mut self, heading: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(heading);
        self.0.push('\n');
    }

    fn string(&mut self, key: &str, value: impl Display) {
        self.literal(key, quote_string(&value.to_string()));
    }

    fn optional(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.string(key, value);
        }
    }

    fn path(&mut self, key: &str, path: &Path) {
        self.string(key, path.display());
    }

    fn duration(&mut self, key: &str, duration: Duration) {
        self.string(key, format_duration(duration));
    }

    fn list(&mut self, key: &str, values: &[impl Display]) {
        let quoted: Vec<_> = values.iter().map(|value| quote_string(&value.to_string())).collect();
        self.literal(key, format_args!("[{}]", quoted.join(", ")));
    }

    fn literal(&mut self, key: &str, value: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{key} = {value}");
    }
}

/// Masks the password and the query of a URL, which may be secrets.
fn redact_password(url: &Url) -> Url {
    let mut url = url.clone();
    if url.password().is_some() {
        // A URL with a host accepts a password.
        let _ = url.set_password(Some(SECRET_MASK));
    }
    if url.query().is_some() {
        url.set_query(Some(SECRET_MASK));
    }
    url
}

/// Masks everything but the host of an endpoint's URL: for chat services the path is a secret.
fn redact_secrets(url: &Url) -> Url {
    let mut url = redact_password(url);
    if url.path() != "/" {
        url.set_path(SECRET_MASK);
    }
    if !url.username().is_empty() {
        // A URL with a host accepts a user name.
        let _ = url.set_username(SECRET_MASK);
    }
    url.set_fragment(None);
    url
}

/// Formats a TOML basic string.
fn quote_string(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(character))),
            _ => quoted.push(character),
        }
    }
    quoted + "\""
}

const SECRET_MASK: &str = "******";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_toml_strings() {
        assert_eq!(quote_string("C:\\a \"b\"\n"), r#""C:\\a \"b\"\u000A""#);
    }
}
