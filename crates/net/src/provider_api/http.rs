//! Requests to a provider's API, independent of the provider.

use crate::error_chain;
use crate::host_addresses::PreferredResolver;
use crate::provider_api::UnreadableItem;
use crate::provider_api::error::ApiError;
use bytes::Bytes;
use mailtrail_mail::{Clock, Secret};
use mailtrail_trail::provider;
use mailtrail_trail::provider::{Salvage, SplitBody, lenient, parse_retry_after};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Url, redirect};
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsConnector;

#[derive(Debug)]
pub(super) struct ApiHttpClient {
    client: Client,
    upstream: String,
    base_url: Url,
    key: Secret,
    clock: Clock,
}

impl ApiHttpClient {
    /// Creates a client without connecting. It uses no proxy of the environment and follows no redirect, because
    /// requests carry the key.
    pub(super) fn new(
        upstream: String,
        base_url: Url,
        key: Secret,
        tls: &TlsConnector,
        clock: Clock,
    ) -> Result<Self, ApiError> {
        let client = Client::builder()
            // Otherwise the client would require a process-wide default, which is not set.
            .tls_backend_preconfigured((**tls.config()).clone())
            .no_proxy()
            .redirect(redirect::Policy::none())
            .dns_resolver(Arc::new(PreferredResolver::new(&base_url, Arc::default())))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .build();
        let cause = |error| ApiError::Unreachable {
            upstream: upstream.clone(),
            operation: "the client",
            cause: error_chain::request_error_text(error),
        };
        Ok(Self { client: client.map_err(cause)?, upstream, base_url, key, clock })
    }

    pub(super) fn upstream(&self) -> &str {
        &self.upstream
    }

    pub(super) fn key(&self) -> &Secret {
        &self.key
    }

    /// An address below the base, each segment written as one.
    pub(super) fn build_url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.base_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().extend(segments);
        }
        // Some servers decode a literal plus sign in a path as a space.
        let path = url.path().replace('+', "%2B");
        url.set_path(&path);
        url
    }

    /// An address that the provider gave; it must be the provider's own, because the key goes there.
    pub(super) fn same_origin(&self, what: &'static str, url: &str) -> Result<Url, ApiError> {
        let url = url.parse::<Url>().ok().filter(|url| url.origin() == self.base_url.origin());
        url.ok_or_else(|| self.unexpected(what, "it leads to another host"))
    }

    /// An address that the provider gave, at the provider's own host or another one of its API: the key goes there.
    pub(super) fn same_domain(&self, what: &'static str, url: &str) -> Result<Url, ApiError> {
        let domain = |url: &Url| {
            let host = url.host_str()?.to_owned();
            let labels: Vec<_> = host.rsplitn(3, '.').take(2).map(str::to_owned).collect();
            (labels.len() == 2 && host.parse::<IpAddr>().is_err()).then_some(labels)
        };
        let same = |url: &Url| {
            url.scheme() == "https" && domain(url).is_some_and(|found| Some(found) == domain(&self.base_url))
        };
        let url = url.parse::<Url>().ok();
        let url = url.filter(|url| url.origin() == self.base_url.origin() || same(url));
        url.ok_or_else(|| self.unexpected(what, "it leads to another host"))
    }

    pub(super) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.client.request(method, url)
    }

    /// The answer, which is JSON; `None` for an empty one.
    pub(super) async fn get_json(
        &self,
        what: &'static str,
        request: RequestBuilder,
    ) -> Result<Value, ApiError> {
        let body = self.get_bytes(what, request, MAX_RESPONSE_BYTES).await?;
        self.parse_json(what, &body)
    }

    /// Fetches a list, item by item: an unreadable item does not affect the others. A list with unbalanced brackets or
    /// quotes is an error.
    pub(super) async fn get_json_list(
        &self,
        what: &'static str,
        request: RequestBuilder,
        list: List,
    ) -> Result<ListResponse, ApiError> {
        let listing = self.ask_page(what, request, list).await?;
        if listing.is_torn { Err(self.unexpected(what, TORN)) } else { Ok(listing) }
    }

    /// Like `get_json_list`, but also returns the readable part of a torn list.
    pub(super) async fn ask_page(
        &self,
        what: &'static str,
        request: RequestBuilder,
        list: List,
    ) -> Result<ListResponse, ApiError> {
        let body = Bytes::from(self.get_bytes(what, request, MAX_RESPONSE_BYTES).await?);
        if let Ok(answer) = serde_json::from_slice(&body) {
            return Ok(ListResponse::from_json(answer, list.name));
        }
        if let Some(SplitBody { items, remainder }) = provider::split_body(&body, &[list.name])
            && let Ok(response) = lenient::parse_value(&remainder)
        {
            let mut listing =
                ListResponse { response, items: Some(Vec::new()), unreadable: Vec::new(), is_torn: false };
            for raw in items {
                match lenient::parse_value(raw) {
                    Ok(item) => listing.items.get_or_insert_default().push(item),
                    Err(error) => listing.add(&body, provider::salvage(raw, list.field), &error),
                }
            }
            return Ok(listing);
        }
        match (lenient::parse_value(&body), provider::list_start(&body, list.name)) {
            (Err(error), Some(start)) => Ok(ListResponse::torn(&body, start, list.field, &error)),
            _ => Ok(ListResponse::from_json(self.parse_json(what, &body)?, list.name)),
        }
    }

    fn parse_json(&self, what: &'static str, body: &[u8]) -> Result<Value, ApiError> {
        match lenient::parse_value(body) {
            Ok(json) => Ok(json),
            Err(_) if body.is_empty() => Ok(Value::Null),
            Err(_) => Err(self.unexpected(what, &error_text(&Value::Null, body))),
        }
    }

    /// Fetches a response with a maximum size.
    pub(super) async fn get_bytes(
        &self,
        operation: &'static str,
        request: RequestBuilder,
        most: usize,
    ) -> Result<Vec<u8>, ApiError> {
        let unreachable = |error: reqwest::Error| ApiError::Unreachable {
            upstream: self.upstream.clone(),
            operation,
            cause: error_chain::request_error_text(error),
        };
        let mut response = request.send().await.map_err(unreachable)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(unreachable)? {
            body.extend_from_slice(&piece);
            if body.len() > most {
                return Err(self.unexpected(operation, "it does not end"));
            }
        }
        if !(200..300).contains(&status) {
            let json: Value = serde_json::from_slice(&body).unwrap_or_default();
            return Err(self.rejection_error(operation, status, &headers, &json, &body));
        }
        Ok(body)
    }

    pub(super) fn unexpected(&self, operation: &'static str, words: &str) -> ApiError {
        ApiError::UnexpectedResponse {
            upstream: self.upstream.clone(),
            operation,
            diagnostic: words.to_owned(),
        }
    }

    pub(super) fn unsupported(&self, operation: &'static str) -> ApiError {
        ApiError::Unsupported { upstream: self.upstream.clone(), operation }
    }

    fn rejection_error(
        &self,
        operation: &'static str,
        status: u16,
        headers: &HeaderMap,
        json: &Value,
        body: &[u8],
    ) -> ApiError {
        let (upstream, diagnostic) = (self.upstream.clone(), error_text(json, body));
        match status {
            401 | 403 => ApiError::Unauthorized { upstream, operation, status, diagnostic },
            404 => ApiError::NotFound { upstream, operation, diagnostic },
            420 | 429 => {
                let retry_after = self.retry_after(headers, json, &diagnostic);
                ApiError::RateLimited { upstream, operation, diagnostic, retry_after }
            }
            _ => ApiError::Rejected { upstream, operation, status, diagnostic },
        }
    }

    /// Reads the delay from the headers, a field, or the text.
    fn retry_after(&self, headers: &HeaderMap, json: &Value, words: &str) -> Option<Duration> {
        let header = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse().ok();
        let seconds = header(RETRY_AFTER.as_str())
            .or_else(|| header("x-sib-ratelimit-reset"))
            .or_else(|| json["retry-seconds"].as_u64());
        let now = self.clock.now();
        let told = || parse_retry_after(words, now).map(|until| until.duration_since(now));
        seconds.map(Duration::from_secs).or_else(told)
    }
}

