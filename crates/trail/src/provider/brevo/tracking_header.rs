use mailtrail_mail::{HeaderLine, TrackingId};

/// The line by which Brevo carries `id` back: it returns the value verbatim with every event. Recipients can
/// read it, and a value that is not ASCII can make the mail undeliverable.
pub fn stamp(id: TrackingId) -> HeaderLine {
    HeaderLine::new(HEADER, &format!("{KEY}={id}"))
}

/// The id in a value that came back, when we stamped it: also where Brevo, or whoever stamps the mail besides, made one
/// value of several, be it text or JSON.
pub fn tracking(value: &str) -> Option<TrackingId> {
    value.match_indices(KEY).find_map(|(at, _)| {
        let rest = value[at + KEY.len()..].trim_start_matches(['"', '=', ':', ' ']);
        rest.get(..LENGTH)?.parse().ok()
    })
}

/// The field that Brevo returns.
pub(super) const HEADER: &str = "X-Mailin-custom";
const KEY: &str = "mailtrail";
/// Characters of an id.
const LENGTH: usize = 26;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_can_be_read_back() {
        let id: TrackingId = "01K54Z8Q3V7N5X9B2C6D8F0GHJ".parse().unwrap();
        let line = stamp(id).to_string();
        let (_, value) = line.split_once(':').unwrap();
        assert_eq!(value, " mailtrail=01K54Z8Q3V7N5X9B2C6D8F0GHJ");
        for carried in [
            value,
            "theirs, mailtrail=01K54Z8Q3V7N5X9B2C6D8F0GHJ",
            "mailtrail:01K54Z8Q3V7N5X9B2C6D8F0GHJ|odoo_db:prod",
            r#"{"by": "mailtrail", "mailtrail": "01K54Z8Q3V7N5X9B2C6D8F0GHJ", "odoo_db": "prod"}"#,
        ] {
            assert_eq!(tracking(carried), Some(id), "{carried}");
        }
        for foreign in [
            "",
            "mailtrail=",
            "01K54Z8Q3V7N5X9B2C6D8F0GHJ",
            "mailtrail=x|y:z",
            "mailtrail=01K54Z8Q3V7N5X9B2C6D8F0GHé",
        ] {
            assert_eq!(tracking(foreign), None, "{foreign}");
        }
    }
}
