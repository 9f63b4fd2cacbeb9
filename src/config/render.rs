use crate::config::keywords::{
    AUTHENTICATION, AUTO_REPLIES, Deliver, EVENT_APIS, HTTP_TLS, INBOUND, LEVELS, LISTENER_TLS,
    LOG_ADDRESSES, LOG_FORMATS, PIPELINING, PROVIDERS, REPORTERS, REPORTS, Reporter, SECURITY,
    SUPPRESSION_POLICIES, TRANSPORTS, Transport, UNSUBSCRIBED, UNSUBSCRIBES, WAYS, word,
};
use crate::config::sections::{NEVER, OFF, odoo, show_field};
use crate::config::settings::{CertificateFiles, Config, HttpTls, Upstream};
use crate::config::units::{show_duration, show_percent, show_quota, show_rate, show_size};
use mailtrail_mail::HeaderCleanup;
use mailtrail_net::provider_api::Whose;
use mailtrail_net::transport::{Dialect, Settings};
use mailtrail_net::{provider_api, webhook_client};
use mailtrail_relay::alarms::notifier;
use mailtrail_relay::monitoring::Thresholds;
use mailtrail_relay::submission::{Listener, Password, User};
use mailtrail_relay::webhook::{Kind, Source};
use mailtrail_relay::{inbound, reconcile, sink};
use mailtrail_trail::{Pattern, Routing, suppression};
use reqwest::Url;
use std::fmt::{Display, Write as _};
use std::path::Path;
use std::time::Duration;

impl Config {
    /// The effective configuration as TOML: every key that this version acts on, with its value. Secrets and
    /// password hashes stand as `"******"`.
    pub fn show(&self) -> String {
        let mut page = Page::default();
        page.heading("[server]");
        page.text("hostname", &self.hostname);
        page.path("data_dir", &self.data_dir);
        self.listeners.iter().for_each(|listener| page.listener(listener));
        if let Some(files) = &self.certificate {
            page.heading("[tls]");
            page.pair(files);
        }
        self.users.iter().for_each(|user| page.user(user));
        page.limits(self);
        self.upstreams.iter().for_each(|upstream| page.upstream(upstream));
        page.routing(&self.routing);
        if let Some(address) = self.http {
            page.heading("[http]");
            page.text("address", address);
            page.text("tls", word(&HTTP_TLS, &(self.http_tls != HttpTls::None)));
            if let HttpTls::Implicit(Some(files)) = &self.http_tls {
                page.pair(files);
            }
            page.texts("proxies", &self.webhooks.proxies);
            page.bare("connections", self.webhooks.connections);
            page.bare("connections_per_ip", self.webhooks.connections_per_ip);
        }
        self.sources.iter().for_each(|source| page.source(source));
        page.heading("[admin]");
        page.path("socket", &self.admin.socket);
        page.some("address", self.admin.address.as_ref());
        page.some("token", self.admin.token.as_ref());
        page.texts("hosts", &self.admin.hosts);
        page.heading("[log]");
        page.text("level", word(&LEVELS, &self.log.level));
        page.text("format", word(&LOG_FORMATS, &self.log.format));
        page.text("addresses", word(&LOG_ADDRESSES, &self.log.addresses));
        page.path("journal", &self.log.journal);
        page.heading("[retention]");
        page.text("ledger", show_duration(self.retention.ledger));
        page.text("bodies", show_duration(self.retention.bodies));
        page.text("events", show_duration(self.retention.events));
        page.heading("[reports]");
        page.text("failures", word(&REPORTS, &self.reports));
        page.heading("[duplicates]");
        page.text("window", self.duplicates.map_or_else(|| "off".to_owned(), show_duration));
        page.suppression(&self.suppression, self.sync);
        if let Some(heartbeat) = &self.heartbeat {
            page.heading("[heartbeat]");
            page.text("to", &heartbeat.to);
            page.text("from", &heartbeat.from);
            page.duration("every", heartbeat.every);
            page.duration("patience", heartbeat.patience);
        }
        self.sinks.iter().for_each(|sink| page.sink(sink));
        page.alarms(&self.thresholds, &self.herald);
        page.inbound(self);
        page.0
    }
}

