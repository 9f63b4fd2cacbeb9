//! A mail of the operator's own, to be followed through the whole loop.

use super::panel::{Operator, Panel};
use super::routes::Routes;
use crate::id::TrackingId;
use crate::mail::{Envelope, Mailbox};
use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What hands a message in by the way that clients' mail takes: the id under which it is kept, or what a client would be
/// told.
pub type HandIn =
    Arc<dyn Fn(Envelope, Vec<u8>) -> BoxFuture<'static, Result<TrackingId, String>> + Send + Sync>;

/// What test mail is made with.
#[derive(Clone)]
pub struct Tester {
    /// Takes it in.
    pub hand_in: HandIn,
    /// From whom it is where nobody is named.
    pub from: Option<Mailbox>,
    /// The upstreams whose events do not come back.
    pub silent: Arc<[String]>,
}

/// Whom a test mail is to reach.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TestOrder {
    /// The recipient.
    pub to: String,
    /// The sender; the upstream must know its domain.
    #[serde(default)]
    pub from: Option<String>,
}

/// A test mail on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TestAnswer {
    /// Its tracking id, once it is kept.
    pub id: Option<String>,
    /// The sender.
    pub from: String,
    /// What a client would have been told if it was not taken.
    pub refused: Option<String>,
    /// The upstreams whose events do not come back: no webhook of theirs is believed, or they report nothing.
    pub silent: Vec<String>,
}

/// The one order.
pub(super) fn routes() -> Routes {
    Routes::default().post("/api/v1/test", order)
}

async fn order(
    State(panel): State<Panel>,
    ConnectInfo(Operator(operator)): ConnectInfo<Operator>,
    Json(order): Json<TestOrder>,
) -> Response {
    let named = |text: &str| text.parse::<Mailbox>().map_err(|error| format!("{text}: {error}"));
    let (to, from) = match (named(&order.to), order.from.as_deref().map(named).transpose()) {
        (Ok(to), Ok(from)) => (to, from.or_else(|| panel.tester.from.clone())),
        (Err(fault), _) | (_, Err(fault)) => {
            return (StatusCode::UNPROCESSABLE_ENTITY, fault).into_response();
        }
    };
    let Some(from) = from else {
        return (StatusCode::UNPROCESSABLE_ENTITY, "nobody is known to send it; name one: --from")
            .into_response();
    };
    let message = message(&from, &to);
    let envelope = Envelope {
        smtputf8: !from.is_ascii() || !to.is_ascii(),
        sender: Some(from.clone()),
        recipients: vec![to],
        ..Envelope::default()
    };
    let handed_in = (panel.tester.hand_in)(envelope, message);
    // It is carried out to its end, also when whoever asked has gone.
    let Ok(kept) = tokio::spawn(handed_in).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    if let Ok(id) = &kept {
        tracing::info!(%id, operator, "a test mail was handed in");
    }
    let silent = panel.tester.silent.to_vec();
    let (id, refused) = match kept {
        Ok(id) => (Some(id.to_string()), None),
        Err(words) => (None, Some(words)),
    };
    Json(TestAnswer { id, from: from.to_string(), refused, silent }).into_response()
}

/// Date, Message-ID and the rest are added where it is taken in.
fn message(from: &Mailbox, to: &Mailbox) -> Vec<u8> {
    let lines = [
        &format!("From: <{from}>"),
        &format!("To: <{to}>"),
        "Subject: mailtrail test",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        "mailtrail send-test sent this to see whether it arrives, and whether that is reported.",
        "",
    ];
    lines.join("\r\n").into_bytes()
}
