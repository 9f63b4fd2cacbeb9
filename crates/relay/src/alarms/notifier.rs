//! Tells somebody of alarms, by a signed webhook and by mail, also of those that are over.
//!
//! What was told is in memory only: an alarm that is raised again after a restart is told again, and one that ended with
//! the process is not said to be over. The mail takes the queue's way, as all mail does, first by an upstream that no
//! alarm is about. It makes no alarm itself: nobody gets a report on it, and no event is missed for it.

use crate::alarms::email::Post;
use crate::alarms::notification::Bulletin;
use crate::alarms::notification_state::Board;
use crate::alarms::registry::Alarms;
use crate::alarms::retry_queue::Outbox;
use crate::monitoring::Pulse;
use mailtrail_mail::{Clock, Mailbox, TrackingIdGenerator};
use mailtrail_net::{Endpoint, webhook_client};
use mailtrail_store::Store;
use reqwest::header::CONTENT_TYPE;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Who is told, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where it is posted, if anywhere.
    pub webhook: Option<webhook_client::Settings>,
    /// Who gets mail, if anybody.
    pub mail: Option<Letters>,
    /// How long an alarm is on, or off, before it is told. Default 1 min, up to 1 h.
    pub after: Duration,
    /// When one that lasts is told again. Default 24 h, 1 h to 30 days.
    pub repeat: Duration,
}

/// Who gets mail, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letters {
    /// The recipients; at least one.
    pub to: Vec<Mailbox>,
    /// The sender; the upstreams must know its domain.
    pub from: Mailbox,
    /// The upstream that is preferred, unless an alarm is about it; else the first in order that none is about.
    pub upstream: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        let (after, repeat) = (Duration::from_secs(60), Duration::from_secs(86_400));
        Self { webhook: None, mail: None, after, repeat }
    }
}

/// What was told, and what waits to be; of all configurations of a process.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Desk>>);

#[derive(Debug, Default)]
struct Desk {
    board: Board,
    posts: Outbox,
    letters: Outbox,
}

/// What a herald works with.
pub struct Herald {
    /// Where mail is kept.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Where ids come from.
    pub mint: Arc<TrackingIdGenerator>,
    /// Our name.
    pub hostname: String,
    /// What is told.
    pub alarms: Alarms,
    /// Where our own mail is not missed.
    pub pulse: Pulse,
    /// What was told already.
    pub memory: Memory,
    /// The upstreams, in the order of preference.
    pub upstreams: Vec<String>,
    /// Who is told.
    pub settings: Settings,
}

/// The two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Webhook,
    Mail,
}

