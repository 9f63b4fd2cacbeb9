//! One message on its way to an upstream: what is said, and what the answers mean for each recipient.

use crate::queue::retry::Retry;
use bytes::Bytes;
use futures_util::future::ready;
use futures_util::{Stream, StreamExt, stream};
use mailtrail_mail::{BodyType, Dsn, Envelope, HeaderBlock, Lane, Mailbox, Timestamp, TrackingId};
use mailtrail_net::transport::{
    Answer, Certainty, EnvelopeReplies, Fault, Step, Verdict, Weighed, is_for_next_transaction, is_own_limit,
    is_too_many_recipients, verdict, verdict_of_answer,
};
use mailtrail_smtp::{Capabilities, Response};
use mailtrail_store::{Job, Stored};
use mailtrail_trail::provider::{Provider, mailgun};
use mailtrail_trail::{
    CAPABILITIES, END_OF_DATA, MESSAGES, Outcome, RCPT, Recipient, Settled, Standing, Words, suppression,
};
use std::io;

/// A message that is ready to go.
#[derive(Debug)]
pub struct Attempt {
    /// Which send.
    pub id: TrackingId,
    /// What is said to the upstream: from and to those whom it can be sent by it, once it is [fitted](Self::fit).
    pub envelope: Envelope,
    /// The places of those recipients in the send.
    pub places: Vec<u16>,
    /// The sender and those recipients it still has to go to, as they were written.
    sender: Option<Mailbox>,
    wanted: Vec<(u16, Mailbox)>,
    /// Those of them whom this upstream is not able to take, and why.
    unfit: Vec<(u16, &'static str)>,
    /// What becomes of these.
    fallback: Fallback,
    /// Whether this upstream was not able to take it before: only a new connection shows whether it is now.
    pub afresh: bool,
    /// Whether the header needs SMTPUTF8, whatever the addresses are.
    international: bool,
    /// Whether 8-bit text goes out although the upstream does not offer 8BITMIME.
    as_it_is: bool,
    /// The provider's stamps, to stand in front of the message.
    stamps: Bytes,
    /// The message as it is kept.
    message: Stored,
    attempts: u32,
    /// The lane it came in.
    pub lane: Lane,
    /// Whether others wait whom this attempt has no room for.
    leaves_others: bool,
    /// Whether some of them wait for a transaction with fewer recipients than they were refused in.
    leaves_crowd: bool,
    /// What becomes of those who get no mail.
    suppressed: Vec<Settled>,
}

/// What becomes of recipients that an upstream is not able to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Another upstream may be able: it is tried next.
    Another,
    /// They wait for this one, which may have the message already.
    Wait,
    /// They fail: no upstream of the route is able to take them.
    Fail,
}

