//! One message on its way to an upstream: the envelope sent, and the effect of the replies on each recipient.

use crate::queue::retry::RetryPolicy;
use bytes::Bytes;
use futures_util::future::ready;
use futures_util::{Stream, StreamExt, stream};
use mailtrail_mail::{
    BodyType, DsnParameters, Envelope, HeaderSection, Lane, Mailbox, Timestamp, TrackingId,
};
use mailtrail_net::transport::{
    ApiResponse, ApiVerdict, Certainty, EnvelopeReplies, ReplyClass, Step, TransportError,
    classify_api_response, classify_reply, is_for_next_transaction, is_too_many_recipients,
    is_upstream_limit,
};
use mailtrail_smtp::{Capabilities, Response};
use mailtrail_store::{DeliveryJob, StoredBody};
use mailtrail_trail::provider::{Provider, mailgun};
use mailtrail_trail::{
    AttemptOutcome, AttemptStatus, CAPABILITY_CHECK, Diagnostic, END_OF_DATA, MESSAGES_MIME, RCPT_TO,
    Recipient, RecipientResult, suppression,
};
use std::io;

/// A message that is ready to send.
#[derive(Debug)]
pub struct Attempt {
    /// Tracking id of the message.
    pub id: TrackingId,
    /// Envelope for the upstream: the sender and the recipients that the upstream supports, once the
    /// attempt is [adapted](Self::adapt_to).
    pub envelope: Envelope,
    /// Indices of those recipients in the message.
    pub recipient_indices: Vec<u16>,
    /// The sender and the recipients that are still open, as the client wrote them.
    sender: Option<Mailbox>,
    pending_recipients: Vec<(u16, Mailbox)>,
    /// Recipients that this upstream does not support, each with the reason.
    unsupported: Vec<(u16, &'static str)>,
    /// Handling of the unsupported recipients.
    fallback: Fallback,
    /// Whether this upstream did not support the message before; only a new connection shows whether it
    /// does now.
    pub needs_new_connection: bool,
    /// Whether the header needs SMTPUTF8, independently of the addresses.
    header_needs_smtputf8: bool,
    /// Whether 8-bit text is sent although the upstream does not offer 8BITMIME.
    sends_8bit_unannounced: bool,
    /// The provider's tracking headers, prepended to the message.
    tracking_headers: Bytes,
    /// The message as stored.
    message: StoredBody,
    attempts: u32,
    /// Lane of the message.
    pub lane: Lane,
    /// Whether open recipients remain that do not fit into this attempt.
    has_more_recipients: bool,
    /// Whether some recipients wait for a transaction with fewer recipients than the one that refused them.
    leaves_excess: bool,
    /// Results of the suppressed recipients.
    suppressed_results: Vec<RecipientResult>,
}

/// Handling of recipients that an upstream does not support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Another upstream may support them: it is tried next.
    OtherUpstream,
    /// They wait for this upstream, which may have the message already.
    SameUpstream,
    /// They fail: no upstream of the route supports them.
    Fail,
}

/// Result of an attempt so far, for each of its recipients.
#[derive(Debug, Default)]
pub struct AttemptResult {
    recipients: Vec<(u16, AttemptStatus, Diagnostic)>,
    retry_after: Option<Timestamp>,
    /// Whether some recipients did not fit into this transaction and go in another.
    has_overflow: bool,
    /// Number of recipients that were too many for one transaction.
    pub too_many: Option<usize>,
    /// Whether another upstream is tried next because of a limit of this one.
    try_other_upstream: bool,
    /// Reply of the upstream about itself, independent of this message.
    pub upstream_refusal: Option<UpstreamRefusal>,
    /// Throttling reply of the upstream.
    pub throttle_refusal: Option<UpstreamRefusal>,
}

/// A reply by which the upstream accepts nothing, or less, for now.
#[derive(Clone, Debug)]
pub struct UpstreamRefusal {
    /// Text of the reply.
    pub text: String,
    /// Earliest time of the next attempt that the upstream asks for.
    pub until: Option<Timestamp>,
    /// Strength of the evidence.
    pub certainty: Certainty,
}

