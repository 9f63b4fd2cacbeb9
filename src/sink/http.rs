//! Signed JSON by POST, with the headers of Standard Webhooks 1.0: `webhook-id`, `webhook-timestamp`,
//! `webhook-signature`.

use super::{Delivery, Item};
use crate::endpoint::{self, Signing};
use crate::secret::Secret;
use reqwest::{StatusCode, Url};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where events are posted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpSettings {
    /// The endpoint.
    pub url: Url,
    /// What they are signed with, two during a rotation; every one signs.
    pub secrets: Vec<Secret>,
    /// Whether the endpoint may be at a private, local or otherwise not public address.
    pub allow_private: bool,
    /// How long an answer may take. Default 15 s.
    pub timeout: Duration,
}

pub struct HttpSink {
    settings: HttpSettings,
    client: Option<reqwest::Client>,
}

/// What an answer means.
enum Verdict {
    Taken,
    Later(String),
}

impl HttpSink {
    pub fn new(settings: HttpSettings) -> Self {
        Self { settings, client: None }
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
        let client = match self.client() {
            Ok(client) => client,
            Err(why) => return Verdict::Later(why),
        };
        let (id, body) = (item.id(), item.json());
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string();
        let mut signing = Signing::new(&self.settings.secrets, &id, &seconds);
        signing.update(body.as_bytes());
        let request = client
            .post(self.settings.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", signing.finish());
        match request.body(body).send().await {
            Ok(answer) if answer.status().is_success() => Verdict::Taken,
            // Its maker says so: nobody wants this any more.
            Ok(answer) if answer.status() == StatusCode::GONE => {
                Verdict::Later("it answers 410: take the sink out of the configuration".to_owned())
            }
            Ok(answer) => Verdict::Later(format!("it answers {}", answer.status())),
            Err(error) => Verdict::Later(endpoint::cause(error)),
        }
    }

    fn client(&mut self) -> Result<reqwest::Client, String> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let HttpSettings { url, allow_private, timeout, .. } = &self.settings;
        let client = endpoint::client(url, *allow_private, *timeout)?;
        self.client = Some(client.clone());
        Ok(client)
    }
}
