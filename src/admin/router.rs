//! `/api/v1`: questions and orders over HTTP. `docs/openapi.json` says what each takes and answers.

use super::inbound;
use super::log::{LogAnswer, LogFilter, log, url};
use super::operator::{self, Refusal};
use super::routes::{Endpoint, Routes};
use super::sinks::{self, ReplaySink};
use super::stats::{StatsQuestion, stats};
use super::suppressions::{self, SuppressionFilter, SuppressionOrder};
use super::sync::sync;
use super::test_mail::{self, Tester};
use super::trace::{find_as, queue_as};
use super::view::{AlarmView, BreakerOrder, BreakerView, Order, QueueLine, TrailView};
use super::{care, events, privacy, probe};
use crate::alarm::Alarms;
use crate::clock::{Clock, Timestamp};
use crate::ledger::{Trail, Waits};
use crate::odoo::Place;
use crate::probe::Probe;
use crate::provider::Provider;
use crate::store::{ReadError, Retention, Store};
use crate::suppression;
use crate::sync::Syncer;
use crate::transport::breaker::State as BreakerState;
use crate::transport::{Health, Ways};
use axum::extract::connect_info::{Connected, IntoMakeServiceWithConnectInfo};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;

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

impl Connected<IncomingStream<'_, UnixListener>> for Operator {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let uid = stream.io().peer_cred().map(|credentials| credentials.uid());
        Self(uid.map_or_else(|_| "somebody".to_owned(), |uid| format!("uid {uid}")))
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

    fn trail_view(&self, trail: &Trail) -> TrailView {
        let mut view = TrailView::from(trail);
        view.record_url = url(&self.places, trail);
        if let Some((reason, until)) = self.left_alone(trail) {
            view.next_action = Some(format!("attempt; {reason}"));
            view.next_at = until.map(|until| until.to_string());
        }
        view
    }

    fn queue_line(&self, trail: &Trail) -> QueueLine {
        let mut line = QueueLine::from(trail);
        if let Some((reason, until)) = self.left_alone(trail) {
            line.reason = Some(reason);
            line.next_at = until.map(|until| until.to_string());
        }
        line
    }
}

/// What can be asked and ordered.
fn routes() -> Routes {
    Routes::default()
        .get("/api/v1/trace", trace)
        .get("/api/v1/queue", waiting)
        .post("/api/v1/queue", order)
        .get("/api/v1/queue/shape", shape)
        .get("/api/v1/log", lines)
        .get("/api/v1/stats", figures)
        .get("/api/v1/breakers", breakers)
        .post("/api/v1/breakers/{upstream}", switch)
        .get("/api/v1/suppressions", suppressed)
        .post("/api/v1/suppressions", suppress)
        .get("/api/v1/sinks", all_sinks)
        .get("/api/v1/sinks/{sink}/refused", refused)
        .post("/api/v1/sinks/{sink}/replay", replay_sink)
        .post("/api/v1/suppressions/sync", sync)
        .get("/api/v1/hints", hints)
        .get("/api/v1/alarms", alarms)
        .and(events::routes())
        .and(inbound::routes())
        .and(care::routes())
        .and(probe::routes())
        .and(test_mail::routes())
        .and(privacy::routes())
}

/// The list of what can be asked and ordered.
pub fn endpoints() -> Vec<Endpoint> {
    routes().endpoints()
}

/// Questions and orders, for a unix socket.
pub fn service(panel: Panel) -> IntoMakeServiceWithConnectInfo<Router, Operator> {
    api(panel).into_make_service_with_connect_info::<Operator>()
}

/// Questions and orders, whoever may come to ask.
pub(super) fn api(panel: Panel) -> Router {
    routes().router().layer(DefaultBodyLimit::max(ORDER)).with_state(panel)
}

async fn order(
    State(panel): State<Panel>,
    ConnectInfo(Operator(operator)): ConnectInfo<Operator>,
    Json(order): Json<Order>,
) -> Response {
    // It is carried out to its end, also when whoever asked has gone.
    match tokio::spawn(async move { operator::act(&panel, order, &operator).await }).await {
        Ok(Ok(acts)) => Json(acts).into_response(),
        Ok(Err(refusal)) => refuse(&refusal),
        Err(_) => refuse(&Refusal::Broken),
    }
}

async fn suppressed(State(panel): State<Panel>, Query(filter): Query<SuppressionFilter>) -> Response {
    let now = panel.clock.now();
    answer(move || suppressions::suppressions(&panel.store, &panel.suppression, &filter, now)).await
}

async fn suppress(
    State(panel): State<Panel>,
    ConnectInfo(Operator(operator)): ConnectInfo<Operator>,
    Json(order): Json<SuppressionOrder>,
) -> Response {
    match tokio::spawn(async move { suppressions::change(&panel, order, &operator).await }).await {
        Ok(Ok(acts)) => Json(acts).into_response(),
        Ok(Err(refusal)) => refuse(&refusal),
        Err(_) => refuse(&Refusal::Broken),
    }
}

async fn hints(State(panel): State<Panel>, Query(contact): Query<Contact>) -> Response {
    answer(move || suppressions::hints(&panel.store, &contact.address)).await
}

