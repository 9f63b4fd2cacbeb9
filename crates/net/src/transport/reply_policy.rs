//! What an upstream's reply means, over SMTP and over HTTP. All of this policy is here; an unknown reply is a temporary
//! failure.

use crate::transport::mailgun_api::Answer;
use mailtrail_mail::Timestamp;
use mailtrail_smtp::Response;
use mailtrail_trail::Words;
use mailtrail_trail::provider::{Provider, try_again_after};
use std::time::Duration;

/// Where in a transaction a reply came, and so what it can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The sender, or all mail of the account.
    Mail,
    /// One recipient.
    Rcpt {
        /// Whether all recipients of the transaction got this reply: then it may be about the account, too.
        alike: bool,
    },
    /// The message, or all mail of the account.
    Data,
    /// A part of the message, before its end.
    Message,
    /// The message.
    EndOfData,
}

/// What a reply means for the recipients it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The upstream took them.
    Taken,
    /// For good: never to be tried again.
    Refused,
    /// For good by this upstream, for a limit of its own: another may take them.
    Unable,
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
    /// The same, unless it is about this message after all: the replies to others show that.
    Suspected {
        /// How much this reply shows by itself.
        certainty: Certainty,
        /// The upstream's own wish.
        until: Option<Timestamp>,
    },
}

/// How much the reply to one message shows about its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// Nothing without another message's reply of the kind.
    Possible,
    /// The upstream is to be left alone, unless another message gets another reply.
    Likely,
    /// The upstream is to be left alone.
    Certain,
}

/// The meaning of a reply at `now`. What was refuted by replies to others (`is_refuted`) is about this message.
pub fn verdict(
    step: Step,
    response: &Response,
    provider: Provider,
    is_refuted: bool,
    now: Timestamp,
) -> Verdict {
    let text = response.text.to_ascii_lowercase();
    let until = || try_again_after(&response.text, now);
    if response.is_positive() {
        return Verdict::Taken;
    }
    if !is_refuted && step != (Step::Rcpt { alike: false }) {
        match account_refusal(step, response, provider, &text) {
            Some(Certainty::Certain) => return Verdict::Upstream { until: until() },
            Some(certainty) => return Verdict::Suspected { certainty, until: until() },
            None if response.code < 500 && is_throttle(response, &text) => {
                return Verdict::Throttled { until: until() };
            }
            None => {}
        }
    }
    match response.code {
        // It did not understand us, or answers something else: nobody's address is wrong.
        _ if response.is_confused() => Verdict::Later,
        // Recipients were taken with this login before: neither it nor the message is surely at fault.
        _ if is_about_login(response, provider, &text)
            && matches!(step, Step::Data | Step::Message | Step::EndOfData) =>
        {
            Verdict::Later
        }
        500..600 => Verdict::Refused,
        _ => Verdict::Later,
    }
}

