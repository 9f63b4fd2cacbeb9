//! `[[source]]`: a sender of webhooks besides the upstreams' providers.

use crate::config::keywords::{SOURCE_TYPES, SourceType};
use crate::config::section::Section;
use crate::config::unique_names::{NameKind as Claim, UniqueNames};
use crate::config::validators::is_slug;
use mailtrail_relay::webhook::{HintSuppression, SourceKind, WebhookSource};

/// Reads a source; `upstreams` are the configured names, which share the webhook paths.
pub(crate) fn read_source(
    mut section: Section<'_>,
    upstreams: &[&str],
    claims: &mut UniqueNames,
) -> Option<WebhookSource> {
    section.require_key("name");
    section.require_key("kind");
    let name =
        section.parse("name", "a name of a-z, 0-9 and -", |text| is_slug(text).then(|| text.to_owned()));
    if let Some(name) = &name {
        claims.insert_name(Claim::Upstream, &section, "name", name);
    }
    let reporter = section.keyword("kind", &SOURCE_TYPES);
    let key = if section.contains_key("secret_file") { "secret_file" } else { "secret" };
    if !section.contains_key(key) {
        section.add_error(key, "or secret_file is required");
    }
    let secrets = section.secrets("secret", 2);
    if secrets.iter().any(|secret| secret.expose().len() < MIN_SECRET_CHARS) {
        // A guessed secret authenticates a forged webhook.
        section.add_warning(
            key,
            format!("is shorter than {MIN_SECRET_CHARS} characters; `openssl rand -hex 32` makes a good one"),
        );
    }
    let known = |text: &str| upstreams.contains(&text).then(|| text.to_owned());
    let upstream = section.parse("upstream", "the name of an [[upstream]]", known);
    let suppress = section.list("suppress", "\"unsubscribe\" or \"bounce\"", |text| {
        HintSuppression::ALL.into_iter().find(|rule| rule.as_str() == text)
    });
    if suppress.is_some() && matches!(reporter, Some(SourceType::Generic)) {
        section.add_error(
            "suppress",
            "belongs to kind = \"activecampaign\"; what a generic source reports counts as a provider's event",
        );
    }
    let kind = match reporter {
        Some(SourceType::Generic) => Some(SourceKind::Generic { secrets, upstream }),
        Some(SourceType::ActiveCampaign) => {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~*".contains(&byte);
            if !secrets.iter().all(|secret| secret.expose().bytes().all(fits)) {
                section.add_error(
                    key,
                    "has other characters than a-z, A-Z, 0-9 and -._~*; it is a part of a path",
                );
            }
            if upstream.is_some() {
                section.add_error(
                    "upstream",
                    "belongs to kind = \"generic\"; ActiveCampaign's events do not refer to messages",
                );
            }
            Some(SourceKind::ActiveCampaign {
                secrets,
                suppress: suppress.unwrap_or(HintSuppression::DEFAULT.to_vec()),
            })
        }
        None => None,
    };
    section.reject_unknown();
    Some(WebhookSource { name: name?, kind: kind? })
}

/// In characters; shorter secrets can be guessed.
const MIN_SECRET_CHARS: usize = 16;
