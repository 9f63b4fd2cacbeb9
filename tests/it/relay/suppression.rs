//! Suppression with a whole relay: provider events, both policies, and the commands of the real program.

use bytes::Bytes;
use mailtrail::config::Config;
use mailtrail_mail::{Lane, Timestamp, TrackingId};
use mailtrail_trail::suppression::{
    EvidenceSource, Reason, SuppressionChange, SuppressionChangeKind, SuppressionMode, evidence_from_event,
};
use mailtrail_trail::{
    AcceptedMessage, Diagnostic, EventKind, EventSource, Message, ProviderEvent, ReceivedEvent,
    RecipientState, TrailSource as FactSource, provider,
};
use serde_json::Value;
use std::time::Instant;
use testkit::eventually;
use testkit::mock_smtp;
use testkit::mock_smtp::{MockSmtpServer, SmtpAction, SmtpScript};
use testkit::queue_harness::{QueueHarness, recipient_states};
use testkit::relay_process::RelayProcess;
use testkit::smtp_client::SmtpClient;

#[tokio::test]
async fn suppressed_recipient_is_skipped_and_others_are_delivered() {
    let harness = QueueHarness::with_provider("plain", SmtpScript::new(), "").await;
    // The message is not ours, but the domain's list contains the address.
    put_sample_event(&harness, 1, "Gone@example.net", EventKind::Bounced, "no such user").await;
    let id = harness.enqueue(1, &["gone@example.net"]).await;
    let trail = harness.wait_for_result(id).await;
    assert_eq!(recipient_states(&trail), [RecipientState::Suppressed]);
    assert_eq!(
        (harness.server.connections(), harness.server.commands().len()),
        (0, 0),
        "nobody was bothered"
    );
    let fact = trail.events.last().unwrap();
    assert_eq!((fact.kind.as_str(), fact.source), ("suppressed", FactSource::Relay));
    let reason = trail.recipients[0].effective_diagnostic().to_line().unwrap();
    for part in [
        "5.7.1 not sent, on the suppression list: hard-bounce, since ",
        "by webhook of up: 5.1.1 no such user",
        "`mailtrail suppress remove gone@example.net` lets mail go again",
    ] {
        assert!(reason.contains(part), "{reason}");
    }
    let id = harness.enqueue(2, &["a@example.net", "GONE@example.net", "b@example.net"]).await;
    let trail = harness.wait_for_result(id).await;
    assert_eq!(
        recipient_states(&trail),
        [RecipientState::Relayed, RecipientState::Suppressed, RecipientState::Relayed]
    );
    assert_eq!(harness.server.accepted()[0].recipients, ["a@example.net", "b@example.net"]);
    assert!(harness.server.commands().iter().all(|line| !line.to_lowercase().contains("gone@")));
}

#[tokio::test]
async fn unsubscribed_address_gets_transactional_mail_until_provider_blocks() {
    let harness = QueueHarness::with_provider("plain", SmtpScript::new(), "").await;
    put_sample_event(&harness, 1, "ada@example.net", EventKind::Unsubscribed, "unsubscribed").await;
    assert_eq!(
        send_and_wait_state(&harness, 1, "ada@example.net", Lane::Bulk).await,
        RecipientState::Suppressed
    );
    assert_eq!(
        send_and_wait_state(&harness, 2, "ada@example.net", Lane::Transactional).await,
        RecipientState::Relayed
    );
    let mut kept_back = sample_event(&harness, 2, "ada@example.net", EventKind::Suppressed, "Not delivering");
    kept_back.diagnostic.code = Some(606);
    put_event(&harness, kept_back).await;
    assert_eq!(
        send_and_wait_state(&harness, 3, "ada@example.net", Lane::Transactional).await,
        RecipientState::Suppressed
    );
    assert_eq!(harness.server.accepted().len(), 1);
}

#[tokio::test]
async fn repeated_soft_bounces_suspend_mail() {
    let harness = QueueHarness::with_provider("plain", SmtpScript::new(), "").await;
    for number in 0..4 {
        let mut full = sample_event(&harness, number, "full@example.net", EventKind::Bounced, "mailbox full");
        full.diagnostic.enhanced_status = Some("5.2.2".into());
        put_event(&harness, full.clone()).await;
        put_event(&harness, full).await;
    }
    assert_eq!(
        send_and_wait_state(&harness, 1, "full@example.net", Lane::Bulk).await,
        RecipientState::Relayed,
        "four, each told twice"
    );
    put_sample_event(&harness, 9, "full@example.net", EventKind::Deferred, "greylisted").await;
    assert_eq!(
        send_and_wait_state(&harness, 2, "full@example.net", Lane::Bulk).await,
        RecipientState::Relayed,
        "a deferral is none"
    );
    let mut full = sample_event(&harness, 5, "full@example.net", EventKind::Bounced, "mailbox full");
    full.diagnostic.enhanced_status = Some("5.2.2".into());
    put_event(&harness, full).await;
    assert_eq!(
        send_and_wait_state(&harness, 3, "full@example.net", Lane::Transactional).await,
        RecipientState::Suppressed
    );
}

