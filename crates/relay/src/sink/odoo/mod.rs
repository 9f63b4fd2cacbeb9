//! Shows in Odoo what became of its mail, without a module there.
//!
//! The usual way is a server action that `mailtrail setup odoo` stores in the database (`action.py` beside this file):
//! it takes up to fifty events at once and needs no rights but its own group. The other way needs no set-up: a report
//! (RFC 3464) through Odoo's mail gateway for each recipient that failed for good.
//!
//! An event carries the current state of its recipient, and the action never goes back to an earlier one: a delayed event
//! cannot hide a later one. A call without an answer counts as not done and is repeated: the action changes nothing
//! twice, and before a report is repeated Odoo is asked whether it has it already.
//!
//! Odoo sends mail in a transaction that it commits afterwards. Until then it does not know the message, or holds the
//! rows that are to be written; such an event is delayed alone, and the following ones go on. An event of a send that
//! Odoo repeated (*Resend* keeps the Message-ID) changes nothing any more: Odoo shows one state, which is the last
//! send's.

mod dsn;
mod preflight;
mod status;

pub use preflight::preflight;
pub use status::{Effects, Unsubscribed};

use crate::sink::Delivery;
use crate::sink::event::Item;
use crate::sink::odoo::preflight::Readiness;
use crate::sink::odoo::status::Event;
use mailtrail_mail::{Clock, Timestamp};
use mailtrail_net::odoo::{Action, Client, Fault, Place, run};
use mailtrail_net::{odoo, webhook_client};
use mailtrail_smtp::Reply;
use serde_json::json;
use std::time::Duration;

/// A database that is told, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OdooSettings {
    /// Where it is, and who logs in.
    pub login: odoo::Settings,
    /// Which mail is its own.
    pub place: Place,
    /// How it is told.
    pub way: Way,
    /// The server action's number; `None`: it is looked for by its name.
    pub action: Option<u64>,
    /// What is shown.
    pub effects: Effects,
    /// Our name, for reports.
    pub hostname: String,
}

/// How Odoo is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the server action.
    Action,
    /// By reports through the mail gateway: of failures only.
    Report,
}

/// The server action that shows events.
pub const EVENTS: Action = Action {
    key: "events",
    name: "mailtrail: what became of the mail",
    code: include_str!("action.py"),
    version: 2,
};

pub(super) struct OdooSink {
    settings: OdooSettings,
    clock: Clock,
    client: Option<Client>,
    ready: Option<Readiness>,
    requeue: Requeue,
}

/// When failed mails are made outgoing again next, and how often that is still done.
struct Requeue {
    due: Timestamp,
    left: u32,
}

/// What became of items, each by its place.
#[derive(Default)]
struct Tally {
    refused: Vec<(usize, String)>,
    delayed: Vec<(usize, String)>,
    stopped: Option<(usize, String)>,
}

/// What the server action did with an event.
#[derive(Clone, Copy)]
enum Applied {
    /// All that there was to do.
    Whole,
    /// Nothing: Odoo has no such message.
    Unknown,
    /// Nothing: Odoo may still be sending the mail.
    Later,
}

impl OdooSink {
    pub(super) fn new(settings: OdooSettings, clock: Clock) -> Self {
        let requeue = Requeue { due: clock.now(), left: REQUEUES };
        Self { settings, clock, client: None, ready: None, requeue }
    }

    /// Whether Odoo would do as it is told; asks once.
    pub(super) async fn probe(&mut self) -> Result<(), String> {
        if self.ready.is_none() {
            let ready = preflight::look(&self.settings, connected(&mut self.client, &self.settings)?).await?;
            tracing::info!(
                database = self.settings.login.database,
                version = ready.version,
                "Odoo can be told"
            );
            self.ready = Some(ready);
        }
        Ok(())
    }

    /// Has Odoo send again what failed because the relay was stopping. Odoo may note the failure some time after the
    /// relay is back, so this is done some times.
    pub(super) async fn requeue_failed(&mut self) {
        let now = self.clock.now();
        let Some(action) = self.ready.as_ref().and_then(|ready| ready.action) else { return };
        if self.requeue.left == 0 || now < self.requeue.due {
            return;
        }
        self.requeue = Requeue { due: now.after(REQUEUE_EVERY), left: self.requeue.left - 1 };
        let Ok(client) = connected(&mut self.client, &self.settings) else { return };
        let answer = run(client, action, json!({ "mailtrail_refusal": Reply::Stopping.text() })).await;
        match answer.map(|answer| answer["requeued"].as_u64()) {
            Ok(Some(0) | None) => {}
            Ok(Some(mails)) => tracing::info!(mails, "mails that failed during a stop are outgoing again"),
            Err(error) => tracing::warn!(%error, "cannot make failed mails outgoing again; retrying"),
        }
    }

    /// Delivers all of them.
    pub(super) async fn deliver(&mut self, items: &[Item]) -> Delivery {
        let mut tally = Tally::default();
        if let Err(why) = self.probe().await {
            tally.stop(0, why);
            return tally.close(items.len());
        }
        match self.settings.way {
            Way::Action => self.act(items, &mut tally).await,
            Way::Report => self.report(items, &mut tally).await,
        }
        tally.close(items.len())
    }

