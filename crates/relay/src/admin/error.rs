//! How questions and orders are answered.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use mailtrail_store::{CommitError, ReadError};

/// An order that is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It makes no sense as it is.
    #[error("{0}")]
    Senseless(&'static str),
    /// There is no such upstream.
    #[error("there is no upstream {0:?}; `mailtrail breaker status` lists them")]
    NoUpstream(String),
    /// There is no such sink.
    #[error("no sink is called {0:?}")]
    NoSink(String),
    /// The question broke.
    #[error("the order cannot be carried out: see the daemon's log")]
    Broken,
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

pub(super) fn refuse(refusal: &Refusal) -> Response {
    let code = match refusal {
        Refusal::Senseless(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Refusal::NoUpstream(_) | Refusal::NoSink(_) => StatusCode::NOT_FOUND,
        Refusal::Broken | Refusal::Read(_) | Refusal::Commit(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (code, refusal.to_string()).into_response()
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

pub(super) fn failure(error: &ReadError) -> Response {
    tracing::error!(%error, "a question about the store cannot be answered");
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
}
