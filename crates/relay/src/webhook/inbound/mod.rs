//! Mail from outside that a provider brings: proven genuine, kept with every byte, and only then answered.
//!
//! Mailgun's routes post it raw (`/inbound/<upstream>/mime`), in parts, or leave it to be fetched; Brevo posts parts. One
//! that comes in parts is made anew. Nothing is thrown away here: what must not be delivered is kept with the reason.

mod brevo;
mod disposition;
mod form_stream;
mod loop_detection;
mod mime_builder;

use crate::webhook::body::{Unread as Unheld, is_coded};
use crate::webhook::inbound::form_stream::{Unread, Upload};
use crate::webhook::inbound::mime_builder::{Attachment, Parsed, rebuild};
use crate::webhook::outcome::Answer;
use crate::webhook::source::Kind;
use crate::webhook::{Call, Inbox, Trouble};
use axum::body::Body;
use bytes::Bytes;
use mailtrail_mail::{HeaderBlock, Mailbox, MessageId, Mint, Secret, Timestamp, TrackingId, subject};
use mailtrail_net::provider_api::{Account, Fault};
use mailtrail_smtp::Decoder;
use mailtrail_store::{Message, ReadError, Store};
use mailtrail_trail::Arrival;
use mailtrail_trail::provider::{OWN_ID_HEADER, lenient, mailgun};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// What holds for mail from outside, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailRules {
    /// Bytes of a mail, or of its parts. Default 40 MiB, 64 KiB to 200 MiB.
    pub size: u64,
    /// A mail with the same Message-ID and recipient that came so shortly before is the same one; zero: none is. Default
    /// 1 day.
    pub duplicates: Duration,
    /// Whether machines' answers are delivered. Default no.
    pub auto_replies: bool,
}

impl Default for MailRules {
    fn default() -> Self {
        Self { size: 40 << 20, duplicates: Duration::from_secs(86_400), auto_replies: false }
    }
}

/// What takes in mail from outside.
pub struct Intake {
    rules: MailRules,
    /// By upstream.
    accounts: BTreeMap<String, Account>,
    mint: Arc<Mint>,
    places: Semaphore,
    /// For what holds a whole mail in memory.
    making: Semaphore,
}

impl Intake {
    /// By these rules; `accounts` are the upstreams' own, where their keys are known.
    pub fn new(rules: MailRules, accounts: BTreeMap<String, Account>, mint: Arc<Mint>) -> Self {
        Self { rules, accounts, mint, places: Semaphore::new(PLACES), making: Semaphore::new(1) }
    }

    /// Bytes of a mail, as far as memory reaches.
    fn most(&self) -> usize {
        usize::try_from(self.rules.size).unwrap_or(usize::MAX)
    }
}

/// A mail as it came.
struct Mail {
    sender: Option<Mailbox>,
    recipients: Vec<Mailbox>,
    token: Option<(String, Timestamp, [u8; 16])>,
    message: Message,
    /// Files that were announced and cannot be had.
    missing_files: u32,
}

/// Why a mail cannot be taken.
enum Snag {
    /// It never can.
    Never(String),
    /// Not now.
    Later(String),
}

impl From<io::Error> for Snag {
    fn from(error: io::Error) -> Self {
        Self::Later(format!("the mail cannot be kept: {error}"))
    }
}

impl From<Fault> for Snag {
    fn from(fault: Fault) -> Self {
        Self::Later(fault.to_string())
    }
}

impl Inbox {
    /// Takes a mail in. It came to the path for raw mail, or else to that for any.
    pub(super) async fn take_mail(&self, call: &Call<'_>, raw_path: bool, body: Body) -> Answer {
        let kind = &call.source.kind;
        let Some(intake) = &self.intake else {
            let why = "mail from outside comes, and no [[inbound.target]] says where it goes";
            return self.turn_away(call, why, Answer::NotNow);
        };
        if kind.is_known_by_body() && self.refusals.turn_away(call.client, call.place, Instant::now()) {
            return Answer::Limited;
        }
        if let Err(answer) = self.admit(call) {
            return answer;
        }
        if is_coded(&call.headers) {
            return self.turn_away(call, Unheld::Coded, Answer::Coded);
        }
        let Ok(_place) = intake.places.try_acquire() else {
            return self.turn_away(
                call,
                format!("{PLACES} mails from outside come in already"),
                Answer::NotNow,
            );
        };
        let taken = match kind {
            Kind::Mailgun { keys } => self.take_route(call, intake, keys, raw_path, body).await,
            Kind::Brevo(_) => self.take_parsed(call, intake, body).await,
            Kind::Generic { .. } | Kind::ActiveCampaign { .. } => Ok(Answer::Refused),
        };
        taken.unwrap_or_else(|trouble| {
            let trouble = format!("a mail cannot be kept, its sender is asked to repeat it: {trouble}");
            self.turn_away(call, trouble, Answer::NotNow)
        })
    }

