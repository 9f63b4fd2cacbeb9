use mailtrail_mail::Timestamp;
use std::time::Duration;

/// Returns the time of a retry in a provider's text: `try again after Sun, 05 Oct 2025 19:22:44 UTC` or `try again
/// after 120 seconds`, case-insensitive.
pub fn parse_retry_after(text: &str, now: Timestamp) -> Option<Timestamp> {
    let at = text.to_ascii_lowercase().find(RETRY_PREFIX)? + RETRY_PREFIX.len();
    let wish = text[at..].trim_end_matches('.');
    if let Some((number, "seconds" | "second")) = wish.split_once(' ') {
        return number.parse().ok().map(|seconds| now.saturating_add(Duration::from_secs(seconds)));
    }
    Timestamp::parse_rfc5322(wish)
}

const RETRY_PREFIX: &str = "try again after ";