/// Result of preparing a message for an attempt.
#[derive(Debug)]
pub enum Prepared {
    /// Ready to send.
    Ready(Box<Attempt>),
    /// Not sent; this outcome settles the message.
    Finished(AttemptOutcome),
}

impl Attempt {
    /// Prepares a message for at most `most` recipients. A message is finished if it is unreadable, or if
    /// only suppressed recipients are open. `suppressed` lists these by their indices.
    pub fn prepare(
        job: DeliveryJob,
        suppressed: &[SuppressedRecipient],
        provider: Provider,
        upstream: &str,
        most: usize,
        fallback: Fallback,
        now: Timestamp,
    ) -> Prepared {
        let may_go = |index: &u16| suppressed.binary_search_by_key(index, |(known, _)| *known).is_err();
        let waiting = (0u16..).zip(&job.recipients).filter(|(_, recipient)| recipient.is_pending());
        let waiting: Vec<_> = waiting.filter(|(index, _)| may_go(index)).collect();
        let suppressed = suppressed_results(suppressed, &job.recipients);
        let excess = excess_recipients(&waiting, job.attempts);
        let leaves_excess = excess.len() > most;
        let some = if excess.is_empty() { next_recipient_group(&waiting, job.attempts) } else { excess };
        let some = some.into_iter().take(most);
        let pending_recipients: Vec<_> =
            some.map(|(index, recipient)| (index, recipient.address.clone())).collect();
        let has_more_recipients = pending_recipients.len() < waiting.len();
        let over = |results| {
            Prepared::Finished(AttemptOutcome {
                id: job.message.id,
                at: now,
                upstream: upstream.to_owned(),
                results,
                next_attempt: None,
            })
        };
        if pending_recipients.is_empty() {
            return over(suppressed);
        }
        let Some(message) = job.body else {
            tracing::error!(id = %job.message.id, "{DAMAGED_TEXT}");
            let diagnostic = local_diagnostic("store", DAMAGED_TEXT);
            let recipients = pending_recipients.into_iter().map(|(index, _)| index).collect();
            let failed = RecipientResult { recipients, status: AttemptStatus::Failed, diagnostic };
            return over(suppressed.into_iter().chain([failed]).collect());
        };
        let recipient_indices = pending_recipients.iter().map(|(index, _)| *index).collect();
        let envelope = Envelope {
            sender: None,
            recipients: Vec::new(),
            body: job.message.body_type,
            smtputf8: job.message.smtputf8,
            dsn: DsnParameters::default(),
        };
        let stamps: String =
            provider.tracking_headers(job.message.id).iter().map(|line| format!("{line}\r\n")).collect();
        Prepared::Ready(Box::new(Self {
            id: job.message.id,
            envelope,
            recipient_indices,
            sender: job.message.sender,
            pending_recipients,
            unsupported: Vec::new(),
            fallback,
            needs_new_connection: false,
            header_needs_smtputf8: job.message.smtputf8,
            sends_8bit_unannounced: false,
            tracking_headers: stamps.into(),
            message,
            attempts: job.attempts,
            lane: job.message.lane,
            has_more_recipients,
            leaves_excess,
            suppressed_results: suppressed,
        }))
    }

    /// Returns whether the message failed repeatedly. Its envelope is then sent one command at a time, so
    /// that each reply belongs to its command with certainty.
    pub fn is_suspect(&self) -> bool {
        self.attempts >= SUSPECT_AFTER_ATTEMPTS
    }

    /// Returns the number of bytes sent.
    pub fn size(&self) -> u64 {
        self.tracking_headers.len() as u64 + self.message.size()
    }

    /// Returns the bytes sent: the tracking headers, then the message.
    pub fn pieces(&self) -> impl Stream<Item = io::Result<Bytes>> + use<> {
        stream::once(ready(Ok(self.tracking_headers.clone()))).chain(self.message.chunks())
    }

    /// Returns the recipients at the given indices.
    pub fn recipients_at(&self, indices: &[u16]) -> Vec<&Mailbox> {
        let all = self.recipient_indices.iter().zip(&self.envelope.recipients);
        all.filter(|(index, _)| indices.contains(index)).map(|(_, recipient)| recipient).collect()
    }

