use mailtrail_mail::{HeaderLine, TrackingId};

/// The line by which Mailgun carries `id` back in the `user-variables` of every event. Mailgun combines
/// several such fields, so the client's own stays beside it. Recipients can read it.
pub fn tracking_header(id: TrackingId) -> HeaderLine {
    HeaderLine::new(VARIABLES_HEADER, &format!("{{\"{TRACKING_VARIABLE}\":\"{id}\"}}"))
}

/// The field that holds user variables as a JSON object.
pub(super) const VARIABLES_HEADER: &str = "X-Mailgun-Variables";

/// Name of our variable.
pub(super) const TRACKING_VARIABLE: &str = "mailtrail";
