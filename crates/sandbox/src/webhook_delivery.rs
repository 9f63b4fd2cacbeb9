//! Requests that tell events: in time, late, again and again, or not at all.

use crate::lifecycle::Story;
use crate::state::House;
use crate::webhook_client::{Answer, Target};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// One request, until it is settled.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) target: Target,
    pub(crate) body: Bytes,
    /// Whose events it tells, once for each event.
    pub(crate) stories: Vec<Arc<Story>>,
}

/// Posts a request in time or late, as the weather has it.
pub(crate) async fn post(house: &Arc<House>, letter: Letter) {
    let weather = house.sky.now();
    if weather.hold || weather.delay > 0 || house.brevo.quiet.lasts(&letter.target) {
        let delay = Duration::from_secs(weather.delay.into());
        return house.tasks.spawn(insist(house.clone(), letter, Some(delay)));
    }
    if settled(house, &letter).await == Some(false) {
        house.tasks.spawn(insist(house.clone(), letter, None));
    }
}

/// Posts a request again and again, as it is, until it is settled or the provider's patience ends; `late` if it was not
/// posted yet. The stories stay with it.
async fn insist(house: Arc<House>, letter: Letter, late: Option<Duration>) {
    if let Some(late) = late {
        house.sky.clears().await;
        tokio::time::sleep(late).await;
        house.brevo.quiet.ends(&letter.target).await;
        if settled(&house, &letter).await != Some(false) {
            return;
        }
    }
    for wait in house.face.retries() {
        house.pace.wait(*wait).await;
        house.sky.clears().await;
        house.brevo.quiet.ends(&letter.target).await;
        if settled(&house, &letter).await != Some(false) {
            return;
        }
    }
    house.shelf.count(|tally| tally.lost_events += letter.stories.len() as u64);
}

/// Posts a request and says whether that was it; `None` where nobody listens.
async fn settled(house: &House, letter: &Letter) -> Option<bool> {
    let address = house.address(&letter.target)?;
    let answer = house.webhook.post(address, letter.body.clone()).await;
    let events = letter.stories.len() as u64;
    house.shelf.count(|tally| {
        tally.posts += 1;
        match answer {
            Answer::Taken => tally.taken_events += events,
            Answer::Refused => tally.refused_events += events,
            Answer::Again | Answer::Silence => {}
        }
    });
    if let (Some(pause), Answer::Silence) = (house.face.pause_after_silence(), answer) {
        house.brevo.quiet.begin(&letter.target, house.pace.of(pause));
    }
    Some(!matches!(answer, Answer::Again | Answer::Silence))
}