    /// Returns the recipients that the upstream refused because the address does not exist, with its
    /// diagnostic.
    pub fn bounced_recipients<'a>(
        &'a self,
        outcome: &'a AttemptOutcome,
    ) -> impl Iterator<Item = (&'a Mailbox, &'a Diagnostic)> {
        let refused = outcome.results.iter().filter(|settled| {
            let bounced = settled.status == AttemptStatus::Bounced && settled.diagnostic.name == RCPT_TO;
            bounced && suppression::is_address_refusal(&settled.diagnostic)
        });
        refused.flat_map(|settled| {
            let wanted =
                self.pending_recipients.iter().filter(|(index, _)| settled.recipients.contains(index));
            wanted.map(|(_, address)| (address, &settled.diagnostic))
        })
    }

    /// Returns whether the result of a recipient is still open.
    pub fn has_open_recipients(&self, result: &AttemptResult) -> bool {
        !result.open_recipients(&self.recipient_indices).is_empty()
    }

    /// Returns the message's options for Mailgun as parameters of its API. Of a large message's header only
    /// the first `MAX_API_HEADER_BYTES` count.
    pub async fn api_parameters(&self) -> io::Result<Vec<(String, String)>> {
        let (mut pieces, mut message) = (self.message.chunks().boxed(), Vec::new());
        while let Some(piece) = pieces.next().await.transpose()? {
            message.extend_from_slice(&piece);
            if message.len() >= MAX_API_HEADER_BYTES || HeaderSection::parse(&message).is_complete() {
                break;
            }
        }
        let (stamps, message) =
            (HeaderSection::parse(&self.tracking_headers), HeaderSection::parse(&message));
        Ok(mailgun::api_parameters(stamps.fields().chain(message.fields())))
    }

    /// Adapts the attempt to the capabilities of a connection. The requirements follow from addresses and
    /// header (RFC 6531 section 3.4). Without SMTPUTF8 domains are sent as A-labels; recipients for which
    /// that does not suffice are left out.
    pub fn adapt_to(&mut self, capabilities: &Capabilities) {
        let form = |address: &Mailbox| {
            if capabilities.smtputf8 { Some(address.clone()) } else { address.to_ascii() }
        };
        let sender = self.sender.as_ref().map(form);
        let obstacle = if capabilities.size.is_some_and(|limit| limit > 0 && self.size() > limit) {
            Some(TOO_LARGE_TEXT)
        } else if (self.header_needs_smtputf8 && !capabilities.smtputf8) || sender == Some(None) {
            Some(NO_SMTPUTF8_TEXT)
        } else {
            None
        };
        (self.recipient_indices, self.unsupported) = (Vec::new(), Vec::new());
        let mut recipients = Vec::with_capacity(self.pending_recipients.len());
        for (index, address) in &self.pending_recipients {
            match (obstacle, form(address)) {
                (None, Some(address)) => {
                    self.recipient_indices.push(*index);
                    recipients.push(address);
                }
                (obstacle, _) => self.unsupported.push((*index, obstacle.unwrap_or(NO_SMTPUTF8_TEXT))),
            }
        }
        let sender = sender.flatten();
        let international = recipients.iter().chain(&sender).any(|address| !address.is_ascii());
        self.envelope.smtputf8 = self.header_needs_smtputf8 || international;
        self.sends_8bit_unannounced =
            self.envelope.body == BodyType::EightBitMime && !capabilities.eight_bit_mime;
        (self.envelope.sender, self.envelope.recipients) = (sender, recipients);
    }

    /// Returns whether the upstream supports the message for all recipients.
    pub fn is_fully_supported(&self) -> bool {
        self.unsupported.is_empty()
    }

    /// Classifies the replies to the envelope. Accepted recipients stay open until the message is accepted.
    pub fn classify_envelope(&self, replies: &EnvelopeReplies, context: ReplyContext) -> AttemptResult {
        let mut result = AttemptResult::default();
        if !replies.mail.is_positive() {
            if !self.try_pass_on(&mut result, &self.recipient_indices, &replies.mail) {
                result.add_reply(&self.recipient_indices, Step::Mail, &replies.mail, context);
            }
            return result;
        }
        let is_same_for_all =
            replies.recipients.len() == self.recipient_indices.len() && replies.has_same_recipient_replies();
        let mut taken = false;
        for (index, reply) in self.recipient_indices.iter().zip(&replies.recipients) {
            if reply.is_positive() {
                taken = true;
            } else if is_for_next_transaction(reply, taken) {
                result.has_overflow = true;
                result.set_status(&[*index], AttemptStatus::Queued, &reply_diagnostic(RCPT_TO, reply));
            } else {
                result.add_reply(&[*index], Step::Rcpt { is_same_for_all }, reply, context);
            }
        }
        if let Some(data) = &replies.data
            && !data.is_intermediate()
        {
            self.classify_data_reply(&mut result, Step::Data, data, context);
            // A closing reply (421) replaces all missing replies; it arrived in place of the first of them.
            let unanswered = self.first_unanswered(replies);
            let mut decided = result.recipients.iter_mut();
            if let Some((.., words)) = decided.find(|(index, ..)| Some(*index) == unanswered) {
                RCPT_TO.clone_into(&mut words.name);
            }
        }
        result
    }

    /// Classifies, for the recipients still open, a refusal of DATA or the reply to the message, complete
    /// or partial. Recipients that are too many for one transaction go in smaller ones; a single recipient
    /// never is too many.
    pub fn classify_data_reply(
        &self,
        result: &mut AttemptResult,
        step: Step,
        reply: &Response,
        context: ReplyContext,
    ) {
        let open = result.open_recipients(&self.recipient_indices);
        let words = reply_diagnostic(step_name(step), reply);
        if open.len() > 1 && is_too_many_recipients(&words) {
            result.too_many = Some(open.len());
            result.set_status(&open, AttemptStatus::Queued, &words);
        } else if !self.try_pass_on(result, &open, reply) {
            result.add_reply(&open, step, reply, context);
        }
    }

    /// Passes recipients on to another upstream if this one refuses the message for a limit of its own.
    /// Returns whether it did.
    fn try_pass_on(&self, result: &mut AttemptResult, indices: &[u16], reply: &Response) -> bool {
        let passes =
            self.fallback == Fallback::OtherUpstream && reply.code >= 500 && is_upstream_limit(reply);
        if passes {
            result.pass_to_other_upstream(indices, reply_diagnostic(CAPABILITY_CHECK, reply));
        }
        passes
    }

    /// Records that the connection broke after these replies. It broke at the first recipient without a
    /// reply to its RCPT, which is recorded. If that recipient breaks the connection again, the others are
    /// sent without it.
    pub fn fail_disconnected(
        &self,
        result: &mut AttemptResult,
        replies: &EnvelopeReplies,
        fault: &TransportError,
    ) {
        let text = fault.to_string();
        if let Some(index) = self.first_unanswered(replies) {
            result.set_status(&[index], AttemptStatus::Queued, &local_diagnostic(RCPT_TO, &text));
        }
        self.fail_open(result, AttemptStatus::Queued, "connection", &text);
    }

    /// Returns the first recipient without its own reply to RCPT.
    fn first_unanswered(&self, replies: &EnvelopeReplies) -> Option<u16> {
        self.recipient_indices.get(replies.recipients.len()).copied().filter(|_| replies.mail.is_positive())
    }

    /// Classifies the answer to an HTTP request for the recipients at `indices`. Returns true if each half
    /// of them has to be tried separately. An answer about no particular recipient applies to all open
    /// ones.
    pub fn classify_api_response(
        &self,
        result: &mut AttemptResult,
        indices: &[u16],
        answer: &ApiResponse,
        now: Timestamp,
    ) -> bool {
        let (verdict, is_unclear) = match classify_api_response(answer, indices.len(), now) {
            ApiVerdict::Uniform(verdict) => (verdict, false),
            ApiVerdict::Ambiguous(verdict) => (verdict, true),
            ApiVerdict::Bisect => return true,
        };
        let text = answer.id.iter().fold(answer.text.clone(), |text, id| format!("{text} {id}"));
        let words =
            |name, text: &str| Diagnostic { code: Some(answer.status), ..local_diagnostic(name, text) };
        if verdict == ReplyClass::Unsupported && self.fallback == Fallback::OtherUpstream {
            result.pass_to_other_upstream(
                &result.open_recipients(&self.recipient_indices),
                words(CAPABILITY_CHECK, &text),
            );
            return false;
        }
        let status = result.apply_reply_class(verdict, || format!("{} {}", answer.status, answer.text));
        let name = if answer.request_sent { MESSAGES_MIME } else { MESSAGE_STEP };
        if is_unclear {
            result.set_status(
                indices,
                AttemptStatus::Unknown,
                &words(name, &format!("no clear answer: {text}")),
            );
        } else {
            result.set_status(indices, status, &words(name, &text));
        }
        if status == AttemptStatus::Queued {
            result.set_status(
                &result.open_recipients(&self.recipient_indices),
                status,
                &words("upstream", &text),
            );
        }
        false
    }

    /// Fails the open recipients for a reason that no reply gives.
    pub fn fail_open(&self, result: &mut AttemptResult, status: AttemptStatus, name: &str, text: &str) {
        result.set_status(
            &result.open_recipients(&self.recipient_indices),
            status,
            &local_diagnostic(name, text),
        );
    }

    /// Records that the message could not be read to its end. A damaged message is never delivered; after a
    /// disk error it is tried again.
    pub fn fail_unreadable(&self, result: &mut AttemptResult, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::InvalidData => {
                self.fail_open(result, AttemptStatus::Failed, "store", DAMAGED_TEXT)
            }
            _ => self.fail_open(
                result,
                AttemptStatus::Queued,
                "store",
                "the message could not be read from disk",
            ),
        }
    }

    /// Converts the result into an outcome record. Equal results are combined. Each waiting recipient gets
    /// its next attempt time or, when the message is too old, expires. An unknown delivery waits at least
    /// until `unknown_until` for an event that settles it.
    pub fn build_outcome(
        &self,
        result: AttemptResult,
        upstream: &str,
        retry: &RetryPolicy,
        now: Timestamp,
        unknown_until: Timestamp,
    ) -> AttemptOutcome {
        let unknown = result.recipients.iter().any(|(_, status, _)| *status == AttemptStatus::Unknown);
        let not_before = result.retry_after.max(unknown.then_some(unknown_until));
        let (accepted, attempts, random) = (self.id.timestamp(), self.attempts + 1, fastrand::f64());
        let due = if unknown {
            retry.next_attempt_after_unknown(accepted, now, attempts, random, not_before.unwrap_or(now))
        } else {
            retry.next_attempt(accepted, now, attempts, random, not_before)
        };
        // Passed on to another transaction or to another upstream.
        let passed_on = result.try_other_upstream
            || (self.fallback == Fallback::OtherUpstream && !self.unsupported.is_empty());
        let at_once = due.is_some() && !unknown;
        let makes_room = result.too_many.is_some()
            || (result.has_overflow && result.has_ended())
            || (self.leaves_excess && (result.has_ended() || result.is_about_each()));
        let at_once = at_once && (passed_on || (makes_room && not_before.is_none()));
        let due = if at_once { Some(now) } else { due };
        let mut results = self.suppressed_results.clone();
        let fallen_back =
            if self.fallback == Fallback::Fail { AttemptStatus::Failed } else { AttemptStatus::Queued };
        let unfit = self
            .unsupported
            .iter()
            .map(|(index, why)| (*index, fallen_back, local_diagnostic(CAPABILITY_CHECK, why)));
        for (index, status, mut diagnostic) in result.recipients.into_iter().chain(unfit) {
            if status == AttemptStatus::Relayed && self.sends_8bit_unannounced {
                diagnostic.text =
                    Some(format!("{}; {NO_8BITMIME_TEXT}", diagnostic.text.unwrap_or_default()));
            }
            let waits = matches!(status, AttemptStatus::Queued | AttemptStatus::Unknown);
            let status = if waits && due.is_none() { AttemptStatus::Expired } else { status };
            match results.iter_mut().find(|known| known.status == status && known.diagnostic == diagnostic) {
                Some(known) => known.recipients.push(index),
                None => results.push(RecipientResult { recipients: vec![index], status, diagnostic }),
            }
        }
        let waits =
            results.iter().any(|s| matches!(s.status, AttemptStatus::Queued | AttemptStatus::Unknown));
        // The recipients that did not fit into this attempt come next.
        let next_attempt = if waits { due } else { self.has_more_recipients.then_some(now) };
        AttemptOutcome { id: self.id, at: now, upstream: upstream.to_owned(), results, next_attempt }
    }
}

