//! What a provider is asked to tell us, compared with what is registered there: the changes that are missing. Addresses
//! that lead elsewhere are read, and never changed.

use crate::provider_api::error::Fault;
use crate::provider_api::http::Http;
use crate::provider_api::webhook::Webhook;
use crate::provider_api::{brevo, mailgun};
use mailtrail_trail::provider::brevo::Credentials;
use reqwest::{Method, Url};
use serde_json::{Value, json};

/// A webhook of ours, as it should be.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Where it leads, without a login.
    pub url: &'a Url,
    /// What Brevo is to prove itself with; Mailgun signs.
    pub credentials: &'a Credentials,
}

/// What is done to one webhook of ours.
pub struct Change {
    /// What.
    pub act: Act,
    /// The provider's number for it, where it has one.
    pub number: Option<u64>,
    /// Where it leads, without a login.
    pub url: String,
    /// What is told there that was not before, or what else is another; empty where nothing changes.
    pub what: Vec<String>,
    request: Option<Request>,
}

/// What becomes of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// There was none.
    Created,
    /// It lacked something.
    Updated,
    /// It is as it should be.
    Kept,
    /// It was there.
    Removed,
    /// It was not there.
    Absent,
}

/// How the provider is told. It may hold a secret, so it cannot print itself.
struct Request {
    method: Method,
    url: Url,
    body: Body,
}

enum Body {
    Nothing,
    Form(String),
    Json(Value),
}

impl Act {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Kept => "kept",
            Self::Removed => "removed",
            Self::Absent => "not there",
        }
    }
}

impl Change {
    fn new(act: Act, url: &Url, what: Vec<String>, request: Option<Request>) -> Self {
        Self { act, number: None, url: shown(url), what, request }
    }
}

/// An address without the secrets that may stand in it: login and query.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    // An address that takes no login has none.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.into()
}

/// Whether an address leads where ours does, with whatever login. A final slash makes no difference to the listener.
pub(super) fn is_ours(registered: &str, ours: &Url) -> bool {
    let place = |url: &Url| {
        let shown = shown(url);
        shown.strip_suffix('/').map(str::to_owned).unwrap_or(shown)
    };
    registered.parse().is_ok_and(|url| place(&url) == place(ours))
}

/// What Mailgun lacks: every kind of event told to our address.
pub(super) fn at_mailgun(
    http: &Http,
    domain: &str,
    webhooks: &[Webhook],
    ours: &Url,
) -> Result<Vec<Change>, Fault> {
    let known = webhooks.iter().find(|webhook| is_ours(&webhook.url, ours));
    let address = known.map_or(ours.as_str(), |known| &known.url);
    // The others of ours differ in their login or a final slash.
    let ours_too = webhooks.iter().filter(|webhook| is_ours(&webhook.url, ours));
    let told: Vec<_> = ours_too.map(|webhook| &*webhook.event).collect();
    let missing: Vec<_> = mailgun::KINDS.into_iter().filter(|kind| !told.contains(kind)).collect();
    if missing.is_empty() {
        return Ok(vec![Change::new(Act::Kept, ours, Vec::new(), None)]);
    }
    for kind in &missing {
        let others = webhooks.iter().filter(|webhook| webhook.event == *kind);
        let others: Vec<_> = others.map(|webhook| webhook.shown()).collect();
        if others.len() >= mailgun::URLS {
            let (upstream, event) = (http.upstream().to_owned(), (*kind).to_owned());
            return Err(Fault::Full { upstream, event, most: mailgun::URLS, urls: others.join(", ") });
        }
    }
    // The kinds that are named take the place of those that the address has.
    let kinds = of(webhooks, address).chain(missing.iter().copied()).map(|kind| ("event_types", kind));
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("url", address).extend_pairs(kinds);
    let (act, method) = match known {
        Some(_) => (Act::Updated, Method::PUT),
        None => (Act::Created, Method::POST),
    };
    let request = Request { method, url: mailgun::registry(http, domain), body: Body::Form(form.finish()) };
    Ok(vec![Change::new(act, ours, missing.into_iter().map(str::to_owned).collect(), Some(request))])
}

