//! Provider header fields that a client may set.

use crate::provider::sanitize;

/// Whether a request's name is among those; a final `*` stands for any rest.
pub fn is_allowed_request(request: &str, allowed: &[String]) -> bool {
    let names = allowed.iter().filter(|name| *name != SAFE_REQUESTS_KEYWORD);
    names.into_iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => sanitize::strip_prefix_ignoring_case(request, start).is_some(),
        None => request.eq_ignore_ascii_case(pattern),
    })
}

/// Stands in a list of allowed requests for all that are safe, while what they say is.
pub const SAFE_REQUESTS_KEYWORD: &str = "safe";
