use crate::brevo;
use crate::mailgun::{Happening, event, webhook_registry};
use crate::message_facts::Facts;
use crate::profile::Face;
use crate::scenario::Fate;
use crate::state::{House, date};
use crate::webhook_client::Target;
use crate::webhook_delivery::{Letter, post};
use mailtrail_mail::{Mailbox, Timestamp};
use serde_json::{Map, Value};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// One recipient of a message, until the last of its events is settled.
#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) facts: Arc<Facts>,
    pub(crate) recipient: Mailbox,
    /// Its place among those that the sandbox keeps.
    _place: OwnedSemaphorePermit,
}

impl Story {
    pub(crate) fn new(facts: Arc<Facts>, recipient: Mailbox, place: OwnedSemaphorePermit) -> Self {
        Self { facts, recipient, _place: place }
    }
}

/// Lets everything happen in its order. Each event is posted once before the next one happens; those that have to be
/// posted again, or late, are overtaken.
pub(crate) async fn tell(house: Arc<House>, story: Arc<Story>) {
    let mut delivered_at = None;
    for (wait, happening) in steps(&house, &story) {
        house.pace.wait(wait).await;
        let stamp = house.stamp();
        house.shelf.count(|tally| tally.events += 1);
        house.suppressions.note(happening, &story.recipient, &date(house.clock.now()));
        match house.face {
            Face::Mailgun => {
                let at = event::seconds(stamp);
                let data = event::data(&story, happening, at, delivered_at);
                if happening == Happening::Delivered {
                    delivered_at = Some(at);
                }
                house.log.put(stamp, house.appears(), &data);
                tell_mailguns(&house, &story, &data, at as u64).await;
            }
            Face::Brevo => {
                let data = brevo::data(&story, happening, Timestamp::from_millis(stamp / 1000));
                house.log.put(stamp, house.appears(), &brevo::logged(&story, &data));
                brevo::tell(&house, &story, &data).await;
            }
        }
    }
}

/// What happens, and the provider's seconds before each of it.
fn steps(house: &House, story: &Story) -> Vec<(u32, Happening)> {
    let fate = Fate::of(&story.recipient);
    let suppressed = house.suppressions.against(&story.recipient, &story.facts.tags);
    match suppressed {
        _ if story.facts.drop && house.face == Face::Mailgun => event::TEST_MODE.to_vec(),
        Some(suppressed) => vec![(0, Happening::Accepted), (1, suppressed)],
        None => fate.steps(house.face).to_vec(),
    }
}

async fn tell_mailguns(house: &Arc<House>, story: &Arc<Story>, data: &Map<String, Value>, now: u64) {
    for target in targets(house, data) {
        if !house.loses() {
            let body = house.webhook.sign(data.clone(), now);
            post(house, Letter { target, body, stories: vec![story.clone()] }).await;
        }
    }
}

/// Where an event of Mailgun's goes: to the configured address, and to those that are registered for its type; none
/// twice.
fn targets(house: &House, data: &Map<String, Value>) -> Vec<Target> {
    let mut targets = Vec::new();
    let configured = house.webhook.url();
    if configured.is_some() {
        targets.push(Target::Configured);
    }
    let registered = webhook_registry::kind_of(data).map(|kind| house.hooks.of(kind)).unwrap_or_default();
    let others = registered.into_iter().filter(|url| configured.as_ref() != Some(url));
    targets.extend(others.map(Target::Registered));
    targets
}
