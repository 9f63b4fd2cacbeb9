//! One request and its answer, whoever is asked.

use crate::error_chain;
use crate::host_addresses::PreferredResolver;
use crate::provider_api::Unread;
use crate::provider_api::error::Fault;
use bytes::Bytes;
use mailtrail_mail::{Clock, Secret};
use mailtrail_trail::provider;
use mailtrail_trail::provider::{Salvage, Split, lenient, try_again_after};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Url, redirect};
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsConnector;

#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    upstream: String,
    base_url: Url,
    key: Secret,
    clock: Clock,
}

impl Http {
    /// A client without connection. Proxies of the environment are not used, and nobody is led elsewhere with the key.
    pub(super) fn new(
        upstream: String,
        base_url: Url,
        key: Secret,
        tls: &TlsConnector,
        clock: Clock,
    ) -> Result<Self, Fault> {
        let client = Client::builder()
            // Without it the client asks for a process-wide default, which nothing here sets.
            .tls_backend_preconfigured((**tls.config()).clone())
            .no_proxy()
            .redirect(redirect::Policy::none())
            .dns_resolver(Arc::new(PreferredResolver::new(&base_url, Arc::default())))
            .connect_timeout(CONNECT)
            .timeout(EXCHANGE)
            .build();
        let cause = |error| Fault::Unreachable {
            upstream: upstream.clone(),
            what: "the client",
            cause: error_chain::of_request(error),
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
    pub(super) fn url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.base_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().extend(segments);
        }
        // A plus may stand there as it is, and some servers read a blank.
        let path = url.path().replace('+', "%2B");
        url.set_path(&path);
        url
    }

    /// An address that the provider gave; it must be the provider's own, because the key goes there.
    pub(super) fn own(&self, what: &'static str, url: &str) -> Result<Url, Fault> {
        let url = url.parse::<Url>().ok().filter(|url| url.origin() == self.base_url.origin());
        url.ok_or_else(|| self.strange(what, "it leads to another host"))
    }

    /// An address that the provider gave, at the provider's own host or another one of its API: the key goes there.
    pub(super) fn kin(&self, what: &'static str, url: &str) -> Result<Url, Fault> {
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
        url.ok_or_else(|| self.strange(what, "it leads to another host"))
    }

    pub(super) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.client.request(method, url)
    }

    /// The answer, which is JSON; `None` for an empty one.
    pub(super) async fn ask(&self, what: &'static str, request: RequestBuilder) -> Result<Value, Fault> {
        let body = self.fetch(what, request, ANSWER).await?;
        self.read(what, &body)
    }

    /// An answer with a list, item by item: one that cannot be read leaves the others. What is left of a list whose
    /// brackets or quotes do not fit together is no answer.
    pub(super) async fn ask_list(
        &self,
        what: &'static str,
        request: RequestBuilder,
        list: List,
    ) -> Result<Listing, Fault> {
        let listing = self.ask_page(what, request, list).await?;
        if listing.is_torn { Err(self.strange(what, TORN)) } else { Ok(listing) }
    }

    /// The same, with what is left of such a list.
    pub(super) async fn ask_page(
        &self,
        what: &'static str,
        request: RequestBuilder,
        list: List,
    ) -> Result<Listing, Fault> {
        let body = Bytes::from(self.fetch(what, request, ANSWER).await?);
        if let Ok(answer) = serde_json::from_slice(&body) {
            return Ok(Listing::of(answer, list.name));
        }
        if let Some(Split { items, rest }) = provider::split(&body, &[list.name])
            && let Ok(answer) = lenient::value(&rest)
        {
            let mut listing = Listing { answer, items: Some(Vec::new()), unread: Vec::new(), is_torn: false };
            for raw in items {
                match lenient::value(raw) {
                    Ok(item) => listing.items.get_or_insert_default().push(item),
                    Err(error) => listing.add(&body, provider::salvage(raw, list.field), &error),
                }
            }
            return Ok(listing);
        }
        match (lenient::value(&body), provider::list_start(&body, list.name)) {
            (Err(error), Some(start)) => Ok(Listing::torn(&body, start, list.field, &error)),
            _ => Ok(Listing::of(self.read(what, &body)?, list.name)),
        }
    }

    fn read(&self, what: &'static str, body: &[u8]) -> Result<Value, Fault> {
        match lenient::value(body) {
            Ok(json) => Ok(json),
            Err(_) if body.is_empty() => Ok(Value::Null),
            Err(_) => Err(self.strange(what, &words(&Value::Null, body))),
        }
    }

    /// The answer, of at most so many bytes.
    pub(super) async fn fetch(
        &self,
        what: &'static str,
        request: RequestBuilder,
        most: usize,
    ) -> Result<Vec<u8>, Fault> {
        let unreachable = |error: reqwest::Error| Fault::Unreachable {
            upstream: self.upstream.clone(),
            what,
            cause: error_chain::of_request(error),
        };
        let mut response = request.send().await.map_err(unreachable)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(unreachable)? {
            body.extend_from_slice(&piece);
            if body.len() > most {
                return Err(self.strange(what, "it does not end"));
            }
        }
        if !(200..300).contains(&status) {
            let json: Value = serde_json::from_slice(&body).unwrap_or_default();
            return Err(self.refusal(what, status, &headers, &json, &body));
        }
        Ok(body)
    }

    pub(super) fn strange(&self, what: &'static str, words: &str) -> Fault {
        Fault::Strange { upstream: self.upstream.clone(), what, words: words.to_owned() }
    }

    pub(super) fn unable(&self, what: &'static str) -> Fault {
        Fault::Unable { upstream: self.upstream.clone(), what }
    }

    fn refusal(
        &self,
        what: &'static str,
        status: u16,
        headers: &HeaderMap,
        json: &Value,
        body: &[u8],
    ) -> Fault {
        let (upstream, words) = (self.upstream.clone(), words(json, body));
        match status {
            401 | 403 => Fault::Key { upstream, what, status, words },
            404 => Fault::Unknown { upstream, what, words },
            420 | 429 => {
                let wait = self.wait(headers, json, &words);
                Fault::Busy { upstream, what, words, wait }
            }
            _ => Fault::Refused { upstream, what, status, words },
        }
    }

    /// In headers, in a field, or in the words.
    fn wait(&self, headers: &HeaderMap, json: &Value, words: &str) -> Option<Duration> {
        let header = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse().ok();
        let seconds = header(RETRY_AFTER.as_str())
            .or_else(|| header("x-sib-ratelimit-reset"))
            .or_else(|| json["retry-seconds"].as_u64());
        let now = self.clock.now();
        let told = || try_again_after(words, now).map(|until| until.duration_since(now));
        seconds.map(Duration::from_secs).or_else(told)
    }
}

