//! Texts that providers and remote servers wrote, as we keep them.

use sha2::{Digest, Sha256};

/// A text for people: one line of at most `cap` bytes, never empty.
pub fn clip_line(text: &str, cap: usize) -> Option<String> {
    let text = text.trim();
    let text = &text[..text.floor_char_boundary(cap)];
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    (!text.is_empty()).then_some(text)
}

/// What follows `prefix`, which may be written in other letters' cases.
pub fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// An address as it was written. It is used whole or not at all: a shortened one would be another.
pub fn parse_address(text: &str) -> Option<String> {
    let address = text.trim();
    let fine = !address.is_empty() && address.len() <= MAX_KEY_BYTES && !address.contains(char::is_control);
    fine.then(|| address.to_owned())
}

/// Returns the first SMTP reply code (RFC 5321 section 4.2) in a text: as a word, or as `550-` before one.
pub fn find_reply_code(text: &str) -> Option<u16> {
    split_words(text).find_map(|word| {
        let (code, rest) = word.split_at_checked(3)?;
        let alone = rest.is_empty() || rest.starts_with(['-', ':', ' ']);
        code.parse().ok().filter(|code| alone && matches!(code, 200..300 | 400..600))
    })
}

/// Returns the first enhanced status `x.y.z` (RFC 3463 section 2) at its regular position: at the beginning, after a
/// reply code or after a colon. A mention elsewhere does not count.
pub fn find_enhanced_status(text: &str) -> Option<String> {
    let mut in_place = true;
    for raw in text.split_whitespace() {
        for word in trim_punctuation(raw).split(['-', '#', ';', ':']).filter(|word| !word.is_empty()) {
            if in_place && is_enhanced_status(word) {
                return Some(word.to_owned());
            }
            in_place = word.len() == 3 && find_reply_code(word).is_some();
        }
        in_place |= raw.ends_with([':', ';']);
    }
    None
}

fn is_enhanced_status(word: &str) -> bool {
    let mut parts = word.split('.');
    let class = matches!(parts.next(), Some("2" | "4" | "5"));
    let numeric = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    class && parts.clone().count() == 2 && parts.all(numeric)
}

fn split_words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace().map(trim_punctuation)
}

fn trim_punctuation(word: &str) -> &str {
    word.trim_matches(['(', ')', '[', ']', ',', ';', ':', '<', '>', '"', '\''])
}

/// Hashes several parts, each with its length, so that moving bytes between them changes the hash.
pub fn hash_parts(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of a server's text.
pub const MAX_TEXT_BYTES: usize = 1024;
/// Bytes of a link.
pub const MAX_URL_BYTES: usize = 2048;
/// Maximum bytes of a word, status or host name.
pub const MAX_TOKEN_BYTES: usize = 255;
/// Bytes of what names something.
pub const MAX_KEY_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_codes_in_server_texts() {
        for (text, code, enhanced) in [
            ("550-5.1.1 The mailbox does not exist.\n550 5.1.1 Learn more", Some(550), Some("5.1.1")),
            ("452 4.2.2 mailbox over quota", Some(452), Some("4.2.2")),
            ("4.7.0 Try again later", None, Some("4.7.0")),
            ("host mx.example.net[192.0.2.250] said: 554 5.7.1 <a@b>: refused", Some(554), Some("5.7.1")),
            ("smtp;550 #5.1.0 Address rejected", None, Some("5.1.0")),
            ("rejected (550 5.7.26)", Some(550), Some("5.7.26")),
            ("Status: 5.1.1; no such user", None, Some("5.1.1")),
            ("550 looks like spam, see RFC 3463 5.1.1", Some(550), None),
            ("550 blocked as 5.1.1 was often the answer", Some(550), None),
            ("at 192.0.2.250, 5501 times, 350 a day, 6.1.1, 5.1.1.1, 5.1", None, None),
            ("", None, None),
        ] {
            assert_eq!(
                (find_reply_code(text), find_enhanced_status(text).as_deref()),
                (code, enhanced),
                "{text}"
            );
        }
    }

    #[test]
    fn hashes_parts_separately() {
        assert_eq!(hash_parts(&["ab", "c"]), hash_parts(&["ab", "c"]));
        assert_ne!(hash_parts(&["ab", "c"]), hash_parts(&["a", "bc"]));
        assert_ne!(hash_parts(&["ab"]), hash_parts(&["ab", ""]));
    }

    #[test]
    fn never_panics_on_arbitrary_text() {
        let mut random = fastrand::Rng::with_seed(5);
        let pieces = ["550", "-", "5.1.1", " ", "é", "\n", "(", "5.", "\u{2003}", "55é"];
        for _ in 0..20_000 {
            let text: String =
                (0..random.usize(..12)).map(|_| pieces[random.usize(..pieces.len())]).collect();
            let (code, status) = (find_reply_code(&text), find_enhanced_status(&text));
            assert!(code.is_none_or(|code| text.contains(&code.to_string())), "{text:?}");
            assert!(status.is_none_or(|status| text.contains(&status)), "{text:?}");
            assert!(clip_line(&text, random.usize(..20)).is_none_or(|line| !line.contains(char::is_control)));
        }
    }
}
