//! One message on its way to an upstream: what is said, and what the answers mean for each recipient.

use super::Retry;
use crate::clock::Timestamp;
use crate::event::Words;
use crate::id::TrackingId;
use crate::ledger::step::{END_OF_DATA, MESSAGES, RCPT};
use crate::ledger::{Outcome, Recipient, Settled, Standing};
use crate::mail::{Dsn, Envelope, HeaderBlock, Lane, Mailbox};
use crate::provider::{Provider, mailgun};
use crate::smtp::{Capabilities, Response};
use crate::store::{Job, Stored};
use crate::suppression;
use crate::transport::api::Answer;
use crate::transport::{
    Certainty, EnvelopeReplies, Fault, Step, Verdict, Weighed, is_for_next_transaction, verdict,
    verdict_of_answer,
};
use bytes::Bytes;
use futures_util::future::ready;
use futures_util::{Stream, StreamExt, stream};
use std::io;

/// A message that is ready to go.
#[derive(Debug)]
pub struct Attempt {
    /// Which send.
    pub id: TrackingId,
    /// To whom it still has to go.
    pub envelope: Envelope,
    /// The places of those recipients in the send.
    pub places: Vec<u16>,
    /// The provider's stamps, to stand in front of the message.
    stamps: Bytes,
    /// The message as it is kept.
    message: Stored,
    attempts: u32,
    /// The lane it came in.
    pub lane: Lane,
    /// Whether others wait whom this attempt has no room for.
    leaves_others: bool,
    /// What becomes of those who get no mail.
    suppressed: Vec<Settled>,
}

/// What an attempt knows so far about each of its recipients.
#[derive(Debug, Default)]
pub struct Findings {
    decided: Vec<(u16, Standing, Words)>,
    not_before: Option<Timestamp>,
    /// Whether some had no place in this transaction and go in another.
    overflow: bool,
    /// What the upstream said about itself, not about this mail.
    pub upstream: Option<UpstreamRefusal>,
    /// Whether it said that it is too much.
    pub throttled: Option<UpstreamRefusal>,
}

/// The upstream takes nothing, or less, for now.
#[derive(Clone, Debug)]
pub struct UpstreamRefusal {
    /// Its words.
    pub words: String,
    /// When it wants to be asked again.
    pub until: Option<Timestamp>,
    /// How much that shows.
    pub certainty: Certainty,
}

/// Who decides about a message that is over or damaged.
#[derive(Debug)]
pub enum Prepared {
    /// It can go.
    Ready(Box<Attempt>),
    /// It cannot; this settles it.
    Over(Outcome),
}

impl Attempt {
    /// Makes a send ready for at most so many recipients; one whose message cannot be read any more, or that nobody
    /// waits for but those who get no mail, is over. `suppressed` are these, by their places.
    pub fn prepare(
        job: Job,
        suppressed: &[Suppressed],
        provider: Provider,
        upstream: &str,
        most: usize,
        now: Timestamp,
    ) -> Prepared {
        let may_go = |place: &u16| suppressed.binary_search_by_key(place, |(known, _)| *known).is_err();
        let waiting = (0u16..).zip(&job.recipients).filter(|(_, recipient)| recipient.waits());
        let waiting: Vec<_> = waiting.filter(|(place, _)| may_go(place)).collect();
        let suppressed = settled(suppressed, &job.recipients);
        let some = together(&waiting, job.attempts).into_iter().take(most);
        let (places, recipients): (Vec<_>, Vec<_>) =
            some.map(|(place, recipient)| (place, recipient.address.clone())).unzip();
        let leaves_others = places.len() < waiting.len();
        let over = |settled| {
            Prepared::Over(Outcome {
                id: job.send.id,
                at: now,
                upstream: upstream.to_owned(),
                settled,
                due: None,
            })
        };
        if places.is_empty() {
            return over(suppressed);
        }
        let Some(message) = job.message else {
            tracing::error!(id = %job.send.id, "{DAMAGED}");
            let words = said("store", DAMAGED);
            let failed = Settled { recipients: places, standing: Standing::Failed, words };
            return over(suppressed.into_iter().chain([failed]).collect());
        };
        let international = recipients.iter().chain(&job.send.sender).any(|address| !address.is_ascii());
        let envelope = Envelope {
            sender: job.send.sender,
            recipients,
            body: job.send.body,
            smtputf8: job.send.smtputf8 || international,
            dsn: Dsn::default(),
        };
        let stamps: String = provider.stamps(job.send.id).iter().map(|line| format!("{line}\r\n")).collect();
        Prepared::Ready(Box::new(Self {
            id: job.send.id,
            envelope,
            places,
            stamps: stamps.into(),
            message,
            attempts: job.attempts,
            lane: job.send.lane,
            leaves_others,
            suppressed,
        }))
    }

