//! ActiveCampaign: a campaign tool with the same contacts. It sends none of our messages, so its webhooks match no
//! message: each is a hint about a contact.
//!
//! Webhooks are not signed, have no custom header, and are never repeated: the secret is part of the path, and a
//! webhook that is not stored is lost. A 410 response would disable the webhook permanently.

mod payload;

pub use payload::decode_hint;
