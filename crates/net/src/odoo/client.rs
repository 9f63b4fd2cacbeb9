use crate::error_chain;
use crate::host_addresses::PreferredResolver;
use crate::odoo::action::INBOUND;
use crate::odoo::error::{Fault, shorten};
use crate::odoo::{Settings, xmlrpc};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, RequestBuilder, StatusCode, Url};
use rustls::ClientConfig;
use serde_json::{Value, json};
use std::io;
use std::sync::{Arc, OnceLock};

/// Calls methods of one database as one user.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    settings: Settings,
    uid: Option<u64>,
}

impl Client {
    /// A client that has not logged in. It follows no redirects: the key goes nowhere else.
    pub fn new(settings: Settings, tls: ClientConfig) -> Result<Self, Fault> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(settings.timeout)
            .no_proxy()
            .dns_resolver(Arc::new(PreferredResolver::new(&settings.url, Arc::default())))
            .build()
            .map_err(|error| Fault::Setup(error.to_string()))?;
        Ok(Self { http, settings, uid: None })
    }

    /// Odoo's version: `18.0-20250421`.
    pub async fn version(&self) -> Result<String, Fault> {
        let version = self.ask("version", "common", json!(["version"])).await?;
        Ok(version["server_version"].as_str().unwrap_or_default().to_owned())
    }

    /// Calls a method of a model. A method that returns nothing gives [`Value::Null`].
    pub async fn call(
        &mut self,
        model: &str,
        method: &str,
        arguments: Value,
        named: Value,
    ) -> Result<Value, Fault> {
        let uid = self.log_in().await?;
        let Settings { database, key, .. } = &self.settings;
        let call = json!(["execute_kw", database, uid, key.reveal(), model, method, arguments, named]);
        let answer = self.ask(&format!("{model}.{method}"), "object", call).await;
        self.forget_refused(answer)
    }

    /// Hands a message of `size` bytes to Odoo's mail gateway, `mail.thread.message_process`, byte for byte. Returns the
    /// number of the record that it is about; `None` where Odoo adds nothing, or does not say to what (it cannot write
    /// every value, and finds that out after the commit).
    pub async fn process_message(
        &mut self,
        size: u64,
        pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Option<u64>, Fault> {
        let uid = self.log_in().await?;
        let what = "mail.thread.message_process";
        let Settings { database, key, username, .. } = &self.settings;
        let halves = xmlrpc::message_process(database, uid, key.reveal());
        let (status, body) =
            self.send_message(what, "xmlrpc/2/object", "text/xml", halves, size, pieces).await?;
        let answer = match xmlrpc::read(&body) {
            xmlrpc::Answer::Value(value) => Ok(value.parse().ok().filter(|id| *id > 0)),
            xmlrpc::Answer::Fault { text, .. } if text.contains("cannot marshal") => Ok(None),
            xmlrpc::Answer::Fault { code, text } => {
                let (name, words) = exception(code, &text);
                Err(Fault::of_exception(what, username, database, name, words))
            }
            xmlrpc::Answer::None => Err(stranger(what, status, &body)),
        };
        self.forget_refused(answer)
    }

    /// Hands a message to the mail gateway by mailtrail's server action of that number, as base64.
    pub async fn run_with_message(
        &mut self,
        number: u64,
        size: u64,
        pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Option<u64>, Fault> {
        let uid = self.log_in().await?;
        let what = "ir.actions.server.run";
        let Settings { database, key, .. } = &self.settings;
        let context = json!({ "context": { "mailtrail_message": PLACE } });
        let call = json!([database, uid, key.reveal(), "ir.actions.server", "run", [[number]], context]);
        let request = request("object", &json!("execute_kw"), call.as_array().map(Vec::as_slice)).to_string();
        let (head, tail) = request.rsplit_once(PLACE).unwrap_or_default();
        let halves = [head.to_owned(), tail.to_owned()];
        let (status, body) =
            self.send_message(what, "jsonrpc", "application/json", halves, size, pieces).await?;
        let answer = self.read_answer(what, status, &body);
        let answer = self.forget_refused(answer)?;
        if answer["version"] != INBOUND.version {
            let text = format!(
                "the server action {number} is none of mailtrail's in version {}; run `mailtrail setup odoo --inbound`",
                INBOUND.version
            );
            return Err(Fault::Missing { what: what.to_owned(), text });
        }
        Ok(answer["record"].as_u64())
    }

    /// Posts a call with the base64 of a message between its two halves.
    async fn send_message(
        &self,
        what: &str,
        path: &str,
        kind: &str,
        halves: [String; 2],
        size: u64,
        pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<(StatusCode, String), Fault> {
        let [head, tail] = &halves;
        let length = head.len() as u64 + xmlrpc::encoded_size(size) + tail.len() as u64;
        let unread = Arc::<OnceLock<Fault>>::default();
        let pieces = pieces.inspect_err({
            let unread = unread.clone();
            move |error| {
                // Only the first is read.
                let _ = unread.set(Fault::Unread { kind: error.kind(), cause: error.to_string() });
            }
        });
        let [head, tail] = halves.map(|half| stream::iter([Ok(Bytes::from(half))]));
        let request = self
            .http
            .post(self.address(path))
            .header(CONTENT_TYPE, kind)
            .header(CONTENT_LENGTH, length)
            .body(Body::wrap_stream(head.chain(xmlrpc::encoded(pieces)).chain(tail)));
        let sent = self.send(what, request).await;
        match unread.get() {
            Some(fault) => Err(fault.clone()),
            None => sent,
        }
    }

    /// The user's id; asks for it once.
    async fn log_in(&mut self) -> Result<u64, Fault> {
        if let Some(uid) = self.uid {
            return Ok(uid);
        }
        let Settings { database, username, key, .. } = &self.settings;
        let call = json!(["authenticate", database, username, key.reveal(), {}]);
        let uid = self.ask("authenticate", "common", call).await?;
        let uid = uid.as_u64().ok_or_else(|| Fault::Login(username.clone()))?;
        self.uid = Some(uid);
        Ok(uid)
    }

    /// Who was refused has to log in again.
    fn forget_refused<T>(&mut self, answer: Result<T, Fault>) -> Result<T, Fault> {
        if matches!(answer, Err(Fault::Login(_))) {
            self.uid = None;
        }
        answer
    }

    async fn ask(&self, what: &str, service: &str, call: Value) -> Result<Value, Fault> {
        let (method, arguments) = call.as_array().and_then(|call| call.split_first()).unzip();
        let request = request(service, method.unwrap_or(&Value::Null), arguments);
        let request = self.http.post(self.address("jsonrpc")).json(&request);
        let (status, body) = self.send(what, request).await?;
        self.read_answer(what, status, &body)
    }

    fn read_answer(&self, what: &str, status: StatusCode, body: &str) -> Result<Value, Fault> {
        let mut answer: Value = serde_json::from_str(body).map_err(|_| stranger(what, status, body))?;
        if let Some(error) = answer.get("error") {
            let Settings { username, database, .. } = &self.settings;
            let data = &error["data"];
            let text = data["message"].as_str().or_else(|| error["message"].as_str()).unwrap_or_default();
            let name = data["name"].as_str().unwrap_or("an error");
            return Err(Fault::of_exception(what, username, database, name, text));
        }
        if answer["jsonrpc"] != "2.0" {
            return Err(stranger(what, status, body));
        }
        // Nothing is no result at all.
        Ok(answer["result"].take())
    }

    async fn send(&self, what: &str, request: RequestBuilder) -> Result<(StatusCode, String), Fault> {
        let unanswered = |error: reqwest::Error| Fault::Unanswered {
            what: what.to_owned(),
            cause: error_chain::of_request(error),
        };
        let mut response = request.send().await.map_err(|error| {
            if error.is_connect() {
                Fault::Unreachable(error_chain::of_request(error))
            } else {
                unanswered(error)
            }
        })?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(unanswered)? {
            body.extend_from_slice(&piece);
            if body.len() > ANSWER {
                return Err(Fault::Unanswered { what: what.to_owned(), cause: "it does not end".to_owned() });
            }
        }
        let body = String::from_utf8_lossy(&body).into_owned();
        match status {
            StatusCode::OK => Ok((status, body)),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Err(Fault::Busy(format!("it answers {status}")))
            }
            // A proxy in front of it gave up.
            _ if status.is_server_error() => {
                Err(Fault::Unanswered { what: what.to_owned(), cause: format!("it answers {status}") })
            }
            _ => Err(stranger(what, status, &body)),
        }
    }

    fn address(&self, path: &str) -> Url {
        let mut url = self.settings.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/'));
        }
        url
    }
}

