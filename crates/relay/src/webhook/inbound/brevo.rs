//! Brevo's inbound parsing: `{"items": [...]}`, each with its header, its texts, and tokens that its files are fetched by.
//! There is no signature; whoever posts proves himself as with events.

use crate::webhook::inbound::mime_builder::{Attachment, MailParts};
use crate::webhook::inbound::{InboundReceiver, IntakeError, ParsedMail, assemble_message, parse_mailboxes};
use crate::webhook::outcome::RequestOutcome;
use crate::webhook::service::{IngestError, RequestContext, WebhookService};
use axum::body::Body;
use mail_parser::MessageParser;
use mailtrail_mail::Mailbox;
use mailtrail_net::provider_api::ApiError;
use mailtrail_trail::provider;
use mailtrail_trail::provider::lenient;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InboundItem {
    /// Names with a value, or several.
    headers: serde_json::Map<String, Value>,
    #[serde(default)]
    raw_text_body: Option<String>,
    #[serde(default)]
    raw_html_body: Option<String>,
    #[serde(default)]
    attachments: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InboundFile {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default, rename = "ContentID")]
    content_id: Option<String>,
    #[serde(default)]
    content_length: Option<Value>,
    download_token: String,
}

impl WebhookService {
    /// Keeps every mail of a body. What is kept of a body that cannot be kept as a whole is a duplicate when it comes again.
    pub(super) async fn receive_brevo_mail(
        &self,
        call: &RequestContext<'_>,
        intake: &InboundReceiver,
        body: Body,
    ) -> Result<RequestOutcome, IngestError> {
        let held = match self.body_budget.read_body(body, MAX_BODY_BYTES).await {
            Ok(held) => held,
            Err(unheld) => {
                let answer = unheld.outcome();
                return Ok(self.reject(call, unheld, answer));
            }
        };
        self.activity.record_valid_signature(call.source.upstream());
        let items = match provider::split_events(&held.bytes) {
            Ok(items) if !items.is_empty() => items,
            Ok(_) => return self.store_dead_letter(call, "it holds no mail", None, held.bytes.clone()).await,
            Err(error) => return self.store_dead_letter(call, error, None, held.bytes.clone()).await,
        };
        let mut gravest = RequestOutcome::Stored;
        for raw in items {
            let mail = match lenient::parse_value(&raw).and_then(serde_json::from_value::<InboundItem>) {
                Ok(item) => self.parse_item(call, intake, item).await,
                Err(error) => Err(IntakeError::Permanent(format!("it is no mail: {error}"))),
            };
            match mail {
                Ok(mail) => self.store_mail(call, intake, mail).await?,
                Err(IntakeError::Permanent(why)) => {
                    gravest = RequestOutcome::DeadLettered;
                    self.store_dead_letter(call, why, None, raw).await?
                }
                Err(IntakeError::Temporary(why)) => {
                    return Ok(self.reject(call, why, RequestOutcome::Unavailable));
                }
            };
        }
        Ok(gravest)
    }

    async fn parse_item(
        &self,
        call: &RequestContext<'_>,
        intake: &InboundReceiver,
        item: InboundItem,
    ) -> Result<ParsedMail, IntakeError> {
        let headers = header_fields(item.headers);
        let first = |name: &str| headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let path = |name| first(name).map(|(_, value)| value.trim().trim_matches(['<', '>']).to_owned());
        let mut recipients = path("Delivered-To").map(|to| parse_mailboxes(&to)).unwrap_or_default();
        if recipients.is_empty() {
            recipients = first("To").map(|(_, value)| parse_addresses(value)).unwrap_or_default();
        }
        if recipients.is_empty() {
            return Err(IntakeError::Permanent("it names no recipient".to_owned()));
        }
        let sender = path("Return-Path").and_then(|sender| sender.parse().ok());
        let _alone = intake.assembly_permits.acquire().await;
        let files = item.attachments.unwrap_or_default();
        let (attachments, missing_files) = fetch_attachments(call, intake, files).await?;
        // What the envelope said is said anew to whoever gets the mail.
        let envelope = |name: &str| ["delivered-to", "return-path"].contains(&&*name.to_ascii_lowercase());
        let headers = headers.into_iter().filter(|(name, _)| !envelope(name)).collect();
        let (plain, html) = (item.raw_text_body, item.raw_html_body);
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let parsed = MailParts { headers, plain: filled(plain), html: filled(html), attachments };
        let message = assemble_message(&self.store, parsed).await?;
        Ok(ParsedMail { sender, recipients, token: None, message, missing_files })
    }
}

/// Fetches the files of a mail; of those that can never be had it returns the number.
async fn fetch_attachments(
    call: &RequestContext<'_>,
    intake: &InboundReceiver,
    files: Vec<Value>,
) -> Result<(Vec<Attachment>, u32), IntakeError> {
    let (mut attachments, mut missing, mut room) = (Vec::new(), 0, intake.max_bytes());
    for file in files {
        let Some(account) = intake.provider_apis.get(call.source.upstream()) else {
            return Err(IntakeError::Temporary(
                "a file is to be fetched, and this upstream has no api_key".to_owned(),
            ));
        };
        let length = |file: &InboundFile| file.content_length.as_ref().and_then(Value::as_u64);
        let fits = |file: &InboundFile| length(file).is_none_or(|length| length <= room as u64);
        let Some(file) = serde_json::from_value::<InboundFile>(file).ok().filter(fits) else {
            missing += 1;
            continue;
        };
        let bytes = match account.fetch_attachment(&file.download_token, room).await {
            Ok(bytes) => bytes,
            Err(fault) if is_permanent_error(&fault) => {
                missing += 1;
                continue;
            }
            Err(fault) => return Err(fault.into()),
        };
        room -= bytes.len().min(room);
        attachments.push(Attachment {
            name: file.name,
            content_type: file.content_type.unwrap_or_default(),
            content_id: file.content_id.map(|id| id.trim_matches(['<', '>']).to_owned()),
            bytes,
        });
    }
    Ok((attachments, missing))
}

/// Whether asking for that file again cannot help: it is gone, or larger than may be. The mail is worth more without it.
fn is_permanent_error(fault: &ApiError) -> bool {
    match fault {
        ApiError::NotFound { .. } | ApiError::UnexpectedResponse { .. } => true,
        ApiError::Rejected { status, .. } => (400..500).contains(status),
        _ => false,
    }
}

fn header_fields(headers: serde_json::Map<String, Value>) -> Vec<(String, String)> {
    let values = |value: Value| match value {
        Value::Array(values) => values,
        value => vec![value],
    };
    let all = headers
        .into_iter()
        .flat_map(|(name, value)| values(value).into_iter().map(move |value| (name.clone(), value)));
    all.filter_map(|(name, value)| Some((name, value.as_str()?.to_owned()))).collect()
}

/// The addresses of a `To`.
fn parse_addresses(value: &str) -> Vec<Mailbox> {
    let field = format!("To: {value}\r\n\r\n");
    let parsed = MessageParser::new().with_address_headers().parse_headers(field.as_bytes());
    let to = parsed.as_ref().and_then(|message| message.to());
    to.map(|to| to.iter().filter_map(|addr| addr.address()?.parse().ok()).collect()).unwrap_or_default()
}

/// Bytes of a body: it holds texts, and no files.
const MAX_BODY_BYTES: usize = 16 << 20;
