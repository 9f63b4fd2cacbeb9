//! Delivery to a scripted upstream.

use bytes::Bytes;
use mailtrail_mail::{Clock, Timestamp, TrackingId};
use mailtrail_net::tls;
use mailtrail_trail::{
    AttemptStarted, AttemptStatus, Diagnostic, EventKind, EventSource, ProviderEvent, ReceivedEvent,
    RecipientState, TrailEventKind,
};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};
use testkit::mock_smtp::{MockSmtpServer, SmtpAction, SmtpScript, SmtpStep};
use testkit::queue_harness;
use testkit::queue_harness::{
    LONG_MESSAGE, QueueHarness, accepted_mail, attempt_results, recipient_states, sample_message,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PIPELINING_MODES: [&str; 3] =
    ["pipelining = \"full\"", "pipelining = \"group\"", "pipelining = \"off\""];

#[tokio::test]
async fn each_recipient_has_its_own_result() {
    for mode in PIPELINING_MODES {
        let refused = SmtpAction::Reply("550 5.1.1 no such user");
        let later = [SmtpAction::Reply("451 4.2.0 greylisted"), SmtpAction::Reply("250 now")];
        let script =
            SmtpScript::new().on_recipient("b@example.net", [refused]).on_recipient("c@example.net", later);
        let harness = QueueHarness::new(script, mode).await;
        let id =
            harness.enqueue(1, &["a@example.net", "b@example.net", "c@example.net", "d@example.net"]).await;
        let trail = harness.wait_for_result(id).await;
        assert_eq!(
            recipient_states(&trail),
            [
                RecipientState::Relayed,
                RecipientState::Bounced,
                RecipientState::Relayed,
                RecipientState::Relayed
            ],
            "{mode}"
        );
        let to: Vec<_> = harness.server.accepted().into_iter().map(|taken| taken.recipients).collect();
        assert_eq!(to, [vec!["a@example.net", "d@example.net"], vec!["c@example.net"]], "{mode}");
        assert_eq!((trail.attempts, harness.command_count("RCPT")), (2, 5), "{mode}");
        assert_eq!(trail.recipients[1].diagnostic.enhanced_status.as_deref(), Some("5.1.1"), "{mode}");
    }
}

/// Replies 250, 550, 450 and 250. The connection then closes at the fifth RCPT, or after the dot, when the fifth has
/// no part in the transaction.
#[tokio::test]
async fn five_recipients_have_five_results() {
    let everybody = ["a@example.net", "b@example.net", "c@example.net", "d@example.net", "e@example.net"];
    for mode in PIPELINING_MODES {
        for (drops, standing, words) in [
            (SmtpStep::Rcpt, AttemptStatus::Queued, "the server closed the connection"),
            (
                SmtpStep::Dot,
                AttemptStatus::Unknown,
                "the message was sent and no answer came: the server closed the connection",
            ),
        ] {
            let later =
                [SmtpAction::Reply("450 4.2.1 Mailbox <c> is busy; come back"), SmtpAction::Reply("250 now")];
            let mut script = SmtpScript::new()
                .on_recipient("b@example.net", [SmtpAction::Reply("550 5.1.1 <b>: No such user, really")])
                .on_recipient("c@example.net", later);
            match drops {
                SmtpStep::Rcpt => script.replace_recipient_actions(
                    "e@example.net",
                    [SmtpAction::Close, SmtpAction::Reply("250 there you are")],
                ),
                _ => script.add_actions(drops, [Some(SmtpAction::Close)]),
            }
            let harness = QueueHarness::new(script, mode).await;
            let trail = harness.wait_for_result(harness.enqueue(1, &everybody).await).await;
            let what = format!("{mode} {drops:?}: {:#?}", trail.events);
            let first: Vec<_> = (0..5u16)
                .map(|place| {
                    let fact =
                        trail.events.iter().skip(1).find(|fact| fact.recipients.contains(&place)).unwrap();
                    let words = &fact.diagnostic;
                    (fact.kind, words.code, words.enhanced_status.as_deref(), words.text.as_deref().unwrap())
                })
                .collect();
            let dropped = (TrailEventKind::Attempted(standing), None, None, words);
            let refused = (
                TrailEventKind::Attempted(AttemptStatus::Bounced),
                Some(550),
                Some("5.1.1"),
                "<b>: No such user, really",
            );
            let busy = (
                TrailEventKind::Attempted(AttemptStatus::Queued),
                Some(450),
                Some("4.2.1"),
                "Mailbox <c> is busy; come back",
            );
            assert_eq!(first, [dropped, refused, busy, dropped, dropped], "{what}");
            let relayed = [
                RecipientState::Relayed,
                RecipientState::Bounced,
                RecipientState::Relayed,
                RecipientState::Relayed,
                RecipientState::Relayed,
            ];
            assert_eq!((recipient_states(&trail), trail.attempts), (relayed.to_vec(), 2), "{what}");
            let to: Vec<_> = harness.server.accepted().into_iter().map(|taken| taken.recipients).collect();
            let rest = ["a@example.net", "c@example.net", "d@example.net", "e@example.net"];
            assert_eq!(to, [rest], "{what}");
        }
    }
}

#[tokio::test]
async fn ends_data_that_server_accepts_without_recipients() {
    let mut script = SmtpScript::new().on_recipient("b@example.net", [SmtpAction::Reply("550 no")]);
    script.accepts_data_without_recipients = true;
    let harness = QueueHarness::new(script, "connections = 1").await;
    let refused = harness.enqueue(1, &["b@example.net"]).await;
    assert_eq!(recipient_states(&harness.wait_for_result(refused).await), [RecipientState::Bounced]);
    let fine = harness.enqueue(2, &["a@example.net"]).await;
    assert_eq!(recipient_states(&harness.wait_for_result(fine).await), [RecipientState::Relayed]);
    assert_eq!(harness.server.accepted(), [accepted_mail(1, 2)]);
}

#[tokio::test]
async fn connection_lost_before_end_of_data_is_temporary_failure() {
    for at in [SmtpStep::Banner, SmtpStep::Ehlo, SmtpStep::Mail, SmtpStep::Data, SmtpStep::Body] {
        let harness = QueueHarness::new(SmtpScript::new().on(at, [Some(SmtpAction::Close)]), "").await;
        let id = harness.enqueue(LONG_MESSAGE, &["a@example.net"]).await;
        let trail = harness.wait_for_result(id).await;
        assert_eq!(attempt_results(&trail), [AttemptStatus::Queued, AttemptStatus::Relayed], "{at:?}");
        assert!(harness.server.accepted() == [accepted_mail(2, LONG_MESSAGE)], "{at:?}");
    }
}

#[tokio::test]
async fn connection_lost_after_end_of_data_is_unknown_and_retried() {
    for mode in PIPELINING_MODES {
        let harness =
            QueueHarness::new(SmtpScript::new().on(SmtpStep::Dot, [Some(SmtpAction::Close)]), mode).await;
        let id = harness.enqueue(1, &["a@example.net"]).await;
        let trail = harness.wait_for_result(id).await;
        assert_eq!(attempt_results(&trail), [AttemptStatus::Unknown, AttemptStatus::Relayed], "{mode}");
        let text = trail.events[1].diagnostic.text.clone().unwrap_or_default();
        assert!(text.contains("no answer came"), "{text}");
        assert_eq!(harness.server.accepted(), [accepted_mail(2, 1)], "{mode}");
    }
}

#[tokio::test]
async fn closing_between_messages_costs_no_attempt() {
    for mode in PIPELINING_MODES {
        for bye in [SmtpAction::ReplyAndClose("421 4.4.2 idle too long"), SmtpAction::Close] {
            let harness = QueueHarness::new(SmtpScript::new(), &format!("{mode}\nconnections = 1")).await;
            harness.wait_for_result(harness.enqueue(1, &["a@example.net"]).await).await;
            harness.server.with_script(|script| script.add_actions(SmtpStep::Mail, [Some(bye.clone())]));
            let trail = harness.wait_for_result(harness.enqueue(2, &["a@example.net"]).await).await;
            assert_eq!(
                (attempt_results(&trail), trail.attempts),
                (vec![AttemptStatus::Relayed], 1),
                "{mode} {bye:?}"
            );
            assert_eq!(
                harness.server.accepted(),
                [accepted_mail(1, 1), accepted_mail(2, 2)],
                "{mode} {bye:?}"
            );
        }
    }
}

#[tokio::test]
async fn stale_connection_costs_no_attempt() {
    let script = SmtpScript::new().on(SmtpStep::Dot, [Some(SmtpAction::ReplyAndClose("250 and goodbye"))]);
    let harness = QueueHarness::new(script, "connections = 1").await;
    harness.wait_for_result(harness.enqueue(1, &["a@example.net"]).await).await;
    let trail = harness.wait_for_result(harness.enqueue(2, &["a@example.net"]).await).await;
    assert_eq!((attempt_results(&trail), trail.attempts), (vec![AttemptStatus::Relayed], 1));
    assert_eq!(harness.server.accepted(), [accepted_mail(1, 1), accepted_mail(2, 2)]);
}

#[tokio::test]
async fn sends_nothing_in_clear_when_tls_is_required() {
    for offer in [None, Some("STARTTLS")] {
        // Not offered; offered and refused.
        let mut script = SmtpScript::new();
        script.capabilities.extend(offer);
        script.capabilities.push("AUTH PLAIN");
        let text = format!("tls = \"starttls\"\nusername = \"u\"\npassword = \"hunter2\"\n{QUICK_BREAKER}");
        let harness = QueueHarness::new(script, &text).await;
        let id = harness.enqueue(1, &["a@example.net"]).await;
        harness.wait_until("two connections", || harness.server.connections() >= 2).await;
        let trail = harness.load_trail(id);
        assert_eq!(recipient_states(&trail), [RecipientState::Queued]);
        assert!(trail.next_attempt.is_some());
        let received = harness.server.commands();
        assert!(
            received.iter().all(|line| line.contains("EHLO") || line.ends_with("STARTTLS")),
            "{received:?}"
        );
    }
}

#[tokio::test]
async fn ignores_plaintext_injected_after_starttls() {
    for injected in ["", "250-evil\r\n250 AUTH LOGIN\r\n", "550 5.7.1 go away\r\n"] {
        let directory = tempfile::tempdir().unwrap();
        let pair = tls::load_self_signed(directory.path(), "localhost").unwrap();
        let mut script = SmtpScript::new();
        script.capabilities.extend(["STARTTLS", "AUTH PLAIN"]);
        (script.tls, script.injected_plaintext) = (Some(tls::build_acceptor(pair).unwrap()), injected);
        let ca = directory.path().join("relay.pem");
        let text = format!(
            "tls = \"starttls\"\nca_file = {:?}\nusername = \"u\"\npassword = \"p\"\nconnections = 1",
            ca.display()
        );
        let harness = QueueHarness::new(script, &text).await;
        let trail = harness.wait_for_result(harness.enqueue(1, &["a@example.net"]).await).await;
        assert_eq!(attempt_results(&trail), [AttemptStatus::Relayed], "{injected:?}");
        let received: Vec<_> = harness.server.commands().iter().map(|line| line[..6].to_owned()).collect();
        assert_eq!(
            received,
            ["1 EHLO", "1 STAR", "1 EHLO", "1 AUTH", "1 MAIL", "1 RCPT", "1 DATA"],
            "{injected:?}"
        );
    }
}

/// RFC 5321 section 3.2: the client sends HELO to a server that rejects EHLO.
#[tokio::test]
async fn falls_back_to_helo() {
    for refusal in [
        "500 what",
        "500-5.5.1 what\r\n500 5.5.1 is that",
        "501 no",
        "502 5.5.1 no",
        "504 no",
        "550 no",
        "554 no",
    ] {
        let script = SmtpScript::new().on(SmtpStep::Ehlo, [Some(SmtpAction::Reply(refusal))]);
        let harness = QueueHarness::new(script, "").await;
        let trail =
            harness.wait_for_result(harness.enqueue(1, &["a@example.net", "b@example.net"]).await).await;
        assert_eq!((attempt_results(&trail), trail.attempts), (vec![AttemptStatus::Relayed], 1), "{refusal}");
        let received: Vec<_> = harness.server.commands().iter().map(|line| line[..6].to_owned()).collect();
        assert_eq!(received, ["1 EHLO", "1 HELO", "1 MAIL", "1 RCPT", "1 RCPT", "1 DATA"], "{refusal}");
    }
}

/// A refusal for now is none of EHLO, and without EHLO there is neither TLS nor a login.
#[tokio::test]
async fn helo_does_not_replace_tls_or_login() {
    for (refusal, more) in [
        ("421 4.3.2 come back", ""),
        ("451 4.3.2 come back", ""),
        ("502 no", "tls = \"starttls\""),
        ("502 no", "username = \"u\"\npassword = \"p\""),
    ] {
        let script = SmtpScript::new()
            .on(SmtpStep::Ehlo, [Some(SmtpAction::Reply(refusal)), Some(SmtpAction::Reply(refusal))]);
        let harness = QueueHarness::new(script, &format!("{more}\n{QUICK_BREAKER}")).await;
        let id = harness.enqueue(1, &["a@example.net"]).await;
        harness.wait_until("the first attempt", || harness.load_trail(id).attempts == 1).await;
        assert_eq!(recipient_states(&harness.load_trail(id)), [RecipientState::Queued], "{refusal} {more}");
        assert_eq!(
            (harness.command_count("HELO"), harness.command_count("MAIL")),
            (0, 0),
            "{refusal} {more}"
        );
    }
}

/// `AUTH=` is how servers wrote it before RFC 2554, some beside the other form.
#[tokio::test]
async fn accepts_old_auth_keyword_form() {
    for offers in [&["AUTH=PLAIN LOGIN"][..], &["auth=LOGIN plain"], &["AUTH CRAM-MD5", "AUTH=PLAIN"]] {
        let mut script = SmtpScript::new();
        script.capabilities.extend(offers);
        let harness = QueueHarness::new(script, "username = \"u\"\npassword = \"p\"").await;
        let trail = harness.wait_for_result(harness.enqueue(1, &["a@example.net"]).await).await;
        assert_eq!(
            (attempt_results(&trail), harness.command_count("AUTH")),
            (vec![AttemptStatus::Relayed], 1),
            "{offers:?}"
        );
    }
}

#[tokio::test]
async fn rejected_login_opens_breaker_without_further_attempts() {
    let refused = || Some(SmtpAction::Reply("535 5.7.8 wrong"));
    let mut script = SmtpScript::new().on(SmtpStep::Auth, [refused(), refused()]);
    script.capabilities.push("AUTH PLAIN");
    let harness = QueueHarness::new(
        script,
        &format!("username = \"u\"\npassword = \"p\"\nconnections = 4\n{QUICK_BREAKER}"),
    )
    .await;
    let first = harness.enqueue(1, &["a@example.net"]).await;
    harness.wait_until("the first login", || harness.command_count("AUTH") == 1).await;
    harness.wait_until("its outcome", || harness.load_trail(first).attempts == 1).await;
    let mut others = Vec::new();
    for number in 2..8 {
        others.push(harness.enqueue(number, &["a@example.net"]).await);
    }
    harness.wait_until("the failed probe", || harness.command_count("AUTH") == 2).await;
    for id in &others {
        assert_eq!(
            (harness.load_trail(*id).attempts, recipient_states(&harness.load_trail(*id))),
            (0, vec![RecipientState::Queued])
        );
    }
    assert_eq!(harness.load_trail(first).attempts, 1);
    for id in others {
        let trail = harness.wait_for_result(id).await;
        assert_eq!((attempt_results(&trail), trail.attempts), (vec![AttemptStatus::Relayed], 1));
    }
    assert_eq!(
        attempt_results(&harness.wait_for_result(first).await),
        [AttemptStatus::Queued, AttemptStatus::Relayed]
    );
}

/// The probe's own message may be refused, too large, or lost: the breaker must not wait for it for ever.
#[tokio::test]
async fn inconclusive_probe_does_not_block_breaker() {
    for (at, act) in [
        (SmtpStep::Rcpt, SmtpAction::Reply("550 no such user")),
        (SmtpStep::Mail, SmtpAction::Reply("451 not now")),
        (SmtpStep::Body, SmtpAction::Close),
        (SmtpStep::Dot, SmtpAction::Close),
    ] {
        let mut script = SmtpScript::new()
            .on(SmtpStep::Auth, [Some(SmtpAction::Reply("535 wrong"))])
            .on(at, [Some(act.clone())]);
        script.capabilities.push("AUTH PLAIN");
        let harness =
            QueueHarness::new(script, &format!("username = \"u\"\npassword = \"p\"\n{QUICK_BREAKER}")).await;
        let probe = harness.enqueue(1, &["a@example.net"]).await;
        harness.wait_for_result(probe).await;
        let next = harness.wait_for_result(harness.enqueue(2, &["a@example.net"]).await).await;
        assert_eq!(recipient_states(&next), [RecipientState::Relayed], "{at:?} {act:?}");
    }
}

#[tokio::test]
async fn fifty_messages_arrive_exactly_once() {
    for mode in PIPELINING_MODES {
        let harness = QueueHarness::new(SmtpScript::new(), &format!("{mode}\nconnections = 1")).await;
        let ids = harness.enqueue_many(1..=50).await;
        for id in ids {
            assert_eq!(
                attempt_results(&harness.wait_for_result(id).await),
                [AttemptStatus::Relayed],
                "{mode}"
            );
        }
        assert_eq!(harness.server.connections(), 1, "{mode}");
        harness.assert_each_accepted_once(1..=50, mode);
        let (chained, ahead) =
            harness.server.with_script(|script| (script.pipelined_transactions, script.early_replies));
        // The next envelope after a dot costs one round trip a message, an envelope in one write two.
        assert_eq!(chained > 40, mode == PIPELINING_MODES[0], "{mode}: {chained} behind a dot");
        assert_eq!(ahead > 90, mode != PIPELINING_MODES[2], "{mode}: {ahead} in one go");
    }
}

#[tokio::test]
async fn pipelined_envelopes_survive_faults_between() {
    let middle = |act: SmtpAction| [None, None, None, Some(act)];
    for mode in PIPELINING_MODES {
        for (at, act, expected) in [
            (SmtpStep::Dot, SmtpAction::Reply("550 5.7.1 spam"), &[AttemptStatus::Bounced][..]),
            (
                SmtpStep::Dot,
                SmtpAction::Reply("452 4.3.1 full"),
                &[AttemptStatus::Queued, AttemptStatus::Relayed],
            ),
            (
                SmtpStep::Dot,
                SmtpAction::ReplyAndClose("421 4.3.2 restarting"),
                &[AttemptStatus::Queued, AttemptStatus::Relayed],
            ),
            (SmtpStep::Dot, SmtpAction::ReplyAndClose("250 the last"), &[AttemptStatus::Relayed]),
            (SmtpStep::Dot, SmtpAction::Close, &[AttemptStatus::Unknown, AttemptStatus::Relayed]),
            (
                SmtpStep::Mail,
                SmtpAction::Reply("451 4.3.0 not now"),
                &[AttemptStatus::Queued, AttemptStatus::Relayed],
            ),
            (SmtpStep::Mail, SmtpAction::Close, &[AttemptStatus::Relayed]),
            (SmtpStep::Rcpt, SmtpAction::Reply("550 5.7.1 not to you"), &[AttemptStatus::Bounced]),
            (SmtpStep::Rcpt, SmtpAction::Close, &[AttemptStatus::Relayed]),
            (
                SmtpStep::Data,
                SmtpAction::Reply("451 4.3.0 not now"),
                &[AttemptStatus::Queued, AttemptStatus::Relayed],
            ),
            (SmtpStep::Data, SmtpAction::Close, &[AttemptStatus::Relayed]),
            // Its dot was on the way already.
            (SmtpStep::Body, SmtpAction::Close, &[AttemptStatus::Unknown, AttemptStatus::Relayed]),
        ] {
            let script = SmtpScript::new().on(at, middle(act.clone()));
            let harness = QueueHarness::new(script, &format!("{mode}\nconnections = 1")).await;
            let what = format!("{mode} {at:?} {act:?}");
            let mut odd = Vec::new();
            for id in harness.enqueue_many(1..=10).await {
                let attempts = attempt_results(&harness.wait_for_result(id).await);
                odd.extend((attempts != [AttemptStatus::Relayed]).then_some(attempts));
            }
            let usual = expected == [AttemptStatus::Relayed];
            assert_eq!(odd, if usual { vec![] } else { vec![expected.to_vec()] }, "{what}");
            let lost = usize::from(expected == [AttemptStatus::Bounced]);
            let subjects: BTreeSet<_> =
                harness.server.accepted().iter().map(|taken| taken.message.clone()).collect();
            assert_eq!((harness.server.accepted().len(), subjects.len()), (10 - lost, 10 - lost), "{what}");
        }
    }
}

#[tokio::test]
async fn sends_single_commands_without_pipelining() {
    let mut script = SmtpScript::new();
    script.capabilities.clear();
    let harness = QueueHarness::new(script, "connections = 1").await;
    for id in harness.enqueue_many(1..=5).await {
        assert_eq!(attempt_results(&harness.wait_for_result(id).await), [AttemptStatus::Relayed]);
    }
    harness.assert_each_accepted_once(1..=5, "no pipelining");
    assert_eq!(
        (harness.server.with_script(|script| script.early_replies), harness.server.connections()),
        (0, 1)
    );
}

#[tokio::test]
async fn mailgun_limit_pauses_upstream_until_stated_time() {
    let until_then = Timestamp::from_secs(Clock::System.now().as_secs() + 3);
    let text = format!(
        "421 Domain mg.example.com is not allowed to send: recipient limit exceeded, try again after {}",
        until_then.to_rfc5322().replace("+0000", "UTC")
    );
    let mut script = SmtpScript::new().on(SmtpStep::Data, [Some(SmtpAction::ReplyText(text))]);
    script.capabilities.push("AUTH PLAIN");
    let harness =
        QueueHarness::with_provider("mailgun", script, "username = \"u\"\npassword = \"p\"\nconnections = 1")
            .await;
    let first = harness.enqueue(1, &["a@example.net"]).await;
    harness.wait_until("the limit", || harness.load_trail(first).attempts == 1).await;
    assert!(harness.load_trail(first).next_attempt >= Some(until_then));
    let second = harness.enqueue(2, &["a@example.net"]).await;
    let trails = [harness.wait_for_result(first).await, harness.wait_for_result(second).await];
    assert!(Clock::System.now() >= until_then);
    assert_eq!(trails.map(|trail| trail.attempts), [2, 1]);
    assert_eq!(harness.command_count("DATA"), 3);
}

#[tokio::test]
async fn old_message_expires() {
    let script = SmtpScript::new().on_recipient("a@example.net", [SmtpAction::Reply("451 never")]);
    let harness = QueueHarness::with_config("plain", script, "", |config| {
        config.upstreams[0].retry.give_up_after = Duration::from_secs(1);
    });
    let harness = harness.await;
    let trail = harness.wait_for_result(harness.enqueue(1, &["a@example.net", "b@example.net"]).await).await;
    assert_eq!(recipient_states(&trail), [RecipientState::Expired, RecipientState::Relayed]);
    assert!(trail.attempts > 2, "{}", trail.attempts);
    let last = trail.events.last().unwrap();
    assert!(last.at.duration_since(trail.message.id.timestamp()) >= Duration::from_secs(1), "{last:?}");
    assert_eq!(last.diagnostic.code, Some(451));
}

#[tokio::test]
async fn message_expires_while_breaker_is_open() {
    let breaker = "[upstream.breaker]\nfailures = 1\npause = \"5min\"";
    let script = SmtpScript::new().on(SmtpStep::Banner, [Some(SmtpAction::ReplyAndClose("554 not today"))]);
    let harness = QueueHarness::with_config("plain", script, breaker, |config| {
        config.upstreams[0].retry.give_up_after = Duration::from_secs(1);
    });
    let harness = harness.await;
    let first = harness.enqueue(1, &["a@example.net"]).await;
    harness.wait_until("the failure", || harness.load_trail(first).attempts == 1).await;
    let second = harness.enqueue(2, &["a@example.net"]).await;
    for id in [first, second] {
        assert_eq!(recipient_states(&harness.wait_for_result(id).await), [RecipientState::Expired]);
    }
    assert_eq!(harness.server.connections(), 1);
}

#[tokio::test]
async fn limits_messages_per_connection() {
    for mode in PIPELINING_MODES {
        let text = format!("{mode}\nconnections = 1\nmessages_per_connection = 3");
        let harness = QueueHarness::new(SmtpScript::new(), &text).await;
        for id in harness.enqueue_many(1..=7).await {
            harness.wait_for_result(id).await;
        }
        let carried = [1, 2, 3].map(|number| {
            harness.server.accepted().iter().filter(|taken| taken.connection == number).count()
        });
        assert_eq!(carried, [3, 3, 1], "{mode}");
        harness.wait_until("both goodbyes", || harness.command_count("QUIT") >= 2).await;
    }
}

#[tokio::test]
async fn closes_idle_connection() {
    let harness = QueueHarness::new(SmtpScript::new(), "idle_timeout = \"1s\"").await;
    let started = Instant::now();
    harness.wait_for_result(harness.enqueue(1, &["a@example.net"]).await).await;
    harness.wait_until("the goodbye", || harness.command_count("QUIT") == 1).await;
    assert!(started.elapsed() >= Duration::from_secs(1));
    harness.wait_for_result(harness.enqueue(2, &["a@example.net"]).await).await;
    assert_eq!(harness.server.accepted(), [accepted_mail(1, 1), accepted_mail(2, 2)]);
}

/// Mail that comes in the moment in which the only connection gives up waiting must not be forgotten.
#[tokio::test]
async fn mail_arriving_at_idle_timeout_is_sent() {
    let idle = Duration::from_millis(4);
    let harness = QueueHarness::with_config("plain", SmtpScript::new(), "connections = 1", |config| {
        config.upstreams[0].transport.idle_timeout = idle;
    });
    let harness = harness.await;
    let mut random = fastrand::Rng::with_seed(4);
    for number in 0..250 {
        let started = Instant::now();
        let id = harness.enqueue(number, &["a@example.net"]).await;
        harness.wait_for_result(id).await;
        assert!(
            started.elapsed() < Duration::from_secs(4),
            "message {number} waited {:?}",
            started.elapsed()
        );
        tokio::time::sleep(idle.mul_f64(random.f64() * 1.5)).await;
    }
}

#[tokio::test]
async fn restart_resumes_queue() {
    let later = [SmtpAction::Reply("451 not before the restart")];
    let mut harness = QueueHarness::new(SmtpScript::new().on_recipient("a@example.net", later), "").await;
    let ids = harness.enqueue_many(1..=5).await;
    for id in &ids {
        harness.wait_until("an attempt", || harness.load_trail(*id).attempts >= 1).await;
    }
    let known = harness.enqueue(6, &["b@example.net"]).await;
    harness.wait_for_result(known).await;
    let interrupted = harness.enqueue(7, &["a@example.net"]).await;
    harness.wait_until("its attempt", || harness.load_trail(interrupted).attempts >= 1).await;
    harness.stop().await;
    let begun = AttemptStarted { id: interrupted, at: Clock::System.now(), upstream: "up".into() };
    let store = loop {
        match mailtrail_store::Store::open(&harness.config.data_dir, Clock::System) {
            Ok((store, _)) => break store,
            Err(mailtrail_store::OpenError::Locked(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("{error}"),
        }
    };
    store.record_attempt_start(begun.clone()).await.unwrap();
    // The result of this one is recorded, for example by an event.
    store.record_attempt_start(AttemptStarted { id: known, ..begun.clone() }).await.unwrap();
    drop(store);
    harness.server.with_script(|script| *script = SmtpScript::new());
    harness.start().await;
    for id in ids {
        let trail = harness.wait_for_result(id).await;
        assert_eq!(recipient_states(&trail), [RecipientState::Relayed]);
        assert!(!attempt_results(&trail).contains(&AttemptStatus::Unknown));
    }
    let trail = harness.wait_for_result(interrupted).await;
    assert_eq!(recipient_states(&trail), [RecipientState::Relayed]);
    assert!(attempt_results(&trail).contains(&AttemptStatus::Unknown), "{trail:?}");
    assert_eq!(attempt_results(&harness.wait_for_result(known).await), [AttemptStatus::Relayed]);
}

/// One flipped bit anywhere in a message larger than all buffers: the upstream never gets the end of the data.
#[tokio::test]
async fn corrupted_large_message_is_not_delivered() {
    for place in [100, 6_000_000, sample_message(LONG_MESSAGE).len() - 1] {
        let later =
            SmtpScript::new().on(SmtpStep::Rcpt, [Some(SmtpAction::Reply("451 not before the damage"))]);
        let mut harness = QueueHarness::new(later, "connections = 1").await;
        let id = harness.enqueue(LONG_MESSAGE, &["a@example.net"]).await;
        harness.wait_until("an attempt", || harness.load_trail(id).attempts == 1).await;
        harness.stop().await;
        flip_bit(
            &harness.config.data_dir.join("journal/0000000001.seg"),
            &sample_message(LONG_MESSAGE),
            place,
        );
        harness.start().await;
        let trail = harness.wait_for_result(id).await;
        assert_eq!(attempt_results(&trail), [AttemptStatus::Queued, AttemptStatus::Failed], "byte {place}");
        let text = trail.recipients[0].diagnostic.text.as_deref();
        assert_eq!(text, Some("the message is damaged on disk and cannot be sent"), "byte {place}");
        // The upstream is not to blame: it gets the next one at once, on a new connection.
        harness.wait_for_result(harness.enqueue(1, &["a@example.net"]).await).await;
        assert_eq!(
            harness.server.accepted(),
            [accepted_mail(harness.server.connections(), 1)],
            "byte {place}"
        );
    }
}

/// Flips a bit of the message that a segment holds.
fn flip_bit(segment: &Path, message: &str, place: usize) {
    let mut bytes = std::fs::read(segment).unwrap();
    let start = bytes.windows(message.len()).position(|window| window == message.as_bytes()).unwrap();
    bytes[start + place] ^= 4;
    std::fs::write(segment, bytes).unwrap();
}

/// Short pauses, also after a refused login.
const QUICK_BREAKER: &str = "[upstream.breaker]\npause = \"100ms\"\nlongest_pause = \"1s\"";

/// A message that was sent completely and rejected temporarily may have arrived: a provider event with our id proves
/// it, and the message is not sent again.
#[tokio::test(start_paused = true)]
async fn event_with_tracking_id_settles_completely_sent_message() {
    for (act, kind, state) in [
        (SmtpAction::Reply("451 4.3.0 try again later"), EventKind::Delivered, RecipientState::Delivered),
        (SmtpAction::Reply("452 4.3.1 insufficient storage"), EventKind::Accepted, RecipientState::Relayed),
        (SmtpAction::Reply("450 4.7.1 greylisted"), EventKind::Deferred, RecipientState::Relayed),
        (SmtpAction::ReplyAndClose("421 4.3.2 closing"), EventKind::Bounced, RecipientState::Bounced),
        (SmtpAction::Reply("451 4.7.0 slow down"), EventKind::Opened, RecipientState::Relayed),
        (SmtpAction::Close, EventKind::Delivered, RecipientState::Delivered),
    ] {
        let what = format!("{act:?} {kind:?}");
        let script = SmtpScript::new().on(SmtpStep::Dot, [Some(act)]);
        let harness =
            QueueHarness::manual_time_with_config(MockSmtpServer::start(script).await, "", |config| {
                config.upstreams[0].retry.initial_backoff = Duration::from_secs(3600);
            })
            .await;
        let id = harness.enqueue(1, &["a@example.net"]).await;
        harness.wait_until("an attempt", || harness.load_trail(id).attempts == 1).await;
        put_event(&harness, Some(id), kind, Some("a@example.net")).await;
        harness.let_time_pass(Duration::from_secs(2 * 3600)).await;
        let trail = harness.load_trail(id);
        assert_eq!(
            (recipient_states(&trail), trail.attempts, trail.next_attempt),
            (vec![state], 1, None),
            "{what}"
        );
        assert_eq!(harness.server.accepted(), [], "{what}");
    }
}

/// An event proves nothing for a recipient outside the transaction, nor if another message has the same Message-ID.
#[tokio::test(start_paused = true)]
async fn event_does_not_settle_recipient_without_transaction() {
    let script = SmtpScript::new()
        .on_recipient(
            "b@example.net",
            [SmtpAction::Reply("450 4.2.0 greylisted"), SmtpAction::Reply("250 now")],
        )
        .on(SmtpStep::Dot, [Some(SmtpAction::Reply("451 4.3.0 try again later"))]);
    let harness = QueueHarness::with_manual_time(MockSmtpServer::start(script).await, "").await;
    let id = harness.enqueue(1, &["a@example.net", "b@example.net"]).await;
    harness.wait_until("an attempt", || harness.load_trail(id).attempts == 1).await;
    put_event(&harness, Some(id), EventKind::Delivered, None).await;
    let trail = harness.wait_for_result(id).await;
    assert_eq!(recipient_states(&trail), [RecipientState::Delivered, RecipientState::Delivered]);
    let to: Vec<_> = harness.server.accepted().into_iter().map(|taken| taken.recipients).collect();
    assert_eq!(to, [["b@example.net"]]);
    // By Message-ID alone.
    harness.server.with_script(|script| {
        script.add_actions(SmtpStep::Dot, [Some(SmtpAction::Reply("451 4.3.0 try again later"))])
    });
    let id = harness.enqueue(2, &["c@example.net"]).await;
    harness.wait_until("an attempt", || harness.load_trail(id).attempts == 1).await;
    put_event(&harness, None, EventKind::Delivered, Some("c@example.net")).await;
    assert_eq!(
        attempt_results(&harness.wait_for_result(id).await),
        [AttemptStatus::Queued, AttemptStatus::Relayed]
    );
}

/// The first copy arrived, with any result of the second.
#[tokio::test]
async fn delivered_event_outlasts_rejection_of_next_attempt() {
    for act in [SmtpAction::Close, SmtpAction::Reply("451 4.3.0 try again later")] {
        let script = SmtpScript::new()
            .on(SmtpStep::Dot, [Some(act.clone())])
            .on(SmtpStep::Rcpt, [None, Some(SmtpAction::Reply("550 5.7.1 duplicate"))]);
        let harness = QueueHarness::new(script, "").await;
        let id = harness.enqueue(1, &["a@example.net"]).await;
        assert_eq!(
            recipient_states(&harness.wait_for_result(id).await),
            [RecipientState::Bounced],
            "{act:?}"
        );
        put_event(&harness, Some(id), EventKind::Delivered, Some("a@example.net")).await;
        harness
            .wait_until("the proof", || {
                recipient_states(&harness.load_trail(id)) == [RecipientState::Delivered]
            })
            .await;
    }
    // A permanent rejection after the dot of the only attempt is final.
    let harness = QueueHarness::new(
        SmtpScript::new().on(SmtpStep::Dot, [Some(SmtpAction::Reply("550 5.7.1 spam"))]),
        "",
    )
    .await;
    let id = harness.enqueue(1, &["a@example.net"]).await;
    harness.wait_for_result(id).await;
    put_event(&harness, Some(id), EventKind::Delivered, Some("a@example.net")).await;
    harness.wait_until("the event", || harness.load_trail(id).events.len() == 3).await;
    assert_eq!(recipient_states(&harness.load_trail(id)), [RecipientState::Bounced]);
}

/// The DSN must not claim that nothing arrived.
#[tokio::test]
async fn dsn_of_rejected_retry_mentions_possible_copy() {
    for (first, refusal, says) in [
        (SmtpAction::Close, (SmtpStep::Rcpt, SmtpAction::Reply("550 5.7.1 not you")), true),
        (SmtpAction::Close, (SmtpStep::Mail, SmtpAction::Reply("550 5.7.1 not you")), true),
        (SmtpAction::Reset, (SmtpStep::Data, SmtpAction::Reply("554 5.7.1 not this")), true),
        (SmtpAction::Close, (SmtpStep::Dot, SmtpAction::Reply("554 5.7.1 not this")), true),
        (
            SmtpAction::Reply("451 4.3.0 later"),
            (SmtpStep::Rcpt, SmtpAction::Reply("550 5.7.1 not you")),
            false,
        ),
    ] {
        let what = format!("{first:?} {refusal:?}");
        let (at, act) = refusal;
        let mut script = SmtpScript::new().on(SmtpStep::Dot, [Some(first)]);
        script.add_actions(at, [None, Some(act)].into_iter().skip(usize::from(at == SmtpStep::Dot)));
        let harness = QueueHarness::new(script, "connections = 1").await;
        let id = harness.enqueue_with(1, &["b@example.net"], |send| send.wants_dsn = true).await;
        let trail = harness.wait_for_result(id).await;
        assert_eq!(recipient_states(&trail), [RecipientState::Bounced], "{what}");
        harness.wait_until("the report", || !harness.server.accepted().is_empty()).await;
        let report = String::from_utf8(harness.server.accepted().remove(0).message).unwrap();
        let report = report.replace("\r\n", " ").replace(['\t', '='], "");
        let (reason, status) = report.split_once("message/delivery-status").unwrap();
        let found = [reason, status].map(|part| part.contains("a copy may have arrived"));
        assert_eq!(found, [says; 2], "{what}: {report}");
    }
}

/// RFC 5321 section 4.5.3.1.10: after some accepted recipients, any rejection code for too many recipients defers the
/// rest to another transaction.
#[tokio::test]
async fn excess_recipients_go_in_next_transaction() {
    let recipients: Vec<_> = (0..60).map(|number| format!("r{number}@example.net")).collect();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    for mode in PIPELINING_MODES {
        for refusal in [
            "552 Too many recipients",
            "552 5.5.3 Too many recipients",
            "552 Requested mail action aborted",
            "452 4.5.3 Error: too many recipients",
            "550 5.5.3 Recipient limit exceeded",
            "554 5.7.1 Error: too many recipients in this transaction",
        ] {
            let mut script = SmtpScript::new();
            script.recipient_limit = Some((SmtpStep::Rcpt, 20, refusal));
            let harness = QueueHarness::new(script, mode).await;
            let trail = harness.wait_for_result(harness.enqueue(1, &recipients).await).await;
            let what = format!("{mode} {refusal}");
            assert_eq!(recipient_states(&trail), [RecipientState::Relayed; 60], "{what}");
            let sizes: Vec<_> =
                harness.server.accepted().iter().map(|taken| taken.recipients.len()).collect();
            assert_eq!(sizes, [20; 3], "{what}");
            let to: Vec<_> =
                harness.server.accepted().into_iter().flat_map(|taken| taken.recipients).collect();
            assert_eq!(to, recipients, "{what}");
        }
    }
}

/// If the upstream rejects the whole transaction, halves of it follow at once, none of them twice.
#[tokio::test]
async fn splits_transaction_with_too_many_recipients() {
    let recipients: Vec<_> = (0..60).map(|number| format!("r{number}@example.net")).collect();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    for mode in PIPELINING_MODES {
        for (at, refusal) in [
            (SmtpStep::Data, "552 5.5.3 Too many recipients"),
            (SmtpStep::Data, "452 4.5.3 Too many recipients"),
            (SmtpStep::Dot, "552 5.5.3 Too many recipients"),
            (SmtpStep::Dot, "552 Requested mail action aborted"),
            (SmtpStep::Dot, "452 4.5.3 Error: too many recipients"),
            (SmtpStep::Dot, "554 5.7.1 Error: too many recipients in this message"),
        ] {
            let mut script = SmtpScript::new();
            script.recipient_limit = Some((at, 20, refusal));
            let harness = QueueHarness::new(script, mode).await;
            let trail = harness.wait_for_result(harness.enqueue(1, &recipients).await).await;
            let what = format!("{mode} {at:?} {refusal}");
            assert_eq!(recipient_states(&trail), [RecipientState::Relayed; 60], "{what}");
            let taken = harness.server.accepted();
            let sizes: Vec<_> = taken.iter().map(|taken| taken.recipients.len()).collect();
            assert_eq!((sizes, trail.attempts), (vec![15; 4], 6), "{what}");
            let mut to: Vec<_> = taken.into_iter().flat_map(|taken| taken.recipients).collect();
            to.sort_by_key(|one| recipients.iter().position(|known| known == one));
            assert_eq!(to, recipients, "{what}");
        }
    }
}

/// A transaction of one recipient cannot be made smaller: its refusal is decided by the code.
#[tokio::test]
async fn single_recipient_is_never_excess() {
    let everybody = ["a@example.net", "b@example.net", "c@example.net"];
    for at in [SmtpStep::Data, SmtpStep::Dot] {
        for (refusal, expected) in [
            ("552 5.5.3 Too many recipients", RecipientState::Bounced),
            ("552 Requested mail action aborted", RecipientState::Bounced),
            ("452 4.5.3 Too many recipients", RecipientState::Queued),
        ] {
            let mut script = SmtpScript::new();
            script.recipient_limit = Some((at, 0, refusal));
            let harness = QueueHarness::new(script, "").await;
            let id = harness.enqueue(1, &everybody).await;
            harness.wait_until("an attempt for each", || harness.load_trail(id).attempts >= 5).await;
            assert_eq!(recipient_states(&harness.load_trail(id)), [expected; 3], "{at:?} {refusal}");
            let alone = harness.command_count("RCPT") - 5;
            assert!(alone >= 3, "{at:?} {refusal}: {alone}");
        }
    }
}

/// The other recipients continue while one is deferred.
#[tokio::test]
async fn deferred_recipient_delays_no_other() {
    let everybody = ["a@example.net", "b@example.net", "c@example.net", "d@example.net"];
    for busy in ["a@example.net", "c@example.net"] {
        let mut script = SmtpScript::new().on_recipient(busy, [SmtpAction::Reply("450 4.2.1 busy")]);
        script.recipient_limit = Some((SmtpStep::Dot, 1, "552 5.5.3 Too many recipients"));
        let harness = QueueHarness::with_config("plain", script, "", |config| {
            let retry = &mut config.upstreams[0].retry;
            (retry.initial_backoff, retry.max_backoff) =
                (Duration::from_secs(3600), Duration::from_secs(3600));
        })
        .await;
        let id = harness.enqueue(1, &everybody).await;
        harness.wait_until("the others", || harness.server.accepted().len() == 3).await;
        harness.wait_until("their end", || !harness.load_trail(id).is_sending).await;
        let expected =
            everybody.map(|one| if one == busy { RecipientState::Queued } else { RecipientState::Relayed });
        harness.wait_until("their states", || recipient_states(&harness.load_trail(id)) == expected).await;
        assert!(harness.server.accepted().iter().all(|taken| taken.recipients.len() == 1));
    }
}

/// The rest is sent although the transaction with the accepted recipients failed.
#[tokio::test]
async fn excess_recipients_are_sent_after_failed_transaction() {
    let recipients: Vec<_> = (0..5).map(|number| format!("r{number}@example.net")).collect();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    for (at, act, first) in [
        (SmtpStep::Dot, SmtpAction::Reply("451 4.3.0 later"), RecipientState::Relayed),
        (SmtpStep::Dot, SmtpAction::Reply("554 5.7.1 spam"), RecipientState::Bounced),
        (SmtpStep::Dot, SmtpAction::Close, RecipientState::Relayed),
        (SmtpStep::Data, SmtpAction::Reply("451 4.3.0 later"), RecipientState::Relayed),
        (SmtpStep::Data, SmtpAction::Reply("554 5.7.1 no"), RecipientState::Bounced),
    ] {
        let what = format!("{at:?} {act:?}");
        let mut script = SmtpScript::new().on(at, [Some(act)]);
        script.recipient_limit = Some((SmtpStep::Rcpt, 2, "552 5.5.3 Too many recipients"));
        let harness = QueueHarness::new(script, "").await;
        let trail = harness.wait_for_result(harness.enqueue(1, &recipients).await).await;
        let expected =
            [first, first, RecipientState::Relayed, RecipientState::Relayed, RecipientState::Relayed];
        assert_eq!(recipient_states(&trail), expected, "{what}");
        let mut to: Vec<_> =
            harness.server.accepted().into_iter().flat_map(|taken| taken.recipients).collect();
        to.sort();
        assert_eq!(to, recipients[if first == RecipientState::Bounced { 2 } else { 0 }..], "{what}");
    }
}

/// Without an accepted recipient, 552 means a full mailbox.
#[tokio::test]
async fn full_mailbox_rejects_one_recipient() {
    let script = SmtpScript::new()
        .on_recipient("a@example.net", [SmtpAction::Reply("552 5.2.2 mailbox full")])
        .on_recipient("c@example.net", [SmtpAction::Reply("552 5.2.2 mailbox full")])
        .on_recipient("d@example.net", [SmtpAction::Reply("552 exceeded storage allocation")]);
    let harness = QueueHarness::new(script, "").await;
    let everybody = ["a@example.net", "b@example.net", "c@example.net", "d@example.net"];
    let trail = harness.wait_for_result(harness.enqueue(1, &everybody).await).await;
    assert_eq!(
        recipient_states(&trail),
        [RecipientState::Bounced, RecipientState::Relayed, RecipientState::Bounced, RecipientState::Bounced]
    );
    assert_eq!(harness.server.accepted().len(), 1);
}

/// The flag of a client is no requirement (RFC 6531 section 3.4): Go's net/smtp sends SMTPUTF8 to every server that
/// offers it.
#[tokio::test]
async fn required_extensions_follow_message_content() {
    let ascii = "From: a@example.com\r\nSubject: a\r\n\r\ntext\r\n";
    let (header, body) = (ascii.replace("Subject: a", "Subject: \u{fc}"), ascii.replace("text", "\u{fc}"));
    let (plain, idn, local) = ("b@example.net", "jan@b\u{fc}cher.example", "ji\u{159}\u{ed}@example.net");
    let both = " SMTPUTF8 BODY=8BITMIME";
    let as_it_is = "sent as it is: it holds 8-bit text, and the upstream does not offer 8BITMIME";
    for (number, (offers, output, recipient, message, expected)) in [
        (&["SIZE 0"][..], both, plain, ascii, Ok(("", plain, ""))),
        (&["SIZE 0"], both, idn, ascii, Ok(("", "jan@xn--bcher-kva.example", ""))),
        (&["SIZE 0"], both, local, ascii, Err("SMTPUTF8")),
        (&["SIZE 0"], both, plain, &header, Err("SMTPUTF8")),
        (&["SIZE 0"], " BODY=8BITMIME", plain, &header, Ok(("", plain, as_it_is))),
        (&["SIZE 0"], "", plain, &header, Ok(("", plain, as_it_is))),
        (&["SIZE 0"], both, plain, &body, Ok(("", plain, as_it_is))),
        (&["SIZE 0", "8BITMIME"], both, plain, ascii, Ok(("", plain, ""))),
        (&["SIZE 0", "8BITMIME"], both, plain, &body, Ok((" BODY=8BITMIME", plain, ""))),
        (&["SIZE 0", "8BITMIME"], "", plain, &body, Ok((" BODY=8BITMIME", plain, ""))),
        (&["SIZE 0", "8BITMIME", "SMTPUTF8"], both, plain, ascii, Ok(("", plain, ""))),
        (&["SIZE 0", "8BITMIME", "SMTPUTF8"], both, plain, &header, Ok((both, plain, ""))),
        (&["SIZE 0", "8BITMIME", "SMTPUTF8"], both, local, ascii, Ok((both, local, ""))),
    ]
    .into_iter()
    .enumerate()
    {
        let mut script = SmtpScript::new();
        script.capabilities = offers.to_vec();
        let harness = QueueHarness::new(script, "").await;
        let id =
            submit_message(&harness, &format!("MAIL FROM:<a@example.com>{output}"), recipient, message).await;
        let trail = harness.wait_for_result(id).await;
        let (what, text) =
            (format!("case {number}: {trail:#?}"), trail.recipients[0].diagnostic.text.as_deref().unwrap());
        match expected {
            Err(needed) => {
                assert_eq!(recipient_states(&trail), [RecipientState::Failed], "{what}");
                assert!(text.contains(needed) && harness.server.accepted().is_empty(), "{what}");
            }
            Ok((parameters, address, note)) => {
                assert_eq!(recipient_states(&trail), [RecipientState::Relayed], "{what}");
                let taken = harness.server.accepted().remove(0);
                assert_eq!(taken.recipients, [address], "{what}");
                let mail = harness.server.commands().into_iter().find(|line| line.contains("MAIL")).unwrap();
                let words: BTreeSet<_> = mail.split(' ').skip(4).collect();
                assert_eq!(words, parameters.split_whitespace().collect(), "{what}");
                assert!(text.contains(note), "{what}");
                assert_eq!(text.contains("as it is"), !note.is_empty(), "{what}");
                assert!(message.is_ascii() <= (taken.message.is_ascii() || address == local), "{what}");
            }
        }
    }
}

/// Hands a message in as a client does.
async fn submit_message(harness: &QueueHarness, mail: &str, recipient: &str, message: &str) -> TrackingId {
    let mut stream = tokio::net::TcpStream::connect(harness.smtp_address()).await.unwrap();
    let output = format!("EHLO client\r\n{mail}\r\nRCPT TO:<{recipient}>\r\nDATA\r\n{message}.\r\nQUIT\r\n");
    stream.write_all(output.as_bytes()).await.unwrap();
    let mut received = String::new();
    stream.read_to_string(&mut received).await.unwrap();
    let id = received.lines().find_map(|line| line.strip_prefix("250 2.0.0 Queued as "));
    assert!(id.is_some(), "{received}");
    let id: TrackingId = id.unwrap().parse().unwrap();
    harness.wait_until("its trail", || harness.find_trail(id).is_some()).await;
    id
}

/// A message with an unknown result is retried with growing delays, not every 30 minutes.
#[tokio::test(start_paused = true)]
async fn unanswered_message_is_retried_with_growing_delay() {
    let script = SmtpScript::new().on(SmtpStep::Dot, vec![Some(SmtpAction::Close); 500]);
    let harness = QueueHarness::manual_time_with_config(MockSmtpServer::start(script).await, "", |config| {
        config.upstreams[0].retry.give_up_after = Duration::from_secs(6 * 3600);
    })
    .await;
    let id = harness.enqueue(1, &["a@example.net"]).await;
    harness.let_time_pass(Duration::from_secs(7 * 3600)).await;
    assert_eq!(recipient_states(&harness.load_trail(id)), [RecipientState::Expired]);
    assert!(harness.command_count("DATA") <= 12, "sent {} times", harness.command_count("DATA"));
}

/// The provider reports what became of a send, by our id or by its Message-ID.
async fn put_event(
    harness: &QueueHarness,
    tracking_id: Option<TrackingId>,
    kind: EventKind,
    recipient: Option<&str>,
) {
    let received_at = harness.time.clock().now();
    let event = ProviderEvent {
        kind,
        at: received_at,
        dedup_key: format!("{kind:?} {}", fastrand::u64(..)),
        recipient: recipient.map(str::to_owned),
        tracking_id,
        message_id: tracking_id.is_none().then(queue_harness::message_id).flatten(),
        automated: false,
        test_mode: false,
        diagnostic: Diagnostic { name: kind.as_str().to_owned(), ..Diagnostic::default() },
    };
    let notice = ReceivedEvent {
        upstream: "up".into(),
        received_at,
        source: EventSource::Webhook,
        token: None,
        event,
    };
    harness.store().put_event(notice, Bytes::new()).await.unwrap();
}

/// Property on seeded replies: the reply to one recipient changes nothing for another in the transaction. A 421, a
/// broken connection or identical replies to all affect all.
#[tokio::test]
async fn reply_to_one_recipient_affects_no_other() {
    let mut script = SmtpScript::new();
    script.capabilities.push("AUTH PLAIN");
    let login = "username = \"u\"\npassword = \"p\"";
    let harness = QueueHarness::with_config("mailgun", script, login, |config| {
        let retry = &mut config.upstreams[0].retry;
        (retry.initial_backoff, retry.max_backoff) = (Duration::from_secs(3600), Duration::from_secs(3600));
    });
    let harness = harness.await;
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        // The first is taken always, so that the message follows.
        let mut replies = vec!["250 ok"];
        replies.extend((0..random.usize(1..8)).map(|_| *random.choice(RCPT_REPLIES).unwrap()));
        let dot = random.choice(["250 taken", "451 4.3.0 later", "554 5.7.1 spam"]).unwrap();
        let changed = random.usize(1..replies.len());
        let mut seen = Vec::new();
        for run in 0..2 {
            let name = |place| &*Box::leak(format!("r{place}@run{run}.seed{seed}.example").into_boxed_str());
            let names: Vec<&'static str> = (0..replies.len()).map(name).collect();
            harness.server.with_script(|script| {
                for (name, reply) in names.iter().zip(&replies) {
                    script.replace_recipient_actions(name, [SmtpAction::Reply(reply)]);
                }
                script.add_actions(SmtpStep::Dot, [Some(SmtpAction::Reply(dot))]);
            });
            let id = harness.enqueue(seed * 2 + run, &names).await;
            harness.wait_until("an attempt", || harness.load_trail(id).attempts == 1).await;
            let recipients = harness.load_trail(id).recipients.into_iter();
            seen.push(recipients.map(|one| (one.state(), one.diagnostic)).collect::<Vec<_>>());
            replies[changed] = random.choice(RCPT_REPLIES).unwrap();
        }
        for place in (0..replies.len()).filter(|place| *place != changed) {
            assert_eq!(seen[0][place], seen[1][place], "seed {seed}, recipient {place}, {changed} changed");
        }
    }
}

/// Possible replies to RCPT. A 552 after an accepted recipient concerns the transaction and is left out.
const RCPT_REPLIES: &[&str] = &[
    "250 2.1.5 ok",
    "251 forwarded",
    "550 5.1.1 no such user",
    "550-5.1.1 no such user\r\n550 5.1.1 really",
    "550 no",
    "553 5.1.3 bad address",
    "450 4.2.1 busy",
    "450 4.7.1 greylisted",
    "452 4.2.2 mailbox full",
    "451 4.3.0 local error",
    "454 4.7.1 Relay access denied",
    "550 5.7.1 Relaying denied",
    "550 5.1.2 Domain not found",
    "550 5.7.1 recipient limit exceeded",
    "554 5.7.1 is not allowed to send",
    "530 5.7.0 authentication required",
    "535 5.7.8 wrong",
    "503 5.5.1 out of order",
    "500 what",
    "521 5.2.1 closed",
];
