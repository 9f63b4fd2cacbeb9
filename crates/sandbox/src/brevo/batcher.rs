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
        house: &Arc<SandboxState>,
        target: WebhookTarget,
        event: Value,
        story: Arc<RecipientLifecycle>,
    ) {
        let count = {
            let mut all = self.lock();
            let waiting = all.entry(target.clone()).or_default();
            waiting.push((event, story));
            waiting.len()
        };
        match count {
            1 => house.tasks.spawn(send_after_window(house.clone(), target)),
            MAX_BATCH_EVENTS.. => self.send_batch(house, &target).await,
            _ => {}
        }
    }

    async fn send_batch(&self, house: &Arc<SandboxState>, target: &WebhookTarget) {
        let mut waiting = self.lock().remove(target).unwrap_or_default();
        while !waiting.is_empty() {
            let rest = waiting.split_off(waiting.len().min(MAX_BATCH_EVENTS));
            let (events, lifecycles): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
            // Nobody has published the shape.
            let body = if house.faults.current().wrap { json!({ "items": events }) } else { json!(events) };
            send_request(
                house,
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

async fn send_after_window(house: Arc<SandboxState>, target: WebhookTarget) {
    house.time_scale.sleep(BATCH_WINDOW_SECONDS).await;
    house.faults.wait_released().await;
    house.brevo.batcher.send_batch(&house, &target).await;
}

/// Events of one request.
const MAX_BATCH_EVENTS: usize = 500;
/// Brevo's seconds for which events are gathered at most.
const BATCH_WINDOW_SECONDS: u32 = 300;
