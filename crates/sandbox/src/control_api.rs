//! What happens on demand: no part of any provider's API.

use crate::activecampaign::{ContactEvent, Told};
use crate::fault_injection::Weather;
use crate::mailgun::Refusal;
use crate::state::House;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// `/sandbox/weather` and `/sandbox/contacts`.
pub(crate) fn routes() -> Router<Arc<House>> {
    Router::new()
        .route("/sandbox/weather", get(weather).put(change_weather))
        .route("/sandbox/contacts", post(tell_contact))
}

async fn weather(State(house): State<Arc<House>>) -> Json<Weather> {
    Json(house.sky.now())
}

/// Sets everything; what is not named is as usual.
async fn change_weather(State(house): State<Arc<House>>, body: Bytes) -> Result<Json<Weather>, Refusal> {
    let weather: Weather = serde_json::from_slice(&body)
        .map_err(|error| Refusal::bad(format!("this is no weather: {error}")))?;
    house.sky.set(weather);
    Ok(Json(weather))
}

/// What ActiveCampaign is to tell.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    event: String,
    email: String,
}

/// Has ActiveCampaign tell something about a contact, and says what was answered.
async fn tell_contact(State(house): State<Arc<House>>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let Asked { event, email } = serde_json::from_slice(&body)
        .map_err(|error| Refusal::bad(format!("this is no event of a contact: {error}")))?;
    let event: ContactEvent = event.parse().map_err(|error| Refusal::bad(format!("event: {error}")))?;
    match house.campaigns.tell(&house, event, &email).await {
        Told::Answered(status) => Ok(Json(json!({ "answered": status }))),
        Told::Unanswered => Ok(Json(json!({ "answered": null }))),
        Told::SwitchedOff => Err(Refusal(
            StatusCode::CONFLICT,
            json!({ "message": "the webhook was answered with 410, which switched it off for good" }),
        )),
        Told::Nowhere => {
            Err(Refusal::bad("there is no address to tell it to; start the sandbox with --activecampaign"))
        }
    }
}
