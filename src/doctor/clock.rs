//! Checks the clock against a provider's.

use crate::config::{Config, Upstream};
use crate::doctor::check_result::{CheckResult, CheckStatus};
use mailtrail_mail::{Clock, Timestamp};
use mailtrail_net::provider_api::ProviderKind;
use mailtrail_net::tls;
use mailtrail_trail::provider::{Provider, Region};
use reqwest::header::DATE;
use reqwest::{Client, Url, redirect};
use std::path::Path;
use std::time::Duration;

/// Compares the clock with that of the first provider that responds.
pub(super) async fn check_clock(config: &Config, clock: Clock) -> Vec<CheckResult> {
    for upstream in &config.upstreams {
        let Some(url) = api_url(upstream) else { continue };
        if let Some(theirs) = fetch_date(url, upstream.transport.ca_file.as_deref()).await {
            return vec![evaluate_skew(clock.now(), theirs)];
        }
    }
    let remedy = "compare it yourself: timedatectl";
    vec![CheckResult::problem(
        CheckStatus::Unknown,
        CHECK_NAME,
        "",
        "no provider's API has responded",
        remedy,
    )]
}

/// URL of the provider's API.
fn api_url(upstream: &Upstream) -> Option<Url> {
    let account = upstream.provider_api.as_ref().map(|account| account.base_url.clone());
    let api = || upstream.transport.api.as_ref().map(|api| api.base_url.clone());
    // The time is the same in every region.
    let usual = match upstream.transport.provider {
        Provider::Brevo => Some(ProviderKind::BREVO_BASE_URL),
        provider => provider.default_api_url(Region::Us),
    };
    account.or_else(api).or_else(|| usual?.parse().ok())
}

/// Returns the `Date` of a response (RFC 9110 section 6.6.1) with any status. The request has no credentials.
async fn fetch_date(url: Url, ca_file: Option<&Path>) -> Option<Timestamp> {
    let client = Client::builder()
        .tls_backend_preconfigured(tls::build_client_config(ca_file).ok()?)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .timeout(RESPONSE_TIMEOUT)
        .build()
        .ok()?;
    let answer = client.get(url).send().await.ok()?;
    Timestamp::parse_rfc5322(answer.headers().get(DATE)?.to_str().ok()?)
}

fn evaluate_skew(ours: Timestamp, theirs: Timestamp) -> CheckResult {
    let (ahead, behind) = (ours.duration_since(theirs), theirs.duration_since(ours));
    let (by, word) = if ahead >= behind { (ahead, "ahead of") } else { (behind, "behind") };
    if by <= SKEW_WARNING {
        return CheckResult::ok(CHECK_NAME, "", "it agrees with the provider's");
    }
    let what = format!("it is {} s {word} the provider's", by.as_secs());
    let status = if by > SKEW_FAILURE { CheckStatus::Fail } else { CheckStatus::Warn };
    let remedy = "have it set by the network: timedatectl set-ntp true, or install chrony";
    CheckResult::problem(status, CHECK_NAME, "", what, remedy)
}

const CHECK_NAME: &str = "clock";
/// Short enough to leave time for the next provider.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
const SKEW_WARNING: Duration = Duration::from_secs(30);
/// From this difference on, webhook signatures are rejected for their age, or will be soon.
const SKEW_FAILURE: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerates_small_skew_in_both_directions() {
        let now = Timestamp::from_secs(1_789_387_200);
        for (seconds, expected) in [
            (0, CheckStatus::Ok),
            (30, CheckStatus::Ok),
            (31, CheckStatus::Warn),
            (300, CheckStatus::Warn),
            (301, CheckStatus::Fail),
        ] {
            let other = now.saturating_add(Duration::from_secs(seconds));
            assert_eq!(evaluate_skew(now, other).status, expected, "{seconds}");
            assert_eq!(evaluate_skew(other, now).status, expected, "{seconds}");
        }
        assert!(evaluate_skew(now, now.saturating_add(SKEW_FAILURE * 2)).message.contains("600 s behind"));
    }
}
