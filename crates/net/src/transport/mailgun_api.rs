//! Messages over an upstream's HTTP API: Mailgun's `POST /v3/<domain>/messages.mime` (multipart/form-data, RFC 7578).
//!
//! The message goes as it is, piece by piece; who receives it says `to` alone, as the envelope does over SMTP. A failure
//! is told by what the upstream can have: before the last byte it cannot have taken the message, behind it nobody knows.
//! Brevo's API takes no message as it is and is not spoken to (see [`Provider::default_api`]).
//!
//! [`Provider::default_api`]: mailtrail_trail::provider::Provider::default_api

use crate::error_chain;
use crate::host_addresses::{HostAddresses, PreferredResolver};
use crate::transport::error::TransportError;
use crate::transport::settings::{Api, Settings};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use mailtrail_mail::{Mailbox, Secret};
use mailtrail_smtp::{Capabilities, Response};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Body, Url, redirect};
use std::fmt::Write as _;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Client of one upstream's API; an idle connection is kept for the next message.
pub struct MailgunClient {
    http: reqwest::Client,
    messages_url: Url,
    api_key: Secret,
}

/// Response of the upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiResponse {
    /// The HTTP status.
    pub status: u16,
    /// Its words, in one line.
    pub text: String,
    /// Provider's id of the message, unchanged; only an accepted message has one.
    pub id: Option<String>,
    /// `Retry-After` (RFC 9110 section 10.2.3), as it was written.
    pub retry_after: Option<String>,
    /// Whether the request was on its way to its end when the answer came: the upstream may have the message.
    pub request_sent: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum RequestError {
    /// No connection; the request was not started.
    Unreachable(TransportError),
    /// The message itself could not be read to its end: the upstream cannot have taken it.
    BodyUnreadable(io::Error),
    /// Before the end of the request: the upstream cannot have taken it.
    BeforeEnd(TransportError),
    /// Failed after the last byte: acceptance unknown.
    AfterEnd(TransportError),
}

impl MailgunClient {
    /// Recipients that one request may have; Mailgun refuses more.
    pub const MAX_RECIPIENTS: usize = 1000;

    /// Creates a client without connecting. Proxies of the environment are not used, because the configuration
    /// determines the destination.
    pub fn new(
        settings: &Settings,
        api: &Api,
        tls: &TlsConnector,
        addresses: &Arc<HostAddresses>,
    ) -> Result<Self, TransportError> {
        let client = reqwest::Client::builder()
            // Otherwise the client would require a process-wide default, which is not set.
            .tls_backend_preconfigured((**tls.config()).clone())
            .no_proxy()
            .redirect(redirect::Policy::none())
            .dns_resolver(Arc::new(PreferredResolver::new(&api.base_url, addresses.clone())))
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(settings.idle_timeout)
            .build();
        let mut messages_url = api.base_url.clone();
        messages_url.set_path(&format!("/v3/{}/messages.mime", api.domain));
        Ok(Self { http: client.map_err(transport_error)?, messages_url, api_key: api.key.clone() })
    }

    /// Known limits before a request: Mailgun rejects more than 52.4 MB (52,428,800 bytes).
    pub fn capabilities() -> Capabilities {
        Capabilities {
            size: Some(MAX_MESSAGE_BYTES),
            smtputf8: true,
            eight_bit_mime: true,
            ..Capabilities::default()
        }
    }

