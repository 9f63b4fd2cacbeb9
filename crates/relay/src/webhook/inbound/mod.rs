//! Receives inbound mail from a provider: authenticates it, commits every byte, and only then answers.
//!
//! Mailgun's routes post it raw (`/inbound/<upstream>/mime`) or in parts, or store it for a download; Brevo posts
//! parts. A message in parts is rebuilt. Nothing is discarded: a message that must not be delivered is stored with the
//! reason.

mod brevo;
mod disposition;
mod form_stream;
mod loop_detection;
mod mime_builder;
mod receiver;

pub use receiver::{InboundReceiver, InboundRules};

use crate::webhook::body::{BodyError as Unheld, has_content_coding};
use crate::webhook::inbound::form_stream::{FormError, FormUpload};
use crate::webhook::inbound::mime_builder::{Attachment, MailParts, build_mime};
use crate::webhook::inbound::receiver::MAX_CONCURRENT;
use crate::webhook::outcome::RequestOutcome;
use crate::webhook::service::{IngestError, RequestContext, WebhookService};
use crate::webhook::source::SourceKind;
use axum::body::Body;
use bytes::Bytes;
use mailtrail_mail::{HeaderSection, Mailbox, MessageId, Secret, Timestamp, TrackingId, decode_subject};
use mailtrail_net::provider_api::ApiError;
use mailtrail_smtp::Decoder;
use mailtrail_store::{MessageBody, ReadError, Store};
use mailtrail_trail::InboundReceived;
use mailtrail_trail::provider::{TRACKING_ID_HEADER, lenient, mailgun};
use std::collections::HashMap;
use std::io;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// A mail as it came.
struct ParsedMail {
    sender: Option<Mailbox>,
    recipients: Vec<Mailbox>,
    token: Option<(String, Timestamp, [u8; 16])>,
    message: MessageBody,
    /// Files that were announced and cannot be had.
    missing_files: u32,
}

/// Why a mail cannot be taken.
enum IntakeError {
    /// It never can.
    Permanent(String),
    /// Not now.
    Temporary(String),
}

impl From<io::Error> for IntakeError {
    fn from(error: io::Error) -> Self {
        Self::Temporary(format!("the mail cannot be kept: {error}"))
    }
}

impl From<ApiError> for IntakeError {
    fn from(fault: ApiError) -> Self {
        Self::Temporary(fault.to_string())
    }
}

impl WebhookService {
    /// Takes a mail in. It came to the path for raw mail, or else to that for any.
    pub(super) async fn receive_mail(
        &self,
        call: &RequestContext<'_>,
        raw_path: bool,
        body: Body,
    ) -> RequestOutcome {
        let kind = &call.source.kind;
        let Some(intake) = &self.inbound else {
            let why = "mail from outside comes, and no [[inbound.target]] says where it goes";
            return self.reject(call, why, RequestOutcome::Unavailable);
        };
        if kind.is_verified_by_body()
            && self.rejections.is_blocked(call.client, call.source_index, Instant::now())
        {
            return RequestOutcome::RateLimited;
        }
        if let Err(answer) = self.check_credentials(call) {
            return answer;
        }
        if has_content_coding(&call.headers) {
            return self.reject(call, Unheld::UnsupportedEncoding, RequestOutcome::UnsupportedEncoding);
        }
        let Ok(_place) = intake.receive_permits.try_acquire() else {
            return self.reject(
                call,
                format!("{MAX_CONCURRENT} mails from outside come in already"),
                RequestOutcome::Unavailable,
            );
        };
        let taken = match kind {
            SourceKind::Mailgun { keys } => {
                self.receive_mailgun_route(call, intake, keys, raw_path, body).await
            }
            SourceKind::Brevo(_) => self.receive_brevo_mail(call, intake, body).await,
            SourceKind::Generic { .. } | SourceKind::ActiveCampaign { .. } => Ok(RequestOutcome::Rejected),
        };
        taken.unwrap_or_else(|trouble| {
            let trouble = format!("a mail cannot be kept, its sender is asked to repeat it: {trouble}");
            self.reject(call, trouble, RequestOutcome::Unavailable)
        })
    }

