use crate::webhook::outcome::RequestOutcome;
use axum::http::StatusCode;
use mailtrail_mail::Secret;
use mailtrail_trail::provider::brevo::WebhookAuth;
use mailtrail_trail::suppression::{Reason, is_address_status};
use mailtrail_trail::{ContactHint, ContactHintKind};
use std::fmt;

/// A configured sender of webhooks.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookSource {
    /// Its name, which is the last part of the path, or the one before a secret.
    pub name: String,
    /// Provider and credentials.
    pub kind: SourceKind,
}

/// Provider of a source, with its credentials.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceKind {
    /// Mailgun: webhooks with an HMAC signature in the body.
    Mailgun {
        /// Signing keys: two during a rotation, or the account's and its parent's.
        keys: Vec<Secret>,
    },
    /// Brevo: webhooks with a token or basic authentication.
    Brevo(WebhookAuth),
    /// A program that sends events in the generic format, signed by Standard Webhooks.
    Generic {
        /// What its requests are signed with, two while it changes.
        secrets: Vec<Secret>,
        /// Upstream of the reported messages; without it, events are recorded under the source's own name.
        upstream: Option<String>,
    },
    /// ActiveCampaign, which sends hints about contacts; its mail does not pass the relay.
    ActiveCampaign {
        /// The last part of the path, two while it changes.
        secrets: Vec<Secret>,
        /// Which of its hints keep bulk mail back.
        suppress: Vec<HintSuppression>,
    },
}

/// A hint that suppresses bulk mail to its contact. No hint suppresses transactional mail: a contact that unsubscribed
/// from a campaign, or bounced elsewhere, still gets invoices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HintSuppression {
    /// The contact left a list there.
    Unsubscribe,
    /// The address bounced permanently there.
    Bounce,
}

impl HintSuppression {
    /// All hints that can suppress.
    pub const ALL: [Self; 2] = [Self::Unsubscribe, Self::Bounce];
    /// Default of `suppress`.
    pub const DEFAULT: [Self; 1] = [Self::Unsubscribe];

    /// Returns the keyword of the configuration.
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
            // The hint's type follows its name.
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
    /// Returns the upstream under which events of the source are recorded.
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

    /// Returns whether the body must be read before the sender is authenticated.
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

    /// Returns the status code with the intended effect at the provider. Mailgun repeats after any status but 200 and
    /// 406. Brevo discards after any status but 200 and 429. ActiveCampaign never repeats, and 410 would disable the
    /// webhook.
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
