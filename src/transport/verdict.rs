//! What an upstream's reply means. All of this policy is here; an unknown reply is a temporary failure.

use crate::clock::Timestamp;
use crate::provider::Provider;
use crate::smtp::Response;
use std::time::Duration;

/// What a reply means for the recipients it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The upstream took them.
    Taken,
    /// For good: never to be tried again.
    Refused,
    /// For now.
    Later,
    /// Not these recipients but the account or the whole upstream is refused for now: leave it alone, until then
    /// if it said when.
    Upstream {
        /// The upstream's own wish.
        until: Option<Timestamp>,
    },
}

/// The meaning of a reply at `now`.
pub fn verdict(response: &Response, provider: Provider, now: Timestamp) -> Verdict {
    match response.code {
        200..300 => Verdict::Taken,
        // The login is missing, wrong or gone: an operator's matter, never the mail's.
        454 | 530 | 534 | 535 | 538 => Verdict::Upstream { until: None },
        525 if provider == Provider::Brevo => Verdict::Upstream { until: None },
        _ if provider == Provider::Mailgun && is_account_refusal(&response.text) => {
            Verdict::Upstream { until: try_again_after(&response.text, now) }
        }
        500..600 => Verdict::Refused,
        _ => Verdict::Later,
    }
}

/// Mailgun's refusals of a whole domain come as 421 to DATA, lost logins as 550 to RCPT.
fn is_account_refusal(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("is not allowed to send") || text.contains("relaying denied")
}

/// `try again after Sun, 05 Oct 2025 19:22:44 UTC` or `try again after 120 seconds`.
fn try_again_after(text: &str, now: Timestamp) -> Option<Timestamp> {
    let (_, wish) = text.split_once("try again after ")?;
    if let Some((number, "seconds" | "second")) = wish.trim_end_matches('.').split_once(' ') {
        return number.parse().ok().map(|seconds| now.after(Duration::from_secs(seconds)));
    }
    Timestamp::parse_rfc5322(wish.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_mean_what_they_say() {
        let now = Timestamp::from_seconds(1_789_387_200);
        let limit =
            "Domain mg.example.com is not allowed to send: recipient limit exceeded, try again after ";
        let until = |seconds| Verdict::Upstream { until: Some(now.after(Duration::from_secs(seconds))) };
        for (code, text, expected) in [
            (250, "Great success", Verdict::Taken),
            (550, "no such user", Verdict::Refused),
            (450, "try again after lunch", Verdict::Later),
            (421, "closing", Verdict::Later),
            (354, "odd here", Verdict::Later),
            (535, "Authentication failed", Verdict::Upstream { until: None }),
            (550, "Relaying denied", Verdict::Upstream { until: None }),
            (421, &format!("{limit}Mon, 14 Sep 2026 12:22:44 UTC"), until(1364)),
            (421, &format!("{limit}120 seconds"), until(120)),
            (
                421,
                "Domain x is not allowed to send: Free accounts are for test purposes only.",
                Verdict::Upstream { until: None },
            ),
        ] {
            let response = Response { code, enhanced: None, text: text.into() };
            assert_eq!(verdict(&response, Provider::Mailgun, now), expected, "{code} {text}");
        }
        let denied = Response { code: 550, enhanced: None, text: "Relaying denied".into() };
        assert_eq!(verdict(&denied, Provider::Plain, now), Verdict::Refused);
    }
}
