use crate::provider::form::Form;
use crate::provider::mailgun::payload::member;
use crate::provider::mailgun::{legacy_payload, payload, signature};
use crate::provider::{Unreadable, lenient};
use crate::provider_event::ProviderEvent;
use mailtrail_mail::{Secret, Timestamp};
use serde_json_borrow::Value;
use std::time::Duration;

/// What a webhook brought, once its signature holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// Makes the signature single-use: the same token with another body is a replay.
    pub token: String,
    /// When Mailgun signed it. A retry may carry the time of the first attempt.
    pub signed_at: Timestamp,
    /// What happened.
    pub event: ProviderEvent,
}

/// Reads the body of a webhook, JSON or a form of before 2018, and checks its signature against `keys`: our own, the
/// parent account's, or the next one while they rotate.
pub fn receive(body: &[u8], keys: &[Secret], now: Timestamp) -> Result<Notice, Refused> {
    let (raw, mut mended) = (body, String::new());
    let body = match Body::read(raw, &mut mended) {
        Err(Refused::Malformed(error)) => return Err(unread(raw, error, keys, now)),
        read => read?,
    };
    let claim = body.claim().ok_or(Refused::Unsigned)?;
    claim.check(keys)?;
    let signed_at = claim.fresh(now)?;
    let token = claim.token;
    match body.event(signed_at) {
        Some(event) => Ok(Notice { token, signed_at, event }),
        None if body.is_inbound() => Err(Refused::Inbound),
        None => Err(Refused::Eventless { token, signed_at }),
    }
}

/// Why a body that cannot be read is not taken: where it is signed all the same, it is genuine.
fn unread(body: &[u8], error: serde_json::Error, keys: &[Secret], now: Timestamp) -> Refused {
    let signed = Claim::within(body).and_then(|claim| {
        let signed_at = claim.check(keys).and_then(|()| claim.fresh(now)).ok()?;
        Some((claim.token, signed_at))
    });
    match signed {
        Some((token, signed_at)) => Refused::Unreadable { token, signed_at, error },
        None => Refused::Malformed(error),
    }
}

/// Checks the fields of a form that signs itself: whose token it is, and when it was signed.
pub fn authenticate(
    [timestamp, token, signature]: [&str; 3],
    keys: &[Secret],
    now: Timestamp,
) -> Result<(String, Timestamp), Refused> {
    if [timestamp, token, signature].iter().any(|text| text.is_empty()) {
        return Err(Refused::Unsigned);
    }
    let claim = Claim {
        timestamp: timestamp.to_owned(),
        token: token.to_owned(),
        signatures: vec![signature.to_owned()],
    };
    claim.check(keys)?;
    let signed_at = claim.fresh(now)?;
    Ok((claim.token, signed_at))
}

/// Reads the body of a webhook, or an event as the Events API writes it, again; whoever kept it, and when, has checked
/// its signature.
pub fn reread(body: &[u8], kept: Timestamp) -> Result<ProviderEvent, Unreadable> {
    let mut mended = String::new();
    let body = match Body::read(body, &mut mended) {
        Ok(body) => body,
        Err(Refused::Malformed(error)) => return Err(Unreadable::Malformed(error)),
        Err(_) => return Err(Unreadable::Eventless),
    };
    let signed_at = body.claim().and_then(|claim| Some(Timestamp::from_secs(claim.timestamp.parse().ok()?)));
    if let Some(event) = body.event(signed_at.unwrap_or(kept)) {
        return Ok(event);
    }
    match &body {
        Body::Json(data) if member(data, "event-data").is_none() && member(data, "event").is_some() => {
            Ok(payload::decode(data, kept))
        }
        _ => Err(Unreadable::Eventless),
    }
}

/// Why a webhook is not believed. For the operator; the peer reads a status code.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The body is neither JSON nor a form.
    #[error("the body is neither JSON nor a form: {0}")]
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
    /// The signature holds, but it is a mail.
    #[error(
        "an inbound mail came where events are reported; have Mailgun's route forward it to /inbound/<upstream>/mime. \
         Mailgun keeps it and repeats it for 8 h"
    )]
    Inbound,
    /// The signature holds, but there is no event.
    #[error("the body is signed but holds no event")]
    Eventless {
        /// The signature's token.
        token: String,
        /// When it was signed.
        signed_at: Timestamp,
    },
    /// The signature holds, but the body cannot be read.
    #[error("the body is signed but is neither JSON nor a form: {error}")]
    Unreadable {
        /// The signature's token.
        token: String,
        /// When it was signed.
        signed_at: Timestamp,
        /// Why not.
        error: serde_json::Error,
    },
}

