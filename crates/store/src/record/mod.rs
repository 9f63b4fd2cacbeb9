//! What the journal holds, in its own types. A shape that is written once stays readable: a change makes a new
//! version beside it.

mod contact_hint;
mod inbound;
mod operator_action;
mod suppression;

pub(crate) use contact_hint::HintedV1;
pub(crate) use inbound::{ArrivalV1, LegV1};
pub(crate) use suppression::DossierRow;

use crate::journal::Place;
use crate::log_reader::Cursor;
use crate::record::inbound::{InboundV1, InboundV2, InboundV3};
use crate::record::operator_action::OrderedV1;
use crate::record::suppression::{ListingV1, ListingV2};
use crate::sink_cursor::{Delayed, Handed};
use mailtrail_mail::{
    BodyType, Dsn, DsnRecipient, Lane, Mailbox, MessageId, Notify, Record as OdooRecord, Ret, Timestamp,
    TrackingId,
};
use mailtrail_trail::suppression::Listing;
use mailtrail_trail::{
    About, Accepted, Action, Begun, Dead, Erased, Event, Hinted, Inbound, Kind, Notice, Occasion, Ordered,
    Outcome, Polled, Repeated, Replay, Send, Settled, Standing, State, Switch, Verb, Via, Words,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One record of the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A send was accepted; its message is the record's body.
    Accepted(Box<Accepted>),
    /// An attempt is about to send the message.
    Begun(Begun),
    /// An attempt ended.
    Outcome(Outcome),
    /// A provider's report came; its raw form is the record's body.
    Notice(Box<Notice>),
    /// A client handed a send in again.
    Repeated(Repeated),
    /// An operator changed what becomes of a send.
    Action(Action),
    /// An operator opened or closed a breaker.
    Switch(Switch),
    /// A sink took what the journal has for it.
    Handed(Box<Handed>),
    /// A provider was asked for its events.
    Polled(Polled),
    /// A hint about a contact came; its raw form is the record's body.
    Hint(Box<Hinted>),
    /// A provider's report came that cannot be understood; its raw form is the record's body.
    Dead(Box<Dead>),
    /// An operator had a report read anew.
    Replay(Box<Replay>),
    /// An address was put on a suppression list, or taken off.
    Listing(Box<Listing>),
    /// A mail from outside came, with its message as the record's body; or it went on.
    Inbound(Box<Inbound>),
    /// An operator had an address erased.
    Erased(Box<Erased>),
    /// An operator had the relay do something.
    Ordered(Box<Ordered>),
}

/// A record in the journal.
#[derive(Clone, Debug)]
pub struct Kept {
    /// What it says.
    pub record: Record,
    /// Where it is.
    pub place: Place,
    /// Bytes of its body there.
    pub body: u32,
}

/// A record that cannot be read: written by a newer version, or damaged in a way its checksum did not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("journal record of kind {kind}, version {version} cannot be read by this version of mailtrail")]
pub struct UnknownRecord {
    kind: u8,
    version: u8,
    /// Whether this version knows no such kind in that version.
    pub is_newer: bool,
}

