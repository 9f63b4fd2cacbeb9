//! Brevo: its events, their receivers, and its API.
//!
//! An event goes to the webhooks registered for its type, alone or in batches, each with its own authentication. After
//! any response but 200 and 429 it is never repeated.

mod batcher;
mod blocked_contacts;
mod cooldown;
mod event;
mod router;
mod statistics;
mod time_zone;
mod webhook_registry;
mod webhooks;

pub(crate) use event::{build_webhook_event, to_log_entry};
pub(crate) use router::router;

use crate::brevo::batcher::EventBatcher;
use crate::brevo::cooldown::Cooldowns;
use crate::brevo::webhook_registry::BrevoWebhookRegistry;
use crate::lifecycle::RecipientLifecycle;
use crate::state::SandboxState;
use crate::webhook_client::WebhookTarget;
use crate::webhook_delivery::{WebhookRequest, send_request};
use mailtrail_mail::Timestamp;
use serde_json::{Map, Value};
use std::sync::Arc;

/// What only Brevo keeps.
#[derive(Debug, Default)]
pub(crate) struct BrevoState {
    pub(crate) webhooks: BrevoWebhookRegistry,
    pub(crate) cooldowns: Cooldowns,
    batcher: EventBatcher,
}

/// Generates the Message-ID of a message without one.
pub(crate) fn generate_message_id(now: Timestamp) -> String {
    let minute: String = time_zone::format_local(now)[..16].chars().filter(char::is_ascii_digit).collect();
    format!("{minute}.{}@smtp-relay.mailin.fr", fastrand::u64(10_000_000_000..100_000_000_000))
}

/// Sends an event to the configured URL and to the webhooks registered for it.
pub(crate) async fn deliver_event(
    state: &Arc<SandboxState>,
    lifecycle: &Arc<RecipientLifecycle>,
    data: &Map<String, Value>,
) {
    let word = data.get("event").and_then(Value::as_str).unwrap_or_default();
    let configured = state.webhook_client.url().map(|_| (WebhookTarget::Configured, false));
    let made = state
        .brevo
        .webhooks
        .subscribers_of(word)
        .into_iter()
        .map(|(id, batched)| (WebhookTarget::Brevo(id), batched));
    for (target, batched) in configured.into_iter().chain(made) {
        if state.should_lose_webhook() {
            continue;
        }
        let data = Value::Object(data.clone());
        if batched {
            state.brevo.batcher.add_event(state, target, data, lifecycle.clone()).await;
        } else {
            let (body, lifecycles) = (data.to_string().into(), vec![lifecycle.clone()]);
            send_request(state, WebhookRequest { target, body, lifecycles }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_message_id_starts_with_local_minute() {
        let id = generate_message_id(Timestamp::from_secs(1_789_387_203));
        let number = id.strip_prefix("202609141400.").unwrap().strip_suffix("@smtp-relay.mailin.fr").unwrap();
        assert!(number.len() == 11 && number.bytes().all(|byte| byte.is_ascii_digit()), "{id}");
    }
}
