//! JSON bodies with one event or many.

use crate::provider::lenient;
use bytes::Bytes;
use encoding_rs::Encoding;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Error of splitting a body into events.
#[derive(Debug, thiserror::Error)]
pub enum ParseBatchError {
    /// The body is no JSON document.
    #[error("the body is not JSON: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It holds more than [`MOST`].
    #[error("the body holds more than {MAX_EVENTS} events")]
    TooMany,
}

/// Splits a body into its events, unchanged: the items of a list, of a list named `items` or `events`, or the body
/// itself. Unreadable events are included.
pub fn split_events(body: &Bytes) -> Result<Vec<Bytes>, ParseBatchError> {
    let events = match split_valid_json(body) {
        Ok(events) => events.into_iter().map(|event| body.slice_ref(event.as_bytes())).collect(),
        Err(error) => split_invalid_json(body, &["items", "events"]).ok_or(error)?,
    };
    if events.len() > MAX_EVENTS { Err(ParseBatchError::TooMany) } else { Ok(events) }
}

fn split_valid_json(body: &[u8]) -> Result<Vec<&str>, serde_json::Error> {
    let whole: &RawValue = serde_json::from_slice(body)?;
    let list = match serde_json::from_str(whole.get()) {
        Ok(list) => Some(list),
        Err(_) => serde_json::from_str(whole.get())
            .ok()
            .and_then(|named: BatchEnvelope<'_>| named.items.or(named.events)),
    };
    let events: Vec<&RawValue> = list.unwrap_or_else(|| vec![whole]);
    Ok(events.into_iter().map(RawValue::get).collect())
}

/// Splits a body that is not valid JSON; `None` if it cannot be repaired either.
fn split_invalid_json(body: &Bytes, names: &[&str]) -> Option<Vec<Bytes>> {
    // In these no byte has its place.
    let is_wide = Encoding::for_bom(body).is_some_and(|(encoding, _)| !encoding.is_ascii_compatible());
    let body = if is_wide { Bytes::from(lenient::decode_text(body).into_owned()) } else { body.clone() };
    let whole = || lenient::parse_value(&body).ok().map(|_| vec![body.clone()]);
    match split_body(&body, names) {
        Some(SplitBody { items, remainder }) if lenient::parse_value(&remainder).is_ok() => {
            Some(items.into_iter().map(|item| body.slice_ref(item)).collect())
        }
        _ => whole(),
    }
}

/// A body split by its brackets and quotes alone.
pub struct SplitBody<'a> {
    /// The items of its list.
    pub items: Vec<&'a [u8]>,
    /// The body with an empty list in its place.
    pub remainder: Vec<u8>,
}

/// Splits a body: its list is the body itself, or the value of one of `names`.
pub fn split_body<'a>(body: &'a [u8], names: &[&str]) -> Option<SplitBody<'a>> {
    let mut scan =
        BodyScanner { body, position: body.iter().position(|byte| matches!(byte, b'[' | b'{'))?, depth: 0 };
    if body[scan.position] == b'{' {
        scan.find_list(names)?;
    }
    let start = scan.position + 1;
    let items = scan.scan_items()?;
    Some(SplitBody { items, remainder: [&body[..start], &body[scan.position..]].concat() })
}

/// Items of a list with unbalanced brackets or quotes.
#[derive(Debug, Default, PartialEq)]
pub struct Salvage<'a> {
    /// The items that can be read.
    pub items: Vec<Value>,
    /// The text between them and after the last one.
    pub junk: Vec<&'a [u8]>,
}

/// Finds the items of a damaged list: objects that can be read and have a `field`. Text is what follows the list's
/// opening bracket, or a part of it.
pub fn salvage<'a>(text: &'a [u8], field: &str) -> Salvage<'a> {
    let (mut found, mut junk, mut at, mut misses) = (Salvage::default(), 0, 0, 0);
    while let Some(next) = text[at..].iter().position(|byte| *byte == b'{').filter(|_| misses < MOST_MISSES) {
        let start = at + next;
        at = start + 1;
        // An object within an item follows the name of a field.
        if text[..start].trim_ascii_end().ends_with(b":") {
            continue;
        }
        let mut scan = BodyScanner { body: text, position: start, depth: 0 };
        let item = scan.skip_object().and_then(|()| lenient::parse_value(&text[start..scan.position]).ok());
        match item.filter(|item| item.get(field).is_some()) {
            Some(item) => {
                found.junk.push(&text[junk..start]);
                found.items.push(item);
                (junk, at) = (scan.position, scan.position);
            }
            None => misses += 1,
        }
    }
    found.junk.push(&text[junk..]);
    found.junk.iter_mut().for_each(|junk| *junk = without_separators(junk));
    found.junk.retain(|junk| !junk.is_empty());
    found
}