impl Herald {
    /// Tells until we stop. Of what is under way then nobody knows whether it was heard: the next configuration's
    /// herald tries it again.
    pub async fn run(self, stopping: CancellationToken) {
        let mut endpoint = self.settings.webhook.clone().map(Endpoint::new);
        if endpoint.is_none() {
            self.desk().posts.clear();
        }
        if self.settings.mail.is_none() {
            self.desk().letters.clear();
            if endpoint.is_none() {
                return;
            }
        }
        while stopping.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            self.look();
            let told = async {
                if let Some(endpoint) = &mut endpoint {
                    self.post_all(endpoint).await;
                }
                if let Some(letters) = &self.settings.mail {
                    self.mail_all(letters).await;
                }
            };
            tokio::select! {
                () = told => {}
                () = webhook_client::too_late(&stopping) => return,
            }
        }
    }

    fn look(&self) {
        let Settings { webhook, mail, after, repeat } = &self.settings;
        let (now, mut desk) = (self.clock.now(), self.desk());
        let items = desk.board.look(self.alarms.list(), now, *after, *repeat);
        if items.is_empty() {
            return;
        }
        let id = self.mint.generate(now, fastrand::u128(..));
        let bulletin = Arc::new(Bulletin { id, at: now, items });
        let posted = webhook.as_ref().and_then(|_| desk.posts.add(bulletin.clone()));
        let mailed = mail.as_ref().and_then(|_| desk.letters.add(bulletin));
        drop(desk);
        for (way, displaced) in [(Way::Webhook, posted), (Way::Mail, mailed)] {
            if let Some(displaced) = displaced {
                give_up(way, &displaced, "too much waits to be told");
            }
        }
    }

    async fn post_all(&self, endpoint: &mut Endpoint) {
        while let Some(bulletin) = self.next(Way::Webhook) {
            let posted = self.post(endpoint, &bulletin).await;
            if !self.conclude(Way::Webhook, &bulletin, posted) {
                return;
            }
        }
    }

    async fn mail_all(&self, letters: &Letters) {
        while let Some(bulletin) = self.next(Way::Mail) {
            let post = Post {
                store: &self.store,
                clock: self.clock,
                mint: &self.mint,
                hostname: &self.hostname,
                pulse: &self.pulse,
                letters,
            };
            let first = self.first_upstream(letters);
            let handed_in = post.hand_in(&bulletin, first).await.map_err(|error| error.to_string());
            if !self.conclude(Way::Mail, &bulletin, handed_in) {
                return;
            }
        }
    }

    async fn post(&self, endpoint: &mut Endpoint, bulletin: &Bulletin) -> Result<(), String> {
        let body = bulletin.json(&self.hostname);
        let mut signing = endpoint.sign(&bulletin.name());
        signing.update(body.as_bytes());
        let request = endpoint.post(signing)?.header(CONTENT_TYPE, "application/json").body(body);
        match request.send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("it answers {}", answer.status())),
            Err(error) => Err(webhook_client::cause(error)),
        }
    }

    /// The upstream that mail goes to first: one that no alarm is about, where there is one.
    fn first_upstream(&self, letters: &Letters) -> Option<String> {
        let on = self.alarms.list();
        let is_well = |name: &&String| !on.iter().any(|alarm| alarm.upstream() == Some(name.as_str()));
        let preferred = letters.upstream.iter();
        preferred.chain(&self.upstreams).find(is_well).or(letters.upstream.as_ref()).cloned()
    }

    fn next(&self, way: Way) -> Option<Arc<Bulletin>> {
        let (now, desk) = (self.clock.now(), self.desk());
        match way {
            Way::Webhook => desk.posts.next(now),
            Way::Mail => desk.letters.next(now),
        }
    }

    /// Notes how a try ended; whether the next may be tried.
    fn conclude(&self, way: Way, bulletin: &Bulletin, tried: Result<(), String>) -> bool {
        let (now, mut desk) = (self.clock.now(), self.desk());
        let outbox = match way {
            Way::Webhook => &mut desk.posts,
            Way::Mail => &mut desk.letters,
        };
        let Err(why) = tried else {
            outbox.done();
            count(way, "told");
            return true;
        };
        let (failures, over) = outbox.failed(now);
        drop(desk);
        if over {
            give_up(way, bulletin, &why);
        } else if failures == 1 {
            tracing::warn!(
                way = way.word(),
                why,
                "nobody can be told of alarms that way; it is tried again for a day"
            );
        }
        false
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.memory.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Way {
    const fn word(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Mail => "mail",
        }
    }
}

/// What nobody was told stands in the log.
fn give_up(way: Way, bulletin: &Bulletin, why: &str) {
    count(way, "given-up");
    let names: Vec<_> = bulletin
        .items
        .iter()
        .map(|item| format!("{} {}", item.alarm.kind.word(), item.alarm.subject))
        .collect();
    tracing::error!(
        way = way.word(),
        alarms = names.join(", "),
        why,
        "nobody was told of these alarms; look at webhook_url and mail_to of [alarms]"
    );
}

fn count(way: Way, outcome: &'static str) {
    metrics::counter!("mailtrail_alarm_bulletins_total", "way" => way.word(), "outcome" => outcome)
        .increment(1);
}

/// Time from one look to the next.
const EVERY: Duration = Duration::from_secs(1);
