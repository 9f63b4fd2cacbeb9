//! Whether the provider reports to us.

use crate::config::{Config, Upstream};
use crate::doctor::check_result::{Finding, Status};
use crate::doctor::round_trip;
use mailtrail_mail::Clock;
use mailtrail_net::provider_api::{Account, Webhook};
use mailtrail_net::tls;
use mailtrail_trail::provider::Provider;

/// Asks the account which webhooks are registered.
pub(super) async fn look(config: &Config, upstream: &Upstream, clock: Clock) -> Vec<Finding> {
    let (name, provider) = (&*upstream.transport.name, upstream.transport.provider);
    if provider == Provider::Plain {
        return Vec::new();
    }
    let mut findings = Vec::new();
    if config.http.is_none() {
        let remedy = "give [http] an address";
        findings.push(Finding::bad(Status::Warn, CHECK, name, "no webhook can be received", remedy));
    } else if upstream.signing_keys.is_empty() && upstream.credentials.is_empty() {
        let remedy = "give webhook_signing_key_file (Mailgun) or webhook_token_file (Brevo)";
        findings.push(Finding::bad(Status::Warn, CHECK, name, "every webhook is refused", remedy));
    }
    let Some(settings) = upstream.account.clone() else {
        let what = "what is registered at the provider is not known";
        findings.push(Finding::bad(Status::Unknown, CHECK, name, what, "give api_key_file"));
        return findings;
    };
    let asked = match tls::connector(upstream.transport.ca_file.as_deref()) {
        Ok(tls) => match Account::new(settings, &tls, clock) {
            Ok(account) => account.webhooks().await,
            Err(fault) => Err(fault),
        },
        Err(error) => {
            findings.push(Finding::error(Status::Unknown, CHECK, name, &error, "check ca_file"));
            return findings;
        }
    };
    match asked {
        Ok(webhooks) => {
            findings.push(judge(name, provider, &webhooks));
            findings.extend(round_trip::look(config, name, &webhooks).await);
        }
        Err(fault) => {
            findings.push(Finding::error(Status::Unknown, CHECK, name, &fault, "check api_base_url"));
        }
    }
    findings
}

fn judge(name: &str, provider: Provider, webhooks: &[Webhook]) -> Finding {
    let needed: &[&str] = match provider {
        Provider::Mailgun => &MAILGUN,
        Provider::Brevo => &BREVO,
        Provider::Plain => &[],
    };
    let ours: Vec<_> = webhooks.iter().filter(|webhook| webhook.leads_to(name)).collect();
    let told = |event: &str| ours.iter().any(|webhook| webhook.event == event);
    let missing: Vec<_> = needed.iter().copied().filter(|event| !told(event)).collect();
    let remedy = format!(
        "mailtrail setup {} --upstream {name} --url https://<your host> registers /webhooks/{name} for: {}",
        if provider == Provider::Brevo { "brevo" } else { "mailgun" },
        missing.join(", ")
    );
    match (missing.is_empty(), ours.is_empty()) {
        (true, _) => Finding::ok(CHECK, name, "every kind of event is told to a webhook of ours"),
        (false, true) => {
            let what = format!("no webhook leads to /webhooks/{name}");
            Finding::bad(Status::Fail, CHECK, name, what, remedy)
        }
        (false, false) => {
            let what = format!("no webhook of ours is told {}", missing.join(", "));
            Finding::bad(Status::Warn, CHECK, name, what, remedy)
        }
    }
}

const CHECK: &str = "webhooks";
const MAILGUN: [&str; 7] =
    ["delivered", "permanent_fail", "temporary_fail", "complained", "unsubscribed", "opened", "clicked"];
const BREVO: [&str; 10] = [
    "delivered",
    "hardBounce",
    "softBounce",
    "blocked",
    "invalid",
    "deferred",
    "spam",
    "unsubscribed",
    "opened",
    "click",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_kinds_are_named() {
        let webhook = |event: &&str| Webhook {
            event: (*event).to_owned(),
            url: "https://relay.example.com/webhooks/up".to_owned(),
        };
        let mut webhooks: Vec<_> = MAILGUN.iter().map(webhook).collect();
        assert_eq!(judge("up", Provider::Mailgun, &webhooks).status, Status::Ok);
        assert_eq!(judge("other", Provider::Mailgun, &webhooks).status, Status::Fail);
        webhooks.retain(|webhook| webhook.event != "complained");
        let finding = judge("up", Provider::Mailgun, &webhooks);
        assert_eq!((finding.status, &*finding.what), (Status::Warn, "no webhook of ours is told complained"));
    }
}