impl Refused {
    /// Whether the same request can never be accepted. The others are for an operator to put right meanwhile.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::NoKey | Self::Ahead { .. } | Self::Inbound)
    }
}

/// A signature may be this old: Mailgun retries for 8 h, possibly with the first signature each time.
pub const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// A signature may be this far ahead of our clock.
pub const MAX_AHEAD: Duration = Duration::from_secs(10 * 60);

const SIGNATURE: &[u8] = b"\"signature\"";
/// Places of a damaged body that are looked at for a signature.
const CLAIMS: usize = 16;

/// What was posted.
enum Body<'a> {
    Json(Value<'a>),
    Form(Form),
}

impl<'a> Body<'a> {
    fn read(body: &'a [u8], mended: &'a mut String) -> Result<Self, Refused> {
        let error = match lenient::read(body, mended) {
            Ok(json) => return Ok(Self::Json(json)),
            Err(error) => error,
        };
        let form = (!body.trim_ascii_start().starts_with(b"{")).then(|| Form::parse(body)).flatten();
        form.map(Self::Form).ok_or(Refused::Malformed(error))
    }

    fn claim(&self) -> Option<Claim> {
        match self {
            Self::Json(body) => Claim::of(member(body, "signature")?),
            Self::Form(form) => Claim::of_form(form),
        }
    }

    fn event(&self, signed_at: Timestamp) -> Option<ProviderEvent> {
        match self {
            Self::Json(body) => {
                let data = member(body, "event-data").filter(|data| data.is_object())?;
                Some(payload::decode(data, signed_at))
            }
            Self::Form(form) => legacy_payload::decode(form, signed_at),
        }
    }

    fn is_inbound(&self) -> bool {
        matches!(self, Self::Form(form) if legacy_payload::is_inbound(form))
    }
}

/// What the sender says about its signature; nothing in it is empty.
struct Claim {
    timestamp: String,
    token: String,
    signatures: Vec<String>,
}

impl Claim {
    fn of(claim: &Value<'_>) -> Option<Self> {
        let text = |name| member(claim, name)?.as_str().filter(|text| !text.is_empty());
        let timestamp = match member(claim, "timestamp")? {
            // Documented as a number, seen as text. What is signed is the characters as they came.
            number if number.is_u64() => number.to_string(),
            other => other.as_str().filter(|text| !text.is_empty())?.to_owned(),
        };
        let signatures = [text("signature"), text("parent-signature")];
        Self::new(timestamp, text("token")?, signatures.into_iter().flatten())
    }

    /// The claim of a body that is no JSON as a whole.
    fn within(body: &[u8]) -> Option<Self> {
        let places = memchr::memmem::find_iter(body, SIGNATURE).take(CLAIMS);
        places.into_iter().find_map(|place| {
            let value = body[place + SIGNATURE.len()..].trim_ascii_start().strip_prefix(b":")?;
            let mut values = serde_json::Deserializer::from_slice(value).into_iter::<Value<'_>>();
            Self::of(&values.next()?.ok()?)
        })
    }

    /// A user's variable of the same name comes before.
    fn of_form(form: &Form) -> Option<Self> {
        let text = |name| form.last(name).filter(|text| !text.is_empty());
        let signatures = [text("signature"), text("parent-signature")];
        Self::new(text("timestamp")?.to_owned(), text("token")?, signatures.into_iter().flatten())
    }

