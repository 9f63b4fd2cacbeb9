//! Classifies an upstream's replies over SMTP and HTTP. The whole policy is here; an unknown reply is a temporary
//! failure.

use crate::transport::mailgun_api::ApiResponse;
use mailtrail_mail::Timestamp;
use mailtrail_smtp::Response;
use mailtrail_trail::Diagnostic;
use mailtrail_trail::provider::{Provider, parse_retry_after};
use std::time::Duration;

/// Position of a reply in a transaction, which determines its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The sender, or all mail of the account.
    Mail,
    /// One recipient.
    Rcpt {
        /// Whether all recipients of the transaction got this reply: then it may be about the account, too.
        is_same_for_all: bool,
    },
    /// The message, or all mail of the account.
    Data,
    /// A part of the message, before its end.
    Body,
    /// The message.
    EndOfData,
}

/// Classification of a reply for its recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyClass {
    /// The upstream took them.
    Accepted,
    /// For good: never to be tried again.
    Permanent,
    /// Permanent for this upstream because of a limit of its own; another may accept them.
    Unsupported,
    /// For now.
    Temporary,
    /// Transient, because of the rate.
    Throttled {
        /// Time requested by the upstream.
        until: Option<Timestamp>,
    },
    /// The account or the whole upstream rejects for now, not these recipients; pause it, until a time if the reply
    /// names one.
    AccountRefused {
        /// Time requested by the upstream.
        until: Option<Timestamp>,
    },
    /// Like `AccountRefused`, but the reply may concern this message only, which the replies to other messages show.
    AccountSuspected {
        /// How much this reply shows by itself.
        certainty: Certainty,
        /// Time requested by the upstream.
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

/// Classifies a reply at `now`. A text that replies to other messages have refuted (`is_refuted`) concerns this
/// message.
pub fn classify_reply(
    step: Step,
    response: &Response,
    provider: Provider,
    is_refuted: bool,
    now: Timestamp,
) -> ReplyClass {
    let text = response.text.to_ascii_lowercase();
    let until = || parse_retry_after(&response.text, now);
    if response.is_positive() {
        return ReplyClass::Accepted;
    }
    if !is_refuted && step != (Step::Rcpt { is_same_for_all: false }) {
        match classify_account_refusal(step, response, provider, &text) {
            Some(Certainty::Certain) => return ReplyClass::AccountRefused { until: until() },
            Some(certainty) => return ReplyClass::AccountSuspected { certainty, until: until() },
            None if response.code < 500 && is_throttling(response, &text) => {
                return ReplyClass::Throttled { until: until() };
            }
            None => {}
        }
    }
    match response.code {
        // The server did not understand the command, or is out of step; the address is not at fault.
        _ if response.is_command_error() => ReplyClass::Temporary,
        // Recipients were taken with this login before: neither it nor the message is surely at fault.
        _ if is_login_refusal(response, provider, &text)
            && matches!(step, Step::Data | Step::Body | Step::EndOfData) =>
        {
            ReplyClass::Temporary
        }
        500..600 => ReplyClass::Permanent,
        _ => ReplyClass::Temporary,
    }
}

/// Returns whether the account is rejected, not the message. MAIL, or every RCPT alike, may show that (RFC 4954 section
/// 6); the texts are those observed at Mailgun and Brevo, at the same steps.
fn classify_account_refusal(
    step: Step,
    response: &Response,
    provider: Provider,
    text: &str,
) -> Option<Certainty> {
    match (step, provider) {
        (Step::Mail, _) if is_login_refusal(response, provider, text) => Some(Certainty::Likely),
        (Step::Rcpt { .. }, _) if is_login_refusal(response, provider, text) => Some(Certainty::Possible),
        (_, Provider::Mailgun) => classify_mailgun_refusal(step, response, text),
        (_, Provider::Brevo | Provider::Plain) => None,
    }
}

/// Returns whether a rejected recipient, after others were `taken`, only belongs to the next transaction (RFC 5321
/// section 4.5.3.1.10, where 552 means the same as 452).
pub fn is_for_next_transaction(response: &Response, taken: bool) -> bool {
    taken
        && response.is_negative()
        && match response.enhanced_status.as_deref() {
            Some("4.5.3" | "5.5.3") => true,
            None if matches!(response.code, 452 | 552) => true,
            _ => response.text.to_ascii_lowercase().contains("too many recipients"),
        }
}

/// Returns whether a rejected transaction has too many recipients, so that smaller ones may be accepted. RFC 5321
/// section 4.5.3.1.10 uses 552; without an enhanced status it may also mean the size.
pub fn is_too_many_recipients(refusal: &Diagnostic) -> bool {
    let Some(code @ (400..=420 | 422..600)) = refusal.code else { return false };
    let text = refusal.text.as_deref().unwrap_or_default().to_ascii_lowercase();
    match refusal.enhanced_status.as_deref() {
        Some("4.5.3" | "5.5.3") => true,
        None if code == 552 => !SIZE_WORDS.iter().any(|word| text.contains(word)),
        _ => text.contains("too many recipients"),
    }
}

/// Whether the login is missing, wrong or gone, or not allowed from here.
fn is_login_refusal(response: &Response, provider: Provider, text: &str) -> bool {
    let status = response.enhanced_status.as_deref();
    match (response.code, provider) {
        (454 | 530 | 534 | 535 | 538, _) | (525, Provider::Brevo) => true,
        (502, Provider::Brevo) => status == Some("5.7.0"),
        (550, Provider::Brevo) => status == Some("5.7.1") && text.starts_with("unauthorized ip address"),
        _ => false,
    }
}

/// Mailgun rejects a domain with 421 to DATA, with the texts of its API, and a lost login with 550 to RCPT.
fn classify_mailgun_refusal(step: Step, response: &Response, text: &str) -> Option<Certainty> {
    match step {
        Step::Body | Step::EndOfData => None,
        Step::Rcpt { .. } => {
            let lost_login = response.code == 550 && text.trim_end_matches('.') == "relaying denied";
            lost_login.then_some(Certainty::Possible)
        }
        Step::Mail | Step::Data if response.code == 421 && is_mailgun_account_error(text) => {
            // A sandbox domain sends to authorized recipients only; this text rejects the others.
            let of_recipients = text.contains("authorized recipients");
            Some(if of_recipients { Certainty::Likely } else { Certainty::Certain })
        }
        Step::Mail | Step::Data => {
            let address = text.starts_with("rejected: ip ") && text.contains(MAILGUN_IP_PHRASE);
            address.then_some(Certainty::Likely)
        }
    }
}

/// Returns whether a text of Mailgun concerns the domain or the account, over SMTP and HTTP.
fn is_mailgun_account_error(text: &str) -> bool {
    let domain = text.starts_with("domain ") && text.contains(" is not allowed to send");
    domain || MAILGUN_ACCOUNT_PHRASES.iter().any(|phrase| text.contains(phrase))
}

/// Classification of the response to a message over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiVerdict {
    /// One class for all recipients.
    Uniform(ReplyClass),
    /// The upstream had the whole message and did not clearly reject it, so it may have accepted it; otherwise this
    /// class applies.
    Ambiguous(ReplyClass),
    /// One of the addresses is invalid, but the response does not name it: each half is sent separately.
    Bisect,
}

