//! What operators do to the queue and to breakers. Everything is in the journal before it is answered.

use crate::admin::audit_log::noted;
use crate::admin::dto::{Act, BreakerOrder, Order, Shape};
use crate::admin::error::Refusal;
use crate::admin::state::Panel;
use crate::admin::trace::SHORTEST_PREFIX;
use crate::alarms::Kind;
use futures_util::{StreamExt, stream};
use mailtrail_mail::{Timestamp, TrackingId, fold_domain};
use mailtrail_store::ReadError;
use mailtrail_trail::{Action, Switch, Trail, Verb, Waits};
use std::collections::{BTreeMap, HashSet};

/// Carries an order out, a send after the other; one that is being sent right now is left alone.
pub async fn act(panel: &Panel, order: Order, operator: &str) -> Result<Vec<Act>, Refusal> {
    let verb = Verb::ALL.into_iter().find(|verb| verb.word() == order.verb);
    let verb = verb.ok_or(Refusal::Senseless("the verb is retry, hold, release, bounce or delete"))?;
    let reason = noted(&order.reason);
    if reason.is_empty() && matches!(verb, Verb::Bounce | Verb::Delete) {
        return Err(Refusal::Senseless("what ends mail needs a reason: --reason 'why'"));
    }
    let (here, dry_run) = (panel.clone(), order.dry_run);
    let chosen = tokio::task::spawn_blocking(move || select(&here, &order)).await;
    let chosen = chosen.map_err(|_| Refusal::Broken)??;
    let one = |chosen: Chosen| {
        let (operator, reason) = (operator.to_owned(), reason.clone());
        async move {
            let (id, why) = match chosen {
                Chosen::Send(id) => {
                    let why = act_on_one(panel, id, verb, operator, reason, dry_run).await?;
                    (id.to_string(), why.map(str::to_owned))
                }
                Chosen::Nothing { asked, why } => (asked, Some(why.to_owned())),
            };
            Ok(Act { id, done: why.is_none(), why })
        }
    };
    let acts = stream::iter(chosen).map(one).buffered(AT_ONCE);
    acts.collect::<Vec<_>>().await.into_iter().collect()
}

/// Why nothing was done, or `None`.
async fn act_on_one(
    panel: &Panel,
    id: TrackingId,
    verb: Verb,
    operator: String,
    reason: String,
    dry_run: bool,
) -> Result<Option<&'static str>, Refusal> {
    let Some(_grip) = panel.store.take(id) else { return Ok(Some(BUSY)) };
    let waits = panel.store.waits(id)?;
    let obstacle = match (&waits, verb) {
        // Nobody has found out yet what became of it.
        _ if panel.store.is_sending(id)? => Some(BUSY),
        (None, _) => Some("is not in the queue"),
        (Some(Waits::Held), Verb::Retry) => Some("is held; release it"),
        (Some(Waits::Held), Verb::Hold) => Some("is held already"),
        (Some(Waits::ForRoute(_) | Waits::ForOthers { .. } | Waits::ForUpstream { .. }), Verb::Release) => {
            Some("is not held")
        }
        _ => None,
    };
    if obstacle.is_none() && !dry_run {
        panel.store.act(Action { id, at: panel.clock.now(), verb, operator, reason }).await?;
    }
    Ok(obstacle)
}

/// What an id of an order leads to.
enum Chosen {
    Send(TrackingId),
    Nothing { asked: String, why: &'static str },
}

/// The sends that an order is about, each once; of several ways to name them each narrows.
fn select(panel: &Panel, order: &Order) -> Result<Vec<Chosen>, Refusal> {
    if !order.ids.is_empty() {
        if order.all || order.domain.is_some() || order.upstream.is_some() {
            return Err(Refusal::Senseless("name ids, or say which mail is meant, not both"));
        }
        let mut chosen = Vec::with_capacity(order.ids.len());
        let mut seen = HashSet::new();
        for asked in &order.ids {
            match find(panel, asked)? {
                Ok(id) if !seen.insert(id) => {}
                Ok(id) => chosen.push(Chosen::Send(id)),
                Err(why) => chosen.push(Chosen::Nothing { asked: asked.clone(), why }),
            }
        }
        return Ok(chosen);
    }
    if !order.all && order.domain.is_none() && order.upstream.is_none() {
        return Err(Refusal::Senseless("name ids, a domain, an upstream, or ALL"));
    }
    let mut chosen = Vec::new();
    for id in panel.store.queued(usize::MAX)? {
        if order.domain.is_some() || order.upstream.is_some() {
            let Some(trail) = panel.store.trail(id)? else { continue };
            let fits = order.domain.as_ref().is_none_or(|domain| has_domain(&trail, domain))
                && order.upstream.as_ref().is_none_or(|upstream| heads_for(panel, &trail) == *upstream);
            if !fits {
                continue;
            }
        }
        chosen.push(Chosen::Send(id));
    }
    // Mail may also wait for an upstream that is no more.
    let known = |name: &String| panel.upstreams.iter().any(|health| health.name() == name);
    match &order.upstream {
        Some(upstream) if chosen.is_empty() && !known(upstream) => Err(Refusal::NoUpstream(upstream.clone())),
        _ => Ok(chosen),
    }
}

/// A send by its id or by a start of it that no other has; or why there is none.
fn find(panel: &Panel, asked: &str) -> Result<Result<TrackingId, &'static str>, ReadError> {
    if let Ok(id) = asked.parse() {
        return Ok(Ok(id));
    }
    let range = TrackingId::range_of_prefix(asked).filter(|_| asked.len() >= SHORTEST_PREFIX);
    let Some((low, high)) = range else { return Ok(Err("is no tracking id")) };
    Ok(match panel.store.between(low, high, 2)?[..] {
        [only] => Ok(only),
        [] => Err("is no tracking id, and no send begins so"),
        _ => Err("is no tracking id, and several sends begin so: write more of the id"),
    })
}

