use crate::error_chain;
use crate::host_addresses::PreferredResolver;
use crate::odoo::action::INBOUND_ACTION;
use crate::odoo::error::{OdooError, to_short_line};
use crate::odoo::{OdooConnection, xmlrpc};
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
pub struct OdooClient {
    http: reqwest::Client,
    connection: OdooConnection,
    uid: Option<u64>,
}

impl OdooClient {
    /// A client that has not logged in. It follows no redirects: the key goes nowhere else.
    pub fn new(connection: OdooConnection, tls: ClientConfig) -> Result<Self, OdooError> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(connection.timeout)
            .no_proxy()
            .dns_resolver(Arc::new(PreferredResolver::new(&connection.url, Arc::default())))
            .build()
            .map_err(|error| OdooError::ClientSetup(error.to_string()))?;
        Ok(Self { http, connection, uid: None })
    }

    /// Returns the version of Odoo, such as `18.0-20250421`.
    pub async fn fetch_version(&self) -> Result<String, OdooError> {
        let version = self.call_json_rpc("version", "common", json!(["version"])).await?;
        Ok(version["server_version"].as_str().unwrap_or_default().to_owned())
    }

    /// Calls a method of a model. A method that returns nothing gives [`Value::Null`].
    pub async fn call_method(
        &mut self,
        model: &str,
        method: &str,
        arguments: Value,
        named: Value,
    ) -> Result<Value, OdooError> {
        let uid = self.log_in().await?;
        let OdooConnection { database, api_key, .. } = &self.connection;
        let call = json!(["execute_kw", database, uid, api_key.expose(), model, method, arguments, named]);
        let answer = self.call_json_rpc(&format!("{model}.{method}"), "object", call).await;
        self.drop_session_on_denial(answer)
    }

    /// Submits a message of `size` bytes to Odoo's mail gateway, `mail.thread.message_process`, byte for byte. Returns
    /// the id of the record; `None` if Odoo adds nothing or does not report it (it cannot marshal every value, and
    /// notices after the commit).
    pub async fn process_message(
        &mut self,
        size: u64,
        pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Option<u64>, OdooError> {
        let uid = self.log_in().await?;
        let what = "mail.thread.message_process";
        let OdooConnection { database, api_key, username, .. } = &self.connection;
        let halves = xmlrpc::message_process_call(database, uid, api_key.expose());
        let (status, body) =
            self.send_message(what, "xmlrpc/2/object", "text/xml", halves, size, pieces).await?;
        let answer = match xmlrpc::parse_response(&body) {
            xmlrpc::XmlRpcResponse::Value(value) => Ok(value.parse().ok().filter(|id| *id > 0)),
            xmlrpc::XmlRpcResponse::Fault { text, .. } if text.contains("cannot marshal") => Ok(None),
            xmlrpc::XmlRpcResponse::Fault { code, text } => {
                let (name, words) = parse_exception(code, &text);
                Err(OdooError::from_exception(what, username, database, name, words))
            }
            xmlrpc::XmlRpcResponse::Invalid => Err(not_odoo(what, status, &body)),
        };
        self.drop_session_on_denial(answer)
    }

    /// Hands a message to the mail gateway by mailtrail's server action of that number, as base64.
    pub async fn run_action_with_message(
        &mut self,
        number: u64,
        size: u64,
        pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Option<u64>, OdooError> {
        let uid = self.log_in().await?;
        let what = "ir.actions.server.run";
        let OdooConnection { database, api_key, .. } = &self.connection;
        let context = json!({ "context": { "mailtrail_message": MESSAGE_PLACEHOLDER } });
        let call = json!([database, uid, api_key.expose(), "ir.actions.server", "run", [[number]], context]);
        let request =
            json_rpc_request("object", &json!("execute_kw"), call.as_array().map(Vec::as_slice)).to_string();
        let (head, tail) = request.rsplit_once(MESSAGE_PLACEHOLDER).unwrap_or_default();
        let halves = [head.to_owned(), tail.to_owned()];
        let (status, body) =
            self.send_message(what, "jsonrpc", "application/json", halves, size, pieces).await?;
        let answer = self.parse_response(what, status, &body);
        let answer = self.drop_session_on_denial(answer)?;
        if answer["version"] != INBOUND_ACTION.version {
            let text = format!(
                "the server action {number} is none of mailtrail's in version {}; run `mailtrail setup odoo --inbound`",
                INBOUND_ACTION.version
            );
            return Err(OdooError::NotFound { operation: what.to_owned(), text });
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
    ) -> Result<(StatusCode, String), OdooError> {
        let [head, tail] = &halves;
        let length = head.len() as u64 + xmlrpc::base64_size(size) + tail.len() as u64;
        let unread = Arc::<OnceLock<OdooError>>::default();
        let pieces = pieces.inspect_err({
            let unread = unread.clone();
            move |error| {
                // Only the first is read.
                let _ =
                    unread.set(OdooError::BodyUnreadable { kind: error.kind(), cause: error.to_string() });
            }
        });
        let [head, tail] = halves.map(|half| stream::iter([Ok(Bytes::from(half))]));
        let request = self
            .http
            .post(self.endpoint_url(path))
            .header(CONTENT_TYPE, kind)
            .header(CONTENT_LENGTH, length)
            .body(Body::wrap_stream(head.chain(xmlrpc::base64_stream(pieces)).chain(tail)));
        let sent = self.send_request(what, request).await;
        match unread.get() {
            Some(fault) => Err(fault.clone()),
            None => sent,
        }
    }

    /// Returns the user's id, requested once.
    async fn log_in(&mut self) -> Result<u64, OdooError> {
        if let Some(uid) = self.uid {
            return Ok(uid);
        }
        let OdooConnection { database, username, api_key, .. } = &self.connection;
        let call = json!(["authenticate", database, username, api_key.expose(), {}]);
        let uid = self.call_json_rpc("authenticate", "common", call).await?;
        let uid = uid.as_u64().ok_or_else(|| OdooError::LoginRejected(username.clone()))?;
        self.uid = Some(uid);
        Ok(uid)
    }

    /// Discards the session after a denial, so that the next call logs in again.
    fn drop_session_on_denial<T>(&mut self, answer: Result<T, OdooError>) -> Result<T, OdooError> {
        if matches!(answer, Err(OdooError::LoginRejected(_))) {
            self.uid = None;
        }
        answer
    }

    async fn call_json_rpc(&self, what: &str, service: &str, call: Value) -> Result<Value, OdooError> {
        let (method, arguments) = call.as_array().and_then(|call| call.split_first()).unzip();
        let request = json_rpc_request(service, method.unwrap_or(&Value::Null), arguments);
        let request = self.http.post(self.endpoint_url("jsonrpc")).json(&request);
        let (status, body) = self.send_request(what, request).await?;
        self.parse_response(what, status, &body)
    }

    fn parse_response(&self, what: &str, status: StatusCode, body: &str) -> Result<Value, OdooError> {
        let mut answer: Value = serde_json::from_str(body).map_err(|_| not_odoo(what, status, body))?;
        if let Some(error) = answer.get("error") {
            let OdooConnection { username, database, .. } = &self.connection;
            let data = &error["data"];
            let text = data["message"].as_str().or_else(|| error["message"].as_str()).unwrap_or_default();
            let name = data["name"].as_str().unwrap_or("an error");
            return Err(OdooError::from_exception(what, username, database, name, text));
        }
        if answer["jsonrpc"] != "2.0" {
            return Err(not_odoo(what, status, body));
        }
        // Nothing is no result at all.
        Ok(answer["result"].take())
    }

    async fn send_request(
        &self,
        what: &str,
        request: RequestBuilder,
    ) -> Result<(StatusCode, String), OdooError> {
        let unanswered = |error: reqwest::Error| OdooError::NoResponse {
            operation: what.to_owned(),
            cause: error_chain::request_error_text(error),
        };
        let mut response = request.send().await.map_err(|error| {
            if error.is_connect() {
                OdooError::Unreachable(error_chain::request_error_text(error))
            } else {
                unanswered(error)
            }
        })?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(unanswered)? {
            body.extend_from_slice(&piece);
            if body.len() > MAX_RESPONSE_BYTES {
                return Err(OdooError::NoResponse {
                    operation: what.to_owned(),
                    cause: "it does not end".to_owned(),
                });
            }
        }
        let body = String::from_utf8_lossy(&body).into_owned();
        match status {
            StatusCode::OK => Ok((status, body)),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Err(OdooError::Busy(format!("it answers {status}")))
            }
            // A proxy in front of it gave up.
            _ if status.is_server_error() => Err(OdooError::NoResponse {
                operation: what.to_owned(),
                cause: format!("it answers {status}"),
            }),
            _ => Err(not_odoo(what, status, &body)),
        }
    }

    fn endpoint_url(&self, path: &str) -> Url {
        let mut url = self.connection.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/'));
        }
        url
    }
}

