//! State of the API, and its callers.

use crate::admin::dto::{QueueLine, TrailView};
use crate::admin::log::record_url;
use crate::admin::test_mailer::TestMailer;
use crate::alarms::AlarmRegistry;
use crate::loopback_probe::LoopbackProbe;
use crate::suppression_sync::SuppressionSync;
use mailtrail_mail::{Clock, Timestamp};
use mailtrail_net::odoo::OdooInstance;
use mailtrail_net::transport::{BreakerState, UpstreamHealth, UpstreamSelection};
use mailtrail_store::{Retention, Store};
use mailtrail_trail::provider::Provider;
use mailtrail_trail::{QueueKey, Trail, suppression};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::net::unix::UCred;

/// State shared by the API's handlers.
#[derive(Clone)]
pub struct ApiState {
    /// The store.
    pub store: Store,
    /// Clock.
    pub clock: Clock,
    /// Health of the upstreams.
    pub upstream_health: Vec<Arc<UpstreamHealth>>,
    /// Selection of the upstream for a message.
    pub upstream_selection: Arc<UpstreamSelection>,
    /// Suppression settings.
    pub suppression_settings: Arc<suppression::SuppressionSettings>,
    /// Names of the event sinks.
    pub sink_names: Arc<[String]>,
    /// Synchronisation with the providers' suppression lists.
    pub suppression_sync: SuppressionSync,
    /// Registry of active alarms.
    pub alarms: AlarmRegistry,
    /// Provider of each upstream's events.
    pub providers: Arc<BTreeMap<String, Provider>>,
    /// Retention periods.
    pub retention: Retention,
    /// Odoo instances, for links to their records.
    pub odoo_instances: Arc<Vec<OdooInstance>>,
    /// Probe of requests that reach this process.
    pub loopback_probe: LoopbackProbe,
    /// Submits an operator's test mail.
    pub test_mailer: TestMailer,
}

/// Identity of a caller, given by the socket.
#[derive(Clone, Debug)]
pub struct Caller(pub(super) String);

impl From<Option<UCred>> for Caller {
    fn from(credentials: Option<UCred>) -> Self {
        let uid = credentials.map(|credentials| credentials.uid());
        Self(uid.map_or_else(|| "somebody".to_owned(), |uid| format!("uid {uid}")))
    }
}

impl ApiState {
    /// Returns why and until when a message waits, if no upstream of its route accepts mail. An operator's
    /// breaker override has no end.
    fn unavailable_until(&self, trail: &Trail) -> Option<(String, Option<Timestamp>)> {
        let waits =
            trail.queue_key.as_ref().filter(|waits| **waits != QueueKey::Held && !trail.is_sending)?;
        let away = |index: usize| {
            let upstream = self.upstream_health.get(index)?;
            let breaker = upstream.breaker();
            let until = match breaker.state() {
                BreakerState::Open { until } => Some(until),
                BreakerState::ForcedOpen => None,
                BreakerState::Closed | BreakerState::HalfOpen => return None,
            };
            Some((format!("the upstream {} is left alone: {}", upstream.name(), breaker.reason()), until))
        };
        let away: Vec<_> =
            self.upstream_selection.candidates(waits).into_iter().map(away).collect::<Option<_>>()?;
        let until = away.iter().filter_map(|(_, until)| *until).min();
        let reasons: Vec<_> = away.into_iter().map(|(reason, _)| reason).collect();
        (!reasons.is_empty()).then(|| {
            (reasons.join("; "), until.map(|until| trail.next_attempt.map_or(until, |due| due.max(until))))
        })
    }

    pub(super) fn to_trail_view(&self, trail: &Trail) -> TrailView {
        let mut view = TrailView::from(trail);
        view.record_url = record_url(&self.odoo_instances, trail);
        if let Some((reason, until)) = self.unavailable_until(trail) {
            view.next_action = Some(format!("attempt; {reason}"));
            view.next_at = until.map(|until| until.to_string());
        }
        view
    }

    pub(super) fn to_queue_line(&self, trail: &Trail) -> QueueLine {
        let mut line = QueueLine::from(trail);
        if let Some((reason, until)) = self.unavailable_until(trail) {
            line.reason = Some(reason);
            line.next_at = until.map(|until| until.to_string());
        }
        line
    }
}