impl AttemptResult {
    fn open_recipients(&self, indices: &[u16]) -> Vec<u16> {
        let decided = |index| self.recipients.iter().any(|(known, ..)| *known == index);
        indices.iter().copied().filter(|index| !decided(*index)).collect()
    }

    fn add_reply(&mut self, indices: &[u16], step: Step, reply: &Response, context: ReplyContext) {
        let ReplyContext { provider, is_refuted, now } = context;
        let verdict = classify_reply(step, reply, provider, is_refuted, now);
        let status = match self.apply_reply_class(verdict, || reply.to_string()) {
            // A server that accepts a message before any was sent is out of step.
            AttemptStatus::Relayed if step != Step::EndOfData => AttemptStatus::Queued,
            status => status,
        };
        self.set_status(indices, status, &reply_diagnostic(step_name(step), reply));
    }

    /// Passes recipients on to another upstream because of a limit of this one, given in `words`.
    fn pass_to_other_upstream(&mut self, indices: &[u16], words: Diagnostic) {
        self.try_other_upstream = true;
        self.set_status(indices, AttemptStatus::Queued, &words);
    }

    /// Returns whether the transaction settled some recipients, so that those that did not fit may follow
    /// at once.
    fn has_ended(&self) -> bool {
        let ended = |(_, status, words): &(u16, AttemptStatus, Diagnostic)| {
            words.name == END_OF_DATA && matches!(status, AttemptStatus::Relayed | AttemptStatus::Bounced)
        };
        self.recipients.iter().any(ended)
    }

