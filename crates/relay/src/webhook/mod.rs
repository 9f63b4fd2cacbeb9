//! The reports of providers and others: verified, kept, and only then answered.
//!
//! Each is answered in the way that it understands ([`Kind`]). Whatever arrives in a burst, memory is bounded by the
//! number of connections and by the bytes of the bodies under way; what exceeds that is told to come again. Who sends
//! what nobody believes is told so, and after a while no longer looked at. A secret stands in no log: neither a path nor
//! a header is ever written to one.

mod body;
mod client_address;
mod connection_limit;
mod hint_suppression;
pub mod inbound;
mod listener;
mod loopback_probe;
mod outcome;
mod settings;
mod source;

pub use inbound::MailRules;
pub use listener::{PROTOCOLS, SPARE, serve};
pub use settings::Settings;
pub use source::{Kind, Source, Suppressing};

use crate::webhook::inbound::Intake;

use crate::loopback_probe::Probe;
use crate::monitoring::Pulse;
use crate::webhook::body::{Room, Unread, is_coded};
use crate::webhook::client_address::{Client, Refusals};
use crate::webhook::listener::Peer;
use crate::webhook::outcome::Answer;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::routing::{get, post};
use axum::{Router, middleware};
use bytes::Bytes;
use futures_util::future::join_all;
use ipnet::IpNet;
use mailtrail_mail::{Clock, ClockWatch, Secret, Timestamp};
use mailtrail_net::{Refusal, RefusalLog};
use mailtrail_store::{CommitError, ReadError, Store};
use mailtrail_trail::provider::{Form, activecampaign, brevo, generic, mailgun};
use mailtrail_trail::{Dead, Event, Hinted, Notice, Via, provider};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::time::Instant;

/// Where reports go.
pub struct Inbox {
    sources: Vec<Source>,
    /// Whose `X-Forwarded-For` is believed.
    proxies: Vec<IpNet>,
    store: Store,
    clock: Clock,
    watch: ClockWatch,
    pulse: Pulse,
    probe: Probe,
    room: Room,
    refusals: Refusals,
    log: RefusalLog,
    /// What takes in mail from outside, if somebody wants it.
    intake: Option<Intake>,
}

impl Inbox {
    /// For reports of `sources`, who are where the connection comes from or, if that is one of `proxies`, where its
    /// `X-Forwarded-For` says.
    pub fn new(sources: Vec<Source>, proxies: Vec<IpNet>, store: Store, clock: Clock, pulse: Pulse) -> Self {
        Self {
            sources,
            proxies,
            store,
            clock,
            watch: ClockWatch::new(clock),
            pulse,
            probe: Probe::default(),
            room: Room::default(),
            refusals: Refusals::default(),
            log: RefusalLog::default(),
            intake: None,
        }
    }

    /// It knows what `watch` knows of the clock.
    pub fn with_watch(self, watch: ClockWatch) -> Self {
        Self { watch, ..self }
    }

    /// It answers the questions of `probe`.
    pub fn with_probe(self, probe: Probe) -> Self {
        Self { probe, ..self }
    }

    /// It takes in mail from outside, too.
    pub fn with_mail(self, intake: Intake) -> Self {
        Self { intake: Some(intake), ..self }
    }
}

/// `POST /webhooks/<source>`, `POST /webhooks/<source>/<secret>`, `POST /inbound/<upstream>`, `POST
/// /inbound/<upstream>/mime`, `GET /healthz`, `GET /readyz`, each with or without a final slash.
fn router(inbox: Inbox) -> Router {
    let (inbox, mut router) = (Arc::new(inbox), Router::new());
    for (path, method) in [
        ("/webhooks/{source}", post(receive)),
        ("/webhooks/{source}/{secret}", post(receive_with_secret)),
        ("/inbound/{source}", post(receive_mail)),
        ("/inbound/{source}/mime", post(receive_raw_mail)),
        ("/healthz", get(|| async { "ok\n" })),
        ("/readyz", get(|| async { "ready\n" })),
    ] {
        router = router.route(path, method.clone()).route(&format!("{path}/"), method);
    }
    router
        .route_layer(middleware::from_fn_with_state(inbox.clone(), loopback_probe::answer))
        .method_not_allowed_fallback(refuse_method)
        .fallback(refuse_path)
        .with_state(inbox)
}