impl Record {
    /// The kind byte of the frame.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Accepted(_) => 1,
            Self::Begun(_) => 2,
            Self::Outcome(_) => 3,
            Self::Notice(_) => 4,
            Self::Repeated(_) => 5,
            Self::Action(_) => 6,
            Self::Switch(_) => 7,
            Self::Handed(_) => 13,
            Self::Polled(_) => 11,
            Self::Hint(_) => 9,
            Self::Dead(_) => 10,
            Self::Replay(_) => 12,
            Self::Listing(_) => 8,
            Self::Inbound(_) => 14,
            Self::Erased(_) => 15,
            Self::Ordered(_) => 16,
        }
    }

    /// The version in which the kind is written.
    pub fn version(&self) -> u8 {
        match self {
            Self::Accepted(_) => 5,
            Self::Inbound(_) => 3,
            Self::Notice(_) | Self::Listing(_) | Self::Replay(_) | Self::Handed(_) => 2,
            Self::Begun(_)
            | Self::Outcome(_)
            | Self::Repeated(_)
            | Self::Action(_)
            | Self::Switch(_)
            | Self::Hint(_)
            | Self::Dead(_)
            | Self::Polled(_)
            | Self::Erased(_)
            | Self::Ordered(_) => 1,
        }
    }

    /// Whether there may be a next attempt because of it.
    pub fn may_be_due(&self) -> bool {
        match self {
            Self::Accepted(_) | Self::Action(_) => true,
            Self::Outcome(outcome) => outcome.due.is_some(),
            Self::Begun(_)
            | Self::Notice(_)
            | Self::Repeated(_)
            | Self::Switch(_)
            | Self::Hint(_)
            | Self::Listing(_)
            | Self::Dead(_)
            | Self::Replay(_)
            | Self::Handed(_)
            | Self::Polled(_)
            | Self::Inbound(_)
            | Self::Erased(_)
            | Self::Ordered(_) => false,
        }
    }

    /// The stored form, without the body.
    pub fn encode(&self) -> Vec<u8> {
        self.write(&mut AsItIs)
    }

    /// The stored form with other texts in it, wherever they stand; `text` says which, and nothing for those that stay.
    /// `None` when none is another, an error when the record could not be read any more.
    pub fn with_texts(
        &self,
        text: &mut dyn FnMut(&str) -> Option<String>,
    ) -> Result<Option<Vec<u8>>, UnknownRecord> {
        let mut pen = Changing { text, changed: false };
        let head = self.write(&mut pen);
        if !pen.changed {
            return Ok(None);
        }
        Self::decode(self.kind(), self.version(), &head).map(|_| Some(head))
    }

    fn write(&self, pen: &mut impl Pen) -> Vec<u8> {
        match self {
            Self::Accepted(accepted) => pen.write(AcceptedV5::from(&**accepted)),
            Self::Begun(begun) => pen.write(BegunV1::from(begun)),
            Self::Outcome(outcome) => pen.write(OutcomeV1::from(outcome)),
            Self::Notice(notice) => pen.write(NoticeV2::from(&**notice)),
            Self::Repeated(repeated) => pen.write(RepeatedV1::from(repeated)),
            Self::Action(action) => pen.write(ActionV1::from(action)),
            Self::Switch(switch) => pen.write(SwitchV1::from(switch)),
            Self::Handed(handed) => pen.write(HandedV2::from(&**handed)),
            Self::Polled(polled) => pen.write(PolledV1::from(polled)),
            Self::Hint(hinted) => pen.write(HintedV1::from(&**hinted)),
            Self::Dead(dead) => pen.write(DeadV1::from(&**dead)),
            Self::Replay(replay) => pen.write(ReplayV2::from(&**replay)),
            Self::Listing(listing) => pen.write(ListingV2::from(&**listing)),
            Self::Inbound(inbound) => pen.write(InboundV3::from(&**inbound)),
            Self::Erased(erased) => pen.write(ErasedV1::from(&**erased)),
            Self::Ordered(ordered) => pen.write(OrderedV1::from(&**ordered)),
        }
    }

    /// The inverse of [`Record::encode`].
    pub fn decode(kind: u8, version: u8, head: &[u8]) -> Result<Self, UnknownRecord> {
        let unknown = |is_newer| UnknownRecord { kind, version, is_newer };
        match (kind, version) {
            (1, 1) => read::<AcceptedV1>(head).and_then(AcceptedV1::restore).map(Self::from),
            (1, 2) => read::<AcceptedV2>(head).and_then(AcceptedV2::restore).map(Self::from),
            (1, 3) => read::<AcceptedV3>(head).and_then(AcceptedV3::restore).map(Self::from),
            (1, 4) => read::<AcceptedV4>(head).and_then(AcceptedV4::restore).map(Self::from),
            (1, 5) => read::<AcceptedV5>(head).and_then(AcceptedV5::restore).map(Self::from),
            (2, 1) => read::<BegunV1>(head).map(|v| Self::Begun(v.restore())),
            (3, 1) => read::<OutcomeV1>(head).map(|v| Self::Outcome(v.restore())),
            (4, 1) => read::<NoticeV1>(head).map(|v| Self::Notice(Box::new(v.restore()))),
            (4, 2) => read::<NoticeV2>(head).map(|v| Self::Notice(Box::new(v.restore()))),
            (5, 1) => read::<RepeatedV1>(head).map(|v| Self::Repeated(v.restore())),
            (6, 1) => read::<ActionV1>(head).map(|v| Self::Action(v.restore())),
            (13, 1) => read::<HandedV1>(head).map(|v| Self::Handed(Box::new(v.restore()))),
            (13, 2) => read::<HandedV2>(head).map(|v| Self::Handed(Box::new(v.restore()))),
            (7, 1) => read::<SwitchV1>(head).map(|v| Self::Switch(v.restore())),
            (11, 1) => read::<PolledV1>(head).map(|v| Self::Polled(v.restore())),
            (9, 1) => read::<HintedV1>(head).map(|v| Self::Hint(Box::new(v.restore()))),
            (10, 1) => read::<DeadV1>(head).map(|v| Self::Dead(Box::new(v.restore()))),
            (12, 1) => read::<ReplayV1>(head).map(|v| Self::Replay(Box::new(v.restore()))),
            (12, 2) => read::<ReplayV2>(head).map(|v| Self::Replay(Box::new(v.restore()))),
            (8, 1) => read::<ListingV1>(head)
                .and_then(ListingV1::restore)
                .map(|listing| Self::Listing(Box::new(listing))),
            (8, 2) => read::<ListingV2>(head)
                .and_then(ListingV2::restore)
                .map(|listing| Self::Listing(Box::new(listing))),
            (14, 1) => read::<InboundV1>(head)
                .and_then(InboundV1::restore)
                .map(|inbound| Self::Inbound(Box::new(inbound))),
            (14, 2) => read::<InboundV2>(head)
                .and_then(InboundV2::restore)
                .map(|inbound| Self::Inbound(Box::new(inbound))),
            (14, 3) => read::<InboundV3>(head)
                .and_then(InboundV3::restore)
                .map(|inbound| Self::Inbound(Box::new(inbound))),
            (15, 1) => read::<ErasedV1>(head).map(|v| Self::Erased(Box::new(v.restore()))),
            (16, 1) => read::<OrderedV1>(head).map(|v| Self::Ordered(Box::new(v.restore()))),
            _ => return Err(unknown(true)),
        }
        .ok_or(unknown(false))
    }
}

