use icu_normalizer::ComposingNormalizerBorrowed;
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// An address of the envelope: `local-part@domain` (RFC 5321 section 4.1.2, RFC 6531 section 3.3), kept as it was
/// written. `postmaster` without a domain is one too.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Mailbox(Box<str>);

impl Mailbox {
    /// The address as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the part before the last `@`.
    pub fn local_part(&self) -> &str {
        self.0.rsplit_once('@').map_or(&self.0, |(local, _)| local)
    }

    /// Returns the part after the last `@`; empty for a bare `postmaster`.
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }

    /// The one form that all spellings of the address have, for comparing: see [`fold_address`].
    pub fn to_folded(&self) -> String {
        fold_address(&self.0)
    }

    /// Whether it can travel without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.0.is_ascii()
    }

    /// As it travels without SMTPUTF8 (RFC 6531 section 3.2): with its domain in A-labels (RFC 5890 section 2.3.2.1);
    /// `None` where its local part needs SMTPUTF8.
    pub fn to_ascii(&self) -> Option<Self> {
        if self.is_ascii() {
            return Some(self.clone());
        }
        let domain = idna::domain_to_ascii(self.domain()).ok()?;
        self.local_part().is_ascii().then(|| Self(format!("{}@{domain}", self.local_part()).into()))
    }

    /// Whether it fits `pattern`: an address, `*@domain`, `*@*.domain` or `*`, however either is spelled.
    pub fn matches_pattern(&self, pattern: &str) -> bool {
        let folded = self.to_folded();
        if address_matches_pattern(&folded, &fold_address(pattern)) {
            return true;
        }
        // A part of a label has no A-label form.
        !pattern.is_ascii()
            && address_matches_pattern(&domain_to_unicode(&folded), &normalize_nfc(&pattern.to_lowercase()))
    }
}

fn address_matches_pattern(address: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => address == pattern,
        Some(("", "")) => true,
        Some((head, tail)) => match tail.split_once('*') {
            None => {
                address.len() >= head.len() + tail.len()
                    && address.starts_with(head)
                    && address.ends_with(tail)
            }
            Some((middle, end)) => address
                .strip_prefix(head)
                .and_then(|rest| rest.strip_suffix(end))
                .is_some_and(|rest| rest.contains(middle)),
        },
    }
}

/// The canonical form of an address, the same for all its spellings: the domain as [`fold_domain`] writes it, the local
/// part in lower case (providers and Odoo compare so), in Unicode's composed form (NFC) and without needless quotes and
/// backslashes (RFC 5322 section 3.4.1). Texts that are no address keep a form in lower case.
pub fn fold_address(text: &str) -> String {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return normalize_nfc(&text.to_lowercase()).into_owned();
    };
    format!("{}@{}", fold_local_part(local), fold_domain(domain))
}

/// The canonical form of a domain: in A-labels (RFC 5890 section 2.3.2.1), in lower case, without a final dot. Domains
/// that IDNA (UTS #46) forbids keep their letters.
pub fn fold_domain(domain: &str) -> String {
    let folded = if domain.is_ascii() {
        domain.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii(domain).unwrap_or_else(|_| normalize_nfc(&domain.to_lowercase()).into_owned())
    };
    folded.strip_suffix('.').map(str::to_owned).unwrap_or(folded)
}

/// A folded address with its domain in U-labels.
pub fn domain_to_unicode(folded: &str) -> Cow<'_, str> {
    match folded.rsplit_once('@') {
        Some((local, domain)) if domain.contains("xn--") => {
            Cow::Owned(format!("{local}@{}", idna::domain_to_unicode(domain).0))
        }
        _ => Cow::Borrowed(folded),
    }
}

/// Whether an address, in any spelling, has `part` in it.
pub fn address_contains(address: &str, part: &str) -> bool {
    let folded = fold_address(address);
    folded.contains(&fold_address(part))
        || domain_to_unicode(&folded).contains(&*normalize_nfc(&part.to_lowercase()))
}

/// Returns whether two folded addresses may be one that was rewritten: without its tag or dots, with another domain, or
/// with letters that a charset lost.
pub fn may_be_rewritten(one: &str, other: &str) -> bool {
    let bare = |local: &str| local.split('+').next().unwrap_or_default().replace('.', "");
    let damaged = |local: &str| !local.is_ascii() || local.contains(['?', '%']);
    match (one.rsplit_once('@'), other.rsplit_once('@')) {
        (Some((one, there)), Some((other, here))) => {
            bare(one) == bare(other) || (there == here && (damaged(one) || damaged(other)))
        }
        _ => false,
    }
}

