//! Checks everything that delivery depends on and suggests fixes.
//!
//! Every check returns results within its timeout and changes nothing: neither here nor at the provider nor in
//! Odoo. A result that cannot be determined is `unknown`, never `ok`. No result contains a secret.

mod certificate;
mod check_result;
mod clock;
mod config;
mod daemon;
mod disk;
mod dns;
mod odoo;
mod round_trip;
mod upstream;
mod webhooks;

pub(crate) use check_result::{CheckResult, CheckStatus};
pub(crate) use config::from_config_error;

use crate::config::{Config, Upstream, is_loopback};
use crate::doctor::dns::DomainChecks;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use mailtrail_mail::{Clock, fold_domain};
use mailtrail_net::provider_api::ProviderApi;
use mailtrail_net::tls;
use mailtrail_net::transport::Settings;
use mailtrail_relay::sink::SinkKind;
use mailtrail_trail::provider::Provider;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// Options of a run, in addition to the configuration.
#[derive(Clone, Debug)]
pub struct DoctorOptions {
    /// Sending domains to check.
    pub domains: Vec<String>,
    /// DNS server; `None`: the system's.
    pub resolver: Option<SocketAddr>,
    /// Timeout of each check.
    pub timeout: Duration,
}

/// Runs all checks, most of them concurrently. The results are in the order of a message's path.
pub async fn run_checks(config: &Config, question: &DoctorOptions, clock: Clock) -> Vec<CheckResult> {
    let mut findings = config::check_config(config);
    findings.extend(disk::check_disk(&config.data_dir));
    findings.extend(certificate::check_certificates(config, clock.now()));
    let mut looks = vec![
        with_timeout(question, "daemon", "", CheckStatus::Fail, daemon::check_daemon(config)),
        with_timeout(question, "clock", "", CheckStatus::Unknown, clock::check_clock(config, clock)),
    ];
    // A daemon that does not respond is reported by its own check.
    let running = tokio::time::timeout(question.timeout, daemon::upstream_hosts(&config.admin.socket)).await;
    let running = running.unwrap_or_default();
    for upstream in &config.upstreams {
        let name = &upstream.transport.name;
        if let Some(finding) = check_sandboxed(upstream, &running) {
            findings.push(finding);
            continue;
        }
        looks.push(with_timeout(
            question,
            "login",
            name,
            CheckStatus::Fail,
            upstream::check_login(config, upstream, clock),
        ));
        looks.push(with_timeout(question, "webhooks", name, CheckStatus::Unknown, async {
            webhooks::check_webhooks(config, upstream, clock).await
        }));
    }
    let resolver = dns::build_resolver(question.resolver);
    for (domain, provider, account) in sending_domains(config, question, clock) {
        let named = question.domains.iter().any(|named| fold_domain(named) == fold_domain(&domain));
        if !named && is_local_only(config, &domain, &running) {
            let what = "its provider is a sandbox on this machine, so its DNS is not checked; use --domain to check it";
            findings.push(CheckResult::ok("dns", domain, what));
            continue;
        }
        match &resolver {
            Ok(resolver) => {
                let dns = DomainChecks { resolver: resolver.clone(), domain: domain.clone(), provider };
                let all = async move { dns.run(account).await };
                looks.push(with_timeout(question, "dns", &domain, CheckStatus::Unknown, all));
            }
            Err(finding) => findings.push(finding.clone()),
        }
    }
    for sink in &config.sinks {
        if let SinkKind::Odoo(settings) = &sink.kind {
            let all = odoo::check_odoo(&sink.name, settings);
            looks.push(with_timeout(question, "odoo", &sink.name, CheckStatus::Fail, all));
        }
    }
    findings.extend(join_all(looks).await.into_iter().flatten());
    findings
}

/// Result for an upstream that the running relay has replaced with the sandbox: its provider is not contacted.
fn check_sandboxed(upstream: &Upstream, running: &BTreeMap<String, String>) -> Option<CheckResult> {
    let (name, configured) = (&upstream.transport.name, upstream.transport.destination_host());
    let host = running.get(name).filter(|host| is_loopback(host) && !is_loopback(configured))?;
    let what = format!("the running relay sends to {host}, not to {configured}: the login is not checked");
    let remedy = "`serve --sandbox` does this; for real mail remove --sandbox and restart the relay";
    Some(CheckResult::problem(CheckStatus::Unknown, "login", name, what, remedy))
}

/// Whether mail of the domain never leaves this machine, because all its providers are local. A plain server on this
/// machine may forward mail.
fn is_local_only(config: &Config, domain: &str, running: &BTreeMap<String, String>) -> bool {
    let own = |upstream: &&Upstream| {
        let of_upstream = upstream.transport.domain.as_deref();
        of_upstream.is_some_and(|of_upstream| fold_domain(of_upstream) == fold_domain(domain))
    };
    let mut own = config.upstreams.iter().filter(own).map(|upstream| &upstream.transport).peekable();
    let here = |settings: &Settings| {
        let host = running.get(&settings.name).map_or(settings.destination_host(), String::as_str);
        settings.provider != Provider::Plain && is_loopback(host)
    };
    own.peek().is_some() && own.all(here)
}

/// Limits a check to its timeout.
fn with_timeout<'a>(
    question: &DoctorOptions,
    check: &'static str,
    subject: &str,
    late: CheckStatus,
    all: impl Future<Output = Vec<CheckResult>> + Send + 'a,
) -> BoxFuture<'a, Vec<CheckResult>> {
    let (patience, subject) = (question.timeout, subject.to_owned());
    async move {
        tokio::time::timeout(patience, all).await.unwrap_or_else(|_| {
            let what = format!("no answer within {} s", patience.as_secs());
            vec![CheckResult::problem(late, check, subject, what, "check the network, or raise --timeout")]
        })
    }
    .boxed()
}

/// Sending domains, each once, with the provider and its API.
fn sending_domains(
    config: &Config,
    question: &DoctorOptions,
    clock: Clock,
) -> Vec<(String, Provider, Option<ProviderApi>)> {
    let of_upstreams =
        config.upstreams.iter().filter_map(|upstream| Some((upstream.transport.domain.clone()?, upstream)));
    // Mail of other domains is sent by the first upstream.
    let first = config.upstreams.first();
    let named = question.domains.iter().filter_map(|domain| Some((domain.clone(), first?)));
    let mut seen = BTreeSet::new();
    let all = of_upstreams.chain(named).filter(|(domain, _)| seen.insert(fold_domain(domain)));
    all.map(|(domain, upstream)| {
        let account = upstream.provider_api.clone().and_then(|settings| {
            let tls = tls::build_connector(upstream.transport.ca_file.as_deref()).ok()?;
            ProviderApi::new(settings, &tls, clock).ok()
        });
        (domain, upstream.transport.provider, account)
    })
    .collect()
}
