use crate::inbound::message::{InboundMessage, corruption_of};
use crate::inbound::response::TargetResponse;
use futures_util::StreamExt;
use mailtrail_net::{WebhookClient, WebhookEndpoint, WebhookSigner, webhook_client};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use reqwest::{Body, StatusCode};
use std::io;
use std::pin::pin;

/// Mail is posted as `message/rfc822`.
pub struct HttpTarget(WebhookClient);

impl HttpTarget {
    pub fn new(settings: WebhookEndpoint) -> Self {
        Self(WebhookClient::new(settings))
    }

    pub async fn deliver(&mut self, letter: &InboundMessage) -> TargetResponse {
        let signing = match self.compute_signature(letter).await {
            Ok(signing) => signing,
            Err(error) => {
                return corruption_of(&error)
                    .map_or_else(|| TargetResponse::Deferred(error.to_string()), TargetResponse::Rejected);
            }
        };
        let mut request = match self.0.build_request(signing) {
            Ok(request) => {
                request.header(CONTENT_TYPE, "message/rfc822").header(CONTENT_LENGTH, letter.size())
            }
            Err(why) => return TargetResponse::Unavailable(why),
        };
        let arrival = &letter.mail.received;
        let sender = arrival.sender.as_ref().map_or("", |sender| sender.as_str());
        for (name, address) in [(SENDER_HEADER, sender), (RECIPIENT_HEADER, arrival.recipient.as_str())] {
            if let Ok(value) = HeaderValue::from_bytes(address.as_bytes()) {
                request = request.header(name, value);
            }
        }
        match request.body(Body::wrap_stream(letter.pieces())).send().await {
            Ok(answer) => classify_status(answer.status()),
            Err(error) => TargetResponse::Unavailable(webhook_client::request_error_text(error)),
        }
    }

    /// Its signature covers all of it, and comes before.
    async fn compute_signature(&self, letter: &InboundMessage) -> io::Result<WebhookSigner> {
        let mut signing = self.0.start_signature(&letter.mail.received.id.to_string());
        let mut pieces = pin!(letter.pieces());
        while let Some(piece) = pieces.next().await {
            signing.update(&piece?);
        }
        Ok(signing)
    }
}

/// Classifies a status: fault of the message, of the endpoint with this message, or of the endpoint.
fn classify_status(status: StatusCode) -> TargetResponse {
    let words = format!("it answers {status}");
    match status.as_u16() {
        200..300 => TargetResponse::Accepted(status.to_string()),
        400 | 406 | 413 | 415 | 422 => TargetResponse::Rejected(words),
        500 => TargetResponse::Deferred(words),
        _ => TargetResponse::Unavailable(words),
    }
}

const SENDER_HEADER: &str = "x-mailtrail-sender";
const RECIPIENT_HEADER: &str = "x-mailtrail-recipient";
