//! Routes of `/api/v1`. `docs/openapi.json` describes each request and response.

use crate::admin::dto::{AlarmView, BreakerRequest, BreakerView, QueueActionRequest};
use crate::admin::error::{ApiError, error_response, json_blocking, read_error_response};
use crate::admin::log::{LogFilter, LogResponse, query_log};
use crate::admin::route_table::{Endpoint, RouteTable};
use crate::admin::sinks::SinkReplayRequest;
use crate::admin::state::{ApiState, Caller};
use crate::admin::stats::{StatsQuery, query_stats};
use crate::admin::suppression_sync::sync_suppressions;
use crate::admin::suppressions::{SuppressionListFilter, SuppressionRequest};
use crate::admin::trace::{find_queued_with, find_trails_with};
use crate::admin::{
    inbound, loopback_probe, personal_data, provider_events, queue_actions, sinks, store_maintenance,
    suppressions, test_mail,
};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use mailtrail_net::http_server;
use mailtrail_net::transport::BreakerState;
use serde::Deserialize;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// Returns the routes of the API.
fn api_routes() -> RouteTable {
    RouteTable::default()
        .get("/api/v1/trace", find_trails)
        .get("/api/v1/queue", list_queue)
        .post("/api/v1/queue", apply_queue_action)
        .get("/api/v1/queue/shape", get_queue_shape)
        .get("/api/v1/log", list_log_lines)
        .get("/api/v1/stats", get_stats)
        .get("/api/v1/breakers", list_breakers)
        .post("/api/v1/breakers/{upstream}", set_breaker)
        .get("/api/v1/suppressions", list_suppressions)
        .post("/api/v1/suppressions", change_suppressions)
        .get("/api/v1/sinks", list_sinks)
        .get("/api/v1/sinks/{sink}/refused", list_sink_dead_letters)
        .post("/api/v1/sinks/{sink}/replay", replay_sink)
        .post("/api/v1/suppressions/sync", sync_suppressions)
        .get("/api/v1/hints", list_hints)
        .get("/api/v1/alarms", list_alarms)
        .merge(provider_events::routes())
        .merge(inbound::routes())
        .merge(store_maintenance::routes())
        .merge(loopback_probe::routes())
        .merge(test_mail::routes())
        .merge(personal_data::routes())
}

/// Returns the list of all endpoints.
pub fn endpoints() -> Vec<Endpoint> {
    api_routes().endpoints()
}

/// Serves the API on a unix socket.
pub async fn serve_socket(socket: UnixListener, api: ApiState, quiet: CancellationToken) {
    let introduce = |peer| ConnectInfo(Caller::from(peer));
    http_server::serve(socket, MAX_SOCKET_CONNECTIONS, api_router(api), introduce, quiet).await;
}

/// Returns the API's router, without access control.
pub(super) fn api_router(api: ApiState) -> Router {
    api_routes().router().layer(DefaultBodyLimit::max(MAX_BODY_BYTES)).with_state(api)
}

async fn apply_queue_action(
    State(api): State<ApiState>,
    ConnectInfo(Caller(operator)): ConnectInfo<Caller>,
    Json(order): Json<QueueActionRequest>,
) -> Response {
    // Runs to completion even if the client disconnects.
    match tokio::spawn(async move { queue_actions::apply_actions(&api, order, &operator).await }).await {
        Ok(Ok(acts)) => Json(acts).into_response(),
        Ok(Err(refusal)) => error_response(&refusal),
        Err(_) => error_response(&ApiError::Internal),
    }
}

async fn list_suppressions(
    State(api): State<ApiState>,
    Query(filter): Query<SuppressionListFilter>,
) -> Response {
    let now = api.clock.now();
    json_blocking(move || {
        suppressions::find_suppressions(&api.store, &api.suppression_settings, &filter, now)
    })
    .await
}

async fn change_suppressions(
    State(api): State<ApiState>,
    ConnectInfo(Caller(operator)): ConnectInfo<Caller>,
    Json(order): Json<SuppressionRequest>,
) -> Response {
    match tokio::spawn(async move { suppressions::change_suppressions(&api, order, &operator).await }).await {
        Ok(Ok(acts)) => Json(acts).into_response(),
        Ok(Err(refusal)) => error_response(&refusal),
        Err(_) => error_response(&ApiError::Internal),
    }
}

async fn list_hints(State(api): State<ApiState>, Query(contact): Query<HintQuery>) -> Response {
    json_blocking(move || suppressions::find_hints(&api.store, &contact.address)).await
}

async fn set_breaker(
    State(api): State<ApiState>,
    ConnectInfo(Caller(operator)): ConnectInfo<Caller>,
    Path(upstream): Path<String>,
    Json(order): Json<BreakerRequest>,
) -> Response {
    match queue_actions::set_breaker(&api, &upstream, order, &operator).await {
        Ok(()) => list_breakers(State(api)).await,
        Err(refusal) => error_response(&refusal),
    }
}