impl From<Accepted> for Record {
    fn from(accepted: Accepted) -> Self {
        Self::Accepted(Box::new(accepted))
    }
}

/// Writes stored forms.
trait Pen {
    fn write<T: Serialize + DeserializeOwned>(&mut self, stored: T) -> Vec<u8>;
}

struct AsItIs;

impl Pen for AsItIs {
    fn write<T: Serialize + DeserializeOwned>(&mut self, stored: T) -> Vec<u8> {
        postcard::to_stdvec(&stored).expect("plain data in memory always encodes")
    }
}

struct Changing<'a> {
    text: &'a mut dyn FnMut(&str) -> Option<String>,
    changed: bool,
}

impl Changing<'_> {
    fn change(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(other) = (self.text)(text) {
                    *text = other;
                    self.changed = true;
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.change(value)),
            Value::Object(fields) => fields.values_mut().for_each(|value| self.change(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

impl Pen for Changing<'_> {
    /// By way of a tree of values, which finds the texts of every form, also of those to come.
    fn write<T: Serialize + DeserializeOwned>(&mut self, stored: T) -> Vec<u8> {
        let mut value = serde_json::to_value(&stored).unwrap_or_default();
        self.change(&mut value);
        // What cannot be taken back from the tree is no record, and is found not to be one.
        let changed = serde_json::from_value::<T>(value).ok();
        changed.and_then(|changed| postcard::to_stdvec(&changed).ok()).unwrap_or_default()
    }
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    postcard::from_bytes(bytes).ok()
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SendV1 {
    id: [u8; 16],
    client: String,
    user: Option<String>,
    peer: Option<std::net::IpAddr>,
    sender: Option<String>,
    eight_bit: bool,
    smtputf8: bool,
    message_id: Option<String>,
    subject: String,
    records: Vec<String>,
    tags: Vec<String>,
    size: u64,
}

impl From<&Send> for SendV1 {
    fn from(send: &Send) -> Self {
        Self {
            id: send.id.to_bytes(),
            client: send.client.clone(),
            user: send.user.clone(),
            peer: send.peer,
            sender: send.sender.as_ref().map(ToString::to_string),
            eight_bit: send.body == BodyType::EightBitMime,
            smtputf8: send.smtputf8,
            message_id: send.message_id.as_ref().map(ToString::to_string),
            subject: send.subject.clone(),
            records: send.records.iter().map(ToString::to_string).collect(),
            tags: send.tags.clone(),
            size: send.size,
        }
    }
}

impl SendV1 {
    fn restore(self) -> Option<Send> {
        Some(Send {
            user: self.user,
            peer: self.peer,
            sender: self.sender.map(|sender| sender.parse()).transpose().ok()?,
            body: if self.eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit },
            smtputf8: self.smtputf8,
            message_id: self.message_id.as_deref().and_then(MessageId::parse),
            subject: self.subject,
            records: self.records.iter().filter_map(|record| OdooRecord::parse(record)).collect(),
            tags: self.tags,
            size: self.size,
            ..Send::new(TrackingId::from_bytes(self.id), self.client)
        })
    }
}

/// With what there is to say about reports, and what duplicates are recognised by.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct SendV2 {
    send: SendV1,
    dsn: DsnV1,
    reports: bool,
    about: Option<AboutV1>,
    fingerprint: Option<u64>,
}

impl From<&Send> for SendV2 {
    fn from(send: &Send) -> Self {
        Self {
            send: SendV1::from(send),
            dsn: DsnV1::from(&send.dsn),
            reports: send.reports,
            about: send.about.map(AboutV1::from),
            fingerprint: send.fingerprint,
        }
    }
}

impl SendV2 {
    fn restore(self) -> Option<Send> {
        Some(Send {
            dsn: self.dsn.into(),
            reports: self.reports,
            about: self.about.map(About::from),
            fingerprint: self.fingerprint,
            ..self.send.restore()?
        })
    }
}

/// With its lane and its route.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct SendV3 {
    send: SendV2,
    bulk: bool,
    route: Option<Box<str>>,
}

