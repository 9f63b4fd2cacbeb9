use crate::provider_event::{Diagnostic, EventKind, ProviderEvent};
use mailtrail_mail::Timestamp;
use std::str::FromStr;

/// Reason for a suppression, the most severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A recipient reported our message as spam.
    Complaint,
    /// The address accepts no mail.
    HardBounce,
    /// Added by an operator.
    Manual,
    /// A recipient unsubscribed from our mailings.
    Unsubscribe,
    /// A message was not delivered for a temporary reason.
    SoftBounce,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 5] =
        [Self::Complaint, Self::HardBounce, Self::Manual, Self::Unsubscribe, Self::SoftBounce];

    /// Returns the keyword for commands, tables, CSV and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complaint => "complaint",
            Self::HardBounce => "hard-bounce",
            Self::Manual => "manual",
            Self::Unsubscribe => "unsubscribe",
            Self::SoftBounce => "soft-bounce",
        }
    }

    /// Returns the scope of the reason unless stated otherwise: an unsubscription concerns bulk messages.
    pub const fn default_scope(self) -> Scope {
        match self {
            Self::Unsubscribe => Scope::Bulk,
            _ => Scope::All,
        }
    }
}

impl FromStr for Reason {
    type Err = ParseKeywordError;

    fn from_str(text: &str) -> Result<Self, ParseKeywordError> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text).ok_or(ParseKeywordError)
    }
}

/// Messages that are suppressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Messages of the bulk lane.
    Bulk,
    /// All messages.
    All,
}

impl Scope {
    /// Returns the keyword for commands, tables, CSV and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::All => "all",
        }
    }
}

impl FromStr for Scope {
    type Err = ParseKeywordError;

    fn from_str(text: &str) -> Result<Self, ParseKeywordError> {
        [Self::Bulk, Self::All].into_iter().find(|scope| scope.as_str() == text).ok_or(ParseKeywordError)
    }
}

/// Source of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EvidenceSource {
    /// A provider's webhook.
    Webhook,
    /// A poll of a provider's events.
    Poll,
    /// A provider's own list.
    Provider,
    /// An upstream's reply to an attempt.
    Attempt,
    /// An operator, for one address.
    Operator,
    /// A file imported by an operator.
    Import,
    /// A service with the same contacts that sent none of our messages.
    Hint,
}

impl EvidenceSource {
    /// All sources.
    pub const ALL: [Self; 7] =
        [Self::Webhook, Self::Poll, Self::Provider, Self::Attempt, Self::Operator, Self::Import, Self::Hint];

    /// Returns the keyword for tables, CSV and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Poll => "poll",
            Self::Provider => "provider",
            Self::Attempt => "attempt",
            Self::Operator => "operator",
            Self::Import => "import",
            Self::Hint => "hint",
        }
    }

    /// Returns whether the source is an operator.
    pub const fn is_operator(self) -> bool {
        matches!(self, Self::Operator | Self::Import)
    }
}

impl FromStr for EvidenceSource {
    type Err = ParseKeywordError;

    fn from_str(text: &str) -> Result<Self, ParseKeywordError> {
        Self::ALL.into_iter().find(|source| source.as_str() == text).ok_or(ParseKeywordError)
    }
}

/// Error for a text that is none of the keywords.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown keyword")]
pub struct ParseKeywordError;

/// One piece of evidence against an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceItem {
    /// Time of the occurrence; [`Self::UNKNOWN_TIME`] if unknown.
    pub at: Timestamp,
    /// Messages that it concerns.
    pub scope: Scope,
    /// Source of the evidence.
    pub source: EvidenceSource,
    /// Expiry, if given; otherwise the settings decide.
    pub expires_at: Option<Timestamp>,
    /// Text of the source; at most [`Self::MAX_DIAGNOSTIC_CHARS`] characters count.
    pub diagnostic: String,
}

impl EvidenceItem {
    /// Maximum length of the text, in characters.
    pub const MAX_DIAGNOSTIC_CHARS: usize = 120;
    /// Time of an occurrence with an unknown time: before every known time.
    pub const UNKNOWN_TIME: Timestamp = Timestamp::from_millis(0);
}

/// Returns the evidence of an event against its recipient, if any; `source` is the source of the event.
/// Simulated sending is no evidence. Neither is a deferral: the provider tries again, and one message may be
/// deferred many times.
pub fn evidence_from_event(event: &ProviderEvent, source: EvidenceSource) -> Option<(Reason, EvidenceItem)> {
    if event.test_mode {
        return None;
    }
    let reason = match event.kind {
        EventKind::Bounced => classify_bounce(&event.diagnostic),
        EventKind::Suppressed => classify_suppression(&event.diagnostic),
        EventKind::Complained => Reason::Complaint,
        EventKind::Unsubscribed => Reason::Unsubscribe,
        // A refusal of the message is no evidence against its recipient.
        EventKind::Rejected => return None,
        EventKind::Accepted
        | EventKind::Delivered
        | EventKind::Deferred
        | EventKind::Opened
        | EventKind::Clicked => return None,
        EventKind::Stored | EventKind::Unknown => return None,
    };
    // A provider that suppresses one message suppresses all others, since it does not distinguish our lanes.
    let scope = if event.kind == EventKind::Suppressed { Scope::All } else { reason.default_scope() };
    let diagnostic = event.diagnostic.to_line().unwrap_or_else(|| event.diagnostic.name.clone());
    Some((reason, EvidenceItem { at: event.at, scope, source, expires_at: None, diagnostic }))
}

