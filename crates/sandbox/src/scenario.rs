use crate::mailgun::SandboxEvent;
use crate::profile::ProviderProfile;
use mailtrail_mail::Mailbox;

/// Scenario of a recipient, selected by the local part: `bounce`, `bounce+7`, `bounce-7` and `bounce7` all bounce; an
/// unknown word is delivered.
///
/// The first attempts of a scenario are counted by Message-ID and recipient; at RCPT and DATA, before the Message-ID is
/// known, by sender and recipient. Over HTTP a rejection applies to the whole request: 400 for 550, 500 for 451, 429
/// for 421.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scenario {
    /// `delivered`: accepted, then delivered.
    Delivered,
    /// `bounce`: accepted, then failed permanently with 550 5.1.1.
    Bounce,
    /// `late-bounce`: delivered, and failed permanently an hour later.
    LateBounce,
    /// `defer-twice`: failed for now two times, then delivered.
    DeferTwice,
    /// `defer-smtp`: 451 at RCPT two times, taken the third time; then so again.
    DeferSmtp,
    /// `complain`: delivered, a day later reported as spam.
    Complain,
    /// `open`: delivered, then opened; at Brevo twice.
    Open,
    /// `bot-open`: delivered, then fetched by an image proxy.
    BotOpen,
    /// `click`: delivered, opened, a link clicked.
    Click,
    /// `unsubscribe`: delivered, then unsubscribed.
    Unsubscribe,
    /// `suppressed`: taken, then failed because it is on the bounce list.
    Suppressed,
    /// `reject`: 550 at RCPT.
    Reject,
    /// `drop-at-dot`: the first time the connection is closed after the final dot without a reply, though the message
    /// is taken.
    DropAtDot,
    /// `drop-before-dot`: the first time the connection is closed in the middle of the message, which is not taken.
    DropBeforeDot,
    /// `slow`: the reply to the final dot takes half a minute.
    Slow,
    /// `rate-limit`: 421 at DATA, taken the second time; then so again.
    RateLimit,
    /// `silent`: accepted, without any event.
    Silent,
    /// `invalid-email`: accepted, then found to be no address; at Mailgun it bounces.
    InvalidEmail,
    /// `unverified-sender`: at Brevo accepted, then an error, because the sender is not verified; else delivered.
    UnverifiedSender,
    /// `unauthorized-ip`: at Brevo the first time the connection is closed at RCPT, and the next login is refused with 525
    /// because of its address; then taken; then so again. Else delivered.
    UnauthorizedIp,
}

/// Each step of a recipient's story: the provider's seconds since the step before, and what happens then.
pub(crate) type Timeline = &'static [(u32, SandboxEvent)];

impl Scenario {
    /// All scenarios.
    pub const ALL: [Self; 20] = [
        Self::Delivered,
        Self::Bounce,
        Self::LateBounce,
        Self::DeferTwice,
        Self::DeferSmtp,
        Self::Complain,
        Self::Open,
        Self::BotOpen,
        Self::Click,
        Self::Unsubscribe,
        Self::Suppressed,
        Self::Reject,
        Self::DropAtDot,
        Self::DropBeforeDot,
        Self::Slow,
        Self::RateLimit,
        Self::Silent,
        Self::InvalidEmail,
        Self::UnverifiedSender,
        Self::UnauthorizedIp,
    ];

    /// Returns the scenario of a recipient.
    pub fn for_recipient(recipient: &Mailbox) -> Self {
        let local = recipient.local_part();
        let word = local.split_once('+').map_or(local, |(word, _)| word);
        let word = word.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(['-', '.', '_']);
        Self::ALL
            .into_iter()
            .find(|scenario| word.eq_ignore_ascii_case(scenario.as_str()))
            .unwrap_or(Self::Delivered)
    }

    /// Local part that selects the scenario.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Bounce => "bounce",
            Self::LateBounce => "late-bounce",
            Self::DeferTwice => "defer-twice",
            Self::DeferSmtp => "defer-smtp",
            Self::Complain => "complain",
            Self::Open => "open",
            Self::BotOpen => "bot-open",
            Self::Click => "click",
            Self::Unsubscribe => "unsubscribe",
            Self::Suppressed => "suppressed",
            Self::Reject => "reject",
            Self::DropAtDot => "drop-at-dot",
            Self::DropBeforeDot => "drop-before-dot",
            Self::Slow => "slow",
            Self::RateLimit => "rate-limit",
            Self::Silent => "silent",
            Self::InvalidEmail => "invalid-email",
            Self::UnverifiedSender => "unverified-sender",
            Self::UnauthorizedIp => "unauthorized-ip",
        }
    }

    /// What happens once the message is taken.
    pub(crate) const fn timeline(self, profile: ProviderProfile) -> Timeline {
        use SandboxEvent as H;
        match self {
            Self::Open if matches!(profile, ProviderProfile::Brevo) => {
                &[(0, H::Accepted), (2, H::Delivered), (600, H::Opened), (100, H::OpenedAgain)]
            }
            Self::InvalidEmail if matches!(profile, ProviderProfile::Brevo) => {
                &[(0, H::Accepted), (1, H::InvalidAddress)]
            }
            Self::InvalidEmail => &[(0, H::Accepted), (2, H::Bounced)],
            Self::UnverifiedSender if matches!(profile, ProviderProfile::Brevo) => {
                &[(0, H::Accepted), (1, H::SenderUnverified)]
            }
            Self::Bounce => &[(0, H::Accepted), (2, H::Bounced)],
            Self::LateBounce => &[(0, H::Accepted), (2, H::Delivered), (3600, H::BouncedLate)],
            Self::DeferTwice => {
                &[(0, H::Accepted), (2, H::MailboxFull), (600, H::Greylisted), (900, H::Delivered)]
            }
            Self::Complain => &[(0, H::Accepted), (2, H::Delivered), (86_400, H::Complained)],
            Self::Open => &[(0, H::Accepted), (2, H::Delivered), (600, H::Opened)],
            Self::BotOpen => &[(0, H::Accepted), (2, H::Delivered), (3, H::OpenedByBot)],
            Self::Click => &[(0, H::Accepted), (2, H::Delivered), (600, H::Opened), (60, H::Clicked)],
            Self::Unsubscribe => &[(0, H::Accepted), (2, H::Delivered), (700, H::Unsubscribed)],
            Self::Suppressed => &[(0, H::Accepted), (1, H::Suppressed)],
            Self::Silent => &[],
            Self::Delivered
            | Self::DeferSmtp
            | Self::Reject
            | Self::DropAtDot
            | Self::DropBeforeDot
            | Self::Slow
            | Self::RateLimit
            | Self::UnverifiedSender
            | Self::UnauthorizedIp => &[(0, H::Accepted), (2, H::Delivered)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_scenario_by_local_part() {
        let scenario = |text: &str| Scenario::for_recipient(&text.parse().unwrap());
        for text in ["bounce@a.b", "Bounce+7@a.b", "bounce7@a.b", "bounce-7@a.b", "bounce12+x@a.b"] {
            assert_eq!(scenario(text), Scenario::Bounce, "{text}");
        }
        assert_eq!(scenario("ada@example.net"), Scenario::Delivered);
        assert_eq!(scenario("bouncer@example.net"), Scenario::Delivered);
        for known in Scenario::ALL {
            assert_eq!(scenario(&format!("{}3@example.net", known.as_str())), known);
        }
    }
}
