//! Operator actions on the queue and on breakers. Each action is in the journal before its response is sent.

use crate::admin::audit_log::truncate_reason;
use crate::admin::dto::{BreakerRequest, QueueActionRequest, QueueActionResult, QueueShape};
use crate::admin::error::ApiError;
use crate::admin::state::ApiState;
use crate::admin::trace::MIN_ID_PREFIX;
use crate::alarms::AlarmKind;
use futures_util::{StreamExt, stream};
use mailtrail_mail::{Timestamp, TrackingId, fold_domain};
use mailtrail_store::ReadError;
use mailtrail_trail::{BreakerOverride, QueueAction, QueueKey, QueueVerb, Trail};
use std::collections::{BTreeMap, HashSet};

/// Applies an action to each message in turn; a message that is being sent is left unchanged.
pub async fn apply_actions(
    api: &ApiState,
    order: QueueActionRequest,
    operator: &str,
) -> Result<Vec<QueueActionResult>, ApiError> {
    let verb = QueueVerb::ALL.into_iter().find(|verb| verb.as_str() == order.verb);
    let verb = verb.ok_or(ApiError::Invalid("the verb is retry, hold, release, bounce or delete"))?;
    let reason = truncate_reason(&order.reason);
    if reason.is_empty() && matches!(verb, QueueVerb::Bounce | QueueVerb::Delete) {
        return Err(ApiError::Invalid("what ends mail needs a reason: --reason 'why'"));
    }
    let (here, dry_run) = (api.clone(), order.dry_run);
    let selected = tokio::task::spawn_blocking(move || select_messages(&here, &order)).await;
    let selected = selected.map_err(|_| ApiError::Internal)??;
    let one = |selected: Selection| {
        let (operator, reason) = (operator.to_owned(), reason.clone());
        async move {
            let (id, why) = match selected {
                Selection::Message(id) => {
                    let why = apply_action(api, id, verb, operator, reason, dry_run).await?;
                    (id.to_string(), why.map(str::to_owned))
                }
                Selection::Unresolved { requested_id, reason: why } => (requested_id, Some(why.to_owned())),
            };
            Ok(QueueActionResult { id, done: why.is_none(), why })
        }
    };
    let acts = stream::iter(selected).map(one).buffered(ACTION_BATCH);
    acts.collect::<Vec<_>>().await.into_iter().collect()
}

/// Applies an action to one message; returns the reason if nothing was done.
async fn apply_action(
    api: &ApiState,
    id: TrackingId,
    verb: QueueVerb,
    operator: String,
    reason: String,
    dry_run: bool,
) -> Result<Option<&'static str>, ApiError> {
    let Some(_lock) = api.store.try_lock(id) else { return Ok(Some(BEING_SENT)) };
    let waits = api.store.queue_key(id)?;
    let obstacle = match (&waits, verb) {
        // The attempt's result is not known yet.
        _ if api.store.is_sending(id)? => Some(BEING_SENT),
        (None, _) => Some("is not in the queue"),
        (Some(QueueKey::Held), QueueVerb::Retry) => Some("is held; release it"),
        (Some(QueueKey::Held), QueueVerb::Hold) => Some("is held already"),
        (
            Some(QueueKey::Route(_) | QueueKey::RouteExcept { .. } | QueueKey::Upstream { .. }),
            QueueVerb::Release,
        ) => Some("is not held"),
        _ => None,
    };
    if obstacle.is_none() && !dry_run {
        api.store
            .record_queue_action(QueueAction { id, at: api.clock.now(), verb, operator, reason })
            .await?;
    }
    Ok(obstacle)
}