/// Reduces the error text of a response to one short line.
fn error_text(json: &Value, body: &[u8]) -> String {
    let named = ["message", "Reason", "Description"].into_iter().find_map(|name| json[name].as_str());
    let text = named.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    let text = text.trim().replace(char::is_control, " ");
    text.chars().take(MAX_ERROR_TEXT).collect()
}

/// A list of an answer.
#[derive(Clone, Copy)]
pub(super) struct List {
    /// Its name in the answer.
    pub(super) name: &'static str,
    /// A field that each item has.
    pub(super) field: &'static str,
}

/// An answer with a list.
pub(super) struct ListResponse {
    /// The answer without the list's items.
    pub(super) response: Value,
    /// The items that can be read; `None` where there is no list.
    pub(super) items: Option<Vec<Value>>,
    /// Unreadable items.
    pub(super) unreadable: Vec<UnreadableItem>,
    /// Whether its brackets or quotes do not fit together, so that others may be missing.
    pub(super) is_torn: bool,
}

impl ListResponse {
    fn from_json(mut response: Value, name: &str) -> Self {
        let items = match response.get_mut(name).map(Value::take) {
            Some(Value::Array(items)) => Some(items),
            _ => None,
        };
        Self { response, items, unreadable: Vec::new(), is_torn: false }
    }

    /// Reads the items of a torn body whose list begins at `start`.
    fn torn(body: &Bytes, start: usize, field: &str, error: &serde_json::Error) -> Self {
        let mut listing =
            Self { response: Value::Null, items: Some(Vec::new()), unreadable: Vec::new(), is_torn: true };
        let mut found = provider::salvage(&body[start..], field);
        // The list may end correctly after the torn item.
        if let Some(rest) = found.junk.pop_if(|last| last.starts_with(b"]")) {
            listing.response = lenient::parse_value(&[&body[..start], rest].concat()).unwrap_or_default();
        }
        listing.add(body, found, error);
        listing
    }

    fn add(&mut self, body: &Bytes, found: Salvage<'_>, error: &serde_json::Error) {
        self.items.get_or_insert_default().extend(found.items);
        let reason = format!("it is not JSON: {error}");
        let unread = |raw| UnreadableItem { raw: body.slice_ref(raw), reason: reason.clone() };
        self.unreadable.extend(found.junk.into_iter().map(unread));
    }
}

const TORN: &str = "its brackets or quotes do not fit together";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// From the first byte of a request to the last of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of an answer: 5,000 events of Brevo's, or 300 of Mailgun's, take a tenth of it.
const MAX_RESPONSE_BYTES: usize = 32 << 20;
/// Maximum characters of an error text.
const MAX_ERROR_TEXT: usize = 200;
