//! `[[upstream]]`: a server that delivers mail.

use crate::config::keywords::{
    PIPELINING_MODES, PROVIDER_NAMES, REGION_NAMES, TRANSPORT_KINDS, TransportKind, UPSTREAM_TLS_MODES,
};
use crate::config::section::Section;
use crate::config::sections::provider_api::ApiKeyEntry;
use crate::config::settings::Upstream;
use crate::config::unique_names::{NameKind, UniqueNames};
use crate::config::units;
use crate::config::units::ONE_DAY;
use crate::config::validators::{is_header_name, is_hostname, is_loopback, is_single_line, is_slug};
use mailtrail_net::provider_api;
use mailtrail_net::transport::{Api, Login, Pipelining, Security, Settings, circuit_breaker};
use mailtrail_relay::queue::RetryPolicy;
use mailtrail_relay::reconcile;
use mailtrail_relay::submission::Listener;
use mailtrail_trail::provider::brevo::WebhookAuth;
use mailtrail_trail::provider::{Provider, Region};
use std::net::IpAddr;
use std::time::Duration;

/// The relay's own listeners; an upstream that points at one would loop.
pub(crate) struct OwnEndpoints<'a> {
    pub hostname: &'a str,
    pub listeners: &'a [Listener],
}

/// Reads an upstream.
pub(crate) fn read_upstream(
    mut section: Section<'_>,
    us: &OwnEndpoints<'_>,
    claims: &mut UniqueNames,
) -> Option<Upstream> {
    section.require_key("name");
    let name =
        section.parse("name", "a name of a-z, 0-9 and -", |text| is_slug(text).then(|| text.to_owned()));
    if let Some(name) = &name {
        claims.insert_name(NameKind::Upstream, &section, "name", name);
    }
    let (transport, provider_api, reconcile) = read_transport(&mut section, name.unwrap_or_default());
    let retry = read_retry(section.subsection("retry"));
    let webhook_signing_keys = section.secrets("webhook_signing_key", 2);
    let webhook_auth = read_webhook_auth(&mut section);
    let upstream = transport.map(|transport| Upstream {
        transport,
        retry,
        provider_api,
        reconcile,
        webhook_signing_keys,
        webhook_auth,
    });
    if let Some(upstream) = upstream.as_ref().filter(|_| section.is_valid()) {
        check_upstream(upstream, us, &section);
    }
    section.reject_unknown();
    upstream
}

/// Reads the credentials of Brevo's webhooks.
fn read_webhook_auth(section: &mut Section<'_>) -> WebhookAuth {
    let has_password =
        section.contains_key("webhook_password") || section.contains_key("webhook_password_file");
    match (section.contains_key("webhook_username"), has_password) {
        (true, false) => {
            section.add_error("webhook_username", "needs webhook_password_file or webhook_password")
        }
        (false, true) => section.add_error("webhook_username", "is required beside a webhook_password"),
        _ => (),
    }
    let has_token = section.contains_key("webhook_token") || section.contains_key("webhook_token_file");
    if section.contains_key("webhook_header") && !has_token {
        section.add_error("webhook_header", "needs webhook_token_file or webhook_token, which it carries");
    }
    let token_header = section
        .parse("webhook_header", "a header's name", |text| is_header_name(text).then(|| text.to_owned()));
    let login = section.parse("webhook_username", "a text without colons", |text| {
        (is_single_line(text) && !text.contains(':')).then(|| text.to_owned())
    });
    let tokens = section.secrets("webhook_token", 2);
    WebhookAuth { tokens, token_header, basic: login.zip(section.secret("webhook_password")) }
}

