use crate::webhook::outcome::RequestOutcome;
use axum::http::StatusCode;
use mailtrail_mail::Secret;
use mailtrail_trail::provider::brevo::WebhookAuth;
use mailtrail_trail::suppression::{Reason, is_address_status};
use mailtrail_trail::{ContactHint, ContactHintKind};
use std::fmt;

/// One who reports to us.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookSource {
    /// Its name, which is the last part of the path, or the one before a secret.
    pub name: String,
    /// Whose words it speaks, and what it proves itself with.
    pub kind: SourceKind,
}

/// Whose words a source speaks, and what it proves itself with.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceKind {
    /// Mailgun.
    Mailgun {
        /// Signing keys: two during a rotation, or the account's and its parent's.
        keys: Vec<Secret>,
    },
    /// Brevo.
    Brevo(WebhookAuth),
    /// A program that speaks our own words.
    Generic {
        /// What its requests are signed with, two while it changes.
        secrets: Vec<Secret>,
        /// The upstream whose sends it reports on; without it events stand under the source's own name.
        upstream: Option<String>,
    },
    /// ActiveCampaign, which knows the same contacts and none of our mail.
    ActiveCampaign {
        /// The last part of the path, two while it changes.
        secrets: Vec<Secret>,
        /// Which of its hints keep bulk mail back.
        suppress: Vec<HintSuppression>,
    },
}

/// A hint that keeps bulk mail back from its contact. No hint keeps back any other: who leaves a campaign, or bounced
/// once elsewhere, gets invoices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HintSuppression {
    /// The contact left a list there.
    Unsubscribe,
    /// The address bounced there for good.
    Bounce,
}

impl HintSuppression {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Unsubscribe, Self::Bounce];
    /// Those that count where nothing else is said.
    pub const DEFAULT: [Self; 1] = [Self::Unsubscribe];

    /// The word for the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsubscribe => "unsubscribe",
            Self::Bounce => "bounce",
        }
    }

    /// What such a hint is evidence of, if this is one.
    pub(super) fn suppression_reason(self, hint: &ContactHint) -> Option<Reason> {
        match (self, hint.kind) {
            (Self::Unsubscribe, ContactHintKind::Unsubscribed) => Some(Reason::Unsubscribe),
            // Its type stands behind the name.
            (Self::Bounce, ContactHintKind::Bounced) => {
                let kind = hint.diagnostic.name.rsplit('/').next();
                let of_the_address = hint.diagnostic.enhanced_status.as_deref().is_none_or(is_address_status);
                let hard = kind.is_some_and(|kind| kind.eq_ignore_ascii_case("hard")) && of_the_address;
                hard.then_some(Reason::HardBounce)
            }
            _ => None,
        }
    }
}

impl fmt::Display for HintSuppression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl WebhookSource {
    /// The name that its events stand under.
    pub fn upstream(&self) -> &str {
        match &self.kind {
            SourceKind::Generic { upstream: Some(upstream), .. } => upstream,
            _ => &self.name,
        }
    }
}

impl SourceKind {
    /// Whether the secret is a part of the path.
    pub(super) fn has_secret_path(&self) -> bool {
        matches!(self, Self::ActiveCampaign { .. })
    }

    /// Whether it brings mail from outside.
    pub(super) fn has_inbound_mail(&self) -> bool {
        matches!(self, Self::Mailgun { .. } | Self::Brevo(_))
    }

    /// Whether a body must be read and reckoned with before it is known who sent it.
    pub(super) fn is_verified_by_body(&self) -> bool {
        matches!(self, Self::Mailgun { .. } | Self::Generic { .. })
    }

    /// Bytes of a body. Brevo's may hold 500 events, where they are batched.
    pub(super) fn max_body_bytes(&self) -> usize {
        match self {
            Self::Brevo(_) => 4 << 20,
            _ => 1 << 20,
        }
    }

    /// The status that says so in the provider's understanding. Mailgun repeats what is answered with anything but 200
    /// and 406. Brevo throws away what is answered with anything but 200 and 429. ActiveCampaign repeats nothing, and 410
    /// would switch it off for good.
    pub(super) fn status_code(&self, answer: RequestOutcome) -> StatusCode {
        match (answer, self) {
            (RequestOutcome::Stored | RequestOutcome::Duplicate | RequestOutcome::DeadLettered, _) => {
                StatusCode::OK
            }
            (RequestOutcome::Rejected, Self::Mailgun { .. }) => StatusCode::NOT_ACCEPTABLE,
            (RequestOutcome::Rejected, Self::ActiveCampaign { .. }) => StatusCode::NOT_FOUND,
            (RequestOutcome::Rejected, Self::Brevo(_) | Self::Generic { .. }) => StatusCode::UNAUTHORIZED,
            (RequestOutcome::Malformed, _) => StatusCode::BAD_REQUEST,
            (RequestOutcome::UnsupportedEncoding, _) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            (RequestOutcome::TooLarge, _) => StatusCode::PAYLOAD_TOO_LARGE,
            (RequestOutcome::RateLimited, _) | (RequestOutcome::Unavailable, Self::Brevo(_)) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            (RequestOutcome::Unavailable, _) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}
