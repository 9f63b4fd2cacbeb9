//! The part of XML-RPC that `message_process` needs: its call with raw bytes, and the response.

use crate::odoo::error::to_short_line;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, future, stream};
use quick_xml::Reader;
use quick_xml::escape::{escape, resolve_xml_entity};
use quick_xml::events::Event;
use std::io;

/// Decoded response.
#[derive(Debug, PartialEq, Eq)]
pub enum XmlRpcResponse {
    /// The text of a number, a truth (0 or 1), or a string.
    Value(String),
    /// A fault. Of its codes 3 is a refused login, and 4 missing rights.
    Fault { code: i64, text: String },
    /// No XML-RPC at all.
    Invalid,
}

/// `execute_kw(database, uid, key, 'mail.thread', 'message_process', [False, bytes])`, in two halves with the base64 of
/// the bytes between them.
pub fn message_process_call(database: &str, uid: u64, key: &str) -> [String; 2] {
    let string = |text: &str| format!("<param><value><string>{}</string></value></param>", escape(text));
    let parameters = [
        string(database),
        format!("<param><value><int>{uid}</int></value></param>"),
        string(key),
        string("mail.thread"),
        string("message_process"),
    ];
    let head = format!(
        "<?xml version=\"1.0\"?><methodCall><methodName>execute_kw</methodName><params>{}<param><value><array><data>\
         <value><boolean>0</boolean></value><value><base64>",
        parameters.concat()
    );
    let tail = "</base64></value></data></array></value></param></params></methodCall>";
    [head, tail.to_owned()]
}

/// Size of the base64 of `size` bytes.
pub fn base64_size(size: u64) -> u64 {
    size.div_ceil(3) * 4
}

/// Encodes a stream as one base64 text.
pub fn base64_stream(pieces: impl Stream<Item = io::Result<Bytes>>) -> impl Stream<Item = io::Result<Bytes>> {
    let ended = stream::iter([None]);
    pieces.map(Some).chain(ended).scan(Vec::new(), |rest, piece| {
        let piece = piece.transpose().map(|piece| {
            rest.extend_from_slice(piece.as_deref().unwrap_or_default());
            let whole = if piece.is_some() { rest.len() / 3 * 3 } else { rest.len() };
            let text = BASE64_STANDARD.encode(&rest[..whole]);
            rest.drain(..whole);
            Bytes::from(text)
        });
        future::ready(Some(piece))
    })
}

/// Parses a response.
pub fn parse_response(text: &str) -> XmlRpcResponse {
    let mut reader = Reader::from_str(text);
    let mut said = ResponseParser::default();
    loop {
        match reader.read_event() {
            Ok(Event::Start(start)) => said.start_element(start.name().as_ref().to_owned()),
            Ok(Event::Text(words)) => said.append_text(&words.xml10_content()),
            Ok(Event::GeneralRef(entity)) => {
                let character = entity.resolve_char_ref().ok().flatten().map(String::from);
                let known = || resolve_xml_entity(&entity).map(str::to_owned);
                said.append_text(&character.or_else(known).unwrap_or_default());
            }
            Ok(Event::End(_)) => drop(said.path.pop()),
            Ok(Event::Eof) if said.path.is_empty() => return said.finish(),
            Ok(Event::Eof) | Err(_) => return XmlRpcResponse::Invalid,
            Ok(_) => {}
        }
    }
}

/// State of parsing a response.
#[derive(Default)]
struct ResponseParser {
    path: Vec<String>,
    is_fault: Option<bool>,
    /// The member of a fault that is being read.
    member: String,
    code: String,
    text: String,
}

impl ResponseParser {
    fn start_element(&mut self, element: String) {
        self.path.push(element);
        match self.path.last().map(String::as_str) {
            Some("params") if self.path.len() == 2 => self.is_fault = Some(false),
            Some("fault") if self.path.len() == 2 => self.is_fault = Some(true),
            Some("name") => self.member.clear(),
            _ => {}
        }
    }

    fn append_text(&mut self, words: &str) {
        let is_name = self.path.last().is_some_and(|element| element == "name");
        match (self.is_fault, &*self.member) {
            (Some(true), _) if is_name => self.member.push_str(words),
            (Some(true), "faultCode") => self.code.push_str(words),
            (Some(true), "faultString") | (Some(false), _) => self.text.push_str(words),
            _ => {}
        }
    }

    fn finish(self) -> XmlRpcResponse {
        match self.is_fault {
            None => XmlRpcResponse::Invalid,
            Some(false) => XmlRpcResponse::Value(self.text.trim().to_owned()),
            Some(true) => {
                let text = to_short_line(strip_traceback(&self.text));
                XmlRpcResponse::Fault { code: self.code.trim().parse().unwrap_or_default(), text }
            }
        }
    }
}

/// What went wrong: all of a text of Odoo's, and of Python's traceback the lines after the last frame, which is indented.
fn strip_traceback(text: &str) -> &str {
    let text = text.trim();
    if !text.starts_with("Traceback") {
        return text;
    }
    let frame = text.rfind("\n  File ").map_or(0, |frame| frame + 1);
    let mut start = 0;
    for line in text[frame..].split_inclusive('\n') {
        if start > 0 && !line.starts_with(' ') {
            break;
        }
        start += line.len();
    }
    text[frame..].get(start..).filter(|rest| !rest.is_empty()).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_values_and_faults() {
        for (written, value) in [
            ("<boolean>0</boolean>", "0"),
            ("\n<int>23</int>\n", "23"),
            ("<string>a &lt;b&gt; &amp;amp; c</string>", "a <b> &amp; c"),
            ("plain", "plain"),
            ("<string/>", ""),
        ] {
            let text = format!(
                "<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n<value>{written}</value>\n</param>\n</params>\n</methodResponse>\n"
            );
            assert_eq!(parse_response(&text), XmlRpcResponse::Value(value.into()), "{written}");
        }
        let fault = "<?xml version='1.0'?>\n<methodResponse>\n<fault>\n<value><struct>\n<member>\n<name>faultCode</name>\n\
            <value><int>1</int></value>\n</member>\n<member>\n<name>faultString</name>\n<value><string>Traceback:\n\
            cannot &lt;b&#62;  None\n</string></value></member></struct></value></fault></methodResponse>";
        assert_eq!(parse_response(fault), XmlRpcResponse::Fault { code: 1, text: "cannot <b> None".into() });
        for other in ["", "<html><body>Login</body></html>", "<methodResponse><params>", "plain"] {
            assert_eq!(parse_response(other), XmlRpcResponse::Invalid, "{other}");
        }
    }

    #[tokio::test]
    async fn encodes_chunks_as_one_base64_text() {
        let bytes: Vec<u8> = (0..=255).collect();
        for size in [1, 2, 3, 4, 100, 256] {
            let pieces: Vec<_> = bytes.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            let texts: Vec<_> = base64_stream(stream::iter(pieces)).map(Result::unwrap).collect().await;
            let text = texts.concat();
            assert_eq!(BASE64_STANDARD.decode(&text).unwrap(), bytes, "in pieces of {size}");
            assert_eq!(text.len() as u64, base64_size(256));
        }
    }

    #[test]
    fn splits_the_call_around_the_message() {
        let [head, tail] = message_process_call("a&b", 7, "<key>");
        assert!(head.contains("<string>a&amp;b</string>") && head.contains("<string>&lt;key&gt;</string>"));
        assert!(head.contains("<int>7</int>") && head.ends_with("<base64>") && tail.starts_with("</base64>"));
    }
}
