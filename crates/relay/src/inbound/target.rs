//! Targets of inbound messages: settings and dispatch by kind.

use crate::inbound::message::InboundMessage;
use crate::inbound::response::TargetResponse;
use crate::inbound::{SmtpSettings, http, odoo, smtp};
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

/// A target at work.
pub enum TargetBackend {
    Smtp(Box<smtp::SmtpTarget>),
    Http(http::HttpTarget),
    Odoo(Box<odoo::OdooTarget>),
}

impl TargetBackend {
    pub fn new(kind: &TargetKind, hostname: &str) -> Self {
        match kind {
            TargetKind::Smtp(settings) => {
                Self::Smtp(Box::new(smtp::SmtpTarget::new(settings.clone(), hostname.to_owned())))
            }
            TargetKind::Http(settings) => Self::Http(http::HttpTarget::new(settings.clone())),
            TargetKind::Odoo(settings) => Self::Odoo(Box::new(odoo::OdooTarget::new(settings.clone()))),
        }
    }

    pub async fn deliver(&mut self, letter: &InboundMessage) -> TargetResponse {
        match self {
            Self::Smtp(target) => target.deliver(letter).await,
            Self::Http(target) => target.deliver(letter).await,
            Self::Odoo(target) => target.deliver(letter).await,
        }
    }
}
