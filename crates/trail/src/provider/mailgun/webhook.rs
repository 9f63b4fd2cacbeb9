use crate::provider::form::Form;
use crate::provider::mailgun::payload::get_member;
use crate::provider::mailgun::{legacy_payload, payload, signature};
use crate::provider::{DecodeError, lenient};
use crate::provider_event::ProviderEvent;
use mailtrail_mail::{Secret, Timestamp};
use serde_json_borrow::Value;
use std::time::Duration;

/// Content of a webhook with a valid signature.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedEvent {
    /// Makes the signature usable once: the same token with another body is a replay.
    pub token: String,
    /// When Mailgun signed it. A retry may carry the time of the first attempt.
    pub signed_at: Timestamp,
    /// Decoded event.
    pub event: ProviderEvent,
}

/// Decodes the body of a webhook, JSON or a form from before 2018, and verifies its signature with `keys`: our own, the
/// parent account's, or both during a rotation.
pub fn verify_and_decode(
    body: &[u8],
    keys: &[Secret],
    now: Timestamp,
) -> Result<VerifiedEvent, WebhookError> {
    let (raw, mut mended) = (body, String::new());
    let body = match WebhookBody::parse(raw, &mut mended) {
        Err(WebhookError::Malformed(error)) => return Err(unreadable_body_error(raw, error, keys, now)),
        read => read?,
    };
    let claim = body.signature_fields().ok_or(WebhookError::Unsigned)?;
    claim.verify(keys)?;
    let signed_at = claim.check_age(now)?;
    let token = claim.token;
    match body.decode_event(signed_at) {
        Some(event) => Ok(VerifiedEvent { token, signed_at, event }),
        None if body.is_inbound_message() => Err(WebhookError::InboundMessage),
        None => Err(WebhookError::NoEvent { token, signed_at }),
    }
}

/// Error of an unreadable body; it is authentic if it contains a valid signature.
fn unreadable_body_error(
    body: &[u8],
    error: serde_json::Error,
    keys: &[Secret],
    now: Timestamp,
) -> WebhookError {
    let signed = SignatureFields::find_in_damaged(body).and_then(|claim| {
        let signed_at = claim.verify(keys).and_then(|()| claim.check_age(now)).ok()?;
        Some((claim.token, signed_at))
    });
    match signed {
        Some((token, signed_at)) => WebhookError::Unreadable { token, signed_at, error },
        None => WebhookError::Malformed(error),
    }
}

/// Verifies the fields of a signed form. Returns its token and time.
pub fn verify_form(
    [timestamp, token, signature]: [&str; 3],
    keys: &[Secret],
    now: Timestamp,
) -> Result<(String, Timestamp), WebhookError> {
    if [timestamp, token, signature].iter().any(|text| text.is_empty()) {
        return Err(WebhookError::Unsigned);
    }
    let claim = SignatureFields {
        timestamp: timestamp.to_owned(),
        token: token.to_owned(),
        signatures: vec![signature.to_owned()],
    };
    claim.verify(keys)?;
    let signed_at = claim.check_age(now)?;
    Ok((claim.token, signed_at))
}

/// Decodes the stored body of a webhook, or an event of the Events API, again; its signature was verified when it was
/// stored.
pub fn decode_raw(body: &[u8], kept: Timestamp) -> Result<ProviderEvent, DecodeError> {
    let mut mended = String::new();
    let body = match WebhookBody::parse(body, &mut mended) {
        Ok(body) => body,
        Err(WebhookError::Malformed(error)) => return Err(DecodeError::Malformed(error)),
        Err(_) => return Err(DecodeError::NoEvent),
    };
    let signed_at =
        body.signature_fields().and_then(|claim| Some(Timestamp::from_secs(claim.timestamp.parse().ok()?)));
    if let Some(event) = body.decode_event(signed_at.unwrap_or(kept)) {
        return Ok(event);
    }
    match &body {
        WebhookBody::Json(data)
            if get_member(data, "event-data").is_none() && get_member(data, "event").is_some() =>
        {
            Ok(payload::decode_event(data, kept))
        }
        _ => Err(DecodeError::NoEvent),
    }
}

