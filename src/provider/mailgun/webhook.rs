use super::{payload, signature};
use crate::clock::Timestamp;
use crate::event::Event;
use crate::provider::Unreadable;
use crate::secret::Secret;
use serde_json::Value;
use std::time::Duration;

/// What a webhook brought, once its signature holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// Makes the signature single-use: the same token with another body is a replay.
    pub token: String,
    /// When Mailgun signed it. A retry may carry the time of the first attempt.
    pub signed_at: Timestamp,
    /// What happened.
    pub event: Event,
}

/// Reads the body of a webhook and checks its signature against `keys`: our own, the parent account's, or the
/// next one while they rotate.
pub fn receive(body: &[u8], keys: &[Secret], now: Timestamp) -> Result<Notice, Refused> {
    let body: Value = serde_json::from_slice(body).map_err(Refused::Malformed)?;
    let claim = Claim::of(&body).ok_or(Refused::Unsigned)?;
    claim.check(keys)?;
    let signed_at = claim.fresh(now)?;
    let token = claim.token.to_owned();
    match body.get("event-data").filter(|data| data.is_object()) {
        Some(data) => Ok(Notice { token, signed_at, event: payload::decode(data, signed_at) }),
        None => Err(Refused::Eventless { token, signed_at }),
    }
}

/// Reads the body of a webhook, or an event as the Events API writes it, again; whoever kept it, and when, has checked
/// its signature.
pub fn reread(body: &[u8], kept: Timestamp) -> Result<Event, Unreadable> {
    let body: Value = serde_json::from_slice(body).map_err(Unreadable::Malformed)?;
    let signed_at = || Some(Timestamp::from_seconds(Claim::of(&body)?.timestamp.parse().ok()?));
    match body.get("event-data") {
        Some(data) if data.is_object() => Ok(payload::decode(data, signed_at().unwrap_or(kept))),
        None if body.get("event").is_some() => Ok(payload::decode(&body, kept)),
        _ => Err(Unreadable::Eventless),
    }
}

/// Why a webhook is not believed. For the operator; the peer reads a status code.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The body is no JSON document.
    #[error("the body is not JSON (the form webhooks of before 2018 are not supported): {0}")]
    Malformed(#[source] serde_json::Error),
    /// Timestamp, token or signature is missing or empty.
    #[error("the body has no signature with timestamp and token")]
    Unsigned,
    /// There is no key to check with.
    #[error("no webhook signing key is configured for this upstream")]
    NoKey,
    /// No configured key made the signature.
    #[error("the signature does not match: is webhook_signing_key the account's HTTP webhook signing key?")]
    BadSignature,
    /// The signature is older than any retry.
    #[error("signed at {signed_at}, more than {} h ago: a replay", MAX_AGE.as_secs() / 3600)]
    Stale {
        /// The claimed time.
        signed_at: Timestamp,
    },
    /// The signature is from the future.
    #[error("signed at {signed_at}, more than {} min ahead: is our clock right?", MAX_AHEAD.as_secs() / 60)]
    Ahead {
        /// The claimed time.
        signed_at: Timestamp,
    },
    /// The signature holds, but there is no event.
    #[error("the body is signed but has no event-data object")]
    Eventless {
        /// As in [`Notice::token`].
        token: String,
        /// The claimed time.
        signed_at: Timestamp,
    },
}

impl Refused {
    /// Whether the same request can never be accepted. The others are this machine's fault and worth a retry.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::NoKey | Self::Ahead { .. })
    }
}

/// A signature may be this old: Mailgun retries for 8 h, possibly with the first signature each time.
pub const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// A signature may be this far ahead of our clock.
pub const MAX_AHEAD: Duration = Duration::from_secs(10 * 60);

/// What the sender says in the signature object; nothing in it is empty.
struct Claim<'a> {
    timestamp: String,
    token: &'a str,
    signatures: Vec<&'a str>,
}

impl<'a> Claim<'a> {
    fn of(body: &'a Value) -> Option<Self> {
        let claim = body.get("signature")?;
        let text = |name| claim.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let timestamp = match claim.get("timestamp")? {
            // Documented as a number, seen as text. What is signed is the characters as they came.
            Value::Number(number) if number.is_u64() => number.to_string(),
            other => other.as_str().filter(|text| !text.is_empty())?.to_owned(),
        };
        let signatures: Vec<_> =
            [text("signature"), text("parent-signature")].into_iter().flatten().collect();
        if signatures.is_empty() {
            return None;
        }
        Some(Self { timestamp, token: text("token")?, signatures })
    }

    fn check(&self, keys: &[Secret]) -> Result<(), Refused> {
        if keys.iter().all(|key| key.reveal().is_empty()) {
            return Err(Refused::NoKey);
        }
        let genuine = signature::verify(keys, &self.timestamp, self.token, &self.signatures);
        if genuine { Ok(()) } else { Err(Refused::BadSignature) }
    }

