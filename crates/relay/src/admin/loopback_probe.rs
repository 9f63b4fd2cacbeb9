//! Whether an address that a provider was given leads here: `doctor` asks through it what only this process can answer.

use crate::admin::route_table::Routes;
use crate::admin::state::Panel;
use axum::Json;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};

/// Where the question is to arrive.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProbePlace {
    /// The path as this process is to see it: `/webhooks/<upstream>`.
    pub path: String,
}

/// What is asked there, in the header field [`crate::loopback_probe::Probe::HEADER`] of a POST, and what comes back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProbeView {
    /// The field's value.
    pub question: String,
    /// The body of the answer, of this process alone.
    pub answer: String,
}

/// The one question.
pub(super) fn routes() -> Routes {
    Routes::default().get("/api/v1/probe", ask)
}

async fn ask(State(panel): State<Panel>, Query(place): Query<ProbePlace>) -> Json<ProbeView> {
    let (question, answer) = panel.probe.ask(&place.path);
    Json(ProbeView { question, answer })
}
