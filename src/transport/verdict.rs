//! What an upstream's reply means, over SMTP and over HTTP. All of this policy is here; an unknown reply is a temporary
//! failure.

use super::api::Answer;
use crate::clock::Timestamp;
use crate::provider::{Provider, try_again_after};
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
    /// For now, because so much comes at once: less of it helps.
    Throttled {
        /// The upstream's own wish.
        until: Option<Timestamp>,
    },
    /// Not these recipients but the account or the whole upstream is refused for now: leave it alone, until then
    /// if it said when.
    Upstream {
        /// The upstream's own wish.
        until: Option<Timestamp>,
    },
}

/// The meaning of a reply at `now`.
pub fn verdict(response: &Response, provider: Provider, now: Timestamp) -> Verdict {
    let text = response.text.to_ascii_lowercase();
    let until = || try_again_after(&response.text, now);
    match response.code {
        200..300 => Verdict::Taken,
        // The login is missing, wrong or gone: an operator's matter, never the mail's (RFC 4954 section 6).
        454 | 530 | 534 | 535 | 538 => Verdict::Upstream { until: None },
        _ if is_account_refusal(provider, response, &text) => Verdict::Upstream { until: until() },
        // It did not understand us, or answers something else: nobody's address is wrong.
        _ if response.is_confused() => Verdict::Later,
        500..600 => Verdict::Refused,
        _ if is_throttle(response, &text) => Verdict::Throttled { until: until() },
        _ => Verdict::Later,
    }
}

/// Whether the account is refused and not the mail, in whatever code that comes.
fn is_account_refusal(provider: Provider, response: &Response, text: &str) -> bool {
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    match provider {
        Provider::Mailgun => says(&MAILGUN_ACCOUNT),
        Provider::Brevo => {
            let unauthorized = response.code == 502 && response.enhanced.as_deref() == Some("5.7.0");
            response.code == 525 || unauthorized || says(&BREVO_ACCOUNT)
        }
        Provider::Plain => false,
    }
}

