//! Delivers inbound messages to a mail server, an HTTP endpoint or Odoo.
//!
//! The store is the queue. Each target gets its messages one after another, in the order of arrival. A target that
//! accepts nothing is paused; a message that it defers waits alone. Delivery is at least once: a message is delivered
//! again after an unknown result or a crash. A permanently rejected message is a dead letter with the target's reason.
//! It is not reported by mail, because a reply could start a mail loop.

mod delivery;
mod http;
mod message;
mod odoo;
mod response;
mod smtp;
mod target;

pub use delivery::InboundDelivery;
pub use smtp::SmtpSettings;
pub use target::{TargetKind, TargetSettings};