/// Classifies the response to a message with this number of `recipients` at `now`. Errors of account, key, URL or
/// request form need an operator: they affect every message. Errors of the message itself (400, 413) are permanent; any
/// other 4xx is a clear transient rejection. A gateway error (5xx), a success without an id and a redirect leave the
/// result open.
pub fn classify_api_response(answer: &ApiResponse, recipients: usize, now: Timestamp) -> ApiVerdict {
    let wish = || retry_after_header(answer, now).or_else(|| parse_retry_after(&answer.text, now));
    let text = answer.text.to_ascii_lowercase();
    let unclear = |verdict| {
        if answer.request_sent { ApiVerdict::Ambiguous(verdict) } else { ApiVerdict::Uniform(verdict) }
    };
    ApiVerdict::Uniform(match answer.status {
        200..300 if answer.id.is_some() => ReplyClass::Accepted,
        // A wrong path at Mailgun's is greeted so.
        200..300 if text == "mailgun magnificent api" => ReplyClass::AccountRefused { until: None },
        // Nothing was done where the request is to be made again elsewhere (RFC 9110 section 15.4).
        307 | 308 => ReplyClass::AccountRefused { until: None },
        200..400 => return unclear(ReplyClass::AccountRefused { until: None }),
        400 if is_mailgun_account_error(&text) => ReplyClass::AccountRefused { until: wish() },
        400 | 422 if recipients > 1 && text.contains("is not a valid address") => return ApiVerdict::Bisect,
        422 if text.contains("is not a valid address") => ReplyClass::Permanent,
        400 => ReplyClass::Permanent,
        413 => ReplyClass::Unsupported,
        420 | 429 => {
            ReplyClass::AccountRefused { until: wish().or(Some(now.saturating_add(DEFAULT_THROTTLE))) }
        }
        401..=407 | 410..=412 | 414..=417 | 426 | 428 | 431 | 501 | 505 | 511 => {
            ReplyClass::AccountRefused { until: wish() }
        }
        507 => ReplyClass::Temporary,
        500..600 => return unclear(ReplyClass::Temporary),
        _ => ReplyClass::Temporary,
    })
}