#[tokio::test]
async fn removal_holds_after_late_events_restart_and_rebuild() {
    let mut harness = QueueHarness::with_provider("plain", SmtpScript::new(), "").await;
    for (number, address) in [(1, "gone@example.net"), (2, "back@example.net")] {
        put_sample_event(&harness, number, address, EventKind::Bounced, "no such user").await;
    }
    let late = sample_event(&harness, 3, "back@example.net", EventKind::Complained, "spam");
    let removal = SuppressionChange {
        address: "Back@example.net".parse().unwrap(),
        list: None,
        at: harness.time.clock().now(),
        operator: "uid 0".into(),
        kind: SuppressionChangeKind::Remove { reason: None, comment: String::new() },
    };
    harness.store().change_suppression(removal).await.unwrap();
    put_event(&harness, late).await;
    for (number, rebuild) in [(1, false), (3, false), (5, true)] {
        if number > 1 {
            harness.stop().await;
            if rebuild {
                std::fs::remove_dir_all(harness.config.data_dir.join("ledger")).unwrap();
            }
            harness.start().await;
        }
        assert_eq!(
            send_and_wait_state(&harness, number, "back@example.net", Lane::Bulk).await,
            RecipientState::Relayed
        );
        assert_eq!(
            send_and_wait_state(&harness, number + 1, "gone@example.net", Lane::Bulk).await,
            RecipientState::Suppressed
        );
        assert_eq!(harness.store().count_suppressed().unwrap(), 1);
    }
    // And what happens afterwards counts.
    put_sample_event(&harness, 0, "back@example.net", EventKind::Complained, "spam").await;
    assert_eq!(
        send_and_wait_state(&harness, 9, "back@example.net", Lane::Transactional).await,
        RecipientState::Suppressed
    );
}

#[tokio::test]
async fn suppresses_address_after_permanent_address_rejection() {
    let script = SmtpScript::new()
        .on_recipient("gone@example.net", [SmtpAction::Reply("550 5.1.1 no such user")])
        .on_recipient("spam@example.net", [SmtpAction::Reply("550 5.7.1 we do not like you")]);
    let harness = QueueHarness::with_provider("plain", script, "").await;
    for number in [1, 2] {
        assert_eq!(
            send_and_wait_state(&harness, number, "spam@example.net", Lane::Bulk).await,
            RecipientState::Bounced
        );
    }
    assert_eq!(
        send_and_wait_state(&harness, 3, "gone@example.net", Lane::Bulk).await,
        RecipientState::Bounced
    );
    harness.wait_until("the entry", || harness.store().count_suppressed().unwrap() == 1).await;
    let received = harness.command_count("RCPT");
    assert_eq!(
        send_and_wait_state(&harness, 4, "gone@example.net", Lane::Transactional).await,
        RecipientState::Suppressed
    );
    assert_eq!(harness.command_count("RCPT"), received);
    let filed = harness.store().evidence_for_address("gone@example.net").unwrap().remove(0);
    let live = filed.evidence.active_for(Reason::HardBounce).unwrap();
    assert_eq!((live.source.as_str(), &*live.diagnostic), ("attempt", "550 5.1.1 no such user"));
}

#[tokio::test]
async fn upstreams_of_same_domain_share_suppressions() {
    let domain = "domain = \"mg.example.com\"\nusername = \"a\"\npassword = \"b\"\n";
    let twin = |config: &mut Config| {
        for (name, domain) in [("twin", "MG.example.com"), ("other", "other.example.com")] {
            let mut upstream = config.upstreams[0].clone();
            (upstream.transport.name, upstream.transport.domain) = (name.into(), Some(domain.into()));
            config.upstreams.push(upstream);
        }
    };
    let mut script = SmtpScript::new();
    script.capabilities.push("AUTH PLAIN");
    let harness = QueueHarness::with_config("mailgun", script, domain, twin).await;
    for (number, (upstream, expected)) in
        [("other", RecipientState::Relayed), ("twin", RecipientState::Suppressed)].into_iter().enumerate()
    {
        let address = format!("{upstream}@example.net");
        let notice = ReceivedEvent {
            upstream: upstream.into(),
            ..received_event(sample_event(&harness, 1, &address, EventKind::Bounced, "no"))
        };
        harness.store().put_event(notice, Bytes::from("raw")).await.unwrap();
        assert_eq!(
            send_and_wait_state(&harness, number as u64, &address, Lane::Bulk).await,
            expected,
            "{upstream}"
        );
    }
}