async fn refuse_method(State(inbox): State<Arc<Inbox>>, request: Request) -> StatusCode {
    inbox.refuse_path(Refusal::Method, &request);
    StatusCode::METHOD_NOT_ALLOWED
}

async fn refuse_path(State(inbox): State<Arc<Inbox>>, request: Request) -> StatusCode {
    inbox.refuse_path(Refusal::Path, &request);
    StatusCode::NOT_FOUND
}

async fn receive(State(inbox): State<Arc<Inbox>>, Path(name): Path<String>, request: Request) -> StatusCode {
    inbox.answer(&name, Errand::Report(None), request).await
}

async fn receive_with_secret(
    State(inbox): State<Arc<Inbox>>,
    Path((name, secret)): Path<(String, String)>,
    request: Request,
) -> StatusCode {
    inbox.answer(&name, Errand::Report(Some(Secret::new(secret))), request).await
}

async fn receive_mail(
    State(inbox): State<Arc<Inbox>>,
    Path(name): Path<String>,
    request: Request,
) -> StatusCode {
    inbox.answer(&name, Errand::Mail { raw_path: false }, request).await
}

async fn receive_raw_mail(
    State(inbox): State<Arc<Inbox>>,
    Path(name): Path<String>,
    request: Request,
) -> StatusCode {
    inbox.answer(&name, Errand::Mail { raw_path: true }, request).await
}

/// What somebody comes with, by the path.
enum Errand {
    /// A report, perhaps with a secret.
    Report(Option<Secret>),
    /// A mail from outside.
    Mail {
        /// Whether the path is that for raw mail.
        raw_path: bool,
    },
}

impl Errand {
    /// Whether there is such a path for that source.
    fn suits(&self, kind: &Kind) -> bool {
        match self {
            Self::Report(secret) => secret.is_none() || kind.has_secret_path(),
            Self::Mail { .. } => kind.brings_mail(),
        }
    }
}

/// A request at a source.
struct Call<'a> {
    source: &'a Source,
    place: usize,
    client: Client,
    secret: Option<Secret>,
    headers: HeaderMap,
    now: Timestamp,
}

impl Inbox {
    async fn answer(&self, name: &str, errand: Errand, request: Request) -> StatusCode {
        let found = self.sources.iter().enumerate().find(|(_, source)| source.name == name);
        let found = found.filter(|(_, source)| errand.suits(&source.kind));
        let Some((place, source)) = found else {
            self.refuse_path(Refusal::Path, &request);
            return StatusCode::NOT_FOUND;
        };
        let peer = peer(&request);
        let (Parts { headers, .. }, body) = request.into_parts();
        let client = Client::of(peer.address, &headers, &self.proxies);
        let (secret, mail) = match errand {
            Errand::Report(secret) => (secret, None),
            Errand::Mail { raw_path } => (None, Some(raw_path)),
        };
        let call = Call { source, place, client, secret, headers, now: self.clock.now() };
        let answer = if peer.is_one_too_many {
            self.turn_away(
                &call,
                "there are as many connections as may be; see `connections` and `connections_per_ip` in [http]",
                Answer::NotNow,
            )
        } else {
            match mail {
                Some(raw_path) => self.take_mail(&call, raw_path, body).await,
                None => self.take(&call, body).await,
            }
        };
        count(&source.name, answer.word());
        source.kind.status(answer)
    }

