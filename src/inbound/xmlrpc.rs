//! Calls over XML-RPC, as far as Odoo needs them: it is the one way on which it takes raw bytes.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use std::fmt::Write as _;
use std::io;
use std::pin::Pin;

/// What a call gave back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The value's text: of a number, a truth (0 or 1), or a text.
    Value(String),
    /// A fault.
    Fault {
        /// Odoo: 1 an error, 2 a warning, 3 a refused login, 4 missing rights.
        code: i64,
        /// Its words; Odoo's hold a whole traceback.
        words: String,
    },
}

/// An argument of a call.
pub enum Argument<'a> {
    Text(&'a str),
    Number(i64),
    /// A list with `false`, and the bytes that stand at that place of the call.
    FalseAndBytes,
    Nothing,
}

/// A call in two halves, between which the base64 of its bytes stands.
pub struct Call {
    pub head: String,
    pub tail: String,
}

/// A call of a method.
pub fn call(method: &str, arguments: &[Argument<'_>]) -> Call {
    let mut halves = [
        format!("<?xml version=\"1.0\"?><methodCall><methodName>{method}</methodName><params>"),
        String::new(),
    ];
    let mut half = 0;
    for argument in arguments {
        halves[half].push_str("<param><value>");
        // Writing to a String cannot fail.
        let _ = match argument {
            Argument::Text(text) => write!(halves[half], "<string>{}</string>", escaped(text)),
            Argument::Number(number) => write!(halves[half], "<int>{number}</int>"),
            Argument::Nothing => write!(halves[half], "<struct></struct>"),
            Argument::FalseAndBytes => {
                halves[half].push_str("<array><data><value><boolean>0</boolean></value><value><base64>");
                half = 1;
                write!(halves[half], "</base64></value></data></array>")
            }
        };
        halves[half].push_str("</value></param>");
    }
    halves[half].push_str("</params></methodCall>");
    let [head, tail] = halves;
    Call { head, tail }
}

/// Bytes that the base64 of so many takes.
pub fn encoded_size(size: u64) -> u64 {
    size.div_ceil(3) * 4
}

/// The base64 of what comes in pieces, as one text.
pub fn encoded(
    pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    type Pieces = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;
    let start: (Pieces, Vec<u8>, bool) = (Box::pin(pieces), Vec::new(), false);
    stream::unfold(start, |(mut pieces, mut rest, ended)| async move {
        if ended {
            return None;
        }
        let next = pieces.next().await;
        let ended = next.is_none();
        match next {
            Some(Err(error)) => return Some((Err(error), (pieces, rest, true))),
            Some(Ok(piece)) => rest.extend_from_slice(&piece),
            None => {}
        }
        let whole = if ended { rest.len() } else { rest.len() / 3 * 3 };
        let text = BASE64_STANDARD.encode(&rest[..whole]);
        rest.drain(..whole);
        Some((Ok(Bytes::from(text)), (pieces, rest, ended)))
    })
}

/// Reads an answer; `None` for what is none.
pub fn read(answer: &str) -> Option<Answer> {
    let body = between(answer, "<methodResponse>", "</methodResponse>")?;
    match between(body, "<fault>", "</fault>") {
        Some(fault) => Some(Answer::Fault {
            code: value(member(fault, "faultCode")?)?.parse().ok()?,
            words: value(member(fault, "faultString")?)?,
        }),
        None => value(between(body, "<param>", "</param>")?).map(Answer::Value),
    }
}

/// What follows the name of a member.
fn member<'a>(fault: &'a str, name: &str) -> Option<&'a str> {
    let at = fault.find(&format!("<name>{name}</name>"))?;
    between(&fault[at..], "</name>", "</member>")
}

/// The text of a scalar, with or without its type.
fn value(text: &str) -> Option<String> {
    let inner = between(text, "<value>", "</value>")?.trim();
    let typed = inner.strip_prefix('<').and_then(|rest| {
        let (name, rest) = rest.split_once('>')?;
        rest.strip_suffix(&format!("</{name}>"))
    });
    match typed {
        Some(typed) => Some(unescaped(typed)),
        None if inner.ends_with("/>") => Some(String::new()),
        None => Some(unescaped(inner)),
    }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let rest = &text[text.find(start)? + start.len()..];
    Some(&rest[..rest.find(end)?])
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_python_writes_them() {
        let ok = |value: &str| {
            format!(
                "<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n<value>{value}</value>\n</param>\n</params>\n</methodResponse>\n"
            )
        };
        for (value, expected) in [
            ("<int>23</int>", "23"),
            ("<boolean>0</boolean>", "0"),
            ("<string>a &lt;b&gt; &amp;amp; c</string>", "a <b> &amp; c"),
            ("plain", "plain"),
            ("<string/>", ""),
        ] {
            assert_eq!(read(&ok(value)), Some(Answer::Value(expected.to_owned())), "{value}");
        }
        let fault = "<?xml version='1.0'?>\n<methodResponse>\n<fault>\n<value><struct>\n<member>\n<name>faultCode</name>\n\
                     <value><int>1</int></value>\n</member>\n<member>\n<name>faultString</name>\n<value><string>Traceback:\n\
                     ValueError: No possible route found &lt;x&gt;\n</string></value>\n</member>\n</struct></value>\n\
                     </fault>\n</methodResponse>\n";
        let words = "Traceback:\nValueError: No possible route found <x>\n".to_owned();
        assert_eq!(read(fault), Some(Answer::Fault { code: 1, words }));
        for strange in ["", "<html>not found</html>", "<methodResponse></methodResponse>"] {
            assert_eq!(read(strange), None, "{strange}");
        }
    }

    #[tokio::test]
    async fn bytes_are_one_text_however_they_come() {
        let bytes: Vec<u8> = (0..=255).collect();
        for size in [1, 2, 3, 4, 100, 256] {
            let pieces: Vec<_> = bytes.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            let texts: Vec<_> = encoded(stream::iter(pieces)).map(Result::unwrap).collect().await;
            let text = texts.concat();
            assert_eq!(BASE64_STANDARD.decode(&text).unwrap(), bytes, "in pieces of {size}");
            assert_eq!(text.len() as u64, encoded_size(256));
        }
        let call = call(
            "m",
            &[Argument::Text("a<&"), Argument::FalseAndBytes, Argument::Number(-1), Argument::Nothing],
        );
        assert!(call.head.ends_with(
            "<string>a&lt;&amp;</string></value></param><param><value><array><data><value>\
                                     <boolean>0</boolean></value><value><base64>"
        ));
        assert!(
            call.tail
                .starts_with("</base64></value></data></array></value></param><param><value><int>-1</int>")
        );
    }
}