fn without_separators(text: &[u8]) -> &[u8] {
    let is_content = |byte: &u8| !(byte.is_ascii_whitespace() || *byte == b',');
    match (text.iter().position(is_content), text.iter().rposition(is_content)) {
        (Some(start), Some(end)) => &text[start..=end],
        _ => &[],
    }
}

/// Where the list with that name begins in a body that cannot be taken apart otherwise: after its opening bracket.
pub fn list_start(body: &[u8], name: &str) -> Option<usize> {
    let name = format!("\"{name}\"");
    memchr::memmem::find_iter(body, &name).find_map(|at| {
        let rest = body[at + name.len()..].trim_ascii_start().strip_prefix(b":")?;
        let list = rest.trim_ascii_start().strip_prefix(b"[")?;
        Some(body.len() - list.len())
    })
}

/// A place in a body, and how many brackets are open there.
struct BodyScanner<'a> {
    body: &'a [u8],
    position: usize,
    depth: usize,
}

impl<'a> BodyScanner<'a> {
    /// Moves to the list of one of `names`.
    fn find_list(&mut self, names: &[&str]) -> Option<()> {
        let mut named = false;
        while let Some(byte) = self.body.get(self.position) {
            match byte {
                b'"' => {
                    let start = self.position + 1;
                    self.skip_string();
                    let name = self.body.get(start..self.position)?;
                    let behind = self.body.get(self.position + 1..).unwrap_or_default();
                    let is_key = behind.trim_ascii_start().starts_with(b":");
                    named = self.depth == 1 && is_key && names.iter().any(|wanted| wanted.as_bytes() == name);
                }
                b'[' if named => return Some(()),
                b':' => {}
                byte if byte.is_ascii_whitespace() => {}
                _ => {
                    named = false;
                    self.track_depth(*byte)?;
                }
            }
            self.position += 1;
        }
        None
    }

    /// The items of the list that begins here; ends at its closing bracket.
    fn scan_items(&mut self) -> Option<Vec<&'a [u8]>> {
        let (mut items, mut start) = (Vec::new(), self.position + 1);
        let outside = self.depth;
        while let Some(byte) = self.body.get(self.position) {
            match byte {
                b'"' => self.skip_string(),
                b',' if self.depth == outside + 1 => {
                    items.push(self.body[start..self.position].trim_ascii());
                    start = self.position + 1;
                }
                byte => self.track_depth(*byte)?,
            }
            if self.depth == outside {
                items.push(self.body[start..self.position].trim_ascii());
                items.retain(|item| !item.is_empty());
                return Some(items);
            }
            self.position += 1;
        }
        None
    }

    /// Moves past the object that begins here.
    fn skip_object(&mut self) -> Option<()> {
        while let Some(byte) = self.body.get(self.position) {
            match byte {
                b'"' => self.skip_string(),
                byte => self.track_depth(*byte)?,
            }
            self.position += 1;
            if self.depth == 0 {
                return Some(());
            }
        }
        None
    }

    /// Goes to the quote that ends a string.
    fn skip_string(&mut self) {
        self.position += 1;
        while let Some(byte) = self.body.get(self.position).filter(|byte| **byte != b'"') {
            self.position += if *byte == b'\\' { 2 } else { 1 };
        }
    }

    fn track_depth(&mut self, byte: u8) -> Option<()> {
        match byte {
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => self.depth = self.depth.checked_sub(1)?,
            _ => {}
        }
        Some(())
    }
}

#[derive(Deserialize)]
struct BatchEnvelope<'a> {
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    events: Option<Vec<&'a RawValue>>,
}

