//! Settings of a sink.

use crate::sink::file::FileSettings;
use crate::sink::odoo::OdooSettings;
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
    pub(super) fn matches(&self, what: TrailEventKind, client: Option<&str>) -> bool {
        (self.events.is_empty() || self.events.iter().any(|event| event == what.as_str()))
            && (self.clients.is_empty()
                || client.is_some_and(|client| self.clients.iter().any(|wanted| wanted == client)))
    }
}