    /// Sends the message in `pieces`, `size` bytes, to these recipients, at most [`MailgunClient::MAX_RECIPIENTS`].
    pub async fn send(
        &self,
        recipients: &[&Mailbox],
        parameters: &[(String, String)],
        size: u64,
        pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<ApiResponse, RequestError> {
        let form = MultipartFrame::new(recipients, parameters);
        let progress = Arc::new(UploadProgress::default());
        let request = self
            .http
            .post(self.messages_url.clone())
            .basic_auth("api", Some(self.api_key.expose()))
            .header(CONTENT_TYPE, form.content_type())
            .header(CONTENT_LENGTH, form.size() + size)
            .body(form.wrap(pieces, progress.clone()));
        let exchange = async {
            let response =
                request.send().await.map_err(|error| progress.classify_error(transport_error(error)))?;
            read_response(response, &progress).await
        };
        let late = TransportError::Timeout { operation: "the message", limit: REQUEST_TIMEOUT };
        timeout(REQUEST_TIMEOUT, exchange).await.unwrap_or_else(|_| Err(progress.classify_error(late)))
    }
}

impl ApiResponse {
    /// Mailgun answers in JSON with `message`, and now and then in plain text.
    fn parse(status: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let field = |name: &str| json.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
        let text = field("message").unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
        let text = text.trim().replace(char::is_control, " ");
        let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let id = field("id").filter(|id| !id.is_empty());
        Self {
            status,
            text: text.chars().take(MAX_ERROR_CHARS).collect(),
            id,
            retry_after,
            request_sent: false,
        }
    }

    /// Whether the upstream itself, not the message or the account, is out of order.
    pub fn upstream_failure(&self) -> Option<TransportError> {
        let response = || Response { code: self.status, enhanced_status: None, text: self.text.clone() };
        let out_of_order = match self.status {
            // The form of the request needs an operator.
            501 | 505 | 511 => false,
            status => status >= 500 || matches!(status, 408 | 421),
        };
        out_of_order.then(|| TransportError::Refused { step: "messages.mime", response: response() })
    }
}

/// How much of a request is on its way.
#[derive(Debug, Default)]
struct UploadProgress {
    has_started: AtomicBool,
    is_complete: AtomicBool,
    body_error: Mutex<Option<io::Error>>,
}

impl UploadProgress {
    fn classify_error(&self, fault: TransportError) -> RequestError {
        let unreadable = self.body_error.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(error) = unreadable {
            RequestError::BodyUnreadable(error)
        } else if self.is_complete.load(Ordering::Acquire) {
            RequestError::AfterEnd(fault)
        } else if self.has_started.load(Ordering::Acquire) {
            RequestError::BeforeEnd(fault)
        } else {
            RequestError::Unreachable(fault)
        }
    }

    /// Stores the error that ended the body; the request ends with it.
    fn record_body_error(&self, error: io::Error) -> io::Error {
        let kind = error.kind();
        *self.body_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        kind.into()
    }
}

/// A form but for the message in it. Written here because the HTTP client's nests a stream for each field, and a thousand
/// recipients would go deeper than a stack.
struct MultipartFrame {
    boundary: String,
    head: String,
    tail: String,
}

impl MultipartFrame {
    fn new(recipients: &[&Mailbox], parameters: &[(String, String)]) -> Self {
        let boundary = format!("{:032x}", fastrand::u128(..));
        let mut head = String::new();
        let to = recipients.iter().map(|recipient| ("to", recipient.as_str()));
        let asked = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in to.chain(asked) {
            // Writing to a String cannot fail.
            let _ = write!(
                head,
                "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            );
        }
        // Without a file name Mailgun takes it for text and refuses it.
        let _ = write!(
            head,
            "--{boundary}\r\nContent-Disposition: form-data; name=\"message\"; filename=\"message.mime\"\r\n\
             Content-Type: message/rfc822\r\n\r\n"
        );
        Self { tail: format!("\r\n--{boundary}--\r\n"), boundary, head }
    }

    fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }

    /// Bytes around the message.
    fn size(&self) -> u64 {
        (self.head.len() + self.tail.len()) as u64
    }

