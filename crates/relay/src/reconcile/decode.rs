//! What a provider's answer says, as its webhooks would have said it.

use bytes::Bytes;
use mailtrail_mail::Timestamp;
use mailtrail_trail::provider::{Provider, brevo, mailgun};
use mailtrail_trail::{EventKind, ProviderEvent};
use serde_json::{Value, json};

/// An event of a page, unless it is about no mail of ours: what was received, and lists of members, no webhook brings
/// either. One with our id is about mail of ours, whatever it says.
pub(super) fn decode_event(provider: Provider, data: &Value, now: Timestamp) -> Option<ProviderEvent> {
    let event = match provider {
        Provider::Mailgun => mailgun::decode(&data.into(), now),
        Provider::Brevo => brevo::decode(data, now)?,
        Provider::Plain => return None,
    };
    let is_ours =
        !matches!(event.kind, EventKind::Stored | EventKind::Unknown) || event.tracking_id.is_some();
    is_ours.then_some(event)
}

/// Its raw form: a webhook's, without a signature.
pub(super) fn to_webhook_body(provider: Provider, data: &Value) -> Bytes {
    match provider {
        Provider::Mailgun => json!({ "event-data": data }).to_string().into(),
        Provider::Brevo | Provider::Plain => data.to_string().into(),
    }
}