impl From<&Send> for SendV3 {
    fn from(send: &Send) -> Self {
        Self { send: SendV2::from(send), bulk: send.lane == Lane::Bulk, route: send.route.clone() }
    }
}

impl SendV3 {
    fn lane(&self) -> Lane {
        if self.bulk { Lane::Bulk } else { Lane::Transactional }
    }

    fn restore(self) -> Option<Send> {
        Some(Send { lane: self.lane(), route: self.route, ..self.send.restore()? })
    }
}

/// With what was done to its `List-Unsubscribe`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct SendV4 {
    send: SendV3,
    repaired: bool,
}

impl From<&Send> for SendV4 {
    fn from(send: &Send) -> Self {
        Self { send: SendV3::from(send), repaired: send.repaired }
    }
}

impl SendV4 {
    fn restore(self) -> Option<Send> {
        Some(Send { repaired: self.repaired, ..self.send.restore()? })
    }
}

/// With what else was done to its header.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SendV5 {
    send: SendV4,
    header_changes: Vec<String>,
}

impl From<&Send> for SendV5 {
    fn from(send: &Send) -> Self {
        Self { send: SendV4::from(send), header_changes: send.header_changes.clone() }
    }
}

impl SendV5 {
    /// On what occasion the sender is to hear of a recipient in that state, if it is one.
    pub(crate) fn occasion(&self, place: u16, state: State) -> Option<Occasion> {
        let SendV2 { dsn, reports, .. } = &self.send.send.send;
        let wish = dsn.recipients.iter().find(|wish| wish.place == place);
        Occasion::of(state, wish.and_then(DsnRecipientV1::notify)).filter(|_| *reports)
    }

    /// The Message-ID without brackets.
    pub(crate) fn message_id(&self) -> Option<&str> {
        self.first().message_id.as_deref()
    }

    /// The tracking id.
    pub(crate) fn id(&self) -> TrackingId {
        TrackingId::from_bytes(self.first().id)
    }

    /// Who handed it in, if logged in.
    pub(crate) fn user(&self) -> Option<&str> {
        self.first().user.as_deref()
    }

    /// The address it came from.
    pub(crate) fn peer(&self) -> Option<std::net::IpAddr> {
        self.first().peer
    }

    /// Its subject, decoded.
    pub(crate) fn subject(&self) -> &str {
        &self.first().subject
    }

    pub(crate) fn lane(&self) -> Lane {
        self.send.send.lane()
    }

    pub(crate) fn route(&self) -> Option<Box<str>> {
        self.send.send.route.clone()
    }

    pub(crate) fn restore(self) -> Option<Send> {
        Some(Send { header_changes: self.header_changes, ..self.send.restore()? })
    }

