//! Parses JSON that may violate RFC 8259.
//!
//! Valid text is parsed unchanged. Otherwise it is repaired and parsed again: a byte order mark is dropped, other
//! charsets are decoded, half a surrogate pair and invalid bytes become U+FFFD, control characters and unescaped
//! backslashes in strings are escaped, invalid numbers become `null`. Signatures are verified over the original bytes,
//! never over the repaired ones.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use serde::Deserialize;
use std::borrow::Cow;

/// Reads a document; `mended` holds it where it had to be mended.
pub fn parse_borrowed<'a, T: Deserialize<'a>>(
    body: &'a [u8],
    mended: &'a mut String,
) -> Result<T, serde_json::Error> {
    if let Ok(document) = serde_json::from_slice(body) {
        return Ok(document);
    }
    *mended = repair_document(&decode_text(body));
    serde_json::from_str(mended)
}

/// Reads a document into a value of its own.
pub fn parse_value(body: &[u8]) -> Result<serde_json::Value, serde_json::Error> {
    parse_borrowed(body, &mut String::new())
}

/// The text of a body without its byte order mark. Bytes that are no UTF-8 are Windows-1252, the superset of Latin-1 that
/// old programs write, unless some of the others are UTF-8.
pub fn decode_text(body: &[u8]) -> Cow<'_, str> {
    if let Some((encoding, mark)) = Encoding::for_bom(body) {
        return encoding.decode_without_bom_handling(&body[mark..]).0;
    }
    let (text, damaged) = UTF_8.decode_without_bom_handling(body);
    let is_utf8 = !damaged || text.chars().any(|c| !c.is_ascii() && c != '\u{fffd}');
    if is_utf8 { text } else { WINDOWS_1252.decode_without_bom_handling(body).0 }
}

/// A document with everything mended that can be.
fn repair_document(text: &str) -> String {
    let (mut mended, mut rest) = (String::with_capacity(text.len() + 16), text);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => {
                mended.push('"');
                1 + repair_string(&rest[1..], &mut mended)
            }
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '+' | '.' => {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-+.".contains(c)));
                let word = &rest[..end.unwrap_or(rest.len())];
                mended.push_str(if is_invalid_number(word) { "null" } else { word });
                word.len()
            }
            other => {
                mended.push(other);
                other.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    mended
}

/// Repairs a string after its opening quote. Returns its length with the closing one.
fn repair_string(text: &str, mended: &mut String) -> usize {
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        at += c.len_utf8();
        match c {
            '"' => {
                mended.push('"');
                break;
            }
            '\\' => at += repair_escape(&text[at..], mended),
            control if control < ' ' => mended.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => mended.push(other),
        }
    }
    at
}

/// Repairs an escape after its backslash. Returns its length.
fn repair_escape(text: &str, mended: &mut String) -> usize {
    match text.chars().next() {
        Some(plain @ ('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't')) => {
            mended.extend(['\\', plain]);
            1
        }
        Some('u') => match (
            parse_code_unit(text),
            text.get(5..).and_then(|next| parse_code_unit(next.strip_prefix('\\')?)),
        ) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => {
                mended.push('\\');
                mended.push_str(&text[..11]);
                11
            }
            (Some(0xd800..=0xdfff), _) => {
                mended.push('\u{fffd}');
                5
            }
            (Some(_), _) => {
                mended.push('\\');
                mended.push_str(&text[..5]);
                5
            }
            (None, _) => {
                mended.push_str("\\\\");
                0
            }
        },
        // The backslash is kept as a character.
        _ => {
            mended.push_str("\\\\");
            0
        }
    }
}

/// The code unit of `u12ab`.
fn parse_code_unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix('u')?.get(..4)?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

/// Returns whether the word is a number that other programs write but JSON does not have: `NaN`, `-Infinity`, `1e999`.
fn is_invalid_number(word: &str) -> bool {
    word.parse::<f64>().is_ok_and(|number| !number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_malformed_json() {
        for (body, expected) in [
            (&br#"["\ud83d"]"#[..], json!(["\u{fffd}"])),
            (br#"["\ude00\ud83d\ud83d\ude00"]"#, json!(["\u{fffd}\u{fffd}\u{1f600}"])),
            (br#"["\ud83dx\ud83d\n\ud83d\u0041"]"#, json!(["\u{fffd}x\u{fffd}\n\u{fffd}A"])),
            (br#"["\\ud83d", "\\\ud83d"]"#, json!(["\\ud83d", "\\\u{fffd}"])),
            (br#"["\x\'\u12", "C:\dir"]"#, json!(["\\x\\'\\u12", "C:\\dir"])),
            (b"[\"a\tb\r\n\x00\x1b\"]", json!(["a\tb\r\n\0\u{1b}"])),
            (b"\xef\xbb\xbf[1]", json!([1])),
            (b"[\"M\xfcller \x80\"]", json!(["Müller €"])),
            (b"[\"M\xc3\xbcller \xff\"]", json!(["Müller \u{fffd}"])),
            (b"\xff\xfe[\0\x31\0]\0", json!([1])),
            (b"\xfe\xff\0[\0\x31\0]", json!([1])),
            (
                b"[NaN,-Infinity,1e999,-1E+400,1.5,-2e3,true,null]",
                json!([null, null, null, null, 1.5, -2e3, true, null]),
            ),
            (br#"{"NaN": "Infinity", "a": NaN}"#, json!({"NaN": "Infinity", "a": null})),
        ] {
            assert_eq!(parse_value(body).unwrap(), expected, "{}", String::from_utf8_lossy(body));
        }
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        for none in ["", "nothing", "[1,", "{\"a\" 1}", "\"", "\"\\", "\"\\u", "[1] 2", &deep] {
            assert!(parse_value(none.as_bytes()).is_err(), "{none:.80}");
        }
    }

    #[test]
    fn preserves_valid_json_and_never_panics() {
        let valid = r#"{"a":["\u00fc\ud83d\ude00\\u\"",-1.5e-3,true,false,null,""],"é":{}}"#;
        assert_eq!(repair_document(valid), valid);
        let mut random = fastrand::Rng::with_seed(3);
        let pieces = [
            "\"",
            "\\",
            "u",
            "d83d",
            "\\ude00",
            "é",
            "\n",
            "[",
            "]",
            "{",
            "}",
            ":",
            ",",
            "NaN",
            "1",
            "-",
            "\u{1f600}",
        ];
        for _ in 0..20_000 {
            let text: String =
                (0..random.usize(..14)).map(|_| pieces[random.usize(..pieces.len())]).collect();
            let mended = repair_document(&text);
            assert_eq!(repair_document(&mended), mended, "{text:?}");
            let known = serde_json::from_str::<serde_json::Value>(&text).ok();
            assert!(known.is_none() || parse_value(text.as_bytes()).ok() == known, "{text:?}");
        }
    }
}
