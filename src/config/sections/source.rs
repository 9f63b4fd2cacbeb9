//! `[[source]]`: who reports besides the upstreams' providers.

use crate::config::keywords::{REPORTERS, Reporter};
use crate::config::section::Section;
use crate::config::uniqueness::{Claims, Kind as Claim};
use crate::config::validators::is_slug;
use mailtrail_relay::webhook::{Kind, Source, Suppressing};

/// Reads one; `upstreams` are the names that there are, with which it shares the paths of webhooks.
pub(crate) fn read(mut section: Section<'_>, upstreams: &[&str], claims: &mut Claims) -> Option<Source> {
    section.require("name");
    section.require("kind");
    let name =
        section.parsed("name", "a name of a-z, 0-9 and -", |text| is_slug(text).then(|| text.to_owned()));
    if let Some(name) = &name {
        claims.name(Claim::Upstream, &section, "name", name);
    }
    let reporter = section.one_of("kind", &REPORTERS);
    let key = if section.has("secret_file") { "secret_file" } else { "secret" };
    if !section.has(key) {
        section.fault(key, "or secret_file is required");
    }
    let secrets = section.secrets("secret", 2);
    if secrets.iter().any(|secret| secret.reveal().len() < SHORTEST) {
        // Whoever guesses it is believed.
        section.warn(
            key,
            format!("is shorter than {SHORTEST} characters; `openssl rand -hex 32` makes a good one"),
        );
    }
    let known = |text: &str| upstreams.contains(&text).then(|| text.to_owned());
    let upstream = section.parsed("upstream", "the name of an [[upstream]]", known);
    let suppress = section.list("suppress", "\"unsubscribe\" or \"bounce\"", |text| {
        Suppressing::ALL.into_iter().find(|rule| rule.word() == text)
    });
    if suppress.is_some() && matches!(reporter, Some(Reporter::Generic)) {
        section.fault(
            "suppress",
            "belongs to kind = \"activecampaign\"; what a generic source reports counts as a provider's event",
        );
    }
    let kind = match reporter {
        Some(Reporter::Generic) => Some(Kind::Generic { secrets, upstream }),
        Some(Reporter::ActiveCampaign) => {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~*".contains(&byte);
            if !secrets.iter().all(|secret| secret.reveal().bytes().all(fits)) {
                section
                    .fault(key, "has other characters than a-z, A-Z, 0-9 and -._~*; it is a part of a path");
            }
            if upstream.is_some() {
                section.fault(
                    "upstream",
                    "belongs to kind = \"generic\"; ActiveCampaign knows of no mail of ours",
                );
            }
            Some(Kind::ActiveCampaign { secrets, suppress: suppress.unwrap_or(Suppressing::USUAL.to_vec()) })
        }
        None => None,
    };
    section.finish();
    Some(Source { name: name?, kind: kind? })
}

/// Characters of a secret that nobody guesses.
const SHORTEST: usize = 16;
