//! Mailgun's `POST /v3/<domain>/messages.mime`, with the documented texts. Scenarios that SMTP decides at RCPT and DATA
//! are decided for the whole request, because HTTP has one response.

use crate::message_facts::SubmissionOrigin;
use crate::profile::ProviderProfile;
use crate::scenario::Scenario;
use crate::smtp::{MAX_MESSAGE_BYTES, SLOW_REPLY_SECONDS};
use crate::state::SandboxState;
use axum::Router;
use axum::body::Body;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use mailtrail_mail::{Envelope, Mailbox};
use memchr::memmem;
use multer::{Constraints, Multipart, SizeLimit};
use serde_json::json;
use std::io;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use tokio::net::TcpStream;

/// Serves one connection. An error closes it, for scenarios that lose the response.
pub(crate) async fn serve_http(
    state: Arc<SandboxState>,
    management: Router,
    stream: TcpStream,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let management = TowerToHyperService::new(management);
    let service = service_fn(|request: Request<Incoming>| {
        let (house, management) = (state.clone(), management.clone());
        async move {
            if house.profile == ProviderProfile::Mailgun && is_send_request(&request) {
                return handle_send_request(house, request).await;
            }
            management.call(request).await.map_err(|never| match never {})
        }
    });
    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.map_err(io::Error::other)
}

fn is_send_request(request: &Request<Incoming>) -> bool {
    let path: Vec<_> = request.uri().path().split('/').collect();
    request.method() == Method::POST && matches!(path[..], ["", "v3", _, "messages.mime"])
}

async fn handle_send_request(
    state: Arc<SandboxState>,
    request: Request<Incoming>,
) -> io::Result<Response<Body>> {
    let domain = request.uri().path().split('/').nth(2).unwrap_or_default();
    if !is_authorized(&state, request.headers()) {
        return Ok(plain_text(StatusCode::UNAUTHORIZED, "Forbidden"));
    }
    if domain != state.domain {
        return Ok(json_message(StatusCode::NOT_FOUND, &format!("Domain not found: {domain}")));
    }
    match MessageForm::from_request(&state, request).await? {
        Ok(form) => accept_message(&state, form).await,
        Err((status, text)) => Ok(json_message(status, text)),
    }
}