/// Whether a refusal of a recipient says no more than that this transaction has enough of them, once some were `taken`:
/// the others go in another (RFC 5321 section 4.5.3.1.10, by which 552 means the same as 452).
pub fn is_for_next_transaction(response: &Response, taken: bool) -> bool {
    taken
        && response.is_negative()
        && match response.enhanced.as_deref() {
            Some("4.5.3" | "5.5.3") => true,
            None if matches!(response.code, 452 | 552) => true,
            _ => response.text.to_ascii_lowercase().contains("too many recipients"),
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
    let text = answer.text.to_ascii_lowercase();
    Weighed::Alike(match answer.status {
        200..300 if answer.id.is_some() => Verdict::Taken,
        // Whoever answers so does not take mail: a wrong path at Mailgun's is greeted with 200.
        200..400 => Verdict::Upstream { until: None },
        400 if MAILGUN_ACCOUNT.iter().any(|phrase| text.contains(phrase)) => {
            Verdict::Upstream { until: wish() }
        }
        400 if recipients > 1 && text.contains("is not a valid address") => return Weighed::Apart,
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

/// Whether less mail at once is what the upstream wants. Too many recipients of one transaction are none: the rest
/// goes in the next (RFC 5321 section 4.5.3.1.10); neither is a full mailbox (4.2.2).
fn is_throttle(response: &Response, text: &str) -> bool {
    match response.enhanced.as_deref() {
        Some("4.4.5" | "4.7.28") => true,
        Some(status) if status.starts_with("4.2.") || status == "4.5.3" => false,
        _ => THROTTLES.iter().any(|phrase| text.contains(phrase)),
    }
}

/// Mailgun's refusals of a whole domain come as 421 to DATA, in the words of its API's errors 400, 403 and 429; a lost
/// login comes as 550 to RCPT.
const MAILGUN_ACCOUNT: [&str; 7] = [
    "is not allowed to send",
    "limit exceeded",
    "relaying denied",
    "domain is unverified",
    "activate your mailgun account",
    "domain not found",
    "can't be used to send the message",
];
const BREVO_ACCOUNT: [&str; 2] = ["account is not yet activated", "unauthorized ip address"];
const THROTTLES: [&str; 9] = [
    "rate limit",
    "throttl",
    "too many messages",
    "too many connections",
    "too many requests",
    "too many emails",
    "sending limit",
    "quota limit",
    "slow down",
];
/// How long a limit lasts that does not say so: those of Mailgun that say it are of seconds to minutes.
const LIMIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use Provider::{Brevo, Mailgun, Plain};

    const UPSTREAM: Verdict = Verdict::Upstream { until: None };
    const THROTTLED: Verdict = Verdict::Throttled { until: None };

    fn now() -> Timestamp {
        Timestamp::from_seconds(1_789_387_200)
    }

    fn meaning(provider: Provider, line: &str) -> Verdict {
        let mut reader = crate::smtp::ResponseReader::default();
        verdict(&reader.line(line.as_bytes()).unwrap().unwrap(), provider, now())
    }

    #[track_caller]
    fn check(rows: &[(Provider, &str, Verdict)]) {
        for (provider, line, expected) in rows {
            assert_eq!(meaning(*provider, line), *expected, "{provider:?}: {line}");
        }
    }

    /// RFC 5321 section 4.2.1 and RFC 4954 section 6.
    #[test]
    fn codes_mean_what_the_standards_say() {
        check(&[
            (Plain, "250 Great success", Verdict::Taken),
            (Plain, "550 no such user", Verdict::Refused),
            (Plain, "550 5.7.1 Relaying denied", Verdict::Refused),
            (Plain, "552 5.3.4 too big", Verdict::Refused),
            (Plain, "571 policy", Verdict::Refused),
            (Plain, "450 try again after lunch", Verdict::Later),
            (Plain, "421 4.3.2 closing", Verdict::Later),
            (Plain, "354 odd here", Verdict::Later),
            (Plain, "535 5.7.8 Authentication failed", UPSTREAM),
            (Plain, "530 5.7.0 Authentication required", UPSTREAM),
            (Plain, "454 4.7.0 Temporary authentication failure", UPSTREAM),
        ]);
    }

    #[test]
    fn a_server_that_lost_the_thread_bounces_nobody() {
        check(&[
            (Plain, "503 5.5.1 Error: need MAIL command", Verdict::Later),
            (Plain, "503 nobody", Verdict::Later),
            (Plain, "500 unrecognised", Verdict::Later),
            (Plain, "502 5.5.2 what", Verdict::Later),
            (Plain, "500 5.7.1 spam", Verdict::Refused),
            (Plain, "501 5.1.3 bad address", Verdict::Refused),
        ]);
    }

    /// Captures of Mailgun's refusals (coopdevs/timeoverflow#820, nodemailer, mailgun-java#50) and its API's errors.
    #[test]
    fn mailguns_refusals_of_a_domain_hold_the_mail() {
        let until = |seconds| Verdict::Upstream { until: Some(now().after(Duration::from_secs(seconds))) };
        check(&[
            (Mailgun, "550 5.7.1 Relaying denied", UPSTREAM),
            (Mailgun, "535 5.7.0 Mailgun is not loving your login or password", UPSTREAM),
            (
                Mailgun,
                "421 Domain mg.example.com is not allowed to send: recipient limit exceeded, try again after Mon, 14 Sep 2026 12:22:44 UTC",
                until(1364),
            ),
            (
                Mailgun,
                "421 Domain mg.example.com is not allowed to send: request limit exceeded, try again after 120 seconds",
                until(120),
            ),
            (Mailgun, "421 account-requests-per-sec limit exceeded, try again after 1 second.", until(1)),
            (Mailgun, "421 bytes limit exceeded, Try again after 120 seconds", until(120)),
            (
                Mailgun,
                "421 Domain mg.example.com is not allowed to send: Sandbox subdomains are for test purposes only. Please add your own domain or add the address to authorized recipients in Account Settings.",
                UPSTREAM,
            ),
            (
                Mailgun,
                "421 Domain mg.example.com is not allowed to send: Free accounts are for test purposes only.",
                UPSTREAM,
            ),
            (
                Mailgun,
                "421 Domain x is not allowed to send: The domain is unverified and requires DNS configuration.",
                UPSTREAM,
            ),
            (Mailgun, "421 Please activate your Mailgun account.", UPSTREAM),
            (Mailgun, "550 Rejected: IP 192.0.2.1 can't be used to send the message", UPSTREAM),
            (Mailgun, "421 See you later", Verdict::Later),
            (Mailgun, "550 5.1.1 no such user", Verdict::Refused),
        ]);
    }

    /// Brevo: swaks and Postfix captures; fluent-smtp#157 and supabase/agent-skills#133 for the account.
    #[test]
    fn brevos_refusals_of_an_account_hold_the_mail() {
        check(&[
            (Brevo, "535 5.7.8 Authentication failed", UPSTREAM),
            (Brevo, "525 5.7.1 Unauthorized IP address", UPSTREAM),
            (Brevo, "550 5.7.1 Unauthorized IP address", UPSTREAM),
            (Brevo, "502 5.7.0 Please authenticate first", UPSTREAM),
            (Brevo, "502 5.7.0 Your SMTP account is not yet activated", UPSTREAM),
            (Brevo, "250 2.0.0 OK: queued as <a@example.com>", Verdict::Taken),
            (Plain, "525 5.7.1 Unauthorized IP address", Verdict::Refused),
        ]);
    }

    /// RFC 3463 sections 3.5 and 3.8, the enhanced status registry, and what providers say: Gmail (4.7.28),
    /// Exchange (432 4.3.2), MailerSend (PlaceCal#2297).
    #[test]
    fn too_much_at_once_is_not_a_failure_like_others() {
        let wish = Verdict::Throttled { until: Some(now().after(Duration::from_secs(30))) };
        check(&[
            (Plain, "450 4.7.1 Error: too many messages from 192.0.2.1", THROTTLED),
            (Plain, "421 4.7.0 Error: too many connections from 192.0.2.1", THROTTLED),
            (Plain, "421 4.7.28 Our system has detected an unusual amount of mail", THROTTLED),
            (Plain, "451 4.4.5 system congestion", THROTTLED),
            (Plain, "450 Requested action aborted: rate limit, try again after 30 seconds", wish),
            (Plain, "450 Your account reached its email quota limit. #MS42204", THROTTLED),
            (Brevo, "421 4.7.0 Throttled, please slow down", THROTTLED),
            (Plain, "452 4.5.3 Error: too many recipients", Verdict::Later),
            (Plain, "452 4.2.2 quota limit of this mailbox", Verdict::Later),
            (Plain, "450 4.7.1 Greylisted", Verdict::Later),
            (Plain, "550 5.7.1 sending limit", Verdict::Refused),
        ]);
    }

    #[test]
    fn enough_recipients_are_no_refusal_once_some_were_taken() {
        for (line, expected) in [
            ("552 Too many recipients", true),
            ("552 5.5.3 Too many recipients", true),
            ("452 4.5.3 Recipient limit reached", true),
            ("550 5.7.1 Too many recipients in this transaction", true),
            ("552 Requested mail action aborted: exceeded storage allocation", true),
            ("552 5.2.2 mailbox full", false),
            ("452 4.2.2 mailbox full", false),
            ("452 4.3.1 insufficient system storage", false),
            ("550 5.1.1 no such user", false),
            ("550 no", false),
            ("250 2.1.5 ok", false),
        ] {
            let mut reader = crate::smtp::ResponseReader::default();
            let response = reader.line(line.as_bytes()).unwrap().unwrap();
            assert_eq!(is_for_next_transaction(&response, true), expected, "{line}");
            assert!(!is_for_next_transaction(&response, false), "{line}");
        }
    }

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
}