async fn get_queue_shape(State(api): State<ApiState>) -> Response {
    json_blocking(move || queue_actions::queue_shape(&api)).await
}

async fn list_alarms(State(api): State<ApiState>) -> Response {
    let views = api.alarms.list().into_iter().map(|alarm| AlarmView {
        alarm: alarm.kind.as_str().to_owned(),
        subject: alarm.subject,
        text: alarm.text,
        since: alarm.since.to_string(),
    });
    Json(views.collect::<Vec<_>>()).into_response()
}

#[derive(Deserialize)]
struct TraceQuery {
    what: String,
    limit: usize,
}

#[derive(Deserialize)]
struct HintQuery {
    address: String,
}

#[derive(Deserialize)]
struct QueueQuery {
    limit: usize,
}

async fn find_trails(State(api): State<ApiState>, Query(what): Query<TraceQuery>) -> Response {
    json_blocking(move || {
        find_trails_with(&api.store, &what.what, what.limit, |trail| api.to_trail_view(trail))
    })
    .await
}

async fn list_queue(State(api): State<ApiState>, Query(limit): Query<QueueQuery>) -> Response {
    json_blocking(move || find_queued_with(&api.store, limit.limit, |trail| api.to_queue_line(trail))).await
}

async fn list_sinks(State(api): State<ApiState>) -> Response {
    json_blocking(move || sinks::find_sinks(&api)).await
}

async fn list_sink_dead_letters(State(api): State<ApiState>, Path(sink): Path<String>) -> Response {
    json_blocking(move || sinks::find_dead_letters(&api.store, &sink)).await
}

async fn replay_sink(
    State(api): State<ApiState>,
    ConnectInfo(Caller(operator)): ConnectInfo<Caller>,
    Path(sink): Path<String>,
    Json(order): Json<SinkReplayRequest>,
) -> Response {
    // Runs to completion even if the client disconnects.
    match tokio::spawn(async move { sinks::rewind_sink(&api, &sink, &order, &operator).await }).await {
        Ok(Ok(())) => Json(()).into_response(),
        Ok(Err(refusal)) => error_response(&refusal),
        Err(_) => error_response(&ApiError::Internal),
    }
}

async fn get_stats(State(api): State<ApiState>, Query(question): Query<StatsQuery>) -> Response {
    json_blocking(move || query_stats(&api.store, &question)).await
}

/// Returns log lines. A following client's request waits for new lines, up to a limit.
async fn list_log_lines(State(api): State<ApiState>, Query(filter): Query<LogFilter>) -> Response {
    let mut filter = filter;
    for _ in 0..MAX_FOLLOW_POLLS {
        let (store, asked, places) = (api.store.clone(), filter.clone(), api.odoo_instances.clone());
        let found = tokio::task::spawn_blocking(move || query_log(&store, &asked, &places)).await;
        match found {
            Ok(Ok(LogResponse { lines, cursor })) if lines.is_empty() && filter.after.is_some() => {
                let moved = filter.after.as_deref() != Some(&cursor);
                filter.after = Some(cursor);
                if !moved {
                    tokio::time::sleep(FOLLOW_POLL_INTERVAL).await;
                }
            }
            Ok(Ok(answer)) => return Json(answer).into_response(),
            Ok(Err(error)) => return read_error_response(&error),
            Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
    let cursor = filter.after.unwrap_or_default();
    Json(LogResponse { lines: Vec::new(), cursor }).into_response()
}

async fn list_breakers(State(api): State<ApiState>) -> Response {
    let now = api.clock.now();
    let views = api.upstream_health.iter().map(|upstream| {
        let (state, reason) = {
            let breaker = upstream.breaker();
            (breaker.state(), Some(breaker.reason().to_owned()).filter(|reason| !reason.is_empty()))
        };
        let until = match state {
            BreakerState::Open { until } => Some(until.to_string()),
            BreakerState::Closed | BreakerState::HalfOpen | BreakerState::ForcedOpen => None,
        };
        let reason = reason.or_else(|| upstream.slow_reason());
        let pace = upstream.throttle();
        BreakerView {
            upstream: upstream.name().to_owned(),
            host: upstream.host().to_owned(),
            state: state.as_str().to_owned(),
            until,
            reason,
            connections: upstream.connections(),
            slowed_to: pace.reduced_rate().map(|a_second| a_second * 60.0),
            paused_until: pace.paused_until(now).map(|until| until.to_string()),
            quota_used: upstream.quota().as_mut().map(|quota| quota.percent_used(now)),
        }
    });
    Json(views.collect::<Vec<_>>()).into_response()
}

/// Maximum request body in bytes: enough for 100,000 ids.
const MAX_BODY_BYTES: usize = 16 << 20;
/// Maximum number of concurrent connections to the socket.
pub const MAX_SOCKET_CONNECTIONS: usize = 64;
const FOLLOW_POLL_INTERVAL: Duration = Duration::from_millis(200);
const MAX_FOLLOW_POLLS: usize = 50;
