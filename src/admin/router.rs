//! `/api/v1`: the questions over HTTP, on the admin socket only.

use super::log::{LogAnswer, LogFilter, log};
use super::trace::{find, queue};
use super::view::BreakerView;
use crate::store::{ReadError, Store};
use crate::transport::Health;
use crate::transport::breaker::State as BreakerState;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// What can be asked about.
#[derive(Clone)]
pub struct Panel {
    /// The store.
    pub store: Store,
    /// The upstreams that mail goes to.
    pub upstreams: Vec<Arc<Health>>,
}

impl Panel {
    /// Why and until when all mail waits, if it does.
    fn held_back(&self) -> Option<(String, String)> {
        let upstream = self.upstreams.first()?;
        match upstream.state() {
            BreakerState::Open { until } => {
                let reason = format!("the upstream {} is left alone after failures", upstream.name());
                Some((reason, until.to_string()))
            }
            BreakerState::Closed | BreakerState::HalfOpen => None,
        }
    }
}

/// The questions.
pub fn router(panel: Panel) -> Router {
    Router::new()
        .route("/api/v1/trace", get(trace))
        .route("/api/v1/queue", get(waiting))
        .route("/api/v1/log", get(lines))
        .route("/api/v1/breakers", get(breakers))
        .with_state(panel)
}

/// `/metrics`, Prometheus text.
pub fn metrics_router(metrics: PrometheusHandle) -> Router {
    Router::new().route("/metrics", get(move || std::future::ready(metrics.render())))
}

#[derive(Deserialize)]
struct What {
    what: String,
    limit: usize,
}

#[derive(Deserialize)]
struct Limit {
    limit: usize,
}

async fn trace(State(panel): State<Panel>, Query(what): Query<What>) -> Response {
    answer(move || {
        let mut found = find(&panel.store, &what.what, what.limit)?;
        if let Some((reason, until)) = panel.held_back() {
            for trail in found.trails.iter_mut().filter(|trail| trail.next_action.is_some()) {
                trail.next_action = Some(format!("attempt; {reason}"));
                trail.next_at = trail.next_at.take().max(Some(until.clone()));
            }
        }
        Ok(found)
    })
    .await
}

async fn waiting(State(panel): State<Panel>, Query(limit): Query<Limit>) -> Response {
    answer(move || {
        let mut lines = queue(&panel.store, limit.limit)?;
        if let Some((reason, until)) = panel.held_back() {
            for line in &mut lines {
                line.reason.get_or_insert_with(|| reason.clone());
                line.next_at = line.next_at.take().max(Some(until.clone()));
            }
        }
        Ok(lines)
    })
    .await
}

/// A follower's question is answered when there is something to say, or after a while.
async fn lines(State(panel): State<Panel>, Query(filter): Query<LogFilter>) -> Response {
    let mut filter = filter;
    for _ in 0..FOLLOW_LOOKS {
        let (store, asked) = (panel.store.clone(), filter.clone());
        let found = tokio::task::spawn_blocking(move || log(&store, &asked)).await;
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
    let views = panel.upstreams.iter().map(|upstream| {
        let state = upstream.state();
        BreakerView {
            upstream: upstream.name().to_owned(),
            state: state.word().to_owned(),
            until: match state {
                BreakerState::Open { until } => Some(until.to_string()),
                BreakerState::Closed | BreakerState::HalfOpen => None,
            },
            connections: upstream.connections(),
        }
    });
    Json(views.collect::<Vec<_>>()).into_response()
}

async fn answer<T: serde::Serialize + Send + 'static>(
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

const FOLLOW_PAUSE: Duration = Duration::from_millis(200);
const FOLLOW_LOOKS: usize = 50;
