use crate::SandboxError;
use crate::profile::Face;
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
pub(crate) struct Webhook {
    face: Face,
    client: Client,
    key: Secret,
    url: Mutex<Option<Arc<str>>>,
    posts: Semaphore,
}

/// Whom events are posted to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// The address that is configured, whatever it is when the post begins.
    Configured,
    /// One that was registered at Mailgun.
    Registered(Arc<str>),
    /// Brevo's webhook of this number, wherever it leads when the post begins.
    Brevo(u64),
}

/// Where a request goes, and what else it shows.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) url: Arc<str>,
    pub(crate) fields: HeaderMap,
}

/// What the receiver said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Kept.
    Taken,
    /// Never again.
    Refused,
    /// Anything else.
    Again,
    /// Nothing.
    Silence,
}

impl Webhook {
    pub(crate) fn new(face: Face, url: Option<String>, key: Secret) -> Result<Self, SandboxError> {
        let client = Client::builder()
            // Without it the client asks for a process-wide default, which nothing here sets.
            .tls_backend_preconfigured(tls::client_config(None)?)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()?;
        let url = Mutex::new(url.map(Arc::from));
        Ok(Self { face, client, key, url, posts: Semaphore::new(POSTS) })
    }

    pub(crate) fn set_url(&self, url: String) {
        *self.url.lock().unwrap_or_else(PoisonError::into_inner) = Some(url.into());
    }

    /// The configured address.
    pub(crate) fn url(&self) -> Option<Arc<str>> {
        self.url.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same with what Brevo proves itself with there: the login in it, or else the key as a token.
    pub(crate) fn configured(&self) -> Option<Address> {
        let url = self.url()?;
        let mut fields = HeaderMap::new();
        let has_login = Url::parse(&url).is_ok_and(|url| !url.username().is_empty());
        if self.face == Face::Brevo
            && !has_login
            && let Ok(token) = HeaderValue::from_str(&format!("Bearer {}", self.key.reveal()))
        {
            fields.insert(AUTHORIZATION, token);
        }
        Some(Address { url, fields })
    }

    /// The whole body of a request of Mailgun's; its retries carry the same one, signature included.
    pub(crate) fn sign(&self, data: Map<String, Value>, now: u64) -> Bytes {
        let (timestamp, token) = (now.to_string(), hex(&random::<25>()));
        let signature = mailgun::sign(&self.key, &timestamp, &token);
        let body = json!({
            "signature": { "token": token, "timestamp": timestamp, "signature": signature },
            "event-data": data,
        });
        body.to_string().into()
    }

    /// Posts JSON once.
    pub(crate) async fn post(&self, address: Address, body: Bytes) -> Answer {
        let status = self.send(address, "application/json", body).await;
        let answer = status.map_or(Answer::Silence, |status| self.face.answer(status));
        tracing::debug!(status, ?answer, "a webhook was posted");
        answer
    }

    /// Posts anything once; the status of the answer, if there was one.
    pub(crate) async fn send(&self, address: Address, kind: &'static str, body: Bytes) -> Option<u16> {
        let _turn = self.posts.acquire().await.ok()?;
        let Address { url, fields } = address;
        let request = self.client.post(&*url).headers(fields).header(CONTENT_TYPE, kind).body(body);
        match request.send().await {
            Ok(response) => Some(response.status().as_u16()),
            Err(error) => {
                // A secret may stand in the address.
                tracing::debug!(error = %error.without_url(), "a webhook was not answered");
                None
            }
        }
    }
}

/// Bytes that differ each time. Not fit for secrets, and none are made here.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    std::array::from_fn(|_| fastrand::u8(..))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Posts at once.
const POSTS: usize = 32;
/// How long an answer may take. Mailgun's own limit is not documented.
const TIMEOUT: Duration = Duration::from_secs(10);
