//! Errors of decoding a provider event.

use crate::provider::kind::Provider;

/// A genuine report that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It is no JSON document.
    #[error("the body is not JSON: {0}")]
    Malformed(#[source] serde_json::Error),
    /// It holds no event where one belongs.
    #[error("the body holds no event")]
    NoEvent,
    /// Events of this provider are not supported.
    #[error("reports of the provider {0} are not understood by this version")]
    UnsupportedProvider(Provider),
}
