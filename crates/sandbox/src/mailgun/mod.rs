//! The fake Mailgun: its Messages, Events, Logs, Suppressions, Webhooks and Domains APIs.

mod domain;
pub(crate) mod event;
mod events;
mod form;
mod logs;
mod messages;
mod paging;
mod router;
mod suppression_lists;
mod suppressions;
pub(crate) mod webhook_registry;
mod webhooks;

pub(crate) use event::SandboxEvent;
pub(crate) use form::Form;
pub(crate) use messages::serve_http;
pub(crate) use router::{ApiError, ApiResult, router};
pub(crate) use suppression_lists::{SuppressionList, SuppressionLists};
pub(crate) use webhook_registry::MailgunWebhookRegistry;
