use std::time::Duration;

/// Why an account does not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nobody there, or the way is broken.
    #[error(
        "upstream {upstream}: {what}: the provider's API cannot be reached: {cause}; is api_base_url right, and may this \
         machine reach it?"
    )]
    Unreachable {
        /// Whose.
        upstream: String,
        /// What was asked for.
        what: &'static str,
        /// Why.
        cause: String,
    },
    /// The key is wrong, or may not do this.
    #[error(
        "upstream {upstream}: {what}: the provider's API refused the api_key ({status}: {words}); give the account's key \
         of this region: a domain sending key may send and nothing else"
    )]
    Key {
        /// Whose.
        upstream: String,
        /// What was asked for.
        what: &'static str,
        /// The HTTP status.
        status: u16,
        /// The provider's words.
        words: String,
    },
    /// What was asked for is not there.
    #[error(
        "upstream {upstream}: {what}: the provider's API does not know it (404: {words}); are domain and region right?"
    )]
    Unknown {
        /// Whose.
        upstream: String,
        /// What was asked for.
        what: &'static str,
        /// The provider's words.
        words: String,
    },
    /// Too many requests.
    #[error("upstream {upstream}: {what}: the provider's API takes no more requests for now ({words})")]
    Busy {
        /// Whose.
        upstream: String,
        /// What was asked for.
        what: &'static str,
        /// The provider's words.
        words: String,
        /// How long to wait, where it says so.
        wait: Option<Duration>,
    },
    /// Any other refusal.
    #[error("upstream {upstream}: {what}: the provider's API answered {status}: {words}")]
    Refused {
        /// Whose.
        upstream: String,
        /// What was asked for.
        what: &'static str,
        /// The HTTP status.
        status: u16,
        /// The provider's words.
        words: String,
    },
    /// An answer that no API of this provider gives.
    #[error(
        "upstream {upstream}: {what}: the answer is not of the provider's API ({words}); is api_base_url right, and \
         domain?"
    )]
    Strange {
        /// Whose.
        upstream: String,
        /// What was asked for.
        what: &'static str,
        /// What is strange.
        words: String,
    },
    /// As many addresses as may be are told a kind of event.
    #[error(
        "upstream {upstream}: webhooks: {event} is told to {urls} already, and the provider takes {most} addresses at most; \
         take one of them out at the provider"
    )]
    Full {
        /// Whose.
        upstream: String,
        /// The provider's word for the kind of event.
        event: String,
        /// How many.
        most: usize,
        /// Those that are there.
        urls: String,
    },
    /// Nothing is known that a webhook could prove itself with.
    #[error(
        "upstream {upstream}: webhooks: there is nothing that they could prove themselves with; make a token with openssl \
         rand -hex 32 > FILE and give webhook_token_file"
    )]
    Unproven {
        /// Whose.
        upstream: String,
    },
    /// The provider cannot do that.
    #[error("upstream {upstream}: {what}: the provider's API has no call for it")]
    Unable {
        /// Whose.
        upstream: String,
        /// What was asked for.
        what: &'static str,
    },
}

impl Fault {
    /// How long the provider wants to be left alone, where it says so.
    pub fn wait(&self) -> Option<Duration> {
        match self {
            Self::Busy { wait, .. } => *wait,
            _ => None,
        }
    }
}
