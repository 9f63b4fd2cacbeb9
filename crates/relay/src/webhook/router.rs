//! Routes of the webhook listener and the handling of provider events.

use crate::webhook::body::{BodyError, has_content_coding};
use crate::webhook::client_address::ClientAddress;
use crate::webhook::outcome::RequestOutcome;
use crate::webhook::peer::Peer;
use crate::webhook::service::{IngestError, RequestContext, WebhookService};
use crate::webhook::source::{HintSuppression, SourceKind, WebhookSource};
use crate::webhook::{hint_suppression, loopback_probe};
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::routing::{get, post};
use axum::{Router, middleware};
use bytes::Bytes;
use futures_util::future::join_all;
use mailtrail_mail::{Secret, Timestamp};
use mailtrail_net::Refusal;
use mailtrail_trail::provider::{Form, activecampaign, brevo, generic, mailgun};
use mailtrail_trail::{DeadLetter, EventSource, ProviderEvent, ReceivedEvent, ReceivedHint, provider};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::time::Instant;

/// `POST /webhooks/<source>`, `POST /webhooks/<source>/<secret>`, `POST /inbound/<upstream>`, `POST
/// /inbound/<upstream>/mime`, `GET /healthz`, `GET /readyz`, each with or without a final slash.
pub(super) fn router(inbox: WebhookService) -> Router {
    let (inbox, mut router) = (Arc::new(inbox), Router::new());
    for (path, method) in [
        ("/webhooks/{source}", post(receive_webhook)),
        ("/webhooks/{source}/{secret}", post(receive_webhook_with_secret)),
        ("/inbound/{source}", post(receive_mail)),
        ("/inbound/{source}/mime", post(receive_raw_mail)),
        ("/healthz", get(|| async { "ok\n" })),
        ("/readyz", get(|| async { "ready\n" })),
    ] {
        router = router.route(path, method.clone()).route(&format!("{path}/"), method);
    }
    router
        .route_layer(middleware::from_fn_with_state(inbox.clone(), loopback_probe::respond_to_probe))
        .method_not_allowed_fallback(reject_method)
        .fallback(reject_path)
        .with_state(inbox)
}

async fn reject_method(State(inbox): State<Arc<WebhookService>>, request: Request) -> StatusCode {
    inbox.reject_path(Refusal::MethodNotAllowed, &request);
    StatusCode::METHOD_NOT_ALLOWED
}

pub(super) async fn reject_path(State(inbox): State<Arc<WebhookService>>, request: Request) -> StatusCode {
    inbox.reject_path(Refusal::UnknownPath, &request);
    StatusCode::NOT_FOUND
}

async fn receive_webhook(
    State(inbox): State<Arc<WebhookService>>,
    Path(name): Path<String>,
    request: Request,
) -> StatusCode {
    inbox.handle(&name, RequestKind::Event(None), request).await
}

async fn receive_webhook_with_secret(
    State(inbox): State<Arc<WebhookService>>,
    Path((name, secret)): Path<(String, String)>,
    request: Request,
) -> StatusCode {
    inbox.handle(&name, RequestKind::Event(Some(Secret::new(secret))), request).await
}

async fn receive_mail(
    State(inbox): State<Arc<WebhookService>>,
    Path(name): Path<String>,
    request: Request,
) -> StatusCode {
    inbox.handle(&name, RequestKind::InboundMail { is_raw: false }, request).await
}

async fn receive_raw_mail(
    State(inbox): State<Arc<WebhookService>>,
    Path(name): Path<String>,
    request: Request,
) -> StatusCode {
    inbox.handle(&name, RequestKind::InboundMail { is_raw: true }, request).await
}

/// Kind of a request, by its path.
enum RequestKind {
    /// A report, perhaps with a secret.
    Event(Option<Secret>),
    /// A mail from outside.
    InboundMail {
        /// Whether the path is that for raw mail.
        is_raw: bool,
    },
}