/// What takes our address out of Mailgun's.
pub(super) fn out_of_mailgun(http: &Http, domain: &str, webhooks: &[Webhook], ours: &Url) -> Vec<Change> {
    let mut addresses: Vec<&str> = Vec::new();
    for webhook in webhooks.iter().filter(|webhook| is_ours(&webhook.url, ours)) {
        if !addresses.contains(&&*webhook.url) {
            addresses.push(&webhook.url);
        }
    }
    let removed = addresses.into_iter().map(|address| {
        let mut url = mailgun::registry(http, domain);
        url.query_pairs_mut().append_pair("url", address);
        let request = Request { method: Method::DELETE, url, body: Body::Nothing };
        let told = of(webhooks, address).map(str::to_owned).collect();
        Change::new(Act::Removed, ours, told, Some(request))
    });
    or_absent(removed.collect(), ours)
}

/// The kinds of event that an address is told.
fn of<'a>(webhooks: &'a [Webhook], address: &'a str) -> impl Iterator<Item = &'a str> {
    webhooks.iter().filter(move |webhook| webhook.url == address).map(|webhook| &*webhook.event)
}

/// What Brevo lacks: every kind of event told to our address, one at a time, with our proof.
pub(super) fn at_brevo(http: &Http, hooks: &[Value], wanted: Wanted<'_>) -> Result<Vec<Change>, Fault> {
    let Some(proof) = Proof::of(wanted.credentials) else {
        return Err(Fault::Unproven { upstream: http.upstream().to_owned() });
    };
    let address = proof.address(wanted.url);
    let ours: Vec<_> = hooks.iter().filter(|hook| is_hook_of(hook, wanted.url)).collect();
    if ours.is_empty() {
        let mut body = json!({
            "type": "transactional", "description": "mailtrail", "url": address.as_str(),
            "events": brevo::KINDS, "batched": false,
        });
        proof.write(&mut body, &Value::Null);
        let url = http.url(["v3", "webhooks"]);
        let request = Request { method: Method::POST, url, body: Body::Json(body) };
        let what = brevo::KINDS.map(str::to_owned).to_vec();
        return Ok(vec![Change::new(Act::Created, wanted.url, what, Some(request))]);
    }
    ours.into_iter().map(|hook| update(http, hook, wanted.url, &address, &proof)).collect()
}

