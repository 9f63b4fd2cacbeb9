//! Brevo's inbound parsing: `{"items": [...]}`, each with its header, its texts, and tokens that its files are fetched by.
//! There is no signature; whoever posts proves himself as with events.

use crate::webhook::inbound::mime_builder::{Attachment, Parsed};
use crate::webhook::inbound::{Intake, Mail, Snag, mailboxes, make};
use crate::webhook::outcome::Answer;
use crate::webhook::{Call, Inbox, Trouble};
use axum::body::Body;
use mail_parser::MessageParser;
use mailtrail_mail::Mailbox;
use mailtrail_net::provider_api::Fault;
use mailtrail_trail::provider;
use mailtrail_trail::provider::lenient;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
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
struct File {
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

impl Inbox {
    /// Keeps every mail of a body. What is kept of a body that cannot be kept as a whole is a duplicate when it comes again.
    pub(super) async fn take_parsed(
        &self,
        call: &Call<'_>,
        intake: &Intake,
        body: Body,
    ) -> Result<Answer, Trouble> {
        let held = match self.room.read(body, LARGEST).await {
            Ok(held) => held,
            Err(unheld) => {
                let answer = unheld.answer();
                return Ok(self.turn_away(call, unheld, answer));
            }
        };
        self.pulse.proved(call.source.upstream());
        let items = match provider::events(&held.bytes) {
            Ok(items) if !items.is_empty() => items,
            Ok(_) => return self.bury(call, "it holds no mail", None, held.bytes.clone()).await,
            Err(error) => return self.bury(call, error, None, held.bytes.clone()).await,
        };
        let mut gravest = Answer::Kept;
        for raw in items {
            let mail = match lenient::value(&raw).and_then(serde_json::from_value::<Item>) {
                Ok(item) => self.mail_of(call, intake, item).await,
                Err(error) => Err(Snag::Never(format!("it is no mail: {error}"))),
            };
            match mail {
                Ok(mail) => self.keep_mail(call, intake, mail).await?,
                Err(Snag::Never(why)) => {
                    gravest = Answer::Buried;
                    self.bury(call, why, None, raw).await?
                }
                Err(Snag::Later(why)) => return Ok(self.turn_away(call, why, Answer::NotNow)),
            };
        }
        Ok(gravest)
    }

    async fn mail_of(&self, call: &Call<'_>, intake: &Intake, item: Item) -> Result<Mail, Snag> {
        let headers = fields(item.headers);
        let first = |name: &str| headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let path = |name| first(name).map(|(_, value)| value.trim().trim_matches(['<', '>']).to_owned());
        let mut recipients = path("Delivered-To").map(|to| mailboxes(&to)).unwrap_or_default();
        if recipients.is_empty() {
            recipients = first("To").map(|(_, value)| named(value)).unwrap_or_default();
        }
        if recipients.is_empty() {
            return Err(Snag::Never("it names no recipient".to_owned()));
        }
        let sender = path("Return-Path").and_then(|sender| sender.parse().ok());
        let _alone = intake.making.acquire().await;
        let files = item.attachments.unwrap_or_default();
        let (attachments, missing_files) = fetch_files(call, intake, files).await?;
        // What the envelope said is said anew to whoever gets the mail.
        let envelope = |name: &str| ["delivered-to", "return-path"].contains(&&*name.to_ascii_lowercase());
        let headers = headers.into_iter().filter(|(name, _)| !envelope(name)).collect();
        let (plain, html) = (item.raw_text_body, item.raw_html_body);
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let parsed = Parsed { headers, plain: filled(plain), html: filled(html), attachments };
        let message = make(&self.store, parsed).await?;
        Ok(Mail { sender, recipients, token: None, message, missing_files })
    }
}

/// Fetches the files of a mail; of those that can never be had it returns the number.
async fn fetch_files(
    call: &Call<'_>,
    intake: &Intake,
    files: Vec<Value>,
) -> Result<(Vec<Attachment>, u32), Snag> {
    let (mut attachments, mut missing, mut room) = (Vec::new(), 0, intake.most());
    for file in files {
        let Some(account) = intake.accounts.get(call.source.upstream()) else {
            return Err(Snag::Later("a file is to be fetched, and this upstream has no api_key".to_owned()));
        };
        let length = |file: &File| file.content_length.as_ref().and_then(Value::as_u64);
        let fits = |file: &File| length(file).is_none_or(|length| length <= room as u64);
        let Some(file) = serde_json::from_value::<File>(file).ok().filter(fits) else {
            missing += 1;
            continue;
        };
        let bytes = match account.attachment(&file.download_token, room).await {
            Ok(bytes) => bytes,
            Err(fault) if is_permanent(&fault) => {
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
fn is_permanent(fault: &Fault) -> bool {
    match fault {
        Fault::Unknown { .. } | Fault::Strange { .. } => true,
        Fault::Refused { status, .. } => (400..500).contains(status),
        _ => false,
    }
}

fn fields(headers: serde_json::Map<String, Value>) -> Vec<(String, String)> {
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
fn named(value: &str) -> Vec<Mailbox> {
    let field = format!("To: {value}\r\n\r\n");
    let parsed = MessageParser::new().with_address_headers().parse_headers(field.as_bytes());
    let to = parsed.as_ref().and_then(|message| message.to());
    to.map(|to| to.iter().filter_map(|addr| addr.address()?.parse().ok()).collect()).unwrap_or_default()
}

/// Bytes of a body: it holds texts, and no files.
const LARGEST: usize = 16 << 20;
