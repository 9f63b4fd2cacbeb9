//! Mail from outside on its last way: to a mail server, an HTTP endpoint, or Odoo.
//!
//! The store is the queue. Each target is brought what is for it, one mail after the other in the order of its arrival;
//! one that takes nothing is left alone for a while, one mail that it does not take for now waits by itself. A mail is
//! delivered at least once: again where it is not known what became of it, or after a crash. What a target refuses for
//! good is a dead letter, with the target's words, and nobody else hears of it: an answer could begin a loop.

mod delivery;
mod http;
mod message;
mod odoo;
mod smtp;

pub use delivery::InboundDelivery;
pub use smtp::SmtpSettings;

use crate::inbound::message::InboundMessage;
use mailtrail_net::webhook_client;
use std::time::Duration;

/// A target, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSettings {
    /// Its name: a-z, 0-9 and -.
    pub name: String,
    /// Patterns of the recipients whose mail it gets, as far as no target before it does; none: all.
    pub recipients: Vec<String>,
    /// How long a mail that is not taken for now is offered. Default 5 days, 1 h to 30 days.
    pub give_up_after: Duration,
    /// What it is.
    pub kind: TargetKind,
}

/// Kinds of targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// A mail server.
    Smtp(SmtpSettings),
    /// Signed POST of the message.
    Http(webhook_client::WebhookEndpoint),
    /// Odoo's mail gateway.
    Odoo(mailtrail_net::odoo::OdooConnection),
}

/// What a target makes of a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
enum TargetResponse {
    /// It has it; its words.
    Accepted(String),
    /// It never takes it.
    Rejected(String),
    /// It does not take this one for now.
    Deferred(String),
    /// The same, because the target's user has no right to what this one needs.
    AccessDenied(String),
    /// It takes none for now.
    Unavailable(String),
}

/// A target at work.
enum TargetBackend {
    Smtp(Box<smtp::SmtpTarget>),
    Http(http::HttpTarget),
    Odoo(Box<odoo::OdooTarget>),
}

impl TargetBackend {
    fn new(kind: &TargetKind, hostname: &str) -> Self {
        match kind {
            TargetKind::Smtp(settings) => {
                Self::Smtp(Box::new(smtp::SmtpTarget::new(settings.clone(), hostname.to_owned())))
            }
            TargetKind::Http(settings) => Self::Http(http::HttpTarget::new(settings.clone())),
            TargetKind::Odoo(settings) => Self::Odoo(Box::new(odoo::OdooTarget::new(settings.clone()))),
        }
    }

    async fn deliver(&mut self, letter: &InboundMessage) -> TargetResponse {
        match self {
            Self::Smtp(target) => target.deliver(letter).await,
            Self::Http(target) => target.deliver(letter).await,
            Self::Odoo(target) => target.deliver(letter).await,
        }
    }
}
