//! Our time and the providers'.

use crate::config::{Config, Upstream};
use crate::doctor::check_result::{Finding, Status};
use mailtrail_mail::{Clock, Timestamp};
use mailtrail_net::provider_api::Whose;
use mailtrail_net::tls;
use mailtrail_trail::provider::{Provider, Region};
use reqwest::header::DATE;
use reqwest::{Client, Url, redirect};
use std::path::Path;
use std::time::Duration;

/// Compares our clock with the first provider that answers.
pub(super) async fn look(config: &Config, clock: Clock) -> Vec<Finding> {
    for upstream in &config.upstreams {
        let Some(url) = api(upstream) else { continue };
        if let Some(theirs) = ask(url, upstream.transport.ca_file.as_deref()).await {
            return vec![judge(clock.now(), theirs)];
        }
    }
    let remedy = "compare it yourself: timedatectl";
    vec![Finding::bad(Status::Unknown, CHECK, "", "no provider's API tells its time", remedy)]
}

/// Where an API is.
fn api(upstream: &Upstream) -> Option<Url> {
    let account = upstream.account.as_ref().map(|account| account.base_url.clone());
    let api = || upstream.transport.api.as_ref().map(|api| api.base_url.clone());
    // The time is the same in every region.
    let usual = match upstream.transport.provider {
        Provider::Brevo => Some(Whose::BREVO),
        provider => provider.default_api(Region::Us),
    };
    account.or_else(api).or_else(|| usual?.parse().ok())
}

/// The `Date` of an answer (RFC 9110 section 6.6.1), whatever else it says. Nobody is told who asks.
async fn ask(url: Url, ca_file: Option<&Path>) -> Option<Timestamp> {
    let client = Client::builder()
        .tls_backend_preconfigured(tls::client_config(ca_file).ok()?)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .timeout(ONE_ANSWER)
        .build()
        .ok()?;
    let answer = client.get(url).send().await.ok()?;
    Timestamp::parse_rfc5322(answer.headers().get(DATE)?.to_str().ok()?)
}

fn judge(ours: Timestamp, theirs: Timestamp) -> Finding {
    let (ahead, behind) = (ours.since(theirs), theirs.since(ours));
    let (by, word) = if ahead >= behind { (ahead, "ahead of") } else { (behind, "behind") };
    if by <= TOLERATED {
        return Finding::ok(CHECK, "", "it agrees with the provider's");
    }
    let what = format!("it is {} s {word} the provider's", by.as_secs());
    let status = if by > UNBEARABLE { Status::Fail } else { Status::Warn };
    let remedy = "have it set by the network: timedatectl set-ntp true, or install chrony";
    Finding::bad(status, CHECK, "", what, remedy)
}

const CHECK: &str = "clock";
/// The next provider is to have a chance, too.
const ONE_ANSWER: Duration = Duration::from_secs(5);
const TOLERATED: Duration = Duration::from_secs(30);
/// Signatures of webhooks are refused for their age from here on, or soon.
const UNBEARABLE: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_may_differ_a_little_in_both_directions() {
        let now = Timestamp::from_seconds(1_789_387_200);
        for (seconds, expected) in
            [(0, Status::Ok), (30, Status::Ok), (31, Status::Warn), (300, Status::Warn), (301, Status::Fail)]
        {
            let other = now.after(Duration::from_secs(seconds));
            assert_eq!(judge(now, other).status, expected, "{seconds}");
            assert_eq!(judge(other, now).status, expected, "{seconds}");
        }
        assert!(judge(now, now.after(UNBEARABLE * 2)).what.contains("600 s behind"));
    }
}
