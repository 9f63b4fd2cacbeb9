//! Shows the delivery status of Odoo's mail in Odoo, without a module there.
//!
//! The usual mode is a server action that `mailtrail setup odoo` stores in the database (`action.py` in
//! this directory). It accepts up to fifty events per call and needs no rights but its own group. The other
//! mode needs no set-up: a DSN (RFC 3464) through Odoo's mail gateway for each recipient that failed
//! permanently.
//!
//! An event carries the current state of its recipient, and the action never returns to an earlier one: a
//! delayed event cannot hide a later one. A call without a response counts as failed and is repeated. The
//! action is idempotent, and before a DSN is repeated Odoo is queried for it.
//!
//! Odoo sends mail in a transaction that it commits afterwards. Until then the message is not visible, or
//! the rows to be written are locked. Such an event is delayed alone, and the following ones go on. An
//! event of a message that Odoo has sent again (*Resend* keeps the Message-ID) changes nothing any more:
//! Odoo shows one state, which is that of the last message. send's.

mod dsn;
mod preflight;
mod settings;
mod status;

pub use preflight::run_preflight;
pub use settings::{EVENTS_ACTION, OdooMode, OdooSettings, OdooStatusOptions, UnsubscribeAction};

use crate::sink::delivery_result::DeliveryResult;
use crate::sink::event::SinkEvent;
use crate::sink::odoo::preflight::{Readiness, client_or_connect};
use crate::sink::odoo::status::OdooEvent;
use mailtrail_mail::{Clock, Timestamp};
use mailtrail_net::odoo::{OdooClient, OdooError, run_action};
use mailtrail_smtp::Reply;
use serde_json::json;
use std::time::Duration;

pub(super) struct OdooSink {
    settings: OdooSettings,
    clock: Clock,
    client: Option<OdooClient>,
    readiness: Option<Readiness>,
    requeue: RequeueSchedule,
}

/// Schedule of requeuing failed mail: next time and number of calls left.
struct RequeueSchedule {
    due: Timestamp,
    remaining: u32,
}

/// Result of a batch, by index of the event.
#[derive(Default)]
struct BatchResult {
    rejected: Vec<(usize, String)>,
    delayed: Vec<(usize, String)>,
    first_deferred: Option<(usize, String)>,
}

/// Effect of the server action on an event.
#[derive(Clone, Copy)]
enum EventResult {
    /// Applied completely.
    Applied,
    /// No effect: Odoo has no such message.
    UnknownMessage,
    /// No effect: Odoo may still be sending the mail.
    StillSending,
}

impl OdooSink {
    pub(super) fn new(settings: OdooSettings, clock: Clock) -> Self {
        let requeue = RequeueSchedule { due: clock.now(), remaining: MAX_REQUEUES };
        Self { settings, clock, client: None, readiness: None, requeue }
    }

    /// Checks whether Odoo is ready; queries it once.
    pub(super) async fn check_readiness(&mut self) -> Result<(), String> {
        if self.readiness.is_none() {
            let ready = preflight::check_readiness(
                &self.settings,
                client_or_connect(&mut self.client, &self.settings)?,
            )
            .await?;
            tracing::info!(database = self.settings.login.database, version = ready.version, "Odoo is ready");
            self.readiness = Some(ready);
        }
        Ok(())
    }

    /// Has Odoo send again mail that failed because the relay was stopping. Odoo may record the failure
    /// some time after the relay is back, so this is repeated a few times.
    pub(super) async fn requeue_failed(&mut self) {
        let now = self.clock.now();
        let Some(action) = self.readiness.as_ref().and_then(|ready| ready.action_id) else { return };
        if self.requeue.remaining == 0 || now < self.requeue.due {
            return;
        }
        self.requeue = RequeueSchedule {
            due: now.saturating_add(REQUEUE_INTERVAL),
            remaining: self.requeue.remaining - 1,
        };
        let Ok(client) = client_or_connect(&mut self.client, &self.settings) else { return };
        let answer =
            run_action(client, action, json!({ "mailtrail_refusal": Reply::ShuttingDown.to_text() })).await;
        match answer.map(|answer| answer["requeued"].as_u64()) {
            Ok(Some(0) | None) => {}
            Ok(Some(mails)) => tracing::info!(mails, "requeued mails that failed during a stop"),
            Err(error) => tracing::warn!(%error, "cannot requeue failed mails; retrying"),
        }
    }

    /// Delivers all events.
    pub(super) async fn deliver(&mut self, items: &[SinkEvent]) -> DeliveryResult {
        let mut batch_result = BatchResult::default();
        if let Err(why) = self.check_readiness().await {
            batch_result.defer_from(0, why);
            return batch_result.into_delivery(items.len());
        }
        match self.settings.mode {
            OdooMode::Action => self.run_action(items, &mut batch_result).await,
            OdooMode::Dsn => self.send_dsns(items, &mut batch_result).await,
        }
        batch_result.into_delivery(items.len())
    }

    async fn run_action(&mut self, items: &[SinkEvent], batch_result: &mut BatchResult) {
        let events = |(index, item)| {
            let young = self.is_recent(item);
            status::status_events(item, &self.settings, young).into_iter().map(move |event| (index, event))
        };
        let work: Vec<(usize, OdooEvent)> = items.iter().enumerate().flat_map(events).collect();
        for batch in work.chunks(EVENTS_PER_CALL) {
            match self.send_events(batch).await {
                Ok(applied) => self.record_results(items, batch, &applied, batch_result),
                Err(fault) if fault.is_permanent() => {
                    // One of them is invalid, or all of them are.
                    for single in batch.chunks(1) {
                        match self.send_events(single).await {
                            Ok(applied) => self.record_results(items, single, &applied, batch_result),
                            Err(fault) if self.is_event_error(single[0].0, &fault, batch_result).await => {}
                            Err(_) => return,
                        }
                    }
                }
                Err(fault) => {
                    self.is_event_error(batch[0].0, &fault, batch_result).await;
                    return;
                }
            }
        }
    }

