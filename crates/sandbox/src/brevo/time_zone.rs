//! The account's time zone, which Brevo does not report: here Central European Summer Time all year.

use mailtrail_mail::Timestamp;
use std::time::Duration;

/// `2026-09-14 14:00:03`.
pub(super) fn format_local(at: Timestamp) -> String {
    at.saturating_add(UTC_OFFSET).to_string()[..19].replace('T', " ")
}

/// Formats `2026-09-14T14:00:03.000+02:00`; the fraction is always zero.
pub(super) fn format_iso8601(at: Timestamp) -> String {
    let whole = Timestamp::from_secs(at.as_secs());
    whole.saturating_add(UTC_OFFSET).to_string().replace('Z', "+02:00")
}

/// Seconds since 1970 on the account's clock, as if that ran in UTC.
pub(super) fn local_seconds(at: Timestamp) -> u64 {
    at.saturating_add(UTC_OFFSET).as_secs()
}

/// When the day of `2026-09-14` begins.
pub(super) fn parse_day_start(text: &str) -> Option<Timestamp> {
    Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z")).map(|midnight| midnight.saturating_sub(UTC_OFFSET))
}

const UTC_OFFSET: Duration = Duration::from_secs(7200);
