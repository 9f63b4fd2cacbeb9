//! Faults of the upstream at every step: no message is lost, stuck or without a record. Time is manual.

use mailtrail_mail::TrackingId;
use mailtrail_net::tls;
use mailtrail_trail::{AttemptStatus, Recipient, RecipientState, Trail, TrailEventKind};
use std::collections::BTreeMap;
use std::time::Duration;
use tempfile::TempDir;
use testkit::log_capture::LogCapture;
use testkit::mock_smtp::{MockSmtpServer, SmtpAction, SmtpScript, SmtpStep};
use testkit::queue_harness::{LONG_MESSAGE, QueueHarness, attempt_results, recipient_states, sample_message};

#[tokio::test(start_paused = true)]
async fn no_message_is_lost_with_full_pipelining() {
    run_every_fault_at_every_stage("pipelining = \"full\"").await;
}

#[tokio::test(start_paused = true)]
async fn no_message_is_lost_with_grouped_commands() {
    run_every_fault_at_every_stage("pipelining = \"group\"").await;
}

#[tokio::test(start_paused = true)]
async fn no_message_is_lost_without_pipelining() {
    run_every_fault_at_every_stage("pipelining = \"off\"").await;
}

/// For three hours the upstream refuses connections, for three more it hangs.
#[tokio::test(start_paused = true)]
async fn upstream_outage_of_six_hours_only_delays_mail() {
    let log = LogCapture::default();
    let _logging = log.install();
    let (server, socket) = MockSmtpServer::refusing(SmtpScript::new());
    let harness = QueueHarness::with_manual_time(server.clone(), "").await;
    let mut ids = Vec::new();
    let mut accept = async |from: u64| {
        for hour in from..from + 3 {
            let numbers = hour * 500..(hour + 1) * 500;
            let sends = numbers.map(|number| harness.store_message(number, &["ada@example.net"]));
            ids.extend(futures_util::future::join_all(sends).await);
            harness.let_time_pass(ONE_HOUR).await;
        }
    };
    accept(0).await;
    let listener = socket.listen(1024).unwrap();
    accept(3).await;
    assert_eq!((ids.len(), server.accepted().len()), (3000, 0));
    server.serve(listener);
    let ended = harness.time.clock().now();
    harness.wait_until("the last mail", || server.accepted().len() >= 3000).await;
    harness.wait_until("the end of all sends", || harness.store().queued_ids(1).unwrap().is_empty()).await;
    assert!(
        harness.time.clock().now().duration_since(ended) < ONE_HOUR,
        "it is noticed soon that the upstream is back"
    );
    harness.assert_each_accepted_once(0..3000, "afterwards");
    let trails: Vec<_> = ids.iter().map(|id| harness.load_trail(*id)).collect();
    assert!(trails.iter().all(|trail| recipient_states(trail) == [RecipientState::Relayed]));
    assert!(trails.iter().all(|trail| !attempt_results(trail).contains(&AttemptStatus::Unknown)));
    let tried = trails.iter().filter(|trail| trail.attempts > 1).count();
    assert!((1..=30).contains(&tried), "{tried} mails were tried in vain");
    for (text, times) in [("the breaker opened", 1), ("the breaker closed", 1)] {
        assert_eq!(log.lines(text).len(), times, "{text}: {:#?}", log.lines("breaker"));
    }
    // Messages with a failed attempt have their own time; all others leave in their order.
    let order: Vec<_> = server.accepted().iter().map(|taken| message_number(&taken.message)).collect();
    let far = order.iter().zip(0..).filter(|(number, place)| number.abs_diff(*place) > 200).count();
    assert!(far <= tried, "{far} mails went far out of their order");
}

const ONE_HOUR: Duration = Duration::from_secs(3600);

/// Which message that is.
fn message_number(message: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(message);
    let subject = text.lines().find_map(|line| line.strip_prefix("Subject: "));
    subject.expect("nothing arrives that was not sent").parse().unwrap()
}

