//! What an upstream's reply means, over SMTP and over HTTP. All of this policy is here; an unknown reply is a temporary
//! failure.

use super::api::Answer;
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

/// What the answer to a message over HTTP means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighed {
    /// The same for everybody it is about.
    Alike(Verdict),
    /// An address is at fault, and the answer does not say whose: each half is to be tried on its own.
    Apart,
}

/// The meaning of an answer to a message for so many `recipients` at `now`. Unlike SMTP's, HTTP's classes 4 and 5 are
/// permanent and temporary; what is about account, key or address of the API is an operator's matter.
pub fn verdict_of_answer(answer: &Answer, recipients: usize, now: Timestamp) -> Weighed {
    let wish = || retry_after(answer, now).or_else(|| try_again_after(&answer.text, now));
    Weighed::Alike(match answer.status {
        200..300 if answer.id.is_some() => Verdict::Taken,
        // Whoever answers so does not take mail: a wrong path at Mailgun's is greeted with 200.
        200..400 => Verdict::Upstream { until: None },
        400 if is_account_refusal(&answer.text) => Verdict::Upstream { until: wish() },
        400 if recipients > 1 && answer.text.contains("is not a valid address") => return Weighed::Apart,
        401 | 402 | 403 | 404 | 405 | 407 => Verdict::Upstream { until: wish() },
        420 | 429 => Verdict::Upstream { until: wish().or(Some(now.after(LIMIT))) },
        408 | 425 => Verdict::Later,
        400..500 => Verdict::Refused,
        _ => Verdict::Later,
    })
}

/// Seconds or a date (RFC 9110 section 10.2.3).
fn retry_after(answer: &Answer, now: Timestamp) -> Option<Timestamp> {
    let wish = answer.retry_after.as_deref()?.trim();
    let seconds = wish.parse().ok().map(|seconds| now.after(Duration::from_secs(seconds)));
    seconds.or_else(|| Timestamp::parse_rfc5322(wish))
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

/// How long a limit lasts that does not say so: those of Mailgun that say it are of seconds to minutes.
const LIMIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_mean_what_they_say() {
        let now = Timestamp::from_seconds(1_789_387_200);
        let upstream = |seconds| Verdict::Upstream { until: Some(now.after(Duration::from_secs(seconds))) };
        let nobody = Verdict::Upstream { until: None };
        let limit = "Domain mg.example.com is not allowed to send: request limit exceeded, try again after ";
        for (status, text, retry_after, expected) in [
            (200, "Mailgun Magnificent API", None, nobody),
            (301, "Moved", None, nobody),
            (400, "to parameter is missing", None, Verdict::Refused),
            (
                400,
                "'to' parameter is not a valid address. please check documentation",
                None,
                Verdict::Refused,
            ),
            (400, "Domain x is not allowed to send: Free accounts are for test purposes only.", None, nobody),
            (401, "Forbidden", None, nobody),
            (402, "pay", None, nobody),
            (403, "Domain x is not allowed to send large batches yet", None, nobody),
            (404, "Domain not found: x", None, nobody),
            (408, "slow", None, Verdict::Later),
            (413, "request size exceeds 52.4MiB limit", None, Verdict::Refused),
            (420, &format!("{limit}Mon, 14 Sep 2026 12:22:44 UTC"), None, upstream(1364)),
            (429, &format!("{limit}120 seconds"), None, upstream(120)),
            (429, "", Some("7"), upstream(7)),
            (429, &format!("{limit}120 seconds"), Some("Mon, 14 Sep 2026 12:00:09 GMT"), upstream(9)),
            (429, "slow down", Some("soon"), upstream(30)),
            (500, "Internal Server Error", None, Verdict::Later),
            (503, "", Some("60"), Verdict::Later),
        ] {
            let retry_after = retry_after.map(str::to_owned);
            let answer = Answer { status, text: text.into(), id: None, retry_after };
            assert_eq!(verdict_of_answer(&answer, 1, now), Weighed::Alike(expected), "{status} {text}");
        }
        let taken = Answer { status: 200, id: Some("<a@b>".into()), ..Answer::default() };
        assert_eq!(verdict_of_answer(&taken, 2, now), Weighed::Alike(Verdict::Taken));
        let text = "'to' parameter is not a valid address. please check documentation".to_owned();
        let wrong = Answer { status: 400, text, ..Answer::default() };
        assert_eq!(verdict_of_answer(&wrong, 2, now), Weighed::Apart);
    }

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
