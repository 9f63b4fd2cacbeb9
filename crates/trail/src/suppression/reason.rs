use crate::provider_event::{Event, Kind, Words};
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
    pub const fn word(self) -> &'static str {
        match self {
            Self::Complaint => "complaint",
            Self::HardBounce => "hard-bounce",
            Self::Manual => "manual",
            Self::Unsubscribe => "unsubscribe",
            Self::SoftBounce => "soft-bounce",
        }
    }

    /// What it keeps back where nothing else is said: an unsubscription is from mailings.
    pub const fn usual_scope(self) -> Scope {
        match self {
            Self::Unsubscribe => Scope::Bulk,
            _ => Scope::All,
        }
    }
}

impl FromStr for Reason {
    type Err = NoSuchWord;

    fn from_str(text: &str) -> Result<Self, NoSuchWord> {
        Self::ALL.into_iter().find(|reason| reason.word() == text).ok_or(NoSuchWord)
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
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::All => "all",
        }
    }
}

impl FromStr for Scope {
    type Err = NoSuchWord;

    fn from_str(text: &str) -> Result<Self, NoSuchWord> {
        [Self::Bulk, Self::All].into_iter().find(|scope| scope.word() == text).ok_or(NoSuchWord)
    }
}

/// Who said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
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

impl Source {
    /// Every source.
    pub const ALL: [Self; 7] =
        [Self::Webhook, Self::Poll, Self::Provider, Self::Attempt, Self::Operator, Self::Import, Self::Hint];

    /// The word for tables, CSV and JSON.
    pub const fn word(self) -> &'static str {
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

impl FromStr for Source {
    type Err = NoSuchWord;

    fn from_str(text: &str) -> Result<Self, NoSuchWord> {
        Self::ALL.into_iter().find(|source| source.word() == text).ok_or(NoSuchWord)
    }
}

/// The text is none of the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such word")]
pub struct NoSuchWord;

/// One thing that speaks against an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// When it happened; [`Mark::UNKNOWN`] where nobody says.
    pub at: Timestamp,
    /// Which mail it is about.
    pub scope: Scope,
    /// Who said so.
    pub source: Source,
    /// When it ends, where that is said; otherwise the settings decide.
    pub expires: Option<Timestamp>,
    /// In whose words; at most [`Mark::WORDS`] characters count.
    pub words: String,
}

impl Mark {
    /// Characters of words that are kept.
    pub const WORDS: usize = 120;
    /// When something happened of which nobody says when: before everything of which that is known.
    pub const UNKNOWN: Timestamp = Timestamp::from_millis(0);
}

/// What an event says against its recipient, if it does; `source` is the way it came. What a provider only pretends to
/// send says nothing, and neither does a deferral: the provider tries again, and one mail may be deferred many times.
pub fn of_event(event: &Event, source: Source) -> Option<(Reason, Mark)> {
    if event.test_mode {
        return None;
    }
    let reason = match event.kind {
        Kind::Bounced => of_bounce(&event.words),
        Kind::Suppressed => of_suppression(&event.words),
        Kind::Complained => Reason::Complaint,
        Kind::Unsubscribed => Reason::Unsubscribe,
        // A refused message says nothing of whom it was for.
        Kind::Rejected => return None,
        Kind::Accepted | Kind::Delivered | Kind::Deferred | Kind::Opened | Kind::Clicked => return None,
        Kind::Stored | Kind::Unknown => return None,
    };
    // A provider that kept a mail back does so with any other: it does not know our lanes.
    let scope = if event.kind == Kind::Suppressed { Scope::All } else { reason.usual_scope() };
    let words = event.words.in_one_line().unwrap_or_else(|| event.words.name.clone());
    Some((reason, Mark { at: event.at, scope, source, expires: None, words }))
}

/// Whether an upstream's refusal of a recipient is about the address, not about us or the mail.
pub fn of_refusal(words: &Words) -> bool {
    words.code.is_some_and(|code| code >= 500) && words.enhanced.as_deref().is_some_and(is_of_the_address)
}

/// Whether an enhanced status says that the address takes no mail. All others are about the sender (5.1.7, 5.1.8), the
/// message or its security (5.6, 5.7), something that passes (5.2.2, 5.3, 5.4), or nothing in particular (5.0.0).
pub fn is_of_the_address(status: &str) -> bool {
    OF_THE_ADDRESS.contains(&status)
}

