//! Stored forms of accepted messages and of repeated submissions.

use mailtrail_mail::{
    BodyType, DsnParameters, DsnRecipient, Lane, Mailbox, MessageId, Notify, OdooRecord, Ret, Timestamp,
    TrackingId,
};
use mailtrail_trail::{
    AcceptedMessage, DsnAction, DuplicateSubmission, Message, RecipientState, ReportedRecipient,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MessageV1 {
    id: [u8; 16],
    client: String,
    user: Option<String>,
    peer: Option<std::net::IpAddr>,
    sender: Option<String>,
    eight_bit: bool,
    smtputf8: bool,
    message_id: Option<String>,
    subject: String,
    odoo_records: Vec<String>,
    tags: Vec<String>,
    size: u64,
}

impl From<&Message> for MessageV1 {
    fn from(send: &Message) -> Self {
        Self {
            id: send.id.to_bytes(),
            client: send.client.clone(),
            user: send.user.clone(),
            peer: send.peer,
            sender: send.sender.as_ref().map(ToString::to_string),
            eight_bit: send.body_type == BodyType::EightBitMime,
            smtputf8: send.smtputf8,
            message_id: send.message_id.as_ref().map(ToString::to_string),
            subject: send.subject.clone(),
            odoo_records: send.odoo_records.iter().map(ToString::to_string).collect(),
            tags: send.tags.clone(),
            size: send.size,
        }
    }
}

impl MessageV1 {
    pub fn into_domain(self) -> Option<Message> {
        Some(Message {
            user: self.user,
            peer: self.peer,
            sender: self.sender.map(|sender| sender.parse()).transpose().ok()?,
            body_type: if self.eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit },
            smtputf8: self.smtputf8,
            message_id: self.message_id.as_deref().and_then(MessageId::parse),
            subject: self.subject,
            odoo_records: self.odoo_records.iter().filter_map(|record| OdooRecord::parse(record)).collect(),
            tags: self.tags,
            size: self.size,
            ..Message::new(TrackingId::from_bytes(self.id), self.client)
        })
    }
}

/// Version 2: adds the DSN parameters and the data for recognising duplicates.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MessageV2 {
    message: MessageV1,
    dsn: DsnV1,
    wants_dsn: bool,
    dsn_for: Option<ReportedRecipientV1>,
    body_fingerprint: Option<u64>,
}

impl From<&Message> for MessageV2 {
    fn from(send: &Message) -> Self {
        Self {
            message: MessageV1::from(send),
            dsn: DsnV1::from(&send.dsn),
            wants_dsn: send.wants_dsn,
            dsn_for: send.dsn_for.map(ReportedRecipientV1::from),
            body_fingerprint: send.body_fingerprint,
        }
    }
}

impl MessageV2 {
    pub fn into_domain(self) -> Option<Message> {
        Some(Message {
            dsn: self.dsn.into(),
            wants_dsn: self.wants_dsn,
            dsn_for: self.dsn_for.map(ReportedRecipient::from),
            body_fingerprint: self.body_fingerprint,
            ..self.message.into_domain()?
        })
    }
}

/// Version 3: adds the lane and the route.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MessageV3 {
    message: MessageV2,
    bulk: bool,
    route: Option<Box<str>>,
}

impl From<&Message> for MessageV3 {
    fn from(send: &Message) -> Self {
        Self { message: MessageV2::from(send), bulk: send.lane == Lane::Bulk, route: send.route.clone() }
    }
}

impl MessageV3 {
    fn lane(&self) -> Lane {
        if self.bulk { Lane::Bulk } else { Lane::Transactional }
    }

    pub fn into_domain(self) -> Option<Message> {
        Some(Message { lane: self.lane(), route: self.route, ..self.message.into_domain()? })
    }
}

/// Version 4: adds the changes to the message's `List-Unsubscribe`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MessageV4 {
    message: MessageV3,
    list_unsubscribe_rewritten: bool,
}

