use crate::lifecycle::Story;
use crate::state::House;
use crate::webhook_client::Target;
use crate::webhook_delivery::{Letter, post};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Events that wait for others to go with.
#[derive(Debug, Default)]
pub(super) struct Batches(Mutex<HashMap<Target, Vec<Waiting>>>);

type Waiting = (Value, Arc<Story>);

impl Batches {
    /// Adds an event. With the first one the time begins after which all go; when there are enough, they go at once.
    pub(super) async fn add(&self, house: &Arc<House>, target: Target, event: Value, story: Arc<Story>) {
        let count = {
            let mut all = self.all();
            let waiting = all.entry(target.clone()).or_default();
            waiting.push((event, story));
            waiting.len()
        };
        match count {
            1 => house.tasks.spawn(send_later(house.clone(), target)),
            MOST.. => self.send(house, &target).await,
            _ => {}
        }
    }

    async fn send(&self, house: &Arc<House>, target: &Target) {
        let mut waiting = self.all().remove(target).unwrap_or_default();
        while !waiting.is_empty() {
            let rest = waiting.split_off(waiting.len().min(MOST));
            let (events, stories): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
            // Nobody has published the shape.
            let body = if house.sky.now().wrap { json!({ "items": events }) } else { json!(events) };
            post(house, Letter { target: target.clone(), body: body.to_string().into(), stories }).await;
            waiting = rest;
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Target, Vec<Waiting>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn send_later(house: Arc<House>, target: Target) {
    house.pace.wait(GATHERING).await;
    house.sky.clears().await;
    house.brevo.batches.send(&house, &target).await;
}

/// Events of one request.
const MOST: usize = 500;
/// Brevo's seconds for which events are gathered at most.
const GATHERING: u32 = 300;