    /// Whether it failed before, again and again: its envelope is said one command at a time, so that each reply is
    /// surely its command's.
    pub fn is_doubtful(&self) -> bool {
        self.attempts >= DOUBTFUL
    }

    /// Bytes that go out.
    pub fn size(&self) -> u64 {
        self.stamps.len() as u64 + self.message.size()
    }

    /// What goes out: the stamps, then the message.
    pub fn pieces(&self) -> impl Stream<Item = io::Result<Bytes>> + use<> {
        stream::once(ready(Ok(self.stamps.clone()))).chain(self.message.pieces())
    }

    /// The recipients at those places.
    pub fn recipients(&self, places: &[u16]) -> Vec<&Mailbox> {
        let all = self.places.iter().zip(&self.envelope.recipients);
        all.filter(|(place, _)| places.contains(place)).map(|(_, recipient)| recipient).collect()
    }

    /// Those whom the upstream refused because there is no such address, with its words.
    pub fn refused<'a>(&'a self, outcome: &'a Outcome) -> impl Iterator<Item = (&'a Mailbox, &'a Words)> {
        let refused = outcome.settled.iter().filter(|settled| {
            let bounced = settled.standing == Standing::Bounced && settled.words.name == RCPT;
            bounced && suppression::of_refusal(&settled.words)
        });
        refused.flat_map(|settled| {
            self.recipients(&settled.recipients).into_iter().map(|address| (address, &settled.words))
        })
    }

    /// Whether something is still to be found out about somebody.
    pub fn is_open(&self, findings: &Findings) -> bool {
        !findings.open(&self.places).is_empty()
    }

    /// What the message asks Mailgun for, as parameters of its API. Of a large message's header only the first
    /// [`HEADER`] bytes count.
    pub async fn parameters(&self) -> io::Result<Vec<(String, String)>> {
        let (mut pieces, mut message) = (self.message.pieces().boxed(), Vec::new());
        while let Some(piece) = pieces.next().await.transpose()? {
            message.extend_from_slice(&piece);
            if message.len() >= HEADER || HeaderBlock::of(&message).is_whole() {
                break;
            }
        }
        let (stamps, message) = (HeaderBlock::of(&self.stamps), HeaderBlock::of(&message));
        Ok(mailgun::parameters(stamps.fields().chain(message.fields())))
    }

    /// Why an upstream with these capabilities can never take it.
    pub fn obstacle(&self, capabilities: &Capabilities) -> Option<&'static str> {
        let limit = capabilities.size.filter(|limit| *limit > 0);
        if limit.is_some_and(|limit| self.size() > limit) {
            Some("the message is larger than the upstream takes")
        } else if self.envelope.smtputf8 && !capabilities.smtputf8 {
            Some("the addresses need SMTPUTF8, which the upstream does not offer")
        } else {
            None
        }
    }

    /// What the answers to the envelope mean. Recipients that were taken stay open until the message is.
    pub fn weigh_envelope(&self, replies: &EnvelopeReplies, weights: Weights) -> Findings {
        let mut findings = Findings::default();
        if !replies.mail.is_positive() {
            findings.add(&self.places, Step::Mail, &replies.mail, weights);
            return findings;
        }
        let alike = replies.recipients.len() == self.places.len() && replies.are_alike();
        let mut taken = false;
        for (place, reply) in self.places.iter().zip(&replies.recipients) {
            if reply.is_positive() {
                taken = true;
            } else if is_for_next_transaction(reply, taken) {
                findings.overflow = true;
                findings.note(&[*place], Standing::Queued, &heard(RCPT, reply));
            } else {
                findings.add(&[*place], Step::Rcpt { alike }, reply, weights);
            }
        }
        if let Some(data) = &replies.data
            && !data.is_intermediate()
        {
            let open = findings.open(&self.places);
            findings.add(&open, Step::Data, data, weights);
            // A farewell stands for all answers that did not come, and came at the first of these.
            let unanswered = self.unanswered(replies);
            let mut decided = findings.decided.iter_mut();
            if let Some((.., words)) = decided.find(|(place, ..)| Some(*place) == unanswered) {
                RCPT.clone_into(&mut words.name);
            }
        }
        findings
    }

    /// What the answer to the final dot, or to what was sent of the message before, means for those still open.
    pub fn weigh_content(&self, findings: &mut Findings, step: Step, reply: &Response, weights: Weights) {
        let open = findings.open(&self.places);
        findings.add(&open, step, reply, weights);
    }

    /// The connection broke behind these answers. It broke over the recipient whose RCPT got none, which is noted: where
    /// that happens again the others go without it.
    pub fn give_broken(&self, findings: &mut Findings, replies: &EnvelopeReplies, fault: &Fault) {
        let text = fault.to_string();
        if let Some(place) = self.unanswered(replies) {
            findings.note(&[place], Standing::Queued, &said(RCPT, &text));
        }
        self.give(findings, Standing::Queued, "connection", &text);
    }

    /// The recipient whose RCPT is the first without an answer of its own.
    fn unanswered(&self, replies: &EnvelopeReplies) -> Option<u16> {
        self.places.get(replies.recipients.len()).copied().filter(|_| replies.mail.is_positive())
    }

    /// What the answer to a request over HTTP means for those at `places`; true when each half of them is to be tried on
    /// its own. An answer that decides about nobody is about all that are still open.
    pub fn weigh_answer(
        &self,
        findings: &mut Findings,
        places: &[u16],
        answer: &Answer,
        now: Timestamp,
    ) -> bool {
        let Weighed::Alike(verdict) = verdict_of_answer(answer, places.len(), now) else { return true };
        let text = answer.id.iter().fold(answer.text.clone(), |text, id| format!("{text} {id}"));
        let words = Words { code: Some(answer.status), ..said(MESSAGES, &text) };
        let standing = findings.weigh(verdict, || format!("{} {}", answer.status, answer.text));
        match standing {
            Standing::Queued => findings.note(&findings.open(&self.places), standing, &words),
            _ => findings.note(places, standing, &words),
        }
        false
    }

    /// The attempt failed for those still open, for a reason that no reply gives.
    pub fn give(&self, findings: &mut Findings, standing: Standing, name: &str, text: &str) {
        findings.note(&findings.open(&self.places), standing, &said(name, text));
    }

    /// The message could not be read to its end: nobody gets a damaged one, one on a disk that failed is tried again.
    pub fn give_unreadable(&self, findings: &mut Findings, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::InvalidData => self.give(findings, Standing::Failed, "store", DAMAGED),
            _ => self.give(findings, Standing::Queued, "store", "the message could not be read from disk"),
        }
    }

    /// Puts the findings into a record: equal ones together, each that waits with its next time or, when the mail
    /// is too old, expired. An unknown end waits at least until `unknown_until` for an event to settle it.
    pub fn conclude(
        &self,
        findings: Findings,
        upstream: &str,
        retry: &Retry,
        now: Timestamp,
        unknown_until: Timestamp,
    ) -> Outcome {
        let not_before = if findings.decided.iter().any(|(_, standing, _)| *standing == Standing::Unknown) {
            findings.not_before.max(Some(unknown_until))
        } else {
            findings.not_before
        };
        let due = retry.next(self.id.timestamp(), now, self.attempts + 1, fastrand::f64(), not_before);
        let due = if findings.makes_room() && not_before.is_none() { Some(now) } else { due };
        let mut settled = self.suppressed.clone();
        for (place, standing, words) in findings.decided {
            let waits = matches!(standing, Standing::Queued | Standing::Unknown);
            let standing = if waits && due.is_none() { Standing::Expired } else { standing };
            match settled.iter_mut().find(|known| known.standing == standing && known.words == words) {
                Some(known) => known.recipients.push(place),
                None => settled.push(Settled { recipients: vec![place], standing, words }),
            }
        }
        let waits = settled.iter().any(|s| matches!(s.standing, Standing::Queued | Standing::Unknown));
        // Those that this attempt had no room for come next.
        let due = if waits { due } else { self.leaves_others.then_some(now) };
        Outcome { id: self.id, at: now, upstream: upstream.to_owned(), settled, due }
    }
}

