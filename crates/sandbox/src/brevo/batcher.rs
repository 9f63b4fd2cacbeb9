use crate::lifecycle::RecipientLifecycle;
use crate::state::SandboxState;
use crate::webhook_client::WebhookTarget;
use crate::webhook_delivery::{WebhookRequest, send_request};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Events that wait for others to go with.
#[derive(Debug, Default)]
pub(super) struct EventBatcher(Mutex<HashMap<WebhookTarget, Vec<PendingEvent>>>);

type PendingEvent = (Value, Arc<RecipientLifecycle>);

impl EventBatcher {
    /// Adds an event. With the first one the time begins after which all go; when there are enough, they go at once.
    pub(super) async fn add_event(
        &self,
        state: &Arc<SandboxState>,
        target: WebhookTarget,
        event: Value,
        lifecycle: Arc<RecipientLifecycle>,
    ) {
        let count = {
            let mut all = self.lock();
            let waiting = all.entry(target.clone()).or_default();
            waiting.push((event, lifecycle));
            waiting.len()
        };
        match count {
            1 => state.tasks.spawn(send_after_window(state.clone(), target)),
            MAX_BATCH_EVENTS.. => self.send_batch(state, &target).await,
            _ => {}
        }
    }

    async fn send_batch(&self, state: &Arc<SandboxState>, target: &WebhookTarget) {
        let mut waiting = self.lock().remove(target).unwrap_or_default();
        while !waiting.is_empty() {
            let rest = waiting.split_off(waiting.len().min(MAX_BATCH_EVENTS));
            let (events, lifecycles): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
            // The form of a batch is not documented.
            let body = if state.faults.current().wrap { json!({ "items": events }) } else { json!(events) };
            send_request(
                state,
                WebhookRequest { target: target.clone(), body: body.to_string().into(), lifecycles },
            )
            .await;
            waiting = rest;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WebhookTarget, Vec<PendingEvent>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn send_after_window(state: Arc<SandboxState>, target: WebhookTarget) {
    state.time_scale.sleep(BATCH_WINDOW_SECONDS).await;
    state.faults.wait_released().await;
    state.brevo.batcher.send_batch(&state, &target).await;
}

/// Events of one request.
const MAX_BATCH_EVENTS: usize = 500;
/// Brevo's seconds for which events are gathered at most.
const BATCH_WINDOW_SECONDS: u32 = 300;