impl From<&Message> for MessageV4 {
    fn from(send: &Message) -> Self {
        Self { message: MessageV3::from(send), list_unsubscribe_rewritten: send.list_unsubscribe_rewritten }
    }
}

impl MessageV4 {
    pub fn into_domain(self) -> Option<Message> {
        Some(Message {
            list_unsubscribe_rewritten: self.list_unsubscribe_rewritten,
            ..self.message.into_domain()?
        })
    }
}

/// Version 5: adds the other changes to the header section.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MessageV5 {
    message: MessageV4,
    header_changes: Vec<String>,
}

impl From<&Message> for MessageV5 {
    fn from(send: &Message) -> Self {
        Self { message: MessageV4::from(send), header_changes: send.header_changes.clone() }
    }
}

impl MessageV5 {
    /// Returns the DSN action that the sender is due for a recipient in that state, if any.
    pub(crate) fn dsn_action(&self, place: u16, state: RecipientState) -> Option<DsnAction> {
        let MessageV2 { dsn, wants_dsn, .. } = &self.message.message.message;
        let wish = dsn.recipients.iter().find(|wish| wish.recipient_index == place);
        DsnAction::for_state(state, wish.and_then(DsnRecipientV1::notify)).filter(|_| *wants_dsn)
    }

    /// Returns the Message-ID without brackets.
    pub(crate) fn message_id(&self) -> Option<&str> {
        self.base().message_id.as_deref()
    }

    /// Returns the tracking id.
    pub(crate) fn id(&self) -> TrackingId {
        TrackingId::from_bytes(self.base().id)
    }

    /// Returns the submitting user, if the client was logged in.
    pub(crate) fn user(&self) -> Option<&str> {
        self.base().user.as_deref()
    }

    /// Returns the client's IP address.
    pub(crate) fn peer(&self) -> Option<std::net::IpAddr> {
        self.base().peer
    }

    /// Returns the decoded subject.
    pub(crate) fn subject(&self) -> &str {
        &self.base().subject
    }

    pub(crate) fn lane(&self) -> Lane {
        self.message.message.lane()
    }

    pub(crate) fn route(&self) -> Option<Box<str>> {
        self.message.message.route.clone()
    }

    pub(crate) fn into_domain(self) -> Option<Message> {
        Some(Message { header_changes: self.header_changes, ..self.message.into_domain()? })
    }