fn has_domain(trail: &Trail, domain: &str) -> bool {
    let mut open = trail.recipients.iter().filter(|recipient| recipient.is_open());
    let domain = fold_domain(domain);
    open.any(|recipient| fold_domain(recipient.address.domain()) == domain)
}

/// The upstream that a send would take if all were well.
fn heads_for(panel: &Panel, trail: &Trail) -> String {
    match &trail.waits {
        Some(waits @ (Waits::ForRoute(_) | Waits::ForOthers { .. } | Waits::ForUpstream { .. })) => {
            panel.ways.first(waits).unwrap_or_default().to_owned()
        }
        Some(Waits::Held) | None => {
            let route = Waits::ForRoute(trail.send.route.clone());
            panel.ways.first(&route).unwrap_or_default().to_owned()
        }
    }
}

/// How old the waiting mail is, by upstream and recipient domain; the fullest first.
pub fn shape(panel: &Panel) -> Result<Vec<Shape>, ReadError> {
    let (mut shapes, now) = (BTreeMap::<(String, String), Vec<u64>>::new(), panel.clock.now());
    for id in panel.store.queued(usize::MAX)? {
        let Some(trail) = panel.store.trail(id)? else { continue };
        let upstream = heads_for(panel, &trail);
        let bucket = bucket(now, id.timestamp());
        for recipient in trail.recipients.iter().filter(|recipient| recipient.is_open()) {
            let domain = fold_domain(recipient.address.domain());
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
    let (now, reason) = (panel.clock.now(), noted(&order.reason));
    if order.open && reason.is_empty() {
        return Err(Refusal::Senseless("opening a breaker needs a reason: --reason 'why'"));
    }
    let switch = Switch {
        upstream: upstream.to_owned(),
        at: now,
        open: order.open,
        operator: operator.to_owned(),
        reason: reason.clone(),
    };
    panel.store.switch(switch).await?;
    if order.open {
        health.breaker().force_open(&reason);
    } else {
        health.breaker().close(now);
        panel.alarms.clear(Kind::Breaker, upstream);
        panel.alarms.clear(Kind::Account, upstream);
    }
    panel.store.due_bell().ring();
    tracing::warn!(upstream, open = order.open, operator, reason, "an operator switched the breaker");
    Ok(())
}

/// Sends that are acted on at a time: they share a sync.
const AT_ONCE: usize = 256;
const BUSY: &str = "is being sent right now";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::test_mail::Tester;
    use crate::alarms::Alarms;
    use crate::loopback_probe::Probe;
    use crate::suppression_sync::Syncer;
    use mailtrail_mail::Clock;
    use mailtrail_store::{Retention, Store};
    use mailtrail_trail::{Accepted, Begun, Send, suppression};
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
        let panel = Panel {
            store: store.clone(),
            clock,
            upstreams: Vec::new(),
            ways: Arc::default(),
            suppression: Arc::default(),
            sync: Syncer::new(store, clock, suppression::Settings::default(), Vec::new()),
            alarms: Alarms::new(clock),
            providers: Arc::default(),
            retention: Retention::default(),
            sinks: Arc::default(),
            places: Arc::default(),
            probe: Probe::default(),
            tester: Tester {
                hand_in: Arc::new(|_, _| Box::pin(async { Err("nobody is here".to_owned()) })),
                from: None,
                silent: Arc::default(),
            },
        };
        for verb in Verb::ALL {
            let verb = verb.word().to_owned();
            let order = Order { verb, all: true, reason: "why".into(), ..Order::default() };
            let acts = act(&panel, order, "uid 0").await.unwrap();
            assert_eq!(acts[0].why.as_deref(), Some("is being sent right now"));
        }
        assert_eq!(panel.store.trail(id).unwrap().unwrap().facts.len(), 1);
    }
}