/// A JSON-RPC request.
fn request(service: &str, method: &Value, arguments: Option<&[Value]>) -> Value {
    json!({
        "jsonrpc": "2.0", "method": "call", "id": 1,
        "params": { "service": service, "method": method, "args": arguments.unwrap_or_default() },
    })
}

fn stranger(what: &str, status: StatusCode, body: &str) -> Fault {
    let beginning: String = body.chars().take(BEGINNING).collect();
    Fault::Stranger { what: what.to_owned(), answer: format!("{status}: {:?}", shorten(&beginning)) }
}

/// The exception that an XML-RPC fault is about, and its words: the code tells of rights, and otherwise the line does.
fn exception(code: i64, text: &str) -> (&str, &str) {
    match (code, text.split_once(": ")) {
        (3, _) => ("AccessDenied", text),
        (4, _) => ("AccessError", text),
        (_, Some((name, words))) if !name.contains(' ') => (name, words),
        _ => ("a fault", text),
    }
}

/// Stands where the base64 of a message goes; it is the last text of its kind in a request.
const PLACE: &str = "mailtrail:message";
/// Bytes of an answer; fifty results take a hundredth of it.
const ANSWER: usize = 1 << 20;
/// Characters of a strange answer that are shown.
const BEGINNING: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_say_by_code_or_words_which_exception_they_were() {
        let fault = |code, text| {
            let (name, words) = exception(code, text);
            Fault::of_exception("x", "bot", "prod", name, words)
        };
        assert!(matches!(fault(3, "Access Denied"), Fault::Login(_)));
        assert!(matches!(fault(4, "You are not allowed to modify 'Contact'"), Fault::Denied { .. }));
        assert!(matches!(fault(1, "psycopg2.OperationalError: server closed"), Fault::Busy(_)));
        let routeless = fault(1, "ValueError: No possible route found for incoming message");
        assert_eq!(
            routeless.to_string(),
            "Odoo refused x: ValueError: No possible route found for incoming message"
        );
    }
}