    /// What the first version has.
    fn first(&self) -> &SendV1 {
        &self.send.send.send.send
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct AboutV1 {
    id: [u8; 16],
    recipient: u16,
    failure: bool,
}

impl From<About> for AboutV1 {
    fn from(about: About) -> Self {
        let failure = about.occasion == Occasion::Failure;
        Self { id: about.id.to_bytes(), recipient: about.recipient, failure }
    }
}

impl From<AboutV1> for About {
    fn from(about: AboutV1) -> Self {
        let id = TrackingId::from_bytes(about.id);
        Self { id, recipient: about.recipient, occasion: occasion(about.failure) }
    }
}

/// The inverse of comparing it with a failure.
pub(crate) fn occasion(failure: bool) -> Occasion {
    if failure { Occasion::Failure } else { Occasion::Success }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct DsnV1 {
    full: Option<bool>,
    envid: Option<Box<str>>,
    recipients: Vec<DsnRecipientV1>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct DsnRecipientV1 {
    place: u16,
    /// Success, failure, delay.
    notify: Option<[bool; 3]>,
    orcpt: Option<Box<str>>,
}

impl DsnRecipientV1 {
    fn notify(&self) -> Option<Notify> {
        self.notify.map(|[success, failure, delay]| Notify { success, failure, delay })
    }
}

impl From<&Dsn> for DsnV1 {
    fn from(dsn: &Dsn) -> Self {
        let recipients = dsn.recipients.iter().map(|(place, wish)| {
            let notify = wish.notify.map(|notify| [notify.success, notify.failure, notify.delay]);
            DsnRecipientV1 { place: *place, notify, orcpt: wish.orcpt.clone() }
        });
        Self {
            full: dsn.ret.map(|ret| ret == Ret::Full),
            envid: dsn.envid.clone(),
            recipients: recipients.collect(),
        }
    }
}

impl From<DsnV1> for Dsn {
    fn from(dsn: DsnV1) -> Self {
        let wish =
            |wish: DsnRecipientV1| (wish.place, DsnRecipient { notify: wish.notify(), orcpt: wish.orcpt });
        let recipients = dsn.recipients.into_iter().map(wish);
        Self {
            ret: dsn.full.map(|full| if full { Ret::Full } else { Ret::Headers }),
            envid: dsn.envid,
            recipients: recipients.collect(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct AcceptedV1 {
    send: SendV1,
    recipients: Vec<String>,
}

impl AcceptedV1 {
    fn restore(self) -> Option<Accepted> {
        Some(Accepted { send: self.send.restore()?, recipients: mailboxes(&self.recipients)? })
    }
}

#[derive(Serialize, Deserialize)]
struct AcceptedV2 {
    send: SendV2,
    recipients: Vec<String>,
}

impl AcceptedV2 {
    fn restore(self) -> Option<Accepted> {
        Some(Accepted { send: self.send.restore()?, recipients: mailboxes(&self.recipients)? })
    }
}

#[derive(Serialize, Deserialize)]
struct AcceptedV3 {
    send: SendV3,
    recipients: Vec<String>,
}

impl AcceptedV3 {
    fn restore(self) -> Option<Accepted> {
        Some(Accepted { send: self.send.restore()?, recipients: mailboxes(&self.recipients)? })
    }
}

#[derive(Serialize, Deserialize)]
struct AcceptedV4 {
    send: SendV4,
    recipients: Vec<String>,
}

impl AcceptedV4 {
    fn restore(self) -> Option<Accepted> {
        Some(Accepted { send: self.send.restore()?, recipients: mailboxes(&self.recipients)? })
    }
}

#[derive(Serialize, Deserialize)]
struct AcceptedV5 {
    send: SendV5,
    recipients: Vec<String>,
}

impl From<&Accepted> for AcceptedV5 {
    fn from(accepted: &Accepted) -> Self {
        let recipients = accepted.recipients.iter().map(ToString::to_string).collect();
        Self { send: SendV5::from(&accepted.send), recipients }
    }
}

impl AcceptedV5 {
    fn restore(self) -> Option<Accepted> {
        Some(Accepted { send: self.send.restore()?, recipients: mailboxes(&self.recipients)? })
    }
}

fn mailboxes(texts: &[String]) -> Option<Vec<Mailbox>> {
    texts.iter().map(|text| text.parse().ok()).collect()
}

#[derive(Serialize, Deserialize)]
struct BegunV1 {
    id: [u8; 16],
    at: u64,
    upstream: String,
}

impl From<&Begun> for BegunV1 {
    fn from(begun: &Begun) -> Self {
        Self { id: begun.id.to_bytes(), at: begun.at.millis(), upstream: begun.upstream.clone() }
    }
}

impl BegunV1 {
    fn restore(self) -> Begun {
        Begun {
            id: TrackingId::from_bytes(self.id),
            at: Timestamp::from_millis(self.at),
            upstream: self.upstream,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct RepeatedV1 {
    id: [u8; 16],
    at: u64,
    peer: Option<std::net::IpAddr>,
    recipients: Vec<u16>,
}

impl From<&Repeated> for RepeatedV1 {
    fn from(repeated: &Repeated) -> Self {
        Self {
            id: repeated.id.to_bytes(),
            at: repeated.at.millis(),
            peer: repeated.peer,
            recipients: repeated.recipients.clone(),
        }
    }
}

impl RepeatedV1 {
    fn restore(self) -> Repeated {
        Repeated {
            id: TrackingId::from_bytes(self.id),
            at: Timestamp::from_millis(self.at),
            peer: self.peer,
            recipients: self.recipients,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct ActionV1 {
    id: [u8; 16],
    at: u64,
    verb: VerbV1,
    operator: String,
    reason: String,
}

impl From<&Action> for ActionV1 {
    fn from(action: &Action) -> Self {
        Self {
            id: action.id.to_bytes(),
            at: action.at.millis(),
            verb: action.verb.into(),
            operator: action.operator.clone(),
            reason: action.reason.clone(),
        }
    }
}

impl ActionV1 {
    fn restore(self) -> Action {
        Action {
            id: TrackingId::from_bytes(self.id),
            at: Timestamp::from_millis(self.at),
            verb: self.verb.into(),
            operator: self.operator,
            reason: self.reason,
        }
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum VerbV1 {
    Retry,
    Hold,
    Release,
    Bounce,
    Delete,
}

impl From<Verb> for VerbV1 {
    fn from(verb: Verb) -> Self {
        match verb {
            Verb::Retry => Self::Retry,
            Verb::Hold => Self::Hold,
            Verb::Release => Self::Release,
            Verb::Bounce => Self::Bounce,
            Verb::Delete => Self::Delete,
        }
    }
}

impl From<VerbV1> for Verb {
    fn from(stored: VerbV1) -> Self {
        match stored {
            VerbV1::Retry => Self::Retry,
            VerbV1::Hold => Self::Hold,
            VerbV1::Release => Self::Release,
            VerbV1::Bounce => Self::Bounce,
            VerbV1::Delete => Self::Delete,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct SwitchV1 {
    upstream: String,
    at: u64,
    open: bool,
    operator: String,
    reason: String,
}

impl From<&Switch> for SwitchV1 {
    fn from(switch: &Switch) -> Self {
        let Switch { upstream, at, open, operator, reason } = switch.clone();
        Self { upstream, at: at.millis(), open, operator, reason }
    }
}

impl SwitchV1 {
    fn restore(self) -> Switch {
        let Self { upstream, at, open, operator, reason } = self;
        Switch { upstream, at: Timestamp::from_millis(at), open, operator, reason }
    }
}

#[derive(Serialize, Deserialize)]
struct HandedV1 {
    sink: String,
    at: u64,
    until: Place,
    refused: Vec<(Place, u16, String)>,
}

impl HandedV1 {
    fn restore(self) -> Handed {
        HandedV2 { first: self, delayed: Vec::new(), resumed: Vec::new() }.restore()
    }
}

#[derive(Serialize, Deserialize)]
struct HandedV2 {
    first: HandedV1,
    /// When each is due, its place and its part.
    delayed: Vec<(u64, Place, u16)>,
    resumed: Vec<(u64, Place, u16)>,
}

impl From<&Handed> for HandedV2 {
    fn from(handed: &Handed) -> Self {
        let refused = handed.refused.iter();
        let refused = refused.map(|(Cursor(place), part, why)| (*place, *part, why.clone())).collect();
        let at = handed.at.millis();
        let first = HandedV1 { sink: handed.sink.clone(), at, until: handed.until.0, refused };
        let write = |delayed: &[Delayed]| {
            delayed.iter().map(|one| (one.due.millis(), one.cursor.0, one.part)).collect()
        };
        Self { first, delayed: write(&handed.delayed), resumed: write(&handed.resumed) }
    }
}

impl HandedV2 {
    fn restore(self) -> Handed {
        let HandedV1 { sink, at, until, refused } = self.first;
        let refused = refused.into_iter();
        let read = |delayed: Vec<(u64, Place, u16)>| {
            let read = |(due, place, part)| Delayed {
                due: Timestamp::from_millis(due),
                cursor: Cursor(place),
                part,
            };
            delayed.into_iter().map(read).collect()
        };
        Handed {
            sink,
            at: Timestamp::from_millis(at),
            until: Cursor(until),
            refused: refused.map(|(place, part, why)| (Cursor(place), part, why)).collect(),
            delayed: read(self.delayed),
            resumed: read(self.resumed),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct ErasedV1 {
    at: u64,
    operator: String,
    reason: String,
    pseudonym: String,
    salt: [u8; 16],
}

impl From<&Erased> for ErasedV1 {
    fn from(erased: &Erased) -> Self {
        let Erased { at, operator, reason, pseudonym, salt } = erased.clone();
        Self { at: at.millis(), operator, reason, pseudonym, salt }
    }
}

impl ErasedV1 {
    fn restore(self) -> Erased {
        let Self { at, operator, reason, pseudonym, salt } = self;
        Erased { at: Timestamp::from_millis(at), operator, reason, pseudonym, salt }
    }
}

#[derive(Serialize, Deserialize)]
struct PolledV1 {
    upstream: String,
    until: u64,
}

impl From<&Polled> for PolledV1 {
    fn from(polled: &Polled) -> Self {
        Self { upstream: polled.upstream.clone(), until: polled.until.millis() }
    }
}

impl PolledV1 {
    fn restore(self) -> Polled {
        Polled { upstream: self.upstream, until: Timestamp::from_millis(self.until) }
    }
}

#[derive(Serialize, Deserialize)]
struct OutcomeV1 {
    id: [u8; 16],
    at: u64,
    upstream: String,
    settled: Vec<(Vec<u16>, StandingV1, WordsV1)>,
    due: Option<u64>,
}

impl From<&Outcome> for OutcomeV1 {
    fn from(outcome: &Outcome) -> Self {
        let settled = outcome.settled.iter();
        Self {
            id: outcome.id.to_bytes(),
            at: outcome.at.millis(),
            upstream: outcome.upstream.clone(),
            settled: settled.map(|s| (s.recipients.clone(), s.standing.into(), (&s.words).into())).collect(),
            due: outcome.due.map(Timestamp::millis),
        }
    }
}

impl OutcomeV1 {
    fn restore(self) -> Outcome {
        let settled = self.settled.into_iter().map(|(recipients, standing, words)| Settled {
            recipients,
            standing: standing.into(),
            words: words.into(),
        });
        Outcome {
            id: TrackingId::from_bytes(self.id),
            at: Timestamp::from_millis(self.at),
            upstream: self.upstream,
            settled: settled.collect(),
            due: self.due.map(Timestamp::from_millis),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct NoticeV1 {
    upstream: String,
    at: u64,
    token: Option<(String, u64, [u8; 16])>,
    event: EventV1,
}

impl From<&Notice> for NoticeV1 {
    fn from(notice: &Notice) -> Self {
        Self {
            upstream: notice.upstream.clone(),
            at: notice.at.millis(),
            token: notice.token.as_ref().map(|(token, at, digest)| (token.clone(), at.millis(), *digest)),
            event: EventV1::from(&notice.event),
        }
    }
}

impl NoticeV1 {
    fn restore(self) -> Notice {
        Notice {
            upstream: self.upstream,
            at: Timestamp::from_millis(self.at),
            via: Via::Webhook,
            token: self.token.map(|(token, at, digest)| (token, Timestamp::from_millis(at), digest)),
            event: self.event.into(),
        }
    }
}

/// With the way it came.
#[derive(Serialize, Deserialize)]
struct NoticeV2 {
    notice: NoticeV1,
    polled: bool,
}

impl From<&Notice> for NoticeV2 {
    fn from(notice: &Notice) -> Self {
        Self { notice: NoticeV1::from(notice), polled: notice.via == Via::Poll }
    }
}

impl NoticeV2 {
    fn restore(self) -> Notice {
        Notice { via: via(self.polled), ..self.notice.restore() }
    }
}

#[derive(Serialize, Deserialize)]
struct DeadV1 {
    upstream: String,
    at: u64,
    polled: bool,
    token: Option<(String, u64, [u8; 16])>,
    digest: [u8; 16],
    reason: String,
}

impl From<&Dead> for DeadV1 {
    fn from(dead: &Dead) -> Self {
        Self {
            upstream: dead.upstream.clone(),
            at: dead.at.millis(),
            polled: dead.via == Via::Poll,
            token: dead.token.as_ref().map(|(token, at, digest)| (token.clone(), at.millis(), *digest)),
            digest: dead.digest,
            reason: dead.reason.clone(),
        }
    }
}

impl DeadV1 {
    fn restore(self) -> Dead {
        Dead {
            upstream: self.upstream,
            at: Timestamp::from_millis(self.at),
            via: via(self.polled),
            token: self.token.map(|(token, at, digest)| (token, Timestamp::from_millis(at), digest)),
            digest: self.digest,
            reason: self.reason,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct ReplayV1 {
    id: [u8; 16],
    at: u64,
    operator: String,
    upstream: String,
    polled: bool,
    before: Option<EventV1>,
    event: EventV1,
}

impl From<&Replay> for ReplayV1 {
    fn from(replay: &Replay) -> Self {
        Self {
            id: replay.id.to_bytes(),
            at: replay.at.millis(),
            operator: replay.operator.clone(),
            upstream: replay.upstream.clone(),
            polled: replay.via == Via::Poll,
            before: replay.before.as_ref().map(EventV1::from),
            event: EventV1::from(&replay.event),
        }
    }
}

impl ReplayV1 {
    fn restore(self) -> Replay {
        Replay {
            id: TrackingId::from_bytes(self.id),
            at: Timestamp::from_millis(self.at),
            operator: self.operator,
            reason: String::new(),
            upstream: self.upstream,
            via: via(self.polled),
            before: self.before.map(Event::from),
            event: self.event.into(),
        }
    }
}

/// With the reason.
#[derive(Serialize, Deserialize)]
struct ReplayV2 {
    replay: ReplayV1,
    reason: String,
}

impl From<&Replay> for ReplayV2 {
    fn from(replay: &Replay) -> Self {
        Self { replay: ReplayV1::from(replay), reason: replay.reason.clone() }
    }
}

impl ReplayV2 {
    fn restore(self) -> Replay {
        Replay { reason: self.reason, ..self.replay.restore() }
    }
}

/// The inverse of comparing it with a poll.
pub(crate) fn via(polled: bool) -> Via {
    if polled { Via::Poll } else { Via::Webhook }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EventV1 {
    kind: u8,
    at: u64,
    identity: String,
    recipient: Option<String>,
    tracking: Option<[u8; 16]>,
    message_id: Option<String>,
    by_machine: bool,
    test_mode: bool,
    words: WordsV1,
}

impl From<&Event> for EventV1 {
    fn from(event: &Event) -> Self {
        Self {
            kind: kind_code(event.kind),
            at: event.at.millis(),
            identity: event.identity.clone(),
            recipient: event.recipient.clone(),
            tracking: event.tracking.map(TrackingId::to_bytes),
            message_id: event.message_id.as_ref().map(ToString::to_string),
            by_machine: event.by_machine,
            test_mode: event.test_mode,
            words: WordsV1::from(&event.words),
        }
    }
}

impl From<EventV1> for Event {
    fn from(stored: EventV1) -> Self {
        Self {
            kind: kind_of(stored.kind),
            at: Timestamp::from_millis(stored.at),
            identity: stored.identity,
            recipient: stored.recipient,
            tracking: stored.tracking.map(TrackingId::from_bytes),
            message_id: stored.message_id.as_deref().and_then(MessageId::parse),
            by_machine: stored.by_machine,
            test_mode: stored.test_mode,
            words: stored.words.into(),
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct WordsV1 {
    name: String,
    code: Option<u16>,
    enhanced: Option<String>,
    text: Option<String>,
    host: Option<String>,
    url: Option<String>,
}

impl From<&Words> for WordsV1 {
    fn from(words: &Words) -> Self {
        let Words { name, code, enhanced, text, host, url } = words.clone();
        Self { name, code, enhanced, text, host, url }
    }
}

impl From<WordsV1> for Words {
    fn from(stored: WordsV1) -> Self {
        let WordsV1 { name, code, enhanced, text, host, url } = stored;
        Self { name, code, enhanced, text, host, url }
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum StandingV1 {
    Queued,
    Relayed,
    Bounced,
    Failed,
    Expired,
    Unknown,
    Cancelled,
    Suppressed,
}

impl From<Standing> for StandingV1 {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Queued => Self::Queued,
            Standing::Relayed => Self::Relayed,
            Standing::Bounced => Self::Bounced,
            Standing::Failed => Self::Failed,
            Standing::Expired => Self::Expired,
            Standing::Unknown => Self::Unknown,
            Standing::Cancelled => Self::Cancelled,
            Standing::Suppressed => Self::Suppressed,
        }
    }
}

impl From<StandingV1> for Standing {
    fn from(stored: StandingV1) -> Self {
        match stored {
            StandingV1::Queued => Self::Queued,
            StandingV1::Relayed => Self::Relayed,
            StandingV1::Bounced => Self::Bounced,
            StandingV1::Failed => Self::Failed,
            StandingV1::Expired => Self::Expired,
            StandingV1::Unknown => Self::Unknown,
            StandingV1::Cancelled => Self::Cancelled,
            StandingV1::Suppressed => Self::Suppressed,
        }
    }
}

/// The place of a kind in [`Kind::ALL`], to which kinds are only ever added at the end.
pub(crate) fn kind_code(kind: Kind) -> u8 {
    Kind::ALL.iter().position(|known| *known == kind).map_or(u8::MAX, |place| place as u8)
}

pub(crate) fn kind_of(code: u8) -> Kind {
    Kind::ALL.get(usize::from(code)).copied().unwrap_or(Kind::Unknown)
}
