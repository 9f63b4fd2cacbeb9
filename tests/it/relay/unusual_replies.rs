//! Unusual replies of upstreams: no reply to one message delays another.
//!
//! Each case is a route with one or two upstreams of its own. All cases of a test share one relay and run side by side.
//! The sender [`ODD_SENDER`] or the recipient [`ODD_RECIPIENT`] always gets the unusual reply; the others are accepted.
//! The longest pause of a breaker and the delays in replies are an hour, so that a delayed message is noticed.

use bytes::Bytes;
use mailtrail::config;
use mailtrail::config::Config;
use mailtrail::daemon::Daemon;
use mailtrail_mail::{Clock, TrackingId};
use mailtrail_net::transport::Timeouts;
use mailtrail_trail::{AcceptedMessage, Message, Recipient, RecipientState, Trail};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use testkit::log_capture::LogCapture;
use testkit::mock_smtp::{MockSmtpServer, SmtpAction, SmtpScript, SmtpStep};
use testkit::queue_harness::recipient_states;

/// The connection breaks over one message while the breaker is half-open, repeatedly.
#[tokio::test]
async fn connection_breaking_message_blocks_no_other_in_half_open() {
    let mut harnesses = Vec::new();
    for mode in PIPELINING_MODES {
        for (at, act) in [
            (SmtpStep::Mail, SmtpAction::Close),
            (SmtpStep::Mail, SmtpAction::Reset),
            (SmtpStep::Mail, SmtpAction::Reply("what is this")),
            (SmtpStep::Mail, SmtpAction::WrongClass),
            (SmtpStep::Rcpt, SmtpAction::Close),
            (SmtpStep::Rcpt, SmtpAction::Reply("no idea")),
            (SmtpStep::Rcpt, SmtpAction::Reply("250-5.1.1 some\r\nwhat\r\n451 4.1.1 others")),
            (SmtpStep::Data, SmtpAction::Close),
            (SmtpStep::Data, SmtpAction::Reply("\u{fe}\u{1}")),
            (SmtpStep::Body, SmtpAction::Close),
            (SmtpStep::Dot, SmtpAction::Close),
            (SmtpStep::Dot, SmtpAction::Reply("thanks")),
        ] {
            let what = format!("{mode} {at:?} {act:?}");
            let mut case = OddCase::new(with_odd_action(half_open_script(), at, act), mode, what);
            case.opens_breaker = true;
            harnesses.push(case);
        }
    }
    let relays = OddUpstreamRelay::new(harnesses).await;
    relays.case().await;
    relays.stop().await;
}

#[tokio::test]
async fn multiline_reply_is_classified_by_last_line() {
    for (reply, state) in [
        ("450-4.2.1 busy\r\n550 5.1.1 no such user", RecipientState::Bounced),
        ("550-5.1.1 no such user\r\n450 4.2.1 busy", RecipientState::Queued),
        ("250-fine\r\n550 5.1.1 no such user", RecipientState::Bounced),
        ("550-5.1.1 no such\r\n user here\r\n550 5.1.1 go away", RecipientState::Bounced),
        ("550-5.1.1 no such\r\nuser here\r\n550 5.1.1 go away", RecipientState::Bounced),
        ("550-\r\n-\r\n550 ", RecipientState::Bounced),
    ] {
        let script = SmtpScript::new().on_recipient(ODD_RECIPIENT, [SmtpAction::Reply(reply)]);
        let relays = OddUpstreamRelay::new(vec![OddCase::new(script, "", reply.into())]).await;
        let id = relays.enqueue(0, ODD_SENDER, &["a@example.net", ODD_RECIPIENT, "b@example.net"]).await;
        relays
            .wait_until("an attempt", || relays.trail(id).attempts > 0 && !relays.trail(id).is_sending)
            .await;
        assert_eq!(
            recipient_states(&relays.trail(id)),
            [RecipientState::Relayed, state, RecipientState::Relayed],
            "{reply:?}"
        );
        relays.stop().await;
    }
}

