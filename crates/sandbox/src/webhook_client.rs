use crate::SandboxError;
use crate::profile::ProviderProfile;
use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use mailtrail_mail::Secret;
use mailtrail_net::tls;
use mailtrail_trail::provider::mailgun;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Client, Url, redirect};
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Where events go, and how.
#[derive(Debug)]
pub(crate) struct WebhookClient {
    face: ProviderProfile,
    client: Client,
    signing_key: Secret,
    url: Mutex<Option<Arc<str>>>,
    post_permits: Semaphore,
}

/// Receiver of events.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum WebhookTarget {
    /// The configured URL, as it is when the request starts.
    Configured,
    /// One that was registered at Mailgun.
    Registered(Arc<str>),
    /// Brevo's webhook of this number, wherever it leads when the post begins.
    Brevo(u64),
}

/// Where a request goes, and what else it shows.
#[derive(Clone, Debug)]
pub(crate) struct WebhookEndpoint {
    pub(crate) url: Arc<str>,
    pub(crate) headers: HeaderMap,
}

/// Classified response of the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WebhookResponse {
    /// Kept.
    Accepted,
    /// Never again.
    Rejected,
    /// Anything else.
    Retry,
    /// Nothing.
    NoResponse,
}

impl WebhookClient {
    pub(crate) fn new(
        profile: ProviderProfile,
        url: Option<String>,
        signing_key: Secret,
    ) -> Result<Self, SandboxError> {
        let client = Client::builder()
            // Otherwise the client would require a process-wide default, which is not set.
            .tls_backend_preconfigured(tls::build_client_config(None)?)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(RESPONSE_TIMEOUT)
            .build()?;
        let url = Mutex::new(url.map(Arc::from));
        Ok(Self {
            face: profile,
            client,
            signing_key,
            url,
            post_permits: Semaphore::new(MAX_CONCURRENT_POSTS),
        })
    }

    pub(crate) fn set_url(&self, url: String) {
        *self.url.lock().unwrap_or_else(PoisonError::into_inner) = Some(url.into());
    }

    /// The configured address.
    pub(crate) fn url(&self) -> Option<Arc<str>> {
        self.url.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The configured URL with Brevo's authentication: the login in it, otherwise the key as a token.
    pub(crate) fn configured_endpoint(&self) -> Option<WebhookEndpoint> {
        let url = self.url()?;
        let mut headers = HeaderMap::new();
        let has_login = Url::parse(&url).is_ok_and(|url| !url.username().is_empty());
        if self.face == ProviderProfile::Brevo
            && !has_login
            && let Ok(token) = HeaderValue::from_str(&format!("Bearer {}", self.signing_key.expose()))
        {
            headers.insert(AUTHORIZATION, token);
        }
        Some(WebhookEndpoint { url, headers })
    }

    /// Signed body of a Mailgun request; retries repeat it with the same signature.
    pub(crate) fn sign_body(&self, data: Map<String, Value>, now: u64) -> Bytes {
        let (timestamp, token) = (now.to_string(), encode_hex(&random_bytes::<25>()));
        let signature = mailgun::sign_webhook(&self.signing_key, &timestamp, &token);
        let body = json!({
            "signature": { "token": token, "timestamp": timestamp, "signature": signature },
            "event-data": data,
        });
        body.to_string().into()
    }

    /// Posts JSON once.
    pub(crate) async fn post_json(&self, address: WebhookEndpoint, body: Bytes) -> WebhookResponse {
        let status = self.post_body(address, "application/json", body).await;
        let answer = status.map_or(WebhookResponse::NoResponse, |status| self.face.classify_status(status));
        tracing::debug!(status, ?answer, "a webhook was posted");
        answer
    }

    /// Posts anything once; the status of the answer, if there was one.
    pub(crate) async fn post_body(
        &self,
        address: WebhookEndpoint,
        kind: &'static str,
        body: Bytes,
    ) -> Option<u16> {
        let _turn = self.post_permits.acquire().await.ok()?;
        let WebhookEndpoint { url, headers } = address;
        let request = self.client.post(&*url).headers(headers).header(CONTENT_TYPE, kind).body(body);
        match request.send().await {
            Ok(response) => Some(response.status().as_u16()),
            Err(error) => {
                // The URL may contain a secret.
                tracing::debug!(error = %error.without_url(), "a webhook was not answered");
                None
            }
        }
    }
}

/// Bytes that differ each time. Not fit for secrets, and none are made here.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    std::array::from_fn(|_| fastrand::u8(..))
}

pub(crate) fn encode_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Posts at once.
const MAX_CONCURRENT_POSTS: usize = 32;
/// How long an answer may take. Mailgun's own limit is not documented.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
