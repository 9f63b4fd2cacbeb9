//! Rules of each provider: hosts, stamps, request headers, signatures, payloads.
//!
//! Pure functions over bytes: no I/O, no clock, no configuration. The formats of a provider end here; the results are
//! header lines, ranges of a message, or events. Unknown content of a provider is never an error.

pub mod activecampaign;
mod allowed_requests;
mod batch;
pub mod brevo;
mod decode_error;
mod form;
pub mod generic;
mod kind;
pub mod lenient;
pub mod mailgun;
mod retry_after;
mod sanitize;

pub use batch::{Salvage, SplitBody, list_start, salvage, split_body, split_events};
pub use form::Form;
pub use retry_after::parse_retry_after;

use crate::provider_event::ProviderEvent;
pub use allowed_requests::SAFE_REQUESTS_KEYWORD;
pub use decode_error::DecodeError;
pub use kind::Provider;
use mailtrail_mail::{HeaderField, HeaderLine, Timestamp, TrackingId};
use serde_json::Value;
use std::fmt;
use std::str::FromStr;

impl Provider {
    /// All providers.
    pub const ALL: [Self; 3] = [Self::Mailgun, Self::Brevo, Self::Plain];

    /// Returns the keyword of configuration and trails.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mailgun => "mailgun",
            Self::Brevo => "brevo",
            Self::Plain => "plain",
        }
    }

    /// The submission host, where the provider has one. Mailgun refuses the login on the host of the other
    /// region; Brevo has one host for all.
    pub const fn default_host(self, region: Region) -> Option<&'static str> {
        match (self, region) {
            (Self::Mailgun, Region::Us) => Some("smtp.mailgun.org"),
            (Self::Mailgun, Region::Eu) => Some("smtp.eu.mailgun.org"),
            (Self::Brevo, _) => Some("smtp-relay.brevo.com"),
            (Self::Plain, _) => None,
        }
    }

    /// Returns the base URL of the HTTP API, if it accepts a complete message. Brevo's `POST /v3/smtp/email` does not:
    /// it takes subject, texts and attachments and builds its own message, so ours would lose its signatures.
    pub const fn default_api_url(self, region: Region) -> Option<&'static str> {
        match (self, region) {
            (Self::Mailgun, Region::Us) => Some("https://api.mailgun.net"),
            (Self::Mailgun, Region::Eu) => Some("https://api.eu.mailgun.net"),
            (Self::Brevo | Self::Plain, _) => None,
        }
    }

    /// The submission port: 465 with TLS from the first byte (RFC 8314), otherwise 587 (RFC 6409).
    pub const fn default_port(self, implicit_tls: bool) -> u16 {
        if implicit_tls { 465 } else { 587 }
    }

    /// Returns the header lines that make this provider return `id` with each event. Our own `X-Mailtrail-Id` is not
    /// among them: it belongs to the accepted message, whatever the provider.
    pub fn tracking_headers(self, id: TrackingId) -> Vec<HeaderLine> {
        match self {
            Self::Mailgun => vec![mailgun::tracking_header(id)],
            Self::Brevo => vec![brevo::tracking_header(id)],
            Self::Plain => Vec::new(),
        }
    }

    /// Returns whether a client's header field must not reach this provider: a [`TRACKING_ID_HEADER`], because ours
    /// replaces it, or a request to the provider that is not `allowed`.
    ///
    /// `allowed` has names of requests without the provider's prefix, case-insensitive; a final `*` matches any rest
    /// (`Tag`, `Track*`), [`SAFE_REQUESTS_KEYWORD`] matches those that can neither lose nor redirect nor weaken a
    /// message.
    pub fn is_forbidden_header(self, field: &HeaderField<'_>, allowed: &[String], now: Timestamp) -> bool {
        field.name.eq_ignore_ascii_case(TRACKING_ID_HEADER)
            || match self {
                Self::Mailgun => mailgun::is_forbidden_request(field, allowed, now),
                Self::Brevo => brevo::is_forbidden_request(field, allowed),
                Self::Plain => false,
            }
    }

    /// Decodes the raw payload of a stored event with the rules of this version; it was authenticated when it was
    /// stored. The time defaults to `kept`, and `before` is its earlier content, if any.
    pub fn decode_raw(
        self,
        raw: &[u8],
        kept: Timestamp,
        before: Option<&ProviderEvent>,
    ) -> Result<ProviderEvent, DecodeError> {
        let known = before.map(|event| event.dedup_key.as_str()).unwrap_or_default();
        if let Some(id) = known.strip_prefix(generic::DEDUP_KEY_PREFIX) {
            return decode_json_event(raw, |data| generic::decode_event(data, id, kept));
        }
        match self {
            Self::Mailgun => mailgun::decode_raw(raw, kept),
            Self::Brevo => decode_json_event(raw, |data| brevo::decode_event(data, kept)),
            Self::Plain => Err(DecodeError::UnsupportedProvider(self)),
        }
    }
}

