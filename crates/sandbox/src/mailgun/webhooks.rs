//! Webhooks of the domain: by type (`/v3/domains/<domain>/webhooks`) and by URL (`/v4/domains/<domain>/webhooks`).

use crate::mailgun::form::Form;
use crate::mailgun::router::{Answer, Refusal, own};
use crate::mailgun::webhook_registry;
use crate::mailgun::webhook_registry::KINDS;
use crate::state::House;
use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn all(State(house): State<Arc<House>>, Path(domain): Path<String>) -> Answer {
    own(&house, &domain)?;
    Ok(Json(json!({ "webhooks": house.hooks.written() })))
}

pub(super) async fn one(
    State(house): State<Arc<House>>,
    Path((domain, kind)): Path<(String, String)>,
) -> Answer {
    own(&house, &domain)?;
    let urls = registered(&house, &kind)?;
    Ok(Json(json!({ "webhook": webhook_registry::written(&urls) })))
}

pub(super) async fn create(
    State(house): State<Arc<House>>,
    Path(domain): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    own(&house, &domain)?;
    let form = Form::read(&headers, body).await?;
    let kind = form.get("id").unwrap_or_default();
    if !house.hooks.of(kind).is_empty() {
        return Err(Refusal::bad("Webhook already exists"));
    }
    set(&house, kind, &form, "Webhook has been created")
}

pub(super) async fn replace(
    State(house): State<Arc<House>>,
    Path((domain, kind)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    own(&house, &domain)?;
    registered(&house, &kind)?;
    set(&house, &kind, &Form::read(&headers, body).await?, "Webhook has been updated")
}

pub(super) async fn remove(
    State(house): State<Arc<House>>,
    Path((domain, kind)): Path<(String, String)>,
) -> Answer {
    own(&house, &domain)?;
    let urls = registered(&house, &kind)?;
    if let Some(kind) = webhook_registry::kind_named(&kind) {
        house.hooks.replace(kind, Vec::new());
    }
    Ok(Json(json!({ "message": "Webhook has been deleted", "webhook": webhook_registry::written(&urls) })))
}

/// One URL gets these types, and no others.
pub(super) async fn register(
    State(house): State<Arc<House>>,
    Path(domain): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    own(&house, &domain)?;
    let form = Form::read(&headers, body).await?;
    let url = form.get("url").unwrap_or_default();
    check(url)?;
    let wanted: Vec<_> = form.all("event_types").map(kind).collect::<Result<_, _>>()?;
    if wanted.is_empty() {
        return Err(reason("event_types is required"));
    }
    place(&house, url, &wanted)?;
    Ok(Json(json!({ "webhooks": house.hooks.written() })))
}

pub(super) async fn unregister(
    State(house): State<Arc<House>>,
    Path(domain): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    own(&house, &domain)?;
    let query = Form::of(&query.unwrap_or_default());
    for url in query.all("url") {
        if !KINDS.iter().any(|kind| house.hooks.of(kind).iter().any(|known| **known == *url)) {
            let description = format!("webhook for {url} not found");
            return Err(Refusal(StatusCode::NOT_FOUND, json!({ "Description": description })));
        }
        place(&house, url, &[])?;
    }
    Ok(Json(json!({ "webhooks": house.hooks.written() })))
}

fn registered(house: &House, kind: &str) -> Result<Vec<Arc<str>>, Refusal> {
    let urls = house.hooks.of(kind);
    if urls.is_empty() { Err(Refusal::not_found("Webhook not found")) } else { Ok(urls) }
}

fn set(house: &House, name: &str, form: &Form, message: &str) -> Answer {
    let urls: Vec<Arc<str>> = form.all("url").map(Arc::from).collect();
    if urls.is_empty() || urls.len() > URLS {
        return Err(Refusal::bad(format!("from 1 to {URLS} values of 'url' are required")));
    }
    urls.iter().try_for_each(|url| check(url))?;
    house.hooks.replace(kind(name)?, urls.clone());
    Ok(Json(json!({ "message": message, "webhook": webhook_registry::written(&urls) })))
}

/// Registers a URL for exactly these types, or for none of them where one has as many as may be.
fn place(house: &House, url: &str, wanted: &[&'static str]) -> Result<(), Refusal> {
    let others = |kind| {
        let mut urls = house.hooks.of(kind);
        urls.retain(|known| **known != *url);
        urls
    };
    if let Some(full) = wanted.iter().find(|kind| others(kind).len() >= URLS) {
        return Err(reason(&format!("{full} has {URLS} URLs already")));
    }
    for kind in KINDS {
        let mut urls = others(kind);
        if wanted.contains(&kind) {
            urls.push(url.into());
        }
        house.hooks.replace(kind, urls);
    }
    Ok(())
}

fn kind(name: &str) -> Result<&'static str, Refusal> {
    webhook_registry::kind_named(name).ok_or_else(|| reason(&format!("{name} is not a valid webhook type")))
}

fn check(url: &str) -> Result<(), Refusal> {
    let scheme = reqwest::Url::parse(url).map(|url| url.scheme().to_owned()).unwrap_or_default();
    match scheme.as_str() {
        "http" | "https" => Ok(()),
        _ => Err(reason(&format!("{url} is not a valid url: invalid URL scheme"))),
    }
}

fn reason(text: &str) -> Refusal {
    let body: Value = json!({ "Reason": format!("invalid parameters: {text}") });
    Refusal(StatusCode::BAD_REQUEST, body)
}

/// URLs of one type.
const URLS: usize = 3;
