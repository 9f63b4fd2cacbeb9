//! Whether what is registered at the provider leads to this daemon: it is asked through the registered address what only
//! it can answer.

use crate::config::Config;
use crate::doctor::check_result::{Finding, Status};
use crate::doctor::daemon;
use futures_util::future::join_all;
use mailtrail_net::provider_api::Webhook;
use mailtrail_net::{error_chain, tls};
use mailtrail_relay::Probe;
use mailtrail_relay::admin::ProbeView;
use reqwest::{Client, Url, redirect};
use std::time::Duration;

/// Asks through each address of an upstream's webhooks; it is enough that one leads here. Without a daemon there is
/// nobody to ask.
pub(super) async fn look(config: &Config, name: &str, webhooks: &[Webhook]) -> Option<Finding> {
    let here = config.http?;
    let ours = webhooks.iter().filter(|webhook| webhook.leads_to(name));
    let mut urls: Vec<Url> = ours.filter_map(|webhook| webhook.url.parse().ok()).collect();
    urls.sort();
    urls.dedup();
    let probe = daemon::probe(&config.admin.socket, &format!("/webhooks/{name}")).await.ok()?;
    let client = Client::builder()
        // Providers trust public authorities and nobody else.
        .tls_backend_preconfigured(tls::client_config(None).ok()?)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .timeout(ONE_ANSWER)
        .build()
        .ok()?;
    let findings = join_all(urls.into_iter().map(async |url| {
        let shown = Webhook { event: String::new(), url: url.to_string() }.shown();
        let heard = ask(&client, url, &probe).await;
        judge(name, &shown, heard, &format!("{}://{here}/webhooks/{name}", config.http_tls.scheme()))
    }));
    findings.await.into_iter().min_by_key(|finding| finding.status)
}

/// What came back.
enum Heard {
    /// Our own answer.
    Ours,
    /// Another one, with this status.
    Other(u16),
    /// None, because of this.
    Nothing(String),
}

async fn ask(client: &Client, url: Url, probe: &ProbeView) -> Heard {
    let answer = async {
        let answer = client.post(url).header(Probe::HEADER, &probe.question).body("").send().await?;
        let status = answer.status().as_u16();
        // A stranger's page may be long.
        let short = answer.content_length().is_some_and(|length| length <= probe.answer.len() as u64);
        let body = if short { answer.text().await? } else { String::new() };
        Ok::<_, reqwest::Error>((status, body))
    };
    match answer.await {
        Ok((_, body)) if body == probe.answer => Heard::Ours,
        Ok((status, _)) => Heard::Other(status),
        Err(error) => Heard::Nothing(error_chain::of_request(error)),
    }
}

fn judge(name: &str, url: &str, heard: Heard, here: &str) -> Finding {
    let (status, what, remedy) = match heard {
        Heard::Ours => return Finding::ok(CHECK, name, format!("{url} leads to this daemon")),
        Heard::Nothing(cause) if cause.contains("certificate") => (
            Status::Fail,
            format!("{url}: its certificate is not trusted: {cause}"),
            "give the web server a certificate of a public authority for that name, with its chain".to_owned(),
        ),
        // The provider may see more of the network than this machine does.
        Heard::Nothing(cause) => (
            Status::Warn,
            format!("{url} cannot be reached from this machine: {cause}"),
            "look at the name's DNS records, the firewall and the web server; if only this machine is kept out, \
             mailtrail send-test tells whether events come"
                .to_owned(),
        ),
        Heard::Other(status @ 300..=399) => (
            Status::Fail,
            format!("{url} answers {status}: it leads elsewhere"),
            "register the address that it leads to; providers follow nobody".to_owned(),
        ),
        Heard::Other(status @ (401 | 403)) => (
            Status::Fail,
            format!("{url} answers {status}: the web server keeps requests out"),
            format!("let it pass POST on to {here} without a login"),
        ),
        Heard::Other(status @ (502..=504)) => (
            Status::Fail,
            format!("{url} answers {status}: the web server finds nobody behind it"),
            format!("have it pass POST on to {here}"),
        ),
        Heard::Other(status) => (
            Status::Fail,
            format!("{url} answers {status}, and it is not this daemon that does"),
            format!("have the web server of that name pass POST on to {here}, the path as it is there"),
        ),
    };
    Finding::bad(status, CHECK, name, what, remedy)
}

const CHECK: &str = "round-trip";
/// Longest wait for one answer; the registration is to be told all the same.
const ONE_ANSWER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_reached_from_here_may_be_well() {
        let cause = "invalid peer certificate: UnknownIssuer".to_owned();
        for (heard, expected, words) in [
            (Heard::Ours, Status::Ok, ""),
            (Heard::Nothing("no answer in time".to_owned()), Status::Warn, "firewall"),
            (Heard::Nothing(cause), Status::Fail, "public authority"),
            (Heard::Other(301), Status::Fail, "register the address"),
            (Heard::Other(403), Status::Fail, "without a login"),
            (Heard::Other(502), Status::Fail, "pass POST on to http://here"),
            (Heard::Other(200), Status::Fail, "the path as it is there"),
        ] {
            let finding = judge("up", "https://a.example/webhooks/up", heard, "http://here");
            assert_eq!(finding.status, expected, "{finding:?}");
            assert!(finding.remedy.contains(words) && finding.what.contains("a.example"), "{finding:?}");
        }
    }
}
