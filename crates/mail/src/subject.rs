use crate::header::HeaderSection;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_STANDARD;
use base64::{Engine as _, alphabet};
use encoding_rs::{Encoding, ISO_2022_JP, WINDOWS_1252};
use mail_parser::{HeaderName, MessageParser, MimeHeaders};
use regex::bytes::{Captures, Regex};
use std::borrow::Cow;
use std::sync::LazyLock;

/// The subject that a header section names, decoded, its first 200 characters; empty where there is none.
pub fn decode_subject(header: &[u8]) -> String {
    let Some(field) = HeaderSection::with_end(header, header.len()).find_field("Subject") else {
        return String::new();
    };
    let line =
        [b"Subject:", &*join_encoded_words(&decode_bare_bytes(field.value, header)), b"\r\n\r\n"].concat();
    let parser = MessageParser::new().header_text(HeaderName::Subject).default_header_ignore();
    let parsed = parser.parse_headers(&line);
    let subject = parsed.as_ref().and_then(|message| message.subject()).unwrap_or_default();
    subject.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_SUBJECT_CHARS).collect()
}

/// Unencoded text in a header is UTF-8, or in the charset of the body.
fn decode_bare_bytes<'a>(value: &'a [u8], header: &[u8]) -> Cow<'a, [u8]> {
    let decoded =
        |charset: &'static Encoding| charset.decode_without_bom_handling(value).0.into_owned().into_bytes();
    if memchr::memmem::find(value, ISO_2022_JP_SHIFT).is_some() {
        Cow::Owned(decoded(ISO_2022_JP))
    } else if std::str::from_utf8(value).is_ok() {
        Cow::Borrowed(value)
    } else {
        let parser = MessageParser::new().with_mime_headers().default_header_ignore();
        let parsed = parser.parse_headers(header);
        let charset = parsed.as_ref().and_then(|message| message.content_type()?.attribute("charset"));
        let charset = charset.and_then(|charset| Encoding::for_label(charset.as_bytes()));
        // A charset that falsely claims UTF-8 mostly comes from a Windows program.
        Cow::Owned(decoded(charset.filter(|charset| *charset != encoding_rs::UTF_8).unwrap_or(WINDOWS_1252)))
    }
}

/// Joins adjacent encoded words (RFC 2047) of the same charset: programs that split bytes instead of characters leave a
/// part of a character in each.
fn join_encoded_words(value: &[u8]) -> Cow<'_, [u8]> {
    ENCODED_WORD_RUN.replace_all(value, |run: &Captures<'_>| {
        let mut joined: Vec<(&[u8], Vec<u8>)> = Vec::new();
        for word in ENCODED_WORD.captures_iter(&run[0]) {
            let (charset, [encoding, text]) =
                (word.get(1).map_or(&b""[..], |charset| charset.as_bytes()), [&word[2], &word[3]]);
            let bytes =
                if encoding.eq_ignore_ascii_case(b"B") { decode_base64(text) } else { decode_quoted(text) };
            match joined.last_mut().filter(|(last, _)| last.eq_ignore_ascii_case(charset)) {
                Some((_, last)) => last.extend(bytes),
                None => joined.push((charset, bytes)),
            }
        }
        let words = joined.into_iter().map(|(charset, bytes)| {
            [b"=?", charset, b"?B?", BASE64_STANDARD.encode(bytes).as_bytes(), b"?="].concat()
        });
        words.collect::<Vec<_>>().join(&b' ')
    })
}

fn decode_base64(text: &[u8]) -> Vec<u8> {
    let plain: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    LENIENT_BASE64.decode(&plain).unwrap_or_default()
}

