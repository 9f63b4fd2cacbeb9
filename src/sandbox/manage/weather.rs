//! What goes wrong, on demand: no part of Mailgun's API.

use super::super::house::House;
use super::super::weather::Weather;
use super::Refusal;
use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use std::sync::Arc;

pub(super) async fn now(State(house): State<Arc<House>>) -> Json<Weather> {
    Json(house.sky.now())
}

/// Sets everything; what is not named is as usual.
pub(super) async fn change(State(house): State<Arc<House>>, body: Bytes) -> Result<Json<Weather>, Refusal> {
    let weather: Weather = serde_json::from_slice(&body)
        .map_err(|error| Refusal::bad(format!("this is no weather: {error}")))?;
    house.sky.set(weather);
    Ok(Json(weather))
}