/// What an error says, in one short line.
fn words(json: &Value, body: &[u8]) -> String {
    let named = ["message", "Reason", "Description"].into_iter().find_map(|name| json[name].as_str());
    let text = named.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    let text = text.trim().replace(char::is_control, " ");
    text.chars().take(TEXT).collect()
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
pub(super) struct Listing {
    /// The answer without the list's items.
    pub(super) answer: Value,
    /// The items that can be read; `None` where there is no list.
    pub(super) items: Option<Vec<Value>>,
    /// The others.
    pub(super) unread: Vec<Unread>,
    /// Whether its brackets or quotes do not fit together, so that others may be missing.
    pub(super) is_torn: bool,
}

impl Listing {
    fn of(mut answer: Value, name: &str) -> Self {
        let items = match answer.get_mut(name).map(Value::take) {
            Some(Value::Array(items)) => Some(items),
            _ => None,
        };
        Self { answer, items, unread: Vec::new(), is_torn: false }
    }

    /// What is left of a body whose list begins at `start`.
    fn torn(body: &Bytes, start: usize, field: &str, error: &serde_json::Error) -> Self {
        let mut listing =
            Self { answer: Value::Null, items: Some(Vec::new()), unread: Vec::new(), is_torn: true };
        let mut found = provider::salvage(&body[start..], field);
        // The list may be closed all the same.
        if let Some(rest) = found.junk.pop_if(|last| last.starts_with(b"]")) {
            listing.answer = lenient::value(&[&body[..start], rest].concat()).unwrap_or_default();
        }
        listing.add(body, found, error);
        listing
    }

    fn add(&mut self, body: &Bytes, found: Salvage<'_>, error: &serde_json::Error) {
        self.items.get_or_insert_default().extend(found.items);
        let reason = format!("it is not JSON: {error}");
        let unread = |raw| Unread { raw: body.slice_ref(raw), reason: reason.clone() };
        self.unread.extend(found.junk.into_iter().map(unread));
    }
}

const TORN: &str = "its brackets or quotes do not fit together";
const CONNECT: Duration = Duration::from_secs(30);
/// From the first byte of a request to the last of its answer.
const EXCHANGE: Duration = Duration::from_secs(120);
/// Bytes of an answer: 5,000 events of Brevo's, or 300 of Mailgun's, take a tenth of it.
const ANSWER: usize = 32 << 20;
/// Characters of a refusal's words that are kept.
const TEXT: usize = 200;