/// Error of verifying a webhook. For the operator; the peer gets a status code.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
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
    #[error("signed at {signed_at}, more than {} h ago: a replay", MAX_SIGNATURE_AGE.as_secs() / 3600)]
    Expired {
        /// The claimed time.
        signed_at: Timestamp,
    },
    /// The signature is from the future.
    #[error("signed at {signed_at}, more than {} min ahead: is our clock right?", MAX_CLOCK_SKEW.as_secs() / 60)]
    FromFuture {
        /// The claimed time.
        signed_at: Timestamp,
    },
    /// The signature holds, but it is a mail.
    #[error(
        "an inbound mail came where events are reported; have Mailgun's route forward it to /inbound/<upstream>/mime. \
         Mailgun keeps it and repeats it for 8 h"
    )]
    InboundMessage,
    /// The signature holds, but there is no event.
    #[error("the body is signed but holds no event")]
    NoEvent {
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
        /// Syntax error of the body.
        error: serde_json::Error,
    },
}

impl WebhookError {
    /// Returns whether the same request can never be accepted. Other errors can be fixed by an operator before a retry.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::NoKey | Self::FromFuture { .. } | Self::InboundMessage)
    }
}

/// A signature may be this old: Mailgun retries for 8 h, possibly with the first signature each time.
pub const MAX_SIGNATURE_AGE: Duration = Duration::from_secs(24 * 3600);

/// Maximum time by which a signature may be ahead of our clock.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(10 * 60);

const SIGNATURE_KEY: &[u8] = b"\"signature\"";
/// Maximum number of positions of a damaged body that are checked for a signature.
const MAX_SIGNATURE_CANDIDATES: usize = 16;

/// Body of a webhook.
enum WebhookBody<'a> {
    Json(Value<'a>),
    Form(Form),
}

impl<'a> WebhookBody<'a> {
    fn parse(body: &'a [u8], mended: &'a mut String) -> Result<Self, WebhookError> {
        let error = match lenient::parse_borrowed(body, mended) {
            Ok(json) => return Ok(Self::Json(json)),
            Err(error) => error,
        };
        let form = (!body.trim_ascii_start().starts_with(b"{")).then(|| Form::parse(body)).flatten();
        form.map(Self::Form).ok_or(WebhookError::Malformed(error))
    }

    fn signature_fields(&self) -> Option<SignatureFields> {
        match self {
            Self::Json(body) => SignatureFields::from_json(get_member(body, "signature")?),
            Self::Form(form) => SignatureFields::from_form(form),
        }
    }

    fn decode_event(&self, signed_at: Timestamp) -> Option<ProviderEvent> {
        match self {
            Self::Json(body) => {
                let data = get_member(body, "event-data").filter(|data| data.is_object())?;
                Some(payload::decode_event(data, signed_at))
            }
            Self::Form(form) => legacy_payload::decode_form(form, signed_at),
        }
    }

    fn is_inbound_message(&self) -> bool {
        matches!(self, Self::Form(form) if legacy_payload::is_inbound_form(form))
    }
}

/// Signature fields, none of them empty.
struct SignatureFields {
    timestamp: String,
    token: String,
    signatures: Vec<String>,
}

impl SignatureFields {
    fn from_json(claim: &Value<'_>) -> Option<Self> {
        let text = |name| get_member(claim, name)?.as_str().filter(|text| !text.is_empty());
        let timestamp = match get_member(claim, "timestamp")? {
            // Documented as a number, but observed as text. The signature covers the characters as sent.
            number if number.is_u64() => number.to_string(),
            other => other.as_str().filter(|text| !text.is_empty())?.to_owned(),
        };
        let signatures = [text("signature"), text("parent-signature")];
        Self::new(timestamp, text("token")?, signatures.into_iter().flatten())
    }

    /// The claim of a body that is no JSON as a whole.
    fn find_in_damaged(body: &[u8]) -> Option<Self> {
        let places = memchr::memmem::find_iter(body, SIGNATURE_KEY).take(MAX_SIGNATURE_CANDIDATES);
        places.into_iter().find_map(|place| {
            let value = body[place + SIGNATURE_KEY.len()..].trim_ascii_start().strip_prefix(b":")?;
            let mut values = serde_json::Deserializer::from_slice(value).into_iter::<Value<'_>>();
            Self::from_json(&values.next()?.ok()?)
        })
    }

