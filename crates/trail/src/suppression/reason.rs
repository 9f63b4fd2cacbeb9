use crate::provider_event::{Diagnostic, EventKind, ProviderEvent};
use mailtrail_mail::Timestamp;
use std::str::FromStr;

/// What speaks against an address, the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Somebody there called our mail spam.
    Complaint,
    /// The address takes no mail.
    HardBounce,
    /// An operator says so.
    Manual,
    /// Somebody there does not want our mailings.
    Unsubscribe,
    /// Mail did not arrive, for a reason that may pass.
    SoftBounce,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 5] =
        [Self::Complaint, Self::HardBounce, Self::Manual, Self::Unsubscribe, Self::SoftBounce];

    /// The word for commands, tables, CSV and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complaint => "complaint",
            Self::HardBounce => "hard-bounce",
            Self::Manual => "manual",
            Self::Unsubscribe => "unsubscribe",
            Self::SoftBounce => "soft-bounce",
        }
    }

    /// What it keeps back where nothing else is said: an unsubscription is from mailings.
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

/// Which mail is kept back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// That of the bulk lane.
    Bulk,
    /// All.
    All,
}

impl Scope {
    /// The word for commands, tables, CSV and JSON.
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

/// Who said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EvidenceSource {
    /// A provider's webhook.
    Webhook,
    /// A provider, when we asked it for events.
    Poll,
    /// A provider's own list.
    Provider,
    /// An upstream, when we sent mail there.
    Attempt,
    /// An operator, about one address.
    Operator,
    /// An operator's file.
    Import,
    /// Somebody who knows the same contacts, and sent none of our mail.
    Hint,
}

impl EvidenceSource {
    /// Every source.
    pub const ALL: [Self; 7] =
        [Self::Webhook, Self::Poll, Self::Provider, Self::Attempt, Self::Operator, Self::Import, Self::Hint];

    /// The word for tables, CSV and JSON.
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

    /// Whether an operator said so.
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

/// The text is none of the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such word")]
pub struct ParseKeywordError;

/// One thing that speaks against an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceItem {
    /// When it happened; [`Mark::UNKNOWN`] where nobody says.
    pub at: Timestamp,
    /// Which mail it is about.
    pub scope: Scope,
    /// Who said so.
    pub source: EvidenceSource,
    /// When it ends, where that is said; otherwise the settings decide.
    pub expires_at: Option<Timestamp>,
    /// In whose words; at most [`Mark::WORDS`] characters count.
    pub diagnostic: String,
}

impl EvidenceItem {
    /// Characters of words that are kept.
    pub const MAX_DIAGNOSTIC_CHARS: usize = 120;
    /// When something happened of which nobody says when: before everything of which that is known.
    pub const UNKNOWN_TIME: Timestamp = Timestamp::from_millis(0);
}

/// What an event says against its recipient, if it does; `source` is the way it came. What a provider only pretends to
/// send says nothing, and neither does a deferral: the provider tries again, and one mail may be deferred many times.
pub fn evidence_from_event(event: &ProviderEvent, source: EvidenceSource) -> Option<(Reason, EvidenceItem)> {
    if event.test_mode {
        return None;
    }
    let reason = match event.kind {
        EventKind::Bounced => classify_bounce(&event.diagnostic),
        EventKind::Suppressed => classify_suppression(&event.diagnostic),
        EventKind::Complained => Reason::Complaint,
        EventKind::Unsubscribed => Reason::Unsubscribe,
        // A refused message says nothing of whom it was for.
        EventKind::Rejected => return None,
        EventKind::Accepted
        | EventKind::Delivered
        | EventKind::Deferred
        | EventKind::Opened
        | EventKind::Clicked => return None,
        EventKind::Stored | EventKind::Unknown => return None,
    };
    // A provider that kept a mail back does so with any other: it does not know our lanes.
    let scope = if event.kind == EventKind::Suppressed { Scope::All } else { reason.default_scope() };
    let diagnostic = event.diagnostic.to_line().unwrap_or_else(|| event.diagnostic.name.clone());
    Some((reason, EvidenceItem { at: event.at, scope, source, expires_at: None, diagnostic }))
}

/// Whether an upstream's refusal of a recipient is about the address, not about us or the mail.
pub fn is_address_refusal(words: &Diagnostic) -> bool {
    words.code.is_some_and(|code| code >= 500)
        && words.enhanced_status.as_deref().is_some_and(is_address_status)
}

/// Whether an enhanced status says that the address takes no mail. All others are about the sender (5.1.7, 5.1.8), the
/// message or its security (5.6, 5.7), something that passes (5.2.2, 5.3, 5.4), or nothing in particular (5.0.0).
pub fn is_address_status(status: &str) -> bool {
    ADDRESS_STATUSES.contains(&status)
}

/// A permanent failure is the address's fault only where a status says so. A provider's own word that it sends no more
/// there counts where no server said anything else; without either nobody knows.
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

/// Why a provider keeps mail back: Mailgun by its own codes, others in words. That it does so is its own word against the
/// address, unless a remote server's answer comes with it, or its words are about the sender or the message.
fn classify_suppression(words: &Diagnostic) -> Reason {
    match words.code {
        Some(605) => return Reason::HardBounce,
        Some(606) => return Reason::Unsubscribe,
        Some(607) => return Reason::Complaint,
        _ => {}
    }
    let said = format!("{} {}", words.name, words.text.as_deref().unwrap_or_default()).to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&UNSUBSCRIBED_WORDS) {
        return Reason::Unsubscribe;
    }
    if says(&COMPLAINT_WORDS) {
        return Reason::Complaint;
    }
    let hard = match words.enhanced_status.as_deref() {
        Some(status) => is_address_status(status),
        None => says(&LISTED_WORDS) || !(words.code.is_some() || says(&SENDER_FAULT_WORDS)),
    };
    if hard { Reason::HardBounce } else { Reason::SoftBounce }
}

/// RFC 3463 sections 3.2 and 3.3, RFC 7505: bad mailbox, bad domain, bad syntax, moved without a new address, a domain that
/// takes no mail, a mailbox that is disabled.
const ADDRESS_STATUSES: [&str; 6] = ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"];
/// Mailgun's reasons (`old`: it has tried for hours), and Brevo's soft bounce.
const TRANSIENT_REASONS: [&str; 6] = ["soft", "soft_bounce", "old", "espblock", "greylisted", "blacklisted"];
/// Brevo's words for what is no address, and for one that it blocks from then on.
const INVALID_ADDRESS_WORDS: [&str; 2] = ["invalid_email", "invalid"];
const HARD_BOUNCE_WORD: &str = "hard_bounce";
/// What providers say of addresses that they keep mail back from.
const UNSUBSCRIBED_WORDS: [&str; 1] = ["unsubscri"];
const COMPLAINT_WORDS: [&str; 5] = ["complain", "marked", "flagged", "reported", "spam user"];
const LISTED_WORDS: [&str; 4] = ["bounce", "blacklist", "blocklist", "suppress"];
/// What they say where the mail or its sender is at fault.
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
        evidence_from_event(&event(kind, words), EvidenceSource::Webhook).map(|(reason, _)| reason)
    }

    fn event(kind: EventKind, diagnostic: Diagnostic) -> ProviderEvent {
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
        let pretended = ProviderEvent { test_mode: true, ..event(EventKind::Bounced, Diagnostic::default()) };
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