    async fn act(&mut self, items: &[Item], tally: &mut Tally) {
        let events = |(place, item)| {
            let young = self.is_young(item);
            status::of(item, &self.settings, young).into_iter().map(move |event| (place, event))
        };
        let work: Vec<(usize, Event)> = items.iter().enumerate().flat_map(events).collect();
        for batch in work.chunks(AT_ONCE) {
            match self.tell(batch).await {
                Ok(applied) => self.note(items, batch, &applied, tally),
                Err(fault) if fault.is_final() => {
                    // One of them is poison, or all of them are.
                    for single in batch.chunks(1) {
                        match self.tell(single).await {
                            Ok(applied) => self.note(items, single, &applied, tally),
                            Err(fault) if self.is_own(single[0].0, &fault, tally).await => {}
                            Err(_) => return,
                        }
                    }
                }
                Err(fault) => {
                    self.is_own(batch[0].0, &fault, tally).await;
                    return;
                }
            }
        }
    }

    /// Sends some events; returns what the action did with each.
    async fn tell(&mut self, batch: &[(usize, Event)]) -> Result<Vec<Applied>, Fault> {
        let Some(action) = self.ready.as_ref().and_then(|ready| ready.action) else { return Ok(Vec::new()) };
        let client = connected(&mut self.client, &self.settings).map_err(Fault::Setup)?;
        let events: Vec<_> = batch.iter().map(|(_, event)| event).collect();
        let answer = run(client, action, json!({ "mailtrail_events": events })).await?;
        let results = answer["results"].as_array().map(Vec::as_slice).unwrap_or_default();
        if results.len() != batch.len() {
            let text =
                format!("{} answers to {} events; run `mailtrail setup odoo`", results.len(), batch.len());
            return Err(Fault::Missing { what: "the server action".to_owned(), text });
        }
        let applied = results.iter().map(|result| match result.as_str() {
            Some("unknown") => Applied::Unknown,
            Some("later") => Applied::Later,
            _ => Applied::Whole,
        });
        Ok(applied.collect())
    }

    fn note(&self, items: &[Item], batch: &[(usize, Event)], applied: &[Applied], tally: &mut Tally) {
        for ((place, event), applied) in batch.iter().zip(applied) {
            let item = &items[*place];
            match applied {
                Applied::Unknown if self.is_young(item) => tally.delay(*place, unknown(&event.message_id)),
                Applied::Later if self.clock.now().since(item.entry.written) < LONGEST_SENDING => {
                    tally.delay(*place, format!("Odoo still sends {}", event.message_id));
                }
                Applied::Later => {
                    let why = "given up: Odoo still sends that mail; look at its outgoing mails";
                    tally.refused.push((*place, why.to_owned()));
                }
                Applied::Unknown | Applied::Whole => {}
            }
        }
    }

    /// Notes a fault with an item: whether it is the item's own, and Odoo still does as it is told otherwise.
    async fn is_own(&mut self, place: usize, fault: &Fault, tally: &mut Tally) -> bool {
        let rights = matches!(fault, Fault::Denied { .. } | Fault::Missing { .. } | Fault::Login(_));
        if rights || fault.is_final() {
            self.ready = None;
        }
        let own = fault.is_final() && self.probe().await.is_ok();
        if own {
            tally.refused.push((place, fault.to_string()));
        } else {
            tally.stop(place, fault.to_string());
        }
        own
    }

    fn is_young(&self, item: &Item) -> bool {
        let accepted = item.trail.as_ref().map(|trail| trail.send.id.timestamp());
        accepted.is_some_and(|accepted| self.clock.now().since(accepted) < UNCOMMITTED)
    }
}

impl Tally {
    /// Odoo takes nothing for now, from the item at that place on.
    fn stop(&mut self, place: usize, why: String) {
        if self.stopped.as_ref().is_none_or(|(first, _)| place < *first) {
            self.stopped = Some((place, why));
        }
    }

    /// The item at that place, and no other, is not taken for now.
    fn delay(&mut self, place: usize, why: String) {
        self.delayed.push((place, why));
    }

    fn close(mut self, all: usize) -> Delivery {
        let done = self.stopped.as_ref().map_or(all, |(place, _)| *place);
        self.delayed.retain(|(place, _)| *place < done);
        self.delayed.dedup_by_key(|(place, _)| *place);
        let comes_again = |place| place >= done || self.delayed.iter().any(|(delayed, _)| *delayed == place);
        // An item that comes again is refused again.
        self.refused.retain(|(place, _)| !comes_again(*place));
        self.refused.dedup_by_key(|(place, _)| *place);
        Delivery {
            done,
            refused: self.refused,
            delayed: self.delayed,
            later: self.stopped.map(|(_, why)| why),
        }
    }
}

/// The client, made when it is needed first.
fn connected<'a>(client: &'a mut Option<Client>, settings: &OdooSettings) -> Result<&'a mut Client, String> {
    if client.is_none() {
        *client = Some(webhook_client::odoo(&settings.login)?);
    }
    client.as_mut().ok_or_else(|| "no connection to Odoo can be made".to_owned())
}

fn unknown(message_id: &str) -> String {
    format!("Odoo does not know {message_id} yet")
}

/// Events in one call.
const AT_ONCE: usize = 50;
/// How long after a mail was accepted Odoo may still have to commit it.
const UNCOMMITTED: Duration = Duration::from_secs(600);
/// How long an event is delayed because Odoo still sends its mail.
const LONGEST_SENDING: Duration = Duration::from_secs(86_400);
/// Calls for failed mails after a start, and the time between two.
const REQUEUES: u32 = 10;
const REQUEUE_EVERY: Duration = Duration::from_secs(60);
