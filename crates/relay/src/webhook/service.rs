//! The webhook service: state, and the context of a request.

use crate::loopback_probe::LoopbackProbe;
use crate::monitoring::UpstreamActivity;
use crate::webhook::body::BodyBudget;
use crate::webhook::client_address::{ClientAddress, RejectionCounter};
use crate::webhook::inbound::InboundReceiver;
use crate::webhook::source::WebhookSource;
use axum::http::HeaderMap;
use ipnet::IpNet;
use mailtrail_mail::{Clock, ClockWatch, Secret, Timestamp};
use mailtrail_net::RefusalLog;
use mailtrail_store::{CommitError, ReadError, Store};

/// Receiver of webhooks: verifies provider events and commits them before it answers.
pub struct WebhookService {
    pub(super) sources: Vec<WebhookSource>,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub(super) proxies: Vec<IpNet>,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) clock_watch: ClockWatch,
    pub(super) activity: UpstreamActivity,
    pub(super) loopback_probe: LoopbackProbe,
    pub(super) body_budget: BodyBudget,
    pub(super) rejections: RejectionCounter,
    pub(super) refusal_log: RefusalLog,
    /// Receiver of inbound mail, if a target is configured.
    pub(super) inbound: Option<InboundReceiver>,
}

impl WebhookService {
    /// Creates a service for webhooks of `sources`. The client address is the peer's or, for a peer in `proxies`, the one
    /// in `X-Forwarded-For`.
    pub fn new(
        sources: Vec<WebhookSource>,
        proxies: Vec<IpNet>,
        store: Store,
        clock: Clock,
        activity: UpstreamActivity,
    ) -> Self {
        Self {
            sources,
            proxies,
            store,
            clock,
            clock_watch: ClockWatch::new(clock),
            activity,
            loopback_probe: LoopbackProbe::default(),
            body_budget: BodyBudget::default(),
            rejections: RejectionCounter::default(),
            refusal_log: RefusalLog::default(),
            inbound: None,
        }
    }

    /// Shares the clock watch of the process.
    pub fn with_clock_watch(self, clock_watch: ClockWatch) -> Self {
        Self { clock_watch, ..self }
    }

    /// Answers the challenges of `doctor`.
    pub fn with_loopback_probe(self, loopback_probe: LoopbackProbe) -> Self {
        Self { loopback_probe, ..self }
    }

    /// Receives inbound mail, too.
    pub fn with_inbound(self, intake: InboundReceiver) -> Self {
        Self { inbound: Some(intake), ..self }
    }
}

/// Context of a request to a source.
pub(super) struct RequestContext<'a> {
    pub(super) source: &'a WebhookSource,
    pub(super) source_index: usize,
    pub(super) client: ClientAddress,
    pub(super) secret: Option<Secret>,
    pub(super) headers: HeaderMap,
    pub(super) now: Timestamp,
}

/// Error that prevents a commit now.
#[derive(Debug, thiserror::Error)]
pub(super) enum IngestError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}
