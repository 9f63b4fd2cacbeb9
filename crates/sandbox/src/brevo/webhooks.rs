//! `/v3/webhooks`: the transactional ones; others are not here.

use crate::brevo::router::{absent, bad};
use crate::brevo::time_zone;
use crate::brevo::webhook_registry::Hook;
use crate::mailgun::{Answer, Form, Refusal};
use crate::state::House;
use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn all(State(house): State<Arc<House>>, RawQuery(query): RawQuery) -> Answer {
    let form = Form::of(&query.unwrap_or_default());
    let transactional = form.get("type").is_none_or(|kind| kind == "transactional");
    let webhooks = if transactional { house.brevo.hooks.written() } else { Vec::new() };
    Ok(Json(json!({ "webhooks": webhooks })))
}

pub(super) async fn one(State(house): State<Arc<House>>, Path(id): Path<u64>) -> Answer {
    let hook = house.brevo.hooks.get(id).ok_or_else(unknown)?;
    Ok(Json(hook.written(id)))
}

pub(super) async fn create(
    State(house): State<Arc<House>>,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let hook = read(&house, &body, None)?;
    let id = house.brevo.hooks.add(hook).ok_or_else(|| bad("the account has 40 webhooks already"))?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))))
}

pub(super) async fn change(
    State(house): State<Arc<House>>,
    Path(id): Path<u64>,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    let known = house.brevo.hooks.get(id).ok_or_else(unknown)?;
    house.brevo.hooks.replace(id, read(&house, &body, Some(known))?);
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove(
    State(house): State<Arc<House>>,
    Path(id): Path<u64>,
) -> Result<StatusCode, Refusal> {
    if house.brevo.hooks.remove(id) { Ok(StatusCode::NO_CONTENT) } else { Err(unknown()) }
}

fn read(house: &House, body: &[u8], known: Option<Hook>) -> Result<Hook, Refusal> {
    let asked = serde_json::from_slice(body).map_err(|_| bad("the body is not JSON"))?;
    Hook::read(&asked, known, time_zone::iso(house.clock.now())).map_err(|fault| bad(&fault))
}

fn unknown() -> Refusal {
    absent("Webhook not found")
}