/// Reads connection, API access and polling.
fn read_transport(
    section: &mut Section<'_>,
    name: String,
) -> (Option<Settings>, Option<provider_api::ProviderApiSettings>, Option<reconcile::PollSettings>) {
    section.require_key("provider");
    let provider = section.keyword("provider", &PROVIDER_NAMES);
    let named = provider.unwrap_or(Provider::Plain);
    let region = section.keyword("region", &REGION_NAMES).unwrap_or_default();
    let host =
        section.parse("host", "a host name or an IP address", |text| is_hostname(text).then(|| text.into()));
    let port = section.integer("port", 1..=u16::MAX);
    let security = section.keyword("tls", &UPSTREAM_TLS_MODES);
    // Port 465 uses implicit TLS (RFC 8314 section 3.3).
    let usual = if port == Some(465) { Security::Implicit } else { Security::StartTls };
    let security = security.unwrap_or(usual);
    let domain: Option<String> =
        section.parse("domain", "a domain", |text| is_hostname(text).then(|| text.into()));
    let key = ApiKeyEntry::read_api_key(section);
    let (account, reconcile) = crate::config::sections::provider_api::read_provider_api(
        section,
        &name,
        provider,
        region,
        domain.as_deref(),
        &key,
    );
    let api = read_mailgun_api(section, provider, region, domain.as_deref(), &key);
    let settings = Settings {
        name,
        domain,
        provider: named,
        host: host.unwrap_or_default(),
        port: port.unwrap_or(named.default_port(security == Security::Implicit)),
        security,
        ca_file: section.existing_file("ca_file"),
        login: read_login(section),
        api,
        connections: section.integer("connections", 1..=1000).unwrap_or(20),
        pipelining: section.keyword("pipelining", &PIPELINING_MODES).unwrap_or(Pipelining::Full),
        idle_timeout: section.duration("idle_timeout", ONE_SECOND..=ONE_HOUR).unwrap_or(ONE_SECOND * 60),
        connection_age: section
            .duration("connection_age", ONE_SECOND * 10..=ONE_DAY)
            .unwrap_or(ONE_SECOND * 600),
        messages_per_connection: section.integer("messages_per_connection", 1..=1_000_000).unwrap_or(1000),
        rate: section.parse("rate", units::EXPECTED_RATE, units::parse_rate),
        quota_limit: section.parse("quota", units::EXPECTED_UPSTREAM_QUOTA, units::parse_upstream_quota),
        breaker: read_circuit_breaker(section.subsection("breaker")),
        timeouts: Default::default(),
    };
    let settings = provider.and_then(|provider| with_default_host(settings, provider, region, section));
    (settings, account, reconcile)
}

fn with_default_host(
    settings: Settings,
    provider: Provider,
    region: Region,
    section: &Section<'_>,
) -> Option<Settings> {
    if section.contains_key("host") {
        return Some(settings);
    }
    let Some(host) = provider.default_host(region) else {
        section.add_error("host", "is required with provider = \"plain\"");
        return None;
    };
    Some(Settings { host: host.into(), ..settings })
}

fn read_login(section: &mut Section<'_>) -> Option<Login> {
    let username = section.text("username");
    let has_password = section.contains_key("password") || section.contains_key("password_file");
    match (section.contains_key("username"), has_password) {
        (true, false) => section.add_error("username", "needs password_file or password"),
        (false, true) => section.add_error("username", "is required beside a password"),
        _ => (),
    }
    let password = section.secret("password");
    username.zip(password).map(|(username, password)| Login { username, password })
}

fn read_circuit_breaker(mut section: Section<'_>) -> circuit_breaker::BreakerSettings {
    let usual = circuit_breaker::BreakerSettings::default();
    let settings = circuit_breaker::BreakerSettings {
        failure_threshold: section.integer("failures", 1..=1000).unwrap_or(usual.failure_threshold),
        success_threshold: section.integer("successes", 1..=100).unwrap_or(usual.success_threshold),
        initial_pause: section.duration("pause", ONE_SECOND / 10..=ONE_HOUR).unwrap_or(usual.initial_pause),
        max_pause: section.duration("longest_pause", ONE_SECOND..=ONE_DAY).unwrap_or(usual.max_pause),
    };
    if section.is_valid() && settings.initial_pause > settings.max_pause {
        section.add_error("pause", "is longer than longest_pause");
    }
    section.reject_unknown();
    settings
}

