//! Signed JSON by POST, with the headers of Standard Webhooks 1.0: `webhook-id`, `webhook-timestamp`,
//! `webhook-signature`.

use crate::sink::delivery_result::DeliveryResult;
use crate::sink::event::SinkEvent;
use mailtrail_net::{WebhookClient, WebhookEndpoint, webhook_client};
use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;

pub struct HttpSink(WebhookClient);

/// Meaning of a response.
enum PostResult {
    Accepted,
    Retry(String),
}

impl HttpSink {
    pub fn new(settings: WebhookEndpoint) -> Self {
        Self(WebhookClient::new(settings))
    }

    /// Posts events one after the other; the first one not accepted delays the others.
    pub async fn deliver(&mut self, items: &[SinkEvent]) -> DeliveryResult {
        for (processed, item) in items.iter().enumerate() {
            if let PostResult::Retry(why) = self.post_event(item).await {
                return DeliveryResult { processed, retry_reason: Some(why), ..DeliveryResult::default() };
            }
        }
        DeliveryResult { processed: items.len(), ..DeliveryResult::default() }
    }

    async fn post_event(&mut self, item: &SinkEvent) -> PostResult {
        let (id, body) = (item.id(), item.to_json());
        let mut signing = self.0.start_signature(&id);
        signing.update(body.as_bytes());
        let request = match self.0.build_request(signing) {
            Ok(request) => request.header(CONTENT_TYPE, "application/json"),
            Err(why) => return PostResult::Retry(why),
        };
        match request.body(body).send().await {
            Ok(answer) if answer.status().is_success() => PostResult::Accepted,
            // 410: the endpoint has been removed by its operator.
            Ok(answer) if answer.status() == StatusCode::GONE => {
                PostResult::Retry("it answers 410: take the sink out of the configuration".to_owned())
            }
            Ok(answer) => PostResult::Retry(format!("it answers {}", answer.status())),
            Err(error) => PostResult::Retry(webhook_client::request_error_text(error)),
        }
    }
}