impl Findings {
    fn open(&self, places: &[u16]) -> Vec<u16> {
        let decided = |place| self.decided.iter().any(|(known, ..)| *known == place);
        places.iter().copied().filter(|place| !decided(*place)).collect()
    }

    fn add(&mut self, places: &[u16], step: Step, reply: &Response, weights: Weights) {
        let Weights { provider, is_refuted, now } = weights;
        let verdict = verdict(step, reply, provider, is_refuted, now);
        let standing = match self.weigh(verdict, || reply.to_string()) {
            // A server that says yes where nothing was sent is out of step.
            Standing::Relayed if step != Step::EndOfData => Standing::Queued,
            standing => standing,
        };
        self.note(places, standing, &heard(name(step), reply));
    }

    /// Whether the transaction brought some to an end, so that those without a place in it may follow at once.
    fn makes_room(&self) -> bool {
        let ended = |(_, standing, words): &(u16, Standing, Words)| {
            words.name == END_OF_DATA && matches!(standing, Standing::Relayed | Standing::Bounced)
        };
        self.overflow && self.decided.iter().any(ended)
    }

    /// Notes where those at `places` stand.
    pub fn note(&mut self, places: &[u16], standing: Standing, words: &Words) {
        self.decided.extend(places.iter().map(|place| (*place, standing, words.clone())));
    }

