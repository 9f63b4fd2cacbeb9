//! Checks whether an address registered at a provider leads to this process. `doctor` requests a challenge
//! that only this process can answer.

use crate::admin::route_table::RouteTable;
use crate::admin::state::ApiState;
use axum::Json;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};

/// Target of the challenge.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProbeQuery {
    /// Path as this process receives it: `/webhooks/<upstream>`.
    pub path: String,
}

/// Challenge for the header field [`crate::loopback_probe::LoopbackProbe::HEADER_NAME`] of a POST, and its
/// answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProbeChallenge {
    /// Value of the header field.
    pub question: String,
    /// Expected body of the response, known to this process alone.
    pub answer: String,
}

/// Returns the route of the challenge.
pub(super) fn routes() -> RouteTable {
    RouteTable::default().get("/api/v1/probe", create_challenge)
}

async fn create_challenge(
    State(api): State<ApiState>,
    Query(query): Query<ProbeQuery>,
) -> Json<ProbeChallenge> {
    let (question, answer) = api.loopback_probe.challenge(&query.path);
    Json(ProbeChallenge { question, answer })
}
