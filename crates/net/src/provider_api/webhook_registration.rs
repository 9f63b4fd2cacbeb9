//! Plans the registration of webhooks: the difference between the wanted and the registered webhooks. Webhooks that
//! lead elsewhere are read but never changed.

use crate::provider_api::error::ApiError;
use crate::provider_api::http::ApiHttpClient;
use crate::provider_api::webhook::RegisteredWebhook;
use crate::provider_api::{brevo, mailgun};
use mailtrail_trail::provider::brevo::WebhookAuth;
use reqwest::{Method, Url};
use serde_json::{Value, json};

/// A wanted webhook.
#[derive(Clone, Copy, Debug)]
pub struct DesiredWebhook<'a> {
    /// Where it leads, without a login.
    pub url: &'a Url,
    /// What Brevo is to prove itself with; Mailgun signs.
    pub auth: &'a WebhookAuth,
}

/// Change of one webhook.
pub struct WebhookChange {
    /// Kind of the change.
    pub kind: WebhookChangeKind,
    /// The provider's number for it, where it has one.
    pub id: Option<u64>,
    /// Where it leads, without a login.
    pub url: String,
    /// Added events, or other changed properties; empty if nothing changes.
    pub details: Vec<String>,
    request: Option<ChangeRequest>,
}

/// Kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookChangeKind {
    /// Did not exist.
    Created,
    /// Was incomplete.
    Updated,
    /// It is as it should be.
    Unchanged,
    /// Existed and is removed.
    Removed,
    /// It was not there.
    Absent,
}

/// Request that makes the change. Has no `Debug`, because it may hold a secret.
struct ChangeRequest {
    method: Method,
    url: Url,
    body: RequestBody,
}

enum RequestBody {
    Empty,
    Form(String),
    Json(Value),
}

impl WebhookChangeKind {
    /// Returns the word used in the output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Unchanged => "kept",
            Self::Removed => "removed",
            Self::Absent => "not there",
        }
    }
}

impl WebhookChange {
    fn new(kind: WebhookChangeKind, url: &Url, details: Vec<String>, request: Option<ChangeRequest>) -> Self {
        Self { kind, id: None, url: redacted(url), details, request }
    }
}

/// URL without login and query, which may be secrets.
pub(super) fn redacted(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    // An address that takes no login has none.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.into()
}

/// Returns whether a URL leads to ours, ignoring the login and a final slash.
pub(super) fn same_target(registered: &str, ours: &Url) -> bool {
    let place = |url: &Url| {
        let shown = redacted(url);
        shown.strip_suffix('/').map(str::to_owned).unwrap_or(shown)
    };
    registered.parse().is_ok_and(|url| place(&url) == place(ours))
}

/// Plans the registration at Mailgun: every event for our URL.
pub(super) fn plan_mailgun(
    http: &ApiHttpClient,
    domain: &str,
    webhooks: &[RegisteredWebhook],
    ours: &Url,
) -> Result<Vec<WebhookChange>, ApiError> {
    let known = webhooks.iter().find(|webhook| same_target(&webhook.url, ours));
    let address = known.map_or(ours.as_str(), |known| &known.url);
    // Our other webhooks differ in login or final slash.
    let ours_too = webhooks.iter().filter(|webhook| same_target(&webhook.url, ours));
    let told: Vec<_> = ours_too.map(|webhook| &*webhook.event).collect();
    let missing: Vec<_> = mailgun::EVENT_TYPES.into_iter().filter(|kind| !told.contains(kind)).collect();
    if missing.is_empty() {
        return Ok(vec![WebhookChange::new(WebhookChangeKind::Unchanged, ours, Vec::new(), None)]);
    }
    for kind in &missing {
        let others = webhooks.iter().filter(|webhook| webhook.event == *kind);
        let others: Vec<_> = others.map(|webhook| webhook.redacted_url()).collect();
        if others.len() >= mailgun::MAX_URLS_PER_EVENT {
            let (upstream, event) = (http.upstream().to_owned(), (*kind).to_owned());
            return Err(ApiError::TooManyWebhooks {
                upstream,
                event,
                max_urls: mailgun::MAX_URLS_PER_EVENT,
                urls: others.join(", "),
            });
        }
    }
    // The kinds that are named take the place of those that the address has.
    let kinds = events_of(webhooks, address).chain(missing.iter().copied()).map(|kind| ("event_types", kind));
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("url", address).extend_pairs(kinds);
    let (act, method) = match known {
        Some(_) => (WebhookChangeKind::Updated, Method::PUT),
        None => (WebhookChangeKind::Created, Method::POST),
    };
    let request = ChangeRequest {
        method,
        url: mailgun::webhooks_url(http, domain),
        body: RequestBody::Form(form.finish()),
    };
    Ok(vec![WebhookChange::new(act, ours, missing.into_iter().map(str::to_owned).collect(), Some(request))])
}