fn fold_local_part(local: &str) -> String {
    let folded = normalize_nfc(&local.to_lowercase()).into_owned();
    let quoted = folded.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let Some(quoted) = quoted.filter(|_| is_valid_local_part(&folded)) else { return folded };
    let (mut plain, mut escaped) = (String::with_capacity(quoted.len()), false);
    for c in quoted.chars() {
        escaped = !escaped && c == '\\';
        plain.extend((!escaped).then_some(c));
    }
    if !plain.is_empty() && is_valid_local_part(&plain) {
        return plain;
    }
    format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""))
}

fn normalize_nfc(text: &str) -> Cow<'_, str> {
    ComposingNormalizerBorrowed::new_nfc().normalize(text)
}

/// Error of parsing an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseMailboxError {
    /// Empty text.
    #[error("the address is empty")]
    Empty,
    /// Longer than 255 bytes before or after the `@`. RFC 5321 section 4.5.3.1.1 limits the local part to 64, which
    /// reply and bounce addresses with tokens exceed.
    #[error("the address is too long")]
    TooLong,
    /// No `@`, or nothing before or after it.
    #[error("the address lacks its local part or its domain")]
    MissingPart,
    /// A control character, an unquoted blank or a bracket.
    #[error("the address holds a character that is not allowed there")]
    InvalidCharacter,
}

impl FromStr for Mailbox {
    type Err = ParseMailboxError;