fn read_retry(mut section: Section<'_>) -> RetryPolicy {
    let usual = RetryPolicy::default();
    let retry = RetryPolicy {
        initial_backoff: section
            .duration("first", ONE_SECOND / 10..=ONE_DAY)
            .unwrap_or(usual.initial_backoff),
        backoff_factor: section.float("factor", 1.0..=10.0).unwrap_or(usual.backoff_factor),
        max_backoff: section.duration("max", ONE_SECOND..=ONE_DAY).unwrap_or(usual.max_backoff),
        jitter: section.float("jitter", 0.0..=1.0).unwrap_or(usual.jitter),
        give_up_after: section
            .duration("give_up_after", ONE_SECOND * 60..=ONE_DAY * 30)
            .unwrap_or(usual.give_up_after),
        unknown_wait: section
            .duration("unknown_wait", Duration::ZERO..=ONE_DAY)
            .unwrap_or(usual.unknown_wait),
        retry_unknown_elsewhere: section
            .boolean("unknown_elsewhere")
            .unwrap_or(usual.retry_unknown_elsewhere),
    };
    if section.is_valid() && retry.initial_backoff > retry.max_backoff {
        section.add_error("first", "is longer than max");
    }
    section.reject_unknown();
    retry
}

/// Reads `transport` and the settings that sending by the API needs.
fn read_mailgun_api(
    section: &mut Section<'_>,
    provider: Option<Provider>,
    region: Region,
    domain: Option<&str>,
    key: &ApiKeyEntry,
) -> Option<Api> {
    let transport = section.keyword("transport", &TRANSPORT_KINDS).unwrap_or(TransportKind::Smtp);
    if transport == TransportKind::Smtp {
        return None;
    }
    let usual = provider?.default_api_url(region);
    if usual.is_none() {
        let why = "\"api\" is for Mailgun, which takes a message as it is; use \"smtp\" with this provider";
        section.add_error("transport", why);
        return None;
    }
    if domain.is_none() {
        section.require_key("domain");
    }
    if !key.is_present {
        section.add_error(key.key_name, "or api_key_file is required with transport = \"api\"");
    }
    let only_smtp = [
        "host",
        "port",
        "tls",
        "username",
        "password",
        "password_file",
        "pipelining",
        "messages_per_connection",
    ];
    for key in only_smtp.iter().filter(|key| section.contains_key(key)) {
        section.add_warning(key, "has no meaning with transport = \"api\"");
    }
    let base_url = key.base_url.clone().or_else(|| usual.and_then(|usual| usual.parse().ok()));
    Some(Api { base_url: base_url?, domain: domain?.to_owned(), key: key.key.clone()? })
}

fn check_upstream(upstream: &Upstream, us: &OwnEndpoints<'_>, section: &Section<'_>) {
    let Upstream { transport: settings, webhook_signing_keys, webhook_auth, .. } = upstream;
    if settings.api.is_none() {
        check_smtp(settings, us, section);
    }
    if settings.provider == Provider::Mailgun && webhook_signing_keys.is_empty() {
        section.add_warning(
            "webhook_signing_key",
            "is missing; no event of this upstream can be trusted or joined",
        );
    }
    if settings.provider == Provider::Brevo && webhook_auth.is_empty() {
        section
            .add_warning("webhook_token", "is missing; no event of this upstream can be trusted or joined");
    }
    if settings.provider != Provider::Brevo && !webhook_auth.is_empty() {
        let key = if section.contains_key("webhook_username") { "webhook_username" } else { "webhook_token" };
        section.add_warning(key, "has a meaning with provider = \"brevo\" only");
    }
}

fn check_smtp(settings: &Settings, us: &OwnEndpoints<'_>, section: &Section<'_>) {
    if settings.security == Security::None && !is_loopback(&settings.host) {
        section.add_error("tls", format!("\"none\" is for loopback hosts only, not for {:?}", settings.host));
    }
    if settings.provider != Provider::Plain && settings.login.is_none() {
        section.add_error("username", "and password_file are required with this provider");
    }
    if is_own_endpoint(settings, us) {
        let message =
            format!("\"{}:{}\" is our own listener; mail would go in circles", settings.host, settings.port);
        section.add_error("host", message);
    }
}

fn is_own_endpoint(settings: &Settings, us: &OwnEndpoints<'_>) -> bool {
    let address: Option<IpAddr> = settings.host.parse().ok();
    let ours = settings.host.eq_ignore_ascii_case(us.hostname);
    us.listeners.iter().map(|listener| listener.address).any(|own| {
        let local = own.ip().is_loopback() || own.ip().is_unspecified();
        let same = Some(own.ip()) == address || (is_loopback(&settings.host) && local);
        own.port() == settings.port && (ours || same)
    })
}

const ONE_SECOND: Duration = Duration::from_secs(1);
const ONE_HOUR: Duration = Duration::from_secs(3600);
