//! Delivery of webhooks: in time, late, repeated, or not at all, depending on the faults.

use crate::lifecycle::RecipientLifecycle;
use crate::state::SandboxState;
use crate::webhook_client::{WebhookResponse, WebhookTarget};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// One request, until it is settled.
#[derive(Debug)]
pub(crate) struct WebhookRequest {
    pub(crate) target: WebhookTarget,
    pub(crate) body: Bytes,
    /// Recipients of the events, one for each event.
    pub(crate) lifecycles: Vec<Arc<RecipientLifecycle>>,
}

/// Posts a request in time or late, as the weather has it.
pub(crate) async fn send_request(state: &Arc<SandboxState>, letter: WebhookRequest) {
    let weather = state.faults.current();
    if weather.hold || weather.delay > 0 || state.brevo.cooldowns.is_active(&letter.target) {
        let delay = Duration::from_secs(weather.delay.into());
        return state.tasks.spawn(send_with_retries(state.clone(), letter, Some(delay)));
    }
    if try_send(state, &letter).await == Some(false) {
        state.tasks.spawn(send_with_retries(state.clone(), letter, None));
    }
}

/// Posts a request again and again, as it is, until it is settled or the provider's patience ends; `late` if it was not
/// posted yet. The stories stay with it.
async fn send_with_retries(state: Arc<SandboxState>, letter: WebhookRequest, late: Option<Duration>) {
    if let Some(late) = late {
        state.faults.wait_released().await;
        tokio::time::sleep(late).await;
        state.brevo.cooldowns.wait(&letter.target).await;
        if try_send(&state, &letter).await != Some(false) {
            return;
        }
    }
    for wait in state.profile.retry_delays() {
        state.time_scale.sleep(*wait).await;
        state.faults.wait_released().await;
        state.brevo.cooldowns.wait(&letter.target).await;
        if try_send(&state, &letter).await != Some(false) {
            return;
        }
    }
    state.captured.update_counters(|tally| tally.lost_events += letter.lifecycles.len() as u64);
}

/// Sends a request. Returns whether it is done; `None` without a target.
async fn try_send(state: &SandboxState, letter: &WebhookRequest) -> Option<bool> {
    let address = state.resolve_target(&letter.target)?;
    let answer = state.webhook_client.post_json(address, letter.body.clone()).await;
    let events = letter.lifecycles.len() as u64;
    state.captured.update_counters(|tally| {
        tally.webhook_requests += 1;
        match answer {
            WebhookResponse::Accepted => tally.accepted_events += events,
            WebhookResponse::Rejected => tally.rejected_events += events,
            WebhookResponse::Retry | WebhookResponse::NoResponse => {}
        }
    });
    if let (Some(pause), WebhookResponse::NoResponse) = (state.profile.no_response_cooldown(), answer) {
        state.brevo.cooldowns.start(&letter.target, state.time_scale.scale(pause));
    }
    Some(!matches!(answer, WebhookResponse::Retry | WebhookResponse::NoResponse))
}
