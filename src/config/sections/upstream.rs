//! `[[upstream]]`: where mail goes.

use crate::config::keywords::{PIPELINING, PROVIDERS, REGIONS, SECURITY, TRANSPORTS, Transport};
use crate::config::section::Section;
use crate::config::sections::DAY;
use crate::config::sections::provider_api::Key;
use crate::config::settings::Upstream;
use crate::config::uniqueness::{Claims, Kind};
use crate::config::units;
use crate::config::validators::{is_header_name, is_host, is_loopback, is_plain, is_slug};
use mailtrail_net::provider_api;
use mailtrail_net::transport::{Api, Login, Pipelining, Security, Settings, circuit_breaker};
use mailtrail_relay::queue::Retry;
use mailtrail_relay::reconcile;
use mailtrail_relay::submission::Listener;
use mailtrail_trail::provider::brevo::Credentials;
use mailtrail_trail::provider::{Provider, Region};
use std::net::IpAddr;
use std::time::Duration;

/// What an upstream must not lead back to.
pub(crate) struct Ourselves<'a> {
    pub hostname: &'a str,
    pub listeners: &'a [Listener],
}

/// Reads one.
pub(crate) fn read(mut section: Section<'_>, us: &Ourselves<'_>, claims: &mut Claims) -> Option<Upstream> {
    section.require("name");
    let name =
        section.parsed("name", "a name of a-z, 0-9 and -", |text| is_slug(text).then(|| text.to_owned()));
    if let Some(name) = &name {
        claims.name(Kind::Upstream, &section, "name", name);
    }
    let (transport, account, reconcile) = settings(&mut section, name.unwrap_or_default());
    let retry = retry(section.table("retry"));
    let signing_keys = section.secrets("webhook_signing_key", 2);
    let credentials = credentials(&mut section);
    let upstream = transport.map(|transport| Upstream {
        transport,
        retry,
        account,
        reconcile,
        signing_keys,
        credentials,
    });
    if let Some(upstream) = upstream.as_ref().filter(|_| section.is_sound()) {
        check(upstream, us, &section);
    }
    section.finish();
    upstream
}

/// What Brevo's webhooks prove themselves with.
fn credentials(section: &mut Section<'_>) -> Credentials {
    let has_password = section.has("webhook_password") || section.has("webhook_password_file");
    match (section.has("webhook_username"), has_password) {
        (true, false) => section.fault("webhook_username", "needs webhook_password_file or webhook_password"),
        (false, true) => section.fault("webhook_username", "is required beside a webhook_password"),
        _ => (),
    }
    let has_token = section.has("webhook_token") || section.has("webhook_token_file");
    if section.has("webhook_header") && !has_token {
        section.fault("webhook_header", "needs webhook_token_file or webhook_token, which it carries");
    }
    let header = section
        .parsed("webhook_header", "a header's name", |text| is_header_name(text).then(|| text.to_owned()));
    let login = section.parsed("webhook_username", "a text without colons", |text| {
        (is_plain(text) && !text.contains(':')).then(|| text.to_owned())
    });
    let tokens = section.secrets("webhook_token", 2);
    Credentials { tokens, header, login: login.zip(section.secret("webhook_password")) }
}

/// How it is reached, the account behind it, and how that is asked.
fn settings(
    section: &mut Section<'_>,
    name: String,
) -> (Option<Settings>, Option<provider_api::Settings>, Option<reconcile::Settings>) {
    section.require("provider");
    let provider = section.one_of("provider", &PROVIDERS);
    let named = provider.unwrap_or(Provider::Plain);
    let region = section.one_of("region", &REGIONS).unwrap_or_default();
    let host =
        section.parsed("host", "a host name or an IP address", |text| is_host(text).then(|| text.into()));
    let port = section.integer("port", 1..=u16::MAX);
    let security = section.one_of("tls", &SECURITY);
    // 465 is the port for TLS from the first byte (RFC 8314 section 3.3).
    let usual = if port == Some(465) { Security::Implicit } else { Security::StartTls };
    let security = security.unwrap_or(usual);
    let domain: Option<String> =
        section.parsed("domain", "a domain", |text| is_host(text).then(|| text.into()));
    let key = Key::read(section);
    let (account, reconcile) = crate::config::sections::provider_api::read(
        section,
        &name,
        provider,
        region,
        domain.as_deref(),
        &key,
    );
    let api = api(section, provider, region, domain.as_deref(), &key);
    let settings = Settings {
        name,
        domain,
        provider: named,
        host: host.unwrap_or_default(),
        port: port.unwrap_or(named.default_port(security == Security::Implicit)),
        security,
        ca_file: section.file("ca_file"),
        login: login(section),
        api,
        connections: section.integer("connections", 1..=1000).unwrap_or(20),
        pipelining: section.one_of("pipelining", &PIPELINING).unwrap_or(Pipelining::Full),
        idle_timeout: section.duration("idle_timeout", SECOND..=HOUR).unwrap_or(SECOND * 60),
        connection_age: section.duration("connection_age", SECOND * 10..=DAY).unwrap_or(SECOND * 600),
        messages_per_connection: section.integer("messages_per_connection", 1..=1_000_000).unwrap_or(1000),
        rate: section.parsed("rate", units::A_RATE, units::rate),
        plan: section.parsed("quota", units::A_QUOTA, units::quota),
        breaker: breaker(section.table("breaker")),
        timeouts: Default::default(),
    };
    let settings = provider.and_then(|provider| with_host(settings, provider, region, section));
    (settings, account, reconcile)
}

