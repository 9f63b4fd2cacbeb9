//! `List-Unsubscribe` (RFC 2369) as Odoo writes it: a long URL in encoded words (RFC 2047), which the field does not
//! allow.

use mail_parser::{HeaderName, MessageParser};

/// Decodes a `List-Unsubscribe` field that consists of encoded words with nothing but well-formed URLs in brackets,
/// into one line. `None` for any other field, which may be correct or beyond repair. `value` follows the field's colon.
pub fn decode_list_unsubscribe(value: &[u8]) -> Option<String> {
    let encoded = |word: &str| word.len() > 6 && word.starts_with("=?") && word.ends_with("?=");
    let mut words = std::str::from_utf8(value).ok()?.split_ascii_whitespace().peekable();
    words.peek()?;
    if !words.all(encoded) {
        return None;
    }
    let field = [b"List-Unsubscribe:", value, b"\r\n\r\n"].concat();
    let parser = MessageParser::new().header_text(HeaderName::ListUnsubscribe).default_header_ignore();
    let message = parser.parse_headers(&field)?;
    let text = message.headers().first()?.value.as_text()?;
    let addresses: Vec<_> = text.split(',').map(angle_addr).collect::<Option<_>>()?;
    let line = addresses.iter().map(|address| format!("<{address}>")).collect::<Vec<_>>().join(", ");
    (line.len() <= MAX_VALUE_CHARS).then_some(line)
}

/// The address in brackets, if it is a web or mail address of characters that RFC 3986 allows.
fn angle_addr(text: &str) -> Option<&str> {
    let address = text.trim().strip_prefix('<')?.strip_suffix('>')?;
    let rest = URI_SCHEMES.iter().find_map(|scheme| address.strip_prefix(scheme))?;
    let named = rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[');
    (named && is_valid_uri_text(address.as_bytes())).then_some(address)
}

fn is_valid_uri_text(address: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+;=".contains(byte);
    let mut at = 0;
    while at < address.len() {
        at += match address[at] {
            b'%' if address[at + 1..].iter().take(2).filter(|byte| byte.is_ascii_hexdigit()).count() == 2 => {
                3
            }
            byte if plain(&byte) => 1,
            _ => return false,
        };
    }
    true
}

const URI_SCHEMES: [&str; 3] = ["https://", "http://", "mailto:"];
/// Characters of a line, without the field's name (RFC 5322 section 2.1.1).
const MAX_VALUE_CHARS: usize = 998 - "List-Unsubscribe: ".len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_encoded_addresses() {
        for (value, expected) in [
            (
                " =?utf-8?q?=3Chttps=3A//odoo=2Eexample=2Ecom/a=3Fb=3D1=26?=\r\n =?utf-8?q?c=3D2=2540d=3E?=",
                "<https://odoo.example.com/a?b=1&c=2%40d>",
            ),
            (" =?utf-8?b?PGh0dHBzOi8vYS5leGFtcGxlL3g+?=", "<https://a.example/x>"),
            (
                " =?utf-8?q?=3Cmailto=3Aa=40b=2Ec=3E=2C_=3Chttp=3A//d=2Ee/=3E?=",
                "<mailto:a@b.c>, <http://d.e/>",
            ),
        ] {
            assert_eq!(decode_list_unsubscribe(value.as_bytes()).as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn leaves_valid_and_undecodable_fields() {
        let long = format!(" =?utf-8?q?=3Chttps=3A//a=2Eb/{}=3E?=", "x".repeat(MAX_VALUE_CHARS));
        for value in [
            " <https://a.example/x>",
            "",
            " ",
            " =?utf-8?q?no_address?=",
            " =?utf-8?q?=3Chttps=3A//a=2Eb/=3E?= and more",
            " =?utf-8?q?=3Chttps=3A//a=2Eb/_c=3E?=",
            " =?utf-8?q?=3Chttps=3A//a=2Eb/=25zz=3E?=",
            " =?utf-8?q?=3Chttps=3A//a=2Eb/=25z?= =?utf-8?q?=3E?=",
            " =?utf-8?q?=3Chttps=3A//a=2Eb/=C3=BC=3E?=",
            " =?utf-8?q?=3Chttps=3A//=3E?=",
            " =?utf-8?q?=3Cjavascript=3Ax=3E?=",
            " =?utf-8?q?=3Chttps=3A//a=2Eb/=0D=0ABcc=3A_c=40d=3E?=",
            " =?utf-8?x?=3Chttps=3A//a=2Eb/=3E?=",
            " =?utf-8?q?=3Chttps=3A//a=2Eb/=3E=2C?=",
            &long,
        ] {
            assert_eq!(decode_list_unsubscribe(value.as_bytes()), None, "{value}");
        }
    }
}
