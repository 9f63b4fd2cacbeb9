//! Whether an address that a provider was given leads here: `doctor` asks through it what only this process can answer.

use crate::admin::route_table::RouteTable;
use crate::admin::state::ApiState;
use axum::Json;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};

/// Where the question is to arrive.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProbeQuery {
    /// The path as this process is to see it: `/webhooks/<upstream>`.
    pub path: String,
}

/// What is asked there, in the header field [`crate::loopback_probe::Probe::HEADER`] of a POST, and what comes back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProbeChallenge {
    /// The field's value.
    pub question: String,
    /// The body of the answer, of this process alone.
    pub answer: String,
}

/// The one question.
pub(super) fn routes() -> RouteTable {
    RouteTable::default().get("/api/v1/probe", create_challenge)
}

async fn create_challenge(
    State(panel): State<ApiState>,
    Query(place): Query<ProbeQuery>,
) -> Json<ProbeChallenge> {
    let (question, answer) = panel.loopback_probe.challenge(&place.path);
    Json(ProbeChallenge { question, answer })
}