fn update(http: &Http, hook: &Value, ours: &Url, address: &Url, proof: &Proof<'_>) -> Result<Change, Fault> {
    let number = number(http, hook)?;
    let told: Vec<_> = hook["events"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let missing: Vec<_> = brevo::KINDS.into_iter().filter(|kind| !told.contains(kind)).collect();
    let mut what: Vec<_> = missing.iter().map(|kind| (*kind).to_owned()).collect();
    if hook["batched"] == true {
        what.push("one event a request".to_owned());
    }
    if !proof.is_shown(hook) {
        what.push(proof.name());
    }
    if what.is_empty() {
        return Ok(Change { number: Some(number), ..Change::new(Act::Kept, ours, what, None) });
    }
    let events: Vec<_> = told.into_iter().chain(missing).collect();
    let mut body = json!({ "url": address.as_str(), "events": events, "batched": false });
    proof.write(&mut body, &hook["headers"]);
    let request = Request { method: Method::PUT, url: registered(http, number), body: Body::Json(body) };
    Ok(Change { number: Some(number), ..Change::new(Act::Updated, ours, what, Some(request)) })
}

/// What takes our address out of Brevo's.
pub(super) fn out_of_brevo(http: &Http, hooks: &[Value], ours: &Url) -> Result<Vec<Change>, Fault> {
    let removed = hooks.iter().filter(|hook| is_hook_of(hook, ours)).map(|hook| {
        let number = number(http, hook)?;
        let url = registered(http, number);
        let request = Request { method: Method::DELETE, url, body: Body::Nothing };
        let told = hook["events"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let told = told.map(str::to_owned).collect();
        Ok(Change { number: Some(number), ..Change::new(Act::Removed, ours, told, Some(request)) })
    });
    Ok(or_absent(removed.collect::<Result<_, _>>()?, ours))
}

fn or_absent(removed: Vec<Change>, ours: &Url) -> Vec<Change> {
    if removed.is_empty() { vec![Change::new(Act::Absent, ours, Vec::new(), None)] } else { removed }
}

fn is_hook_of(hook: &Value, ours: &Url) -> bool {
    hook["url"].as_str().is_some_and(|url| is_ours(url, ours))
}

fn number(http: &Http, hook: &Value) -> Result<u64, Fault> {
    hook["id"].as_u64().ok_or_else(|| http.strange(brevo::WEBHOOKS, "a webhook has no id"))
}

fn registered(http: &Http, number: u64) -> Url {
    http.url(["v3", "webhooks", &number.to_string()])
}

/// What Brevo proves itself with: of several tokens the last, which the others are to give way to.
enum Proof<'a> {
    Bearer(&'a str),
    Header { name: &'a str, token: &'a str },
    Login { name: &'a str, password: &'a str },
}

impl<'a> Proof<'a> {
    fn of(credentials: &'a Credentials) -> Option<Self> {
        match (credentials.tokens.last(), &credentials.header, &credentials.login) {
            (Some(token), None, _) => Some(Self::Bearer(token.reveal())),
            (Some(token), Some(name), _) => Some(Self::Header { name, token: token.reveal() }),
            (None, _, Some((name, password))) => Some(Self::Login { name, password: password.reveal() }),
            (None, _, None) => None,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Bearer(_) => "the bearer token".to_owned(),
            Self::Header { name, .. } => format!("the token in {name}"),
            Self::Login { .. } => "the login in the address".to_owned(),
        }
    }

    /// Our address with what of the proof stands in it.
    fn address(&self, url: &Url) -> Url {
        let mut url = url.clone();
        if let Self::Login { name, password } = self {
            // An http address takes a login.
            let _ = url.set_username(name).and_then(|()| url.set_password(Some(password)));
        }
        url
    }

    fn is_shown(&self, hook: &Value) -> bool {
        match self {
            Self::Bearer(token) => hook["auth"]["type"] == "bearer" && hook["auth"]["token"] == *token,
            Self::Header { name, token } => {
                others(name, &hook["headers"], false).any(|header| header["value"] == *token)
            }
            Self::Login { .. } => hook["url"].as_str().is_some_and(|url| {
                url.parse().is_ok_and(|url: Url| self.address(&url).as_str() == url.as_str())
            }),
        }
    }

    /// Writes it into a request; `headers` are those that the webhook has.
    fn write(&self, body: &mut Value, headers: &Value) {
        match self {
            Self::Bearer(token) => body["auth"] = json!({ "type": "bearer", "token": token }),
            Self::Header { name, token } => {
                let ours = json!({ "key": name, "value": token });
                let all = others(name, headers, true).cloned().chain([ours]);
                body["headers"] = all.collect();
            }
            Self::Login { .. } => {}
        }
    }
}

/// The headers of that name, or all `other` ones.
fn others<'a>(name: &'a str, headers: &'a Value, other: bool) -> impl Iterator<Item = &'a Value> {
    let named = move |header: &&Value| {
        let key = header["key"].as_str().unwrap_or_default();
        key.eq_ignore_ascii_case(name) != other
    };
    headers.as_array().into_iter().flatten().filter(named)
}

/// Does what a change asks for; nothing where nothing is to be done.
pub(super) async fn carry_out(
    http: &Http,
    what: &'static str,
    change: &Change,
    authorised: impl FnOnce(Method, Url) -> reqwest::RequestBuilder,
) -> Result<Value, Fault> {
    let Some(Request { method, url, body }) = &change.request else { return Ok(Value::Null) };
    let request = authorised(method.clone(), url.clone());
    let request = match body {
        Body::Nothing => request,
        Body::Form(form) => {
            request.header("content-type", "application/x-www-form-urlencoded").body(form.clone())
        }
        Body::Json(json) => request.json(json),
    };
    http.ask(what, request).await
}