#[tokio::test]
async fn sender_related_rejection_suppresses_no_recipient() {
    let harness = QueueHarness::with_provider("plain", SmtpScript::new(), "").await;
    for (number, (status, text)) in [
        (Some("5.1.7"), "bad sender mailbox syntax"),
        (Some("5.1.8"), "sender domain does not resolve"),
        (Some("5.0.0"), "undefined"),
        (Some("5.1.0"), "other address status"),
        (Some("5.1.9"), "non-compliant peer"),
        (Some("5.2.0"), "mailbox status"),
        (Some("5.2.2"), "mailbox full"),
        (Some("5.4.4"), "no route"),
        (Some("5.7.1"), "policy"),
        (Some("5.7.26"), "DMARC"),
        (Some("5.1.11"), "unknown"),
        (Some("5.2.10"), "unknown"),
        (Some("4.1.1"), "later"),
        (None, "550 looks like spam"),
        (None, "rejected by DMARC policy"),
        (None, ""),
    ]
    .into_iter()
    .enumerate()
    {
        let mut event = sample_event(&harness, number as u64, "ada@example.net", EventKind::Bounced, text);
        (event.diagnostic.code, event.diagnostic.enhanced_status) = (Some(550), status.map(str::to_owned));
        put_event(&harness, event).await;
        assert_eq!(harness.store().count_suppressed().unwrap(), 0, "{status:?} {text}");
    }
    for (number, status) in ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"].into_iter().enumerate() {
        let address = format!("a{number}@example.net");
        let mut event = sample_event(&harness, 0, &address, EventKind::Bounced, "no");
        event.diagnostic.enhanced_status = Some(status.into());
        put_event(&harness, event).await;
        assert_eq!(harness.store().count_suppressed().unwrap(), number as u64 + 1, "{status}");
    }
}

/// As the providers write it, in webhooks of each shape.
#[test]
fn hard_bounce_needs_provider_reason_or_address_status() {
    let reported = Timestamp::from_secs(1_789_387_200);
    let reason =
        |event: &ProviderEvent| evidence_from_event(event, EvidenceSource::Webhook).map(|(reason, _)| reason);
    let mailgun = |why: &str, code: u16, status: &str, text: &str| {
        let data = serde_json::json!({
            "event": "failed", "severity": "permanent", "reason": why, "recipient": "ada@example.net",
            "delivery-status": {"code": code, "enhanced-code": status, "message": text}
        });
        reason(&provider::mailgun::decode_event(&(&data).into(), reported))
    };
    let (hard, soft) = (Some(Reason::HardBounce), Some(Reason::SoftBounce));
    for (why, code, status, text, expected) in [
        ("bounce", 550, "5.1.1", "no such user", hard),
        ("bounce", 550, "", "5.1.1 no such user", hard),
        ("bounce", 550, "", "550 5.1.1 no such user", hard),
        ("bounce", 550, "", "no such user", soft),
        ("bounce", 550, "", "this looks like spam, see RFC 3463 5.1.1", soft),
        ("bounce", 550, "5.1.8", "sender domain", soft),
        ("bounce", 554, "5.0.0", "5.1.1 in the text", soft),
        ("hardfail", 498, "", "No MX", soft),
        ("generic", 550, "5.7.26", "DMARC", soft),
        ("suppress-bounce", 605, "", "", hard),
        ("suppress-unsubscribe", 606, "", "", Some(Reason::Unsubscribe)),
        ("suppress-complaint", 607, "", "", Some(Reason::Complaint)),
    ] {
        assert_eq!(mailgun(why, code, status, text), expected, "{why} {code} {status} {text}");
    }
    let brevo = |word: &str, text: &str| {
        let data = serde_json::json!({"event": word, "email": "ada@example.net", "reason": text});
        reason(&provider::brevo::decode_event(&data, reported).unwrap())
    };
    for (word, text, expected) in [
        ("hard_bounce", "550 5.1.1 no such user", hard),
        ("hard_bounce", "", hard),
        ("hard_bounce", "550 5.7.1 looks like spam", soft),
        ("hard_bounce", "550 looks like spam", soft),
        ("hard_bounce", "550 5.1.8 sender domain does not resolve", soft),
        ("soft_bounce", "550 5.1.1 no such user", None),
        ("blocked", "blocked : due to blacklist user", hard),
        ("blocked", "", hard),
        ("blocked", "blocked : due to unsubscribed user", Some(Reason::Unsubscribe)),
        ("blocked", "550 5.7.1 message looks like spam", soft),
        ("error", "Invalid sender", None),
    ] {
        assert_eq!(brevo(word, text), expected, "{word} {text}");
    }
}

