//! What a part of a form says about itself, however its program writes names: in UTF-8, in Latin-1, as RFC 2231 and RFC
//! 5987 have it, or in encoded words.

use axum::http::HeaderMap;
use encoding_rs::WINDOWS_1252;
use mail_parser::{MessageParser, MimeHeaders};
use std::borrow::Cow;

/// The `Content-Disposition` of a part.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ContentDisposition {
    /// The name of the form's field.
    pub name: Option<String>,
    /// The name of the file; empty where there is a parameter for it that says nothing.
    pub file_name: Option<String>,
}

impl ContentDisposition {
    /// Reads it; what it does not say is absent.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let Some(value) = headers.get("content-disposition") else { return Self::default() };
        let field = format!("Content-Disposition: {}\r\n\r\n", decode_text(value.as_bytes()));
        let parser = MessageParser::new().with_mime_headers().default_header_ignore();
        let parsed = parser.parse_headers(field.as_bytes());
        let Some(disposition) = parsed.as_ref().and_then(|message| message.content_disposition()) else {
            return Self::default();
        };
        let values = |name: &str| {
            let named = disposition.attributes().unwrap_or_default().iter().filter(move |a| a.name == name);
            named.map(|attribute| attribute.value.to_string()).collect::<Vec<_>>()
        };
        let (names, mut file_names) = (values("name"), values("filename"));
        // Beside a name in ASCII stands the whole one (RFC 6266 section 4.3).
        let whole = file_names.iter().position(|name| !name.is_ascii());
        let file_name = whole.map(|place| file_names.swap_remove(place)).or(file_names.pop());
        Self { name: names.into_iter().next(), file_name }
    }
}

/// What is not UTF-8 is Latin-1, with the characters that Windows has beside it.
fn decode_text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => WINDOWS_1252.decode_without_bom_handling(bytes).0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn parses_names_in_every_encoding() {
        let cases: [(&[u8], Option<&str>, Option<&str>); 17] = [
            (b"form-data; name=\"a\"", Some("a"), None),
            (b"form-data; name=a; filename=b.txt", Some("a"), Some("b.txt")),
            (b"FORM-DATA;NAME=\"a\";FILENAME=\"b.txt\"", Some("a"), Some("b.txt")),
            (b"form-data; filename=\"name=x\"; name=\"a\"", Some("a"), Some("name=x")),
            (b"form-data; name=\"a\"; filename=\"\"", Some("a"), None),
            (b"form-data; name=\"a\"; filename=\"b;c d.txt\"", Some("a"), Some("b;c d.txt")),
            (b"form-data; name=\"a\"; filename=\"\\\"b\\\".txt\"", Some("a"), Some("\"b\".txt")),
            (b"form-data; name=\"a\"; filename=\"\xc3\xa4.txt\"", Some("a"), Some("ä.txt")),
            (b"form-data; name=\"a\"; filename=\"\xe4.txt\"", Some("a"), Some("ä.txt")),
            (b"form-data; name=\"\xe4\"; filename=\"\x80.txt\"", Some("ä"), Some("€.txt")),
            (b"form-data; name=\"a\"; filename*=utf-8''%c3%a4.txt", Some("a"), Some("ä.txt")),
            (
                b"form-data; name=\"a\"; filename*=UTF-8''%C3%A4.txt; filename=\"x.txt\"",
                Some("a"),
                Some("ä.txt"),
            ),
            (b"form-data; name=\"a\"; filename*=iso-8859-1'en'%e4.txt", Some("a"), Some("ä.txt")),
            (
                b"form-data; name=\"a\"; filename*0*=utf-8''%c3%a4; filename*1=\"b.txt\"",
                Some("a"),
                Some("äb.txt"),
            ),
            (b"form-data; name=\"a\"; filename=\"=?iso-8859-1?q?=E4.txt?=\"", Some("a"), Some("ä.txt")),
            (b"form-data", None, None),
            (b"", None, None),
        ];
        for (value, name, file_name) in cases {
            let value = HeaderValue::from_bytes(value).unwrap();
            let headers = HeaderMap::from_iter([("content-disposition".parse().unwrap(), value.clone())]);
            let ContentDisposition { name: read, file_name: file } =
                ContentDisposition::from_headers(&headers);
            assert_eq!((read.as_deref(), file.as_deref()), (name, file_name), "{value:?}");
        }
        assert_eq!(ContentDisposition::from_headers(&HeaderMap::new()), ContentDisposition::default());
    }
}
