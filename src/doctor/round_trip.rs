//! Checks that the registered webhooks lead to this daemon: requests an answer through the registered URL that only
//! this daemon can give.

use crate::config::Config;
use crate::doctor::check_result::{CheckResult, CheckStatus};
use crate::doctor::daemon;
use futures_util::future::join_all;
use mailtrail_net::provider_api::RegisteredWebhook;
use mailtrail_net::{error_chain, tls};
use mailtrail_relay::LoopbackProbe;
use mailtrail_relay::admin::ProbeChallenge;
use reqwest::{Client, Url, redirect};
use std::time::Duration;

/// Probes each webhook URL of an upstream; one that leads here suffices. Returns `None` without a daemon.
pub(super) async fn check_round_trip(
    config: &Config,
    name: &str,
    webhooks: &[RegisteredWebhook],
) -> Option<CheckResult> {
    let here = config.http_address?;
    let ours = webhooks.iter().filter(|webhook| webhook.targets_upstream(name));
    let mut urls: Vec<Url> = ours.filter_map(|webhook| webhook.url.parse().ok()).collect();
    urls.sort();
    urls.dedup();
    let probe = daemon::request_challenge(&config.admin.socket, &format!("/webhooks/{name}")).await.ok()?;
    let client = Client::builder()
        // Providers trust public CAs only.
        .tls_backend_preconfigured(tls::build_client_config(None).ok()?)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .timeout(RESPONSE_TIMEOUT)
        .build()
        .ok()?;
    let findings = join_all(urls.into_iter().map(async |url| {
        let shown = RegisteredWebhook { event: String::new(), url: url.to_string() }.redacted_url();
        let heard = send_probe(&client, url, &probe).await;
        evaluate_reply(
            name,
            &shown,
            heard,
            &format!("{}://{here}/webhooks/{name}", config.http_tls.url_scheme()),
        )
    }));
    findings.await.into_iter().min_by_key(|finding| finding.status)
}

/// Response to a probe.
enum ProbeReply {
    /// The answer of this daemon.
    Ours,
    /// Another answer, with its status.
    Foreign(u16),
    /// No answer, with the cause.
    None(String),
}

async fn send_probe(client: &Client, url: Url, probe: &ProbeChallenge) -> ProbeReply {
    let answer = async {
        let answer =
            client.post(url).header(LoopbackProbe::HEADER_NAME, &probe.question).body("").send().await?;
        let status = answer.status().as_u16();
        // The page of another server may be long.
        let short = answer.content_length().is_some_and(|length| length <= probe.answer.len() as u64);
        let body = if short { answer.text().await? } else { String::new() };
        Ok::<_, reqwest::Error>((status, body))
    };
    match answer.await {
        Ok((_, body)) if body == probe.answer => ProbeReply::Ours,
        Ok((status, _)) => ProbeReply::Foreign(status),
        Err(error) => ProbeReply::None(error_chain::request_error_text(error)),
    }
}

fn evaluate_reply(name: &str, url: &str, heard: ProbeReply, here: &str) -> CheckResult {
    let (status, what, remedy) = match heard {
        ProbeReply::Ours => return CheckResult::ok(CHECK_NAME, name, format!("{url} leads to this daemon")),
        ProbeReply::None(cause) if cause.contains("certificate") => (
            CheckStatus::Fail,
            format!("{url}: its certificate is not trusted: {cause}"),
            "give the web server a certificate of a public authority for that name, with its chain".to_owned(),
        ),
        // The provider may reach addresses that this machine does not.
        ProbeReply::None(cause) => (
            CheckStatus::Warn,
            format!("cannot reach {url} from this machine: {cause}"),
            "look at the name's DNS records, the firewall and the web server; if only this machine is kept out, \
             mailtrail send-test tells whether events come"
                .to_owned(),
        ),
        ProbeReply::Foreign(status @ 300..=399) => (
            CheckStatus::Fail,
            format!("{url} answers {status}: a redirect"),
            "register the target of the redirect; providers do not follow redirects".to_owned(),
        ),
        ProbeReply::Foreign(status @ (401 | 403)) => (
            CheckStatus::Fail,
            format!("{url} answers {status}: the web server rejects the request"),
            format!("let it pass POST on to {here} without a login"),
        ),
        ProbeReply::Foreign(status @ (502..=504)) => (
            CheckStatus::Fail,
            format!("{url} answers {status}: the web server cannot reach its backend"),
            format!("have it pass POST on to {here}"),
        ),
        ProbeReply::Foreign(status) => (
            CheckStatus::Fail,
            format!("{url} answers {status}, but not from this daemon"),
            format!("have the web server of that name pass POST on to {here}, the path as it is there"),
        ),
    };
    CheckResult::problem(status, CHECK_NAME, name, what, remedy)
}

const CHECK_NAME: &str = "round-trip";
/// Short enough that the registration itself is still reported.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreachable_url_is_only_a_warning() {
        let cause = "invalid peer certificate: UnknownIssuer".to_owned();
        for (heard, expected, words) in [
            (ProbeReply::Ours, CheckStatus::Ok, ""),
            (ProbeReply::None("no answer in time".to_owned()), CheckStatus::Warn, "firewall"),
            (ProbeReply::None(cause), CheckStatus::Fail, "public authority"),
            (ProbeReply::Foreign(301), CheckStatus::Fail, "register the target"),
            (ProbeReply::Foreign(403), CheckStatus::Fail, "without a login"),
            (ProbeReply::Foreign(502), CheckStatus::Fail, "pass POST on to http://here"),
            (ProbeReply::Foreign(200), CheckStatus::Fail, "the path as it is there"),
        ] {
            let finding = evaluate_reply("up", "https://a.example/webhooks/up", heard, "http://here");
            assert_eq!(finding.status, expected, "{finding:?}");
            assert!(finding.remedy.contains(words) && finding.message.contains("a.example"), "{finding:?}");
        }
    }
}