    async fn take(&self, call: &Call<'_>, body: axum::body::Body) -> Answer {
        let kind = &call.source.kind;
        if kind.is_known_by_body() && self.refusals.turn_away(call.client, call.place, Instant::now()) {
            return Answer::Limited;
        }
        if let Err(answer) = self.admit(call) {
            return answer;
        }
        let read = async {
            if is_coded(&call.headers) {
                Err(Unread::Coded)
            } else {
                self.room.read(body, kind.largest_body()).await
            }
        };
        let held = match read.await {
            Ok(held) => held,
            Err(unread) => {
                let answer = unread.answer();
                return self.turn_away(call, unread, answer);
            }
        };
        let taken = match kind {
            Kind::Mailgun { keys } => self.take_mailgun(call, keys, &held.bytes).await,
            Kind::Brevo(_) => {
                self.pulse.heard(call.source.upstream());
                let decode = |event: &Value, _: usize| brevo::decode(event, call.now);
                self.take_batch(call, &held.bytes, decode).await
            }
            Kind::Generic { secrets, .. } => self.take_generic(call, secrets, &held.bytes).await,
            Kind::ActiveCampaign { suppress, .. } => self.take_hint(call, suppress, &held.bytes).await,
        };
        taken.unwrap_or_else(|trouble| {
            let trouble = format!("a report cannot be kept, its sender is asked to repeat it: {trouble}");
            self.turn_away(call, trouble, Answer::NotNow)
        })
    }

    /// Checks what is to be checked before a body is read.
    fn admit(&self, call: &Call<'_>) -> Result<(), Answer> {
        match &call.source.kind {
            Kind::Brevo(credentials) if credentials.is_empty() => {
                let why = "no webhook_token or webhook_username is configured for this upstream";
                Err(self.turn_away(call, why, Answer::NotNow))
            }
            Kind::Brevo(credentials)
                if !credentials.admit(|name| Some(call.headers.get(name)?.as_bytes())) =>
            {
                let why = "the credentials do not match: were webhook_token, webhook_header or webhook_username, and \
                           webhook_password given to Brevo as they are here?";
                self.pulse.refused(call.source.upstream(), call.now);
                Err(self.turn_away(call, why, Answer::Refused))
            }
            Kind::ActiveCampaign { secrets, .. } => {
                let named = call.secret.as_ref().map(|secret| secret.reveal().as_bytes()).unwrap_or_default();
                let why = "the last part of the path is not the source's secret";
                let good = secrets.iter().any(|secret| secret.is(named));
                if good { Ok(()) } else { Err(self.turn_away(call, why, Answer::Refused)) }
            }
            Kind::Brevo(_) | Kind::Mailgun { .. } | Kind::Generic { .. } => Ok(()),
        }
    }

    async fn take_mailgun(&self, call: &Call<'_>, keys: &[Secret], body: &Bytes) -> Result<Answer, Trouble> {
        let digest = digest(body);
        let (token, signed_at, event) = match mailgun::receive(body, keys, call.now) {
            Ok(mailgun::Notice { token, signed_at, event }) => (token, signed_at, Ok(event)),
            Err(mailgun::Refused::Eventless { token, signed_at }) => {
                (token, signed_at, Err("it is signed and holds no event".to_owned()))
            }
            Err(mailgun::Refused::Unreadable { token, signed_at, error }) => {
                (token, signed_at, Err(format!("it is signed and cannot be read: {error}")))
            }
            Err(refused) => return Ok(self.refuse_mailgun(call, refused)),
        };
        self.heard(call, signed_at);
        // The signature covers no body, so a token that comes back with another body is somebody else's.
        match self.store.token(call.source.upstream(), &token, signed_at)? {
            Some(used) if used == digest => return Ok(Answer::Known),
            Some(_) => {
                let why = "the signature was used before with another body: a replay";
                return Ok(self.turn_away(call, why, Answer::Refused));
            }
            None => {}
        }
        let token = Some((token, signed_at, digest));
        match event {
            Ok(event) => self.keep(call, event, token, body.clone()).await,
            Err(reason) => self.bury(call, reason, token, body.clone()).await,
        }
    }