/// TOML as it is written.
#[derive(Default)]
struct Page(String);

impl Page {
    fn pair(&mut self, files: &CertificateFiles) {
        self.path("certificate", &files.certificate);
        self.path("private_key", &files.private_key);
    }

    fn listener(&mut self, listener: &Listener) {
        self.heading("[[listener]]");
        self.text("address", listener.address);
        self.text("tls", word(&LISTENER_TLS, &listener.tls));
        self.bare("require_tls", listener.require_tls);
        self.text("auth", word(&AUTHENTICATION, &listener.authentication));
        self.texts("allow", &listener.allow);
        self.texts("proxy_protocol_from", &listener.proxy_protocol_from);
        self.texts("xclient_from", &listener.xclient_from);
        self.some("client_ca_file", listener.client_ca.as_ref().map(|path| path.display()));
        self.cleanup(&listener.cleanup);
    }

    fn cleanup(&mut self, cleanup: &HeaderCleanup) {
        self.texts("drop_headers", &cleanup.drop_headers);
        self.bare("replace_unusable", cleanup.replace_unusable);
        self.bare("mbox_line", cleanup.mbox_line);
        self.bare("repair", cleanup.repair);
    }

    fn user(&mut self, user: &User) {
        self.heading("[[user]]");
        self.text("name", &user.account.name);
        match user.password {
            Some(Password::Hash(_)) => self.text("password_hash", MASK),
            Some(Password::Plain(_)) => self.text("password", MASK),
            None => {}
        }
        self.texts("senders", &user.account.senders);
        self.text("client", &user.account.client);
        self.texts("request_headers", &user.account.request_headers);
        self.cleanup(&user.account.cleanup);
        self.texts("certificates", &user.certificates);
        self.some("rate", user.rate.map(show_rate));
        self.some("quota", user.quota.map(show_quota));
    }

    fn limits(&mut self, config: &Config) {
        let limits = &config.limits;
        self.heading("[limits]");
        self.text("message_size", show_size(limits.message_size));
        self.bare("recipients", limits.recipients);
        self.bare("connections", limits.connections);
        self.bare("connections_per_ip", limits.connections_per_ip);
        self.duration("command_timeout", limits.command_timeout);
        self.duration("data_timeout", limits.data_timeout);
        self.duration("message_timeout", limits.message_timeout);
        self.duration("session_timeout", limits.session_timeout);
        let policy = &config.policy;
        self.bare("login_failures", policy.login_failures);
        self.duration("login_window", policy.login_window);
        self.duration("login_lockout", policy.login_lockout);
        self.some("rate_per_ip", policy.rate_per_ip.map(show_rate));
    }

    fn upstream(&mut self, upstream: &Upstream) {
        self.transport(&upstream.transport);
        if let Some(account) = &upstream.account {
            self.text("api_base_url", &account.base_url);
            self.text("api_key", MASK);
        }
        if !upstream.signing_keys.is_empty() {
            self.texts("webhook_signing_key", &vec![MASK; upstream.signing_keys.len()]);
        }
        let credentials = &upstream.credentials;
        if !credentials.tokens.is_empty() {
            self.texts("webhook_token", &vec![MASK; credentials.tokens.len()]);
        }
        self.some("webhook_header", credentials.header.as_ref());
        if let Some((username, _)) = &credentials.login {
            self.text("webhook_username", username);
            self.text("webhook_password", MASK);
        }
        if let Some(account) = &upstream.account {
            self.reconcile(account, upstream.reconcile);
        }
        let breaker = &upstream.transport.breaker;
        self.heading("[upstream.breaker]");
        self.bare("failures", breaker.failures);
        self.bare("successes", breaker.successes);
        self.duration("pause", breaker.pause);
        self.duration("longest_pause", breaker.longest_pause);
        let retry = &upstream.retry;
        self.heading("[upstream.retry]");
        self.duration("first", retry.first);
        self.bare("factor", format_args!("{:?}", retry.factor));
        self.duration("max", retry.max);
        self.bare("jitter", format_args!("{:?}", retry.jitter));
        self.duration("give_up_after", retry.give_up_after);
        self.duration("unknown_wait", retry.unknown_wait);
        self.bare("unknown_elsewhere", retry.unknown_elsewhere);
    }

