//! Signed JSON by POST, with the headers of Standard Webhooks 1.0: `webhook-id`, `webhook-timestamp`,
//! `webhook-signature`.

use crate::sink::Delivery;
use crate::sink::event::Item;
use mailtrail_net::{Endpoint, Settings, webhook_client};
use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;

pub struct HttpSink(Endpoint);

/// What an answer means.
enum Verdict {
    Taken,
    Later(String),
}

impl HttpSink {
    pub fn new(settings: Settings) -> Self {
        Self(Endpoint::new(settings))
    }

    /// One after the other; the first that is not taken holds up the others.
    pub async fn deliver(&mut self, items: &[Item]) -> Delivery {
        for (done, item) in items.iter().enumerate() {
            if let Verdict::Later(why) = self.post(item).await {
                return Delivery { done, later: Some(why), ..Delivery::default() };
            }
        }
        Delivery { done: items.len(), ..Delivery::default() }
    }

    async fn post(&mut self, item: &Item) -> Verdict {
        let (id, body) = (item.id(), item.json());
        let mut signing = self.0.sign(&id);
        signing.update(body.as_bytes());
        let request = match self.0.post(signing) {
            Ok(request) => request.header(CONTENT_TYPE, "application/json"),
            Err(why) => return Verdict::Later(why),
        };
        match request.body(body).send().await {
            Ok(answer) if answer.status().is_success() => Verdict::Taken,
            // Its maker says so: nobody wants this any more.
            Ok(answer) if answer.status() == StatusCode::GONE => {
                Verdict::Later("it answers 410: take the sink out of the configuration".to_owned())
            }
            Ok(answer) => Verdict::Later(format!("it answers {}", answer.status())),
            Err(error) => Verdict::Later(webhook_client::cause(error)),
        }
    }
}