/// Each row is one address: how it is listed, and how mail is sent there.
#[tokio::test]
async fn equivalent_spellings_are_one_suppressed_address() {
    let harness = QueueHarness::with_provider("plain", SmtpScript::new(), "").await;
    for (number, (listed, sent_to)) in EQUIVALENT_ADDRESSES.into_iter().enumerate() {
        let (mut one, mut other) = (listed, sent_to);
        for back in [false, true] {
            if back {
                std::mem::swap(&mut one, &mut other);
            }
            let local = format!("{}{number}{back}", if back { "b" } else { "a" });
            let [one, other] = [one, other].map(|spelling| spelling.replace("LOCAL", &local));
            let mut event = sample_event(&harness, 1, &one, EventKind::Bounced, "no such user");
            event.diagnostic.enhanced_status = Some("5.1.1".into());
            put_event(&harness, event).await;
            let found = harness.store().evidence_for_address(&other).unwrap();
            assert_eq!(found.len(), 1, "{one} {other}");
            let to: Result<mailtrail_mail::Mailbox, _> = other.parse();
            let folded = to.unwrap().to_folded();
            assert!(
                harness.store().suppression_evidence(&folded, "up").unwrap().unwrap().is_listed(),
                "{one} {other}"
            );
        }
    }
    let mut event = sample_event(&harness, 1, "Ada@B\u{fc}cher.example", EventKind::Bounced, "no such user");
    event.diagnostic.enhanced_status = Some("5.1.1".into());
    put_event(&harness, event).await;
    assert_eq!(
        send_and_wait_state(&harness, 1, "ada@xn--bcher-kva.example", Lane::Bulk).await,
        RecipientState::Suppressed
    );
}

/// Two spellings of one address.
const EQUIVALENT_ADDRESSES: [(&str, &str); 7] = [
    ("LOCAL@b\u{fc}cher.example", "LOCAL@xn--bcher-kva.example"),
    ("LOCAL@bu\u{308}cher.example", "LOCAL@XN--BCHER-KVA.Example"),
    ("LOCAL@example.net", "LOCAL@example.net."),
    ("LOCAL@b\u{fc}cher\u{3002}example", "LOCAL@b\u{dc}CHER.example."),
    ("LOCAL@example.net", "\"LOCAL\"@EXAMPLE.net"),
    ("u\u{308}LOCAL@example.net", "\u{dc}LOCAL@example.net"),
    ("\"LOCAL y\"@example.net", "\"\\LOCAL\\ y\"@example.net"),
];

#[tokio::test]
async fn policy_off_stores_evidence_and_suppresses_nothing() {
    let off = |config: &mut Config| config.suppression.mode = SuppressionMode::Off;
    let harness = QueueHarness::with_config("plain", SmtpScript::new(), "", off).await;
    put_sample_event(&harness, 1, "gone@example.net", EventKind::Bounced, "no such user").await;
    assert_eq!(
        send_and_wait_state(&harness, 1, "gone@example.net", Lane::Bulk).await,
        RecipientState::Relayed
    );
    assert_eq!(harness.store().count_suppressed().unwrap(), 1);
}

/// The state that a mail to one recipient ends in.
async fn send_and_wait_state(harness: &QueueHarness, number: u64, to: &str, lane: Lane) -> RecipientState {
    let id = TrackingId::new(harness.time.clock().now(), u128::from(number));
    let message = Message { lane, ..Message::new(id, "test") };
    let accepted = AcceptedMessage { message, recipients: vec![to.parse().unwrap()] };
    harness.store().put_message_applied(accepted, Bytes::from("Subject: x\r\n\r\nx\r\n")).await.unwrap();
    recipient_states(&harness.wait_for_result(id).await)[0]
}

