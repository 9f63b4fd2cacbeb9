//! Forms as the web posts them: `application/x-www-form-urlencoded`, and `multipart/form-data`.

use futures_util::{FutureExt, stream};
use multer::Multipart;
use std::convert::Infallible;

/// The fields of a form in their order. Names may come again, and mean no structure: `list=3` and `list[][id]=3` are two
/// fields like any others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// Parses either encoding, recognized by its beginning. Uploaded files are skipped. `None` if it is no form, or has
    /// more than [`Form::MAX_FIELDS`] fields.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let body = body.strip_prefix(UTF8_BOM).unwrap_or(body);
        if body.starts_with(b"--") {
            return Self::parse_multipart(body).now_or_never()?;
        }
        let pairs = form_urlencoded::parse(body).map(|(name, value)| (name.into_owned(), value.into_owned()));
        let form = Self(pairs.take(Self::MAX_FIELDS + 1).collect());
        (form.0.len() <= Self::MAX_FIELDS && body.contains(&b'=')).then_some(form)
    }

    /// Parses a complete body, so it never waits. The first line gives the boundary.
    async fn parse_multipart(body: &[u8]) -> Option<Self> {
        let line = body.split(|byte| *byte == b'\r').next()?;
        let boundary = std::str::from_utf8(line.strip_prefix(b"--")?).ok()?.to_owned();
        let whole = stream::iter([Ok::<_, Infallible>(bytes::Bytes::copy_from_slice(body))]);
        let mut parts = Multipart::new(whole, boundary);
        let mut form = Self::default();
        while let Some(part) = parts.next_field().await.ok()? {
            let Some(name) = part.name().filter(|_| part.file_name().is_none()).map(str::to_owned) else {
                continue;
            };
            let value = part.bytes().await.ok()?;
            form.0.push((name, String::from_utf8_lossy(&value).into_owned()));
            if form.0.len() > Self::MAX_FIELDS {
                return None;
            }
        }
        Some(form)
    }

    /// The first field of that name.
    pub fn first_value(&self, name: &str) -> Option<&str> {
        self.all_values(name).next()
    }

    /// The last field of that name.
    pub fn last_value(&self, name: &str) -> Option<&str> {
        self.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// All fields of that name.
    pub fn all_values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value)
    }

    /// All fields in their order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Fields of one form: what providers send has a hundred, with what users add to it.
    pub const MAX_FIELDS: usize = 5000;
}

/// A byte order mark, in UTF-8.
const UTF8_BOM: &[u8] = b"\xef\xbb\xbf";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_pairs(body: &[u8]) -> Option<Vec<(String, String)>> {
        Form::parse(body).map(|form| form.0)
    }

    #[test]
    fn preserves_field_order_and_repetition() {
        let form =
            Form::parse(b"list=3&list%5B%5D%5Bid%5D=3&x=a+b%2Bc&list=5&empty=&bare&u=%C3%A9%ff").unwrap();
        let fields: Vec<_> = form.iter().collect();
        assert_eq!(
            fields,
            [
                ("list", "3"),
                ("list[][id]", "3"),
                ("x", "a b+c"),
                ("list", "5"),
                ("empty", ""),
                ("bare", ""),
                ("u", "é\u{fffd}")
            ]
        );
        assert_eq!(
            (form.first_value("list"), form.last_value("list"), form.first_value("X")),
            (Some("3"), Some("5"), None)
        );
        assert_eq!(Form::parse(b"\xef\xbb\xbfa=b").unwrap().first_value("a"), Some("b"));
    }

    #[test]
    fn parses_parts_and_skips_files() {
        let body = b"--b-1\r\nContent-Disposition: form-data; name=\"event\"\r\n\r\nbounced\r\n--b-1\r\n\
            Content-Disposition: form-data; name=\"attachment-1\"; filename=\"a.txt\"\r\n\r\nx=y\r\n--b-1\r\n\
            Content-Disposition: form-data; name=\"event\"\r\n\r\nsecond\r\n--b-1--\r\n";
        let form = Form::parse(body).unwrap();
        assert_eq!(form.all_values("event").collect::<Vec<_>>(), ["bounced", "second"]);
        assert_eq!(form.iter().count(), 2);
        for end in 0..body.len() - 2 {
            let cut = Form::parse(&body[..end]);
            assert!(cut.is_none_or(|form| form.iter().count() == 0), "{end}");
        }
    }

    #[test]
    fn rejects_other_bodies() {
        for body in [&b""[..], b"junk", b"--", b"--x", b"--\r\n\r\n", b"--\xff\r\n"] {
            assert_eq!(parse_pairs(body), None, "{body:?}");
        }
        assert_eq!(
            parse_pairs("a=1&".repeat(Form::MAX_FIELDS).as_bytes()).map(|pairs| pairs.len()),
            Some(Form::MAX_FIELDS)
        );
        assert_eq!(parse_pairs("a=1&".repeat(Form::MAX_FIELDS + 1).as_bytes()), None);
    }

    #[test]
    fn never_panics_on_arbitrary_bytes() {
        let mut random = fastrand::Rng::with_seed(11);
        let pieces: [&[u8]; 10] = [
            b"--b",
            b"\r\n",
            b"Content-Disposition: form-data; name=\"",
            b"a",
            b"=",
            b"&",
            b"%",
            b"%5B",
            b"\"",
            b"\xff",
        ];
        for _ in 0..20_000 {
            let body: Vec<u8> =
                (0..random.usize(..30)).flat_map(|_| pieces[random.usize(..pieces.len())].to_vec()).collect();
            drop(Form::parse(&body));
        }
    }
}