    fn new<'a>(timestamp: String, token: &str, signatures: impl Iterator<Item = &'a str>) -> Option<Self> {
        let signatures: Vec<_> = signatures.map(str::to_owned).collect();
        (!signatures.is_empty()).then(|| Self { timestamp, token: token.to_owned(), signatures })
    }

    fn check(&self, keys: &[Secret]) -> Result<(), Refused> {
        if keys.iter().all(|key| key.reveal().is_empty()) {
            return Err(Refused::NoKey);
        }
        let signatures: Vec<_> = self.signatures.iter().map(String::as_str).collect();
        let genuine = signature::verify(keys, &self.timestamp, &self.token, &signatures);
        if genuine { Ok(()) } else { Err(Refused::BadSignature) }
    }

    /// Besides replays this stops a digit from being moved between timestamp and token, which are signed with
    /// nothing between them: the token would be a new one, but the time ten times as much or as little.
    fn fresh(&self, now: Timestamp) -> Result<Timestamp, Refused> {
        let digits = self.timestamp.bytes().all(|b| b.is_ascii_digit());
        let seconds = self.timestamp.parse().ok().filter(|_| digits).ok_or(Refused::Unsigned)?;
        let signed_at = Timestamp::from_secs(seconds);
        if now.duration_since(signed_at) > MAX_AGE {
            return Err(Refused::Stale { signed_at });
        }
        if signed_at.duration_since(now) > MAX_AHEAD {
            return Err(Refused::Ahead { signed_at });
        }
        Ok(signed_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

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
        receive(body, &[key()], Timestamp::from_secs(seconds))
    }

    #[test]
    fn a_signature_holds_for_a_day() {
        for timestamp in [json!(SIGNED.to_string()), json!(SIGNED)] {
            let body = body(timestamp, "token");
            for fresh in [SIGNED, SIGNED + 86_400, SIGNED - 600] {
                assert_eq!(receive_at(&body, fresh).unwrap().signed_at, Timestamp::from_secs(SIGNED));
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

    /// A form with these fields before its signature.
    fn form(fields: &str) -> String {
        let signature = signature::sign(&key(), &SIGNED.to_string(), "token");
        format!("{fields}&timestamp={SIGNED}&token=token&signature={signature}")
    }

    #[test]
    fn a_forms_last_signature_is_mailguns() {
        let variables = "event=delivered&timestamp=1&token=mine&signature=none";
        let notice = receive_at(form(variables).as_bytes(), SIGNED).unwrap();
        assert_eq!(
            (notice.token.as_str(), notice.event.kind),
            ("token", crate::provider_event::EventKind::Delivered)
        );
        let refused = receive_at(format!("{}&token=other", form("event=delivered")).as_bytes(), SIGNED);
        assert!(matches!(refused, Err(Refused::BadSignature)));
    }

    #[test]
    fn a_mail_is_no_event_and_is_not_refused_for_good() {
        let refused = receive_at(form("recipient=a@b&body-mime=x").as_bytes(), SIGNED).unwrap_err();
        assert!(matches!(refused, Refused::Inbound) && !refused.is_final());
        let refused = receive_at(form("recipient=a@b").as_bytes(), SIGNED).unwrap_err();
        assert!(matches!(refused, Refused::Eventless { .. }) && refused.is_final());
    }

    #[test]
    fn what_is_read_again_is_the_same() {
        let kept = Timestamp::from_secs(SIGNED + 99);
        let body = body(json!(SIGNED), "token");
        let event = receive_at(&body, SIGNED).unwrap().event;
        assert_eq!((event.at, &reread(&body, kept).unwrap()), (Timestamp::from_secs(SIGNED), &event));
        let data: Value = serde_json::from_slice(&body).unwrap();
        let polled = reread(data["event-data"].to_string().as_bytes(), event.at).unwrap();
        assert_eq!(polled, event);
        for eventless in ["{}", "[]", r#"{"event-data": null, "event": "opened"}"#] {
            assert!(matches!(reread(eventless.as_bytes(), kept), Err(Unreadable::Eventless)), "{eventless}");
        }
        assert_eq!(reread(b"event=opened", kept).unwrap().kind, crate::provider_event::EventKind::Opened);
        assert!(matches!(reread(b"{event", kept), Err(Unreadable::Malformed(_))));
    }

    #[test]
    fn each_refusal_says_why() {
        let good = body(json!(SIGNED.to_string()), "token");
        let now = Timestamp::from_secs(SIGNED);
        assert!(matches!(receive(b"nonsense", &[key()], now), Err(Refused::Malformed(_))));
        assert!(matches!(receive(b"event=bounced", &[key()], now), Err(Refused::Unsigned)));
        assert!(matches!(receive(b"[]", &[key()], now), Err(Refused::Unsigned)));
        assert!(matches!(receive(&good, &[], now), Err(Refused::NoKey)));
        assert!(matches!(receive(&good, &[Secret::new("")], now), Err(Refused::NoKey)));
        assert!(matches!(receive(&good, &[Secret::new("other")], now), Err(Refused::BadSignature)));
        let mut eventless: Value = serde_json::from_slice(&good).unwrap();
        eventless["event-data"] = json!([]);
        let refused = receive_at(eventless.to_string().as_bytes(), SIGNED).unwrap_err();
        assert!(matches!(&refused, Refused::Eventless { token, .. } if token == "token"), "{refused}");
    }
}