/// Returns an event from `minutes` ago.
fn sample_event(
    harness: &QueueHarness,
    minutes: u64,
    recipient: &str,
    kind: EventKind,
    text: &str,
) -> ProviderEvent {
    let now = harness.time.clock().now();
    ProviderEvent {
        kind,
        at: Timestamp::from_millis(now.as_millis() - minutes * 60_000),
        dedup_key: format!("{minutes}/{recipient}/{kind:?}/{text}"),
        recipient: Some(recipient.into()),
        tracking_id: None,
        message_id: None,
        automated: false,
        test_mode: false,
        diagnostic: Diagnostic {
            name: kind.as_str().into(),
            enhanced_status: (kind == EventKind::Bounced).then(|| "5.1.1".into()),
            text: Some(text.into()),
            ..Diagnostic::default()
        },
    }
}

fn received_event(event: ProviderEvent) -> ReceivedEvent {
    ReceivedEvent {
        upstream: "up".into(),
        received_at: event.at,
        source: EventSource::Webhook,
        token: None,
        event,
    }
}

async fn put_event(harness: &QueueHarness, event: ProviderEvent) {
    harness.store().put_event(received_event(event), Bytes::from("raw")).await.unwrap();
}

async fn put_sample_event(
    harness: &QueueHarness,
    minutes: u64,
    recipient: &str,
    kind: EventKind,
    text: &str,
) {
    put_event(harness, sample_event(harness, minutes, recipient, kind, text)).await;
}

#[tokio::test]
async fn sends_dsn_for_suppressed_recipient() {
    let sandbox = SuppressionHarness::new("report").await;
    let output = sandbox
        .process
        .run_command(&["suppress", "add", "Gone@example.net", "--note", "asked us to stop"])
        .await;
    assert_eq!((output.code, &*output.stdout, &*output.stderr), (0, "Gone@example.net\n", ""));
    let id = sandbox.submit_message(&["gone@example.net", "here@example.net"]).await.unwrap();
    let taken = || sandbox.server.accepted();
    let report = |taken: Vec<mock_smtp::AcceptedMail>| {
        taken.into_iter().find(|one| one.recipients == ["app@example.com"])
    };
    let report = eventually("the report", || report(taken())).await;
    let text = String::from_utf8(report.message).unwrap();
    assert!(text.contains("Status: 5.7.1\r\n") && text.contains("Action: failed\r\n"), "{text}");
    assert!(text.contains("manual, since ") && text.contains("asked us to stop"), "{text}");
    eventually("the other one's", || {
        taken().iter().any(|one| one.recipients == ["here@example.net"]).then_some(())
    })
    .await;
    let trace = sandbox.process.run_command(&["trace", &id]).await.stdout;
    assert!(trace.contains("suppressed  5.7.1 not sent, on the suppression list: manual, since "), "{trace}");
    assert!(trace.contains("by operator: asked us to stop"), "{trace}");
    let log = sandbox.process.run_command(&["log", "--status", "listed"]).await.stdout;
    assert!(log.contains("by uid ") && log.contains("Gone@example.net manual: asked us to stop"), "{log}");
    // Once it is removed mail goes again.
    assert_eq!(sandbox.process.run_command(&["suppress", "remove", "GONE@example.net"]).await.code, 0);
    sandbox.submit_message(&["gone@example.net"]).await.unwrap();
    eventually("its mail", || taken().iter().any(|one| one.recipients == ["gone@example.net"]).then_some(()))
        .await;
}