    fn wrap(
        self,
        pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        progress: Arc<UploadProgress>,
    ) -> Body {
        let (begun, broken) = (progress.clone(), progress.clone());
        let head = stream::once(async move {
            begun.has_started.store(true, Ordering::Release);
            Ok(Bytes::from(self.head))
        });
        let pieces = pieces.map(move |piece| piece.map_err(|error| broken.record_body_error(error)));
        let tail = stream::once(async move {
            progress.is_complete.store(true, Ordering::Release);
            Ok(Bytes::from(self.tail))
        });
        Body::wrap_stream(head.chain(pieces).chain(tail))
    }
}

/// Reads a response. An error status suffices if its text is cut off; a success needs its text.
async fn read_response(
    mut response: reqwest::Response,
    progress: &UploadProgress,
) -> Result<ApiResponse, RequestError> {
    let (status, mut body) = (response.status(), Vec::new());
    while body.len() < MAX_RESPONSE_BYTES {
        match response.chunk().await {
            Ok(Some(piece)) => body.extend_from_slice(&piece),
            Ok(None) => break,
            Err(error) if status.is_success() => return Err(progress.classify_error(transport_error(error))),
            Err(_) => break,
        }
    }
    let answer = ApiResponse::parse(status.as_u16(), response.headers(), &body);
    Ok(ApiResponse { request_sent: progress.is_complete.load(Ordering::Acquire), ..answer })
}

/// The cause itself: what wraps it names the address and no more.
fn transport_error(error: reqwest::Error) -> TransportError {
    if error.is_timeout() {
        return TransportError::Timeout { operation: "connect", limit: CONNECT_TIMEOUT };
    }
    TransportError::Io(io::Error::other(error_chain::root_cause(&error.without_url()).to_string()))
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// From the first byte of a request to the last of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(600);
/// Bytes of an answer that are read; Mailgun's are short.
const MAX_RESPONSE_BYTES: usize = 64 << 10;
/// Maximum characters of a response text.
const MAX_ERROR_CHARS: usize = 512;
const MAX_MESSAGE_BYTES: u64 = 52_428_800;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_response(body: &str) -> ApiResponse {
        ApiResponse::parse(200, &HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn parses_json_and_text_responses() {
        let taken = parse_response("{\"id\":\"<1.2@mg.example.com>\",\"message\":\"Queued. Thank you.\"}");
        assert_eq!(
            (taken.text.as_str(), taken.id.as_deref()),
            ("Queued. Thank you.", Some("<1.2@mg.example.com>"))
        );
        for text in ["Forbidden", "\"Forbidden\"", "Mailgun Magnificent API\n", "{\"id\":7}", "[]", ""] {
            let answer = parse_response(text);
            assert_eq!((answer.text.as_str(), answer.id), (text.trim(), None));
        }
        assert_eq!(
            parse_response(&format!("a\r\nb{}", "c".repeat(MAX_ERROR_CHARS))).text.len(),
            MAX_ERROR_CHARS
        );
    }

    #[tokio::test]
    async fn form_has_announced_length_and_unchanged_message() {
        let recipients: Vec<Mailbox> = (0..MailgunClient::MAX_RECIPIENTS)
            .map(|number| format!("r{number}@example.net").parse().unwrap())
            .collect();
        let recipients: Vec<_> = recipients.iter().collect();
        let form = MultipartFrame::new(&recipients, &[("v:mailtrail".to_owned(), "01K".to_owned())]);
        let (size, message) = (form.size(), "A: b\r\n\r\n--\r\n.\r\nno line end");
        let progress = Arc::new(UploadProgress::default());
        let pieces = message.as_bytes().chunks(5).map(|piece| Ok(Bytes::from_static(piece)));
        let pieces: Vec<io::Result<Bytes>> = pieces.collect();
        let boundary = form.boundary.clone();
        let body = form.wrap(stream::iter(pieces), progress.clone());
        let text = futures_util::TryStreamExt::try_concat(into_stream(body)).await.unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.len() as u64, size + message.len() as u64);
        assert!(text.ends_with(&format!("message/rfc822\r\n\r\n{message}\r\n--{boundary}--\r\n")));
        assert_eq!(text.matches("name=\"to\"\r\n\r\nr").count(), MailgunClient::MAX_RECIPIENTS);
        assert!(text.contains("name=\"v:mailtrail\"\r\n\r\n01K\r\n"));
        let fault = || TransportError::Closed;
        assert!(matches!(progress.classify_error(fault()), RequestError::AfterEnd(_)));
        assert!(matches!(UploadProgress::default().classify_error(fault()), RequestError::Unreachable(_)));
    }

    fn into_stream(body: Body) -> impl Stream<Item = Result<Vec<u8>, axum::Error>> {
        axum::body::Body::new(body).into_data_stream().map(|piece| piece.map(Vec::from))
    }
}