/// Plans the removal at Mailgun.
pub(super) fn plan_mailgun_removal(
    http: &ApiHttpClient,
    domain: &str,
    webhooks: &[RegisteredWebhook],
    ours: &Url,
) -> Vec<WebhookChange> {
    let mut addresses: Vec<&str> = Vec::new();
    for webhook in webhooks.iter().filter(|webhook| same_target(&webhook.url, ours)) {
        if !addresses.contains(&&*webhook.url) {
            addresses.push(&webhook.url);
        }
    }
    let removed = addresses.into_iter().map(|address| {
        let mut url = mailgun::webhooks_url(http, domain);
        url.query_pairs_mut().append_pair("url", address);
        let request = ChangeRequest { method: Method::DELETE, url, body: RequestBody::Empty };
        let told = events_of(webhooks, address).map(str::to_owned).collect();
        WebhookChange::new(WebhookChangeKind::Removed, ours, told, Some(request))
    });
    or_absent(removed.collect(), ours)
}

/// Events that are registered for a URL.
fn events_of<'a>(webhooks: &'a [RegisteredWebhook], address: &'a str) -> impl Iterator<Item = &'a str> {
    webhooks.iter().filter(move |webhook| webhook.url == address).map(|webhook| &*webhook.event)
}

/// Plans the registration at Brevo: every event for our URL, unbatched, with our credentials.
pub(super) fn plan_brevo(
    http: &ApiHttpClient,
    hooks: &[Value],
    wanted: DesiredWebhook<'_>,
) -> Result<Vec<WebhookChange>, ApiError> {
    let Some(proof) = WebhookCredential::from_auth(wanted.auth) else {
        return Err(ApiError::NoCredentials { upstream: http.upstream().to_owned() });
    };
    let address = proof.url_with_login(wanted.url);
    let ours: Vec<_> = hooks.iter().filter(|hook| hook_targets(hook, wanted.url)).collect();
    if ours.is_empty() {
        let mut body = json!({
            "type": "transactional", "description": "mailtrail", "url": address.as_str(),
            "events": brevo::EVENT_TYPES, "batched": false,
        });
        proof.write_to(&mut body, &Value::Null);
        let url = http.build_url(["v3", "webhooks"]);
        let request = ChangeRequest { method: Method::POST, url, body: RequestBody::Json(body) };
        let what = brevo::EVENT_TYPES.map(str::to_owned).to_vec();
        return Ok(vec![WebhookChange::new(WebhookChangeKind::Created, wanted.url, what, Some(request))]);
    }
    ours.into_iter().map(|hook| plan_brevo_update(http, hook, wanted.url, &address, &proof)).collect()
}