    fn refuse_mailgun(&self, call: &Call<'_>, refused: mailgun::Refused) -> Answer {
        let upstream = call.source.upstream();
        match refused {
            mailgun::Refused::BadSignature => self.pulse.refused(upstream, call.now),
            mailgun::Refused::Ahead { signed_at } => self.pulse.signed(upstream, call.now, signed_at),
            _ => {}
        }
        let is_final = match refused {
            // By a clock that was set lately nothing is too old for good.
            mailgun::Refused::Stale { .. } => self.watch.is_steady(),
            _ => refused.is_final(),
        };
        self.turn_away(call, refused, if is_final { Answer::Refused } else { Answer::NotNow })
    }

    /// Notes a genuine report.
    fn heard(&self, call: &Call<'_>, signed_at: Timestamp) {
        self.pulse.heard(call.source.upstream());
        self.pulse.signed(call.source.upstream(), call.now, signed_at);
    }

    async fn take_generic(
        &self,
        call: &Call<'_>,
        secrets: &[Secret],
        body: &Bytes,
    ) -> Result<Answer, Trouble> {
        let field = |name| call.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let [id, timestamp, signatures] = ["webhook-id", "webhook-timestamp", "webhook-signature"].map(field);
        let signed_at = match (generic::Signed { id, timestamp, signatures }).verify(secrets, body, call.now)
        {
            Ok(signed_at) => signed_at,
            Err(refused @ (generic::Refused::NoKey | generic::Refused::Ahead { .. })) => {
                return Ok(self.turn_away(call, refused, Answer::NotNow));
            }
            Err(refused @ generic::Refused::Stale { .. }) if !self.watch.is_steady() => {
                return Ok(self.turn_away(call, refused, Answer::NotNow));
            }
            Err(refused) => {
                if matches!(refused, generic::Refused::BadSignature) {
                    self.pulse.refused(call.source.upstream(), call.now);
                }
                return Ok(self.turn_away(call, refused, Answer::Refused));
            }
        };
        self.heard(call, signed_at);
        let decode =
            |event: &Value, number: usize| generic::decode(event, &format!("{id}/{number}"), signed_at);
        self.take_batch(call, body, decode).await
    }

    /// Keeps every event of a body before it is answered. What is kept of a batch that cannot be kept as a whole is known
    /// when it comes again.
    async fn take_batch(
        &self,
        call: &Call<'_>,
        body: &Bytes,
        decode: impl Fn(&Value, usize) -> Option<Event>,
    ) -> Result<Answer, Trouble> {
        let events = match provider::events(body) {
            Ok(events) => events,
            Err(error) => return self.bury(call, error, None, body.clone()).await,
        };
        let kept =
            events.into_iter().enumerate().map(async |(number, raw)| {
                match provider::lenient::value(&raw).map(|event| decode(&event, number)) {
                    Ok(Some(event)) => self.keep(call, event, None, raw).await,
                    Ok(None) => self.bury(call, "it is no event", None, raw).await,
                    Err(error) => self.bury(call, format!("it is not JSON: {error}"), None, raw).await,
                }
            });
        let answers = join_all(kept).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let gravest = [Answer::Buried, Answer::Kept].into_iter().find(|answer| answers.contains(answer));
        Ok(gravest.unwrap_or(Answer::Known))
    }

    async fn keep(
        &self,
        call: &Call<'_>,
        event: Event,
        token: Option<(String, Timestamp, [u8; 16])>,
        raw: Bytes,
    ) -> Result<Answer, Trouble> {
        let upstream = call.source.upstream();
        if self.store.knows_event(upstream, &event)? {
            return Ok(Answer::Known);
        }
        let (kind, lag) = (event.kind.word(), call.now.since(event.at));
        let notice = Notice { upstream: upstream.to_owned(), at: call.now, via: Via::Webhook, token, event };
        self.store.report(notice, raw).await?;
        metrics::histogram!("mailtrail_event_lag_seconds").record(lag);
        metrics::counter!("mailtrail_events_total", "upstream" => upstream.to_owned(), "event" => kind)
            .increment(1);
        Ok(Answer::Kept)
    }

