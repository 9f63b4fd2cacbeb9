//! Event sinks: a file, an HTTP endpoint, Odoo.
//!
//! A sink has no queue of its own. It reads the journal in write order from its stored position. So no
//! event is lost while the sink is down, as long as the journal keeps it (`[retention]`). Delivery is at
//! least once: after a crash an event comes again, with the same id. An event that a sink cannot accept yet
//! is delayed alone: the following ones go on, and the journal records when it is due.

mod event;
mod file;
mod http;
pub mod odoo;
mod worker;

pub use file::FileSettings;
pub use odoo::OdooSettings;
pub use worker::SinkWorker;

use crate::sink::event::SinkEvent;

use mailtrail_mail::Clock;
use mailtrail_net::webhook_client;
use mailtrail_trail::TrailEventKind;
use std::time::Duration;

/// Configuration of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkSettings {
    /// Name of the sink: a-z, 0-9 and -.
    pub name: String,
    /// Kind and its settings.
    pub kind: SinkKind,
    /// Filter of events.
    pub filter: SinkFilter,
    /// Time for which a deferred event is offered; `None`: without limit.
    pub give_up_after: Option<Duration>,
}

/// Kind of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// JSON lines in a file.
    File(FileSettings),
    /// Signed JSON by HTTP POST.
    Http(webhook_client::WebhookEndpoint),
    /// Odoo database.
    Odoo(Box<OdooSettings>),
}

/// Filter of a sink's events; an empty list is no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkFilter {
    /// Words of the event vocabulary.
    pub events: Vec<String>,
    /// Client labels.
    pub clients: Vec<String>,
}

impl SinkFilter {
    fn matches(&self, what: TrailEventKind, client: Option<&str>) -> bool {
        (self.events.is_empty() || self.events.iter().any(|event| event == what.as_str()))
            && (self.clients.is_empty()
                || client.is_some_and(|client| self.clients.iter().any(|wanted| wanted == client)))
    }
}

/// Result of offering events in order.
#[derive(Debug, Default, PartialEq, Eq)]
struct DeliveryResult {
    /// Number of events processed from the front.
    processed: usize,
    /// Permanently rejected events among these, each with its reason.
    rejected: Vec<(usize, String)>,
    /// Delayed events among these, each with its reason; each comes again alone.
    delayed: Vec<(usize, String)>,
    /// Reason for which the next event was not accepted for now.
    retry_reason: Option<String>,
}

/// Running sink.
enum SinkBackend {
    File(file::FileSink),
    Http(http::HttpSink),
    Odoo(Box<odoo::OdooSink>),
}

impl SinkBackend {
    fn new(kind: &SinkKind, clock: Clock) -> Self {
        match kind {
            SinkKind::File(settings) => Self::File(file::FileSink::new(settings.clone())),
            SinkKind::Http(settings) => Self::Http(http::HttpSink::new(settings.clone())),
            SinkKind::Odoo(settings) => {
                Self::Odoo(Box::new(odoo::OdooSink::new((**settings).clone(), clock)))
            }
        }
    }

    async fn deliver(&mut self, items: &[SinkEvent]) -> DeliveryResult {
        match self {
            Self::File(sink) => sink.deliver(items).await,
            Self::Http(sink) => sink.deliver(items).await,
            Self::Odoo(sink) => sink.deliver(items).await,
        }
    }

    /// Returns whether a newer message with the same Message-ID makes a difference to the sink.
    fn checks_superseded(&self) -> bool {
        matches!(self, Self::Odoo(_))
    }

    /// Runs due work other than deliveries.
    async fn run_periodic(&mut self) {
        if let Self::Odoo(sink) = self {
            sink.requeue_failed().await;
        }
    }

    /// Checks whether the sink would accept events now; called before there are any.
    async fn check_readiness(&mut self) -> Result<(), String> {
        match self {
            Self::File(_) | Self::Http(_) => Ok(()),
            Self::Odoo(sink) => sink.check_readiness().await,
        }
    }
}