/// Builds a JSON-RPC request.
fn json_rpc_request(service: &str, method: &Value, arguments: Option<&[Value]>) -> Value {
    json!({
        "jsonrpc": "2.0", "method": "call", "id": 1,
        "params": { "service": service, "method": method, "args": arguments.unwrap_or_default() },
    })
}

fn not_odoo(what: &str, status: StatusCode, body: &str) -> OdooError {
    let beginning: String = body.chars().take(MAX_SHOWN_RESPONSE).collect();
    OdooError::NotOdoo {
        operation: what.to_owned(),
        response: format!("{status}: {:?}", to_short_line(&beginning)),
    }
}

/// Splits an XML-RPC fault into exception and text. The code identifies access errors; other exceptions are named in
/// the text.
fn parse_exception(code: i64, text: &str) -> (&str, &str) {
    match (code, text.split_once(": ")) {
        (3, _) => ("AccessDenied", text),
        (4, _) => ("AccessError", text),
        (_, Some((name, words))) if !name.contains(' ') => (name, words),
        _ => ("a fault", text),
    }
}

/// Placeholder for the base64 of the message; the last text of this kind in a request.
const MESSAGE_PLACEHOLDER: &str = "mailtrail:message";
/// Bytes of an answer; fifty results take a hundredth of it.
const MAX_RESPONSE_BYTES: usize = 1 << 20;
/// Characters of a strange answer that are shown.
const MAX_SHOWN_RESPONSE: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_exceptions_from_code_or_text() {
        let fault = |code, text| {
            let (name, words) = parse_exception(code, text);
            OdooError::from_exception("x", "bot", "prod", name, words)
        };
        assert!(matches!(fault(3, "Access Denied"), OdooError::LoginRejected(_)));
        assert!(matches!(
            fault(4, "You are not allowed to modify 'Contact'"),
            OdooError::AccessDenied { .. }
        ));
        assert!(matches!(fault(1, "psycopg2.OperationalError: server closed"), OdooError::Busy(_)));
        let routeless = fault(1, "ValueError: No possible route found for incoming message");
        assert_eq!(
            routeless.to_string(),
            "Odoo refused x: ValueError: No possible route found for incoming message"
        );
    }
}