    /// Returns the fields of version 1.
    fn base(&self) -> &MessageV1 {
        &self.message.message.message.message
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct ReportedRecipientV1 {
    tracking_id: [u8; 16],
    recipient_index: u16,
    is_failure: bool,
}

impl From<ReportedRecipient> for ReportedRecipientV1 {
    fn from(about: ReportedRecipient) -> Self {
        let is_failure = about.action == DsnAction::Failed;
        Self { tracking_id: about.tracking_id.to_bytes(), recipient_index: about.recipient_index, is_failure }
    }
}

impl From<ReportedRecipientV1> for ReportedRecipient {
    fn from(about: ReportedRecipientV1) -> Self {
        let tracking_id = TrackingId::from_bytes(about.tracking_id);
        Self {
            tracking_id,
            recipient_index: about.recipient_index,
            action: dsn_action_from_flag(about.is_failure),
        }
    }
}

/// Decodes the DSN action from the stored flag "is a failure".
pub(crate) fn dsn_action_from_flag(failure: bool) -> DsnAction {
    if failure { DsnAction::Failed } else { DsnAction::Delivered }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DsnV1 {
    ret_full: Option<bool>,
    envid: Option<Box<str>>,
    recipients: Vec<DsnRecipientV1>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DsnRecipientV1 {
    recipient_index: u16,
    /// Success, failure, delay.
    notify: Option<[bool; 3]>,
    orcpt: Option<Box<str>>,
}

impl DsnRecipientV1 {
    fn notify(&self) -> Option<Notify> {
        self.notify.map(|[success, failure, delay]| Notify { success, failure, delay })
    }
}

impl From<&DsnParameters> for DsnV1 {
    fn from(dsn: &DsnParameters) -> Self {
        let recipients = dsn.recipients.iter().map(|(place, wish)| {
            let notify = wish.notify.map(|notify| [notify.success, notify.failure, notify.delay]);
            DsnRecipientV1 { recipient_index: *place, notify, orcpt: wish.orcpt.clone() }
        });
        Self {
            ret_full: dsn.ret.map(|ret| ret == Ret::Full),
            envid: dsn.envid.clone(),
            recipients: recipients.collect(),
        }
    }
}

impl From<DsnV1> for DsnParameters {
    fn from(dsn: DsnV1) -> Self {
        let wish = |wish: DsnRecipientV1| {
            (wish.recipient_index, DsnRecipient { notify: wish.notify(), orcpt: wish.orcpt })
        };
        let recipients = dsn.recipients.into_iter().map(wish);
        Self {
            ret: dsn.ret_full.map(|full| if full { Ret::Full } else { Ret::Headers }),
            envid: dsn.envid,
            recipients: recipients.collect(),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct AcceptedMessageV1 {
    message: MessageV1,
    recipients: Vec<String>,
}

impl AcceptedMessageV1 {
    pub fn into_domain(self) -> Option<AcceptedMessage> {
        Some(AcceptedMessage {
            message: self.message.into_domain()?,
            recipients: parse_mailboxes(&self.recipients)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct AcceptedMessageV2 {
    message: MessageV2,
    recipients: Vec<String>,
}

impl AcceptedMessageV2 {
    pub fn into_domain(self) -> Option<AcceptedMessage> {
        Some(AcceptedMessage {
            message: self.message.into_domain()?,
            recipients: parse_mailboxes(&self.recipients)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct AcceptedMessageV3 {
    message: MessageV3,
    recipients: Vec<String>,
}

impl AcceptedMessageV3 {
    pub fn into_domain(self) -> Option<AcceptedMessage> {
        Some(AcceptedMessage {
            message: self.message.into_domain()?,
            recipients: parse_mailboxes(&self.recipients)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct AcceptedMessageV4 {
    message: MessageV4,
    recipients: Vec<String>,
}

impl AcceptedMessageV4 {
    pub fn into_domain(self) -> Option<AcceptedMessage> {
        Some(AcceptedMessage {
            message: self.message.into_domain()?,
            recipients: parse_mailboxes(&self.recipients)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct AcceptedMessageV5 {
    message: MessageV5,
    recipients: Vec<String>,
}

impl From<&AcceptedMessage> for AcceptedMessageV5 {
    fn from(accepted: &AcceptedMessage) -> Self {
        let recipients = accepted.recipients.iter().map(ToString::to_string).collect();
        Self { message: MessageV5::from(&accepted.message), recipients }
    }
}

impl AcceptedMessageV5 {
    pub fn into_domain(self) -> Option<AcceptedMessage> {
        Some(AcceptedMessage {
            message: self.message.into_domain()?,
            recipients: parse_mailboxes(&self.recipients)?,
        })
    }
}

fn parse_mailboxes(texts: &[String]) -> Option<Vec<Mailbox>> {
    texts.iter().map(|text| text.parse().ok()).collect()
}

#[derive(Serialize, Deserialize)]
pub(crate) struct DuplicateSubmissionV1 {
    id: [u8; 16],
    at: u64,
    peer: Option<std::net::IpAddr>,
    recipients: Vec<u16>,
}

impl From<&DuplicateSubmission> for DuplicateSubmissionV1 {
    fn from(repeated: &DuplicateSubmission) -> Self {
        Self {
            id: repeated.id.to_bytes(),
            at: repeated.at.as_millis(),
            peer: repeated.peer,
            recipients: repeated.recipients.clone(),
        }
    }
}

impl DuplicateSubmissionV1 {
    pub fn into_domain(self) -> DuplicateSubmission {
        DuplicateSubmission {
            id: TrackingId::from_bytes(self.id),
            at: Timestamp::from_millis(self.at),
            peer: self.peer,
            recipients: self.recipients,
        }
    }
}
