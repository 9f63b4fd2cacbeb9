//! Matcher of an address in every spelling and encoding.

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine, alphabet};
use icu_normalizer::DecomposingNormalizerBorrowed;
use mailtrail_mail::{Mailbox, domain_to_unicode};
use regex::bytes::{Captures, Regex, RegexBuilder};
use std::fmt::Write;

/// Finds an address in every spelling and encoding. It matches any case, any spelling of
/// [`mailtrail_mail::fold_address`], and the address within text. It also matches the encodings of URLs,
/// JSON, quoted-printable (RFC 2045), xtext (RFC 3461), UTF-16 and base64, and `=` for `@` as in return
/// paths.
#[derive(Debug)]
pub struct AddressMatcher {
    address: String,
    /// Matches the address in all encodings but base64; the group is the `@`.
    plain_pattern: Regex,
    /// Matches possible base64, over several lines.
    base64_pattern: Regex,
}

impl AddressMatcher {
    /// Creates a matcher; `None` for an address without a domain, which identifies no single person.
    pub fn new(address: &Mailbox) -> Option<Self> {
        let address = address.to_folded();
        let (local, domain) = address.rsplit_once('@')?;
        let in_unicode = domain_to_unicode(&address);
        let in_unicode = in_unicode.rsplit_once('@').map_or("", |(_, domain)| domain);
        let labels = domain.split('.').zip(in_unicode.split('.').map(Some).chain(std::iter::repeat(None)));
        let labels: Vec<_> = labels
            .map(|(label, in_unicode)| match in_unicode.filter(|other| *other != label) {
                Some(other) => {
                    format!("(?:{}|{})", text_pattern(label, ""), composed_or_decomposed_pattern(other, ""))
                }
                None => text_pattern(label, ""),
            })
            .collect();
        // Return path of a mailing list: bounces+ada=example.net@…
        let pattern = format!(
            "(?i){}{GAP_PATTERN}({}|=|=3D|%3D){GAP_PATTERN}{}",
            local_pattern(local),
            encodings_of('@'),
            labels.join(&format!("{GAP_PATTERN}{}{GAP_PATTERN}", dot_pattern(in_unicode.is_ascii())))
        );
        let plain_pattern = RegexBuilder::new(&pattern).size_limit(MAX_PATTERN_BYTES).build().ok()?;
        let base64_pattern = Regex::new(r"[A-Za-z0-9+/_-]{8,}(?:\r?\n[A-Za-z0-9+/_-]{2,})*").ok()?;
        Some(Self { address, plain_pattern, base64_pattern })
    }

    /// Returns whether the bytes mention the address.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        self.plain_pattern.captures_iter(bytes).any(|found| is_whole_address(bytes, &found))
            || self.matches_encoded(bytes)
    }

    /// Returns whether the bytes may contain a text that mentions the address; has false positives.
    pub fn may_match(&self, bytes: &[u8]) -> bool {
        self.plain_pattern.is_match(bytes) || self.matches_encoded(bytes)
    }

    /// Replaces the address in a text with `name`; `None` if the text does not mention it.
    pub fn replace(&self, text: &str, name: &str) -> Option<String> {
        let bytes = text.as_bytes();
        let (mut changed, mut done) = (Vec::with_capacity(bytes.len()), 0);
        let in_path_name = name.replace('@', "=");
        let written = self.plain_pattern.captures_iter(bytes).filter(|found| is_whole_address(bytes, found));
        let written = written.filter_map(|found| {
            Some((found.get(0)?.range(), if is_return_path(&found) { &*in_path_name } else { name }))
        });
        let encoded = self.base64_pattern.find_iter(bytes).filter(|run| self.matches_base64(run.as_bytes()));
        let mut found: Vec<_> = written.chain(encoded.map(|run| (run.range(), name))).collect();
        if found.is_empty() {
            return None;
        }
        found.sort_by_key(|(range, _)| range.start);
        for (range, name) in found {
            if range.start >= done {
                changed.extend_from_slice(&bytes[done..range.start]);
                changed.extend_from_slice(name.as_bytes());
            }
            done = done.max(range.end);
        }
        changed.extend_from_slice(&bytes[done..]);
        Some(String::from_utf8_lossy(&changed).into_owned())
    }

    /// Returns the folded address.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn matches_encoded(&self, bytes: &[u8]) -> bool {
        self.base64_pattern.find_iter(bytes).any(|run| self.matches_base64(run.as_bytes()))
    }

    /// Returns whether a run of base64 decodes to a text with the address. The start of the base64 is
    /// unknown, since a path may precede it.
    fn matches_base64(&self, run: &[u8]) -> bool {
        let alike = |byte: &u8| match byte {
            b'-' => Some(b'+'),
            b'_' => Some(b'/'),
            b'\r' | b'\n' => None,
            byte => Some(*byte),
        };
        let run: Vec<u8> = run.iter().filter_map(alike).collect();
        (0..4.min(run.len())).any(|start| {
            let rest = &run[start..];
            // A single remaining character of a group of four encodes nothing.
            let whole = rest.len() - usize::from(rest.len() % 4 == 1);
            let plain = LENIENT_BASE64.decode(&rest[..whole]).unwrap_or_default();
            self.plain_pattern.captures_iter(&plain).any(|found| is_whole_address(&plain, &found))
        })
    }
}

