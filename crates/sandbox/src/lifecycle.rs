use crate::brevo;
use crate::mailgun::{SandboxEvent, event, webhook_registry};
use crate::message_facts::MessageFacts;
use crate::profile::ProviderProfile;
use crate::scenario::Scenario;
use crate::state::{SandboxState, format_mailgun_date};
use crate::webhook_client::WebhookTarget;
use crate::webhook_delivery::{WebhookRequest, send_request};
use mailtrail_mail::{Mailbox, Timestamp};
use serde_json::{Map, Value};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// One recipient of a message, until the last of its events is settled.
#[derive(Debug)]
pub(crate) struct RecipientLifecycle {
    pub(crate) facts: Arc<MessageFacts>,
    pub(crate) recipient: Mailbox,
    /// Its place among those that the sandbox keeps.
    _permit: OwnedSemaphorePermit,
}

impl RecipientLifecycle {
    pub(crate) fn new(facts: Arc<MessageFacts>, recipient: Mailbox, place: OwnedSemaphorePermit) -> Self {
        Self { facts, recipient, _permit: place }
    }
}

/// Lets everything happen in its order. Each event is posted once before the next one happens; those that have to be
/// posted again, or late, are overtaken.
pub(crate) async fn run_lifecycle(state: Arc<SandboxState>, lifecycle: Arc<RecipientLifecycle>) {
    let mut delivered_at = None;
    for (wait, happening) in build_timeline(&state, &lifecycle) {
        state.time_scale.sleep(wait).await;
        let stamp = state.next_event_micros();
        state.captured.update_counters(|tally| tally.events += 1);
        state.suppressions.record_event(
            happening,
            &lifecycle.recipient,
            &format_mailgun_date(state.clock.now()),
        );
        match state.profile {
            ProviderProfile::Mailgun => {
                let at = event::micros_to_seconds(stamp);
                let data = event::build_event_data(&lifecycle, happening, at, delivered_at);
                if happening == SandboxEvent::Delivered {
                    delivered_at = Some(at);
                }
                state.event_log.insert(stamp, state.event_visible_at(), &data);
                deliver_mailgun_event(&state, &lifecycle, &data, at as u64).await;
            }
            ProviderProfile::Brevo => {
                let data =
                    brevo::build_webhook_event(&lifecycle, happening, Timestamp::from_millis(stamp / 1000));
                state.event_log.insert(
                    stamp,
                    state.event_visible_at(),
                    &brevo::to_log_entry(&lifecycle, &data),
                );
                brevo::deliver_event(&state, &lifecycle, &data).await;
            }
        }
    }
}

/// What happens, and the provider's seconds before each of it.
fn build_timeline(state: &SandboxState, lifecycle: &RecipientLifecycle) -> Vec<(u32, SandboxEvent)> {
    let scenario = Scenario::for_recipient(&lifecycle.recipient);
    let suppressed = state.suppressions.suppression_event(&lifecycle.recipient, &lifecycle.facts.tags);
    match suppressed {
        _ if lifecycle.facts.is_test_mode && state.profile == ProviderProfile::Mailgun => {
            event::TEST_MODE_TIMELINE.to_vec()
        }
        Some(suppressed) => vec![(0, SandboxEvent::Accepted), (1, suppressed)],
        None => scenario.timeline(state.profile).to_vec(),
    }
}

async fn deliver_mailgun_event(
    state: &Arc<SandboxState>,
    lifecycle: &Arc<RecipientLifecycle>,
    data: &Map<String, Value>,
    now: u64,
) {
    for target in mailgun_targets(state, data) {
        if !state.should_lose_webhook() {
            let body = state.webhook_client.sign_body(data.clone(), now);
            send_request(state, WebhookRequest { target, body, lifecycles: vec![lifecycle.clone()] }).await;
        }
    }
}

/// Where an event of Mailgun's goes: to the configured address, and to those that are registered for its type; none
/// twice.
fn mailgun_targets(state: &SandboxState, data: &Map<String, Value>) -> Vec<WebhookTarget> {
    let mut targets = Vec::new();
    let configured = state.webhook_client.url();
    if configured.is_some() {
        targets.push(WebhookTarget::Configured);
    }
    let registered = webhook_registry::kind_of_event(data)
        .map(|kind| state.mailgun_webhooks.urls_for(kind))
        .unwrap_or_default();
    let others = registered.into_iter().filter(|url| configured.as_ref() != Some(url));
    targets.extend(others.map(WebhookTarget::Registered));
    targets
}