/// A message larger than all buffers: after any fault its dot was not sent, and no server has it. Half of the faults
/// there are replies.
#[tokio::test(start_paused = true)]
async fn interrupted_large_message_is_never_unknown() {
    let refused = &[AttemptStatus::Bounced][..];
    let again = &[AttemptStatus::Queued, AttemptStatus::Relayed][..];
    for (act, expected, text) in [
        (SmtpAction::Hang, again, "no answer to a part of the message within 180 s"),
        (SmtpAction::ReplyAndClose("552 5.3.4 larger than I thought"), refused, "larger than I thought"),
        (SmtpAction::ReplyAndClose("421 4.3.2 going down"), again, "going down"),
        (
            SmtpAction::ReplyAndClose("250 whatever"),
            again,
            "the server's replies are out of step: 250 whatever",
        ),
        (SmtpAction::Close, again, ""),
        (SmtpAction::Reset, again, ""),
        (SmtpAction::HalfClose, again, "the server closed the connection"),
        // Longer than any one answer may take, but it moves.
        (SmtpAction::ReadSlowly, &[AttemptStatus::Relayed], ""),
    ] {
        let script = SmtpScript::new().on(SmtpStep::Body, [Some(act.clone())]);
        let mut harness =
            QueueHarness::with_manual_time(MockSmtpServer::start(script).await, "connections = 1").await;
        let began = harness.time.clock().now();
        let trail = harness.wait_for_result(harness.enqueue(LONG_MESSAGE, &["a@example.net"]).await).await;
        assert_eq!(attempt_results(&trail), expected, "{act:?}: {:#?}", trail.events);
        let output = trail.events[1].diagnostic.text.as_deref().unwrap_or_default();
        assert!(output == text || text.is_empty(), "{act:?}: {output}");
        let arrived: Vec<_> = harness.server.accepted().into_iter().map(|taken| taken.message).collect();
        let whole =
            if expected == refused { vec![] } else { vec![sample_message(LONG_MESSAGE).into_bytes()] };
        assert!(arrived == whole, "{act:?}: {} arrived", arrived.len());
        if let SmtpAction::ReadSlowly = act {
            assert!(harness.time.clock().now().duration_since(began) > Duration::from_secs(700));
        }
        harness.stop().await;
    }
}

/// Faults of an upstream at any reply.
const FAULT_ACTIONS: [SmtpAction; 12] = [
    SmtpAction::Hang,
    SmtpAction::Reply("450 4.7.9 seeded"),
    SmtpAction::Reply("550 5.7.9 seeded"),
    SmtpAction::ReplyAndClose("421 4.3.2 seeded"),
    SmtpAction::Reset,
    SmtpAction::Close,
    SmtpAction::Reply("\x16\x03\x01 what is this"),
    SmtpAction::ReplySlowly,
    SmtpAction::HalfClose,
    SmtpAction::EndlessLine,
    SmtpAction::EndlessReply,
    SmtpAction::WrongClass,
];

const FAULT_STAGES: [SmtpStep; 13] = [
    SmtpStep::Banner,
    SmtpStep::Ehlo,
    SmtpStep::StartTls,
    SmtpStep::Handshake,
    SmtpStep::Auth,
    SmtpStep::Mail,
    SmtpStep::Rcpt,
    SmtpStep::Data,
    SmtpStep::Body,
    SmtpStep::Dot,
    SmtpStep::Rset,
    SmtpStep::AfterReply,
    SmtpStep::Quit,
];

async fn run_every_fault_at_every_stage(mode: &str) {
    let mut faults = Vec::new();
    for stage in FAULT_STAGES {
        let (mut harness, _certificate) = relay_for_stage(stage, mode).await;
        for fault in FAULT_ACTIONS {
            faults
                .extend(FaultCase { relay: &harness, stage, fault, mode }.run_and_collect_violations().await);
            // Connections are closed by then, and learned capabilities are discarded.
            harness.time.advance(Duration::from_secs(3700)).await;
        }
        harness.stop().await;
    }
    assert!(faults.is_empty(), "{} faults: {}", faults.len(), faults.join("\n"));
}

/// Steps that TLS or a login have to do with get both.
async fn relay_for_stage(at: SmtpStep, mode: &str) -> (QueueHarness, Option<TempDir>) {
    let mut text = format!("{mode}\nconnections = 2");
    let mut script = SmtpScript::new();
    let mut certificate = None;
    if matches!(at, SmtpStep::StartTls | SmtpStep::Handshake | SmtpStep::Auth) {
        let directory = tempfile::tempdir().unwrap();
        let pair = tls::load_self_signed(directory.path(), "localhost").unwrap();
        script.capabilities.extend(["STARTTLS", "AUTH PLAIN"]);
        script.tls = Some(tls::build_acceptor(pair).unwrap());
        let ca = directory.path().join("relay.pem").display().to_string();
        text += &format!("\ntls = \"starttls\"\nca_file = {ca:?}\nusername = \"u\"\npassword = \"p\"");
        certificate = Some(directory);
    }
    (QueueHarness::with_manual_time(MockSmtpServer::start(script).await, &text).await, certificate)
}

/// One fault at one step, twice, with mail in progress.
struct FaultCase<'a> {
    relay: &'a QueueHarness,
    stage: SmtpStep,
    fault: SmtpAction,
    mode: &'a str,
}