/// Returns the pattern of a local part: as it is, or in quotes and with unnecessary backslashes.
fn local_pattern(local: &str) -> String {
    let quoted = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let bare = match quoted {
        Some(quoted) => quoted.replace("\\\\", "\\").replace("\\\"", "\""),
        None => local.to_owned(),
    };
    let (quote, escape) = (
        format!("(?:{}|{})", encodings_of('"'), r#"\\""#),
        format!("(?:(?:{}){GAP_PATTERN}){{0,2}}", encodings_of('\\')),
    );
    let in_quotes =
        format!("{quote}{GAP_PATTERN}{}{GAP_PATTERN}{quote}", composed_or_decomposed_pattern(&bare, &escape));
    if quoted.is_some() {
        in_quotes
    } else {
        format!("(?:{}|{in_quotes})", composed_or_decomposed_pattern(local, ""))
    }
}

/// Returns the pattern of a text as it is, or decomposed (NFD).
fn composed_or_decomposed_pattern(text: &str, before_each: &str) -> String {
    let decomposed = DecomposingNormalizerBorrowed::new_nfd().normalize(text);
    if decomposed == text {
        text_pattern(text, before_each)
    } else {
        format!("(?:{}|{})", text_pattern(text, before_each), text_pattern(&decomposed, before_each))
    }
}

fn text_pattern(text: &str, before_each: &str) -> String {
    let characters: Vec<_> =
        text.chars().map(|character| format!("{before_each}(?:{})", encodings_of(character))).collect();
    characters.join(GAP_PATTERN)
}

/// Returns the pattern of a dot between labels, including those that IDNA treats as one (RFC 3490 section
/// 3.1).
fn dot_pattern(is_ascii: bool) -> String {
    if is_ascii {
        return text_pattern(".", "");
    }
    let dots: Vec<_> = ['.', '\u{3002}', '\u{ff0e}', '\u{ff61}'].map(encodings_of).into();
    format!("(?:{})", dots.join("|"))
}

/// Returns the pattern of all encodings of a character.
fn encodings_of(character: char) -> String {
    let mut encodings = regex::escape(&character.to_string());
    for one in character.to_lowercase().chain(character.to_uppercase()) {
        let mut bytes = [0; 4];
        let bytes = one.encode_utf8(&mut bytes).as_bytes();
        for (before, behind) in [("%(?:25)*", ""), ("=", ""), (r"\+", ""), (r"\\x\{", r"\}")] {
            encodings.push('|');
            for byte in bytes {
                // Writing to a string does not fail.
                let _ = write!(encodings, "{before}{byte:02X}{behind}");
            }
        }
        let mut units = [0; 2];
        encodings.push('|');
        for unit in one.encode_utf16(&mut units) {
            let _ = write!(encodings, r"\\u{unit:04x}");
        }
    }
    encodings
}

/// Returns whether a match is a whole address, not the end or the beginning of another.
fn is_whole_address(bytes: &[u8], found: &Captures<'_>) -> bool {
    let Some(all) = found.get(0) else { return false };
    let in_path = is_return_path(found);
    let part_of_local = |byte: u8| match byte {
        // bounces+ada=example.net, bounces-ada=example.net
        b'+' | b'-' => !in_path,
        byte => byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_') || !byte.is_ascii(),
    };
    let (before, behind) = (&bytes[..all.start()], &bytes[all.end()..]);
    let next =
        |place: usize| behind.get(place).is_some_and(|byte| byte.is_ascii_alphanumeric() || !byte.is_ascii());
    let goes_on =
        next(0) || matches!(behind.first(), Some(b'-' | b'_')) || (behind.first() == Some(&b'.') && next(1));
    !last_character(before).is_some_and(part_of_local) && !goes_on
}

/// Returns whether the match has `=` for `@`.
fn is_return_path(found: &Captures<'_>) -> bool {
    found.get(1).is_some_and(|at| matches!(at.as_bytes(), b"=" | b"=3D" | b"%3D" | b"=3d" | b"%3d"))
}

/// Returns the last character, which may be encoded.
fn last_character(before: &[u8]) -> Option<u8> {
    let hex = |digits: &[u8]| {
        std::str::from_utf8(digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok())
    };
    match before {
        [.., b'%' | b'=', high, low] if hex(&[*high, *low]).is_some() => hex(&[*high, *low]),
        [.., b'\\', b'u', b'0', b'0', high, low] if hex(&[*high, *low]).is_some() => hex(&[*high, *low]),
        // Escapes in JSON, such as the end of a line.
        [.., b'\\', b'n' | b'r' | b't' | b'b' | b'f'] => Some(b'\n'),
        [.., byte] => Some(*byte),
        [] => None,
    }
}

/// Pattern between two characters: a soft line break, or the other half of UTF-16.
const GAP_PATTERN: &str = r"(?:=\r?\n|\x00)?";
/// Maximum size of the compiled pattern, in bytes: the longest address in all its spellings.
const MAX_PATTERN_BYTES: usize = 64 << 20;
const LENIENT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

    fn matcher_for(address: &str) -> AddressMatcher {
        AddressMatcher::new(&address.parse().unwrap()).unwrap()
    }

    #[test]
    fn matches_every_encoding() {
        let ada = matcher_for("ada+x@Example.net");
        let utf16: Vec<u8> = "<Ada+x@example.net>".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let line = BASE64_STANDARD.encode("Dear Ada, you are ada+x@example.net to us.");
        let lines = format!("base64\r\n\r\n{}\r\n{}\r\n", &line[..20], &line[20..]);
        let path = format!("https://x.test/c/{}", BASE64_URL_SAFE_NO_PAD.encode("1|ada+x@example.net|?"));
        for text in [
            "ada+x@example.net",
            "to <ADA+X@EXAMPLE.NET>, and others.",
            "mailto:ada+x@example.net.",
            "email=ada%2Bx%40example.net&x=1",
            "%3Cada%2bx%40example%2Enet%3E",
            "https://x.test/?to=ada%252Bx%2540example.net",
            "rfc822;ada+2Bx@example.net",
            "ada=2Bx=40exam=\r\nple.net=3E",
            r"\u003cada\u002bx\u0040example.net\u003e",
            r#"{"text":"hello\nada+x@example.net\n"}"#,
            "bounces-7-ada+x=example.net@mg.example.com",
            &path,
            &lines,
        ] {
            assert!(ada.matches(text.as_bytes()) && ada.may_match(text.as_bytes()), "{text}");
        }
        assert!(ada.matches(&utf16));
        let umlaut = matcher_for("jürgen@example.net");
        for text in ["JÜRGEN@example.net", "j%C3%BCrgen@example.net", r"j\u00fcrgen@example.net"] {
            assert!(umlaut.matches(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn matches_every_spelling() {
        for written in ["jürgen@Bücher.example", "\"ju\u{308}rgen\"@xn--bcher-kva.example."] {
            let address = matcher_for(written);
            for text in [
                "JÜRGEN@bücher.example",
                "to <ju\u{308}rgen@bu\u{308}cher.example.>",
                "jürgen@XN--BCHER-KVA.example",
                "\"jürgen\"@bücher.example",
                r#"{"email":"\"jürgen\"@bücher.example"}"#,
                r"j\u00fcrgen@b\u00fccher.example",
                "j%C3%BCrgen%40b%C3%BCcher.example",
                "jürgen@bücher。example",
                "bounces+jürgen=xn--bcher-kva.example@mg.example.com",
            ] {
                assert!(
                    address.matches(text.as_bytes()) && address.may_match(text.as_bytes()),
                    "{written} {text}"
                );
                assert!(
                    address.replace(text, "x@invalid").is_some_and(|text| !text.contains("rgen")),
                    "{text}"
                );
            }
            for text in ["jurgen@bücher.example", "jürgen@bucher.example", "jürgen@bücher.example.net"] {
                assert!(!address.matches(text.as_bytes()), "{text}");
            }
        }
        let odd = matcher_for("\"a b\\\"c\"@example.net");
        assert!(
            odd.matches(b"<\"a b\\\"c\"@example.net>") && odd.matches(b"<\"\\a\\ b\\\"\\c\"@example.net>")
        );
        assert!(!odd.matches(b"<a b\"c@example.net>"));
        let long = format!("{}@{}.example", "ü".repeat(100), "ä".repeat(60));
        assert!(matcher_for(&long).matches(long.as_bytes()), "the longest");
    }

    #[test]
    fn ignores_longer_addresses() {
        let ada = matcher_for("ada@example.net");
        for text in [
            "canada@example.net",
            "bob.ada@example.net",
            "bob+ada@example.net",
            "bob%2Bada%40example.net",
            "ada@example.network",
            "ada@example.net.test",
            "ada@example.net-x.test",
            "ada+tag@example.net",
            "ada at example.net",
        ] {
            assert!(!ada.matches(text.as_bytes()), "{text}");
            assert_eq!(ada.replace(text, "x"), None, "{text}");
        }
        assert!(AddressMatcher::new(&"postmaster".parse().unwrap()).is_none());
    }

    #[test]
    fn replaces_every_occurrence_only() {
        let ada = matcher_for("ada@example.net");
        let token = BASE64_URL_SAFE_NO_PAD.encode("ada@example.net");
        for (text, expected) in [
            ("ada@example.net".to_owned(), "erased@invalid"),
            (
                "550 <Ada@example.net>,ada@example.net: not canada@example.net".into(),
                "550 <erased@invalid>,erased@invalid: not canada@example.net",
            ),
            ("https://x.test/?e=ada%40example.net&n=1".into(), "https://x.test/?e=erased@invalid&n=1"),
            (format!("https://x.test/?e={token}&n=1"), "https://x.test/?e=erased@invalid&n=1"),
            ("bounces+ada=example.net@mg.example.com".into(), "bounces+erased=invalid@mg.example.com"),
        ] {
            assert_eq!(ada.replace(&text, "erased@invalid").as_deref(), Some(expected));
        }
    }
}
