//! Rules and shared limits of receiving inbound mail.

use mailtrail_mail::TrackingIdGenerator;
use mailtrail_net::provider_api::ProviderApi;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// What holds for mail from outside, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboundRules {
    /// Bytes of a mail, or of its parts. Default 40 MiB, 64 KiB to 200 MiB.
    pub max_size: u64,
    /// A mail with the same Message-ID and recipient that came so shortly before is the same one; zero: none is. Default
    /// 1 day.
    pub dedup_window: Duration,
    /// Whether machines' answers are delivered. Default no.
    pub auto_replies: bool,
}

impl Default for InboundRules {
    fn default() -> Self {
        Self { max_size: 40 << 20, dedup_window: Duration::from_secs(86_400), auto_replies: false }
    }
}

/// Receiver of inbound mail.
pub struct InboundReceiver {
    pub(super) rules: InboundRules,
    /// API clients by upstream.
    pub(super) provider_apis: BTreeMap<String, ProviderApi>,
    pub(super) id_generator: Arc<TrackingIdGenerator>,
    pub(super) receive_permits: Semaphore,
    /// Held while a whole message is in memory.
    pub(super) assembly_permits: Semaphore,
}

impl InboundReceiver {
    /// Creates a receiver; `provider_apis` are the clients of the upstreams with an API key.
    pub fn new(
        rules: InboundRules,
        provider_apis: BTreeMap<String, ProviderApi>,
        id_generator: Arc<TrackingIdGenerator>,
    ) -> Self {
        Self {
            rules,
            provider_apis,
            id_generator,
            receive_permits: Semaphore::new(MAX_CONCURRENT),
            assembly_permits: Semaphore::new(1),
        }
    }

    /// Returns the maximum size of a message in bytes.
    pub fn max_bytes(&self) -> usize {
        usize::try_from(self.rules.max_size).unwrap_or(usize::MAX)
    }
}

/// Mails that come in at once; each may hold half a MiB in memory.
pub const MAX_CONCURRENT: usize = 16;
