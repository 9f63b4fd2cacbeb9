use mailtrail_mail::{HeaderLine, TrackingId};

/// The line by which Brevo carries `id` back: it returns the value verbatim with every event. Recipients can
/// read it, and a value that is not ASCII can make the mail undeliverable.
pub fn tracking_header(id: TrackingId) -> HeaderLine {
    HeaderLine::new(TRACKING_HEADER, &format!("{TRACKING_KEY}={id}"))
}

/// Returns our id from a returned value, also if Brevo or another system merged several values into one, as text or
/// JSON.
pub fn parse_tracking_id(value: &str) -> Option<TrackingId> {
    value.match_indices(TRACKING_KEY).find_map(|(at, _)| {
        let rest = value[at + TRACKING_KEY.len()..].trim_start_matches(['"', '=', ':', ' ']);
        rest.get(..TRACKING_ID_CHARS)?.parse().ok()
    })
}

/// The field that Brevo returns.
pub(super) const TRACKING_HEADER: &str = "X-Mailin-custom";
const TRACKING_KEY: &str = "mailtrail";
/// Characters of an id.
const TRACKING_ID_CHARS: usize = 26;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracking_id_round_trips() {
        let id: TrackingId = "01K54Z8Q3V7N5X9B2C6D8F0GHJ".parse().unwrap();
        let line = tracking_header(id).to_string();
        let (_, value) = line.split_once(':').unwrap();
        assert_eq!(value, " mailtrail=01K54Z8Q3V7N5X9B2C6D8F0GHJ");
        for carried in [
            value,
            "theirs, mailtrail=01K54Z8Q3V7N5X9B2C6D8F0GHJ",
            "mailtrail:01K54Z8Q3V7N5X9B2C6D8F0GHJ|odoo_db:prod",
            r#"{"by": "mailtrail", "mailtrail": "01K54Z8Q3V7N5X9B2C6D8F0GHJ", "odoo_db": "prod"}"#,
        ] {
            assert_eq!(parse_tracking_id(carried), Some(id), "{carried}");
        }
        for foreign in [
            "",
            "mailtrail=",
            "01K54Z8Q3V7N5X9B2C6D8F0GHJ",
            "mailtrail=x|y:z",
            "mailtrail=01K54Z8Q3V7N5X9B2C6D8F0GHé",
        ] {
            assert_eq!(parse_tracking_id(foreign), None, "{foreign}");
        }
    }
}
