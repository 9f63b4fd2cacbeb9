//! The providers' reports: verified, kept, and only then answered.
//!
//! The answers are those that each provider understands: for Mailgun `200` is kept or known, `406` is never worth a
//! repetition, `503` asks for one.

use crate::clock::{Clock, Timestamp};
use crate::ledger::{self, Dead};
use crate::provider::mailgun::Refused;
use crate::provider::{Provider, mailgun};
use crate::secret::Secret;
use crate::store::{ReadError, Store};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// One upstream whose provider reports to us.
#[derive(Clone, Debug)]
pub struct Source {
    /// The upstream's name, which is the last part of the path.
    pub upstream: String,
    /// Whose reports they are.
    pub provider: Provider,
    /// Signing keys, two during a rotation.
    pub keys: Vec<Secret>,
}

/// Where reports go.
pub struct Inbox {
    /// Who may report.
    pub sources: Vec<Source>,
    /// Where they are kept.
    pub store: Store,
    /// The time.
    pub clock: Clock,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Kept.
    Kept,
    /// Known already; nothing changed.
    Known,
    /// Kept as a dead letter.
    Buried,
    /// Never acceptable.
    Refused,
    /// Not now, through our own fault.
    NotNow,
    /// Nobody reports here.
    Nobody,
}

/// `POST /webhooks/<upstream>`, `GET /healthz`, `GET /readyz`.
pub fn router(inbox: Inbox) -> Router {
    Router::new()
        .route("/webhooks/{upstream}", post(receive))
        .layer(DefaultBodyLimit::max(BODY))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { "ready\n" }))
        .with_state(Arc::new(inbox))
}

async fn receive(State(inbox): State<Arc<Inbox>>, Path(upstream): Path<String>, body: Bytes) -> StatusCode {
    let answer = match inbox.sources.iter().find(|source| source.upstream == upstream) {
        Some(source) if source.provider == Provider::Mailgun => inbox.take_mailgun(source, body).await,
        _ => Answer::Nobody,
    };
    let known = if answer == Answer::Nobody { String::new() } else { upstream };
    metrics::counter!("mailtrail_webhook_requests_total", "upstream" => known, "outcome" => answer.word())
        .increment(1);
    answer.status()
}

impl Inbox {
    async fn take_mailgun(&self, source: &Source, body: Bytes) -> Answer {
        let now = self.clock.now();
        let mut digest = [0; 16];
        digest.copy_from_slice(&Sha256::digest(&body)[..16]);
        let notice = match mailgun::receive(&body, &source.keys, now) {
            Ok(notice) => notice,
            Err(refused) => {
                let reason = refused.to_string();
                if let Refused::Eventless { token, signed_at } = refused {
                    let (upstream, via) = (source.upstream.clone(), ledger::Via::Webhook);
                    let token = Some((token, signed_at, digest));
                    return self.bury(Dead { upstream, at: now, via, token, digest, reason }, body).await;
                }
                tracing::warn!(upstream = source.upstream, reason, "a webhook was refused");
                return if refused.is_final() { Answer::Refused } else { Answer::NotNow };
            }
        };
        match self.is_known(source, &notice, &digest) {
            Ok(None) => {}
            Ok(Some(answer)) => return answer,
            Err(error) => {
                tracing::error!(upstream = source.upstream, %error, "a webhook cannot be checked; the provider is asked to repeat it");
                return Answer::NotNow;
            }
        }
        let kind = notice.event.kind.word();
        let notice = ledger::Notice {
            upstream: source.upstream.clone(),
            at: now,
            via: ledger::Via::Webhook,
            token: Some((notice.token, notice.signed_at, digest)),
            event: notice.event,
        };
        match self.store.report(notice, body).await {
            Ok(()) => {
                let upstream = source.upstream.clone();
                metrics::counter!("mailtrail_events_total", "upstream" => upstream, "event" => kind)
                    .increment(1);
                Answer::Kept
            }
            Err(error) => {
                tracing::error!(upstream = source.upstream, %error, "a webhook cannot be kept; the provider is asked to repeat it");
                Answer::NotNow
            }
        }
    }

    /// What to answer when the token was used, or the event taken, before. The signature covers no body, so a token
    /// that comes back with another body is somebody else's.
    fn is_known(
        &self,
        source: &Source,
        notice: &mailgun::Notice,
        digest: &[u8; 16],
    ) -> Result<Option<Answer>, ReadError> {
        if let Some(used) = self.used(&source.upstream, &notice.token, notice.signed_at, digest)? {
            return Ok(Some(used));
        }
        let known = self.store.knows_event(&source.upstream, &notice.event)?;
        Ok(known.then_some(Answer::Known))
    }

    /// What to answer when the token was used before.
    fn used(
        &self,
        upstream: &str,
        token: &str,
        signed_at: Timestamp,
        digest: &[u8; 16],
    ) -> Result<Option<Answer>, ReadError> {
        let Some(used) = self.store.token(upstream, token, signed_at)? else { return Ok(None) };
        if used == digest {
            return Ok(Some(Answer::Known));
        }
        tracing::warn!(
            upstream,
            "a webhook's signature was used before with another body: refused as a replay"
        );
        Ok(Some(Answer::Refused))
    }

    /// Keeps what is genuine and cannot be understood: a repetition would be no better, so none is asked for.
    async fn bury(&self, dead: Dead, body: Bytes) -> Answer {
        let (upstream, reason) = (dead.upstream.clone(), dead.reason.clone());
        if let Some((token, signed_at, digest)) = &dead.token {
            match self.used(&upstream, token, *signed_at, digest) {
                Ok(None) => {}
                Ok(Some(answer)) => return answer,
                Err(error) => {
                    tracing::error!(upstream, %error, "a webhook cannot be checked; the provider is asked to repeat it");
                    return Answer::NotNow;
                }
            }
        }
        match self.store.bury(dead, body).await {
            Ok(()) => {
                tracing::warn!(
                    upstream,
                    reason,
                    "a webhook cannot be understood; `mailtrail events dead` lists it"
                );
                Answer::Buried
            }
            Err(error) => {
                tracing::error!(upstream, %error, "a webhook cannot be kept; the provider is asked to repeat it");
                Answer::NotNow
            }
        }
    }
}

impl Answer {
    fn status(self) -> StatusCode {
        match self {
            Self::Kept | Self::Known | Self::Buried => StatusCode::OK,
            Self::Refused => StatusCode::NOT_ACCEPTABLE,
            Self::NotNow => StatusCode::SERVICE_UNAVAILABLE,
            Self::Nobody => StatusCode::NOT_FOUND,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Known => "known",
            Self::Buried => "dead",
            Self::Refused => "refused",
            Self::NotNow => "not-now",
            Self::Nobody => "nobody",
        }
    }
}

/// Bytes of a report; Mailgun's are about 2 KiB.
const BODY: usize = 1 << 20;
