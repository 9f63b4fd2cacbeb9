//! What operators do to the queue and to breakers. Everything is in the journal before it is answered.

use super::router::Panel;
use super::view::{Act, BreakerOrder, Order, Shape};
use crate::clock::Timestamp;
use crate::id::TrackingId;
use crate::ledger::{Action, Switch, Trail, Verb, Waits};
use crate::store::{CommitError, ReadError};
use futures_util::{StreamExt, stream};
use std::collections::BTreeMap;

/// An order that is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It makes no sense as it is.
    #[error("{0}")]
    Senseless(&'static str),
    /// There is no such upstream.
    #[error("there is no upstream {0:?}; `mailtrail breaker status` lists them")]
    NoUpstream(String),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Carries an order out, a send after the other; one that is being sent right now is left alone.
pub async fn act(panel: &Panel, order: Order, operator: &str) -> Result<Vec<Act>, Refusal> {
    let verb = Verb::ALL.into_iter().find(|verb| verb.word() == order.verb);
    let verb = verb.ok_or(Refusal::Senseless("the verb is retry, hold, release, bounce or delete"))?;
    let reason = order.reason.trim().to_owned();
    if reason.is_empty() && matches!(verb, Verb::Bounce | Verb::Delete) {
        return Err(Refusal::Senseless("what ends mail needs a reason"));
    }
    let ids = select(panel, &order)?;
    let one = |asked: String| {
        let (operator, reason) = (operator.to_owned(), reason.clone());
        async move {
            let why = act_on_one(panel, &asked, verb, operator, reason, order.dry_run).await?;
            Ok(Act { id: asked, done: why.is_none(), why })
        }
    };
    let acts = stream::iter(ids).map(one).buffered(AT_ONCE);
    acts.collect::<Vec<_>>().await.into_iter().collect()
}

/// Why nothing was done, or `None`.
async fn act_on_one(
    panel: &Panel,
    asked: &str,
    verb: Verb,
    operator: String,
    reason: String,
    dry_run: bool,
) -> Result<Option<String>, Refusal> {
    let Ok(id) = asked.parse::<TrackingId>() else { return Ok(Some("is no tracking id".into())) };
    let Some(_grip) = panel.store.take(id) else { return Ok(Some(BUSY.into())) };
    let waits = panel.store.waits(id)?;
    let obstacle = match (&waits, verb) {
        // Nobody has found out yet what became of it.
        _ if panel.store.is_sending(id)? => Some(BUSY),
        (None, _) => Some("is not in the queue"),
        (Some(Waits::Held), Verb::Retry) => Some("is held; release it"),
        (Some(Waits::Held), Verb::Hold) => Some("is held already"),
        (Some(Waits::ForRoute(_) | Waits::ForUpstream(_)), Verb::Release) => Some("is not held"),
        _ => None,
    };
    if obstacle.is_none() && !dry_run {
        panel.store.act(Action { id, at: panel.clock.now(), verb, operator, reason }).await?;
    }
    Ok(obstacle.map(str::to_owned))
}

/// The ids that an order is about; of several ways to name them each narrows.
fn select(panel: &Panel, order: &Order) -> Result<Vec<String>, Refusal> {
    if !order.ids.is_empty() {
        if order.all || order.domain.is_some() || order.upstream.is_some() {
            return Err(Refusal::Senseless("name ids, or say which mail is meant, not both"));
        }
        return Ok(order.ids.clone());
    }
    if !order.all && order.domain.is_none() && order.upstream.is_none() {
        return Err(Refusal::Senseless("name ids, a domain, an upstream, or ALL"));
    }
    let mut ids = Vec::new();
    for id in panel.store.queued(usize::MAX)? {
        if order.domain.is_some() || order.upstream.is_some() {
            let Some(trail) = panel.store.trail(id)? else { continue };
            let fits = order.domain.as_ref().is_none_or(|domain| has_domain(&trail, domain))
                && order.upstream.as_ref().is_none_or(|upstream| heads_for(panel, &trail) == *upstream);
            if !fits {
                continue;
            }
        }
        ids.push(id.to_string());
    }
    Ok(ids)
}

fn has_domain(trail: &Trail, domain: &str) -> bool {
    let open = trail.recipients.iter().filter(|recipient| recipient.is_open());
    open.into_iter().any(|recipient| recipient.address.domain().eq_ignore_ascii_case(domain))
}

/// The upstream that a send would take if all were well.
fn heads_for(panel: &Panel, trail: &Trail) -> String {
    let route = Waits::ForRoute(trail.send.route.clone());
    let waits = trail.waits.as_ref().filter(|waits| **waits != Waits::Held).unwrap_or(&route);
    panel.ways.first(waits).unwrap_or_default().to_owned()
}

/// How old the waiting mail is, by upstream and recipient domain; the fullest first.
pub fn shape(panel: &Panel) -> Result<Vec<Shape>, ReadError> {
    let (mut shapes, now) = (BTreeMap::<(String, String), Vec<u64>>::new(), panel.clock.now());
    for id in panel.store.queued(usize::MAX)? {
        let Some(trail) = panel.store.trail(id)? else { continue };
        let upstream = heads_for(panel, &trail);
        let bucket = bucket(now, id.timestamp());
        for recipient in trail.recipients.iter().filter(|recipient| recipient.is_open()) {
            let domain = recipient.address.domain().to_lowercase();
            let buckets = shapes.entry((upstream.clone(), domain));
            buckets.or_insert_with(|| vec![0; Shape::MINUTES.len() + 1])[bucket] += 1;
        }
    }
    let mut shapes: Vec<_> = shapes
        .into_iter()
        .map(|((upstream, domain), ages)| Shape { upstream, domain, total: ages.iter().sum(), ages })
        .collect();
    shapes.sort_by_key(|shape| std::cmp::Reverse(shape.total));
    Ok(shapes)
}

fn bucket(now: Timestamp, accepted: Timestamp) -> usize {
    let minutes = now.since(accepted).as_secs() / 60;
    Shape::MINUTES.iter().position(|end| minutes < *end).unwrap_or(Shape::MINUTES.len())
}

/// Opens or closes a breaker.
pub async fn switch(
    panel: &Panel,
    upstream: &str,
    order: BreakerOrder,
    operator: &str,
) -> Result<(), Refusal> {
    let health = panel.upstreams.iter().find(|health| health.name() == upstream);
    let health = health.ok_or_else(|| Refusal::NoUpstream(upstream.to_owned()))?;
    if order.open && order.reason.trim().is_empty() {
        return Err(Refusal::Senseless("opening a breaker needs a reason"));
    }
    let now = panel.clock.now();
    let switch = Switch {
        upstream: upstream.to_owned(),
        at: now,
        open: order.open,
        operator: operator.to_owned(),
        reason: order.reason.clone(),
    };
    panel.store.switch(switch).await?;
    if order.open {
        health.breaker().force_open(&order.reason);
    } else {
        health.breaker().close(now);
    }
    panel.store.due_bell().ring();
    tracing::warn!(
        upstream,
        open = order.open,
        operator,
        reason = order.reason,
        "an operator switched the breaker"
    );
    Ok(())
}

/// Sends that are acted on at a time: they share a sync.
const AT_ONCE: usize = 256;
const BUSY: &str = "is being sent right now";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alarm::Alarms;
    use crate::clock::Clock;
    use crate::ledger::{Accepted, Begun, Send};
    use crate::store::Store;
    use std::sync::Arc;

    #[tokio::test]
    async fn what_was_being_sent_when_the_process_ended_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::System;
        let (store, _) = Store::open(directory.path(), clock).unwrap();
        let id = TrackingId::new(clock.now(), 7);
        let recipients = vec!["a@example.net".parse().unwrap()];
        let accepted = Accepted { send: Send::new(id, "test"), recipients };
        store.accept_and_apply(accepted, bytes::Bytes::new()).await.unwrap();
        store.begin(Begun { id, at: clock.now(), upstream: "up".into() }).await.unwrap();
        store.settle_down().await;
        let panel =
            Panel { store, clock, upstreams: Vec::new(), ways: Arc::default(), alarms: Alarms::new(clock) };
        for verb in Verb::ALL {
            let verb = verb.word().to_owned();
            let order = Order { verb, all: true, reason: "why".into(), ..Order::default() };
            let acts = act(&panel, order, "uid 0").await.unwrap();
            assert_eq!(acts[0].why.as_deref(), Some("is being sent right now"));
        }
        assert_eq!(panel.store.trail(id).unwrap().unwrap().facts.len(), 1);
    }
}