async fn switch(
    State(panel): State<Panel>,
    ConnectInfo(Operator(operator)): ConnectInfo<Operator>,
    Path(upstream): Path<String>,
    Json(order): Json<BreakerOrder>,
) -> Response {
    match operator::switch(&panel, &upstream, order, &operator).await {
        Ok(()) => breakers(State(panel)).await,
        Err(refusal) => refuse(&refusal),
    }
}

pub(super) fn refuse(refusal: &Refusal) -> Response {
    let code = match refusal {
        Refusal::Senseless(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Refusal::NoUpstream(_) => StatusCode::NOT_FOUND,
        Refusal::Broken | Refusal::Read(_) | Refusal::Commit(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (code, refusal.to_string()).into_response()
}

async fn shape(State(panel): State<Panel>) -> Response {
    answer(move || operator::shape(&panel)).await
}

async fn alarms(State(panel): State<Panel>) -> Response {
    let views = panel.alarms.list().into_iter().map(|alarm| AlarmView {
        alarm: alarm.kind.word().to_owned(),
        subject: alarm.subject,
        text: alarm.text,
        since: alarm.since.to_string(),
    });
    Json(views.collect::<Vec<_>>()).into_response()
}

#[derive(Deserialize)]
struct What {
    what: String,
    limit: usize,
}

#[derive(Deserialize)]
struct Contact {
    address: String,
}

#[derive(Deserialize)]
struct Limit {
    limit: usize,
}

async fn trace(State(panel): State<Panel>, Query(what): Query<What>) -> Response {
    answer(move || find_as(&panel.store, &what.what, what.limit, |trail| panel.trail_view(trail))).await
}

async fn waiting(State(panel): State<Panel>, Query(limit): Query<Limit>) -> Response {
    answer(move || queue_as(&panel.store, limit.limit, |trail| panel.queue_line(trail))).await
}

async fn all_sinks(State(panel): State<Panel>) -> Response {
    answer(move || sinks::sinks(&panel)).await
}

async fn refused(State(panel): State<Panel>, Path(sink): Path<String>) -> Response {
    answer(move || sinks::refused(&panel.store, &sink)).await
}

async fn replay_sink(
    State(panel): State<Panel>,
    ConnectInfo(Operator(operator)): ConnectInfo<Operator>,
    Path(sink): Path<String>,
    Json(order): Json<ReplaySink>,
) -> Response {
    let none = format!("no sink is called {sink:?}");
    match tokio::task::spawn_blocking(move || sinks::replay(&panel, &sink, &order, &operator)).await {
        Ok(Ok(true)) => Json(()).into_response(),
        Ok(Ok(false)) => (StatusCode::NOT_FOUND, none).into_response(),
        Ok(Err(error)) => failure(&error),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn figures(State(panel): State<Panel>, Query(question): Query<StatsQuestion>) -> Response {
    answer(move || stats(&panel.store, &question)).await
}

/// A follower's question is answered when there is something to say, or after a while.
async fn lines(State(panel): State<Panel>, Query(filter): Query<LogFilter>) -> Response {
    let mut filter = filter;
    for _ in 0..FOLLOW_LOOKS {
        let (store, asked, places) = (panel.store.clone(), filter.clone(), panel.places.clone());
        let found = tokio::task::spawn_blocking(move || log(&store, &asked, &places)).await;
        match found {
            Ok(Ok(LogAnswer { lines, cursor })) if lines.is_empty() && filter.after.is_some() => {
                let moved = filter.after.as_deref() != Some(&cursor);
                filter.after = Some(cursor);
                if !moved {
                    tokio::time::sleep(FOLLOW_PAUSE).await;
                }
            }
            Ok(Ok(answer)) => return Json(answer).into_response(),
            Ok(Err(error)) => return failure(&error),
            Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
    let cursor = filter.after.unwrap_or_default();
    Json(LogAnswer { lines: Vec::new(), cursor }).into_response()
}

async fn breakers(State(panel): State<Panel>) -> Response {
    let now = panel.clock.now();
    let views = panel.upstreams.iter().map(|upstream| {
        let (state, reason) = {
            let breaker = upstream.breaker();
            (breaker.state(), Some(breaker.reason().to_owned()).filter(|reason| !reason.is_empty()))
        };
        let until = match state {
            BreakerState::Open { until } => Some(until.to_string()),
            BreakerState::Closed | BreakerState::HalfOpen | BreakerState::Forced => None,
        };
        let pace = upstream.pace();
        BreakerView {
            upstream: upstream.name().to_owned(),
            state: state.word().to_owned(),
            until,
            reason,
            connections: upstream.connections(),
            slowed_to: pace.slowed_to().map(|a_second| a_second * 60.0),
            paused_until: pace.paused_until(now).map(|until| until.to_string()),
            quota_used: upstream.quota().as_mut().map(|quota| quota.percent(now)),
        }
    });
    Json(views.collect::<Vec<_>>()).into_response()
}

pub(super) async fn answer<T: serde::Serialize + Send + 'static>(
    question: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(question).await {
        Ok(Ok(found)) => Json(found).into_response(),
        Ok(Err(error)) => failure(&error),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn failure(error: &ReadError) -> Response {
    tracing::error!(%error, "a question about the store cannot be answered");
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
}

/// Bytes of an order: 100,000 ids and more.
const ORDER: usize = 16 << 20;
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);
const FOLLOW_LOOKS: usize = 50;
