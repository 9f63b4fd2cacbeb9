use std::time::Duration;

/// Why an account does not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// Nobody there, or the way is broken.
    #[error(
        "upstream {upstream}: {operation}: the provider's API cannot be reached: {cause}; is api_base_url right, and may this \
         machine reach it?"
    )]
    Unreachable {
        /// Whose.
        upstream: String,
        /// What was asked for.
        operation: &'static str,
        /// Why.
        cause: String,
    },
    /// The key is wrong, or may not do this.
    #[error(
        "upstream {upstream}: {operation}: the provider's API refused the api_key ({status}: {diagnostic}); give the account's key \
         of this region: a domain sending key may send and nothing else"
    )]
    Unauthorized {
        /// Whose.
        upstream: String,
        /// What was asked for.
        operation: &'static str,
        /// The HTTP status.
        status: u16,
        /// The provider's words.
        diagnostic: String,
    },
    /// What was asked for is not there.
    #[error(
        "upstream {upstream}: {operation}: the provider's API does not know it (404: {diagnostic}); are domain and region right?"
    )]
    NotFound {
        /// Whose.
        upstream: String,
        /// What was asked for.
        operation: &'static str,
        /// The provider's words.
        diagnostic: String,
    },
    /// Too many requests.
    #[error(
        "upstream {upstream}: {operation}: the provider's API takes no more requests for now ({diagnostic})"
    )]
    RateLimited {
        /// Whose.
        upstream: String,
        /// What was asked for.
        operation: &'static str,
        /// The provider's words.
        diagnostic: String,
        /// How long to wait, where it says so.
        retry_after: Option<Duration>,
    },
    /// Any other refusal.
    #[error("upstream {upstream}: {operation}: the provider's API answered {status}: {diagnostic}")]
    Rejected {
        /// Whose.
        upstream: String,
        /// What was asked for.
        operation: &'static str,
        /// The HTTP status.
        status: u16,
        /// The provider's words.
        diagnostic: String,
    },
    /// An answer that no API of this provider gives.
    #[error(
        "upstream {upstream}: {operation}: the answer is not of the provider's API ({diagnostic}); is api_base_url right, and \
         domain?"
    )]
    UnexpectedResponse {
        /// Whose.
        upstream: String,
        /// What was asked for.
        operation: &'static str,
        /// What is strange.
        diagnostic: String,
    },
    /// As many addresses as may be are told a kind of event.
    #[error(
        "upstream {upstream}: webhooks: {event} is told to {urls} already, and the provider takes {max_urls} addresses at most; \
         take one of them out at the provider"
    )]
    TooManyWebhooks {
        /// Whose.
        upstream: String,
        /// The provider's word for the kind of event.
        event: String,
        /// How many.
        max_urls: usize,
        /// Those that are there.
        urls: String,
    },
    /// Nothing is known that a webhook could prove itself with.
    #[error(
        "upstream {upstream}: webhooks: there is nothing that they could prove themselves with; make a token with openssl \
         rand -hex 32 > FILE and give webhook_token_file"
    )]
    NoCredentials {
        /// Whose.
        upstream: String,
    },
    /// The provider cannot do that.
    #[error("upstream {upstream}: {operation}: the provider's API has no call for it")]
    Unsupported {
        /// Whose.
        upstream: String,
        /// What was asked for.
        operation: &'static str,
    },
}

impl ApiError {
    /// How long the provider wants to be left alone, where it says so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after: wait, .. } => *wait,
            _ => None,
        }
    }
}