/// Words that providers use for an account, in replies about one recipient or one message.
#[tokio::test]
async fn account_error_for_one_recipient_affects_only_that_message() {
    let mut harnesses = Vec::new();
    for provider in ["mailgun", "brevo", "plain"] {
        for (at, reply, state) in [
            (SmtpStep::Rcpt, "550 5.1.2 Domain not found", RecipientState::Bounced),
            (
                SmtpStep::Rcpt,
                "550 5.7.1 This user is not allowed to send to that list",
                RecipientState::Bounced,
            ),
            (SmtpStep::Rcpt, "552 5.2.2 Mailbox limit exceeded", RecipientState::Bounced),
            (
                SmtpStep::Rcpt,
                "550 5.7.1 <x@y>: Relaying denied, says the recipient's gateway",
                RecipientState::Bounced,
            ),
            (SmtpStep::Rcpt, "454 4.7.1 Relay access denied", RecipientState::Queued),
            (SmtpStep::Rcpt, "450 4.1.2 Domain not found", RecipientState::Queued),
            (SmtpStep::Mail, "550 5.1.8 Sender's domain not found", RecipientState::Bounced),
            (SmtpStep::Mail, "552 5.3.4 Message size limit exceeded", RecipientState::Bounced),
            (
                SmtpStep::Data,
                "554 5.7.1 unauthorized ip address in your list of recipients",
                RecipientState::Bounced,
            ),
            (SmtpStep::Dot, "552 5.3.4 Message size limit exceeded", RecipientState::Bounced),
            (
                SmtpStep::Dot,
                "554 5.7.1 the attachment can't be used to send the message",
                RecipientState::Bounced,
            ),
            (
                SmtpStep::Dot,
                "550 5.7.1 your account is not yet activated, says a scanner",
                RecipientState::Bounced,
            ),
            (SmtpStep::Dot, "454 4.7.0 the scanner's login failed", RecipientState::Queued),
        ] {
            let script = with_odd_action(SmtpScript::new(), at, SmtpAction::Reply(reply));
            let mut case = OddCase::new(script, "", format!("{provider} {at:?} {reply}"));
            (case.provider, case.expected_state) = (provider, Some(state));
            harnesses.push(case);
        }
    }
    let relays = OddUpstreamRelay::new(harnesses).await;
    relays.case().await;
    relays.stop().await;
}

/// The reply of one of several recipients is that one's.
#[tokio::test]
async fn auth_error_for_one_recipient_affects_only_that_recipient() {
    let mut harnesses = Vec::new();
    for reply in [
        "454 4.7.1 Relay access denied",
        "530 5.7.1 Authentication required",
        "534 5.7.9 too weak",
        "535 5.7.8 no",
        "538 5.7.11 encryption required",
        "550 5.7.1 Relaying denied",
        "502 5.7.0 Please authenticate first",
        "525 5.7.1 Unauthorized IP address",
    ] {
        for provider in ["mailgun", "brevo", "plain"] {
            let mut case = OddCase::new(
                SmtpScript::new().on_recipient(ODD_RECIPIENT, [SmtpAction::Reply(reply)]),
                "",
                format!("{provider} {reply}"),
            );
            case.provider = provider;
            harnesses.push(case);
        }
    }
    let relays = OddUpstreamRelay::new(harnesses).await;
    let mut sent = Vec::new();
    for harness in 0..relays.cases.len() {
        let to = ["a@example.net", ODD_RECIPIENT, "b@example.net"];
        sent.push(relays.enqueue(harness, REGULAR_SENDER, &to).await);
        relays.send_others(harness).await;
    }
    relays.assert_others_arrive().await;
    for (case, id) in relays.cases.iter().zip(sent) {
        let states = recipient_states(&relays.trail(id));
        let one =
            if case.description.contains("454") { RecipientState::Queued } else { RecipientState::Bounced };
        assert_eq!(states, [RecipientState::Relayed, one, RecipientState::Relayed], "{}", case.description);
    }
    relays.stop().await;
}