    /// What a verdict means for those it is about; what it means for the upstream is noted.
    fn weigh(&mut self, verdict: Verdict, words: impl FnOnce() -> String) -> Standing {
        let (until, certainty) = match verdict {
            Verdict::Taken => return Standing::Relayed,
            Verdict::Refused => return Standing::Bounced,
            Verdict::Later => return Standing::Queued,
            Verdict::Throttled { until } => (until, Certainty::Likely),
            Verdict::Upstream { until } => (until, Certainty::Certain),
            Verdict::Suspected { until, certainty } => (until, certainty),
        };
        self.not_before = self.not_before.max(until);
        let refusal = Some(UpstreamRefusal { words: words(), until, certainty });
        match verdict {
            Verdict::Throttled { .. } => self.throttled = refusal,
            _ => self.upstream = refusal,
        }
        Standing::Queued
    }
}

/// What it takes to weigh a reply.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// Whose words they are.
    pub provider: Provider,
    /// Whether what was said to this message about the upstream was refuted since.
    pub is_refuted: bool,
    /// The time.
    pub now: Timestamp,
}

/// Those recipients that go together: all, but for those over which the connection broke again and again. Each of these
/// goes alone, in turns with the others, so that none waits for another.
fn together<'a>(waiting: &[(u16, &'a Recipient)], attempts: u32) -> Vec<(u16, &'a Recipient)> {
    let breaks = |recipient: &Recipient| {
        let words = &recipient.words;
        words.name == RCPT && matches!(words.code, None | Some(421)) && attempts >= DOUBTFUL
    };
    let (alone, others): (Vec<_>, Vec<_>) = waiting.iter().partition(|(_, recipient)| breaks(recipient));
    let turn = attempts as usize / 2;
    match alone.get(turn % alone.len().max(1)) {
        Some(one) if others.is_empty() || attempts % 2 == 1 => vec![*one],
        _ => others,
    }
}

/// A recipient that gets no mail, by its place in the envelope, and why.
pub type Suppressed = (u16, suppression::Verdict);

/// What becomes of those who get no mail.
fn settled(suppressed: &[Suppressed], recipients: &[Recipient]) -> Vec<Settled> {
    let one = |(place, verdict): &Suppressed| {
        let address = recipients.get(usize::from(*place))?.address.as_str();
        let words = Words {
            enhanced: Some(suppression::STATUS.to_owned()),
            ..said("suppression", &verdict.text(address))
        };
        Some(Settled { recipients: vec![*place], standing: Standing::Suppressed, words })
    };
    suppressed.iter().filter_map(one).collect()
}

/// What the upstream said at that step.
fn heard(name: &str, reply: &Response) -> Words {
    Words {
        name: name.to_owned(),
        code: Some(reply.code),
        enhanced: reply.enhanced.clone(),
        text: Some(reply.text.chars().take(TEXT).collect()),
        host: None,
        url: None,
    }
}

/// Words of our own.
pub fn said(name: &str, text: &str) -> Words {
    Words { name: name.to_owned(), text: Some(text.chars().take(TEXT).collect()), ..Words::default() }
}

const DAMAGED: &str = "the message is damaged on disk and cannot be sent";
const fn name(step: Step) -> &'static str {
    match step {
        Step::Mail => "MAIL",
        Step::Rcpt { .. } => RCPT,
        Step::Data => "DATA",
        Step::Message => MESSAGE,
        Step::EndOfData => END_OF_DATA,
    }
}

/// Attempts in vain after which a message, or one of its recipients, may be at fault.
const DOUBTFUL: u32 = 2;
/// Where a message was not sent whole.
const MESSAGE: &str = "message";
/// Bytes of a large message from which its requests to Mailgun are read.
const HEADER: usize = 256 << 10;
/// Characters of a reply that are kept.
const TEXT: usize = 512;