    fn reconcile(&mut self, account: &provider_api::Settings, settings: Option<reconcile::Settings>) {
        self.heading("[upstream.reconcile]");
        self.bare("enabled", settings.is_some());
        let Some(settings) = settings else { return };
        self.duration("every", settings.every);
        if let Whose::Mailgun { api, .. } = &account.whose {
            self.text("api", word(&EVENT_APIS, api));
        }
        self.duration("reach", settings.reach);
    }

    fn source(&mut self, source: &Source) {
        self.heading("[[source]]");
        self.text("name", &source.name);
        let (reporter, secrets, upstream, suppress) = match &source.kind {
            Kind::Generic { secrets, upstream } => (Reporter::Generic, secrets, upstream.as_ref(), None),
            Kind::ActiveCampaign { secrets, suppress } => {
                (Reporter::ActiveCampaign, secrets, None, Some(suppress))
            }
            // Those are upstreams.
            Kind::Mailgun { .. } | Kind::Brevo(_) => return,
        };
        self.text("kind", word(&REPORTERS, &reporter));
        self.texts("secret", &vec![MASK; secrets.len()]);
        self.some("upstream", upstream);
        suppress.into_iter().for_each(|suppress| self.texts("suppress", suppress));
    }

    fn routing(&mut self, routing: &Routing) {
        for route in &routing.routes {
            self.heading("[[route]]");
            self.text("name", &route.name);
            self.pattern(&route.pattern);
            self.texts("recipients", &route.pattern.recipients);
            self.texts("upstreams", &route.upstreams);
        }
        self.heading("[bulk]");
        self.pattern(&routing.bulk);
        self.bare("recipients", routing.bulk_recipients);
    }

    fn suppression(&mut self, settings: &suppression::Settings, sync: Option<Duration>) {
        let expiry = |expiry: Option<Duration>| expiry.map_or_else(|| NEVER.to_owned(), show_duration);
        self.heading("[suppression]");
        self.text("policy", word(&SUPPRESSION_POLICIES, &settings.policy));
        self.text("hard_bounce", expiry(settings.hard_bounce));
        self.text("complaint", expiry(settings.complaint));
        self.text("unsubscribe", word(&UNSUBSCRIBES, &settings.unsubscribe));
        self.bare("soft_bounces", settings.soft_bounces);
        self.duration("soft_bounce_window", settings.soft_bounce_window);
        self.duration("soft_bounce_pause", settings.soft_bounce_pause);
        self.text("sync", sync.map_or_else(|| OFF.to_owned(), show_duration));
    }

    fn pattern(&mut self, pattern: &Pattern) {
        self.texts("users", &pattern.users);
        self.texts("senders", &pattern.senders);
        self.texts("headers", &pattern.headers.iter().map(show_field).collect::<Vec<_>>());
    }

    fn transport(&mut self, settings: &Settings) {
        self.heading("[[upstream]]");
        self.text("name", &settings.name);
        self.text("provider", word(&PROVIDERS, &settings.provider));
        self.some("domain", settings.domain.as_ref());
        match &settings.api {
            Some(_) => self.text("transport", word(&TRANSPORTS, &Transport::Api)),
            None => self.smtp(settings),
        }
        self.some("ca_file", settings.ca_file.as_ref().map(|path| path.display()));
        self.bare("connections", settings.connections);
        self.some("rate", settings.rate.map(show_rate));
        self.some("quota", settings.plan.map(show_quota));
        self.duration("idle_timeout", settings.idle_timeout);
    }

