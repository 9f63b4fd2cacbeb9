//! Test mail of an operator, to be followed through the whole loop.

use crate::admin::audit_log;
use crate::admin::error::{ApiError, error_response};
use crate::admin::route_table::RouteTable;
use crate::admin::state::{ApiState, Caller};
use crate::internal_mail::compose_for_submission;
use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use mailtrail_mail::Mailbox;
use mailtrail_trail::OperatorActionData;
use serde::{Deserialize, Serialize};

/// Request for a test mail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TestMailRequest {
    /// Recipient.
    pub to: String,
    /// Sender; the upstream must know its domain.
    #[serde(default)]
    pub from: Option<String>,
    /// Reason.
    #[serde(default)]
    pub reason: String,
}

/// Submitted test mail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TestMailResponse {
    /// Tracking id, once it is stored.
    pub id: Option<String>,
    /// Sender.
    pub from: String,
    /// Refusal that a client would have received, if it was not accepted.
    pub refused: Option<String>,
    /// Upstreams without returning events: no webhook of theirs is authenticated, or they send none.
    pub silent: Vec<String>,
}

/// Returns the route of the test mail.
pub(super) fn routes() -> RouteTable {
    RouteTable::default().post("/api/v1/test", send_test_mail)
}

async fn send_test_mail(
    State(api): State<ApiState>,
    ConnectInfo(Caller(operator)): ConnectInfo<Caller>,
    Json(order): Json<TestMailRequest>,
) -> Response {
    let named = |text: &str| text.parse::<Mailbox>().map_err(|error| format!("{text}: {error}"));
    let (to, from) = match (named(&order.to), order.from.as_deref().map(named).transpose()) {
        (Ok(to), Ok(from)) => (to, from.or_else(|| api.test_mailer.default_sender.clone())),
        (Err(fault), _) | (_, Err(fault)) => {
            return (StatusCode::UNPROCESSABLE_ENTITY, fault).into_response();
        }
    };
    let Some(from) = from else {
        return (StatusCode::UNPROCESSABLE_ENTITY, "no sender is known; give one with --from")
            .into_response();
    };
    let (envelope, message) = compose_for_submission(&from, &to, TEST_SUBJECT, TEST_BODY);
    let silent = api.test_mailer.without_events.to_vec();
    let sent = async move {
        let submitted = (api.test_mailer.submit)(envelope, message).await;
        if let Ok(id) = submitted {
            tracing::info!(%id, operator, "test mail submitted");
            audit_log::record_action(&api, OperatorActionData::SendTest { id }, &operator, &order.reason)
                .await?;
        }
        Ok::<_, ApiError>(submitted)
    };
    // Runs to completion even if the client disconnects.
    let submitted = match tokio::spawn(sent).await {
        Ok(Ok(submitted)) => submitted,
        Ok(Err(refusal)) => return error_response(&refusal),
        Err(_) => return error_response(&ApiError::Internal),
    };
    let (id, refused) = match submitted {
        Ok(id) => (Some(id.to_string()), None),
        Err(words) => (None, Some(words)),
    };
    Json(TestMailResponse { id, from: from.to_string(), refused, silent }).into_response()
}

const TEST_SUBJECT: &str = "mailtrail test";
const TEST_BODY: &str =
    "mailtrail send-test sent this to see whether it arrives, and whether that is reported.";