impl RequestKind {
    /// Whether there is such a path for that source.
    fn is_supported_by(&self, kind: &SourceKind) -> bool {
        match self {
            Self::Event(secret) => secret.is_none() || kind.has_secret_path(),
            Self::InboundMail { .. } => kind.has_inbound_mail(),
        }
    }
}

impl WebhookService {
    async fn handle(&self, name: &str, action: RequestKind, request: Request) -> StatusCode {
        let found = self.sources.iter().enumerate().find(|(_, source)| source.name == name);
        let found = found.filter(|(_, source)| action.is_supported_by(&source.kind));
        let Some((source_index, source)) = found else {
            self.reject_path(Refusal::UnknownPath, &request);
            return StatusCode::NOT_FOUND;
        };
        let peer = peer_of(&request);
        let (Parts { headers, .. }, body) = request.into_parts();
        let client = ClientAddress::resolve(peer.address, &headers, &self.proxies);
        let (secret, mail) = match action {
            RequestKind::Event(secret) => (secret, None),
            RequestKind::InboundMail { is_raw } => (None, Some(is_raw)),
        };
        let call = RequestContext { source, source_index, client, secret, headers, now: self.clock.now() };
        let answer = if peer.is_over_limit {
            self.reject(
                &call,
                "there are as many connections as may be; see `connections` and `connections_per_ip` in [http]",
                RequestOutcome::Unavailable,
            )
        } else {
            match mail {
                Some(raw_path) => self.receive_mail(&call, raw_path, body).await,
                None => self.receive_events(&call, body).await,
            }
        };
        count_request(&source.name, answer.as_str());
        source.kind.status_code(answer)
    }

    async fn receive_events(&self, call: &RequestContext<'_>, body: axum::body::Body) -> RequestOutcome {
        let kind = &call.source.kind;
        if kind.is_verified_by_body()
            && self.rejections.is_blocked(call.client, call.source_index, Instant::now())
        {
            return RequestOutcome::RateLimited;
        }
        if let Err(answer) = self.check_credentials(call) {
            return answer;
        }
        let read = async {
            if has_content_coding(&call.headers) {
                Err(BodyError::UnsupportedEncoding)
            } else {
                self.body_budget.read_body(body, kind.max_body_bytes()).await
            }
        };
        let held = match read.await {
            Ok(held) => held,
            Err(unread) => {
                let answer = unread.outcome();
                return self.reject(call, unread, answer);
            }
        };
        let taken = match kind {
            SourceKind::Mailgun { keys } => self.receive_mailgun(call, keys, &held.bytes).await,
            SourceKind::Brevo(_) => {
                self.activity.record_event(call.source.upstream());
                let decode = |event: &Value, _: usize| brevo::decode_event(event, call.now);
                self.receive_batch(call, &held.bytes, decode).await
            }
            SourceKind::Generic { secrets, .. } => self.receive_generic(call, secrets, &held.bytes).await,
            SourceKind::ActiveCampaign { suppress, .. } => {
                self.receive_hint(call, suppress, &held.bytes).await
            }
        };
        taken.unwrap_or_else(|trouble| {
            let trouble = format!("a report cannot be kept, its sender is asked to repeat it: {trouble}");
            self.reject(call, trouble, RequestOutcome::Unavailable)
        })
    }

    /// Checks the credentials that do not depend on the body, before the body is read.
    pub(super) fn check_credentials(&self, call: &RequestContext<'_>) -> Result<(), RequestOutcome> {
        match &call.source.kind {
            SourceKind::Brevo(credentials) if credentials.is_empty() => {
                let why = "no webhook_token or webhook_username is configured for this upstream";
                Err(self.reject(call, why, RequestOutcome::Unavailable))
            }
            SourceKind::Brevo(credentials)
                if !credentials.verify_request(|name| Some(call.headers.get(name)?.as_bytes())) =>
            {
                let why = "the credentials do not match: were webhook_token, webhook_header or webhook_username, and \
                           webhook_password given to Brevo as they are here?";
                self.activity.record_signature_failure(call.source.upstream(), call.now);
                Err(self.reject(call, why, RequestOutcome::Rejected))
            }
            SourceKind::ActiveCampaign { secrets, .. } => {
                let named = call.secret.as_ref().map(|secret| secret.expose().as_bytes()).unwrap_or_default();
                let why = "the last part of the path is not the source's secret";
                let good = secrets.iter().any(|secret| secret.ct_eq(named));
                if good { Ok(()) } else { Err(self.reject(call, why, RequestOutcome::Rejected)) }
            }
            SourceKind::Brevo(_) | SourceKind::Mailgun { .. } | SourceKind::Generic { .. } => Ok(()),
        }
    }