    fn smtp(&mut self, settings: &Settings) {
        self.text("transport", word(&TRANSPORTS, &Transport::Smtp));
        self.text("host", &settings.host);
        self.bare("port", settings.port);
        self.text("tls", word(&SECURITY, &settings.security));
        if let Some(login) = &settings.login {
            self.text("username", &login.username);
            self.text("password", MASK);
        }
        self.text("pipelining", word(&PIPELINING, &settings.pipelining));
        self.duration("connection_age", settings.connection_age);
        self.bare("messages_per_connection", settings.messages_per_connection);
    }

    fn inbound(&mut self, config: &Config) {
        let rules = &config.mail_rules;
        self.heading("[inbound]");
        self.text("size", show_size(rules.size));
        let window = Some(rules.duplicates).filter(|window| !window.is_zero());
        self.text("duplicates", window.map_or_else(|| "off".to_owned(), show_duration));
        self.text("auto_replies", word(&AUTO_REPLIES, &rules.auto_replies));
        for target in &config.targets {
            self.heading("[[inbound.target]]");
            self.text("name", &target.name);
            self.target(&target.kind);
            self.texts("recipients", &target.recipients);
            self.duration("give_up_after", target.give_up_after);
        }
    }

    fn target(&mut self, kind: &inbound::Kind) {
        match kind {
            inbound::Kind::Smtp(smtp) => {
                let deliver = match smtp.dialect {
                    Dialect::Smtp => Deliver::Smtp,
                    Dialect::Lmtp => Deliver::Lmtp,
                };
                self.text("deliver", word(&INBOUND, &deliver));
                self.text("host", &smtp.host);
                self.bare("port", smtp.port);
                self.text("tls", word(&SECURITY, &smtp.security));
                self.some("ca_file", smtp.ca_file.as_ref().map(|path| path.display()));
                if let Some(login) = &smtp.login {
                    self.text("username", &login.username);
                    self.text("password", MASK);
                }
            }
            inbound::Kind::Http(http) => {
                self.text("deliver", word(&INBOUND, &Deliver::Http));
                self.endpoint(http);
            }
            inbound::Kind::Odoo(odoo) => {
                self.text("deliver", word(&INBOUND, &Deliver::Odoo));
                self.login(odoo);
            }
        }
    }

    fn sink(&mut self, sink: &sink::Settings) {
        self.heading("[[sink]]");
        self.text("name", &sink.name);
        match &sink.kind {
            sink::Kind::File(file) => {
                self.text("kind", "file");
                self.path("path", &file.path);
                self.text("size", show_size(file.size));
                self.bare("keep", file.keep);
            }
            sink::Kind::Http(http) => {
                self.text("kind", "http");
                self.endpoint(http);
            }
            sink::Kind::Odoo(settings) => self.odoo(settings),
        }
        self.texts("events", &sink.wants.events);
        self.texts("clients", &sink.wants.clients);
        self.some("give_up_after", sink.give_up_after.map(show_duration));
    }

    fn endpoint(&mut self, endpoint: &webhook_client::Settings) {
        self.text("url", without_secrets(&endpoint.url));
        self.texts("secret", &vec![MASK; endpoint.secrets.len()]);
        self.bare("allow_private", endpoint.allow_private);
        self.duration("timeout", endpoint.timeout);
    }

    fn login(&mut self, login: &mailtrail_net::odoo::Settings) {
        self.text("url", without_password(&login.url));
        self.text("database", &login.database);
        self.text("username", &login.username);
        self.text("api_key", MASK);
        self.duration("timeout", login.timeout);
        if let Some(file) = &login.ca_file {
            self.path("ca_file", file);
        }
    }