    /// Besides replays this stops a digit from being moved between timestamp and token, which are signed with
    /// nothing between them: the token would be a new one, but the time ten times as much or as little.
    fn fresh(&self, now: Timestamp) -> Result<Timestamp, Refused> {
        let digits = self.timestamp.bytes().all(|b| b.is_ascii_digit());
        let seconds = self.timestamp.parse().ok().filter(|_| digits).ok_or(Refused::Unsigned)?;
        let signed_at = Timestamp::from_seconds(seconds);
        if now.since(signed_at) > MAX_AGE {
            return Err(Refused::Stale { signed_at });
        }
        if signed_at.since(now) > MAX_AHEAD {
            return Err(Refused::Ahead { signed_at });
        }
        Ok(signed_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SIGNED: u64 = 1_789_387_203;

    fn body(timestamp: Value, token: &str) -> Vec<u8> {
        let text = timestamp.as_str().map_or_else(|| timestamp.to_string(), str::to_owned);
        let made = signature::sign(&key(), &text, token);
        json!({
            "signature": {"timestamp": timestamp, "token": token, "signature": made},
            "event-data": {"event": "delivered", "id": "x"}
        })
        .to_string()
        .into_bytes()
    }

    fn key() -> Secret {
        Secret::new("key")
    }

    fn receive_at(body: &[u8], seconds: u64) -> Result<Notice, Refused> {
        receive(body, &[key()], Timestamp::from_seconds(seconds))
    }

    #[test]
    fn a_signature_holds_for_a_day() {
        for timestamp in [json!(SIGNED.to_string()), json!(SIGNED)] {
            let body = body(timestamp, "token");
            for fresh in [SIGNED, SIGNED + 86_400, SIGNED - 600] {
                assert_eq!(receive_at(&body, fresh).unwrap().signed_at, Timestamp::from_seconds(SIGNED));
            }
            let stale = receive_at(&body, SIGNED + 86_401).unwrap_err();
            assert!(matches!(stale, Refused::Stale { .. }) && stale.is_final(), "{stale}");
            let ahead = receive_at(&body, SIGNED - 601).unwrap_err();
            assert!(matches!(ahead, Refused::Ahead { .. }) && !ahead.is_final(), "{ahead}");
        }
    }

    #[test]
    fn a_digit_moved_into_or_out_of_the_token_is_refused() {
        let genuine: Value = serde_json::from_slice(&body(json!(SIGNED.to_string()), "7abc")).unwrap();
        for (timestamp, token) in [("17893872037", "abc"), ("178938720", "37abc"), ("17893872037abc", "")] {
            let mut moved = genuine.clone();
            moved["signature"]["timestamp"] = json!(timestamp);
            moved["signature"]["token"] = json!(token);
            assert!(receive_at(moved.to_string().as_bytes(), SIGNED).is_err(), "{timestamp}");
        }
    }

    #[test]
    fn what_is_read_again_is_the_same() {
        let kept = Timestamp::from_seconds(SIGNED + 99);
        let body = body(json!(SIGNED), "token");
        let event = receive_at(&body, SIGNED).unwrap().event;
        assert_eq!((event.at, &reread(&body, kept).unwrap()), (Timestamp::from_seconds(SIGNED), &event));
        let data: Value = serde_json::from_slice(&body).unwrap();
        let polled = reread(data["event-data"].to_string().as_bytes(), event.at).unwrap();
        assert_eq!(polled, event);
        for eventless in ["{}", "[]", r#"{"event-data": null, "event": "opened"}"#] {
            assert!(matches!(reread(eventless.as_bytes(), kept), Err(Unreadable::Eventless)), "{eventless}");
        }
        assert!(matches!(reread(b"event=opened", kept), Err(Unreadable::Malformed(_))));
    }

    #[test]
    fn each_refusal_says_why() {
        let good = body(json!(SIGNED.to_string()), "token");
        let now = Timestamp::from_seconds(SIGNED);
        assert!(matches!(receive(b"event=bounced", &[key()], now), Err(Refused::Malformed(_))));
        assert!(matches!(receive(b"[]", &[key()], now), Err(Refused::Unsigned)));
        assert!(matches!(receive(&good, &[], now), Err(Refused::NoKey)));
        assert!(matches!(receive(&good, &[Secret::new("")], now), Err(Refused::NoKey)));
        assert!(matches!(receive(&good, &[Secret::new("other")], now), Err(Refused::BadSignature)));
        let mut eventless: Value = serde_json::from_slice(&good).unwrap();
        eventless["event-data"] = json!([]);
        assert!(matches!(
            receive_at(eventless.to_string().as_bytes(), SIGNED),
            Err(Refused::Eventless { .. })
        ));
    }
}
