use super::{Face, SandboxError};
use crate::provider::mailgun;
use crate::secret::Secret;
use crate::tls;
use bytes::Bytes;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, redirect};
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Where events go, and how.
#[derive(Debug)]
pub(super) struct Webhook {
    face: Face,
    client: Client,
    key: Secret,
    url: Mutex<Option<Arc<str>>>,
    posts: Semaphore,
}

/// One address that events are posted to.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// The one that is configured, whatever it is when the post begins.
    Configured,
    /// One that was registered.
    Registered(Arc<str>),
}

/// What the receiver said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Kept.
    Taken,
    /// Never again.
    Refused,
    /// Anything else, or nothing.
    Again,
}

impl Webhook {
    pub(super) fn new(face: Face, url: Option<String>, key: Secret) -> Result<Self, SandboxError> {
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

    pub(super) fn set_url(&self, url: String) {
        *self.url.lock().unwrap_or_else(PoisonError::into_inner) = Some(url.into());
    }

    /// The configured address.
    pub(super) fn url(&self) -> Option<Arc<str>> {
        self.url.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The whole body of an event's request; its retries carry the same one, signature included.
    pub(super) fn sign(&self, data: Map<String, Value>, now: u64) -> Bytes {
        if self.face == Face::Brevo {
            return Value::Object(data).to_string().into();
        }
        let (timestamp, token) = (now.to_string(), hex(&random::<25>()));
        let signature = mailgun::sign(&self.key, &timestamp, &token);
        let body = json!({
            "signature": { "token": token, "timestamp": timestamp, "signature": signature },
            "event-data": data,
        });
        body.to_string().into()
    }

    /// Posts a body once; `None` where there is no address to post to.
    pub(super) async fn post(&self, target: &Target, body: Bytes) -> Option<Answer> {
        let url = match target {
            Target::Configured => self.url()?,
            Target::Registered(url) => url.clone(),
        };
        let _turn = self.posts.acquire().await.ok()?;
        let mut request = self.client.post(&*url).header(CONTENT_TYPE, "application/json").body(body);
        if self.face == Face::Brevo {
            request = request.bearer_auth(self.key.reveal());
        }
        Some(match request.send().await.map(|response| response.status().as_u16()) {
            Ok(status) => {
                let answer = self.face.answer(status);
                tracing::debug!(status, ?answer, "the webhook was answered");
                answer
            }
            Err(error) => {
                tracing::debug!(%error, "the webhook was not answered");
                Answer::Again
            }
        })
    }
}

/// Bytes that differ each time. Not fit for secrets, and none are made here.
pub(super) fn random<const N: usize>() -> [u8; N] {
    std::array::from_fn(|_| fastrand::u8(..))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Posts at once.
const POSTS: usize = 32;
/// How long an answer may take. Mailgun's own limit is not documented.
const TIMEOUT: Duration = Duration::from_secs(10);