    async fn take_route(
        &self,
        call: &Call<'_>,
        intake: &Intake,
        keys: &[Secret],
        raw_path: bool,
        body: Body,
    ) -> Result<Answer, Trouble> {
        let content_type = call.headers.get("content-type").and_then(|value| value.to_str().ok());
        let read = Upload::read(body, content_type.unwrap_or_default(), &self.store, intake.rules.size);
        let mut upload = match timeout(TIME, read).await {
            Ok(Ok(upload)) => upload,
            Ok(Err(unread)) => {
                let answer = match unread {
                    Unread::TooLarge(_) => Answer::TooLarge,
                    Unread::NoForm(_) => Answer::Refused,
                    Unread::Broken(_) => Answer::Malformed,
                    Unread::Disk(_) => Answer::NotNow,
                };
                return Ok(self.turn_away(call, unread, answer));
            }
            Err(_) => {
                let why = format!("the mail did not come within {} s", TIME.as_secs());
                return Ok(self.turn_away(call, why, Answer::NotNow));
            }
        };
        let claim = ["timestamp", "token", "signature"].map(|name| upload.last(name).unwrap_or_default());
        let (token, signed_at) =
            match mailgun::authenticate(claim.each_ref().map(String::as_str), keys, call.now) {
                Ok(genuine) => genuine,
                Err(refused) => return Ok(self.refuse_mailgun(call, refused)),
            };
        // No report came: mail that goes out may still be without events.
        self.pulse.proved(call.source.upstream());
        self.pulse.signed(call.source.upstream(), call.now, signed_at);
        match self.store.token(call.source.upstream(), &token, signed_at)? {
            Some(used) if used == upload.digest => return Ok(Answer::Known),
            Some(_) => return Ok(self.turn_away(call, REPLAYED, Answer::Refused)),
            None => {}
        }
        let recipients = mailboxes(&upload.first("recipient").unwrap_or_default());
        if recipients.is_empty() {
            return Ok(self.turn_away(call, "the form names no recipient", Answer::Refused));
        }
        let token = Some((token, signed_at, upload.digest));
        let sender = upload.first("sender").and_then(|sender| sender.parse().ok());
        match self.message_of(call, intake, &mut upload, raw_path).await {
            Ok((message, missing_files)) => {
                let mail = Mail { sender, recipients, token, message, missing_files };
                self.keep_mail(call, intake, mail).await
            }
            Err(Snag::Never(why)) => Ok(self.turn_away(call, why, Answer::Refused)),
            Err(Snag::Later(why)) => Ok(self.turn_away(call, why, Answer::NotNow)),
        }
    }

    /// The mail of a form: raw, fetched, or made anew; and how many of its files are missing.
    async fn message_of(
        &self,
        call: &Call<'_>,
        intake: &Intake,
        upload: &mut Upload,
        raw_path: bool,
    ) -> Result<(Message, u32), Snag> {
        let headers = upload.last("message-headers");
        // In a parsed mail anybody may have put a field of that name into the header.
        if let Some(raw) = upload.take_raw().filter(|_| raw_path || headers.is_none()) {
            return Ok((raw, 0));
        }
        let _alone = intake.making.acquire().await;
        if let Some(url) = upload.last("message-url") {
            let Some(account) = intake.accounts.get(call.source.upstream()) else {
                let why = "a stored mail is to be fetched, and this upstream has no api_key";
                return Err(Snag::Later(why.to_owned()));
            };
            let message = account.stored(&url, intake.most()).await?;
            return Ok((Message::from(Bytes::from(message)), 0));
        }
        let Some(headers) = headers else { return Err(Snag::Never("the form holds no mail".to_owned())) };
        let Ok(headers) = lenient::read(headers.as_bytes(), &mut String::new()) else {
            return Err(Snag::Never("the form's message-headers are no list of names and values".to_owned()));
        };
        let parsed = Parsed {
            headers,
            plain: text(upload, "body-plain")?,
            html: text(upload, "body-html")?,
            attachments: attachments(upload)?,
        };
        Ok((make(&self.store, parsed).await?, upload.missing_files()))
    }