/// Whether the account is refused and not the mail. MAIL, or every RCPT alike, may show that (RFC 4954 section 6); the
/// words are those of Mailgun's and Brevo's captures, at the steps where they were seen.
fn account_refusal(step: Step, response: &Response, provider: Provider, text: &str) -> Option<Certainty> {
    match (step, provider) {
        (Step::Mail, _) if is_about_login(response, provider, text) => Some(Certainty::Likely),
        (Step::Rcpt { .. }, _) if is_about_login(response, provider, text) => Some(Certainty::Possible),
        (_, Provider::Mailgun) => mailgun_refusal(step, response, text),
        (_, Provider::Brevo | Provider::Plain) => None,
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

/// Whether a refusal of a whole transaction says that it has too many recipients: fewer in each of several may be taken.
/// RFC 5321 section 4.5.3.1.10 gives 552 for that; without a status of its own it may mean the size, too.
pub fn is_too_many_recipients(refusal: &Words) -> bool {
    let Some(code @ (400..=420 | 422..600)) = refusal.code else { return false };
    let text = refusal.text.as_deref().unwrap_or_default().to_ascii_lowercase();
    match refusal.enhanced.as_deref() {
        Some("4.5.3" | "5.5.3") => true,
        None if code == 552 => !SIZE_WORDS.iter().any(|word| text.contains(word)),
        _ => text.contains("too many recipients"),
    }
}

/// Whether the login is missing, wrong or gone, or not allowed from here.
fn is_about_login(response: &Response, provider: Provider, text: &str) -> bool {
    let status = response.enhanced.as_deref();
    match (response.code, provider) {
        (454 | 530 | 534 | 535 | 538, _) | (525, Provider::Brevo) => true,
        (502, Provider::Brevo) => status == Some("5.7.0"),
        (550, Provider::Brevo) => status == Some("5.7.1") && text.starts_with("unauthorized ip address"),
        _ => false,
    }
}

/// Mailgun refuses a domain with 421 to DATA, in the words of its API's errors; a lost login with 550 to RCPT.
fn mailgun_refusal(step: Step, response: &Response, text: &str) -> Option<Certainty> {
    match step {
        Step::Message | Step::EndOfData => None,
        Step::Rcpt { .. } => {
            let lost_login = response.code == 550 && text.trim_end_matches('.') == "relaying denied";
            lost_login.then_some(Certainty::Possible)
        }
        Step::Mail | Step::Data if response.code == 421 && is_mailgun_account(text) => {
            // A sandbox's domain sends to authorized recipients, and refuses the others with these words.
            let of_recipients = text.contains("authorized recipients");
            Some(if of_recipients { Certainty::Likely } else { Certainty::Certain })
        }
        Step::Mail | Step::Data => {
            let address = text.starts_with("rejected: ip ") && text.contains(MAILGUN_ADDRESS);
            address.then_some(Certainty::Likely)
        }
    }
}

/// Whether Mailgun's words are about the domain or the account, over SMTP and over HTTP.
fn is_mailgun_account(text: &str) -> bool {
    let domain = text.starts_with("domain ") && text.contains(" is not allowed to send");
    domain || MAILGUN_ACCOUNT.iter().any(|phrase| text.contains(phrase))
}

/// What the answer to a message over HTTP means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighed {
    /// The same for everybody it is about.
    Alike(Verdict),
    /// The upstream had the whole message and did not clearly say no, so it may have taken it; for everybody else the
    /// answer means this.
    Unclear(Verdict),
    /// An address is at fault, and the answer does not say whose: each half is to be tried on its own.
    Apart,
}

/// The meaning of an answer to a message for so many `recipients` at `now`. What is about account, key or address of the
/// API, or about how we ask, is an operator's matter: it is the same for every message. Only what is about the message
/// itself is for good (400, 413); any other 4xx is a clear no for now. A gateway's failure (5xx), a success without an
/// id and a redirection leave open whether the message was taken.
pub fn verdict_of_answer(answer: &Answer, recipients: usize, now: Timestamp) -> Weighed {
    let wish = || retry_after(answer, now).or_else(|| try_again_after(&answer.text, now));
    let text = answer.text.to_ascii_lowercase();
    let unclear = |verdict| if answer.whole { Weighed::Unclear(verdict) } else { Weighed::Alike(verdict) };
    Weighed::Alike(match answer.status {
        200..300 if answer.id.is_some() => Verdict::Taken,
        // A wrong path at Mailgun's is greeted so.
        200..300 if text == "mailgun magnificent api" => Verdict::Upstream { until: None },
        // Nothing was done where the request is to be made again elsewhere (RFC 9110 section 15.4).
        307 | 308 => Verdict::Upstream { until: None },
        200..400 => return unclear(Verdict::Upstream { until: None }),
        400 if is_mailgun_account(&text) => Verdict::Upstream { until: wish() },
        400 | 422 if recipients > 1 && text.contains("is not a valid address") => return Weighed::Apart,
        422 if text.contains("is not a valid address") => Verdict::Refused,
        400 => Verdict::Refused,
        413 => Verdict::Unable,
        420 | 429 => Verdict::Upstream { until: wish().or(Some(now.after(LIMIT))) },
        401..=407 | 410..=412 | 414..=417 | 426 | 428 | 431 | 501 | 505 | 511 => {
            Verdict::Upstream { until: wish() }
        }
        507 => Verdict::Later,
        500..600 => return unclear(Verdict::Later),
        _ => Verdict::Later,
    })
}

/// Whether a refusal of a message is for a limit of the upstream's own: its size, or what SMTP's extensions it has. The
/// same message may go by another upstream.
pub fn is_own_limit(response: &Response) -> bool {
    let limits = ["5.3.4", "5.6.3", "5.6.7"];
    response.code == 555 || response.enhanced.as_deref().is_some_and(|status| limits.contains(&status))
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

const SIZE_WORDS: [&str; 3] = ["size", "large", "big"];
const MAILGUN_ACCOUNT: [&str; 3] = [
    "limit exceeded, try again after ",
    "domain is unverified and requires dns configuration",
    "activate your mailgun account",
];
const MAILGUN_ADDRESS: &str = "can't be used to send the message";
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

    const LIKELY: Verdict = Verdict::Suspected { certainty: Certainty::Likely, until: None };
    const POSSIBLE: Verdict = Verdict::Suspected { certainty: Certainty::Possible, until: None };
    const ALL: Step = Step::Rcpt { alike: true };
    const ONE: Step = Step::Rcpt { alike: false };

    fn meaning(step: Step, provider: Provider, line: &str) -> Verdict {
        let mut reader = mailtrail_smtp::ResponseReader::default();
        verdict(step, &reader.line(line.as_bytes()).unwrap().unwrap(), provider, false, now())
    }

    /// What a reply means wherever it comes.
    #[track_caller]
    fn check(rows: &[(Provider, &str, Verdict)]) {
        for (provider, line, expected) in rows {
            for step in [Step::Mail, ALL, ONE, Step::Data, Step::EndOfData] {
                assert_eq!(meaning(step, *provider, line), *expected, "{provider:?} {step:?}: {line}");
            }
        }
    }

    /// What it means at MAIL, at every RCPT alike, at one of several, at DATA, and at the end of data.
    #[track_caller]
    fn check_steps(rows: &[(Provider, &str, [Verdict; 5])]) {
        for (provider, line, expected) in rows {
            let found = [Step::Mail, ALL, ONE, Step::Data, Step::EndOfData]
                .map(|step| meaning(step, *provider, line));
            assert_eq!(found, *expected, "{provider:?}: {line}");
        }
    }

    /// RFC 5321 section 4.2.1.
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
        ]);
    }

    /// RFC 4954 section 6; Postfix says 454 4.7.1 of one recipient.
    #[test]
    fn a_login_is_missed_at_mail_or_at_every_recipient() {
        use Verdict::{Later, Refused};
        for provider in [Plain, Mailgun, Brevo] {
            check_steps(&[
                (provider, "535 5.7.8 no", [LIKELY, POSSIBLE, Refused, Later, Later]),
                (provider, "530 5.7.0 Authentication required", [LIKELY, POSSIBLE, Refused, Later, Later]),
                (provider, "454 4.7.1 Relay access denied", [LIKELY, POSSIBLE, Later, Later, Later]),
            ]);
        }
    }

    #[test]
    fn what_others_refuted_is_about_the_message() {
        let until = Some(now().after(Duration::from_secs(60)));
        for (step, line, believed, refuted) in [
            (Step::Mail, "530 5.7.0 Authentication required", LIKELY, Verdict::Refused),
            (ALL, "454 4.7.1 Relay access denied", POSSIBLE, Verdict::Later),
            (ALL, "550 5.7.1 Relaying denied", POSSIBLE, Verdict::Refused),
            (
                Step::Data,
                "421 bytes limit exceeded, try again after 60 seconds",
                Verdict::Upstream { until },
                Verdict::Later,
            ),
            (
                Step::EndOfData,
                "451 slow down, try again after 60 seconds",
                Verdict::Throttled { until },
                Verdict::Later,
            ),
        ] {
            let response = mailtrail_smtp::ResponseReader::default().line(line.as_bytes()).unwrap().unwrap();
            assert_eq!(verdict(step, &response, Mailgun, false, now()), believed, "{line}");
            assert_eq!(verdict(step, &response, Mailgun, true, now()), refuted, "{line}");
        }
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
        for (line, expected) in [
            (
                "421 Domain mg.example.com is not allowed to send: recipient limit exceeded, try again after Mon, 14 Sep 2026 12:22:44 UTC",
                until(1364),
            ),
            (
                "421 Domain mg.example.com is not allowed to send: request limit exceeded, try again after 120 seconds",
                until(120),
            ),
            ("421 account-requests-per-sec limit exceeded, try again after 1 second.", until(1)),
            ("421 bytes limit exceeded, Try again after 120 seconds", until(120)),
            (
                "421 Domain mg.example.com is not allowed to send: Sandbox subdomains are for test purposes only. Please add your own domain or add the address to authorized recipients in Account Settings.",
                LIKELY,
            ),
            (
                "421 Domain mg.example.com is not allowed to send: Free accounts are for test purposes only.",
                UPSTREAM,
            ),
            (
                "421 Domain x is not allowed to send: The domain is unverified and requires DNS configuration.",
                UPSTREAM,
            ),
            ("421 Please activate your Mailgun account.", UPSTREAM),
            ("550 Rejected: IP 192.0.2.1 can't be used to send the message", LIKELY),
            ("421 See you later", Verdict::Later),
            ("550 5.1.1 no such user", Verdict::Refused),
        ] {
            for step in [Step::Mail, Step::Data] {
                assert_eq!(meaning(step, Mailgun, line), expected, "{step:?} {line}");
            }
            let of_one = [meaning(ONE, Mailgun, line), meaning(Step::EndOfData, Mailgun, line)];
            assert!(of_one.iter().all(|one| [Verdict::Later, Verdict::Refused].contains(one)), "{line}");
        }
        let lost_login = "550 5.7.1 Relaying denied";
        assert_eq!([ALL, ONE].map(|step| meaning(step, Mailgun, lost_login)), [POSSIBLE, Verdict::Refused]);
    }

    /// Words of the kind at other steps, in other codes, or in other sentences.
    #[test]
    fn words_that_accounts_share_with_messages_are_about_the_message() {
        for provider in [Mailgun, Brevo, Plain] {
            check(&[
                (provider, "550 5.1.2 Domain not found", Verdict::Refused),
                (provider, "552 5.3.4 Message size limit exceeded", Verdict::Refused),
                (provider, "550 5.7.1 You are not allowed to send to this list", Verdict::Refused),
                (provider, "550 5.7.1 <a@b>: Relaying denied", Verdict::Refused),
                (provider, "554 5.7.1 the attachment can't be used to send the message", Verdict::Refused),
                (provider, "554 5.7.1 no unauthorized ip address in a link", Verdict::Refused),
                (provider, "452 4.2.2 mailbox limit exceeded", Verdict::Later),
            ]);
        }
    }

    /// Brevo: swaks and Postfix captures; fluent-smtp#157 and supabase/agent-skills#133 for the account.
    #[test]
    fn brevos_refusals_of_an_account_hold_the_mail() {
        for line in [
            "525 5.7.1 Unauthorized IP address",
            "550 5.7.1 Unauthorized IP address",
            "502 5.7.0 Please authenticate first",
            "502 5.7.0 Your SMTP account is not yet activated",
        ] {
            let later = Verdict::Later;
            check_steps(&[(Brevo, line, [LIKELY, POSSIBLE, Verdict::Refused, later, later])]);
        }
        check(&[
            (Brevo, "250 2.0.0 OK: queued as <a@example.com>", Verdict::Taken),
            (Plain, "525 5.7.1 Unauthorized IP address", Verdict::Refused),
        ]);
    }

    /// RFC 3463 sections 3.5 and 3.8, the enhanced status registry, and what providers say: Gmail (4.7.28),
    /// Exchange (432 4.3.2), MailerSend (PlaceCal#2297).
    #[test]
    fn too_much_at_once_is_not_a_failure_like_others() {
        let wish = Verdict::Throttled { until: Some(now().after(Duration::from_secs(30))) };
        for (provider, line, expected) in [
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
        ] {
            for step in [Step::Mail, ALL, Step::Data, Step::EndOfData] {
                assert_eq!(meaning(step, provider, line), expected, "{step:?} {line}");
            }
            let of_one = if line.starts_with('4') { Verdict::Later } else { Verdict::Refused };
            assert_eq!(meaning(ONE, provider, line), of_one, "{line}");
        }
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
            let mut reader = mailtrail_smtp::ResponseReader::default();
            let response = reader.line(line.as_bytes()).unwrap().unwrap();
            assert_eq!(is_for_next_transaction(&response, true), expected, "{line}");
            assert!(!is_for_next_transaction(&response, false), "{line}");
        }
    }

    #[test]
    fn a_transaction_with_too_many_recipients_is_told_from_other_refusals() {
        for (code, enhanced, text, expected) in [
            (552, None, "Too many recipients", true),
            (552, Some("5.5.3"), "Too many recipients", true),
            (452, Some("4.5.3"), "Recipient limit reached", true),
            (452, None, "Too many recipients", true),
            (554, Some("5.7.1"), "Error: too many recipients in this message", true),
            (552, None, "Requested mail action aborted: exceeded storage allocation", true),
            (552, None, "Message size exceeds fixed limit", false),
            (552, Some("5.3.4"), "Message too big", false),
            (452, None, "Requested action not taken: insufficient system storage", false),
            (421, Some("4.5.3"), "Too many recipients", false),
            (554, Some("5.7.1"), "spam", false),
            (250, None, "no too many recipients", false),
        ] {
            let (enhanced, text) = (enhanced.map(str::to_owned), Some(text.to_owned()));
            let refusal = Words { code: Some(code), enhanced, text, ..Words::default() };
            assert_eq!(is_too_many_recipients(&refusal), expected, "{refusal:?}");
        }
        assert!(!is_too_many_recipients(&Words::default()));
    }

    #[test]
    fn answers_mean_what_they_say() {
        let now = Timestamp::from_seconds(1_789_387_200);
        let upstream = |seconds| Verdict::Upstream { until: Some(now.after(Duration::from_secs(seconds))) };
        let nobody = Verdict::Upstream { until: None };
        let limit = "Domain mg.example.com is not allowed to send: request limit exceeded, try again after ";
        for (status, text, retry_after, expected) in [
            (200, "Mailgun Magnificent API", None, nobody),
            (308, "Moved", None, nobody),
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
            (406, "", None, nobody),
            (409, "Conflict", None, Verdict::Later),
            (413, "request size exceeds 52.4MiB limit", None, Verdict::Unable),
            (415, "", None, nobody),
            (421, "Misdirected Request", None, Verdict::Later),
            (422, "Unprocessable Content", None, Verdict::Later),
            (422, "'to' parameter is not a valid address", None, Verdict::Refused),
            (499, "", None, Verdict::Later),
            (501, "Not Implemented", None, nobody),
            (507, "Insufficient Storage", None, Verdict::Later),
            (420, &format!("{limit}Mon, 14 Sep 2026 12:22:44 UTC"), None, upstream(1364)),
            (429, &format!("{limit}120 seconds"), None, upstream(120)),
            (429, "", Some("7"), upstream(7)),
            (429, &format!("{limit}120 seconds"), Some("Mon, 14 Sep 2026 12:00:09 GMT"), upstream(9)),
            (429, "slow down", Some("soon"), upstream(30)),
        ] {
            let retry_after = retry_after.map(str::to_owned);
            for whole in [true, false] {
                let (text, retry_after) = (text.to_owned(), retry_after.clone());
                let answer = Answer { status, text, retry_after, whole, ..Answer::default() };
                assert_eq!(
                    verdict_of_answer(&answer, 1, now),
                    Weighed::Alike(expected),
                    "{status} {answer:?}"
                );
            }
        }
        for (status, text, verdict) in [
            (200, "Queued. Thank you.", nobody),
            (204, "", nobody),
            (301, "Moved", nobody),
            (302, "", nobody),
            (500, "Internal Server Error", Verdict::Later),
            (502, "", Verdict::Later),
            (503, "", Verdict::Later),
            (504, "", Verdict::Later),
            (522, "", Verdict::Later),
        ] {
            let answer = Answer { status, text: text.into(), whole: true, ..Answer::default() };
            assert_eq!(verdict_of_answer(&answer, 1, now), Weighed::Unclear(verdict), "{status} {text}");
            let early = Answer { whole: false, ..answer };
            assert_eq!(verdict_of_answer(&early, 1, now), Weighed::Alike(verdict), "{status} {text}");
        }
        let taken = Answer { status: 200, id: Some("<a@b>".into()), ..Answer::default() };
        assert_eq!(verdict_of_answer(&taken, 2, now), Weighed::Alike(Verdict::Taken));
        let text = "'to' parameter is not a valid address. please check documentation".to_owned();
        let wrong = Answer { status: 400, text, ..Answer::default() };
        assert_eq!(verdict_of_answer(&wrong, 2, now), Weighed::Apart);
    }
}
