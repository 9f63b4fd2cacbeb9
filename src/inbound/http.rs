use super::Verdict;
use super::letter::{Letter, damage};
use crate::endpoint::{self, Signing};
use crate::secret::Secret;
use futures_util::StreamExt;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use reqwest::{Body, StatusCode, Url};
use std::io;
use std::pin::pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where mail is posted, as `message/rfc822` with the headers of Standard Webhooks 1.0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// The endpoint.
    pub url: Url,
    /// What it is signed with, two during a rotation; every one signs.
    pub secrets: Vec<Secret>,
    /// Whether the endpoint may be at a private, local or otherwise not public address.
    pub allow_private: bool,
    /// How long a mail and its answer may take. Default 60 s, 1 s to 10 min.
    pub timeout: Duration,
}

pub struct HttpTarget {
    settings: HttpSettings,
    client: Option<reqwest::Client>,
}

impl HttpTarget {
    pub fn new(settings: HttpSettings) -> Self {
        Self { settings, client: None }
    }

    pub async fn deliver(&mut self, letter: &Letter) -> Verdict {
        let client = match self.client() {
            Ok(client) => client,
            Err(why) => return Verdict::Away(why),
        };
        let id = letter.mail.arrival.id.to_string();
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string();
        let signature = match self.sign(letter, &id, &seconds).await {
            Ok(signature) => signature,
            Err(error) => {
                return damage(&error).map_or_else(|| Verdict::Later(error.to_string()), Verdict::Refused);
            }
        };
        let mut request = client
            .post(self.settings.url.clone())
            .header(CONTENT_TYPE, "message/rfc822")
            .header(CONTENT_LENGTH, letter.size())
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", signature);
        let arrival = &letter.mail.arrival;
        let sender = arrival.sender.as_ref().map_or("", |sender| sender.as_str());
        for (name, address) in [(SENDER, sender), (RECIPIENT, arrival.recipient.as_str())] {
            if let Ok(value) = HeaderValue::from_bytes(address.as_bytes()) {
                request = request.header(name, value);
            }
        }
        match request.body(Body::wrap_stream(letter.pieces())).send().await {
            Ok(answer) => verdict(answer.status()),
            Err(error) => Verdict::Away(endpoint::cause(error)),
        }
    }

    /// Its signature covers all of it, and comes before.
    async fn sign(&self, letter: &Letter, id: &str, seconds: &str) -> io::Result<String> {
        let mut signing = Signing::new(&self.settings.secrets, id, seconds);
        let mut pieces = pin!(letter.pieces());
        while let Some(piece) = pieces.next().await {
            signing.update(&piece?);
        }
        Ok(signing.finish())
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

/// What an answer means: a fault of the mail, of the endpoint with this mail, or of the endpoint.
fn verdict(status: StatusCode) -> Verdict {
    let words = format!("it answers {status}");
    match status.as_u16() {
        200..300 => Verdict::Taken(status.to_string()),
        400 | 406 | 413 | 415 | 422 => Verdict::Refused(words),
        500 => Verdict::Later(words),
        _ => Verdict::Away(words),
    }
}

const SENDER: &str = "x-mailtrail-sender";
const RECIPIENT: &str = "x-mailtrail-recipient";