#[tokio::test]
async fn reject_policy_rejects_suppressed_recipient_at_rcpt() {
    let sandbox = SuppressionHarness::new("reject").await;
    for arguments in [
        &["gone@example.net", "--reason", "hard-bounce"][..],
        &["news@example.net", "--reason", "unsubscribe"],
    ] {
        assert_eq!(sandbox.process.run_command(&[&["suppress", "add"], arguments].concat()).await.code, 0);
    }
    let mut client = SmtpClient::connect(sandbox.process.address(1)).await.unwrap();
    for (line, expected) in [
        ("MAIL FROM:<app@example.com>", "250 2.1.0 "),
        (
            "RCPT TO:<Gone@example.net> NOTIFY=NEVER",
            "550 5.7.1 The recipient is suppressed: earlier mail to it was refused",
        ),
        ("DATA", "503 5.5.1 "),
        ("RCPT TO:<news@example.net>", "250 2.1.5 "),
        ("RCPT TO:<gone@example.net>", "550 5.7.1 "),
        ("RCPT TO:<here@example.net>", "250 2.1.5 "),
        ("DATA", "354 "),
        ("Subject: x\r\n\r\nx\r\n.", "250 2.0.0 Queued as "),
    ] {
        let answer = client.command(line).await.unwrap().1;
        assert!(answer.starts_with(expected), "{line}: {answer}");
    }
    let taken = eventually("the mail", || sandbox.server.accepted().first().cloned()).await;
    assert_eq!(taken.recipients, ["news@example.net", "here@example.net"]);
    // A newsletter with hundreds of them is no attack.
    client.command("MAIL FROM:<app@example.com>").await.unwrap();
    for _ in 0..120 {
        assert_eq!(client.command("RCPT TO:<gone@example.net>").await.unwrap().0, 550);
    }
    assert_eq!(client.command("RCPT TO:<here@example.net>").await.unwrap().0, 250);
}

#[tokio::test]
async fn cli_lists_adds_and_removes_suppressions() {
    let mut sandbox = SuppressionHarness::new("report").await;
    let ok = async |arguments: &[&str]| {
        let output = sandbox.process.run_command(&[&["suppress"], arguments].concat()).await;
        assert_eq!(output.code, 0, "{arguments:?}: {}", output.stderr);
        output
    };
    ok(&["add", "a@example.net", "b@example.org", "--reason", "hard-bounce", "--upstream", "up"]).await;
    ok(&["add", "c@example.net", "--reason", "unsubscribe"]).await;
    ok(&["add", "d@example.net", "--until", "2999-01-01", "--scope", "bulk"]).await;
    let listed = async |which: &[&str]| -> Vec<String> {
        let output = sandbox.process.run_command(&[&["--json", "suppress", "list"], which].concat()).await;
        let named = output.json_lines();
        assert_eq!(output.code, i32::from(named.is_empty()), "{which:?}");
        named.iter().map(|entry| entry["address"].as_str().unwrap()[..1].to_owned()).collect()
    };
    for (which, expected) in [
        (&[][..], &["a", "b", "c", "d"][..]),
        (&["--reason", "hard-bounce"], &["a", "b"]),
        (&["--domain", "Example.org"], &["b"]),
        (&["--upstream", "up"], &["a", "b"]),
        (&["--source", "operator"], &["a", "b", "c", "d"]),
        (&["--source", "webhook"], &[]),
        (&["--since", "1 h ago"], &["a", "b", "c", "d"]),
        (&["--since", "now", "--reason", "manual"], &[]),
        (&["-n", "2"], &["a", "b"]),
    ] {
        assert_eq!(listed(which).await, expected, "{which:?}");
    }
    let entry = sandbox
        .process
        .run_command(&["--json", "suppress", "check", "D@example.net"])
        .await
        .json_lines()
        .remove(0);
    for (key, expected) in [
        ("upstream", Value::Null),
        ("reason", "manual".into()),
        ("state", "suppressed".into()),
        ("scope", "bulk".into()),
        ("source", "operator".into()),
    ] {
        assert_eq!(entry[key], expected, "{key}");
    }
    assert_eq!(entry["until"], entry["expires"]);
    for (arguments, code, words) in [
        (
            &["add", "a@example.net", "--reason", "hard-bounce", "--upstream", "up"][..],
            1,
            "is on the list already",
        ),
        (&["add", "nonsense"], 1, "is no mail address"),
        (&["add", "x@example.net", "--upstream", "mailgnu"], 1, "there is no upstream \"mailgnu\""),
        (&["add", "x@example.net", "--until", "2020-01-01"], 2, "lies in the past"),
        (&["add", "x@example.net", "--reason", "dislike"], 2, "hard-bounce"),
        (&["add", "-"], 1, "no addresses on standard input"),
        (&["remove", "x@example.net"], 1, "is not on the list"),
        (&["remove", "c@example.net", "--reason", "complaint"], 1, "is not on the list"),
        (&["remove", "ALL"], 2, "--reason"),
        (&["remove", "ALL", "x@example.net", "--reason", "manual"], 2, "ALL excludes other addresses"),
        (&["check", "x@example.net"], 1, "x@example.net is not suppressed"),
    ] {
        let output = sandbox.process.run_command(&[&["suppress"], arguments].concat()).await;
        assert_eq!(output.code, code, "{arguments:?}: {}", output.stderr);
        assert!(output.stderr.contains(words), "{arguments:?}: {}", output.stderr);
    }
    let would = ok(&["remove", "ALL", "--reason", "hard-bounce", "--dry-run"]).await;
    assert_eq!(would.stdout, "a@example.net\nb@example.org\n");
    assert_eq!(listed(&["--reason", "hard-bounce"]).await, ["a", "b"], "nothing was done");
    ok(&["remove", "ALL", "--reason", "hard-bounce"]).await;
    let output = sandbox
        .process
        .run_command_with_input(&["suppress", "remove", "-"], "c@example.net\n\n d@example.net\n")
        .await;
    assert_eq!((output.code, &*output.stdout), (0, "c@example.net\nd@example.net\n"));
    assert_eq!(listed(&[]).await, [""; 0]);
    ok(&["add", "kept@example.net", "--reason", "complaint", "--note", "called it spam"]).await;
    // Looking needs no daemon, changing does.
    assert!(sandbox.process.terminate().await.success());
    let output = sandbox.process.run_command(&["suppress", "check", "kept@example.net"]).await;
    assert_eq!(output.code, 0, "{}", output.stderr);
    let row: Vec<_> = output.stdout.trim_end().split('\t').collect();
    assert_eq!(row[..6], ["kept@example.net", "all", "complaint", "suppressed", "all", ""]);
    assert_eq!(row[7..], ["1", "operator", "called it spam"]);
    let output = sandbox.process.run_command(&["suppress", "add", "x@example.net"]).await;
    assert_eq!(output.code, 3, "{}", output.stderr);
    assert!(output.stderr.contains("no daemon runs"));
}

