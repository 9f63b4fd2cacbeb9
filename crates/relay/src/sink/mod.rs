//! Whoever is told what becomes of the mail: a file, an HTTP endpoint, Odoo.
//!
//! A sink has no queue of its own: it reads the journal from where it stands, in the order in which it was written, and
//! notes how far it got. So nothing is lost while it is down, as long as the journal keeps it (`[retention]`), and
//! everything comes at least once: again after a crash, with the same id. An item that a sink takes later is delayed
//! alone: the following ones go on, and the journal notes when it is due.

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

/// A sink, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkSettings {
    /// Its name: a-z, 0-9 and -.
    pub name: String,
    /// What it is.
    pub kind: SinkKind,
    /// What it wants to hear of.
    pub filter: SinkFilter,
    /// How long something is offered that it does not take for now; `None`: for ever.
    pub give_up_after: Option<Duration>,
}

/// Kinds of sinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// JSON lines.
    File(FileSettings),
    /// Signed JSON by POST.
    Http(webhook_client::Settings),
    /// Odoo.
    Odoo(Box<OdooSettings>),
}

/// What a sink wants to hear of; an empty list is no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkFilter {
    /// Words of the event vocabulary.
    pub events: Vec<String>,
    /// Clients' labels.
    pub clients: Vec<String>,
}

impl SinkFilter {
    fn matches(&self, what: TrailEventKind, client: Option<&str>) -> bool {
        (self.events.is_empty() || self.events.iter().any(|event| event == what.as_str()))
            && (self.clients.is_empty()
                || client.is_some_and(|client| self.clients.iter().any(|wanted| wanted == client)))
    }
}

/// What became of items that were offered in their order.
#[derive(Debug, Default, PartialEq, Eq)]
struct DeliveryResult {
    /// So many from the front are done with.
    processed: usize,
    /// Those of them that were refused for good, and why.
    rejected: Vec<(usize, String)>,
    /// Those of them that are to come again, each alone, and why.
    delayed: Vec<(usize, String)>,
    /// Why the next one was not taken, for now.
    retry_reason: Option<String>,
}

/// A sink at work.
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

    /// Whether a newer send of the same mail makes a difference to it.
    fn checks_superseded(&self) -> bool {
        matches!(self, Self::Odoo(_))
    }

    /// Does what is due besides deliveries.
    async fn run_periodic(&mut self) {
        if let Self::Odoo(sink) = self {
            sink.requeue_failed().await;
        }
    }

    /// Whether it would take something now, or why not; asked before there is anything to take.
    async fn check_readiness(&mut self) -> Result<(), String> {
        match self {
            Self::File(_) | Self::Http(_) => Ok(()),
            Self::Odoo(sink) => sink.check_readiness().await,
        }
    }
}
