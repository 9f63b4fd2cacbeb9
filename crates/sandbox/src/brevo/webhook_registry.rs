use crate::webhook_client::WebhookEndpoint;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The transactional webhooks that were made, by their numbers.
#[derive(Debug, Default)]
pub(crate) struct BrevoWebhookRegistry(Mutex<BTreeMap<u64, RegisteredWebhook>>);

/// A registered webhook.
#[derive(Clone, Debug)]
pub(super) struct RegisteredWebhook {
    url: Arc<str>,
    description: String,
    events: Vec<&'static str>,
    batched: bool,
    /// What each request shows.
    headers: HeaderMap,
    /// The authentication as it was given, under `auth` and `headers`.
    auth_json: [Value; 2],
    created_at: String,
    modified_at: String,
}

impl BrevoWebhookRegistry {
    /// Webhooks registered for an event, each with whether it accepts batches.
    pub(super) fn subscribers_of(&self, word: &str) -> Vec<(u64, bool)> {
        let all = self.lock();
        all.iter()
            .filter(|(_, hook)| hook.is_subscribed_to(word))
            .map(|(id, hook)| (*id, hook.batched))
            .collect()
    }

    /// URL and authentication of a webhook.
    pub(crate) fn endpoint_of(&self, id: u64) -> Option<WebhookEndpoint> {
        let all = self.lock();
        let hook = all.get(&id)?;
        Some(WebhookEndpoint { url: hook.url.clone(), headers: hook.headers.clone() })
    }

    /// Registers a webhook. Returns its id; `None` at the maximum number.
    pub(super) fn register(&self, hook: RegisteredWebhook) -> Option<u64> {
        let mut all = self.lock();
        let id = all.last_key_value().map_or(1, |(last, _)| last + 1);
        (all.len() < MAX_WEBHOOKS).then(|| all.insert(id, hook)).map(|_| id)
    }

    pub(super) fn get(&self, id: u64) -> Option<RegisteredWebhook> {
        self.lock().get(&id).cloned()
    }

    pub(super) fn replace(&self, id: u64, hook: RegisteredWebhook) {
        self.lock().entry(id).and_modify(|known| *known = hook);
    }

    /// Whether there was one.
    pub(super) fn remove(&self, id: u64) -> bool {
        self.lock().remove(&id).is_some()
    }

    /// All of them as the API writes them.
    pub(super) fn to_json(&self) -> Vec<Value> {
        self.lock().iter().map(|(id, hook)| hook.to_json(*id)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, RegisteredWebhook>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RegisteredWebhook {
    /// Parses a registration, or a change of the `known` one.
    pub(super) fn from_json(asked: &Value, known: Option<Self>, now: String) -> Result<Self, String> {
        let mut hook = known.unwrap_or_else(|| Self {
            url: "".into(),
            description: String::new(),
            events: Vec::new(),
            batched: false,
            headers: HeaderMap::new(),
            auth_json: [Value::Null, Value::Null],
            created_at: now.clone(),
            modified_at: String::new(),
        });
        hook.modified_at = now;
        if asked["type"].as_str().is_some_and(|kind| kind != "transactional") {
            return Err("the sandbox has transactional webhooks only".into());
        }
        if let Some(url) = asked["url"].as_str() {
            hook.url = url.into();
        }
        if let Some(description) = asked["description"].as_str() {
            description.clone_into(&mut hook.description);
        }
        if let Some(events) = asked["events"].as_array() {
            hook.events = events.iter().map(parse_event_name).collect::<Result<_, _>>()?;
        }
        if let Some(batched) = asked["batched"].as_bool() {
            hook.batched = batched;
        }
        for (place, name) in ["auth", "headers"].into_iter().enumerate() {
            if !asked[name].is_null() {
                hook.auth_json[place] = asked[name].clone();
            }
        }
        hook.headers = auth_headers(&hook.auth_json).ok_or("auth or headers is not valid")?;
        let leads_somewhere = Url::parse(&hook.url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        match (leads_somewhere, hook.events.is_empty()) {
            (false, _) => Err("url is not valid".into()),
            (_, true) => Err("events is missing".into()),
            _ => Ok(hook),
        }
    }

    /// Errors cannot be selected: every webhook gets them.
    fn is_subscribed_to(&self, word: &str) -> bool {
        let asked: &[&str] = match word {
            "request" => &["request", "sent"],
            "soft_bounce" => &["softBounce"],
            "hard_bounce" => &["hardBounce"],
            "invalid_email" => &["invalid"],
            "complaint" => &["spam"],
            "unique_opened" => &["uniqueOpened"],
            "opened" | "proxy_open" => &["opened"],
            "error" => return true,
            word => &[word],
        };
        asked.iter().any(|asked| self.events.contains(asked))
    }

    pub(super) fn to_json(&self, id: u64) -> Value {
        let mut written = json!({
            "id": id,
            "url": &*self.url,
            "description": self.description,
            "type": "transactional",
            "events": self.events,
            "batched": self.batched,
            "createdAt": self.created_at,
            "modifiedAt": self.modified_at,
        });
        for (name, proof) in ["auth", "headers"].into_iter().zip(&self.auth_json) {
            if !proof.is_null() {
                written[name] = proof.clone();
            }
        }
        written
    }
}

fn parse_event_name(name: &Value) -> Result<&'static str, String> {
    let known = SUBSCRIBABLE_EVENTS.into_iter().find(|known| name == known);
    known.ok_or_else(|| format!("events has {name}, which is not valid"))
}

/// `{"type": "bearer", "token"}`, and `[{"key", "value"}]`.
fn auth_headers([auth, headers]: &[Value; 2]) -> Option<HeaderMap> {
    let mut fields = HeaderMap::new();
    if !auth.is_null() {
        let token = auth["token"].as_str().filter(|_| auth["type"] == "bearer")?;
        fields.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).ok()?);
    }
    for header in headers.as_array().into_iter().flatten() {
        let name: HeaderName = header["key"].as_str()?.parse().ok()?;
        fields.append(name, HeaderValue::from_str(header["value"].as_str()?).ok()?);
    }
    Some(fields)
}

/// What can be asked for.
const SUBSCRIBABLE_EVENTS: [&str; 13] = [
    "sent",
    "request",
    "delivered",
    "hardBounce",
    "softBounce",
    "blocked",
    "spam",
    "invalid",
    "deferred",
    "click",
    "opened",
    "uniqueOpened",
    "unsubscribed",
];
/// Webhooks of one account.
const MAX_WEBHOOKS: usize = 40;