/// Events of one body. Brevo sends up to 500.
pub const MAX_EVENTS: usize = 2000;
/// Objects of a damaged list that are tried in vain; each may be read to the end of the text.
const MOST_MISSES: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn splits_single_events_and_lists_unchanged() {
        for (body, expected) in [
            (r#" {"event" : "click"} "#, &[r#"{"event" : "click"}"#][..]),
            (r#"[{"a":1}, 2 ,null]"#, &[r#"{"a":1}"#, "2", "null"]),
            (r#"{"items":[{"a": 1}],"n":1}"#, &[r#"{"a": 1}"#]),
            (r#"{"events":[{"a":1},{"b":2}]}"#, &[r#"{"a":1}"#, r#"{"b":2}"#]),
            (r#"{"event":"x","items":3}"#, &[r#"{"event":"x","items":3}"#]),
            ("[]", &[]),
            ("7", &["7"]),
        ] {
            assert_eq!(split_events(&Bytes::from(body)).unwrap(), expected, "{body}");
        }
    }

    #[test]
    fn keeps_other_events_beside_an_invalid_one() {
        for bad in [
            r#"{"a" 1}"#,
            "nothing",
            r#"{"a":"\ud83d]},{"}"#,
            "{\"a\":\"\u{1}\"}",
            "[[[1]]]x",
            "NaN",
            "\"\\\"]\"",
        ] {
            for (before, behind) in [
                ("[", "]"),
                (" \n[ ", " ] \n"),
                (r#"{"items":["#, "]}"),
                (
                    r#"{"x":{"items":[1,"]"]},"y":"\"items\":[","n":NaN,"events" : ["#,
                    r#"],"items2":[3],"z":"\ud83d"}"#,
                ),
            ] {
                let body = format!(r#"{before}{{"a":"]}}\"["}}, {bad},{{"b":[1,2]}}{behind}"#);
                let found = split_events(&Bytes::from(body.clone())).unwrap();
                assert_eq!(found, [r#"{"a":"]}\"["}"#, bad, r#"{"b":[1,2]}"#], "{body}");
            }
        }
        let wide: Vec<u8> = "\u{feff}[1, NaN]".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(split_events(&Bytes::from(wide)).unwrap(), ["1", "NaN"]);
        let latin = b"[\"M\xfcller\",2]";
        assert_eq!(split_events(&Bytes::from_static(latin)).unwrap(), [&b"\"M\xfcller\""[..], b"2"]);
    }

    #[test]
    fn rejects_non_json_and_oversized_batches() {
        for body in ["", "{", "[1,", "[1,{]", "event=click", "[1] 2", "{\"items\":[1]", "{\"items\":[1] 2}"] {
            assert!(matches!(split_events(&Bytes::from(body)), Err(ParseBatchError::Malformed(_))), "{body}");
        }
        for body in [&b"\xef\xbb\xbf{}"[..], b"\"\xff\"", b"{\"items\":NaN}"] {
            assert_eq!(split_events(&Bytes::from_static(body)).unwrap().len(), 1);
        }
        let many = |many: usize| format!("[{}1]", "1,".repeat(many - 1));
        assert_eq!(split_events(&many(MAX_EVENTS).into()).unwrap().len(), MAX_EVENTS);
        assert!(matches!(split_events(&many(MAX_EVENTS + 1).into()), Err(ParseBatchError::TooMany)));
        assert!(matches!(
            split_events(&(many(MAX_EVENTS + 1) + "\n\u{1}]").into()),
            Err(ParseBatchError::Malformed(_))
        ));
    }

    #[test]
    fn items_of_a_damaged_list_are_found() {
        let (good, nested) = (r#"{"e":1,"x":{"e":2}}"#, r#"{"e":"]}\"},{","l":[{"f":1},{"f":2}]}"#);
        for bad in [
            r#"{"e":3,"l":["#,
            r#"{"e":3,"l":[}"#,
            r#"{"e":3,"m":{"e":4}"#,
            r#"{"e":3,"l":[{"f":1},{"f":2}"#,
            r#"{"e":3,"t":"x}"#,
            r#"{"e":3,t":"x"}"#,
            r#"{"e":3}}"#,
            "]]",
            "\"",
            "nothing",
        ] {
            let text = format!("{good}, {bad} ,{nested}\n{good}");
            let found = salvage(text.as_bytes(), "e");
            let items: Vec<_> = found.items.iter().map(Value::to_string).collect();
            assert!(
                items[0] == good && items.ends_with(&[nested.to_owned(), good.to_owned()]),
                "{bad}: {items:?}"
            );
            assert!(!found.junk.is_empty(), "{bad}");
        }
        let found = salvage(b"{\"e\":1},{\"e\":", "e");
        assert_eq!((found.items, found.junk), (vec![json!({"e": 1})], vec![&b"{\"e\":"[..]]));
        let body = br#"{"x":"items","items" : [1"#;
        assert_eq!(list_start(body, "items"), Some(body.len() - 1));
        assert_eq!(list_start(b"<p>\"items\"", "items"), None);
        let many = b"{\"".repeat(100_000);
        assert_eq!(salvage(&many, "e"), Salvage { items: Vec::new(), junk: vec![&many] });
    }

    #[test]
    fn never_panics_on_arbitrary_bytes() {
        let mut random = fastrand::Rng::with_seed(13);
        let pieces =
            ["[", "]", "{", "}", "\"items\"", "\"events\"", ":", ",", "1", "\"é\"", " ", "null", "\\"];
        for _ in 0..20_000 {
            let body: String =
                (0..random.usize(..14)).map(|_| pieces[random.usize(..pieces.len())]).collect();
            for event in split_events(&body.clone().into()).unwrap_or_default() {
                assert!(body.contains(std::str::from_utf8(&event).unwrap()), "{body}");
            }
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(split_events(&deep.into()).map(|events| events.len()).unwrap_or_default(), 1);
    }
}
