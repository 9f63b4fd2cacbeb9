//! Provider header fields that a client may set.

use crate::provider::sanitize;

/// Returns whether a request's name matches one of the allowed names; a final `*` matches any rest.
pub fn is_allowed_request(request: &str, allowed: &[String]) -> bool {
    let names = allowed.iter().filter(|name| *name != SAFE_REQUESTS_KEYWORD);
    names.into_iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => sanitize::strip_prefix_ignoring_case(request, start).is_some(),
        None => request.eq_ignore_ascii_case(pattern),
    })
}

/// In a list of allowed requests: all requests that are safe with their value.
pub const SAFE_REQUESTS_KEYWORD: &str = "safe";