/// One message has to wait for an hour.
#[tokio::test]
async fn retry_delay_for_one_message_blocks_no_other() {
    let mut harnesses = Vec::new();
    for (at, reply) in [
        (SmtpStep::Mail, "451 4.7.1 too many messages, try again after 3600 seconds"),
        (SmtpStep::Rcpt, "451 4.7.1 too many messages, try again after 3600 seconds"),
        (SmtpStep::Data, "421 4.7.0 rate limit, try again after 3600 seconds"),
        (SmtpStep::Dot, "451 4.7.1 slow down, try again after 3600 seconds"),
        (SmtpStep::Dot, "450 4.7.1 sending limit, try again after 90 seconds."),
    ] {
        for upstreams in [1, 2] {
            let mut case = OddCase::new(
                with_odd_action(SmtpScript::new(), at, SmtpAction::Reply(reply)),
                "",
                format!("{upstreams} {at:?} {reply}"),
            );
            case.has_second_upstream = upstreams == 2;
            harnesses.push(case);
        }
    }
    let relays = OddUpstreamRelay::new(harnesses).await;
    for harness in 0..relays.cases.len() {
        relays.send_odd(harness).await;
    }
    relays
        .wait_until("the odd replies", || {
            (0..relays.cases.len()).all(|harness| relays.odd_attempts(harness) > 0)
        })
        .await;
    for harness in 0..relays.cases.len() {
        relays.send_others(harness).await;
    }
    relays.assert_others_arrive().await;
    relays.stop().await;
}