    /// A user variable of the same name comes first.
    fn from_form(form: &Form) -> Option<Self> {
        let text = |name| form.last_value(name).filter(|text| !text.is_empty());
        let signatures = [text("signature"), text("parent-signature")];
        Self::new(text("timestamp")?.to_owned(), text("token")?, signatures.into_iter().flatten())
    }

    fn new<'a>(timestamp: String, token: &str, signatures: impl Iterator<Item = &'a str>) -> Option<Self> {
        let signatures: Vec<_> = signatures.map(str::to_owned).collect();
        (!signatures.is_empty()).then(|| Self { timestamp, token: token.to_owned(), signatures })
    }

    fn verify(&self, keys: &[Secret]) -> Result<(), WebhookError> {
        if keys.iter().all(|key| key.expose().is_empty()) {
            return Err(WebhookError::NoKey);
        }
        let signatures: Vec<_> = self.signatures.iter().map(String::as_str).collect();
        let genuine = signature::verify_signature(keys, &self.timestamp, &self.token, &signatures);
        if genuine { Ok(()) } else { Err(WebhookError::BadSignature) }
    }

    /// Besides replays this stops a digit from being moved between timestamp and token, which are signed with
    /// nothing between them: the token would be a new one, but the time ten times as much or as little.
    fn check_age(&self, now: Timestamp) -> Result<Timestamp, WebhookError> {
        let digits = self.timestamp.bytes().all(|b| b.is_ascii_digit());
        let seconds = self.timestamp.parse().ok().filter(|_| digits).ok_or(WebhookError::Unsigned)?;
        let signed_at = Timestamp::from_secs(seconds);
        if now.duration_since(signed_at) > MAX_SIGNATURE_AGE {
            return Err(WebhookError::Expired { signed_at });
        }
        if signed_at.duration_since(now) > MAX_CLOCK_SKEW {
            return Err(WebhookError::FromFuture { signed_at });
        }
        Ok(signed_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const SIGNED_AT: u64 = 1_789_387_203;

    fn signed_body(timestamp: Value, token: &str) -> Vec<u8> {
        let text = timestamp.as_str().map_or_else(|| timestamp.to_string(), str::to_owned);
        let made = signature::sign_webhook(&signing_key(), &text, token);
        json!({
            "signature": {"timestamp": timestamp, "token": token, "signature": made},
            "event-data": {"event": "delivered", "id": "x"}
        })
        .to_string()
        .into_bytes()
    }

    fn signing_key() -> Secret {
        Secret::new("key")
    }

    fn verify_at(body: &[u8], seconds: u64) -> Result<VerifiedEvent, WebhookError> {
        verify_and_decode(body, &[signing_key()], Timestamp::from_secs(seconds))
    }

    #[test]
    fn accepts_signatures_for_a_day() {
        for timestamp in [json!(SIGNED_AT.to_string()), json!(SIGNED_AT)] {
            let body = signed_body(timestamp, "token");
            for fresh in [SIGNED_AT, SIGNED_AT + 86_400, SIGNED_AT - 600] {
                assert_eq!(verify_at(&body, fresh).unwrap().signed_at, Timestamp::from_secs(SIGNED_AT));
            }
            let stale = verify_at(&body, SIGNED_AT + 86_401).unwrap_err();
            assert!(matches!(stale, WebhookError::Expired { .. }) && stale.is_permanent(), "{stale}");
            let ahead = verify_at(&body, SIGNED_AT - 601).unwrap_err();
            assert!(matches!(ahead, WebhookError::FromFuture { .. }) && !ahead.is_permanent(), "{ahead}");
        }
    }

    #[test]
    fn rejects_digits_moved_between_timestamp_and_token() {
        let genuine: Value =
            serde_json::from_slice(&signed_body(json!(SIGNED_AT.to_string()), "7abc")).unwrap();
        for (timestamp, token) in [("17893872037", "abc"), ("178938720", "37abc"), ("17893872037abc", "")] {
            let mut moved = genuine.clone();
            moved["signature"]["timestamp"] = json!(timestamp);
            moved["signature"]["token"] = json!(token);
            assert!(verify_at(moved.to_string().as_bytes(), SIGNED_AT).is_err(), "{timestamp}");
        }
    }

    /// A form with these fields before its signature.
    fn signed_form(fields: &str) -> String {
        let signature = signature::sign_webhook(&signing_key(), &SIGNED_AT.to_string(), "token");
        format!("{fields}&timestamp={SIGNED_AT}&token=token&signature={signature}")
    }

    #[test]
    fn last_signature_of_a_form_wins() {
        let variables = "event=delivered&timestamp=1&token=mine&signature=none";
        let notice = verify_at(signed_form(variables).as_bytes(), SIGNED_AT).unwrap();
        assert_eq!(
            (notice.token.as_str(), notice.event.kind),
            ("token", crate::provider_event::EventKind::Delivered)
        );
        let refused =
            verify_at(format!("{}&token=other", signed_form("event=delivered")).as_bytes(), SIGNED_AT);
        assert!(matches!(refused, Err(WebhookError::BadSignature)));
    }

    #[test]
    fn inbound_message_is_a_temporary_error() {
        let refused = verify_at(signed_form("recipient=a@b&body-mime=x").as_bytes(), SIGNED_AT).unwrap_err();
        assert!(matches!(refused, WebhookError::InboundMessage) && !refused.is_permanent());
        let refused = verify_at(signed_form("recipient=a@b").as_bytes(), SIGNED_AT).unwrap_err();
        assert!(matches!(refused, WebhookError::NoEvent { .. }) && refused.is_permanent());
    }

    #[test]
    fn decoding_raw_gives_the_same_event() {
        let kept = Timestamp::from_secs(SIGNED_AT + 99);
        let body = signed_body(json!(SIGNED_AT), "token");
        let event = verify_at(&body, SIGNED_AT).unwrap().event;
        assert_eq!((event.at, &decode_raw(&body, kept).unwrap()), (Timestamp::from_secs(SIGNED_AT), &event));
        let data: Value = serde_json::from_slice(&body).unwrap();
        let polled = decode_raw(data["event-data"].to_string().as_bytes(), event.at).unwrap();
        assert_eq!(polled, event);
        for eventless in ["{}", "[]", r#"{"event-data": null, "event": "opened"}"#] {
            assert!(
                matches!(decode_raw(eventless.as_bytes(), kept), Err(DecodeError::NoEvent)),
                "{eventless}"
            );
        }
        assert_eq!(decode_raw(b"event=opened", kept).unwrap().kind, crate::provider_event::EventKind::Opened);
        assert!(matches!(decode_raw(b"{event", kept), Err(DecodeError::Malformed(_))));
    }

    #[test]
    fn errors_name_their_cause() {
        let good = signed_body(json!(SIGNED_AT.to_string()), "token");
        let now = Timestamp::from_secs(SIGNED_AT);
        assert!(matches!(
            verify_and_decode(b"nonsense", &[signing_key()], now),
            Err(WebhookError::Malformed(_))
        ));
        assert!(matches!(
            verify_and_decode(b"event=bounced", &[signing_key()], now),
            Err(WebhookError::Unsigned)
        ));
        assert!(matches!(verify_and_decode(b"[]", &[signing_key()], now), Err(WebhookError::Unsigned)));
        assert!(matches!(verify_and_decode(&good, &[], now), Err(WebhookError::NoKey)));
        assert!(matches!(verify_and_decode(&good, &[Secret::new("")], now), Err(WebhookError::NoKey)));
        assert!(matches!(
            verify_and_decode(&good, &[Secret::new("other")], now),
            Err(WebhookError::BadSignature)
        ));
        let mut eventless: Value = serde_json::from_slice(&good).unwrap();
        eventless["event-data"] = json!([]);
        let refused = verify_at(eventless.to_string().as_bytes(), SIGNED_AT).unwrap_err();
        assert!(matches!(&refused, WebhookError::NoEvent { token, .. } if token == "token"), "{refused}");
    }
}
