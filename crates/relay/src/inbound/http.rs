use crate::inbound::Verdict;
use crate::inbound::message::{Letter, damage};
use futures_util::StreamExt;
use mailtrail_net::{Endpoint, Settings, Signing, webhook_client};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use reqwest::{Body, StatusCode};
use std::io;
use std::pin::pin;

/// Mail is posted as `message/rfc822`.
pub struct HttpTarget(Endpoint);

impl HttpTarget {
    pub fn new(settings: Settings) -> Self {
        Self(Endpoint::new(settings))
    }

    pub async fn deliver(&mut self, letter: &Letter) -> Verdict {
        let signing = match self.sign(letter).await {
            Ok(signing) => signing,
            Err(error) => {
                return damage(&error).map_or_else(|| Verdict::Later(error.to_string()), Verdict::Refused);
            }
        };
        let mut request = match self.0.post(signing) {
            Ok(request) => {
                request.header(CONTENT_TYPE, "message/rfc822").header(CONTENT_LENGTH, letter.size())
            }
            Err(why) => return Verdict::Away(why),
        };
        let arrival = &letter.mail.arrival;
        let sender = arrival.sender.as_ref().map_or("", |sender| sender.as_str());
        for (name, address) in [(SENDER, sender), (RECIPIENT, arrival.recipient.as_str())] {
            if let Ok(value) = HeaderValue::from_bytes(address.as_bytes()) {
                request = request.header(name, value);
            }
        }
        match request.body(Body::wrap_stream(letter.pieces())).send().await {
            Ok(answer) => verdict(answer.status()),
            Err(error) => Verdict::Away(webhook_client::cause(error)),
        }
    }

    /// Its signature covers all of it, and comes before.
    async fn sign(&self, letter: &Letter) -> io::Result<Signing> {
        let mut signing = self.0.sign(&letter.mail.arrival.id.to_string());
        let mut pieces = pin!(letter.pieces());
        while let Some(piece) = pieces.next().await {
            signing.update(&piece?);
        }
        Ok(signing)
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