    async fn take_hint(
        &self,
        call: &Call<'_>,
        suppress: &[Suppressing],
        body: &Bytes,
    ) -> Result<Answer, Trouble> {
        let Some(hint) = Form::parse(body).and_then(|form| activecampaign::decode(&form, call.now)) else {
            return self.bury(call, "it is no webhook of ActiveCampaign's", None, body.clone()).await;
        };
        let identity = digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
        let hinted = Hinted { source: call.source.name.clone(), received: call.now, identity, hint };
        if self.store.knows_hint(&hinted)? {
            return Ok(Answer::Known);
        }
        // First: what is known is not looked at again.
        if let Some(listing) = hint_suppression::of_hint(&self.store, suppress, &hinted)? {
            self.store.list(listing).await?;
        }
        self.store.hint(hinted, body.clone()).await?;
        Ok(Answer::Kept)
    }

    /// Puts aside what is genuine and cannot be understood: a repetition would be no better, so none is asked for.
    async fn bury(
        &self,
        call: &Call<'_>,
        reason: impl Display,
        token: Option<(String, Timestamp, [u8; 16])>,
        raw: Bytes,
    ) -> Result<Answer, Trouble> {
        let (upstream, reason) = (call.source.upstream().to_owned(), reason.to_string());
        tracing::error!(
            source = call.source.name,
            reason,
            "a genuine report cannot be understood; `mailtrail events dead` lists it"
        );
        let digest = digest(&raw);
        let dead = Dead { upstream, at: call.now, via: Via::Webhook, token, digest, reason };
        self.store.bury(dead, raw).await?;
        Ok(Answer::Buried)
    }

    /// Counts a request that no path fits, and says which would. Whoever looks around with GET is not worth a line.
    fn refuse_path(&self, refusal: Refusal, request: &Request) {
        count("", "nobody");
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let client = Client::of(peer(request).address, request.headers(), &self.proxies);
            self.log.note(client.address, refusal, &self.right_path(request.uri().path()));
        }
    }

    /// The path that was meant, or all that there are. What was asked for is not repeated: it may hold a secret.
    fn right_path(&self, asked: &str) -> String {
        let asked = asked.to_ascii_lowercase();
        let has = |word: &str| asked.split(['/', '.', '%']).any(|part| part == word);
        let path = |source: &Source| {
            let (name, secret) = (&source.name, if source.kind.has_secret_path() { "/<secret>" } else { "" });
            match has("inbound") && source.kind.brings_mail() {
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

    /// Answers somebody who is not served. Of all of an address's in a minute the log hears of the first of a kind, and of
    /// the one from which on it is not looked at any more.
    fn turn_away(&self, call: &Call<'_>, reason: impl Display, answer: Answer) -> Answer {
        let Call { source, place, client, .. } = call;
        let counts = answer == Answer::Refused;
        let said = self.refusals.note(*client, *place, counts, Instant::now());
        let (source, address) = (&source.name, client.address);
        let first = self.log.admits(client.address, format!("{source}: {}", answer.word()));
        match (first, answer) {
            (true, Answer::NotNow) => {
                tracing::error!(source, %address, %reason, "a webhook is not taken now")
            }
            (true, _) => tracing::warn!(source, %address, %reason, "a webhook was refused"),
            (false, _) => {
                tracing::debug!(source, %address, %reason, "a webhook was not taken, as others before")
            }
        }
        if let Some(refused) = said.limit {
            let hidden = client.is_hidden;
            tracing::warn!(source, %address, refused, hidden, "so many webhooks of one address were refused within a minute");
        }
        answer
    }
}

/// Why something cannot be kept now.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Where a request came from.
fn peer(request: &Request) -> Peer {
    let nowhere = Peer { address: Ipv4Addr::UNSPECIFIED.into(), is_one_too_many: false };
    request.extensions().get().copied().unwrap_or(nowhere)
}

fn count(source: &str, outcome: &'static str) {
    metrics::counter!("mailtrail_webhook_requests_total", "upstream" => source.to_owned(), "outcome" => outcome)
        .increment(1);
}

fn digest(body: &[u8]) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&Sha256::digest(body)[..16]);
    digest
}