    /// Returns whether each recipient got its own reply, which is no evidence about the others.
    fn is_about_each(&self) -> bool {
        let own = |words: &Diagnostic| words.name == RCPT_TO && words.code.is_some_and(|code| code != 421);
        self.recipients.iter().all(|(.., words)| own(words))
    }

    /// Sets the status of the recipients at the given indices.
    pub fn set_status(&mut self, indices: &[u16], status: AttemptStatus, words: &Diagnostic) {
        self.recipients.extend(indices.iter().map(|index| (*index, status, words.clone())));
    }

    /// Returns the status that a reply class gives its recipients, and records its effect on the upstream.
    fn apply_reply_class(&mut self, verdict: ReplyClass, words: impl FnOnce() -> String) -> AttemptStatus {
        let (until, certainty) = match verdict {
            ReplyClass::Accepted => return AttemptStatus::Relayed,
            ReplyClass::Permanent | ReplyClass::Unsupported => return AttemptStatus::Bounced,
            ReplyClass::Temporary => return AttemptStatus::Queued,
            ReplyClass::Throttled { until } => (until, Certainty::Likely),
            ReplyClass::AccountRefused { until } => (until, Certainty::Certain),
            ReplyClass::AccountSuspected { until, certainty } => (until, certainty),
        };
        self.retry_after = self.retry_after.max(until);
        let refusal = Some(UpstreamRefusal { text: words(), until, certainty });
        match verdict {
            ReplyClass::Throttled { .. } => self.throttle_refusal = refusal,
            _ => self.upstream_refusal = refusal,
        }
        AttemptStatus::Queued
    }
}

