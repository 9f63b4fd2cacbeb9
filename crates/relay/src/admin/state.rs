//! What every question needs, and who asks.

use crate::admin::dto::{QueueLine, TrailView};
use crate::admin::log::url;
use crate::admin::test_mail::Tester;
use crate::alarms::Alarms;
use crate::loopback_probe::Probe;
use crate::suppression_sync::Syncer;
use mailtrail_mail::{Clock, Timestamp};
use mailtrail_net::odoo::Place;
use mailtrail_net::transport::{Health, State as BreakerState, Ways};
use mailtrail_store::{Retention, Store};
use mailtrail_trail::provider::Provider;
use mailtrail_trail::{Trail, Waits, suppression};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::net::unix::UCred;

/// What can be asked about.
#[derive(Clone)]
pub struct Panel {
    /// The store.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// The upstreams that mail goes to.
    pub upstreams: Vec<Arc<Health>>,
    /// Which of them takes which mail.
    pub ways: Arc<Ways>,
    /// Which addresses get no mail.
    pub suppression: Arc<suppression::Settings>,
    /// Who is told what becomes of the mail, by name.
    pub sinks: Arc<[String]>,
    /// Whoever brings that list and the providers' together.
    pub sync: Syncer,
    /// What is wrong.
    pub alarms: Alarms,
    /// Whose words the reports of each upstream are.
    pub providers: Arc<BTreeMap<String, Provider>>,
    /// How long things are kept.
    pub retention: Retention,
    /// Where Odoo's records are shown.
    pub places: Arc<Vec<Place>>,
    /// Whoever knows whether a request comes to this process.
    pub probe: Probe,
    /// What hands in an operator's test mail.
    pub tester: Tester,
}

/// Who asks, by the socket.
#[derive(Clone, Debug)]
pub struct Operator(pub(super) String);

impl From<Option<UCred>> for Operator {
    fn from(credentials: Option<UCred>) -> Self {
        let uid = credentials.map(|credentials| credentials.uid());
        Self(uid.map_or_else(|| "somebody".to_owned(), |uid| format!("uid {uid}")))
    }
}

impl Panel {
    /// Why and until when a send waits, if no upstream that may take it takes any mail; an operator's breaker has no
    /// end.
    fn left_alone(&self, trail: &Trail) -> Option<(String, Option<Timestamp>)> {
        let waits = trail.waits.as_ref().filter(|waits| **waits != Waits::Held && !trail.sending)?;
        let away = |place: usize| {
            let upstream = self.upstreams.get(place)?;
            let breaker = upstream.breaker();
            let until = match breaker.state() {
                BreakerState::Open { until } => Some(until),
                BreakerState::Forced => None,
                BreakerState::Closed | BreakerState::HalfOpen => return None,
            };
            Some((format!("the upstream {} is left alone: {}", upstream.name(), breaker.reason()), until))
        };
        let away: Vec<_> = self.ways.of(waits).into_iter().map(away).collect::<Option<_>>()?;
        let until = away.iter().filter_map(|(_, until)| *until).min();
        let reasons: Vec<_> = away.into_iter().map(|(reason, _)| reason).collect();
        (!reasons.is_empty())
            .then(|| (reasons.join("; "), until.map(|until| trail.due.map_or(until, |due| due.max(until)))))
    }

    pub(super) fn trail_view(&self, trail: &Trail) -> TrailView {
        let mut view = TrailView::from(trail);
        view.record_url = url(&self.places, trail);
        if let Some((reason, until)) = self.left_alone(trail) {
            view.next_action = Some(format!("attempt; {reason}"));
            view.next_at = until.map(|until| until.to_string());
        }
        view
    }

    pub(super) fn queue_line(&self, trail: &Trail) -> QueueLine {
        let mut line = QueueLine::from(trail);
        if let Some((reason, until)) = self.left_alone(trail) {
            line.reason = Some(reason);
            line.next_at = until.map(|until| until.to_string());
        }
        line
    }
}