#[tokio::test]
async fn exported_list_can_be_imported_elsewhere() {
    let (here, there) = (SuppressionHarness::new("report").await, SuppressionHarness::new("report").await);
    let sheet = "reason,address,upstream,times,scope,words,expires,source\n\
        hard-bounce,Gone@example.net,up,2026-09-14T12:00:00.001Z,,\"550 \"\"no\"\", never\",,webhook\n\
        soft-bounce,full@example.net,,2026-09-01T00:00:00Z 2026-09-03T00:00:00+02:00,,full,,poll\n\
        unsubscribe,\"\"\"a, b\"\"@example.net\",,2026-09-14T12:00:00Z,all,,,\n\
        ,jiří@example.net,,2026-09-14T12:00:00Z,bulk,,2999-01-01T00:00:00Z,\n";
    let output = here.process.run_command_with_input(&["suppress", "import", "-", "--dry-run"], sheet).await;
    assert_eq!(
        (output.code, &*output.stdout),
        (0, "4 would be imported, 0 unchanged\n"),
        "{}",
        output.stderr
    );
    assert_eq!(here.process.run_command(&["suppress", "list"]).await.code, 1, "nothing was done");
    let output = here.process.run_command_with_input(&["suppress", "import", "-"], sheet).await;
    assert_eq!((output.code, &*output.stdout), (0, "4 imported, 0 unchanged\n"), "{}", output.stderr);
    let exported = here.process.run_command(&["suppress", "export"]).await.stdout;
    let expected = "address,upstream,reason,scope,times,source,expires,words\n\
        \"\"\"a, b\"\"@example.net\",,unsubscribe,all,2026-09-14T12:00:00.000Z,import,,\n\
        full@example.net,,soft-bounce,all,2026-09-01T00:00:00.000Z 2026-09-02T22:00:00.000Z,poll,,full\n\
        gone@example.net,up,hard-bounce,all,2026-09-14T12:00:00.001Z,webhook,,\"550 \"\"no\"\", never\"\n\
        jiří@example.net,,manual,bulk,2026-09-14T12:00:00.000Z,import,2999-01-01T00:00:00.000Z,\n";
    assert_eq!(exported, expected);
    let file = there.process.directory().join("list.csv");
    std::fs::write(&file, &exported).unwrap();
    let file = file.to_str().unwrap();
    for (round, (done, same)) in [(4, 0), (0, 4)].into_iter().enumerate() {
        let output = there.process.run_command(&["--json", "suppress", "import", file]).await;
        assert_eq!(output.code, 0, "{}", output.stderr);
        let counts = serde_json::json!({"lines": 4, "imported": done, "same": same});
        assert_eq!(output.json_lines(), [counts], "round {round}");
        let copy = there.process.directory().join("copy.csv");
        assert_eq!(there.process.run_command(&["suppress", "export", copy.to_str().unwrap()]).await.code, 0);
        assert_eq!(std::fs::read_to_string(copy).unwrap(), exported, "round {round}");
    }
    // An old file does not restore a removed entry.
    assert_eq!(there.process.run_command(&["suppress", "remove", "gone@example.net"]).await.code, 0);
    let output = there.process.run_command(&["suppress", "import", file]).await;
    assert_eq!((output.code, &*output.stdout), (0, "0 imported, 4 unchanged\n"));
    assert_eq!(there.process.run_command(&["suppress", "check", "gone@example.net"]).await.code, 1);
}

