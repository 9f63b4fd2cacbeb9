//! Shows in Odoo what became of its mail, without a module there.
//!
//! The usual way is a server action that `mailtrail setup odoo` stores in the database (`action.py` beside this file):
//! it takes up to fifty events at once and needs no rights but its own group. The other way needs no set-up: a report
//! (RFC 3464) through Odoo's mail gateway for each recipient that failed for good.
//!
//! An event says where its recipient stands *now*, so whoever hears the last one knows the end, and the action never
//! goes back. A call without an answer counts as not done and is repeated: the action does nothing twice, and before a
//! report is repeated Odoo is asked whether it has it already. A message that Odoo does not know yet (it sends before
//! it commits) holds up what is behind it in the journal for half a minute at most; its neighbours are told meanwhile.

mod effect;
mod preflight;
mod report;

pub use effect::{Effects, Unsubscribed};
pub use preflight::preflight;

use super::{Delivery, Item};
use crate::clock::Clock;
use crate::endpoint;
use crate::odoo::{self, Client, Fault, Place};
use effect::Event;
use preflight::Readiness;
use serde_json::{Value, json};
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

/// The server action's code.
pub const ACTION: &str = include_str!("action.py");
/// What the server action is called.
pub const ACTION_NAME: &str = "mailtrail: what became of the mail";
/// The group whose members may run it.
pub const GROUP_NAME: &str = "mailtrail: tells what became of the mail";
/// The version that the code names in its first line and in its answers.
pub const VERSION: u64 = 1;

pub(super) struct OdooSink {
    settings: OdooSettings,
    clock: Clock,
    client: Option<Client>,
    ready: Option<Readiness>,
}

/// What became of items, each by its place.
#[derive(Default)]
struct Tally {
    refused: Vec<(usize, String)>,
    waits: Option<(usize, String)>,
}

impl OdooSink {
    pub(super) fn new(settings: OdooSettings, clock: Clock) -> Self {
        Self { settings, clock, client: None, ready: None }
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

    /// Tells all of them.
    pub(super) async fn deliver(&mut self, items: &[Item]) -> Delivery {
        let mut tally = Tally::default();
        if let Err(why) = self.probe().await {
            tally.wait(0, why);
            return tally.close(items.len());
        }
        match self.settings.way {
            Way::Action => self.act(items, &mut tally).await,
            Way::Report => self.report(items, &mut tally).await,
        }
        tally.close(items.len())
    }

    async fn act(&mut self, items: &[Item], tally: &mut Tally) {
        let events =
            |(place, item)| effect::of(item, &self.settings).into_iter().map(move |event| (place, event));
        let work: Vec<(usize, Event)> = items.iter().enumerate().flat_map(events).collect();
        for batch in work.chunks(AT_ONCE) {
            match self.tell(batch).await {
                Ok(known) => self.note(items, batch, &known, tally),
                Err(fault) if fault.is_final() => {
                    // One of them is poison, or all of them are.
                    for single in batch.chunks(1) {
                        match self.tell(single).await {
                            Ok(known) => self.note(items, single, &known, tally),
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

    /// Tells some events; says of each whether Odoo knows the mail.
    async fn tell(&mut self, batch: &[(usize, Event)]) -> Result<Vec<bool>, Fault> {
        let Some(action) = self.ready.as_ref().and_then(|ready| ready.action) else { return Ok(Vec::new()) };
        let client = connected(&mut self.client, &self.settings).map_err(Fault::Setup)?;
        let events: Vec<_> = batch.iter().map(|(_, event)| event).collect();
        let answer = run(client, action, json!(events)).await?;
        let results = answer["results"].as_array().map(Vec::as_slice).unwrap_or_default();
        if results.len() != batch.len() {
            let text =
                format!("{} answers to {} events; run `mailtrail setup odoo`", results.len(), batch.len());
            return Err(Fault::Missing { what: "the server action".to_owned(), text });
        }
        Ok(results.iter().map(|result| result != "unknown").collect())
    }

    fn note(&self, items: &[Item], batch: &[(usize, Event)], known: &[bool], tally: &mut Tally) {
        for ((place, event), known) in batch.iter().zip(known) {
            if !known && self.is_young(&items[*place]) {
                tally.wait(*place, unknown(&event.message_id));
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
            tally.wait(place, fault.to_string());
        }
        own
    }

    fn is_young(&self, item: &Item) -> bool {
        let accepted = item.trail.as_ref().map(|trail| trail.send.id.timestamp());
        accepted.is_some_and(|accepted| self.clock.now().since(accepted) < UNCOMMITTED)
    }
}

impl Tally {
    /// The item at that place is not taken for now.
    fn wait(&mut self, place: usize, why: String) {
        if self.waits.as_ref().is_none_or(|(first, _)| place < *first) {
            self.waits = Some((place, why));
        }
    }

    fn close(self, all: usize) -> Delivery {
        let done = self.waits.as_ref().map_or(all, |(place, _)| *place);
        // What was refused behind that is offered, and refused, again.
        let mut refused: Vec<_> = self.refused.into_iter().filter(|(place, _)| *place < done).collect();
        refused.dedup_by_key(|(place, _)| *place);
        Delivery { done, refused, later: self.waits.map(|(_, why)| why) }
    }
}

/// The client, made when it is needed first.
fn connected<'a>(client: &'a mut Option<Client>, settings: &OdooSettings) -> Result<&'a mut Client, String> {
    if client.is_none() {
        *client = Some(endpoint::odoo(&settings.login)?);
    }
    client.as_mut().ok_or_else(|| "no connection to Odoo can be made".to_owned())
}

/// Runs the server action.
async fn run(client: &mut Client, action: u64, events: Value) -> Result<Value, Fault> {
    client
        .call(
            "ir.actions.server",
            "run",
            json!([[action]]),
            json!({ "context": { "mailtrail_events": events } }),
        )
        .await
}

fn unknown(message_id: &str) -> String {
    format!("Odoo does not know {message_id} yet")
}

/// Events in one call.
const AT_ONCE: usize = 50;
/// How long after a mail was accepted Odoo may still have to commit it.
const UNCOMMITTED: Duration = Duration::from_secs(30);
