use super::event;
use super::facts::Facts;
use super::fate::Fate;
use super::house::House;
use super::webhook::{Answer, RETRIES};
use crate::mail::Mailbox;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// One recipient of a message, until the last of its events is settled.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) facts: Arc<Facts>,
    pub(super) recipient: Mailbox,
    /// Its place among those that the sandbox keeps.
    _place: OwnedSemaphorePermit,
}

impl Story {
    pub(super) fn new(facts: Arc<Facts>, recipient: Mailbox, place: OwnedSemaphorePermit) -> Self {
        Self { facts, recipient, _place: place }
    }
}

/// Lets everything happen in its order. Each event is posted once before the next one happens; those that have to be
/// posted again are overtaken.
pub(super) async fn tell(house: Arc<House>, story: Arc<Story>) {
    let fate = Fate::of(&story.recipient);
    let steps = if story.facts.drop { event::TEST_MODE } else { fate.steps() };
    let mut delivered_at = None;
    for &(wait, happening) in steps {
        house.pace.wait(wait).await;
        let at = event::seconds(house.stamp());
        let data = event::data(&story, happening, at, delivered_at);
        if happening == event::Happening::Delivered {
            delivered_at = Some(at);
        }
        house.shelf.count(|tally| tally.events += 1);
        let body = house.webhook.sign(data, at as u64);
        if settled(&house, &body).await == Some(false) {
            house.tasks.spawn(insist(house.clone(), story.clone(), body));
        }
    }
}

/// Posts an event again and again, as it is, until it is settled or Mailgun's patience ends. The story stays with it.
async fn insist(house: Arc<House>, _story: Arc<Story>, body: Bytes) {
    for wait in RETRIES {
        house.pace.wait(wait).await;
        if settled(&house, &body).await != Some(false) {
            return;
        }
    }
    house.shelf.count(|tally| tally.lost_events += 1);
}

/// Posts an event and says whether that was it; `None` where nobody listens.
async fn settled(house: &House, body: &Bytes) -> Option<bool> {
    let answer = house.webhook.post(body.clone()).await?;
    house.shelf.count(|tally| {
        tally.posts += 1;
        match answer {
            Answer::Taken => tally.taken_events += 1,
            Answer::Refused => tally.refused_events += 1,
            Answer::Again => {}
        }
    });
    Some(answer != Answer::Again)
}
