//! JSON bodies with one event or many.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Why there are no events.
#[derive(Debug, thiserror::Error)]
pub enum NotABatch {
    /// The body is no JSON document.
    #[error("the body is not JSON: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It holds more than [`MOST`].
    #[error("the body holds more than {MOST} events")]
    TooMany,
}

/// The events of a body, each as it is written there: of a list, of a list that is called `items` or `events`, or the
/// body itself.
pub fn events(body: &[u8]) -> Result<Vec<&str>, NotABatch> {
    let whole: &RawValue = serde_json::from_slice(body)?;
    let list = match serde_json::from_str(whole.get()) {
        Ok(list) => Some(list),
        Err(_) => {
            serde_json::from_str(whole.get()).ok().and_then(|named: Named<'_>| named.items.or(named.events))
        }
    };
    let events: Vec<&RawValue> = list.unwrap_or_else(|| vec![whole]);
    if events.len() > MOST {
        return Err(NotABatch::TooMany);
    }
    Ok(events.into_iter().map(RawValue::get).collect())
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    events: Option<Vec<&'a RawValue>>,
}

/// Events of one body. Brevo sends up to 500.
pub const MOST: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_or_many_come_as_they_are_written() {
        for (body, expected) in [
            (r#" {"event" : "click"} "#, &[r#"{"event" : "click"}"#][..]),
            (r#"[{"a":1}, 2 ,null]"#, &[r#"{"a":1}"#, "2", "null"]),
            (r#"{"items":[{"a": 1}],"n":1}"#, &[r#"{"a": 1}"#]),
            (r#"{"events":[{"a":1},{"b":2}]}"#, &[r#"{"a":1}"#, r#"{"b":2}"#]),
            (r#"{"event":"x","items":3}"#, &[r#"{"event":"x","items":3}"#]),
            ("[]", &[]),
            ("7", &["7"]),
        ] {
            assert_eq!(events(body.as_bytes()).unwrap(), expected, "{body}");
        }
    }

    #[test]
    fn what_is_no_json_or_too_much_says_so() {
        for body in ["", "{", "[1,", "event=click", "[1] 2", "\u{feff}{}"] {
            assert!(matches!(events(body.as_bytes()), Err(NotABatch::Malformed(_))), "{body}");
        }
        assert!(matches!(events(b"\"\xff\""), Err(NotABatch::Malformed(_))));
        let many = |many: usize| format!("[{}1]", "1,".repeat(many - 1));
        assert_eq!(events(many(MOST).as_bytes()).unwrap().len(), MOST);
        assert!(matches!(events(many(MOST + 1).as_bytes()), Err(NotABatch::TooMany)));
    }

    #[test]
    fn junk_never_panics() {
        let mut random = fastrand::Rng::with_seed(13);
        let pieces =
            ["[", "]", "{", "}", "\"items\"", "\"events\"", ":", ",", "1", "\"é\"", " ", "null", "\\"];
        for _ in 0..20_000 {
            let body: String =
                (0..random.usize(..14)).map(|_| pieces[random.usize(..pieces.len())]).collect();
            for event in events(body.as_bytes()).unwrap_or_default() {
                assert!(body.contains(event), "{body}");
            }
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(events(deep.as_bytes()).map(|events| events.len()).unwrap_or_default(), 1);
    }
}