/// Resolution of a requested id.
enum Selection {
    Message(TrackingId),
    Unresolved { requested_id: String, reason: &'static str },
}

/// Selects the messages of a request, each once; several criteria narrow the selection.
fn select_messages(api: &ApiState, order: &QueueActionRequest) -> Result<Vec<Selection>, ApiError> {
    if !order.ids.is_empty() {
        if order.all || order.domain.is_some() || order.upstream.is_some() {
            return Err(ApiError::Invalid("name ids, or say which mail is meant, not both"));
        }
        let mut selected = Vec::with_capacity(order.ids.len());
        let mut seen = HashSet::new();
        for asked in &order.ids {
            match resolve_id(api, asked)? {
                Ok(id) if !seen.insert(id) => {}
                Ok(id) => selected.push(Selection::Message(id)),
                Err(reason) => selected.push(Selection::Unresolved { requested_id: asked.clone(), reason }),
            }
        }
        return Ok(selected);
    }
    if !order.all && order.domain.is_none() && order.upstream.is_none() {
        return Err(ApiError::Invalid("name ids, a domain, an upstream, or ALL"));
    }
    let mut selected = Vec::new();
    for id in api.store.queued_ids(usize::MAX)? {
        if order.domain.is_some() || order.upstream.is_some() {
            let Some(trail) = api.store.load_trail(id)? else { continue };
            let fits = order.domain.as_ref().is_none_or(|domain| has_domain(&trail, domain))
                && order
                    .upstream
                    .as_ref()
                    .is_none_or(|upstream| preferred_upstream(api, &trail) == *upstream);
            if !fits {
                continue;
            }
        }
        selected.push(Selection::Message(id));
    }
    // Messages may also wait for an upstream that is no longer configured.
    let known = |name: &String| api.upstream_health.iter().any(|health| health.name() == name);
    match &order.upstream {
        Some(upstream) if selected.is_empty() && !known(upstream) => {
            Err(ApiError::UnknownUpstream(upstream.clone()))
        }
        _ => Ok(selected),
    }
}

/// Resolves a tracking id or a unique prefix of one; otherwise returns the reason.
fn resolve_id(api: &ApiState, asked: &str) -> Result<Result<TrackingId, &'static str>, ReadError> {
    if let Ok(id) = asked.parse() {
        return Ok(Ok(id));
    }
    let range = TrackingId::prefix_range(asked).filter(|_| asked.len() >= MIN_ID_PREFIX);
    let Some((low, high)) = range else { return Ok(Err("is no tracking id")) };
    Ok(match api.store.ids_in_range(low, high, 2)?[..] {
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

/// Returns the upstream that a message would take if all were available.
fn preferred_upstream(api: &ApiState, trail: &Trail) -> String {
    match &trail.queue_key {
        Some(waits @ (QueueKey::Route(_) | QueueKey::RouteExcept { .. } | QueueKey::Upstream { .. })) => {
            api.upstream_selection.preferred(waits).unwrap_or_default().to_owned()
        }
        Some(QueueKey::Held) | None => {
            let route = QueueKey::Route(trail.message.route.clone());
            api.upstream_selection.preferred(&route).unwrap_or_default().to_owned()
        }
    }
}

/// Returns the ages of queued messages by upstream and recipient domain, the largest group first.
pub fn queue_shape(api: &ApiState) -> Result<Vec<QueueShape>, ReadError> {
    let (mut shapes, now) = (BTreeMap::<(String, String), Vec<u64>>::new(), api.clock.now());
    for id in api.store.queued_ids(usize::MAX)? {
        let Some(trail) = api.store.load_trail(id)? else { continue };
        let upstream = preferred_upstream(api, &trail);
        let bucket = age_bucket(now, id.timestamp());
        for recipient in trail.recipients.iter().filter(|recipient| recipient.is_open()) {
            let domain = fold_domain(recipient.address.domain());
            let buckets = shapes.entry((upstream.clone(), domain));
            buckets.or_insert_with(|| vec![0; QueueShape::AGE_LIMITS_MINUTES.len() + 1])[bucket] += 1;
        }
    }
    let mut shapes: Vec<_> = shapes
        .into_iter()
        .map(|((upstream, domain), ages)| QueueShape { upstream, domain, total: ages.iter().sum(), ages })
        .collect();
    shapes.sort_by_key(|shape| std::cmp::Reverse(shape.total));
    Ok(shapes)
}

fn age_bucket(now: Timestamp, accepted: Timestamp) -> usize {
    let minutes = now.duration_since(accepted).as_secs() / 60;
    QueueShape::AGE_LIMITS_MINUTES
        .iter()
        .position(|end| minutes < *end)
        .unwrap_or(QueueShape::AGE_LIMITS_MINUTES.len())
}

/// Opens or closes a breaker.
pub async fn set_breaker(
    api: &ApiState,
    upstream: &str,
    order: BreakerRequest,
    operator: &str,
) -> Result<(), ApiError> {
    let health = api.upstream_health.iter().find(|health| health.name() == upstream);
    let health = health.ok_or_else(|| ApiError::UnknownUpstream(upstream.to_owned()))?;
    let (now, reason) = (api.clock.now(), truncate_reason(&order.reason));
    if order.open && reason.is_empty() {
        return Err(ApiError::Invalid("opening a breaker needs a reason: --reason 'why'"));
    }
    let switch = BreakerOverride {
        upstream: upstream.to_owned(),
        at: now,
        open: order.open,
        operator: operator.to_owned(),
        reason: reason.clone(),
    };
    api.store.set_breaker_override(switch).await?;
    if order.open {
        health.breaker().force_open(&reason);
    } else {
        health.breaker().close(now);
        api.alarms.clear(AlarmKind::Breaker, upstream);
        api.alarms.clear(AlarmKind::UpstreamAccount, upstream);
    }
    api.store.queue_wakeup().notify();
    tracing::warn!(upstream, open = order.open, operator, reason, "an operator switched the breaker");
    Ok(())
}

/// Messages processed at a time: they share an fsync.
const ACTION_BATCH: usize = 256;
const BEING_SENT: &str = "is being sent right now";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::test_mailer::TestMailer;
    use crate::alarms::AlarmRegistry;
    use crate::loopback_probe::LoopbackProbe;
    use crate::suppression_sync::SuppressionSync;
    use mailtrail_mail::Clock;
    use mailtrail_store::{Retention, Store};
    use mailtrail_trail::{AcceptedMessage, AttemptStarted, Message, suppression};
    use std::sync::Arc;

    #[tokio::test]
    async fn rejects_actions_on_interrupted_attempts() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::System;
        let (store, _) = Store::open(directory.path(), clock).unwrap();
        let id = TrackingId::new(clock.now(), 7);
        let recipients = vec!["a@example.net".parse().unwrap()];
        let accepted = AcceptedMessage { message: Message::new(id, "test"), recipients };
        store.put_message_applied(accepted, bytes::Bytes::new()).await.unwrap();
        store
            .record_attempt_start(AttemptStarted { id, at: clock.now(), upstream: "up".into() })
            .await
            .unwrap();
        store.checkpoint().await;
        let api = ApiState {
            store: store.clone(),
            clock,
            upstream_health: Vec::new(),
            upstream_selection: Arc::default(),
            suppression_settings: Arc::default(),
            suppression_sync: SuppressionSync::new(
                store,
                clock,
                suppression::SuppressionSettings::default(),
                Vec::new(),
            ),
            alarms: AlarmRegistry::new(clock),
            providers: Arc::default(),
            retention: Retention::default(),
            sink_names: Arc::default(),
            odoo_instances: Arc::default(),
            loopback_probe: LoopbackProbe::default(),
            test_mailer: TestMailer {
                submit: Arc::new(|_, _| Box::pin(async { Err("nobody is here".to_owned()) })),
                default_sender: None,
                without_events: Arc::default(),
            },
        };
        for verb in QueueVerb::ALL {
            let verb = verb.as_str().to_owned();
            let order =
                QueueActionRequest { verb, all: true, reason: "why".into(), ..QueueActionRequest::default() };
            let acts = apply_actions(&api, order, "uid 0").await.unwrap();
            assert_eq!(acts[0].why.as_deref(), Some("is being sent right now"));
        }
        assert_eq!(api.store.load_trail(id).unwrap().unwrap().events.len(), 1);
    }
}
