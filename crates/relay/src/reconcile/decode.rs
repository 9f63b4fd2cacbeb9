//! Decodes events of a provider's API into the form of its webhooks.

use bytes::Bytes;
use mailtrail_mail::Timestamp;
use mailtrail_trail::provider::{Provider, brevo, mailgun};
use mailtrail_trail::{EventKind, ProviderEvent};
use serde_json::{Value, json};

/// Returns an event of a page. Returns `None` for events that webhooks never bring: received mail and list
/// members. An event with our tracking id is about our mail, whatever its kind.
pub(super) fn decode_event(provider: Provider, data: &Value, now: Timestamp) -> Option<ProviderEvent> {
    let event = match provider {
        Provider::Mailgun => mailgun::decode_event(&data.into(), now),
        Provider::Brevo => brevo::decode_event(data, now)?,
        Provider::Plain => return None,
    };
    let is_ours =
        !matches!(event.kind, EventKind::Stored | EventKind::Unknown) || event.tracking_id.is_some();
    is_ours.then_some(event)
}

/// Returns the raw form: a webhook body without a signature.
pub(super) fn to_webhook_body(provider: Provider, data: &Value) -> Bytes {
    match provider {
        Provider::Mailgun => json!({ "event-data": data }).to_string().into(),
        Provider::Brevo | Provider::Plain => data.to_string().into(),
    }
}