#[tokio::test]
async fn import_with_bad_line_changes_nothing() {
    let sandbox = SuppressionHarness::new("report").await;
    for (sheet, output) in [
        ("mail\na@example.net\n", &["line 1: no column is called \"mail\""][..]),
        (
            "address,reason,times,upstream\n\
             good@example.net,,,\n\
             bad,,,\n\
             x@example.net,dislike,,\n\
             x@example.net,,yesterday,\n\
             x@example.net,,,mailgnu\n\
             x@example.net,,2999-01-01T00:00:00Z,\n",
            &[
                "nothing is imported, these lines are bad:",
                "line 3: bad is no mail address",
                "line 4: x@example.net \"dislike\" is no reason: complaint, hard-bounce",
                "line 5: x@example.net \"yesterday\" is no time",
                "line 6: x@example.net there is no upstream \"mailgnu\"",
                "line 7: x@example.net happened in the future",
            ],
        ),
        (
            "address,words\ngood@example.net,x\nshort@example.net\n",
            &["line 3: has 1 fields, the header has 2"],
        ),
    ] {
        let answer = sandbox.process.run_command_with_input(&["suppress", "import", "-"], sheet).await;
        assert_eq!(answer.code, 2, "{sheet}");
        output.iter().for_each(|words| assert!(answer.stderr.contains(words), "{words}: {}", answer.stderr));
        assert_eq!(sandbox.process.run_command(&["suppress", "list"]).await.code, 1, "nothing was imported");
    }
}

/// Many share a sync: one commit after the other would take minutes.
#[tokio::test]
async fn imports_and_lists_large_list() {
    let sandbox = SuppressionHarness::new("report").await;
    let lines = (0..LARGE_LIST_SIZE).map(|number| format!("{number:06}@example.net,hard-bounce\n"));
    let sheet = std::iter::once("address,reason\n".to_owned()).chain(lines).collect::<String>();
    let started = Instant::now();
    let output = sandbox.process.run_command_with_input(&["suppress", "import", "-"], &sheet).await;
    println!("{LARGE_LIST_SIZE} imported after {:?}", started.elapsed());
    assert_eq!((output.code, output.stdout), (0, format!("{LARGE_LIST_SIZE} imported, 0 unchanged\n")));
    let listed =
        sandbox.process.run_command(&["--json", "suppress", "list", "-n", "1000000"]).await.json_lines();
    let addresses = listed.iter().map(|entry| entry["address"].as_str().unwrap().to_owned());
    assert!(addresses.eq((0..LARGE_LIST_SIZE).map(|number| format!("{number:06}@example.net"))));
    println!("and listed after {:?}", started.elapsed());
}

const LARGE_LIST_SIZE: usize = 20_000;

/// The real program in front of a scripted upstream.
struct SuppressionHarness {
    process: RelayProcess,
    server: MockSmtpServer,
}

impl SuppressionHarness {
    async fn new(policy: &str) -> Self {
        let server = MockSmtpServer::start(SmtpScript::new()).await;
        let port = server.address.port();
        let mut process =
            RelayProcess::with_configuration(|data, ports| render_config(data, ports[1], port, policy));
        process.start().await;
        Self { process, server }
    }

    async fn submit_message(&self, to: &[&str]) -> std::io::Result<String> {
        let mut client = SmtpClient::connect(self.process.address(1)).await?;
        client.submit("app@example.com", to, "From: app@example.com\r\nSubject: x\r\n\r\nx\r\n").await
    }
}

fn render_config(data_dir: &str, listener: u16, port: u16, policy: &str) -> String {
    format!(
        r#"
[server]
hostname = "relay.example.com"
data_dir = "{data_dir}"
[[listener]]
address = "127.0.0.1:{listener}"
tls = "none"
auth = "none"
[[upstream]]
name = "up"
provider = "plain"
host = "127.0.0.1"
port = {port}
tls = "none"
[suppression]
policy = "{policy}"
"#
    )
}