fn decode_json_event(
    raw: &[u8],
    decode: impl FnOnce(&Value) -> Option<ProviderEvent>,
) -> Result<ProviderEvent, DecodeError> {
    let data = lenient::parse_value(raw).map_err(DecodeError::Malformed)?;
    decode(&data).ok_or(DecodeError::NoEvent)
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a provider is \"mailgun\", \"brevo\" or \"plain\"")]
pub struct ParseProviderError;

impl FromStr for Provider {
    type Err = ParseProviderError;

    fn from_str(text: &str) -> Result<Self, ParseProviderError> {
        Self::ALL.into_iter().find(|provider| provider.as_str() == text).ok_or(ParseProviderError)
    }
}

/// Where the provider keeps an account's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Region {
    /// United States.
    #[default]
    Us,
    /// European Union.
    Eu,
}

impl Region {
    /// Returns the keyword of the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Us => "us",
            Self::Eu => "eu",
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a region is \"us\" or \"eu\"")]
pub struct ParseRegionError;

impl FromStr for Region {
    type Err = ParseRegionError;

    fn from_str(text: &str) -> Result<Self, ParseRegionError> {
        [Self::Us, Self::Eu].into_iter().find(|region| region.as_str() == text).ok_or(ParseRegionError)
    }
}

/// Header field with our id on every relayed message.
pub const TRACKING_ID_HEADER: &str = "X-Mailtrail-Id";

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::HeaderSection;

    #[test]
    fn provider_and_region_round_trip() {
        for provider in Provider::ALL {
            assert_eq!(provider.as_str().parse(), Ok(provider));
        }
        assert_eq!("Sendmail".parse::<Provider>(), Err(ParseProviderError));
        assert_eq!("eu".parse(), Ok(Region::Eu));
        assert_eq!("".parse::<Region>(), Err(ParseRegionError));
    }

    #[test]
    fn each_provider_has_its_tracking_header() {
        let id: TrackingId = "01K54Z8Q3V7N5X9B2C6D8F0GHJ".parse().unwrap();
        let lines = |provider: Provider| -> Vec<_> {
            provider.tracking_headers(id).iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            lines(Provider::Mailgun),
            [r#"X-Mailgun-Variables: {"mailtrail":"01K54Z8Q3V7N5X9B2C6D8F0GHJ"}"#]
        );
        assert_eq!(lines(Provider::Brevo), ["X-Mailin-custom: mailtrail=01K54Z8Q3V7N5X9B2C6D8F0GHJ"]);
        assert!(lines(Provider::Plain).is_empty());
    }

    #[test]
    fn strips_client_tracking_ids() {
        let message = b"X-Mailgun-Tag: a\r\nx-mailtrail-ID: b\r\n c\r\nTo: d\r\nX-Mailgun-Dkim: no\r\n\r\n";
        let block = HeaderSection::parse(message);
        let now = Timestamp::from_secs(1_789_387_200);
        let stripped = |provider: Provider| -> Vec<_> {
            let foreign = block.fields().filter(|field| provider.is_forbidden_header(field, &[], now));
            foreign.map(|field| message[field.span][..12].to_vec()).collect()
        };
        assert_eq!(stripped(Provider::Mailgun), [b"X-Mailgun-Ta", b"x-mailtrail-", b"X-Mailgun-Dk"]);
        assert_eq!(stripped(Provider::Brevo), [b"x-mailtrail-"]);
        assert_eq!(stripped(Provider::Plain), [b"x-mailtrail-"]);
    }
}
