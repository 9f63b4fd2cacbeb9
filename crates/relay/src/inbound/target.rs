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
    /// Recipient patterns, matched after those of earlier targets; empty: all.
    pub recipients: Vec<String>,
    /// Time for which a deferred message is retried. Default: 5 days; range 1 h..=30 days.
    pub give_up_after: Duration,
    /// Kind, with its settings.
    pub kind: TargetKind,
}

/// Kind of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// SMTP or LMTP server.
    Smtp(SmtpSettings),
    /// Signed POST of the message.
    Http(webhook_client::WebhookEndpoint),
    /// Mail gateway of Odoo.
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