    async fn receive_mailgun(
        &self,
        call: &RequestContext<'_>,
        keys: &[Secret],
        body: &Bytes,
    ) -> Result<RequestOutcome, IngestError> {
        let digest = body_digest(body);
        let (token, signed_at, event) = match mailgun::verify_and_decode(body, keys, call.now) {
            Ok(mailgun::VerifiedEvent { token, signed_at, event }) => (token, signed_at, Ok(event)),
            Err(mailgun::WebhookError::NoEvent { token, signed_at }) => {
                (token, signed_at, Err("it is signed and holds no event".to_owned()))
            }
            Err(mailgun::WebhookError::Unreadable { token, signed_at, error }) => {
                (token, signed_at, Err(format!("it is signed and cannot be read: {error}")))
            }
            Err(refused) => return Ok(self.reject_mailgun(call, refused)),
        };
        self.record_verified(call, signed_at);
        // The signature does not cover the body, so a token that returns with another body is a replay.
        match self.store.webhook_token(call.source.upstream(), &token, signed_at)? {
            Some(used) if used == digest => return Ok(RequestOutcome::Duplicate),
            Some(_) => {
                let why = "the signature was used before with another body: a replay";
                return Ok(self.reject(call, why, RequestOutcome::Rejected));
            }
            None => {}
        }
        let token = Some((token, signed_at, digest));
        match event {
            Ok(event) => self.store_event(call, event, token, body.clone()).await,
            Err(reason) => self.store_dead_letter(call, reason, token, body.clone()).await,
        }
    }

    pub(super) fn reject_mailgun(
        &self,
        call: &RequestContext<'_>,
        refused: mailgun::WebhookError,
    ) -> RequestOutcome {
        let upstream = call.source.upstream();
        match refused {
            mailgun::WebhookError::BadSignature => self.activity.record_signature_failure(upstream, call.now),
            mailgun::WebhookError::FromFuture { signed_at } => {
                self.activity.record_signature_age(upstream, call.now, signed_at)
            }
            _ => {}
        }
        let is_final = match refused {
            // After a clock step, a webhook that seems too old may be recent.
            mailgun::WebhookError::Expired { .. } => self.clock_watch.is_steady(),
            _ => refused.is_permanent(),
        };
        self.reject(
            call,
            refused,
            if is_final { RequestOutcome::Rejected } else { RequestOutcome::Unavailable },
        )
    }

    /// Notes a genuine report.
    pub(super) fn record_verified(&self, call: &RequestContext<'_>, signed_at: Timestamp) {
        self.activity.record_event(call.source.upstream());
        self.activity.record_signature_age(call.source.upstream(), call.now, signed_at);
    }

    async fn receive_generic(
        &self,
        call: &RequestContext<'_>,
        secrets: &[Secret],
        body: &Bytes,
    ) -> Result<RequestOutcome, IngestError> {
        let field = |name| call.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let [id, timestamp, signatures] = ["webhook-id", "webhook-timestamp", "webhook-signature"].map(field);
        let signed_at = match (generic::SignedRequest { id, timestamp, signatures })
            .verify(secrets, body, call.now)
        {
            Ok(signed_at) => signed_at,
            Err(
                refused @ (generic::SignatureError::NoSecret | generic::SignatureError::FromFuture { .. }),
            ) => {
                return Ok(self.reject(call, refused, RequestOutcome::Unavailable));
            }
            Err(refused @ generic::SignatureError::Expired { .. }) if !self.clock_watch.is_steady() => {
                return Ok(self.reject(call, refused, RequestOutcome::Unavailable));
            }
            Err(refused) => {
                if matches!(refused, generic::SignatureError::BadSignature) {
                    self.activity.record_signature_failure(call.source.upstream(), call.now);
                }
                return Ok(self.reject(call, refused, RequestOutcome::Rejected));
            }
        };
        self.record_verified(call, signed_at);
        let decode =
            |event: &Value, number: usize| generic::decode_event(event, &format!("{id}/{number}"), signed_at);
        self.receive_batch(call, body, decode).await
    }

