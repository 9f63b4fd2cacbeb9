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
mod response;
mod smtp;
mod target;

pub use delivery::InboundDelivery;
pub use smtp::SmtpSettings;
pub use target::{TargetKind, TargetSettings};
