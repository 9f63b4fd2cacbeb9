//! `/api/v1`: questions and orders over HTTP. `docs/openapi.json` says what each takes and answers.

use crate::admin::dto::{AlarmView, BreakerOrder, BreakerView, Order};
use crate::admin::error::{Refusal, answer, failure, refuse};
use crate::admin::log::{LogAnswer, LogFilter, log};
use crate::admin::route_table::{Endpoint, Routes};
use crate::admin::sinks::ReplaySink;
use crate::admin::state::{Operator, Panel};
use crate::admin::stats::{StatsQuestion, stats};
use crate::admin::suppression_sync::sync;
use crate::admin::suppressions::{SuppressionFilter, SuppressionOrder};
use crate::admin::trace::{find_as, queue_as};
use crate::admin::{
    inbound, loopback_probe, personal_data, provider_events, queue_actions, sinks, store_maintenance,
    suppressions, test_mail,
};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use mailtrail_net::http_server;
use mailtrail_net::transport::State as BreakerState;
use serde::Deserialize;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

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
        .and(provider_events::routes())
        .and(inbound::routes())
        .and(store_maintenance::routes())
        .and(loopback_probe::routes())
        .and(test_mail::routes())
        .and(personal_data::routes())
}

/// The list of what can be asked and ordered.
pub fn endpoints() -> Vec<Endpoint> {
    routes().endpoints()
}

/// Questions and orders, for a unix socket.
pub async fn serve_socket(socket: UnixListener, panel: Panel, quiet: CancellationToken) {
    let introduce = |peer| ConnectInfo(Operator::from(peer));
    http_server::serve(socket, SOCKET_CONNECTIONS, api(panel), introduce, quiet).await;
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
    match tokio::spawn(async move { queue_actions::act(&panel, order, &operator).await }).await {
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
    match queue_actions::switch(&panel, &upstream, order, &operator).await {
        Ok(()) => breakers(State(panel)).await,
        Err(refusal) => refuse(&refusal),
    }
}

async fn shape(State(panel): State<Panel>) -> Response {
    answer(move || queue_actions::shape(&panel)).await
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
    // It is carried out to its end, also when whoever asked has gone.
    match tokio::spawn(async move { sinks::replay(&panel, &sink, &order, &operator).await }).await {
        Ok(Ok(())) => Json(()).into_response(),
        Ok(Err(refusal)) => refuse(&refusal),
        Err(_) => refuse(&Refusal::Broken),
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
        let reason = reason.or_else(|| upstream.slow());
        let pace = upstream.pace();
        BreakerView {
            upstream: upstream.name().to_owned(),
            host: upstream.host().to_owned(),
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

/// Bytes of an order: 100,000 ids and more.
const ORDER: usize = 16 << 20;
/// Connections to the socket at once.
pub const SOCKET_CONNECTIONS: usize = 64;
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);
const FOLLOW_LOOKS: usize = 50;