    /// Commits every event of a body before the answer. If a batch is committed only in part, the repetition finds the
    /// committed events as duplicates.
    pub(super) async fn receive_batch(
        &self,
        call: &RequestContext<'_>,
        body: &Bytes,
        decode: impl Fn(&Value, usize) -> Option<ProviderEvent>,
    ) -> Result<RequestOutcome, IngestError> {
        let events = match provider::split_events(body) {
            Ok(events) => events,
            Err(error) => return self.store_dead_letter(call, error, None, body.clone()).await,
        };
        let kept = events.into_iter().enumerate().map(async |(number, raw)| {
            match provider::lenient::parse_value(&raw).map(|event| decode(&event, number)) {
                Ok(Some(event)) => self.store_event(call, event, None, raw).await,
                Ok(None) => self.store_dead_letter(call, "it is no event", None, raw).await,
                Err(error) => {
                    self.store_dead_letter(call, format!("it is not JSON: {error}"), None, raw).await
                }
            }
        });
        let answers = join_all(kept).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let gravest = [RequestOutcome::DeadLettered, RequestOutcome::Stored]
            .into_iter()
            .find(|answer| answers.contains(answer));
        Ok(gravest.unwrap_or(RequestOutcome::Duplicate))
    }

    async fn store_event(
        &self,
        call: &RequestContext<'_>,
        event: ProviderEvent,
        token: Option<(String, Timestamp, [u8; 16])>,
        raw: Bytes,
    ) -> Result<RequestOutcome, IngestError> {
        let upstream = call.source.upstream();
        if self.store.has_event(upstream, &event)? {
            return Ok(RequestOutcome::Duplicate);
        }
        let (kind, lag) = (event.kind.as_str(), call.now.duration_since(event.at));
        let notice = ReceivedEvent {
            upstream: upstream.to_owned(),
            received_at: call.now,
            source: EventSource::Webhook,
            token,
            event,
        };
        self.store.put_event(notice, raw).await?;
        metrics::histogram!("mailtrail_event_lag_seconds").record(lag);
        metrics::counter!("mailtrail_events_total", "upstream" => upstream.to_owned(), "event" => kind)
            .increment(1);
        Ok(RequestOutcome::Stored)
    }

    pub(super) async fn receive_hint(
        &self,
        call: &RequestContext<'_>,
        suppress: &[HintSuppression],
        body: &Bytes,
    ) -> Result<RequestOutcome, IngestError> {
        let Some(hint) = Form::parse(body).and_then(|form| activecampaign::decode_hint(&form, call.now))
        else {
            return self
                .store_dead_letter(call, "it is no webhook of ActiveCampaign's", None, body.clone())
                .await;
        };
        let dedup_key = body_digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
        let hinted =
            ReceivedHint { source: call.source.name.clone(), received_at: call.now, dedup_key, hint };
        if self.store.has_hint(&hinted)? {
            return Ok(RequestOutcome::Duplicate);
        }
        // First, because known hints are not evaluated again.
        if let Some(listing) = hint_suppression::suppression_change_for(&self.store, suppress, &hinted)? {
            self.store.change_suppression(listing).await?;
        }
        self.store.put_hint(hinted, body.clone()).await?;
        Ok(RequestOutcome::Stored)
    }