fn plan_brevo_update(
    http: &ApiHttpClient,
    hook: &Value,
    ours: &Url,
    address: &Url,
    proof: &WebhookCredential<'_>,
) -> Result<WebhookChange, ApiError> {
    let number = hook_id(http, hook)?;
    let told: Vec<_> = hook["events"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let missing: Vec<_> = brevo::EVENT_TYPES.into_iter().filter(|kind| !told.contains(kind)).collect();
    let mut what: Vec<_> = missing.iter().map(|kind| (*kind).to_owned()).collect();
    if hook["batched"] == true {
        what.push("one event a request".to_owned());
    }
    if !proof.matches_hook(hook) {
        what.push(proof.label());
    }
    if what.is_empty() {
        return Ok(WebhookChange {
            id: Some(number),
            ..WebhookChange::new(WebhookChangeKind::Unchanged, ours, what, None)
        });
    }
    let events: Vec<_> = told.into_iter().chain(missing).collect();
    let mut body = json!({ "url": address.as_str(), "events": events, "batched": false });
    proof.write_to(&mut body, &hook["headers"]);
    let request =
        ChangeRequest { method: Method::PUT, url: hook_url(http, number), body: RequestBody::Json(body) };
    Ok(WebhookChange {
        id: Some(number),
        ..WebhookChange::new(WebhookChangeKind::Updated, ours, what, Some(request))
    })
}

/// Plans the removal at Brevo.
pub(super) fn plan_brevo_removal(
    http: &ApiHttpClient,
    hooks: &[Value],
    ours: &Url,
) -> Result<Vec<WebhookChange>, ApiError> {
    let removed = hooks.iter().filter(|hook| hook_targets(hook, ours)).map(|hook| {
        let number = hook_id(http, hook)?;
        let url = hook_url(http, number);
        let request = ChangeRequest { method: Method::DELETE, url, body: RequestBody::Empty };
        let told = hook["events"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let told = told.map(str::to_owned).collect();
        Ok(WebhookChange {
            id: Some(number),
            ..WebhookChange::new(WebhookChangeKind::Removed, ours, told, Some(request))
        })
    });
    Ok(or_absent(removed.collect::<Result<_, _>>()?, ours))
}

fn or_absent(removed: Vec<WebhookChange>, ours: &Url) -> Vec<WebhookChange> {
    if removed.is_empty() {
        vec![WebhookChange::new(WebhookChangeKind::Absent, ours, Vec::new(), None)]
    } else {
        removed
    }
}

fn hook_targets(hook: &Value, ours: &Url) -> bool {
    hook["url"].as_str().is_some_and(|url| same_target(url, ours))
}

fn hook_id(http: &ApiHttpClient, hook: &Value) -> Result<u64, ApiError> {
    hook["id"].as_u64().ok_or_else(|| http.unexpected(brevo::WEBHOOKS_LABEL, "a webhook has no id"))
}

fn hook_url(http: &ApiHttpClient, number: u64) -> Url {
    http.build_url(["v3", "webhooks", &number.to_string()])
}

/// What Brevo proves itself with: of several tokens the last, which the others are to give way to.
enum WebhookCredential<'a> {
    Bearer(&'a str),
    Header { name: &'a str, token: &'a str },
    Login { name: &'a str, password: &'a str },
}

impl<'a> WebhookCredential<'a> {
    fn from_auth(credentials: &'a WebhookAuth) -> Option<Self> {
        match (credentials.tokens.last(), &credentials.token_header, &credentials.basic) {
            (Some(token), None, _) => Some(Self::Bearer(token.expose())),
            (Some(token), Some(name), _) => Some(Self::Header { name, token: token.expose() }),
            (None, _, Some((name, password))) => Some(Self::Login { name, password: password.expose() }),
            (None, _, None) => None,
        }
    }

    fn label(&self) -> String {
        match self {
            Self::Bearer(_) => "the bearer token".to_owned(),
            Self::Header { name, .. } => format!("the token in {name}"),
            Self::Login { .. } => "the login in the address".to_owned(),
        }
    }

    /// Our URL, with the login if the credentials are part of it.
    fn url_with_login(&self, url: &Url) -> Url {
        let mut url = url.clone();
        if let Self::Login { name, password } = self {
            // An http address takes a login.
            let _ = url.set_username(name).and_then(|()| url.set_password(Some(password)));
        }
        url
    }

    fn matches_hook(&self, hook: &Value) -> bool {
        match self {
            Self::Bearer(token) => hook["auth"]["type"] == "bearer" && hook["auth"]["token"] == *token,
            Self::Header { name, token } => {
                filter_headers(name, &hook["headers"], false).any(|header| header["value"] == *token)
            }
            Self::Login { .. } => hook["url"].as_str().is_some_and(|url| {
                url.parse().is_ok_and(|url: Url| self.url_with_login(&url).as_str() == url.as_str())
            }),
        }
    }

    /// Writes it into a request; `headers` are those that the webhook has.
    fn write_to(&self, body: &mut Value, headers: &Value) {
        match self {
            Self::Bearer(token) => body["auth"] = json!({ "type": "bearer", "token": token }),
            Self::Header { name, token } => {
                let ours = json!({ "key": name, "value": token });
                let all = filter_headers(name, headers, true).cloned().chain([ours]);
                body["headers"] = all.collect();
            }
            Self::Login { .. } => {}
        }
    }
}

/// The headers of that name, or all `other` ones.
fn filter_headers<'a>(name: &'a str, headers: &'a Value, other: bool) -> impl Iterator<Item = &'a Value> {
    let named = move |header: &&Value| {
        let key = header["key"].as_str().unwrap_or_default();
        key.eq_ignore_ascii_case(name) != other
    };
    headers.as_array().into_iter().flatten().filter(named)
}

/// Applies a change, if there is something to do.
pub(super) async fn apply_change(
    http: &ApiHttpClient,
    what: &'static str,
    change: &WebhookChange,
    authorised: impl FnOnce(Method, Url) -> reqwest::RequestBuilder,
) -> Result<Value, ApiError> {
    let Some(ChangeRequest { method, url, body }) = &change.request else { return Ok(Value::Null) };
    let request = authorised(method.clone(), url.clone());
    let request = match body {
        RequestBody::Empty => request,
        RequestBody::Form(form) => {
            request.header("content-type", "application/x-www-form-urlencoded").body(form.clone())
        }
        RequestBody::Json(json) => request.json(json),
    };
    http.get_json(what, request).await
}