/// Returns whether a message exceeds a limit of the upstream: its size or its SMTP extensions. Another upstream may
/// accept it.
pub fn is_upstream_limit(response: &Response) -> bool {
    let limits = ["5.3.4", "5.6.3", "5.6.7"];
    response.code == 555 || response.enhanced_status.as_deref().is_some_and(|status| limits.contains(&status))
}

/// Seconds or a date (RFC 9110 section 10.2.3).
fn retry_after_header(answer: &ApiResponse, now: Timestamp) -> Option<Timestamp> {
    let wish = answer.retry_after.as_deref()?.trim();
    let seconds = wish.parse().ok().map(|seconds| now.saturating_add(Duration::from_secs(seconds)));
    seconds.or_else(|| Timestamp::parse_rfc5322(wish))
}

/// Returns whether the upstream requests a lower rate. Too many recipients of a transaction do not count, because the
/// rest follows in the next (RFC 5321 section 4.5.3.1.10); nor does a full mailbox (4.2.2).
fn is_throttling(response: &Response, text: &str) -> bool {
    match response.enhanced_status.as_deref() {
        Some("4.4.5" | "4.7.28") => true,
        Some(status) if status.starts_with("4.2.") || status == "4.5.3" => false,
        _ => THROTTLE_PHRASES.iter().any(|phrase| text.contains(phrase)),
    }
}