/// A permanent failure is the address's fault only where a status says so. A provider's own word that it sends no more
/// there counts where no server said anything else; without either nobody knows.
fn of_bounce(words: &Words) -> Reason {
    let mut name = words.name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let passing = name.clone().any(|part| PASSING.contains(&part));
    let hard = match words.enhanced.as_deref() {
        Some(status) => is_of_the_address(status) && !passing,
        None if words.code.is_some() => false,
        None => {
            name.any(|part| INVALID.contains(&part) || (part == BLOCKED_HENCEFORTH && words.text.is_none()))
        }
    };
    if hard { Reason::HardBounce } else { Reason::SoftBounce }
}

/// Why a provider keeps mail back: Mailgun by its own codes, others in words. That it does so is its own word against the
/// address, unless a remote server's answer comes with it, or its words are about the sender or the message.
fn of_suppression(words: &Words) -> Reason {
    match words.code {
        Some(605) => return Reason::HardBounce,
        Some(606) => return Reason::Unsubscribe,
        Some(607) => return Reason::Complaint,
        _ => {}
    }
    let said = format!("{} {}", words.name, words.text.as_deref().unwrap_or_default()).to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&UNSUBSCRIBED) {
        return Reason::Unsubscribe;
    }
    if says(&COMPLAINED) {
        return Reason::Complaint;
    }
    let hard = match words.enhanced.as_deref() {
        Some(status) => is_of_the_address(status),
        None => says(&LISTED) || !(words.code.is_some() || says(&OF_THE_SENDER)),
    };
    if hard { Reason::HardBounce } else { Reason::SoftBounce }
}

/// RFC 3463 sections 3.2 and 3.3, RFC 7505: bad mailbox, bad domain, bad syntax, moved without a new address, a domain that
/// takes no mail, a mailbox that is disabled.
const OF_THE_ADDRESS: [&str; 6] = ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"];
/// Mailgun's reasons (`old`: it has tried for hours), and Brevo's soft bounce.
const PASSING: [&str; 6] = ["soft", "soft_bounce", "old", "espblock", "greylisted", "blacklisted"];
/// Brevo's words for what is no address, and for one that it blocks from then on.
const INVALID: [&str; 2] = ["invalid_email", "invalid"];
const BLOCKED_HENCEFORTH: &str = "hard_bounce";
/// What providers say of addresses that they keep mail back from.
const UNSUBSCRIBED: [&str; 1] = ["unsubscri"];
const COMPLAINED: [&str; 5] = ["complain", "marked", "flagged", "reported", "spam user"];
const LISTED: [&str; 4] = ["bounce", "blacklist", "blocklist", "suppress"];
/// What they say where the mail or its sender is at fault.
const OF_THE_SENDER: [&str; 9] =
    ["sender", "spam", "dmarc", "dkim", "spf", "policy", "reputation", "content", "quota"];

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(kind: Kind, name: &str, code: u16, enhanced: Option<&str>, text: &str) -> Option<Reason> {
        let words = Words {
            name: name.into(),
            code: Some(code).filter(|code| *code > 0),
            enhanced: enhanced.map(str::to_owned),
            text: Some(text.into()),
            ..Words::default()
        };
        of_event(&event(kind, words), Source::Webhook).map(|(reason, _)| reason)
    }

    fn event(kind: Kind, words: Words) -> Event {
        Event {
            kind,
            at: Timestamp::from_seconds(1_789_387_200),
            identity: "x".into(),
            recipient: Some("ada@example.net".into()),
            tracking: None,
            message_id: None,
            by_machine: false,
            test_mode: false,
            words,
        }
    }

    #[test]
    fn only_what_is_the_addresss_fault_is_a_hard_bounce() {
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
            let found = reason(Kind::Bounced, name, code, enhanced, "no");
            assert_eq!(found, Some(expected), "{name} {code} {enhanced:?}");
        }
    }

    #[test]
    fn a_provider_says_why_it_keeps_mail_back() {
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
            assert_eq!(reason(Kind::Suppressed, name, code, None, text), Some(expected), "{name} {text}");
        }
    }

    #[test]
    fn what_says_nothing_of_an_address_is_no_evidence() {
        for kind in [Kind::Delivered, Kind::Deferred, Kind::Rejected, Kind::Opened, Kind::Unknown] {
            assert_eq!(reason(kind, "x", 550, Some("5.1.1"), "no"), None, "{kind:?}");
        }
        let pretended = Event { test_mode: true, ..event(Kind::Bounced, Words::default()) };
        assert_eq!(of_event(&pretended, Source::Webhook), None);
    }

    #[test]
    fn only_an_address_that_is_none_is_refused_for_good_at_an_attempt() {
        let refused = |code, enhanced: Option<&str>| {
            let enhanced = enhanced.map(str::to_owned);
            of_refusal(&Words { code: Some(code), enhanced, ..Words::default() })
        };
        for status in OF_THE_ADDRESS {
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