fn with_host(
    settings: Settings,
    provider: Provider,
    region: Region,
    section: &Section<'_>,
) -> Option<Settings> {
    if section.has("host") {
        return Some(settings);
    }
    let Some(host) = provider.default_host(region) else {
        section.fault("host", "is required with provider = \"plain\"");
        return None;
    };
    Some(Settings { host: host.into(), ..settings })
}

fn login(section: &mut Section<'_>) -> Option<Login> {
    let username = section.text("username");
    let has_password = section.has("password") || section.has("password_file");
    match (section.has("username"), has_password) {
        (true, false) => section.fault("username", "needs password_file or password"),
        (false, true) => section.fault("username", "is required beside a password"),
        _ => (),
    }
    let password = section.secret("password");
    username.zip(password).map(|(username, password)| Login { username, password })
}

fn breaker(mut section: Section<'_>) -> circuit_breaker::Settings {
    let usual = circuit_breaker::Settings::default();
    let settings = circuit_breaker::Settings {
        failures: section.integer("failures", 1..=1000).unwrap_or(usual.failures),
        successes: section.integer("successes", 1..=100).unwrap_or(usual.successes),
        pause: section.duration("pause", SECOND / 10..=HOUR).unwrap_or(usual.pause),
        longest_pause: section.duration("longest_pause", SECOND..=DAY).unwrap_or(usual.longest_pause),
    };
    if section.is_sound() && settings.pause > settings.longest_pause {
        section.fault("pause", "is longer than longest_pause");
    }
    section.finish();
    settings
}

fn retry(mut section: Section<'_>) -> Retry {
    let usual = Retry::default();
    let retry = Retry {
        first: section.duration("first", SECOND / 10..=DAY).unwrap_or(usual.first),
        factor: section.number("factor", 1.0..=10.0).unwrap_or(usual.factor),
        max: section.duration("max", SECOND..=DAY).unwrap_or(usual.max),
        jitter: section.number("jitter", 0.0..=1.0).unwrap_or(usual.jitter),
        give_up_after: section
            .duration("give_up_after", SECOND * 60..=DAY * 30)
            .unwrap_or(usual.give_up_after),
        unknown_wait: section.duration("unknown_wait", Duration::ZERO..=DAY).unwrap_or(usual.unknown_wait),
        unknown_elsewhere: section.boolean("unknown_elsewhere").unwrap_or(usual.unknown_elsewhere),
    };
    if section.is_sound() && retry.first > retry.max {
        section.fault("first", "is longer than max");
    }
    section.finish();
    retry
}

/// `transport`, and what messages need of the API.
fn api(
    section: &mut Section<'_>,
    provider: Option<Provider>,
    region: Region,
    domain: Option<&str>,
    key: &Key,
) -> Option<Api> {
    let transport = section.one_of("transport", &TRANSPORTS).unwrap_or(Transport::Smtp);
    if transport == Transport::Smtp {
        return None;
    }
    let usual = provider?.default_api(region);
    if usual.is_none() {
        let why = "\"api\" is for Mailgun, which takes a message as it is; use \"smtp\" with this provider";
        section.fault("transport", why);
        return None;
    }
    if domain.is_none() {
        section.require("domain");
    }
    if !key.given {
        section.fault(key.name, "or api_key_file is required with transport = \"api\"");
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
    for key in only_smtp.iter().filter(|key| section.has(key)) {
        section.warn(key, "has no meaning with transport = \"api\"");
    }
    let base_url = key.base_url.clone().or_else(|| usual.and_then(|usual| usual.parse().ok()));
    Some(Api { base_url: base_url?, domain: domain?.to_owned(), key: key.key.clone()? })
}

fn check(upstream: &Upstream, us: &Ourselves<'_>, section: &Section<'_>) {
    let Upstream { transport: settings, signing_keys, credentials, .. } = upstream;
    if settings.api.is_none() {
        check_smtp(settings, us, section);
    }
    if settings.provider == Provider::Mailgun && signing_keys.is_empty() {
        section.warn("webhook_signing_key", "is missing; no event of this upstream can be trusted or joined");
    }
    if settings.provider == Provider::Brevo && credentials.is_empty() {
        section.warn("webhook_token", "is missing; no event of this upstream can be trusted or joined");
    }
    if settings.provider != Provider::Brevo && !credentials.is_empty() {
        let key = if section.has("webhook_username") { "webhook_username" } else { "webhook_token" };
        section.warn(key, "has a meaning with provider = \"brevo\" only");
    }
}

fn check_smtp(settings: &Settings, us: &Ourselves<'_>, section: &Section<'_>) {
    if settings.security == Security::None && !is_loopback(&settings.host) {
        section.fault("tls", format!("\"none\" is for loopback hosts only, not for {:?}", settings.host));
    }
    if settings.provider != Provider::Plain && settings.login.is_none() {
        section.fault("username", "and password_file are required with this provider");
    }
    if leads_to(settings, us) {
        let message =
            format!("\"{}:{}\" is our own listener; mail would go in circles", settings.host, settings.port);
        section.fault("host", message);
    }
}

fn leads_to(settings: &Settings, us: &Ourselves<'_>) -> bool {
    let address: Option<IpAddr> = settings.host.parse().ok();
    let ours = settings.host.eq_ignore_ascii_case(us.hostname);
    us.listeners.iter().map(|listener| listener.address).any(|own| {
        let local = own.ip().is_loopback() || own.ip().is_unspecified();
        let same = Some(own.ip()) == address || (is_loopback(&settings.host) && local);
        own.port() == settings.port && (ours || same)
    })
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