/// Returns whether an upstream's refusal of a recipient is about the address, not about us or the message.
pub fn is_address_refusal(words: &Diagnostic) -> bool {
    words.code.is_some_and(|code| code >= 500)
        && words.enhanced_status.as_deref().is_some_and(is_address_status)
}

/// Returns whether an enhanced status means that the address accepts no mail. All others are about the sender
/// (5.1.7, 5.1.8), the message or its security (5.6, 5.7), a temporary condition (5.2.2, 5.3, 5.4), or
/// unspecific (5.0.0).
pub fn is_address_status(status: &str) -> bool {
    ADDRESS_STATUSES.contains(&status)
}

/// Classifies a permanent failure. It counts against the address only if a status shows that. A provider's
/// own statement that it no longer sends to the address counts if no server gave a different status. Without
/// either, the cause is unknown.
fn classify_bounce(words: &Diagnostic) -> Reason {
    let mut name = words.name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let passing = name.clone().any(|part| TRANSIENT_REASONS.contains(&part));
    let hard = match words.enhanced_status.as_deref() {
        Some(status) => is_address_status(status) && !passing,
        None if words.code.is_some() => false,
        None => name.any(|part| {
            INVALID_ADDRESS_WORDS.contains(&part) || (part == HARD_BOUNCE_WORD && words.text.is_none())
        }),
    };
    if hard { Reason::HardBounce } else { Reason::SoftBounce }
}

/// Classifies a provider's suppression: Mailgun's by its own codes, others by text. The suppression is the
/// provider's own evidence against the address, unless it contains a remote server's reply, or its text is
/// about the sender or the message.
fn classify_suppression(words: &Diagnostic) -> Reason {
    match words.code {
        Some(605) => return Reason::HardBounce,
        Some(606) => return Reason::Unsubscribe,
        Some(607) => return Reason::Complaint,
        _ => {}
    }
    let haystack = format!("{} {}", words.name, words.text.as_deref().unwrap_or_default()).to_lowercase();
    let contains_any = |words: &[&str]| words.iter().any(|word| haystack.contains(word));
    if contains_any(&UNSUBSCRIBED_WORDS) {
        return Reason::Unsubscribe;
    }
    if contains_any(&COMPLAINT_WORDS) {
        return Reason::Complaint;
    }
    let hard = match words.enhanced_status.as_deref() {
        Some(status) => is_address_status(status),
        None => contains_any(&LISTED_WORDS) || !(words.code.is_some() || contains_any(&SENDER_FAULT_WORDS)),
    };
    if hard { Reason::HardBounce } else { Reason::SoftBounce }
}

/// RFC 3463 sections 3.2 and 3.3, RFC 7505: bad mailbox, bad domain, bad syntax, moved without a new address,
/// a domain that accepts no mail, a disabled mailbox.
const ADDRESS_STATUSES: [&str; 6] = ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"];
/// Mailgun's reasons (`old`: it has tried for hours), and Brevo's soft bounce.
const TRANSIENT_REASONS: [&str; 6] = ["soft", "soft_bounce", "old", "espblock", "greylisted", "blacklisted"];
/// Brevo's names for an invalid address, and for one that it blocks from then on.
const INVALID_ADDRESS_WORDS: [&str; 2] = ["invalid_email", "invalid"];
const HARD_BOUNCE_WORD: &str = "hard_bounce";
/// Texts of providers about unsubscribed addresses.
const UNSUBSCRIBED_WORDS: [&str; 1] = ["unsubscri"];
const COMPLAINT_WORDS: [&str; 5] = ["complain", "marked", "flagged", "reported", "spam user"];
const LISTED_WORDS: [&str; 4] = ["bounce", "blacklist", "blocklist", "suppress"];
/// Texts of providers that blame the message or its sender.
const SENDER_FAULT_WORDS: [&str; 9] =
    ["sender", "spam", "dmarc", "dkim", "spf", "policy", "reputation", "content", "quota"];

#[cfg(test)]
mod tests {
    use super::*;

    fn reason_of(
        kind: EventKind,
        name: &str,
        code: u16,
        enhanced: Option<&str>,
        text: &str,
    ) -> Option<Reason> {
        let words = Diagnostic {
            name: name.into(),
            code: Some(code).filter(|code| *code > 0),
            enhanced_status: enhanced.map(str::to_owned),
            text: Some(text.into()),
            ..Diagnostic::default()
        };
        evidence_from_event(&sample_event(kind, words), EvidenceSource::Webhook).map(|(reason, _)| reason)
    }