/// Context for classifying a reply.
#[derive(Clone, Copy, Debug)]
pub struct ReplyContext {
    /// Provider that sent the reply.
    pub provider: Provider,
    /// Whether the upstream-wide verdict of this message's replies has been refuted since.
    pub is_refuted: bool,
    /// Current time.
    pub now: Timestamp,
}

/// Returns the recipients that were too many for one transaction, in rotation: a slow one delays no other.
fn excess_recipients<'a>(waiting: &[(u16, &'a Recipient)], attempts: u32) -> Vec<(u16, &'a Recipient)> {
    let was_excess =
        |diagnostic: &Diagnostic| diagnostic.name != RCPT_TO && is_too_many_recipients(diagnostic);
    let mut excess: Vec<_> =
        waiting.iter().filter(|(_, recipient)| was_excess(&recipient.diagnostic)).copied().collect();
    let turn = attempts as usize % excess.len().max(1);
    excess.rotate_left(turn);
    excess
}

/// Returns the recipients of the next transaction: all except those at which the connection broke
/// repeatedly. Each of these goes alone, in rotation with the others, so that none waits for another.
fn next_recipient_group<'a>(waiting: &[(u16, &'a Recipient)], attempts: u32) -> Vec<(u16, &'a Recipient)> {
    let breaks = |recipient: &Recipient| {
        let words = &recipient.diagnostic;
        words.name == RCPT_TO && matches!(words.code, None | Some(421)) && attempts >= SUSPECT_AFTER_ATTEMPTS
    };
    let (alone, others): (Vec<_>, Vec<_>) = waiting.iter().partition(|(_, recipient)| breaks(recipient));
    let turn = attempts as usize / 2;
    match alone.get(turn % alone.len().max(1)) {
        Some(one) if others.is_empty() || attempts % 2 == 1 => vec![*one],
        _ => others,
    }
}

