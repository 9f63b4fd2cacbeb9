use std::time::Duration;

/// Error of a request to a provider's API, with a remedy.
#[expect(missing_docs, reason = "the names say all")]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No connection, or it broke.
    #[error(
        "upstream {upstream}: {operation}: the provider's API cannot be reached: {cause}; is api_base_url right, and may this \
         machine reach it?"
    )]
    Unreachable { upstream: String, operation: &'static str, cause: String },
    /// The key is wrong, or may not do this.
    #[error(
        "upstream {upstream}: {operation}: the provider's API refused the api_key ({status}: {diagnostic}); give the account's key \
         of this region: a domain sending key may send and nothing else"
    )]
    Unauthorized { upstream: String, operation: &'static str, status: u16, diagnostic: String },
    /// The requested object does not exist.
    #[error(
        "upstream {upstream}: {operation}: the provider's API does not know it (404: {diagnostic}); are domain and region right?"
    )]
    NotFound { upstream: String, operation: &'static str, diagnostic: String },
    /// Rate limit of the provider.
    #[error(
        "upstream {upstream}: {operation}: the provider's API takes no more requests for now ({diagnostic})"
    )]
    RateLimited {
        upstream: String,
        operation: &'static str,
        diagnostic: String,
        retry_after: Option<Duration>,
    },
    /// Any other error status.
    #[error("upstream {upstream}: {operation}: the provider's API answered {status}: {diagnostic}")]
    Rejected { upstream: String, operation: &'static str, status: u16, diagnostic: String },
    /// An answer that no API of this provider gives.
    #[error(
        "upstream {upstream}: {operation}: the answer is not of the provider's API ({diagnostic}); is api_base_url right, and \
         domain?"
    )]
    UnexpectedResponse { upstream: String, operation: &'static str, diagnostic: String },
    /// The maximum number of URLs is registered for an event.
    #[error(
        "upstream {upstream}: webhooks: {event} is told to {urls} already, and the provider takes {max_urls} addresses at most; \
         take one of them out at the provider"
    )]
    TooManyWebhooks { upstream: String, event: String, max_urls: usize, urls: String },
    /// No webhook credentials are configured.
    #[error(
        "upstream {upstream}: webhooks: there is nothing that they could prove themselves with; make a token with openssl \
         rand -hex 32 > FILE and give webhook_token_file"
    )]
    NoCredentials { upstream: String },
    /// The provider cannot do that.
    #[error("upstream {upstream}: {operation}: the provider's API has no call for it")]
    Unsupported { upstream: String, operation: &'static str },
}

impl ApiError {
    /// Delay requested by the provider, if any.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after: wait, .. } => *wait,
            _ => None,
        }
    }
}