    fn sample_event(kind: EventKind, diagnostic: Diagnostic) -> ProviderEvent {
        ProviderEvent {
            kind,
            at: Timestamp::from_secs(1_789_387_200),
            dedup_key: "x".into(),
            recipient: Some("ada@example.net".into()),
            tracking_id: None,
            message_id: None,
            automated: false,
            test_mode: false,
            diagnostic,
        }
    }

    #[test]
    fn classifies_only_address_faults_as_hard_bounces() {
        for (name, code, enhanced, expected) in [
            ("failed/permanent/bounce", 550, Some("5.1.1"), Reason::HardBounce),
            ("failed/permanent/bounce", 550, Some("5.1.2"), Reason::HardBounce),
            ("failed/permanent/bounce", 550, Some("5.1.10"), Reason::HardBounce),
            ("failed/permanent/bounce", 550, None, Reason::SoftBounce),
            ("failed/permanent/hardfail", 498, None, Reason::SoftBounce),
            ("failed/permanent/bounce", 550, Some("5.1.7"), Reason::SoftBounce),
            ("failed/permanent/bounce", 550, Some("5.1.8"), Reason::SoftBounce),
            ("failed/permanent/bounce", 550, Some("5.0.0"), Reason::SoftBounce),
            ("failed/permanent/suppress-something-new", 0, None, Reason::SoftBounce),
            ("failed/permanent/bounce", 550, Some("5.2.1"), Reason::HardBounce),
            ("hard_bounce", 550, Some("5.1.1"), Reason::HardBounce),
            ("hard_bounce", 0, None, Reason::SoftBounce),
            ("hard_bounce", 550, Some("5.1.8"), Reason::SoftBounce),
            ("failed/permanent/bounce", 552, Some("5.2.2"), Reason::SoftBounce),
            ("failed/permanent/bounce", 550, Some("5.7.1"), Reason::SoftBounce),
            ("failed/permanent/old", 421, Some("4.4.1"), Reason::SoftBounce),
            ("failed/permanent/generic", 499, None, Reason::SoftBounce),
            ("failed/permanent/espblock", 550, Some("5.1.1"), Reason::SoftBounce),
            ("soft_bounce", 0, None, Reason::SoftBounce),
        ] {
            let found = reason_of(EventKind::Bounced, name, code, enhanced, "no");
            assert_eq!(found, Some(expected), "{name} {code} {enhanced:?}");
        }
    }

    #[test]
    fn classifies_provider_suppressions() {
        for (name, code, text, expected) in [
            ("failed/permanent/suppress-bounce", 605, "", Reason::HardBounce),
            ("failed/permanent/suppress-unsubscribe", 606, "", Reason::Unsubscribe),
            ("failed/permanent/suppress-complaint", 607, "", Reason::Complaint),
            ("failed/permanent/suppress-unsubscribe", 0, "", Reason::Unsubscribe),
            ("blocked", 0, "the contact has unsubscribed", Reason::Unsubscribe),
            ("blocked", 0, "blocked : due to blacklist user", Reason::HardBounce),
            ("blocked", 0, "", Reason::HardBounce),
            ("blocked/hard-bounce", 0, "due to hard bounce user", Reason::HardBounce),
            ("blocked", 0, "the contact has flagged your mail as spam", Reason::Complaint),
            ("blocked", 0, "your message looks like spam", Reason::SoftBounce),
            ("blocked", 550, "refused", Reason::SoftBounce),
            ("blocked", 0, "sender domain is not verified: DMARC", Reason::SoftBounce),
        ] {
            assert_eq!(
                reason_of(EventKind::Suppressed, name, code, None, text),
                Some(expected),
                "{name} {text}"
            );
        }
    }

    #[test]
    fn ignores_events_that_are_no_evidence() {
        for kind in [
            EventKind::Delivered,
            EventKind::Deferred,
            EventKind::Rejected,
            EventKind::Opened,
            EventKind::Unknown,
        ] {
            assert_eq!(reason_of(kind, "x", 550, Some("5.1.1"), "no"), None, "{kind:?}");
        }
        let pretended =
            ProviderEvent { test_mode: true, ..sample_event(EventKind::Bounced, Diagnostic::default()) };
        assert_eq!(evidence_from_event(&pretended, EvidenceSource::Webhook), None);
    }

    #[test]
    fn detects_refusals_of_invalid_addresses() {
        let refused = |code, enhanced: Option<&str>| {
            let enhanced_status = enhanced.map(str::to_owned);
            is_address_refusal(&Diagnostic { code: Some(code), enhanced_status, ..Diagnostic::default() })
        };
        for status in ADDRESS_STATUSES {
            assert!(refused(550, Some(status)) && !refused(450, Some(status)), "{status}");
        }
        for (code, status) in [
            (550, None),
            (550, Some("5.7.1")),
            (553, Some("5.1.8")),
            (550, Some("5.1.7")),
            (550, Some("5.0.0")),
        ] {
            assert!(!refused(code, status), "{code} {status:?}");
        }
    }
}