    fn from_str(text: &str) -> Result<Self, ParseMailboxError> {
        if text.is_empty() {
            return Err(ParseMailboxError::Empty);
        }
        if text.chars().any(char::is_control) {
            return Err(ParseMailboxError::InvalidCharacter);
        }
        if text.eq_ignore_ascii_case("postmaster") {
            return Ok(Self(text.into()));
        }
        let (local, domain) = text.rsplit_once('@').ok_or(ParseMailboxError::MissingPart)?;
        if local.is_empty() || domain.is_empty() {
            return Err(ParseMailboxError::MissingPart);
        }
        if local.len() > MAX_LOCAL_PART_BYTES || domain.len() > MAX_DOMAIN_BYTES {
            return Err(ParseMailboxError::TooLong);
        }
        if !(is_valid_local_part(local) && is_valid_domain(domain)) {
            return Err(ParseMailboxError::InvalidCharacter);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn is_valid_local_part(local: &str) -> bool {
    match local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => {
            let mut escaped = false;
            let plain = quoted.chars().all(|c| {
                let fine = escaped || c != '"';
                escaped = !escaped && c == '\\';
                fine
            });
            plain && !escaped
        }
        None => !local.chars().any(|c| c.is_whitespace() || "<>()[]@:;,\\\"".contains(c)),
    }
}

/// Returns whether the text is a host name or an address literal in brackets; the resolver checks the rest.
fn is_valid_domain(domain: &str) -> bool {
    let literal = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let inner = literal.unwrap_or(domain);
    let forbidden =
        |c: char| c.is_whitespace() || "<>()[]@;,\\\"".contains(c) || (c == ':' && literal.is_none());
    !inner.is_empty() && !inner.contains(forbidden)
}

const MAX_LOCAL_PART_BYTES: usize = 255;
const MAX_DOMAIN_BYTES: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preserves_the_written_form() {
        for text in [
            "ada@example.net",
            "\"odd name\"@example.net",
            "\"a@b\"@example.net",
            "a+b@[127.0.0.1]",
            "a@[IPv6:::1]",
            "Postmaster",
            "jiří@bücher.example",
        ] {
            assert_eq!(text.parse::<Mailbox>().map(|m| m.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn rejects_addresses_with_line_breaks() {
        for text in [
            "",
            "ada",
            "@b",
            "a@",
            "a b@c",
            "a@b c",
            "a\r\n@b",
            "a@b\0",
            "a>@b",
            "\"a\"b\"@c",
            "\"a\\\"@c",
            "@a@b",
            "a@b@c",
            "a@b:25",
        ] {
            assert!(text.parse::<Mailbox>().is_err(), "{text:?}");
        }
        assert_eq!(
            format!("{}@example.net", "a".repeat(256)).parse::<Mailbox>(),
            Err(ParseMailboxError::TooLong)
        );
    }

    #[test]
    fn folds_every_spelling_to_one_form() {
        for (folded, spellings) in [
            (
                "jörg@xn--bcher-kva.example",
                &[
                    "Jörg@Bücher.example",
                    "jo\u{308}rg@bu\u{308}cher.EXAMPLE.",
                    "\"jörg\"@xn--bcher-kva.example",
                ][..],
            ),
            (
                "a.b+c@example.net",
                &["A.B+C@Example.NET.", "\"a.b+c\"@example.net", "\"a\\.b\\+c\"@example.net"],
            ),
            ("\"a b\"@example.net", &["\"A B\"@example.net", "\"a\\ b\"@example.net."]),
            ("\"a\\\"\\\\b\"@example.net", &["\"A\\\"\\\\\\B\"@example.net"]),
            ("\"a@b\"@example.net", &["\"a\\@b\"@example.net"]),
            ("\"\"@example.net", &["\"\"@example.net"]),
            ("a@[ipv6:::1]", &["A@[IPv6:::1]"]),
            ("a@example.net", &["a@ｅxample。net", "a@exam\u{ad}ple.net"]),
            ("postmaster", &["Postmaster"]),
        ] {
            for spelling in spellings.iter().chain([&folded]) {
                let address: Mailbox = spelling.parse().unwrap();
                assert_eq!(address.to_folded(), folded, "{spelling}");
                assert!(
                    address.matches_pattern(folded)
                        && folded.parse::<Mailbox>().unwrap().matches_pattern(spelling),
                    "{spelling}"
                );
                assert!(
                    address_contains(spelling, folded) && address_contains(folded, spelling),
                    "{spelling}"
                );
            }
        }
        // Names that IDNA forbids are kept as they are and are still addresses.
        for odd in [
            "a@xn--zzzzzzzz99999.example",
            "a@-x-.example",
            "a@ü\u{200d}.example",
            "a@\u{300}x.example",
            "a@a..b",
        ] {
            let address: Mailbox = odd.parse().unwrap();
            assert_eq!(address.to_folded(), fold_address(&address.to_folded()), "{odd}");
            assert_eq!(
                odd.to_uppercase().parse::<Mailbox>().unwrap().to_folded(),
                address.to_folded(),
                "{odd}"
            );
        }
        assert_ne!(fold_address("ada@straße.example"), fold_address("ada@strasse.example"));
        assert_ne!(fold_address("ada.b@example.net"), fold_address("adab@example.net"));
    }

    #[test]
    fn patterns_match_every_spelling() {
        let ada: Mailbox = "ada@mail.bücher.example".parse().unwrap();
        for pattern in [
            "*@*.bücher.example",
            "*@*.xn--bcher-kva.example",
            "*@mail.BU\u{308}CHER.example.",
            "*@*bücher.example",
            "ada@*",
            "\"ada\"@mail.xn--bcher-kva.example",
        ] {
            assert!(ada.matches_pattern(pattern), "{pattern}");
            assert!(ada.to_folded().parse::<Mailbox>().unwrap().matches_pattern(pattern), "{pattern}");
        }
        assert!(!ada.matches_pattern("*@bücher.example") && !ada.matches_pattern("*@*.bucher.example"));
        assert!(
            address_contains("ada@xn--bcher-kva.example", "Bücher")
                && !address_contains("ada@example.net", "ü")
        );
    }

    #[test]
    fn converts_domains_to_a_labels() {
        for (text, expected) in [
            ("ada@example.net", Some("ada@example.net")),
            ("Ada@B\u{fc}cher.Example", Some("Ada@xn--bcher-kva.example")),
            ("\"a b\"@\u{3b2}.example", Some("\"a b\"@xn--nxa.example")),
            ("ji\u{159}\u{ed}@example.net", None),
            ("ji\u{159}\u{ed}@b\u{fc}cher.example", None),
            ("ada@\u{2260}\u{301}\u{ad}-.\u{fffd}", None),
        ] {
            let address: Mailbox = text.parse().unwrap();
            assert_eq!(address.to_ascii().as_ref().map(Mailbox::as_str), expected, "{text}");
        }
    }

    #[test]
    fn patterns_match_whole_addresses() {
        let ada: Mailbox = "Ada@mg.Example.com".parse().unwrap();
        for pattern in ["*", "*@mg.example.com", "ada@mg.example.com", "*@*.example.com", "ada@*"] {
            assert!(ada.matches_pattern(pattern), "{pattern}");
        }
        for pattern in ["*@example.com", "bob@*", "ada@mg.example.co", "", "*@*.net"] {
            assert!(!ada.matches_pattern(pattern), "{pattern}");
        }
    }
}