const SIZE_WORDS: [&str; 3] = ["size", "large", "big"];
const MAILGUN_ACCOUNT_PHRASES: [&str; 3] = [
    "limit exceeded, try again after ",
    "domain is unverified and requires dns configuration",
    "activate your mailgun account",
];
const MAILGUN_IP_PHRASE: &str = "can't be used to send the message";
const THROTTLE_PHRASES: [&str; 9] = [
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
/// Duration of a throttling reply without one: Mailgun's range from seconds to minutes.
const DEFAULT_THROTTLE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use Provider::{Brevo, Mailgun, Plain};

    const ACCOUNT_REFUSED: ReplyClass = ReplyClass::AccountRefused { until: None };
    const THROTTLED: ReplyClass = ReplyClass::Throttled { until: None };

    fn test_time() -> Timestamp {
        Timestamp::from_secs(1_789_387_200)
    }

    const LIKELY: ReplyClass = ReplyClass::AccountSuspected { certainty: Certainty::Likely, until: None };
    const POSSIBLE: ReplyClass = ReplyClass::AccountSuspected { certainty: Certainty::Possible, until: None };
    const EVERY_RCPT: Step = Step::Rcpt { is_same_for_all: true };
    const ONE_RCPT: Step = Step::Rcpt { is_same_for_all: false };

    fn classify_line(step: Step, provider: Provider, line: &str) -> ReplyClass {
        let mut reader = mailtrail_smtp::ResponseReader::default();
        classify_reply(
            step,
            &reader.push_line(line.as_bytes()).unwrap().unwrap(),
            provider,
            false,
            test_time(),
        )
    }

    /// What a reply means wherever it comes.
    #[track_caller]
    fn check_all_steps(rows: &[(Provider, &str, ReplyClass)]) {
        for (provider, line, expected) in rows {
            for step in [Step::Mail, EVERY_RCPT, ONE_RCPT, Step::Data, Step::EndOfData] {
                assert_eq!(classify_line(step, *provider, line), *expected, "{provider:?} {step:?}: {line}");
            }
        }
    }

    /// What it means at MAIL, at every RCPT alike, at one of several, at DATA, and at the end of data.
    #[track_caller]
    fn check_steps(rows: &[(Provider, &str, [ReplyClass; 5])]) {
        for (provider, line, expected) in rows {
            let found = [Step::Mail, EVERY_RCPT, ONE_RCPT, Step::Data, Step::EndOfData]
                .map(|step| classify_line(step, *provider, line));
            assert_eq!(found, *expected, "{provider:?}: {line}");
        }
    }

    /// RFC 5321 section 4.2.1.
    #[test]
    fn classifies_codes_by_rfc_5321() {
        check_all_steps(&[
            (Plain, "250 Great success", ReplyClass::Accepted),
            (Plain, "550 no such user", ReplyClass::Permanent),
            (Plain, "550 5.7.1 Relaying denied", ReplyClass::Permanent),
            (Plain, "552 5.3.4 too big", ReplyClass::Permanent),
            (Plain, "571 policy", ReplyClass::Permanent),
            (Plain, "450 try again after lunch", ReplyClass::Temporary),
            (Plain, "421 4.3.2 closing", ReplyClass::Temporary),
            (Plain, "354 odd here", ReplyClass::Temporary),
        ]);
    }

    /// RFC 4954 section 6; Postfix says 454 4.7.1 of one recipient.
    #[test]
    fn missing_login_is_suspected_at_mail_or_every_rcpt() {
        use ReplyClass::{Permanent, Temporary};
        for provider in [Plain, Mailgun, Brevo] {
            check_steps(&[
                (provider, "535 5.7.8 no", [LIKELY, POSSIBLE, Permanent, Temporary, Temporary]),
                (
                    provider,
                    "530 5.7.0 Authentication required",
                    [LIKELY, POSSIBLE, Permanent, Temporary, Temporary],
                ),
                (
                    provider,
                    "454 4.7.1 Relay access denied",
                    [LIKELY, POSSIBLE, Temporary, Temporary, Temporary],
                ),
            ]);
        }
    }

    #[test]
    fn refuted_refusal_applies_to_the_message() {
        let until = Some(test_time().saturating_add(Duration::from_secs(60)));
        for (step, line, believed, refuted) in [
            (Step::Mail, "530 5.7.0 Authentication required", LIKELY, ReplyClass::Permanent),
            (EVERY_RCPT, "454 4.7.1 Relay access denied", POSSIBLE, ReplyClass::Temporary),
            (EVERY_RCPT, "550 5.7.1 Relaying denied", POSSIBLE, ReplyClass::Permanent),
            (
                Step::Data,
                "421 bytes limit exceeded, try again after 60 seconds",
                ReplyClass::AccountRefused { until },
                ReplyClass::Temporary,
            ),
            (
                Step::EndOfData,
                "451 slow down, try again after 60 seconds",
                ReplyClass::Throttled { until },
                ReplyClass::Temporary,
            ),
        ] {
            let response =
                mailtrail_smtp::ResponseReader::default().push_line(line.as_bytes()).unwrap().unwrap();
            assert_eq!(classify_reply(step, &response, Mailgun, false, test_time()), believed, "{line}");
            assert_eq!(classify_reply(step, &response, Mailgun, true, test_time()), refuted, "{line}");
        }
    }

    #[test]
    fn command_errors_are_temporary() {
        check_all_steps(&[
            (Plain, "503 5.5.1 Error: need MAIL command", ReplyClass::Temporary),
            (Plain, "503 nobody", ReplyClass::Temporary),
            (Plain, "500 unrecognised", ReplyClass::Temporary),
            (Plain, "502 5.5.2 what", ReplyClass::Temporary),
            (Plain, "500 5.7.1 spam", ReplyClass::Permanent),
            (Plain, "501 5.1.3 bad address", ReplyClass::Permanent),
        ]);
    }

    /// Captures of Mailgun's refusals (coopdevs/timeoverflow#820, nodemailer, mailgun-java#50) and its API's errors.
    #[test]
    fn mailgun_domain_refusal_is_an_account_refusal() {
        let until = |seconds| ReplyClass::AccountRefused {
            until: Some(test_time().saturating_add(Duration::from_secs(seconds))),
        };
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
                ACCOUNT_REFUSED,
            ),
            (
                "421 Domain x is not allowed to send: The domain is unverified and requires DNS configuration.",
                ACCOUNT_REFUSED,
            ),
            ("421 Please activate your Mailgun account.", ACCOUNT_REFUSED),
            ("550 Rejected: IP 192.0.2.1 can't be used to send the message", LIKELY),
            ("421 See you later", ReplyClass::Temporary),
            ("550 5.1.1 no such user", ReplyClass::Permanent),
        ] {
            for step in [Step::Mail, Step::Data] {
                assert_eq!(classify_line(step, Mailgun, line), expected, "{step:?} {line}");
            }
            let of_one =
                [classify_line(ONE_RCPT, Mailgun, line), classify_line(Step::EndOfData, Mailgun, line)];
            assert!(
                of_one.iter().all(|one| [ReplyClass::Temporary, ReplyClass::Permanent].contains(one)),
                "{line}"
            );
        }
        let lost_login = "550 5.7.1 Relaying denied";
        assert_eq!(
            [EVERY_RCPT, ONE_RCPT].map(|step| classify_line(step, Mailgun, lost_login)),
            [POSSIBLE, ReplyClass::Permanent]
        );
    }

    /// Words of the kind at other steps, in other codes, or in other sentences.
    #[test]
    fn similar_phrases_apply_to_the_message() {
        for provider in [Mailgun, Brevo, Plain] {
            check_all_steps(&[
                (provider, "550 5.1.2 Domain not found", ReplyClass::Permanent),
                (provider, "552 5.3.4 Message size limit exceeded", ReplyClass::Permanent),
                (provider, "550 5.7.1 You are not allowed to send to this list", ReplyClass::Permanent),
                (provider, "550 5.7.1 <a@b>: Relaying denied", ReplyClass::Permanent),
                (
                    provider,
                    "554 5.7.1 the attachment can't be used to send the message",
                    ReplyClass::Permanent,
                ),
                (provider, "554 5.7.1 no unauthorized ip address in a link", ReplyClass::Permanent),
                (provider, "452 4.2.2 mailbox limit exceeded", ReplyClass::Temporary),
            ]);
        }
    }

    /// Brevo: swaks and Postfix captures; fluent-smtp#157 and supabase/agent-skills#133 for the account.
    #[test]
    fn brevo_account_refusal_is_suspected() {
        for line in [
            "525 5.7.1 Unauthorized IP address",
            "550 5.7.1 Unauthorized IP address",
            "502 5.7.0 Please authenticate first",
            "502 5.7.0 Your SMTP account is not yet activated",
        ] {
            let later = ReplyClass::Temporary;
            check_steps(&[(Brevo, line, [LIKELY, POSSIBLE, ReplyClass::Permanent, later, later])]);
        }
        check_all_steps(&[
            (Brevo, "250 2.0.0 OK: queued as <a@example.com>", ReplyClass::Accepted),
            (Plain, "525 5.7.1 Unauthorized IP address", ReplyClass::Permanent),
        ]);
    }

    /// RFC 3463 sections 3.5 and 3.8, the enhanced status registry, and what providers say: Gmail (4.7.28),
    /// Exchange (432 4.3.2), MailerSend (PlaceCal#2297).
    #[test]
    fn recognizes_throttling_replies() {
        let wish = ReplyClass::Throttled { until: Some(test_time().saturating_add(Duration::from_secs(30))) };
        for (provider, line, expected) in [
            (Plain, "450 4.7.1 Error: too many messages from 192.0.2.1", THROTTLED),
            (Plain, "421 4.7.0 Error: too many connections from 192.0.2.1", THROTTLED),
            (Plain, "421 4.7.28 Our system has detected an unusual amount of mail", THROTTLED),
            (Plain, "451 4.4.5 system congestion", THROTTLED),
            (Plain, "450 Requested action aborted: rate limit, try again after 30 seconds", wish),
            (Plain, "450 Your account reached its email quota limit. #MS42204", THROTTLED),
            (Brevo, "421 4.7.0 Throttled, please slow down", THROTTLED),
            (Plain, "452 4.5.3 Error: too many recipients", ReplyClass::Temporary),
            (Plain, "452 4.2.2 quota limit of this mailbox", ReplyClass::Temporary),
            (Plain, "450 4.7.1 Greylisted", ReplyClass::Temporary),
            (Plain, "550 5.7.1 sending limit", ReplyClass::Permanent),
        ] {
            for step in [Step::Mail, EVERY_RCPT, Step::Data, Step::EndOfData] {
                assert_eq!(classify_line(step, provider, line), expected, "{step:?} {line}");
            }
            let of_one = if line.starts_with('4') { ReplyClass::Temporary } else { ReplyClass::Permanent };
            assert_eq!(classify_line(ONE_RCPT, provider, line), of_one, "{line}");
        }
    }

    #[test]
    fn too_many_recipients_is_no_refusal_after_first_accepted() {
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
            let response = reader.push_line(line.as_bytes()).unwrap().unwrap();
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
            let (enhanced_status, text) = (enhanced.map(str::to_owned), Some(text.to_owned()));
            let refusal = Diagnostic { code: Some(code), enhanced_status, text, ..Diagnostic::default() };
            assert_eq!(is_too_many_recipients(&refusal), expected, "{refusal:?}");
        }
        assert!(!is_too_many_recipients(&Diagnostic::default()));
    }

    #[test]
    fn classifies_api_responses() {
        let now = Timestamp::from_secs(1_789_387_200);
        let upstream = |seconds| ReplyClass::AccountRefused {
            until: Some(now.saturating_add(Duration::from_secs(seconds))),
        };
        let nobody = ReplyClass::AccountRefused { until: None };
        let limit = "Domain mg.example.com is not allowed to send: request limit exceeded, try again after ";
        for (status, text, retry_after, expected) in [
            (200, "Mailgun Magnificent API", None, nobody),
            (308, "Moved", None, nobody),
            (400, "to parameter is missing", None, ReplyClass::Permanent),
            (
                400,
                "'to' parameter is not a valid address. please check documentation",
                None,
                ReplyClass::Permanent,
            ),
            (400, "Domain x is not allowed to send: Free accounts are for test purposes only.", None, nobody),
            (401, "Forbidden", None, nobody),
            (402, "pay", None, nobody),
            (403, "Domain x is not allowed to send large batches yet", None, nobody),
            (404, "Domain not found: x", None, nobody),
            (408, "slow", None, ReplyClass::Temporary),
            (406, "", None, nobody),
            (409, "Conflict", None, ReplyClass::Temporary),
            (413, "request size exceeds 52.4MiB limit", None, ReplyClass::Unsupported),
            (415, "", None, nobody),
            (421, "Misdirected Request", None, ReplyClass::Temporary),
            (422, "Unprocessable Content", None, ReplyClass::Temporary),
            (422, "'to' parameter is not a valid address", None, ReplyClass::Permanent),
            (499, "", None, ReplyClass::Temporary),
            (501, "Not Implemented", None, nobody),
            (507, "Insufficient Storage", None, ReplyClass::Temporary),
            (420, &format!("{limit}Mon, 14 Sep 2026 12:22:44 UTC"), None, upstream(1364)),
            (429, &format!("{limit}120 seconds"), None, upstream(120)),
            (429, "", Some("7"), upstream(7)),
            (429, &format!("{limit}120 seconds"), Some("Mon, 14 Sep 2026 12:00:09 GMT"), upstream(9)),
            (429, "slow down", Some("soon"), upstream(30)),
        ] {
            let retry_after = retry_after.map(str::to_owned);
            for request_sent in [true, false] {
                let (text, retry_after) = (text.to_owned(), retry_after.clone());
                let answer =
                    ApiResponse { status, text, retry_after, request_sent, ..ApiResponse::default() };
                assert_eq!(
                    classify_api_response(&answer, 1, now),
                    ApiVerdict::Uniform(expected),
                    "{status} {answer:?}"
                );
            }
        }
        for (status, text, verdict) in [
            (200, "Queued. Thank you.", nobody),
            (204, "", nobody),
            (301, "Moved", nobody),
            (302, "", nobody),
            (500, "Internal Server Error", ReplyClass::Temporary),
            (502, "", ReplyClass::Temporary),
            (503, "", ReplyClass::Temporary),
            (504, "", ReplyClass::Temporary),
            (522, "", ReplyClass::Temporary),
        ] {
            let answer =
                ApiResponse { status, text: text.into(), request_sent: true, ..ApiResponse::default() };
            assert_eq!(
                classify_api_response(&answer, 1, now),
                ApiVerdict::Ambiguous(verdict),
                "{status} {text}"
            );
            let early = ApiResponse { request_sent: false, ..answer };
            assert_eq!(
                classify_api_response(&early, 1, now),
                ApiVerdict::Uniform(verdict),
                "{status} {text}"
            );
        }
        let taken = ApiResponse { status: 200, id: Some("<a@b>".into()), ..ApiResponse::default() };
        assert_eq!(classify_api_response(&taken, 2, now), ApiVerdict::Uniform(ReplyClass::Accepted));
        let text = "'to' parameter is not a valid address. please check documentation".to_owned();
        let wrong = ApiResponse { status: 400, text, ..ApiResponse::default() };
        assert_eq!(classify_api_response(&wrong, 2, now), ApiVerdict::Bisect);
    }
}
