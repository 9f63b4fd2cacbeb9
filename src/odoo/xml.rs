//! XML-RPC, as little of it as `message_process` needs: its call with raw bytes, and whether the answer is a fault.

use super::fault::shorten;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use quick_xml::Reader;
use quick_xml::escape::{escape, resolve_xml_entity};
use quick_xml::events::Event;

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Some value; nobody asks which.
    Value,
    /// A fault's text.
    Fault(String),
    /// No XML-RPC at all.
    None,
}

/// `execute_kw(database, uid, key, 'mail.thread', 'message_process', [False, bytes])`.
pub fn message_process(database: &str, uid: u64, key: &str, message: &[u8]) -> String {
    let string = |text: &str| format!("<param><value><string>{}</string></value></param>", escape(text));
    let parameters = [
        string(database),
        format!("<param><value><int>{uid}</int></value></param>"),
        string(key),
        string("mail.thread"),
        string("message_process"),
        format!(
            "<param><value><array><data><value><boolean>0</boolean></value><value><base64>{}</base64></value>\
             </data></array></value></param>",
            BASE64_STANDARD.encode(message)
        ),
    ];
    format!(
        "<?xml version=\"1.0\"?><methodCall><methodName>execute_kw</methodName><params>{}</params></methodCall>",
        parameters.concat()
    )
}

/// Reads an answer.
pub fn read(text: &str) -> Answer {
    let mut reader = Reader::from_str(text);
    let (mut path, mut named, mut said, mut answer) =
        (Vec::new(), String::new(), String::new(), Answer::None);
    loop {
        match reader.read_event() {
            Ok(Event::Start(start)) => {
                path.push(start.name().as_ref().to_owned());
                match path.last().map(String::as_str) {
                    Some("params") if path.len() == 2 => answer = Answer::Value,
                    Some("fault") if path.len() == 2 => answer = Answer::Fault(String::new()),
                    Some("name") => named.clear(),
                    _ => {}
                }
            }
            Ok(Event::Text(words)) => {
                note(&path, &mut named, &mut said, &words.xml10_content());
            }
            Ok(Event::GeneralRef(entity)) => {
                let character = entity.resolve_char_ref().ok().flatten().map(String::from);
                let known = || resolve_xml_entity(&entity).map(str::to_owned);
                note(&path, &mut named, &mut said, &character.or_else(known).unwrap_or_default());
            }
            Ok(Event::End(_)) => {
                path.pop();
            }
            Ok(Event::Eof) if path.is_empty() => break,
            Ok(Event::Eof) | Err(_) => return Answer::None,
            Ok(_) => {}
        }
    }
    match answer {
        Answer::Fault(_) => Answer::Fault(shorten(&said)),
        answer => answer,
    }
}

/// Keeps the text of a fault's member `faultString`.
fn note(path: &[String], named: &mut String, said: &mut String, words: &str) {
    match path.last().map(String::as_str) {
        Some("name") => named.push_str(words),
        Some("string" | "value") if named == "faultString" => said.push_str(words),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_value_or_a_fault() {
        let value = "<?xml version='1.0'?>\n<methodResponse><params><param><value><boolean>0</boolean></value></param></params></methodResponse>\n";
        assert_eq!(read(value), Answer::Value);
        let fault = "<?xml version='1.0'?>\n<methodResponse><fault><value><struct><member><name>faultCode</name>\
            <value><int>1</int></value></member><member><name>faultString</name><value><string>cannot &lt;b&#62;\n \
            None</string></value></member></struct></value></fault></methodResponse>";
        assert_eq!(read(fault), Answer::Fault("cannot <b> None".into()));
        for other in ["", "<html><body>Login</body></html>", "<methodResponse><params>", "plain"] {
            assert_eq!(read(other), Answer::None, "{other}");
        }
    }

    #[test]
    fn bytes_pass_as_they_are() {
        let call = message_process("a&b", 7, "<key>", b"\xff\r\n");
        assert!(call.contains("<base64>/w0K</base64>") && call.contains("<int>7</int>"), "{call}");
        assert!(call.contains("<string>a&amp;b</string>") && call.contains("<string>&lt;key&gt;</string>"));
    }
}