    /// Sends a batch of events; returns the action's effect on each.
    async fn send_events(&mut self, batch: &[(usize, OdooEvent)]) -> Result<Vec<EventResult>, OdooError> {
        let Some(action) = self.readiness.as_ref().and_then(|ready| ready.action_id) else {
            return Ok(Vec::new());
        };
        let client = client_or_connect(&mut self.client, &self.settings).map_err(OdooError::ClientSetup)?;
        let events: Vec<_> = batch.iter().map(|(_, event)| event).collect();
        let answer = run_action(client, action, json!({ "mailtrail_events": events })).await?;
        let results = answer["results"].as_array().map(Vec::as_slice).unwrap_or_default();
        if results.len() != batch.len() {
            let text =
                format!("{} answers to {} events; run `mailtrail setup odoo`", results.len(), batch.len());
            return Err(OdooError::NotFound { operation: "the server action".to_owned(), text });
        }
        let applied = results.iter().map(|result| match result.as_str() {
            Some("unknown") => EventResult::UnknownMessage,
            Some("later") => EventResult::StillSending,
            _ => EventResult::Applied,
        });
        Ok(applied.collect())
    }

    fn record_results(
        &self,
        items: &[SinkEvent],
        batch: &[(usize, OdooEvent)],
        applied: &[EventResult],
        batch_result: &mut BatchResult,
    ) {
        for ((index, event), applied) in batch.iter().zip(applied) {
            let item = &items[*index];
            match applied {
                EventResult::UnknownMessage if self.is_recent(item) => {
                    batch_result.delay_event(*index, unknown_message_text(&event.message_id))
                }
                EventResult::StillSending
                    if self.clock.now().duration_since(item.entry.recorded_at) < MAX_SENDING_DELAY =>
                {
                    batch_result.delay_event(*index, format!("Odoo still sends {}", event.message_id));
                }
                EventResult::StillSending => {
                    let why = "given up: Odoo still sends that mail; check its outgoing mails";
                    batch_result.rejected.push((*index, why.to_owned()));
                }
                EventResult::UnknownMessage | EventResult::Applied => {}
            }
        }
    }

    /// Records an error of an event. Returns whether it is the event's own, so that Odoo still accepts
    /// others.
    async fn is_event_error(
        &mut self,
        index: usize,
        fault: &OdooError,
        batch_result: &mut BatchResult,
    ) -> bool {
        let rights = matches!(
            fault,
            OdooError::AccessDenied { .. } | OdooError::NotFound { .. } | OdooError::LoginRejected(_)
        );
        if rights || fault.is_permanent() {
            self.readiness = None;
        }
        let own = fault.is_permanent() && self.check_readiness().await.is_ok();
        if own {
            batch_result.rejected.push((index, fault.to_string()));
        } else {
            batch_result.defer_from(index, fault.to_string());
        }
        own
    }

    fn is_recent(&self, item: &SinkEvent) -> bool {
        let accepted = item.trail.as_ref().map(|trail| trail.message.id.timestamp());
        accepted.is_some_and(|accepted| self.clock.now().duration_since(accepted) < MAX_COMMIT_DELAY)
    }
}

impl BatchResult {
    /// Defers the event at that index and all later ones: Odoo accepts nothing for now.
    fn defer_from(&mut self, index: usize, why: String) {
        if self.first_deferred.as_ref().is_none_or(|(first, _)| index < *first) {
            self.first_deferred = Some((index, why));
        }
    }

    /// Delays only the event at that index.
    fn delay_event(&mut self, index: usize, why: String) {
        self.delayed.push((index, why));
    }

    fn into_delivery(mut self, all: usize) -> DeliveryResult {
        let processed = self.first_deferred.as_ref().map_or(all, |(index, _)| *index);
        self.delayed.retain(|(index, _)| *index < processed);
        self.delayed.dedup_by_key(|(index, _)| *index);
        let comes_again =
            |index| index >= processed || self.delayed.iter().any(|(delayed, _)| *delayed == index);
        // An event that comes again is rejected again.
        self.rejected.retain(|(index, _)| !comes_again(*index));
        self.rejected.dedup_by_key(|(index, _)| *index);
        DeliveryResult {
            processed,
            rejected: self.rejected,
            delayed: self.delayed,
            retry_reason: self.first_deferred.map(|(_, why)| why),
        }
    }
}

fn unknown_message_text(message_id: &str) -> String {
    format!("Odoo does not know {message_id} yet")
}

/// Events per call.
const EVENTS_PER_CALL: usize = 50;
/// Time after acceptance of a mail within which Odoo may still have to commit it.
const MAX_COMMIT_DELAY: Duration = Duration::from_secs(600);
/// Time for which an event is delayed because Odoo is still sending its mail.
const MAX_SENDING_DELAY: Duration = Duration::from_secs(86_400);
/// Number of calls for failed mail after a start, and the interval between two.
const MAX_REQUEUES: u32 = 10;
const REQUEUE_INTERVAL: Duration = Duration::from_secs(60);