/// What an attempt knows so far about each of its recipients.
#[derive(Debug, Default)]
pub struct Findings {
    decided: Vec<(u16, Standing, Words)>,
    not_before: Option<Timestamp>,
    /// Whether some had no place in this transaction and go in another.
    overflow: bool,
    /// The number of recipients that were too many for one transaction.
    pub too_many: Option<usize>,
    /// Whether another upstream is to be tried next, for a limit of this one.
    passed_on: bool,
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
        fallback: Fallback,
        now: Timestamp,
    ) -> Prepared {
        let may_go = |place: &u16| suppressed.binary_search_by_key(place, |(known, _)| *known).is_err();
        let waiting = (0u16..).zip(&job.recipients).filter(|(_, recipient)| recipient.waits());
        let waiting: Vec<_> = waiting.filter(|(place, _)| may_go(place)).collect();
        let suppressed = settled(suppressed, &job.recipients);
        let crowd = crowd(&waiting, job.attempts);
        let leaves_crowd = crowd.len() > most;
        let some = if crowd.is_empty() { together(&waiting, job.attempts) } else { crowd };
        let some = some.into_iter().take(most);
        let wanted: Vec<_> = some.map(|(place, recipient)| (place, recipient.address.clone())).collect();
        let leaves_others = wanted.len() < waiting.len();
        let over = |settled| {
            Prepared::Over(Outcome {
                id: job.send.id,
                at: now,
                upstream: upstream.to_owned(),
                settled,
                due: None,
            })
        };
        if wanted.is_empty() {
            return over(suppressed);
        }
        let Some(message) = job.message else {
            tracing::error!(id = %job.send.id, "{DAMAGED}");
            let words = said("store", DAMAGED);
            let recipients = wanted.into_iter().map(|(place, _)| place).collect();
            let failed = Settled { recipients, standing: Standing::Failed, words };
            return over(suppressed.into_iter().chain([failed]).collect());
        };
        let places = wanted.iter().map(|(place, _)| *place).collect();
        let envelope = Envelope {
            sender: None,
            recipients: Vec::new(),
            body: job.send.body,
            smtputf8: job.send.smtputf8,
            dsn: Dsn::default(),
        };
        let stamps: String = provider.stamps(job.send.id).iter().map(|line| format!("{line}\r\n")).collect();
        Prepared::Ready(Box::new(Self {
            id: job.send.id,
            envelope,
            places,
            sender: job.send.sender,
            wanted,
            unfit: Vec::new(),
            fallback,
            afresh: false,
            international: job.send.smtputf8,
            as_it_is: false,
            stamps: stamps.into(),
            message,
            attempts: job.attempts,
            lane: job.send.lane,
            leaves_others,
            leaves_crowd,
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
            let wanted = self.wanted.iter().filter(|(place, _)| settled.recipients.contains(place));
            wanted.map(|(_, address)| (address, &settled.words))
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

    /// Fits it to what the upstream of a connection offers: what it needs is what addresses and header hold (RFC 6531
    /// section 3.4). Without SMTPUTF8 domains go out in A-labels; recipients for whom that is not enough are left out.
    pub fn fit(&mut self, capabilities: &Capabilities) {
        let form = |address: &Mailbox| {
            if capabilities.smtputf8 { Some(address.clone()) } else { address.to_ascii() }
        };
        let sender = self.sender.as_ref().map(form);
        let obstacle = if capabilities.size.is_some_and(|limit| limit > 0 && self.size() > limit) {
            Some(TOO_LARGE)
        } else if (self.international && !capabilities.smtputf8) || sender == Some(None) {
            Some(NO_SMTPUTF8)
        } else {
            None
        };
        (self.places, self.unfit) = (Vec::new(), Vec::new());
        let mut recipients = Vec::with_capacity(self.wanted.len());
        for (place, address) in &self.wanted {
            match (obstacle, form(address)) {
                (None, Some(address)) => {
                    self.places.push(*place);
                    recipients.push(address);
                }
                (obstacle, _) => self.unfit.push((*place, obstacle.unwrap_or(NO_SMTPUTF8))),
            }
        }
        let sender = sender.flatten();
        let international = recipients.iter().chain(&sender).any(|address| !address.is_ascii());
        self.envelope.smtputf8 = self.international || international;
        self.as_it_is = self.envelope.body == BodyType::EightBitMime && !capabilities.eight_bit_mime;
        (self.envelope.sender, self.envelope.recipients) = (sender, recipients);
    }

    /// Whether the upstream that it was fitted to is able to take it for everybody.
    pub fn fits(&self) -> bool {
        self.unfit.is_empty()
    }

    /// What the answers to the envelope mean. Recipients that were taken stay open until the message is.
    pub fn weigh_envelope(&self, replies: &EnvelopeReplies, weights: Weights) -> Findings {
        let mut findings = Findings::default();
        if !replies.mail.is_positive() {
            if !self.passes_on(&mut findings, &self.places, &replies.mail) {
                findings.add(&self.places, Step::Mail, &replies.mail, weights);
            }
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
            self.weigh_content(&mut findings, Step::Data, data, weights);
            // A farewell stands for all answers that did not come, and came at the first of these.
            let unanswered = self.unanswered(replies);
            let mut decided = findings.decided.iter_mut();
            if let Some((.., words)) = decided.find(|(place, ..)| Some(*place) == unanswered) {
                RCPT.clone_into(&mut words.name);
            }
        }
        findings
    }

    /// What a refusal of DATA, or the answer to the final dot or to what was sent of the message before, means for those
    /// still open. Several that are too many for one transaction go in smaller ones; a single one never is.
    pub fn weigh_content(&self, findings: &mut Findings, step: Step, reply: &Response, weights: Weights) {
        let open = findings.open(&self.places);
        let words = heard(name(step), reply);
        if open.len() > 1 && is_too_many_recipients(&words) {
            findings.too_many = Some(open.len());
            findings.note(&open, Standing::Queued, &words);
        } else if !self.passes_on(findings, &open, reply) {
            findings.add(&open, step, reply, weights);
        }
    }

    /// Passes recipients on to another upstream where this one refuses the message for a limit of its own; whether it did.
    fn passes_on(&self, findings: &mut Findings, places: &[u16], reply: &Response) -> bool {
        let passes = self.fallback == Fallback::Another && reply.code >= 500 && is_own_limit(reply);
        if passes {
            findings.pass_on(places, heard(CAPABILITIES, reply));
        }
        passes
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
        let (verdict, is_unclear) = match verdict_of_answer(answer, places.len(), now) {
            Weighed::Alike(verdict) => (verdict, false),
            Weighed::Unclear(verdict) => (verdict, true),
            Weighed::Apart => return true,
        };
        let text = answer.id.iter().fold(answer.text.clone(), |text, id| format!("{text} {id}"));
        let words = |name, text: &str| Words { code: Some(answer.status), ..said(name, text) };
        if verdict == Verdict::Unable && self.fallback == Fallback::Another {
            findings.pass_on(&findings.open(&self.places), words(CAPABILITIES, &text));
            return false;
        }
        let standing = findings.weigh(verdict, || format!("{} {}", answer.status, answer.text));
        let name = if answer.whole { MESSAGES } else { MESSAGE };
        if is_unclear {
            findings.note(places, Standing::Unknown, &words(name, &format!("no clear answer: {text}")));
        } else {
            findings.note(places, standing, &words(name, &text));
        }
        if standing == Standing::Queued {
            findings.note(&findings.open(&self.places), standing, &words("upstream", &text));
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
        let unknown = findings.decided.iter().any(|(_, standing, _)| *standing == Standing::Unknown);
        let not_before = findings.not_before.max(unknown.then_some(unknown_until));
        let (accepted, attempts, random) = (self.id.timestamp(), self.attempts + 1, fastrand::f64());
        let due = if unknown {
            retry.next_unknown(accepted, now, attempts, random, not_before.unwrap_or(now))
        } else {
            retry.next(accepted, now, attempts, random, not_before)
        };
        // By another transaction, or by another upstream.
        let passed_on = findings.passed_on || (self.fallback == Fallback::Another && !self.unfit.is_empty());
        let at_once = due.is_some() && !unknown;
        let makes_room = findings.too_many.is_some()
            || (findings.overflow && findings.has_ended())
            || (self.leaves_crowd && (findings.has_ended() || findings.is_about_each()));
        let at_once = at_once && (passed_on || (makes_room && not_before.is_none()));
        let due = if at_once { Some(now) } else { due };
        let mut settled = self.suppressed.clone();
        let fallen_back = if self.fallback == Fallback::Fail { Standing::Failed } else { Standing::Queued };
        let unfit = self.unfit.iter().map(|(place, why)| (*place, fallen_back, said(CAPABILITIES, why)));
        for (place, standing, mut words) in findings.decided.into_iter().chain(unfit) {
            if standing == Standing::Relayed && self.as_it_is {
                words.text = Some(format!("{}; {AS_IT_IS}", words.text.unwrap_or_default()));
            }
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

    /// Another upstream takes these, for a limit of this one that `words` tell.
    fn pass_on(&mut self, places: &[u16], words: Words) {
        self.passed_on = true;
        self.note(places, Standing::Queued, &words);
    }

    /// Whether the transaction brought some to an end, so that those without a place in it may follow at once.
    fn has_ended(&self) -> bool {
        let ended = |(_, standing, words): &(u16, Standing, Words)| {
            words.name == END_OF_DATA && matches!(standing, Standing::Relayed | Standing::Bounced)
        };
        self.decided.iter().any(ended)
    }

    /// Whether each recipient got a reply of its own, which says nothing about others.
    fn is_about_each(&self) -> bool {
        let own = |words: &Words| words.name == RCPT && words.code.is_some_and(|code| code != 421);
        self.decided.iter().all(|(.., words)| own(words))
    }

    /// Notes where those at `places` stand.
    pub fn note(&mut self, places: &[u16], standing: Standing, words: &Words) {
        self.decided.extend(places.iter().map(|place| (*place, standing, words.clone())));
    }

    /// What a verdict means for those it is about; what it means for the upstream is noted.
    fn weigh(&mut self, verdict: Verdict, words: impl FnOnce() -> String) -> Standing {
        let (until, certainty) = match verdict {
            Verdict::Taken => return Standing::Relayed,
            Verdict::Refused | Verdict::Unable => return Standing::Bounced,
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

/// Those recipients that were too many for one transaction, in turns: one that waits longer holds no other.
fn crowd<'a>(waiting: &[(u16, &'a Recipient)], attempts: u32) -> Vec<(u16, &'a Recipient)> {
    let crowded = |words: &Words| words.name != RCPT && is_too_many_recipients(words);
    let mut crowd: Vec<_> = waiting.iter().filter(|(_, one)| crowded(&one.words)).copied().collect();
    let turn = attempts as usize % crowd.len().max(1);
    crowd.rotate_left(turn);
    crowd
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
const TOO_LARGE: &str = "the message is larger than the upstream takes";
const NO_SMTPUTF8: &str = "addresses or header need SMTPUTF8, which the upstream does not offer";
const AS_IT_IS: &str = "sent as it is: it holds 8-bit text, and the upstream does not offer 8BITMIME";
/// Where a message was not sent whole.
const MESSAGE: &str = "message";
/// Bytes of a large message from which its requests to Mailgun are read.
const HEADER: usize = 256 << 10;
/// Characters of a reply that are kept.
const TEXT: usize = 512;
