//! Errors of the API and their HTTP responses.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use mailtrail_store::{CommitError, ReadError};

/// Error of an API request.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Invalid request.
    #[error("{0}")]
    Invalid(&'static str),
    /// No such upstream.
    #[error("there is no upstream {0:?}; `mailtrail breaker status` lists them")]
    UnknownUpstream(String),
    /// No such sink.
    #[error("no sink is called {0:?}")]
    UnknownSink(String),
    /// A task panicked.
    #[error("the order cannot be carried out: see the daemon's log")]
    Internal,
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

pub(super) fn error_response(refusal: &ApiError) -> Response {
    let code = match refusal {
        ApiError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
        ApiError::UnknownUpstream(_) | ApiError::UnknownSink(_) => StatusCode::NOT_FOUND,
        ApiError::Internal | ApiError::Read(_) | ApiError::Commit(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (code, refusal.to_string()).into_response()
}

pub(super) async fn json_blocking<T: serde::Serialize + Send + 'static>(
    question: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(question).await {
        Ok(Ok(found)) => Json(found).into_response(),
        Ok(Err(error)) => read_error_response(&error),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

pub(super) fn read_error_response(error: &ReadError) -> Response {
    tracing::error!(%error, "cannot read the store");
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
}