    async fn receive_mailgun_route(
        &self,
        call: &RequestContext<'_>,
        intake: &InboundReceiver,
        keys: &[Secret],
        raw_path: bool,
        body: Body,
    ) -> Result<RequestOutcome, IngestError> {
        let content_type = call.headers.get("content-type").and_then(|value| value.to_str().ok());
        let read =
            FormUpload::read_form(body, content_type.unwrap_or_default(), &self.store, intake.rules.max_size);
        let mut upload = match timeout(RECEIVE_TIMEOUT, read).await {
            Ok(Ok(upload)) => upload,
            Ok(Err(unread)) => {
                let answer = match unread {
                    FormError::TooLarge(_) => RequestOutcome::TooLarge,
                    FormError::NotAForm(_) => RequestOutcome::Rejected,
                    FormError::Interrupted(_) => RequestOutcome::Malformed,
                    FormError::Disk(_) => RequestOutcome::Unavailable,
                };
                return Ok(self.reject(call, unread, answer));
            }
            Err(_) => {
                let why = format!("the mail did not come within {} s", RECEIVE_TIMEOUT.as_secs());
                return Ok(self.reject(call, why, RequestOutcome::Unavailable));
            }
        };
        let claim =
            ["timestamp", "token", "signature"].map(|name| upload.last_text(name).unwrap_or_default());
        let (token, signed_at) =
            match mailgun::verify_form(claim.each_ref().map(String::as_str), keys, call.now) {
                Ok(genuine) => genuine,
                Err(refused) => return Ok(self.reject_mailgun(call, refused)),
            };
        // No report came: mail that goes out may still be without events.
        self.activity.record_valid_signature(call.source.upstream());
        self.activity.record_signature_age(call.source.upstream(), call.now, signed_at);
        match self.store.webhook_token(call.source.upstream(), &token, signed_at)? {
            Some(used) if used == upload.digest => return Ok(RequestOutcome::Duplicate),
            Some(_) => return Ok(self.reject(call, REPLAYED_TEXT, RequestOutcome::Rejected)),
            None => {}
        }
        let recipients = parse_mailboxes(&upload.first_text("recipient").unwrap_or_default());
        if recipients.is_empty() {
            return Ok(self.reject(call, "the form names no recipient", RequestOutcome::Rejected));
        }
        let token = Some((token, signed_at, upload.digest));
        let sender = upload.first_text("sender").and_then(|sender| sender.parse().ok());
        match self.extract_message(call, intake, &mut upload, raw_path).await {
            Ok((message, missing_files)) => {
                let mail = ParsedMail { sender, recipients, token, message, missing_files };
                self.store_mail(call, intake, mail).await
            }
            Err(IntakeError::Permanent(why)) => Ok(self.reject(call, why, RequestOutcome::Rejected)),
            Err(IntakeError::Temporary(why)) => Ok(self.reject(call, why, RequestOutcome::Unavailable)),
        }
    }

    /// The mail of a form: raw, fetched, or made anew; and how many of its files are missing.
    async fn extract_message(
        &self,
        call: &RequestContext<'_>,
        intake: &InboundReceiver,
        upload: &mut FormUpload,
        raw_path: bool,
    ) -> Result<(MessageBody, u32), IntakeError> {
        let headers = upload.last_text("message-headers");
        // In a parsed mail anybody may have put a field of that name into the header.
        if let Some(raw) = upload.take_raw_message().filter(|_| raw_path || headers.is_none()) {
            return Ok((raw, 0));
        }
        let _alone = intake.assembly_permits.acquire().await;
        if let Some(url) = upload.last_text("message-url") {
            let Some(account) = intake.provider_apis.get(call.source.upstream()) else {
                let why = "a stored mail is to be fetched, and this upstream has no api_key";
                return Err(IntakeError::Temporary(why.to_owned()));
            };
            let message = account.fetch_stored_message(&url, intake.max_bytes()).await?;
            return Ok((MessageBody::from(Bytes::from(message)), 0));
        }
        let Some(headers) = headers else {
            return Err(IntakeError::Permanent("the form holds no mail".to_owned()));
        };
        let Ok(headers) = lenient::parse_borrowed(headers.as_bytes(), &mut String::new()) else {
            return Err(IntakeError::Permanent(
                "the form's message-headers are no list of names and values".to_owned(),
            ));
        };
        let parsed = MailParts {
            headers,
            plain: text_field(upload, "body-plain")?,
            html: text_field(upload, "body-html")?,
            attachments: collect_attachments(upload)?,
        };
        Ok((assemble_message(&self.store, parsed).await?, upload.count_missing_files()))
    }