/// RFC 2047 section 4.2.
fn decode_quoted(text: &[u8]) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text);
    while let [first, behind @ ..] = rest {
        let pair =
            behind.get(..2).and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        match (first, pair) {
            (b'=', Some(byte)) => {
                bytes.push(byte);
                rest = &behind[2..];
                continue;
            }
            (b'_', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
        rest = behind;
    }
    bytes
}

/// Characters of a subject that are kept.
const MAX_SUBJECT_CHARS: usize = 200;
/// How Japanese begins in ISO-2022-JP, which has no byte above 127.
const ISO_2022_JP_SHIFT: &[u8] = b"\x1b$";

const LENIENT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// An encoded word: its charset without a language (RFC 2231 section 5), its encoding, its text.
static ENCODED_WORD: LazyLock<Regex> =
    LazyLock::new(|| compile_regex(r"=\?([^?*\s]+)(?:\*[^?\s]*)?\?([bBqQ])\?([^?]*)\?="));
/// Two or more encoded words with only white space between them.
static ENCODED_WORD_RUN: LazyLock<Regex> = LazyLock::new(|| {
    let word = r"=\?[^?*\s]+(?:\*[^?\s]*)?\?[bBqQ]\?[^?]*\?=";
    compile_regex(&format!(r"{word}(?:\s+{word})+"))
});

fn compile_regex(pattern: &str) -> Regex {
    Regex::new(&format!("(?-u){pattern}")).expect("the pattern is one")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_value(value: &[u8]) -> String {
        decode_subject(&[b"Subject: ", value, b"\r\n"].concat())
    }

    #[test]
    fn decodes_east_asian_subjects() {
        for (value, expected) in [
            ("=?ISO-2022-JP?B?GyRCQEE1YT1xGyhC?= 7", "請求書 7"),
            ("=?Shift_JIS?B?kL+LgY+R?=", "請求書"),
            ("=?EUC-JP?Q?=C0=C1=B5=E1=BD=F1?=", "請求書"),
            ("=?EUC-KR?B?w7uxuLytIDc=?=", "청구서 7"),
            ("=?ks_c_5601-1987?B?w7uxuLyt?=", "청구서"),
            ("=?GB2312?B?t6LGsQ==?=", "发票"),
            ("=?gb18030?B?t6LGsQ==?=", "发票"),
            ("=?GBK?Q?=B7=A2=C6=B1?=", "发票"),
            ("=?Big5?B?tW+yvA==?=", "發票"),
            ("=?koi8-r?B?897F1A==?=", "Счет"),
            ("=?windows-1252?Q?Rechnung_=80_7?=", "Rechnung € 7"),
        ] {
            assert_eq!(decode_value(value.as_bytes()), expected, "{value}");
        }
    }

    /// Programs that split bytes, not characters, into words.
    #[test]
    fn joins_characters_split_over_two_words() {
        for (value, expected) in [
            (
                "=?UTF-8?B?UmVjaG51bmcgw7w=?=\r\n =?UTF-8?B?YmVyIMM=?=\r\n =?UTF-8?B?pHB0?=",
                "Rechnung über äpt",
            ),
            ("=?utf-8?Q?gr=C3?= =?UTF-8?q?=BC=C3=9F?=\r\n\t=?utf-8?Q?e_an?= alle", "grüße an alle"),
            ("=?utf-8?B?4oI=?= =?utf-8?Q?=AC_7?=", "€ 7"),
            ("=?Shift_JIS?B?kL+L?=\r\n =?shift_jis?B?gY+R?=", "請求書"),
            ("=?ISO-2022-JP?B?GyRCQEE1?=\r\n =?ISO-2022-JP?B?YT1xGyhC?=", "請求書"),
            ("=?utf-8*en?Q?gr=C3?= =?utf-8?Q?=BC?=", "grü"),
            ("Re: =?utf-8?Q?a?= =?iso-8859-1?Q?=FC?= b =?utf-8?Q?c?=", "Re: aü b c"),
            ("=?utf-8?Q?a?= and =?utf-8?Q?b?=", "a and b"),
        ] {
            assert_eq!(decode_value(value.as_bytes()), expected, "{value}");
        }
    }

    /// Programs that write their characters as they have them.
    #[test]
    fn decodes_bare_bytes_in_the_body_charset() {
        let header = |charset: &str, value: &[u8]| {
            let kind = format!("\r\nContent-Type: text/plain; charset={charset}\r\n");
            decode_subject(&[b"Subject: ", value, kind.as_bytes()].concat())
        };
        assert_eq!(header("utf-8", "grüße".as_bytes()), "grüße");
        assert_eq!(header("utf-8", b"gr\xfc\xdfe"), "grüße");
        assert_eq!(header("\"Shift_JIS\"", b"\x90\xbf\x8b\x81\x8f\x91"), "請求書");
        assert_eq!(header("gb2312", b"\xb7\xa2\xc6\xb1"), "发票");
        assert_eq!(header("windows-1251", b"\xd1\xf7\xe5\xf2"), "Счет");
        assert_eq!(decode_value(b"\x80 7"), "€ 7");
        assert_eq!(decode_value(b"\x1b$B@A5a=q\x1b(B 7"), "請求書 7");
    }
}
