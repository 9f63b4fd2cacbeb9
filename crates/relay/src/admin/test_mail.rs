//! A mail of the operator's own, to be followed through the whole loop.

use crate::admin::audit_log;
use crate::admin::error::{Refusal, refuse};
use crate::admin::route_table::Routes;
use crate::admin::state::{Operator, Panel};
use crate::internal_mail::{HandIn, compose};
use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use mailtrail_mail::Mailbox;
use mailtrail_trail::Errand;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

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
    /// Why.
    #[serde(default)]
    pub reason: String,
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
    let (envelope, message) = compose(&from, &to, SUBJECT, TEXT);
    let silent = panel.tester.silent.to_vec();
    let sent = async move {
        let kept = (panel.tester.hand_in)(envelope, message).await;
        if let Ok(id) = kept {
            tracing::info!(%id, operator, "a test mail was handed in");
            audit_log::note(&panel, Errand::SendTest { id }, &operator, &order.reason).await?;
        }
        Ok::<_, Refusal>(kept)
    };
    // It is carried out to its end, also when whoever asked has gone.
    let kept = match tokio::spawn(sent).await {
        Ok(Ok(kept)) => kept,
        Ok(Err(refusal)) => return refuse(&refusal),
        Err(_) => return refuse(&Refusal::Broken),
    };
    let (id, refused) = match kept {
        Ok(id) => (Some(id.to_string()), None),
        Err(words) => (None, Some(words)),
    };
    Json(TestAnswer { id, from: from.to_string(), refused, silent }).into_response()
}

const SUBJECT: &str = "mailtrail test";
const TEXT: &str = "mailtrail send-test sent this to see whether it arrives, and whether that is reported.";
