use crate::id::TrackingId;
use crate::mail::HeaderLine;

/// The line by which Brevo carries `id` back: it returns the value verbatim with every event. Recipients can
/// read it, and a value that is not ASCII can make the mail undeliverable.
pub fn stamp(id: TrackingId) -> HeaderLine {
    HeaderLine::new("X-Mailin-custom", &format!("{KEY}{id}"))
}

/// The id in a value that came back, when we stamped it.
pub fn tracking(value: &str) -> Option<TrackingId> {
    value.trim().strip_prefix(KEY)?.parse().ok()
}

const KEY: &str = "mailtrail=";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_can_be_read_back() {
        let id: TrackingId = "01K54Z8Q3V7N5X9B2C6D8F0GHJ".parse().unwrap();
        let line = stamp(id).to_string();
        let (_, value) = line.split_once(':').unwrap();
        assert_eq!(tracking(value), Some(id));
        for foreign in ["", "mailtrail=", "01K54Z8Q3V7N5X9B2C6D8F0GHJ", "mailtrail=x|y:z"] {
            assert_eq!(tracking(foreign), None, "{foreign}");
        }
    }
}