/// A recipient over which the connection breaks holds no other recipient of the message.
#[tokio::test]
async fn connection_breaking_recipient_blocks_no_other() {
    let mut harnesses = Vec::new();
    for mode in PIPELINING_MODES {
        for act in connection_breaks() {
            let what = format!("{mode} {act:?}");
            let script = SmtpScript::new()
                .on_recipient(ODD_RECIPIENT, [act.clone()])
                .on_recipient(SECOND_ODD_RECIPIENT, [act]);
            harnesses.push(OddCase::new(script, mode, what));
        }
    }
    let relays = OddUpstreamRelay::new(harnesses).await;
    let mut sent = Vec::new();
    for harness in 0..relays.cases.len() {
        let to = ["a@example.net", ODD_RECIPIENT, "b@example.net", SECOND_ODD_RECIPIENT, "c@example.net"];
        sent.push(relays.enqueue(harness, REGULAR_SENDER, &to).await);
        relays.send_others(harness).await;
    }
    relays.assert_others_arrive().await;
    let relayed = |id: TrackingId| {
        let states = recipient_states(&relays.trail(id));
        [0, 2, 4].iter().all(|place| states[*place] == RecipientState::Relayed)
    };
    let late = || -> Vec<_> {
        let late = relays.cases.iter().zip(&sent).filter(|(_, id)| !relayed(**id));
        late.map(|(case, _)| case.description.clone()).collect()
    };
    let deadline = Instant::now() + TIMEOUT;
    while !late().is_empty() {
        assert!(Instant::now() < deadline, "recipients wait for another: {:#?}", late());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for (case, id) in relays.cases.iter().zip(sent) {
        assert_eq!(relays.times_received(case_index(&relays, case), id), 1, "{}: doubled", case.description);
    }
    relays.stop().await;
}

fn case_index(relays: &OddUpstreamRelay, case: &OddCase) -> usize {
    relays.cases.iter().position(|known| known.description == case.description).unwrap()
}

/// An upstream that accepts messages and then hangs.
#[tokio::test]
async fn stuck_connections_open_breaker_of_hanging_upstream() {
    let log = LogCapture::default();
    let _logging = log.install();
    let mut harnesses = Vec::new();
    for (connections, at) in [
        (1, SmtpStep::Banner),
        (2, SmtpStep::Ehlo),
        (1, SmtpStep::Dot),
        (2, SmtpStep::Dot),
        (4, SmtpStep::Dot),
        (1, SmtpStep::Mail),
        (2, SmtpStep::Data),
        (2, SmtpStep::Body),
    ] {
        let script = match at {
            SmtpStep::Banner | SmtpStep::Ehlo => SmtpScript::new().on(at, vec![Some(SmtpAction::Hang); 50]),
            _ => with_odd_action(SmtpScript::new(), at, SmtpAction::Hang),
        };
        let mut case = OddCase::new(script, "", format!("{connections} {at:?}"));
        case.settings = format!("connections = {connections}\n");
        (case.has_second_upstream, case.odd_count) = (true, connections);
        harnesses.push(case);
    }
    let relays = OddUpstreamRelay::with_config_change(harnesses, |config| {
        for upstream in &mut config.upstreams {
            upstream.transport.timeouts.stuck_after = Duration::from_millis(300);
        }
    })
    .await;
    for harness in 0..relays.cases.len() {
        relays.send_odd(harness).await;
    }
    // Each upstream raises its alarm once: none of their attempts ends before the end.
    relays.wait_until("an alarm each", || log.lines("alarm=\"stuck\"").len() == relays.cases.len()).await;
    for harness in 0..relays.cases.len() {
        relays.send_others(harness).await;
    }
    relays.assert_others_arrive().await;
    assert!(relays.hanging().iter().all(|hanging| *hanging), "nothing hangs");
    assert_eq!(log.lines("alarm=\"stuck\"").len(), relays.cases.len());
    relays.stop_hanging().await;
}

/// One message that makes the upstream hang leaves the other connections to the others.
#[tokio::test]
async fn hanging_message_leaves_other_connections_usable() {
    let log = LogCapture::default();
    let _logging = log.install();
    let mut case = OddCase::new(
        with_odd_action(SmtpScript::new(), SmtpStep::Dot, SmtpAction::Hang),
        "",
        "one hangs".into(),
    );
    case.settings = "connections = 3\n".into();
    let relays = OddUpstreamRelay::with_config_change(vec![case], |config| {
        config.upstreams[0].transport.timeouts.stuck_after = Duration::from_millis(100);
    })
    .await;
    relays.send_odd(0).await;
    relays.wait_until("what hangs", || relays.hanging() == [true]).await;
    relays.send_others(0).await;
    relays.assert_others_arrive().await;
    assert_eq!(log.lines("alarm=\"stuck\""), [""; 0]);
    relays.stop_hanging().await;
}

fn connection_breaks() -> Vec<SmtpAction> {
    vec![
        SmtpAction::Close,
        SmtpAction::Reset,
        SmtpAction::HalfClose,
        SmtpAction::WrongClass,
        SmtpAction::Reply("what is this"),
        SmtpAction::EndlessLine,
        SmtpAction::ReplyAndClose("421 4.3.2 closing"),
    ]
}

/// Each step, each odd reply, with a breaker that is closed or half-open, and one upstream or two.
macro_rules! steps {
    ($($name:ident: $step:expr;)*) => {$(
        #[tokio::test]
        async fn $name() {
            run_all_cases($step).await;
        }
    )*};
}

steps! {
    odd_greetings_hold_no_message: SmtpStep::Banner;
    odd_replies_to_ehlo_hold_no_message: SmtpStep::Ehlo;
    odd_replies_to_auth_hold_no_message: SmtpStep::Auth;
    odd_replies_to_mail_hold_no_other_message: SmtpStep::Mail;
    odd_replies_to_rcpt_hold_no_other_message: SmtpStep::Rcpt;
    odd_replies_to_data_hold_no_other_message: SmtpStep::Data;
    odd_replies_in_a_message_hold_no_other_message: SmtpStep::Body;
    odd_replies_to_the_dot_hold_no_other_message: SmtpStep::Dot;
    odd_replies_after_a_message_hold_no_other_message: SmtpStep::AfterReply;
}

async fn run_all_cases(step: SmtpStep) {
    let at_login = matches!(step, SmtpStep::Banner | SmtpStep::Ehlo | SmtpStep::Auth);
    let mut plays = Vec::new();
    for (number, act) in odd_actions().into_iter().enumerate() {
        for opens in [false, true] {
            for second in [false, true] {
                let mut script = if opens { half_open_script() } else { SmtpScript::new() };
                if at_login {
                    script.add_actions(step, [Some(act.clone()), Some(act.clone())]);
                } else {
                    script = with_odd_action(script, step, act.clone());
                }
                let mode = PIPELINING_MODES[(number + usize::from(opens)) % PIPELINING_MODES.len()];
                let state = if opens { "half-open" } else { "closed" };
                let what = format!("{step:?} {act:?} {state} second={second} {mode}");
                let mut case = OddCase::new(script, mode, what);
                (case.has_second_upstream, case.opens_breaker, case.provider) =
                    (second, opens, TESTED_PROVIDERS[number % 2]);
                case.longest_pause = if at_login { "1s" } else { "1h" };
                plays.push(case);
            }
        }
    }
    let relays = OddUpstreamRelay::with_config_change(plays, |config| {
        for upstream in &mut config.upstreams {
            upstream.transport.timeouts = SHORT_TIMEOUTS;
        }
    })
    .await;
    relays.case().await;
    relays.assert_states_match_receipts();
    relays.stop_hanging().await;
}

fn odd_actions() -> Vec<SmtpAction> {
    let replies = [
        "what is this",
        "\u{fe}\u{1}",
        "250-fine\r\nwhat\r\n-\r\n451 4.3.0 not now",
        "450-4.2.1 busy\r\n550 5.1.1 no",
        "250 2.0.0 fine",
        "421 4.7.0 I say so and stay",
        "450 4.2.1 busy",
        "451 4.7.1 too many messages, try again after 3600 seconds",
        "421 Domain mg.example.com is not allowed to send: add the address to authorized recipients",
        "454 4.7.1 Relay access denied",
        "500 5.5.1 what",
        "503 bad sequence",
        "530 5.7.0 Authentication required",
        "535 5.7.8 Authentication failed",
        "550 5.1.2 Domain not found",
        "550 5.7.1 Relaying denied",
        "552 5.3.4 Message size limit exceeded",
        "554 5.7.1 no",
        "999 never seen",
    ];
    let others = [
        SmtpAction::Close,
        SmtpAction::Reset,
        SmtpAction::Hang,
        SmtpAction::HalfClose,
        SmtpAction::EndlessLine,
        SmtpAction::EndlessReply,
        SmtpAction::WrongClass,
    ];
    let farewell = SmtpAction::ReplyAndClose("421 4.3.2 closing");
    replies.into_iter().map(SmtpAction::Reply).chain(others).chain([farewell]).collect()
}

/// One route with its upstreams and expectations.
struct OddCase {
    description: String,
    provider: &'static str,
    script: Option<SmtpScript>,
    settings: String,
    has_second_upstream: bool,
    /// Number of odd messages.
    odd_count: usize,
    /// Whether its breaker opens at the start.
    opens_breaker: bool,
    longest_pause: &'static str,
    /// Expected final state of the odd message.
    expected_state: Option<RecipientState>,
}

impl OddCase {
    fn new(script: SmtpScript, settings: &str, description: String) -> Self {
        Self {
            description,
            provider: "plain",
            script: Some(script),
            settings: format!("connections = 1\n{settings}\n"),
            has_second_upstream: false,
            odd_count: 1,
            opens_breaker: false,
            longest_pause: "1h",
            expected_state: None,
        }
    }
}

/// Sets the action for the odd message.
fn with_odd_action(mut script: SmtpScript, at: SmtpStep, act: SmtpAction) -> SmtpScript {
    script.for_sender = Some((ODD_SENDER, at, act));
    script
}

/// Returns the script of an upstream whose breaker opens at the first connections.
fn half_open_script() -> SmtpScript {
    SmtpScript::new().on(SmtpStep::Banner, [Some(SmtpAction::Close), Some(SmtpAction::Close)])
}

/// A relay with the upstreams of all scenes.
struct OddUpstreamRelay {
    cases: Vec<OddCase>,
    servers: Vec<Vec<MockSmtpServer>>,
    sent: std::cell::RefCell<Vec<SentMessage>>,
    daemon: Daemon,
    _directory: TempDir,
}

struct SentMessage {
    case_index: usize,
    is_odd: bool,
    id: TrackingId,
}

impl OddUpstreamRelay {
    async fn new(plays: Vec<OddCase>) -> Self {
        Self::with_config_change(plays, |_| {}).await
    }

    async fn with_config_change(mut cases: Vec<OddCase>, change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut servers = Vec::new();
        let mut text = format!(
            "[server]\nhostname = \"relay.example.com\"\ndata_dir = {:?}\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n",
            directory.path().join("data").display().to_string(),
        );
        let mut routes = String::new();
        for (number, case) in cases.iter_mut().enumerate() {
            let mut script = case.script.take().unwrap();
            script.capabilities.push("AUTH PLAIN");
            let mut own = vec![(format!("s{number}a"), MockSmtpServer::start(script).await)];
            if case.has_second_upstream {
                own.push((format!("s{number}b"), MockSmtpServer::start(SmtpScript::new()).await));
            }
            for (place, (name, server)) in own.iter().enumerate() {
                let (provider, login) = match (place, case.provider) {
                    (0, "plain") | (1.., _) => ("plain", ""),
                    (_, provider) => (provider, "username = \"u\"\npassword = \"p\"\n"),
                };
                text += &format!(
                    "[[upstream]]\nname = \"{name}\"\nprovider = \"{provider}\"\nhost = \"127.0.0.1\"\n\
                     port = {}\ntls = \"none\"\n{login}{}\n\
                     [upstream.breaker]\nfailures = 2\npause = \"200ms\"\nlongest_pause = \"{}\"\n\
                     [upstream.retry]\nfirst = \"200ms\"\nmax = \"1s\"\n",
                    server.address.port(),
                    case.settings,
                    case.longest_pause
                );
            }
            let names: Vec<_> = own.iter().map(|(name, _)| name).collect();
            routes += &format!(
                "[[route]]\nname = \"s{number}\"\nupstreams = {names:?}\nsenders = [\"s{number}@*\"]\n"
            );
            servers.push(own.into_iter().map(|(_, server)| server).collect());
        }
        text += &routes;
        let mut config = config::parse(&text, Path::new("test.toml"), &BTreeMap::new()).unwrap();
        change(&mut config);
        let daemon = Daemon::start(&config, Clock::System, None).await.unwrap();
        Self { cases, servers, sent: Default::default(), daemon, _directory: directory }
    }

    async fn stop(self) {
        self.daemon.stop().await;
    }

    /// Ends the conversations that hang, then stops.
    async fn stop_hanging(self) {
        for server in self.servers.iter().flatten() {
            server.close_hung_sessions();
        }
        self.daemon.stop().await;
    }

    /// Returns for each case whether its upstream hangs over an odd message.
    fn hanging(&self) -> Vec<bool> {
        self.servers.iter().map(|servers| servers[0].hung_sessions() > 0).collect()
    }

    async fn enqueue(&self, harness: usize, sender: &str, recipients: &[&str]) -> TrackingId {
        let id = TrackingId::new(Clock::System.now(), fastrand::u128(..));
        let message = format!("Subject: {id}\r\n\r\ntext\r\n");
        let send = Message {
            sender: sender.parse().ok(),
            size: message.len() as u64,
            route: Some(format!("s{harness}").into()),
            ..Message::new(id, "test")
        };
        let recipients = recipients.iter().map(|to| to.parse().unwrap()).collect();
        let store = self.daemon.store();
        store
            .put_message_applied(AcceptedMessage { message: send, recipients }, Bytes::from(message))
            .await
            .unwrap();
        id
    }

    /// Sends the odd messages, each the oldest of its scene, and the others: these arrive, and the odd ones are settled
    /// or tried again.
    async fn case(&self) {
        self.open_breakers().await;
        for harness in 0..self.cases.len() {
            self.send_odd(harness).await;
            self.send_others(harness).await;
        }
        self.assert_others_arrive().await;
        self.assert_odd_retried().await;
    }

    /// Opens the breakers of the upstreams that refuse their first connections: one message of the others' kind meets
    /// that, and waits then as the others do.
    async fn open_breakers(&self) {
        for case_index in (0..self.cases.len()).filter(|harness| self.cases[*harness].opens_breaker) {
            let id = self.enqueue(case_index, REGULAR_SENDER, &["a@example.net"]).await;
            self.sent.borrow_mut().push(SentMessage { case_index, is_odd: false, id });
        }
        self.wait_for_all("meet a closed door", |sent| self.trail(sent.id).attempts >= 2).await;
    }

    async fn send_odd(&self, case_index: usize) {
        for _ in 0..self.cases[case_index].odd_count {
            // An address of its own: one that is refused may get no more mail.
            let id = self.enqueue(case_index, ODD_SENDER, &[&format!("odd{case_index}@example.net")]).await;
            self.sent.borrow_mut().push(SentMessage { case_index, is_odd: true, id });
        }
    }

    async fn send_others(&self, case_index: usize) {
        for _ in 0..OTHER_MESSAGES {
            let id = self.enqueue(case_index, REGULAR_SENDER, &["a@example.net"]).await;
            self.sent.borrow_mut().push(SentMessage { case_index, is_odd: false, id });
        }
    }

    fn trail(&self, id: TrackingId) -> Trail {
        self.daemon.store().load_trail(id).unwrap().unwrap()
    }

    fn odd_attempts(&self, harness: usize) -> u32 {
        let sent = self.sent.borrow();
        let odd = sent.iter().find(|sent| sent.is_odd && sent.case_index == harness).unwrap();
        self.trail(odd.id).attempts
    }

    /// Every other message is taken once, by one upstream of its scene.
    async fn assert_others_arrive(&self) {
        self.wait_for_all("arrive", |sent| {
            sent.is_odd || {
                let trail = self.trail(sent.id);
                !trail.is_sending && !trail.recipients.iter().any(Recipient::is_pending)
            }
        })
        .await;
        for sent in self.sent.borrow().iter().filter(|sent| !sent.is_odd) {
            let what = &self.cases[sent.case_index].description;
            assert_eq!(recipient_states(&self.trail(sent.id)), [RecipientState::Relayed], "{what}");
            let times = self.times_received(sent.case_index, sent.id);
            assert_eq!(times, 1, "{what}: taken {times} times");
        }
    }

    fn times_received(&self, harness: usize, id: TrackingId) -> usize {
        let line = format!("Subject: {id}");
        let taken = self.servers[harness].iter().flat_map(MockSmtpServer::accepted);
        taken.filter(|taken| String::from_utf8_lossy(&taken.message).contains(&line)).count()
    }

    /// The odd ones are settled, or tried again and again by the retry rule.
    async fn assert_odd_retried(&self) {
        self.wait_for_all("be tried again", |sent| {
            let trail = self.trail(sent.id);
            let open = trail.recipients.iter().any(Recipient::is_pending);
            // The reply may ask for a delay of an hour.
            let waits =
                trail.next_attempt.is_some_and(|due| due.duration_since(Clock::System.now()) > TIMEOUT);
            !sent.is_odd || !open || trail.attempts >= 3 || waits
        })
        .await;
        for sent in self.sent.borrow().iter().filter(|sent| sent.is_odd) {
            let (case, trail) = (&self.cases[sent.case_index], self.trail(sent.id));
            let open = trail.recipients.iter().any(Recipient::is_pending);
            assert!(
                !open || trail.is_sending || trail.next_attempt.is_some(),
                "{}: {trail:?}",
                case.description
            );
            assert!(
                case.expected_state.is_none_or(|state| recipient_states(&trail) == [state]),
                "{}: {trail:#?}",
                case.description
            );
        }
    }

    /// Checks that every recipient has one state, and that the upstream has each message that was relayed.
    fn assert_states_match_receipts(&self) {
        for sent in self.sent.borrow().iter() {
            let (trail, what) = (self.trail(sent.id), &self.cases[sent.case_index].description);
            let relayed =
                recipient_states(&trail).iter().filter(|state| **state == RecipientState::Relayed).count();
            let taken = self.times_received(sent.case_index, sent.id);
            assert!(relayed == 0 || taken == 1, "{what}: relayed and taken {taken} times");
            let open = trail.recipients.iter().any(Recipient::is_pending);
            assert!(
                !open || trail.next_attempt.is_some() || trail.is_sending,
                "{what}: it waits for nothing: {trail:?}"
            );
        }
    }

    async fn wait_for_all(&self, what: &str, holds: impl Fn(&SentMessage) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let late: BTreeMap<_, usize> = self.sent.borrow().iter().filter(|sent| !holds(sent)).fold(
                BTreeMap::new(),
                |mut late, sent| {
                    *late.entry(self.cases[sent.case_index].description.clone()).or_default() += 1;
                    late
                },
            );
            if late.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "in {} scenes messages did not {what}: {late:#?}", late.len());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn wait_until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !holds() {
            assert!(Instant::now() < deadline, "{what} did not come");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

const PIPELINING_MODES: [&str; 3] =
    ["pipelining = \"full\"", "pipelining = \"group\"", "pipelining = \"off\""];
const ODD_SENDER: &str = "odd@example.com";
const REGULAR_SENDER: &str = "fine@example.com";
const SECOND_ODD_RECIPIENT: &str = "second@example.net";
const ODD_RECIPIENT: &str = "odd@example.net";
/// Other messages of a scene.
const OTHER_MESSAGES: usize = 4;
/// Longest wait for anything; reached only by a test that fails.
const TIMEOUT: Duration = Duration::from_secs(20);
const TESTED_PROVIDERS: [&str; 2] = ["mailgun", "brevo"];
const SHORT_TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_millis(1000),
    command: Duration::from_millis(500),
    data: Duration::from_millis(500),
    data_block: Duration::from_millis(500),
    end_of_data: Duration::from_millis(1000),
    stuck_after: Duration::from_millis(250),
};
