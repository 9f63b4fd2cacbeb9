//! Brevo: what it tells, to whom, and its API.
//!
//! An event goes to the webhooks that ask for its kind, one to a request or gathered, each with the proof that it was
//! made with. What is answered with anything but 200 and 429 is never told again.

mod batcher;
mod blocked_contacts;
mod cooldown;
mod event;
mod router;
mod statistics;
mod time_zone;
mod webhook_registry;
mod webhooks;

pub(crate) use event::{data, logged};
pub(crate) use router::router;

use crate::brevo::batcher::Batches;
use crate::brevo::cooldown::Quiet;
use crate::brevo::webhook_registry::Hooks;
use crate::lifecycle::Story;
use crate::state::House;
use crate::webhook_client::Target;
use crate::webhook_delivery::{Letter, post};
use mailtrail_mail::Timestamp;
use serde_json::{Map, Value};
use std::sync::Arc;

/// What only Brevo keeps.
#[derive(Debug, Default)]
pub(crate) struct Brevo {
    pub(crate) hooks: Hooks,
    pub(crate) quiet: Quiet,
    batches: Batches,
}

/// What a message without a Message-ID is called.
pub(crate) fn made_up_id(now: Timestamp) -> String {
    let minute: String = time_zone::date(now)[..16].chars().filter(char::is_ascii_digit).collect();
    format!("{minute}.{}@smtp-relay.mailin.fr", fastrand::u64(10_000_000_000..100_000_000_000))
}

/// Tells an event to the configured address and to the webhooks that were made for its kind.
pub(crate) async fn tell(house: &Arc<House>, story: &Arc<Story>, data: &Map<String, Value>) {
    let word = data.get("event").and_then(Value::as_str).unwrap_or_default();
    let configured = house.webhook.url().map(|_| (Target::Configured, false));
    let made = house.brevo.hooks.of(word).into_iter().map(|(id, batched)| (Target::Brevo(id), batched));
    for (target, batched) in configured.into_iter().chain(made) {
        if house.loses() {
            continue;
        }
        let data = Value::Object(data.clone());
        if batched {
            house.brevo.batches.add(house, target, data, story.clone()).await;
        } else {
            let (body, stories) = (data.to_string().into(), vec![story.clone()]);
            post(house, Letter { target, body, stories }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_id_names_the_minute_of_the_account() {
        let id = made_up_id(Timestamp::from_seconds(1_789_387_203));
        let number = id.strip_prefix("202609141400.").unwrap().strip_suffix("@smtp-relay.mailin.fr").unwrap();
        assert!(number.len() == 11 && number.bytes().all(|byte| byte.is_ascii_digit()), "{id}");
    }
}