    fn odoo(&mut self, settings: &sink::OdooSettings) {
        let sink::OdooSettings { login, place, way, action, effects, hostname: _ } = settings;
        self.text("kind", "odoo");
        self.login(login);
        self.text("way", word(&WAYS, way));
        if let Some(action) = action {
            self.bare("action", action);
        }
        self.bare("release", place.release);
        self.texts("senders", &place.senders);
        self.texts("hosts", &place.hosts);
        for (key, shown, word) in [
            ("relayed", effects.relayed, odoo::RELAYED),
            ("delivered", effects.delivered, odoo::DELIVERED),
            ("bounced", effects.bounced, odoo::BOUNCED),
            ("failed", effects.failed, odoo::FAILED),
            ("opened", effects.opened, odoo::OPENED),
            ("clicked", effects.clicked, odoo::CLICKED),
            ("complained", effects.complained, odoo::COMPLAINED),
        ] {
            self.text(key, if shown { word } else { "off" });
        }
        self.text("unsubscribed", word(&UNSUBSCRIBED, &effects.unsubscribed));
        self.bare("note", effects.note);
    }

    fn alarms(&mut self, thresholds: &Thresholds, herald: &notifier::Settings) {
        self.heading("[alarms]");
        self.text("silence", thresholds.silence.map_or_else(|| "off".to_owned(), show_duration));
        self.bare("queue", thresholds.queue);
        self.duration("relay_time", thresholds.relay_time);
        self.duration("window", thresholds.window);
        self.bare("least", thresholds.least);
        self.text("bounce_rate", show_percent(thresholds.bounce_rate));
        self.text("complaint_rate", show_percent(thresholds.complaint_rate));
        self.text("delivery_rate", show_percent(thresholds.delivery_rate));
        self.text("disk", show_size(thresholds.disk));
        if let Some(webhook) = &herald.webhook {
            self.text("webhook_url", without_secrets(&webhook.url));
            self.texts("webhook_secret", &vec![MASK; webhook.secrets.len()]);
            self.bare("allow_private", webhook.allow_private);
        }
        if let Some(mail) = &herald.mail {
            self.texts("mail_to", &mail.to);
            self.text("mail_from", &mail.from);
            self.some("mail_upstream", mail.upstream.as_ref());
        }
        self.duration("after", herald.after);
        self.duration("repeat", herald.repeat);
    }

    fn heading(&mut self, heading: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(heading);
        self.0.push('\n');
    }

    fn text(&mut self, key: &str, value: impl Display) {
        self.bare(key, quote(&value.to_string()));
    }

    fn some(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn path(&mut self, key: &str, path: &Path) {
        self.text(key, path.display());
    }

    fn duration(&mut self, key: &str, duration: Duration) {
        self.text(key, show_duration(duration));
    }

    fn texts(&mut self, key: &str, values: &[impl Display]) {
        let quoted: Vec<_> = values.iter().map(|value| quote(&value.to_string())).collect();
        self.bare(key, format_args!("[{}]", quoted.join(", ")));
    }

    fn bare(&mut self, key: &str, value: impl Display) {
        // A String takes everything.
        let _ = writeln!(self.0, "{key} = {value}");
    }
}

/// A URL as it may be shown: a password or a query in it may be a secret.
fn without_password(url: &Url) -> Url {
    let mut url = url.clone();
    if url.password().is_some() {
        // It has a host, so it may have a password.
        let _ = url.set_password(Some(MASK));
    }
    if url.query().is_some() {
        url.set_query(Some(MASK));
    }
    url
}

/// The address of an endpoint as it may be shown: of such as chats have everything but the host is a secret.
fn without_secrets(url: &Url) -> Url {
    let mut url = without_password(url);
    if url.path() != "/" {
        url.set_path(MASK);
    }
    if !url.username().is_empty() {
        // It has a host, so it may have a user.
        let _ = url.set_username(MASK);
    }
    url.set_fragment(None);
    url
}

/// A TOML basic string.
fn quote(text: &str) -> String {
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

const MASK: &str = "******";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_as_toml_wants_them() {
        assert_eq!(quote("C:\\a \"b\"\n"), r#""C:\\a \"b\"\u000A""#);
    }
}