    /// Stores an authentic event that cannot be decoded as a dead letter. A repetition would be no better, so none is
    /// requested.
    pub(super) async fn store_dead_letter(
        &self,
        call: &RequestContext<'_>,
        reason: impl Display,
        token: Option<(String, Timestamp, [u8; 16])>,
        raw: Bytes,
    ) -> Result<RequestOutcome, IngestError> {
        let (upstream, reason) = (call.source.upstream().to_owned(), reason.to_string());
        tracing::error!(
            source = call.source.name,
            reason,
            "a genuine report cannot be understood; `mailtrail events dead` lists it"
        );
        let digest = body_digest(&raw);
        let dead = DeadLetter {
            upstream,
            received_at: call.now,
            source: EventSource::Webhook,
            token,
            body_digest: digest,
            reason,
        };
        self.store.put_dead_letter(dead, raw).await?;
        Ok(RequestOutcome::DeadLettered)
    }

    /// Counts a request with an unknown path and logs which path would match. Scanners with GET are not logged.
    pub(super) fn reject_path(&self, refusal: Refusal, request: &Request) {
        count_request("", "nobody");
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let client = ClientAddress::resolve(peer_of(request).address, request.headers(), &self.proxies);
            self.refusal_log.record_refusal(
                client.address,
                refusal,
                &self.suggest_path(request.uri().path()),
            );
        }
    }

    /// Returns the path that was probably meant, or all paths. The requested path is not repeated, because it may
    /// contain a secret.
    fn suggest_path(&self, asked: &str) -> String {
        let asked = asked.to_ascii_lowercase();
        let has = |word: &str| asked.split(['/', '.', '%']).any(|part| part == word);
        let path = |source: &WebhookSource| {
            let (name, secret) = (&source.name, if source.kind.has_secret_path() { "/<secret>" } else { "" });
            match has("inbound") && source.kind.has_inbound_mail() {
                true if has("mime") => format!("/inbound/{name}/mime"),
                true => format!("/inbound/{name}"),
                false => format!("/webhooks/{name}{secret}"),
            }
        };
        let meant = self.sources.iter().find(|source| has(&source.name.to_ascii_lowercase()));
        match meant {
            Some(source) => format!("the path is {}", path(source)),
            None => format!("paths: {}", self.sources.iter().map(path).collect::<Vec<_>>().join(" ")),
        }
    }

    /// Rejects a request. In each minute and for each client, the first rejection of a kind is logged, and the one from
    /// which on requests are no longer checked.
    pub(super) fn reject(
        &self,
        call: &RequestContext<'_>,
        reason: impl Display,
        answer: RequestOutcome,
    ) -> RequestOutcome {
        let RequestContext { source, source_index, client, .. } = call;
        let counts = answer == RequestOutcome::Rejected;
        let said = self.rejections.record_rejection(*client, *source_index, counts, Instant::now());
        let (source, address) = (&source.name, client.address);
        let first = self.refusal_log.should_log(client.address, format!("{source}: {}", answer.as_str()));
        match (first, answer) {
            (true, RequestOutcome::Unavailable) => {
                tracing::error!(source, %address, %reason, "a webhook is not taken now")
            }
            (true, _) => tracing::warn!(source, %address, %reason, "a webhook was refused"),
            (false, _) => {
                tracing::debug!(source, %address, %reason, "a webhook was not taken, as others before")
            }
        }
        if let Some(refused) = said.limit_reached {
            let hidden = client.is_proxy;
            tracing::warn!(source, %address, refused, hidden, "so many webhooks of one address were refused within a minute");
        }
        answer
    }
}

/// Where a request came from.
fn peer_of(request: &Request) -> Peer {
    let nowhere = Peer { address: Ipv4Addr::UNSPECIFIED.into(), is_over_limit: false };
    request.extensions().get().copied().unwrap_or(nowhere)
}

fn count_request(source: &str, outcome: &'static str) {
    metrics::counter!("mailtrail_webhook_requests_total", "upstream" => source.to_owned(), "outcome" => outcome)
        .increment(1);
}

pub(super) fn body_digest(body: &[u8]) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&Sha256::digest(body)[..16]);
    digest
}
