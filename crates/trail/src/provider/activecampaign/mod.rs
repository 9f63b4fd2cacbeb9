//! ActiveCampaign: a campaign tool that knows the same contacts. It sends none of our mail, and nothing in its webhooks
//! leads to a send of ours: what it says is a `Hint` about a contact.
//!
//! Nothing is signed, no header can be chosen, and nothing is ever sent twice on purpose: the secret is a part of the
//! path, and a webhook that is not kept is lost. An answer of 410 would switch the webhook off for good.

mod payload;

pub use payload::decode_hint;