    /// Keeps a mail, once for each of its recipients, and then answers. The token is used with the last of them: until then
    /// the mail may come again, and those that are kept are known by its Message-ID.
    async fn store_mail(
        &self,
        call: &RequestContext<'_>,
        intake: &InboundReceiver,
        mail: ParsedMail,
    ) -> Result<RequestOutcome, IngestError> {
        let header = normalize_crlf(mail.message.head());
        let block = HeaderSection::parse_after_mbox_lines(&header);
        let message_id = block.find_field("Message-ID").and_then(|field| MessageId::parse(&field.to_text()));
        let subject = decode_subject(block.as_bytes());
        let returned = self.is_own_dsn(&block)?;
        if mail.missing_files > 0 {
            let (source, missing) = (&call.source.name, mail.missing_files);
            tracing::warn!(
                source,
                missing,
                "files of a mail from outside are missing; `mailtrail inbound list` names it"
            );
        }
        for (left, recipient) in (0..mail.recipients.len()).rev().zip(&mail.recipients) {
            let quarantine_reason = match returned {
                true => Some("a report of our own that came back".to_owned()),
                false => loop_detection::hold_reason(&block, recipient, intake.rules.auto_replies),
            };
            if let Some(why) = &quarantine_reason {
                let (source, recipient) = (&call.source.name, recipient.as_str());
                tracing::warn!(
                    source,
                    recipient,
                    why,
                    "a mail from outside is kept back; `mailtrail inbound dead` lists it"
                );
            }
            let arrival = InboundReceived {
                id: intake.id_generator.generate(call.now, fastrand::u128(..)),
                upstream: call.source.upstream().to_owned(),
                token: mail.token.clone().filter(|_| left == 0),
                sender: mail.sender.clone(),
                recipient: recipient.clone(),
                message_id: message_id.clone(),
                subject: subject.clone(),
                size: mail.message.size(),
                dedup_window: intake.rules.dedup_window,
                quarantine_reason,
                missing_files: mail.missing_files,
            };
            self.store.put_inbound(arrival, mail.message.clone()).await?;
        }
        let upstream = call.source.upstream().to_owned();
        metrics::counter!("mailtrail_inbound_total", "upstream" => upstream, "outcome" => "kept")
            .increment(mail.recipients.len() as u64);
        Ok(RequestOutcome::Stored)
    }

    /// Whether that is the header of a report which we made ourselves.
    fn is_own_dsn(&self, block: &HeaderSection<'_>) -> Result<bool, ReadError> {
        let id: Option<TrackingId> =
            block.find_field(TRACKING_ID_HEADER).and_then(|field| field.to_text().parse().ok());
        let send = id.map(|id| self.store.load_message(id)).transpose()?.flatten();
        Ok(send.is_some_and(|send| send.dsn_for.is_some()))
    }
}

/// Makes a mail of its parts, off the runtime's threads.
async fn assemble_message(store: &Store, parsed: MailParts) -> Result<MessageBody, IntakeError> {
    let store = store.clone();
    let made = tokio::task::spawn_blocking(move || {
        let mail = build_mime(parsed);
        if mail.len() <= MAX_IN_MEMORY_BYTES {
            return Ok::<_, io::Error>(MessageBody::from(Bytes::from(mail)));
        }
        let mut rest = store.create_spill_file()?;
        rest.append(&mail[MAX_IN_MEMORY_BYTES..])?;
        Ok(MessageBody::new(Bytes::copy_from_slice(&mail[..MAX_IN_MEMORY_BYTES]), Some(rest)))
    });
    Ok(made.await.map_err(io::Error::other)??)
}

fn text_field(upload: &FormUpload, name: &str) -> io::Result<Option<String>> {
    let bytes = upload.read_field(name)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.is_empty()))
}

/// The files of a form, with what the HTML names them by.
fn collect_attachments(upload: &FormUpload) -> io::Result<Vec<Attachment>> {
    let map: HashMap<String, String> = upload
        .last_text("content-id-map")
        .and_then(|map| serde_json::from_str(&map).ok())
        .unwrap_or_default();
    let id_of = |field: &str| {
        let found = map.iter().find(|(_, known)| *known == field).map(|(id, _)| id);
        found.map(|id| id.trim_matches(['<', '>']).to_owned())
    };
    let files = upload.files().map(|(field, file)| {
        Ok(Attachment {
            name: file.name.clone(),
            content_type: file.content_type.clone(),
            content_id: id_of(&field.name),
            bytes: upload.read_bytes(field)?,
        })
    });
    files.collect()
}

/// What stands between commas.
fn parse_mailboxes(text: &str) -> Vec<Mailbox> {
    text.split(',').filter_map(|address| address.trim().parse().ok()).collect()
}

/// The beginning of a message with CRLF line ends, so that its header can be read.
fn normalize_crlf(message: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(message.len());
    let mut decoder = Decoder::for_bdat(u64::MAX);
    decoder.feed(message, &mut whole);
    decoder.finish(&mut whole);
    whole
}

const REPLAYED_TEXT: &str = "the signature was used before with another body: a replay";
/// Bytes of a mail that was made anew that are kept in memory until it is written.
const MAX_IN_MEMORY_BYTES: usize = 256 << 10;
/// For a whole mail.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(300);