/// A suppressed recipient, by its index in the envelope, and the verdict.
pub type SuppressedRecipient = (u16, suppression::SuppressionVerdict);

/// Returns the results of the suppressed recipients.
fn suppressed_results(suppressed: &[SuppressedRecipient], recipients: &[Recipient]) -> Vec<RecipientResult> {
    let one = |(index, verdict): &SuppressedRecipient| {
        let address = recipients.get(usize::from(*index))?.address.as_str();
        let diagnostic = Diagnostic {
            enhanced_status: Some(suppression::ENHANCED_STATUS.to_owned()),
            ..local_diagnostic("suppression", &verdict.to_text(address))
        };
        Some(RecipientResult { recipients: vec![*index], status: AttemptStatus::Suppressed, diagnostic })
    };
    suppressed.iter().filter_map(one).collect()
}

/// Returns the diagnostic of the upstream's reply at a step.
fn reply_diagnostic(name: &str, reply: &Response) -> Diagnostic {
    Diagnostic {
        name: name.to_owned(),
        code: Some(reply.code),
        enhanced_status: reply.enhanced_status.clone(),
        text: Some(reply.text.chars().take(MAX_DIAGNOSTIC_CHARS).collect()),
        host: None,
        url: None,
    }
}

/// Returns a diagnostic with our own text.
pub fn local_diagnostic(name: &str, text: &str) -> Diagnostic {
    Diagnostic {
        name: name.to_owned(),
        text: Some(text.chars().take(MAX_DIAGNOSTIC_CHARS).collect()),
        ..Diagnostic::default()
    }
}

const DAMAGED_TEXT: &str = "the message is damaged on disk and cannot be sent";
const fn step_name(step: Step) -> &'static str {
    match step {
        Step::Mail => "MAIL",
        Step::Rcpt { .. } => RCPT_TO,
        Step::Data => "DATA",
        Step::Body => MESSAGE_STEP,
        Step::EndOfData => END_OF_DATA,
    }
}

/// Failed attempts after which a message, or one of its recipients, may be at fault.
const SUSPECT_AFTER_ATTEMPTS: u32 = 2;
const TOO_LARGE_TEXT: &str = "the message is larger than the upstream takes";
const NO_SMTPUTF8_TEXT: &str = "addresses or header need SMTPUTF8, which the upstream does not offer";
const NO_8BITMIME_TEXT: &str = "sent as it is: it holds 8-bit text, and the upstream does not offer 8BITMIME";
/// Name of the step at which a message was not sent completely.
const MESSAGE_STEP: &str = "message";
/// Bytes of a large message from which its Mailgun parameters are read.
const MAX_API_HEADER_BYTES: usize = 256 << 10;
/// Maximum stored length of a reply in characters.
const MAX_DIAGNOSTIC_CHARS: usize = 512;

/// Diagnostic if the store cannot record the start of an attempt.
pub const ATTEMPT_NOT_RECORDED: &str = "the attempt could not be noted on disk";