impl FaultCase<'_> {
    async fn run_and_collect_violations(&self) -> Vec<String> {
        // The first connection or message of all, and one later that others were before.
        let acts = [Some(self.fault.clone()), None, Some(self.fault.clone())];
        let before = self.relay.server.with_script(|script| {
            script.add_actions(self.stage, acts);
            script.replace_recipient_actions(
                "later@example.net",
                [SmtpAction::Reply("450 4.2.1 busy"), SmtpAction::Reply("250 now")],
            );
            script.replace_recipient_actions("nobody@example.net", [SmtpAction::Reply(REJECTED_REPLY)]);
            script.accepted.len()
        });
        let mut sends = Vec::new();
        for recipients in RECIPIENT_SETS {
            sends.push(self.relay.enqueue(sends.len() as u64, recipients).await);
        }
        let trails = self.wait_all_settled(&sends).await;
        if self.stage == SmtpStep::Quit {
            self.relay.let_time_pass(Duration::from_secs(120)).await;
        }
        // The unused actions would need more connections than there is mail.
        let pending = self.relay.server.with_script(|script| script.take_pending(self.stage));
        assert!(pending < 3, "{self}: the fault did not come: this has tested nothing");
        let mut arrived: BTreeMap<(u64, String), usize> = BTreeMap::new();
        for taken in &self.relay.server.accepted()[before..] {
            for recipient in &taken.recipients {
                *arrived.entry((message_number(&taken.message), recipient.clone())).or_default() += 1;
            }
        }
        let mut faults = Vec::new();
        for (number, (trail, recipients)) in (0..).zip(trails.iter().zip(RECIPIENT_SETS)) {
            for (place, address) in recipients.iter().enumerate() {
                let count = arrived.remove(&(number, (*address).to_owned())).unwrap_or(0);
                faults.extend(self.describe_violation(trail, place as u16, count));
            }
        }
        assert!(arrived.is_empty(), "{self}: nobody sent {arrived:?}");
        faults
    }

    /// Waits for the results of all messages and checks that each pending recipient has a next step.
    async fn wait_all_settled(&self, sends: &[TrackingId]) -> Vec<Trail> {
        let what = format!("{self}: the end of all sends");
        let done = || {
            let trails: Vec<_> = sends.iter().map(|id| self.relay.load_trail(*id)).collect();
            for trail in &trails {
                let waits = trail.recipients.iter().any(Recipient::is_pending);
                assert!(
                    !waits || trail.is_sending || trail.next_attempt.is_some(),
                    "{self}: stuck: {trail:?}"
                );
            }
            trails
                .iter()
                .all(|trail| !trail.is_sending && !trail.recipients.iter().any(Recipient::is_pending))
        };
        self.relay.wait_until(&what, done).await;
        sends.iter().map(|id| self.relay.load_trail(*id)).collect()
    }

    /// Describes a wrong state of a recipient whose mail arrived this number of times.
    fn describe_violation(&self, trail: &Trail, place: u16, arrived: usize) -> Option<String> {
        let recipient = &trail.recipients[usize::from(place)];
        let about = |fact: &&mailtrail_trail::TrailEvent| {
            fact.recipients.is_empty() || fact.recipients.contains(&place)
        };
        let facts: Vec<_> = trail.events.iter().filter(about).collect();
        let unknown = facts
            .iter()
            .filter(|fact| fact.kind == TrailEventKind::Attempted(AttemptStatus::Unknown))
            .count();
        let nobody = recipient.address.as_str() == "nobody@example.net";
        let words = (recipient.diagnostic.enhanced_status.as_deref(), recipient.diagnostic.text.as_deref());
        let right = match recipient.state() {
            RecipientState::Relayed => !nobody && (1..=1 + unknown).contains(&arrived),
            RecipientState::Bounced if nobody && words == (Some("5.7.1"), Some("nobody here")) => {
                arrived == 0
            }
            RecipientState::Bounced => {
                self.may_bounce() && words == (Some("5.7.9"), Some("seeded")) && arrived == 0
            }
            _ => false,
        };
        let dot_was_said = matches!(self.stage, SmtpStep::Body | SmtpStep::Dot | SmtpStep::AfterReply);
        if right && (unknown == 0 || dot_was_said) {
            return None;
        }
        Some(format!(
            "{self}: {} arrived {arrived} times, {:?}: {facts:#?}",
            recipient.address,
            recipient.state()
        ))
    }

    /// Returns whether the fault rejects mail permanently.
    fn may_bounce(&self) -> bool {
        let refusal = matches!(self.fault, SmtpAction::Reply(text) if text.starts_with('5'));
        refusal
            && matches!(
                self.stage,
                SmtpStep::Mail | SmtpStep::Rcpt | SmtpStep::Data | SmtpStep::Body | SmtpStep::Dot
            )
    }
}

impl std::fmt::Display for FaultCase<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} at {:?}, {}", self.fault, self.stage, self.mode)
    }
}

/// The reply does not report an unknown address, which would end the attempts.
const REJECTED_REPLY: &str = "550 5.7.1 nobody here";
/// Recipients of the messages: accepted alone, with others, rejected, deferred.
const RECIPIENT_SETS: [&[&str]; 8] = [
    &["ada@example.net"],
    &["nobody@example.net"],
    &["ada@example.net", "nobody@example.net", "bob@example.net"],
    &["later@example.net", "ada@example.net"],
    &["ada@example.net"],
    &["nobody@example.net"],
    &["bob@example.net", "eve@example.net", "ada@example.net"],
    &["ada@example.net"],
];
