//! A process of its own, because its time bounds fail while other tests use the processors.
//!
//! Connection pool of an upstream: number, age and reuse of connections, and pipelining after failures. Time is manual.

use mailtrail_trail::AttemptStatus;
use std::time::Duration;
use testkit::log_capture::LogCapture;
use testkit::mock_smtp::{MockSmtpServer, SmtpAction, SmtpScript, SmtpStep};
use testkit::queue_harness::{QueueHarness, accepted_mail, attempt_results};

const PIPELINING_MODES: [&str; 3] =
    ["pipelining = \"full\"", "pipelining = \"group\"", "pipelining = \"off\""];
const ADA_RECIPIENT: [&str; 1] = ["a@example.net"];

#[tokio::test(start_paused = true)]
async fn connection_lost_while_idle_costs_no_attempt() {
    for mode in PIPELINING_MODES {
        for end in [
            SmtpAction::Close,
            SmtpAction::Reset,
            SmtpAction::HalfClose,
            SmtpAction::Hang,
            SmtpAction::ReplyAndClose("421 4.4.2 idle too long"),
            SmtpAction::Reply("421 4.3.2 I say so and stay"),
            SmtpAction::Reply("250 nobody asked"),
            SmtpAction::ReplySlowly,
            SmtpAction::Reply("what is this"),
            SmtpAction::EndlessLine,
            SmtpAction::EndlessReply,
        ] {
            let script = SmtpScript::new().on(SmtpStep::AfterReply, [Some(end.clone())]);
            let text = format!("{mode}\nconnections = 1");
            let mut harness =
                QueueHarness::with_manual_time(MockSmtpServer::start(script).await, &text).await;
            harness.wait_for_result(harness.enqueue(1, &ADA_RECIPIENT).await).await;
            harness.let_time_pass(Duration::from_secs(20)).await;
            let trail = harness.wait_for_result(harness.enqueue(2, &ADA_RECIPIENT).await).await;
            assert_eq!(
                (attempt_results(&trail), trail.attempts),
                (vec![AttemptStatus::Relayed], 1),
                "{mode} {end:?}"
            );
            assert_eq!(
                harness.server.accepted(),
                [accepted_mail(1, 1), accepted_mail(2, 2)],
                "{mode} {end:?}"
            );
            harness.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn opens_and_closes_connections_with_load() {
    for mode in PIPELINING_MODES {
        let text = format!("{mode}\nconnections = 4\nidle_timeout = \"1h\"");
        let mut harness =
            QueueHarness::with_manual_time(MockSmtpServer::start(SmtpScript::new()).await, &text).await;
        harness.wait_for_result(harness.enqueue(1, &ADA_RECIPIENT).await).await;
        assert_eq!(harness.server.connections(), 1, "{mode}: one message");
        let ids = harness.enqueue_many(2..=200).await;
        for id in ids {
            assert_eq!(
                attempt_results(&harness.wait_for_result(id).await),
                [AttemptStatus::Relayed],
                "{mode}"
            );
        }
        assert_eq!(harness.server.connections(), 4, "{mode}: many");
        harness.wait_until("all goodbyes", || harness.command_count("QUIT") == 4).await;
        harness.wait_for_result(harness.enqueue(201, &ADA_RECIPIENT).await).await;
        assert_eq!(harness.server.connections(), 5, "{mode}: one message again");
        harness.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn closes_connection_at_max_age() {
    let age = Duration::from_secs(300);
    for mode in PIPELINING_MODES {
        let text = format!("{mode}\nconnections = 1\nidle_timeout = \"1h\"\nconnection_age = \"5min\"");
        let mut harness =
            QueueHarness::with_manual_time(MockSmtpServer::start(SmtpScript::new()).await, &text).await;
        let numbers = 0..30;
        let mut latest_births = Vec::new();
        for number in numbers.clone() {
            let handed_in = harness.time.clock().now();
            harness.wait_for_result(harness.enqueue(number, &ADA_RECIPIENT).await).await;
            if harness.server.accepted().last().unwrap().connection > latest_births.len() {
                latest_births.push(harness.time.clock().now());
            }
            let old = handed_in.duration_since(*latest_births.last().unwrap());
            assert!(old < age, "{mode}: message {number} went over a connection {old:?} old");
            harness.let_time_pass(Duration::from_secs(29)).await;
        }
        assert!((3..15).contains(&latest_births.len()), "{mode}: {} connections", latest_births.len());
        harness.assert_each_accepted_once(numbers, mode);
        harness.stop().await;
    }
}

/// Servers that close after the reply to a final dot, close without a reply, or discard all or a part of the
/// pipelined commands after it.
#[tokio::test(start_paused = true)]
async fn stops_pipelining_envelopes_after_failures() {
    for (behind, in_vain) in [
        (SmtpAction::ReplyAndClose("250 taken"), 0),
        (SmtpAction::Close, 3),
        (SmtpAction::DropPipelined, 0),
        (SmtpAction::DropHalfPipelined, 0),
    ] {
        let log = LogCapture::default();
        let _logging = log.install();
        let mut script = SmtpScript::new();
        script.pipelined_after_dot = Some(behind.clone());
        let mut harness =
            QueueHarness::with_manual_time(MockSmtpServer::start(script).await, "connections = 1").await;
        assert_delivered(&harness, 1..=50, in_vain, &format!("{behind:?}")).await;
        let lowered = log.lines("commands well");
        assert!(lowered.len() == 1 && lowered[0].contains("pipelining=Group"), "{behind:?}: {lowered:?}");
        // An hour later one more try shows that it is still so.
        harness.let_time_pass(Duration::from_secs(3600)).await;
        assert_delivered(&harness, 51..=99, in_vain.min(1), &format!("{behind:?}, an hour later")).await;
        assert_eq!(log.lines("commands well").len(), 2, "{behind:?}");
        // And again, when it has become better.
        harness.server.with_script(|script| script.pipelined_after_dot = None);
        harness.let_time_pass(Duration::from_secs(3600)).await;
        let before = harness.server.with_script(|script| std::mem::take(&mut script.pipelined_transactions));
        assert_eq!(before, 4, "{behind:?}");
        assert_delivered(&harness, 101..=150, 0, &format!("{behind:?}, and it is over")).await;
        let chained = harness.server.with_script(|script| script.pipelined_transactions);
        assert!(chained > 40, "{behind:?}: {chained}");
        assert_eq!(log.lines("commands well").len(), 2, "{behind:?}");
        harness.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn falls_back_to_single_commands_after_failures() {
    for mode in &PIPELINING_MODES[..2] {
        let once_too_often = SmtpAction::Reply("250-sender ok\r\n250 sender ok\r\n250 once too often");
        for behind in
            [SmtpAction::Close, SmtpAction::DropPipelined, SmtpAction::DropHalfPipelined, once_too_often]
        {
            let log = LogCapture::default();
            let _logging = log.install();
            let mut script = SmtpScript::new();
            script.pipelined_after_mail = Some(behind.clone());
            let text = format!("{mode}\nconnections = 1");
            let mut harness =
                QueueHarness::with_manual_time(MockSmtpServer::start(script).await, &text).await;
            assert_delivered(&harness, 1..=50, 3, &format!("{mode} {behind:?}")).await;
            let lowered = log.lines("commands well");
            assert!(
                lowered.len() == 1 && lowered[0].contains("pipelining=Off"),
                "{mode} {behind:?}: {lowered:?}"
            );
            harness.stop().await;
        }
    }
}

/// Checks that each message arrives once, or again after an unknown result, with at most `in_vain` failed attempts.
async fn assert_delivered(
    harness: &QueueHarness,
    numbers: std::ops::RangeInclusive<u64>,
    in_vain: u32,
    what: &str,
) {
    harness.server.with_script(|script| script.accepted.clear());
    let ids = harness.enqueue_many(numbers.clone()).await;
    let mut vain = 0;
    for id in ids {
        let trail = harness.wait_for_result(id).await;
        assert_eq!(attempt_results(&trail).last(), Some(&AttemptStatus::Relayed), "{what}: {trail:?}");
        vain += trail.attempts - 1;
    }
    assert!(vain <= in_vain, "{what}: {vain} attempts in vain");
    harness.assert_each_accepted_once(numbers, what);
}
