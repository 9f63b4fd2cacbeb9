use super::event::{self, Happening};
use super::facts::Facts;
use super::fate::Fate;
use super::hooks;
use super::house::{House, date};
use super::webhook::{Answer, Target};
use super::{Face, brevo};
use crate::clock::Timestamp;
use crate::mail::Mailbox;
use bytes::Bytes;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;
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
/// posted again, or late, are overtaken.
pub(super) async fn tell(house: Arc<House>, story: Arc<Story>) {
    let (mut delivered_at, mut opened) = (None, false);
    for (wait, happening) in steps(&house, &story) {
        house.pace.wait(wait).await;
        let stamp = house.stamp();
        let at = event::seconds(stamp);
        let data = match house.face {
            Face::Mailgun => event::data(&story, happening, at, delivered_at),
            Face::Brevo => {
                let data = brevo::data(&story, happening, Timestamp::from_millis(stamp / 1000), opened);
                opened |= happening == Happening::Opened;
                data
            }
        };
        if happening == Happening::Delivered {
            delivered_at = Some(at);
        }
        house.shelf.count(|tally| tally.events += 1);
        house.log.put(stamp, house.appears(), &data);
        house.suppressions.note(happening, &story.recipient, &date(house.clock.now()));
        for target in targets(&house, &data) {
            let body = house.webhook.sign(data.clone(), at as u64);
            post(&house, &story, target, body).await;
        }
    }
}

/// What happens, and Mailgun's seconds before each of it.
fn steps(house: &House, story: &Story) -> Vec<(u32, Happening)> {
    let fate = Fate::of(&story.recipient);
    let suppressed = house.suppressions.against(&story.recipient, &story.facts.tags);
    match suppressed {
        _ if story.facts.drop => event::TEST_MODE.to_vec(),
        Some(suppressed) => vec![(0, Happening::Accepted), (1, suppressed)],
        None => fate.steps().to_vec(),
    }
}

/// Where an event goes: to the configured address, and to those that are registered for its type; none twice.
fn targets(house: &House, data: &Map<String, Value>) -> Vec<Target> {
    let mut targets = Vec::new();
    let configured = house.webhook.url();
    if configured.is_some() {
        targets.push(Target::Configured);
    }
    let registered = hooks::kind_of(data).map(|kind| house.hooks.of(kind)).unwrap_or_default();
    let others = registered.into_iter().filter(|url| configured.as_ref() != Some(url));
    targets.extend(others.map(Target::Registered));
    targets
}

/// Posts an event in time, late, or not at all, as the weather has it.
async fn post(house: &Arc<House>, story: &Arc<Story>, target: Target, body: Bytes) {
    let weather = house.sky.now();
    if fastrand::f64() < weather.lose {
        house.shelf.count(|tally| tally.lost_events += 1);
        return;
    }
    if weather.hold || weather.delay > 0 {
        let delay = Duration::from_secs(weather.delay.into());
        return house.tasks.spawn(insist(house.clone(), story.clone(), target, body, Some(delay)));
    }
    if settled(house, &target, &body).await == Some(false) {
        house.tasks.spawn(insist(house.clone(), story.clone(), target, body, None));
    }
}

/// Posts an event again and again, as it is, until it is settled or Mailgun's patience ends; `late` if it was not posted
/// yet. The story stays with it.
async fn insist(house: Arc<House>, _story: Arc<Story>, target: Target, body: Bytes, late: Option<Duration>) {
    if let Some(late) = late {
        house.sky.clears().await;
        tokio::time::sleep(late).await;
        if settled(&house, &target, &body).await != Some(false) {
            return;
        }
    }
    for wait in house.face.retries() {
        house.pace.wait(*wait).await;
        house.sky.clears().await;
        if settled(&house, &target, &body).await != Some(false) {
            return;
        }
    }
    house.shelf.count(|tally| tally.lost_events += 1);
}

/// Posts an event and says whether that was it; `None` where nobody listens.
async fn settled(house: &House, target: &Target, body: &Bytes) -> Option<bool> {
    let answer = house.webhook.post(target, body.clone()).await?;
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
