//! Checks that the provider's webhooks lead to this relay.

use crate::config::{Config, Upstream};
use crate::doctor::check_result::{CheckResult, CheckStatus};
use crate::doctor::round_trip;
use mailtrail_mail::Clock;
use mailtrail_net::provider_api::{ProviderApi, RegisteredWebhook};
use mailtrail_net::tls;
use mailtrail_trail::provider::Provider;

/// Compares the webhooks registered at the provider with the configuration.
pub(super) async fn check_webhooks(config: &Config, upstream: &Upstream, clock: Clock) -> Vec<CheckResult> {
    let (name, provider) = (&*upstream.transport.name, upstream.transport.provider);
    if provider == Provider::Plain {
        return Vec::new();
    }
    let mut findings = Vec::new();
    if config.http_address.is_none() {
        let remedy = "give [http] an address";
        findings.push(CheckResult::problem(
            CheckStatus::Warn,
            CHECK_NAME,
            name,
            "no webhook can be received",
            remedy,
        ));
    } else if upstream.webhook_signing_keys.is_empty() && upstream.webhook_auth.is_empty() {
        let remedy = "give webhook_signing_key_file (Mailgun) or webhook_token_file (Brevo)";
        findings.push(CheckResult::problem(
            CheckStatus::Warn,
            CHECK_NAME,
            name,
            "every webhook is refused",
            remedy,
        ));
    }
    let Some(settings) = upstream.provider_api.clone() else {
        let what = "cannot check the webhooks registered at the provider";
        findings.push(CheckResult::problem(
            CheckStatus::Unknown,
            CHECK_NAME,
            name,
            what,
            "give api_key_file",
        ));
        return findings;
    };
    let asked = match tls::build_connector(upstream.transport.ca_file.as_deref()) {
        Ok(tls) => match ProviderApi::new(settings, &tls, clock) {
            Ok(account) => account.fetch_webhooks().await,
            Err(fault) => Err(fault),
        },
        Err(error) => {
            findings.push(CheckResult::from_error(
                CheckStatus::Unknown,
                CHECK_NAME,
                name,
                &error,
                "check ca_file",
            ));
            return findings;
        }
    };
    match asked {
        Ok(webhooks) => {
            findings.push(evaluate_registration(name, provider, &webhooks));
            findings.extend(round_trip::check_round_trip(config, name, &webhooks).await);
        }
        Err(fault) => {
            findings.push(CheckResult::from_error(
                CheckStatus::Unknown,
                CHECK_NAME,
                name,
                &fault,
                "check api_base_url",
            ));
        }
    }
    findings
}

fn evaluate_registration(name: &str, provider: Provider, webhooks: &[RegisteredWebhook]) -> CheckResult {
    let needed: &[&str] = match provider {
        Provider::Mailgun => &MAILGUN_EVENTS,
        Provider::Brevo => &BREVO_EVENTS,
        Provider::Plain => &[],
    };
    let ours: Vec<_> = webhooks.iter().filter(|webhook| webhook.targets_upstream(name)).collect();
    let told = |event: &str| ours.iter().any(|webhook| webhook.event == event);
    let missing: Vec<_> = needed.iter().copied().filter(|event| !told(event)).collect();
    let remedy = format!(
        "mailtrail setup {} --upstream {name} --url https://<your host> registers /webhooks/{name} for: {}",
        if provider == Provider::Brevo { "brevo" } else { "mailgun" },
        missing.join(", ")
    );
    match (missing.is_empty(), ours.is_empty()) {
        (true, _) => {
            CheckResult::ok(CHECK_NAME, name, "every event is registered for a webhook of this relay")
        }
        (false, true) => {
            let what = format!("no webhook leads to /webhooks/{name}");
            CheckResult::problem(CheckStatus::Fail, CHECK_NAME, name, what, remedy)
        }
        (false, false) => {
            let what = format!("no webhook of this relay is registered for {}", missing.join(", "));
            CheckResult::problem(CheckStatus::Warn, CHECK_NAME, name, what, remedy)
        }
    }
}

const CHECK_NAME: &str = "webhooks";
const MAILGUN_EVENTS: [&str; 7] =
    ["delivered", "permanent_fail", "temporary_fail", "complained", "unsubscribed", "opened", "clicked"];
const BREVO_EVENTS: [&str; 10] = [
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
    fn names_missing_event_types() {
        let webhook = |event: &&str| RegisteredWebhook {
            event: (*event).to_owned(),
            url: "https://relay.example.com/webhooks/up".to_owned(),
        };
        let mut webhooks: Vec<_> = MAILGUN_EVENTS.iter().map(webhook).collect();
        assert_eq!(evaluate_registration("up", Provider::Mailgun, &webhooks).status, CheckStatus::Ok);
        assert_eq!(evaluate_registration("other", Provider::Mailgun, &webhooks).status, CheckStatus::Fail);
        webhooks.retain(|webhook| webhook.event != "complained");
        let finding = evaluate_registration("up", Provider::Mailgun, &webhooks);
        assert_eq!(
            (finding.status, &*finding.message),
            (CheckStatus::Warn, "no webhook of this relay is registered for complained")
        );
    }
}