pub(crate) fn is_authorized(state: &SandboxState, headers: &HeaderMap) -> bool {
    let given = headers.get(AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    let login = BASE64_STANDARD.encode(format!("api:{}", state.api_key.expose()));
    given.strip_prefix(b"Basic ").unwrap_or_default().ct_eq(login.as_bytes()).into()
}

/// A posted message.
struct MessageForm {
    envelope: Envelope,
    parameters: Vec<(String, String)>,
    raw: Bytes,
}

/// Status and text of an error.
type SendError = (StatusCode, &'static str);

impl MessageForm {
    async fn from_request(
        state: &SandboxState,
        request: Request<Incoming>,
    ) -> io::Result<Result<Self, SendError>> {
        let kind =
            request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let Ok(boundary) = multer::parse_boundary(kind) else {
            return Ok(Err(bad_request("Invalid request content type")));
        };
        let limit = Constraints::new().size_limit(SizeLimit::new().whole_stream(MAX_MESSAGE_BYTES));
        let stream = Body::new(request.into_body()).into_data_stream();
        let mut parts = Multipart::with_constraints(stream, boundary, limit);
        let sender = format!("postmaster@{}", state.domain).parse().ok();
        let mut form = Self {
            envelope: Envelope { sender, ..Envelope::default() },
            parameters: Vec::new(),
            raw: Bytes::new(),
        };
        loop {
            match parts.next_field().await {
                Ok(Some(field)) => match form.read_field(state, field).await? {
                    Ok(()) => {}
                    Err(refusal) => return Ok(Err(refusal)),
                },
                Ok(None) => return Ok(form.validate()),
                Err(error) => return Ok(Err(multipart_error(&error))),
            }
        }
    }

    async fn read_field(
        &mut self,
        state: &SandboxState,
        mut field: multer::Field<'_>,
    ) -> io::Result<Result<(), SendError>> {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "message" && field.file_name().is_none() {
            return Ok(Err(bad_request("'message' parameter is not a file")));
        }
        let (mut value, mut may_drop) = (Vec::new(), name == "message");
        loop {
            match field.chunk().await {
                Ok(Some(piece)) => value.extend_from_slice(&piece),
                Ok(None) => break,
                Err(error) => return Ok(Err(multipart_error(&error))),
            }
            if may_drop && memmem::find(&value, b"\r\n\r\n").is_some() {
                may_drop = false;
                if state.is_first_attempt(&self.envelope, &value, Scenario::DropBeforeDot) {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
        }
        if name == "message" {
            self.raw = value.into();
            return Ok(Ok(()));
        }
        let value = String::from_utf8_lossy(&value).into_owned();
        if name == "to" { Ok(self.add_recipients(&value)) } else { Ok(self.add_parameter(name, value)) }
    }

    /// One address, or a list.
    fn add_recipients(&mut self, value: &str) -> Result<(), SendError> {
        let whole = value.parse::<Mailbox>().map(|only| vec![only]);
        let list = whole.or_else(|_| value.split(',').map(|one| strip_display_name(one).parse()).collect());
        for recipient in list.map_err(|_| bad_request(INVALID_TO_ADDRESS))? {
            if Scenario::for_recipient(&recipient) == Scenario::Reject {
                return Err(bad_request(INVALID_TO_ADDRESS));
            }
            if !self.envelope.recipients.contains(&recipient) {
                self.envelope.recipients.push(recipient);
            }
        }
        Ok(())
    }

    fn add_parameter(&mut self, name: String, value: String) -> Result<(), SendError> {
        self.parameters.push((name, value));
        let size: usize = self.parameters.iter().map(|(name, value)| name.len() + value.len()).sum();
        if size > MAX_PARAMETER_BYTES {
            let text = "Send options (parameters starting with o:, h:, or v:) are limited to 16 kB total";
            return Err(bad_request(text));
        }
        Ok(())
    }

    fn validate(self) -> Result<Self, SendError> {
        match self.envelope.recipients.len() {
            0 => Err(bad_request("to parameter is missing")),
            1..=MAX_RECIPIENTS if self.raw.is_empty() => Err(bad_request("message parameter is missing")),
            1..=MAX_RECIPIENTS => Ok(self),
            _ => Err(bad_request("Too many recipients, max is 1000")),
        }
    }
}

/// Takes a message, or refuses it for now, as its recipients' fates have it.
async fn accept_message(state: &Arc<SandboxState>, form: MessageForm) -> io::Result<Response<Body>> {
    let MessageForm { envelope, parameters, raw } = form;
    // Every one is counted, so that several in one message do not have it refused several times.
    let among =
        |scenario| envelope.recipients.iter().filter(move |to| Scenario::for_recipient(to) == scenario);
    let seen = |to: &Mailbox| state.seen_counter.record_seen(format!("messages.mime {}", to.to_folded()));
    if among(Scenario::DeferSmtp).filter(|to| seen(to) % 3 < 2).count() > 0 {
        // A clear no for now; an error of its own (5xx) would leave open whether it has the message.
        return Ok(json_message(StatusCode::REQUEST_TIMEOUT, "Request Timeout"));
    }
    if among(Scenario::RateLimit).filter(|to| seen(to).is_multiple_of(2)).count() > 0 {
        return Ok(json_message(StatusCode::TOO_MANY_REQUESTS, &state.rate_limit_message()));
    }
    let slow = among(Scenario::Slow).count() > 0;
    let cut = state.is_first_attempt(&envelope, &raw, Scenario::DropAtDot);
    let Some(id) = state.accept_message(envelope, raw, SubmissionOrigin::Http(parameters)) else {
        return Ok(json_message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"));
    };
    if cut {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    if slow {
        state.time_scale.sleep(SLOW_REPLY_SECONDS).await;
    }
    let taken = json!({ "id": format!("<{}>", id.as_str()), "message": "Queued. Thank you." });
    Ok(build_response(StatusCode::OK, "application/json", taken.to_string()))
}

/// The address in `Name <address>`.
fn strip_display_name(text: &str) -> &str {
    let text = text.trim();
    text.strip_suffix('>').and_then(|text| text.rsplit_once('<')).map_or(text, |(_, address)| address)
}

fn bad_request(text: &'static str) -> SendError {
    (StatusCode::BAD_REQUEST, text)
}

fn multipart_error(error: &multer::Error) -> SendError {
    match error {
        multer::Error::StreamSizeExceeded { .. } => {
            (StatusCode::PAYLOAD_TOO_LARGE, "request size exceeds 52.4MiB limit")
        }
        _ => bad_request("malformed multipart/form-data request"),
    }
}

fn json_message(status: StatusCode, text: &str) -> Response<Body> {
    build_response(status, "application/json", json!({ "message": text }).to_string())
}

fn plain_text(status: StatusCode, text: &str) -> Response<Body> {
    build_response(status, "text/plain; charset=utf-8", text.to_owned())
}

fn build_response(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind.parse().expect("the kinds above are fit for a header"));
    response
}

/// Text for unknown paths, with status 200.
pub(crate) const NOT_FOUND_BODY: &str = "Mailgun Magnificent API";
const INVALID_TO_ADDRESS: &str = "'to' parameter is not a valid address. please check documentation";
/// Recipients of one request.
const MAX_RECIPIENTS: usize = 1000;
/// Bytes of all parameters.
const MAX_PARAMETER_BYTES: usize = 16 << 10;
