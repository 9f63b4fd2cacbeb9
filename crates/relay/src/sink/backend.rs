//! Dispatch by the kind of a sink.

use crate::sink::delivery_result::DeliveryResult;
use crate::sink::event::SinkEvent;
use crate::sink::settings::SinkKind;
use crate::sink::{file, http, odoo};
use mailtrail_mail::Clock;

/// Running sink.
pub enum SinkBackend {
    File(file::FileSink),
    Http(http::HttpSink),
    Odoo(Box<odoo::OdooSink>),
}

impl SinkBackend {
    pub fn new(kind: &SinkKind, clock: Clock) -> Self {
        match kind {
            SinkKind::File(settings) => Self::File(file::FileSink::new(settings.clone())),
            SinkKind::Http(settings) => Self::Http(http::HttpSink::new(settings.clone())),
            SinkKind::Odoo(settings) => {
                Self::Odoo(Box::new(odoo::OdooSink::new((**settings).clone(), clock)))
            }
        }
    }

    pub async fn deliver(&mut self, items: &[SinkEvent]) -> DeliveryResult {
        match self {
            Self::File(sink) => sink.deliver(items).await,
            Self::Http(sink) => sink.deliver(items).await,
            Self::Odoo(sink) => sink.deliver(items).await,
        }
    }

    /// Returns whether a newer message with the same Message-ID makes a difference to the sink.
    pub fn checks_superseded(&self) -> bool {
        matches!(self, Self::Odoo(_))
    }

    /// Runs due work other than deliveries.
    pub async fn run_periodic(&mut self) {
        if let Self::Odoo(sink) = self {
            sink.requeue_failed().await;
        }
    }

    /// Checks whether the sink would accept events now; called before there are any.
    pub async fn check_readiness(&mut self) -> Result<(), String> {
        match self {
            Self::File(_) | Self::Http(_) => Ok(()),
            Self::Odoo(sink) => sink.check_readiness().await,
        }
    }
}