    /// Keeps a mail, once for each of its recipients, and then answers. The token is used with the last of them: until then
    /// the mail may come again, and those that are kept are known by its Message-ID.
    async fn keep_mail(&self, call: &Call<'_>, intake: &Intake, mail: Mail) -> Result<Answer, Trouble> {
        let header = whole_line_ends(mail.message.first());
        let block = HeaderBlock::behind_mbox_lines(&header);
        let message_id = block.first("Message-ID").and_then(|field| MessageId::parse(&field.text()));
        let subject = subject(block.bytes());
        let returned = self.is_own_report(&block)?;
        if mail.missing_files > 0 {
            let (source, missing) = (&call.source.name, mail.missing_files);
            tracing::warn!(
                source,
                missing,
                "files of a mail from outside are missing; `mailtrail inbound list` names it"
            );
        }
        for (left, recipient) in (0..mail.recipients.len()).rev().zip(&mail.recipients) {
            let held = match returned {
                true => Some("a report of our own that came back".to_owned()),
                false => loop_detection::against(&block, recipient, intake.rules.auto_replies),
            };
            if let Some(why) = &held {
                let (source, recipient) = (&call.source.name, recipient.as_str());
                tracing::warn!(
                    source,
                    recipient,
                    why,
                    "a mail from outside is kept back; `mailtrail inbound dead` lists it"
                );
            }
            let arrival = Arrival {
                id: intake.mint.next(call.now, fastrand::u128(..)),
                upstream: call.source.upstream().to_owned(),
                token: mail.token.clone().filter(|_| left == 0),
                sender: mail.sender.clone(),
                recipient: recipient.clone(),
                message_id: message_id.clone(),
                subject: subject.clone(),
                size: mail.message.size(),
                window: intake.rules.duplicates,
                held,
                missing_files: mail.missing_files,
            };
            self.store.take_in(arrival, mail.message.clone()).await?;
        }
        let upstream = call.source.upstream().to_owned();
        metrics::counter!("mailtrail_inbound_total", "upstream" => upstream, "outcome" => "kept")
            .increment(mail.recipients.len() as u64);
        Ok(Answer::Kept)
    }

    /// Whether that is the header of a report which we made ourselves.
    fn is_own_report(&self, block: &HeaderBlock<'_>) -> Result<bool, ReadError> {
        let id: Option<TrackingId> = block.first(OWN_ID_HEADER).and_then(|field| field.text().parse().ok());
        let send = id.map(|id| self.store.send(id)).transpose()?.flatten();
        Ok(send.is_some_and(|send| send.about.is_some()))
    }
}

/// Makes a mail of its parts, off the runtime's threads.
async fn make(store: &Store, parsed: Parsed) -> Result<Message, Snag> {
    let store = store.clone();
    let made = tokio::task::spawn_blocking(move || {
        let mail = rebuild(parsed);
        if mail.len() <= LARGE {
            return Ok::<_, io::Error>(Message::from(Bytes::from(mail)));
        }
        let mut rest = store.spill()?;
        rest.append(&mail[LARGE..])?;
        Ok(Message::new(Bytes::copy_from_slice(&mail[..LARGE]), Some(rest)))
    });
    Ok(made.await.map_err(io::Error::other)??)
}

fn text(upload: &Upload, name: &str) -> io::Result<Option<String>> {
    let bytes = upload.whole(name)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.is_empty()))
}

/// The files of a form, with what the HTML names them by.
fn attachments(upload: &Upload) -> io::Result<Vec<Attachment>> {
    let map: HashMap<String, String> =
        upload.last("content-id-map").and_then(|map| serde_json::from_str(&map).ok()).unwrap_or_default();
    let id_of = |field: &str| {
        let found = map.iter().find(|(_, known)| *known == field).map(|(id, _)| id);
        found.map(|id| id.trim_matches(['<', '>']).to_owned())
    };
    let files = upload.files().map(|(field, file)| {
        Ok(Attachment {
            name: file.name.clone(),
            content_type: file.content_type.clone(),
            content_id: id_of(&field.name),
            bytes: upload.bytes(field)?,
        })
    });
    files.collect()
}

/// What stands between commas.
fn mailboxes(text: &str) -> Vec<Mailbox> {
    text.split(',').filter_map(|address| address.trim().parse().ok()).collect()
}

/// The beginning of a message with CRLF line ends, so that its header can be read.
fn whole_line_ends(message: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(message.len());
    let mut decoder = Decoder::of_chunks(u64::MAX);
    decoder.feed(message, &mut whole);
    decoder.finish(&mut whole);
    whole
}

const REPLAYED: &str = "the signature was used before with another body: a replay";
/// Mails that come in at once; each may hold half a MiB in memory.
const PLACES: usize = 16;
/// Bytes of a mail that was made anew that are kept in memory until it is written.
const LARGE: usize = 256 << 10;
/// For a whole mail.
const TIME: Duration = Duration::from_secs(300);
