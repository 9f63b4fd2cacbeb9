//! Operator actions on queued mail and breakers, with the real program: actions, output, exit codes, and their state
//! after a restart.

use mailtrail_mail::Clock;
use mailtrail_store::Store;
use mailtrail_trail::{OperatorActionKind, TrailEventKind};
use serde_json::Value;
use std::process::Command;
use testkit::eventually;
use testkit::mock_smtp::{MockSmtpServer, SmtpAction, SmtpScript, SmtpStep};
use testkit::relay_process::RelayProcess;
use testkit::smtp_client::SmtpClient;
use tokio::net::TcpSocket;

#[tokio::test]
async fn actions_report_in_text_and_json_and_survive_restart() {
    let mut harness = QueueHarness::new().await;
    let ids = harness.submit_and_wait_tried(&["1@a.example", "2@a.example"]).await;
    let [text, json] = &ids[..] else { unreachable!("two were sent") };
    let steps: &[(&str, &[&str], &str)] = &[
        ("hold", &["--reason", "wrong prices"], "held"),
        ("release", &[], "queued"),
        ("retry", &[], "queued"),
        ("bounce", &["--reason", "no such order"], "failed"),
    ];
    let mut tries = 1;
    for (verb, more, state) in steps {
        let printed = harness.process.run_command(&[&["queue", verb, text], *more].concat()).await;
        assert_eq!((printed.code, printed.stdout.trim(), &*printed.stderr), (0, &**text, ""), "{verb}");
        let printed = harness.process.run_command(&[&["--json", "queue", verb, json], *more].concat()).await;
        assert_eq!(printed.code, 0, "{verb}: {}", printed.stderr);
        assert_eq!(
            printed.json_lines(),
            [serde_json::json!({"id": json, "done": true, "why": null})],
            "{verb}"
        );
        if matches!(*verb, "release" | "retry") {
            tries += 1;
            harness.wait_attempted(text, tries).await;
            harness.wait_attempted(json, tries).await;
        }
        harness.restart().await;
        for id in &ids {
            assert_eq!(harness.recipient_state(id).await, *state, "{verb}");
        }
    }
    let printed = harness.process.run_command(&["queue", "delete", text, "--reason", "late"]).await;
    assert_eq!((printed.code, printed.stdout.as_str()), (1, ""), "what has ended cannot be deleted");
    assert_eq!(printed.stderr.trim(), format!("mailtrail: {text} is not in the queue"));
    // The log has every action with its operator and its reason.
    let log =
        harness.process.run_command(&["--json", "log", "-g", "\"source\":\"operator\""]).await.json_lines();
    let log = log.iter().filter(|line| line["id"] == **text);
    let events: Vec<_> = log.clone().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["held", "released", "retried", "failed"]);
    assert!(log.clone().all(|line| line["name"].as_str().unwrap().starts_with("uid ")));
    let reasons: Vec<_> = log.map(|line| line["text"].as_str()).collect();
    assert_eq!(reasons, [Some("wrong prices"), None, None, Some("no such order")]);
    let printed = harness.process.run_command(&["log", "--status", "retried"]).await;
    let line = printed.stdout.lines().find(|line| line.contains(&**text)).unwrap();
    assert!(line.contains("retried") && line.contains("by uid "), "{line}");
}

#[tokio::test]
async fn selects_messages_by_id_domain_upstream_or_all() {
    let harness = QueueHarness::new().await;
    let ids =
        harness.submit_and_wait_tried(&["1@a.example", "2@c.example", "3@B.example", "4@c.example"]).await;
    let [first, second, third, fourth] = &ids[..] else { unreachable!("four were sent") };
    let hold = async |which: &[&str], stdin: &str| {
        let printed = harness
            .process
            .run_command_with_input(&[&["queue", "hold", "--dry-run"], which].concat(), stdin)
            .await;
        let mut named: Vec<_> = printed.stdout.lines().map(str::to_owned).collect();
        named.sort();
        (printed.code, named)
    };
    let some = |ids: &[&String]| (0, ids.iter().map(|id| (*id).clone()).collect::<Vec<_>>());
    assert_eq!(hold(&["ALL"], "").await, some(&[first, second, third, fourth]));
    assert_eq!(hold(&[first, third], "").await, some(&[first, third]));
    assert_eq!(hold(&[first, first, &first.to_lowercase()], "").await, some(&[first]), "said thrice");
    assert_eq!(hold(&["-"], &format!("{second}\n  {fourth}\n")).await, some(&[second, fourth]));
    assert_eq!(hold(&["--domain", "C.example"], "").await, some(&[second, fourth]));
    assert_eq!(hold(&["--upstream", "b"], "").await, some(&[third]));
    assert_eq!(hold(&["--upstream", "a", "--domain", "c.example"], "").await, some(&[second, fourth]));
    for id in &ids {
        let start = unique_prefix(id, &ids);
        assert_eq!(hold(&[&start], "").await, some(&[id]), "{start}");
    }
    // Nothing was done.
    for id in &ids {
        assert_eq!(harness.recipient_state(id).await, "queued");
    }
    assert_eq!(harness.process.run_command(&["log", "--status", "held"]).await.code, 1);
    // The output of one command is the input of another.
    let listed = harness.process.run_command(&["queue", "list", "--ids"]).await;
    let mut sorted: Vec<_> = listed.stdout.lines().collect();
    sorted.sort_unstable();
    assert_eq!(sorted, ids);
    let printed = harness
        .process
        .run_command_with_input(&["queue", "delete", "-", "--reason", "test"], &listed.stdout)
        .await;
    assert_eq!((printed.code, printed.stdout.lines().count()), (0, 4), "{}", printed.stderr);
    assert_eq!(harness.process.run_command(&["queue", "list", "--ids"]).await.stdout, "");
}

#[tokio::test]
async fn errors_have_exit_code_and_explanation() {
    let mut harness = QueueHarness::new().await;
    let ids = harness.submit_and_wait_tried(&["1@a.example", "2@a.example"]).await;
    let no_id = "01K54Z8Q3V7N5X9B2C6D8F0GHJ";
    let both = ids.iter().map(|id| &id[..6]).collect::<Vec<_>>();
    assert_eq!(both[0], both[1], "ids of one hour begin alike");
    for (arguments, code, words) in [
        (&["queue", "bounce", &*ids[0]][..], 2, "--reason"),
        (&["queue", "delete", "ALL", "--reason", " "], 2, "--reason"),
        (&["queue", "hold"], 2, "ALL"),
        (&["queue", "hold", &ids[0], "--domain", "a.example"], 2, "not both"),
        (&["queue", "hold", &ids[0], "ALL"], 2, "not both"),
        (&["queue", "hold", no_id], 1, "is not in the queue"),
        (&["queue", "hold", "nonsense"], 1, "is no tracking id"),
        (&["queue", "hold", both[0]], 1, "several sends begin so: write more of the id"),
        (&["queue", "hold", "01AAAAAA"], 1, "no send begins so"),
        (&["queue", "hold", "-"], 1, "no ids on standard input"),
        (&["queue", "hold", &ids[0], no_id], 1, "is not in the queue"),
        (&["queue", "hold", "--domain", "nobody.example"], 1, "no queued message matches"),
        (&["queue", "hold", "--upstream", "b"], 1, "no queued message matches"),
        (&["queue", "hold", "--upstream", "mailgnu"], 2, "no upstream \"mailgnu\""),
        (&["queue", "hold", &ids[0]], 1, "is held already"),
        (&["queue", "retry", &ids[0]], 1, "is held; release it"),
        (&["queue", "release", &ids[1]], 1, "is not held"),
        (&["breaker", "open", "a"], 2, "--reason"),
        (&["breaker", "open", "a", "--reason", ""], 2, "reason"),
        (&["breaker", "open", "mailgnu", "--reason", "x"], 2, "no upstream \"mailgnu\""),
    ] {
        let printed = harness.process.run_command(arguments).await;
        assert_eq!(printed.code, code, "{arguments:?}: {}", printed.stderr);
        assert!(printed.stderr.contains(words), "{arguments:?}: {}", printed.stderr);
    }
    let json = harness.process.run_command(&["--json", "queue", "hold", no_id]).await;
    assert_eq!(json.code, 1);
    assert_eq!(json.json_lines()[0]["why"], "is not in the queue");
    assert!(harness.process.terminate().await.success());
    for arguments in [
        &["queue", "hold", "ALL"][..],
        &["queue", "shape"],
        &["breaker", "status"],
        &["breaker", "close", "a"],
    ] {
        let printed = harness.process.run_command(arguments).await;
        assert_eq!(printed.code, 3, "{arguments:?}");
        assert!(printed.stderr.contains("no daemon runs"), "{arguments:?}: {}", printed.stderr);
    }
}

#[tokio::test]
async fn held_message_stays_until_released() {
    let mut harness = QueueHarness::new().await;
    let ids = harness.submit_and_wait_tried(&["held@a.example", "free@a.example"]).await;
    assert_eq!(
        harness.process.run_command(&["queue", "hold", &ids[0], "--reason", "wrong price list"]).await.code,
        0
    );
    harness.restart().await;
    let line = harness.list_queue().await.into_iter().find(|line| line["id"] == *ids[0]).unwrap();
    assert_eq!((&line["state"], &line["reason"]), (&"held".into(), &"wrong price list".into()));
    assert_eq!(line["next_at"], Value::Null, "no attempt is due");
    harness.start_accepting(0);
    let printed = harness.process.run_command(&["queue", "retry", "ALL"]).await;
    assert_eq!((printed.code, printed.stdout.trim()), (1, &*ids[1]), "the held one is refused");
    eventually("the free one", || (harness.servers[0].accepted().len() == 1).then_some(())).await;
    assert_eq!(harness.servers[0].accepted()[0].recipients, ["free@a.example"]);
    let trace = harness.process.run_command(&["trace", &ids[0]]).await.stdout;
    assert!(trace.contains("held  wrong price list"), "{trace}");
    assert!(trace.contains("next: held until an operator releases it"), "{trace}");
    assert_eq!(harness.process.run_command(&["queue", "release", "ALL"]).await.code, 0);
    eventually("the held one", || (harness.servers[0].accepted().len() == 2).then_some(())).await;
    assert_eq!(harness.servers[0].accepted()[1].recipients, ["held@a.example"]);
}

#[tokio::test]
async fn sends_dsn_for_bounced_but_not_deleted_message() {
    let mut harness = QueueHarness::new().await;
    let ids = harness.submit_and_wait_tried(&["bounced@a.example", "deleted@a.example"]).await;
    assert_eq!(
        harness.process.run_command(&["queue", "delete", &ids[1], "--reason", "a test"]).await.code,
        0
    );
    assert_eq!(
        harness.process.run_command(&["queue", "bounce", &ids[0], "--reason", "no such order"]).await.code,
        0
    );
    harness.start_accepting(0);
    harness.start_accepting(1);
    // The report was made right away; its first attempt may have failed.
    let report = || {
        let taken = harness.servers.iter().flat_map(MockSmtpServer::accepted);
        taken.into_iter().next()
    };
    let retry = async {
        while report().is_none() {
            harness.process.run_command(&["queue", "retry", "ALL"]).await;
        }
    };
    tokio::time::timeout(testkit::WAIT_TIMEOUT, retry).await.unwrap();
    let report = report().unwrap();
    assert_eq!(report.recipients, ["app@example.com"]);
    let text = String::from_utf8(report.message).unwrap();
    assert!(text.contains("bounced@a.example: no such order"), "{text}");
    assert!(text.contains("Diagnostic-Code: x-mailtrail; no such order"), "no server said that: {text}");
    assert!(!text.contains("uid "), "who did it is nobody else's business: {text}");
    harness.restart().await;
    for (id, state, reason) in [(&ids[0], "failed", "no such order"), (&ids[1], "cancelled", "a test")] {
        let trace = harness.process.run_command(&["trace", id]).await.stdout;
        assert!(trace.contains(&format!("{state}  {reason}")), "{trace}");
        let fact = trace.lines().find(|line| line.contains("operator")).unwrap();
        assert!(fact.contains(state) && fact.contains("by uid ") && fact.contains(reason), "{trace}");
        assert!(!trace.contains("next:"), "{trace}");
        assert_eq!(trace.contains("failure-reported"), state == "failed", "{trace}");
    }
}

#[tokio::test]
async fn forced_open_breaker_keeps_mail_queued_until_closed() {
    let mut harness = QueueHarness::new().await;
    let tried = harness.submit_and_wait_tried(&["0@a.example"]).await.remove(0);
    harness.start_accepting(0);
    harness.start_accepting(1);
    let printed = harness.process.run_command(&["breaker", "open", "a", "--reason", "moving house"]).await;
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    let id = harness.submit_message("1@a.example").await;
    let other = harness.submit_message("1@b.example").await;
    harness.restart().await;
    // The other upstream works meanwhile.
    let taken = || harness.servers[1].accepted().first().cloned();
    assert_eq!(eventually("the other one's", taken).await.recipients, ["1@b.example"]);
    let status = harness.process.run_command(&["--json", "breaker", "status"]).await.json_lines();
    assert_eq!((&status[0]["state"], &status[0]["reason"]), (&"open".into(), &"moving house".into()));
    assert_eq!((&status[0]["until"], &status[1]["state"]), (&Value::Null, &"closed".into()));
    let text = harness.process.run_command(&["breaker", "status"]).await.stdout;
    assert!(text.starts_with("a\topen\tclosed by hand\t") && text.contains("moving house"), "{text}");
    let trail = harness.process.run_command(&["--json", "trace", &id]).await.json_lines().remove(0);
    assert_eq!(trail["next_action"], "attempt; the upstream a is left alone: moving house");
    assert_eq!(trail["next_at"], Value::Null, "nobody knows when");
    // An operator's hold is the nearer reason.
    let held = harness.submit_message("2@a.example").await;
    assert_eq!(harness.process.run_command(&["queue", "hold", &held]).await.code, 0);
    let trail = harness.process.run_command(&["--json", "trace", &held]).await.json_lines().remove(0);
    assert_eq!(trail["next_action"], "held until an operator releases it, or its deadline comes");
    let line = &harness.list_queue().await.into_iter().find(|line| line["id"] == *id).unwrap();
    assert_eq!(line["reason"], "the upstream a is left alone: moving house");
    assert_eq!(line["attempts"], 0);
    assert!(harness.servers[0].accepted().is_empty());
    let reasons = harness
        .list_queue()
        .await
        .into_iter()
        .filter(|line| line["id"] == *tried)
        .map(|line| line["reason"].clone());
    assert_eq!(
        reasons.collect::<Vec<_>>(),
        ["the upstream a is left alone: moving house"],
        "what it waits for now"
    );
    let printed =
        harness.process.run_command(&["--json", "breaker", "close", "a", "--reason", "moved"]).await;
    assert_eq!(printed.json_lines()[0]["state"], "closed");
    eventually("its mail", || (!harness.servers[0].accepted().is_empty()).then_some(())).await;
    harness.restart().await;
    assert_eq!(
        harness.process.run_command(&["--json", "breaker", "status"]).await.json_lines()[0]["state"],
        "closed"
    );
    let log = harness.process.run_command(&["log", "--upstream", "a", "-g", "breaker-"]).await.stdout;
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines[0].contains("breaker-opened") && lines[0].contains("moving house"), "{log}");
    assert!(lines[1].contains("breaker-closed") && lines[1].contains("by uid "), "{log}");
    assert_eq!(harness.recipient_state(&other).await, "relayed");
}

/// Closed by hand, it is no news any more.
#[tokio::test]
async fn closing_breaker_clears_its_alarm() {
    let script = SmtpScript::new().on(SmtpStep::Banner, [Some(SmtpAction::Reply("554 5.7.0 blocked"))]);
    let mut harness = QueueHarness::with_script(script, "failures = 1\npause = \"5min\"").await;
    harness.start_accepting(0);
    let id = harness.submit_message("1@a.example").await;
    harness.process.wait_for_log("the breaker opened").await;
    assert_eq!(harness.process.run_command(&["breaker", "close", "a"]).await.code, 0);
    harness.process.wait_for_log("alarm cleared").await;
    assert_eq!(harness.process.run_command(&["queue", "retry", &id]).await.code, 0);
    eventually("its mail", || (!harness.servers[0].accepted().is_empty()).then_some(())).await;
    assert!(harness.process.terminate().await.success());
}

#[tokio::test]
async fn queue_shape_adds_up() {
    let harness = QueueHarness::new().await;
    harness.submit_and_wait_tried(&["1@a.example", "2@A.example", "1@b.example", "1@c.example"]).await;
    let held = harness.submit_and_wait_tried(&["3@a.example"]).await;
    assert_eq!(harness.process.run_command(&["queue", "hold", &held[0]]).await.code, 0);
    let shape = harness.process.run_command(&["--json", "queue", "shape"]).await.json_lines();
    let mut found: Vec<_> = shape
        .iter()
        .map(|row| {
            let ages: Vec<_> = row["ages"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
            assert_eq!((ages.len(), ages.iter().sum()), (10, row["total"].as_u64().unwrap()), "{row}");
            assert_eq!(ages[0], row["total"], "all are younger than five minutes");
            (
                row["total"].as_u64().unwrap(),
                row["upstream"].as_str().unwrap(),
                row["domain"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(found[0], (3, "a", "a.example"), "the fullest first");
    found.sort_unstable();
    assert_eq!(found, [(1, "a", "c.example"), (1, "b", "b.example"), (3, "a", "a.example")]);
    let text = harness.process.run_command(&["queue", "shape"]).await.stdout;
    let rows: Vec<Vec<_>> = text.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows[0][..4], ["a", "a.example", "3", "3"]);
    assert!(rows.len() == 3 && rows.iter().all(|row| row.len() == 13), "{text}");
}

#[tokio::test]
async fn rejects_actions_on_message_in_delivery() {
    let script = SmtpScript::new().on(SmtpStep::Dot, [Some(SmtpAction::Hang)]);
    let mut harness = QueueHarness::with_script(script, "").await;
    harness.start_accepting(0);
    let id = harness.submit_message("1@a.example").await;
    let received = || harness.servers[0].with_script(|script| script.is_done(SmtpStep::Dot)).then_some(());
    eventually("the dot", received).await;
    for verb in ["retry", "hold", "bounce", "delete"] {
        let printed = harness.process.run_command(&["queue", verb, &id, "--reason", "x"]).await;
        assert_eq!((printed.code, printed.stdout.as_str()), (1, ""), "{verb}");
        assert_eq!(printed.stderr.trim(), format!("mailtrail: {id} is being sent right now"), "{verb}");
    }
    assert_eq!(harness.recipient_state(&id).await, "sending");
    assert_eq!(
        harness.process.run_command(&["log", "-g", "\"source\":\"operator\""]).await.code,
        1,
        "nothing was noted"
    );
}

#[tokio::test]
async fn queue_list_states_truncation() {
    let harness = QueueHarness::new().await;
    let ids = harness.submit_and_wait_tried(&["1@a.example", "2@a.example", "3@a.example"]).await;
    let some = harness.process.run_command(&["queue", "list", "-n", "2"]).await;
    assert_eq!((some.code, some.stdout.lines().count()), (0, 2));
    assert!(some.stderr.contains("more wait; -n shows more"), "{}", some.stderr);
    let all = harness.process.run_command(&["queue", "list", "-n", "3"]).await;
    assert_eq!((all.stdout.lines().count(), &*all.stderr), (3, ""));
    let line = harness.list_queue().await.into_iter().find(|line| line["id"] == *ids[0]).unwrap();
    let row = all.stdout.lines().find(|row| row.starts_with(&ids[0])).unwrap();
    let cells: Vec<_> = row.split('\t').collect();
    let bytes = line["size"].to_string();
    let [accepted, next] = ["accepted", "next_at"].map(|key| line[key].as_str().unwrap());
    assert_eq!(
        cells[..9],
        [&*ids[0], "queued", accepted, next, "1", "transactional", &bytes, "app@example.com", "1@a.example"]
    );
    assert!(cells[9].contains("refused"), "{row}");
}

/// Actions that change no mail are logged too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_operator_actions_with_caller_and_reason() {
    let mut harness = QueueHarness::new().await;
    let copy = harness.process.directory().join("copy");
    let ask = async |words: &[&str], code| {
        let printed = harness.process.run_command(words).await;
        assert_eq!(printed.code, code, "{words:?}: {} {}", printed.stdout, printed.stderr);
    };
    ask(&["store", "backup", copy.to_str().unwrap(), "--reason", " before the upgrade "], 0).await;
    ask(&["store", "rebuild", "--reason", "the alarm said so"], 0).await;
    ask(&["store", "rebuild"], 0).await;
    ask(&["store", "rebuild", "--reason", &"long ".repeat(1000)], 0).await;
    ask(&["sink", "replay", "told", "--since", "1 hour ago", "--reason", "the file was lost"], 0).await;
    let test =
        ["send-test", "1@b.example", "--from", "app@example.com", "--wait", "1s", "--reason", "why not"];
    ask(&test, 1).await;
    ask(&["suppress", "add", "ada@example.net", "--note", "she called"], 0).await;
    ask(&["suppress", "remove", "ada@example.net", "--note", "she called again"], 0).await;
    // A failed action is not logged.
    ask(&["sink", "replay", "nobody", "--since", "1 hour ago"], 2).await;
    ask(&["suppress", "sync", "--upstream", "nobody"], 2).await;

    let sent = harness.list_queue().await.remove(0)["id"].clone();
    let log = operator_log_lines(&harness.process).await;
    let events: Vec<_> = log.iter().map(|line| (line["event"].as_str().unwrap(), &line["id"])).collect();
    let none = &Value::Null;
    let expected = [
        ("store-backup", none),
        ("store-rebuild", none),
        ("store-rebuild", none),
        ("store-rebuild", none),
        ("sink-replay", none),
        ("send-test", &sent),
        ("listed", none),
        ("unlisted", none),
    ];
    assert_eq!(events, expected);
    assert!(log.iter().all(|line| line["name"].as_str().unwrap().starts_with("uid ")), "{log:?}");
    let texts: Vec<_> = log.iter().map(|line| line["text"].as_str().unwrap_or_default()).collect();
    assert_eq!(texts[0], format!("{}: before the upgrade", copy.display()));
    assert_eq!(texts[1..3], ["the alarm said so", ""]);
    assert_eq!(texts[3].len(), 1000, "as much as is kept");
    let replay = texts[4];
    assert!(replay.starts_with("told since 20") && replay.ends_with("Z: the file was lost"), "{replay}");
    assert_eq!(texts[5], "why not");
    assert_eq!(texts[7], "ada@example.net all reasons: she called again");
    let printed = harness.process.run_command(&["log", "--status", "store-backup"]).await.stdout;
    assert!(
        printed.contains("(no send)  store-backup by uid ") && printed.ends_with(": before the upgrade\n"),
        "{printed}"
    );

    // Conditions about mail exclude actions without mail.
    for condition in
        [["--to", "."], ["--from", "a"], ["--client", "default"], ["--tag", "x"], ["--upstream", "a"]]
    {
        let which = ["log", "-g", "\"event\":\"s(tore|ink)-"];
        assert_eq!(
            harness.process.run_command(&[&which[..], &condition].concat()).await.code,
            1,
            "{condition:?}"
        );
    }
    ask(&["log", "--status", "send-test", "--to", "1@b.example", "--from", "app@"], 0).await;
    ask(&["log", "--status", "send-test", "--to", "2@b.example"], 1).await;

    // A backup contains the reason for it.
    let (copied, _) = Store::open_read_only(&copy, Clock::System).unwrap();
    let first = copied.log_in_segment(1).unwrap().remove(0);
    assert_eq!(first.event.kind, TrailEventKind::OperatorAction(OperatorActionKind::StoreBackup));
    drop(copied);

    harness.restart().await;
    assert_eq!(operator_log_lines(&harness.process).await, log);
    // Without a daemon the store is only read, except by actions.
    assert!(harness.process.terminate().await.success());
    let second = harness.process.directory().join("second");
    assert_eq!(harness.process.run_command(&["store", "backup", second.to_str().unwrap()]).await.code, 0);
    assert_eq!(operator_log_lines(&harness.process).await, log);
    let printed = harness.process.run_command(&["store", "rebuild", "--reason", "nobody is here"]).await;
    assert_eq!(
        (printed.code, printed.stdout.contains("the ledger is rebuilt")),
        (0, true),
        "{}",
        printed.stderr
    );
    let mut after = operator_log_lines(&harness.process).await;
    let last = after.pop().unwrap();
    assert_eq!((&last["event"], &last["text"]), (&"store-rebuild".into(), &"nobody is here".into()));
    assert!(last["name"].as_str().unwrap().starts_with("uid "), "{last}");
    assert_eq!(after, log);
}

async fn operator_log_lines(process: &RelayProcess) -> Vec<Value> {
    process.run_command(&["--json", "log", "-g", "\"source\":\"operator\""]).await.json_lines()
}

#[test]
fn every_command_has_usage_examples() {
    let help = |words: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_mailtrail")).args(words).arg("--help").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for (command, more) in [
        ("queue", &["list", "show", "retry", "hold", "release", "bounce", "delete", "shape"][..]),
        ("breaker", &["status", "open", "close"]),
        ("suppress", &["list", "check", "add", "remove", "import", "export"]),
        ("store", &["verify", "rebuild", "backup"]),
    ] {
        assert!(help(&[command]).contains(&format!("Example: mailtrail {command} ")));
        for word in more {
            let text = help(&[command, word]);
            let example = text.split_once("Example: ").unwrap_or_else(|| panic!("{word}: {text}")).1;
            assert!(example.contains(&format!("mailtrail {command} {word}")), "{text}");
        }
    }
}

/// Relay with the upstreams `a` and `b`, which refuse connections until they are opened. A failed message waits for
/// an hour.
struct QueueHarness {
    process: RelayProcess,
    servers: [MockSmtpServer; 2],
    sockets: [Option<TcpSocket>; 2],
}

impl QueueHarness {
    async fn new() -> Self {
        Self::with_script(SmtpScript::new(), "").await
    }

    /// With what the first upstream does, and the keys of its breaker.
    async fn with_script(script: SmtpScript, breaker: &str) -> Self {
        let ((a, first), (b, second)) =
            (MockSmtpServer::refusing(script), MockSmtpServer::refusing(SmtpScript::new()));
        let (breaker, ports) = (if breaker.is_empty() { BREAKER_DISABLED } else { breaker }, [&a, &b]);
        let ports = ports.map(|server| server.address.port());
        let configuration = |data: &str, own: [u16; 3]| render_config(data, own[1], ports, breaker);
        let mut process = RelayProcess::with_configuration(configuration);
        process.start().await;
        Self { process, servers: [a, b], sockets: [Some(first), Some(second)] }
    }

    /// An upstream takes connections from now on.
    fn start_accepting(&mut self, place: usize) {
        let socket = self.sockets[place].take().unwrap();
        self.servers[place].serve(socket.listen(64).unwrap());
    }

    async fn restart(&mut self) {
        assert!(self.process.terminate().await.success());
        self.process.start().await;
    }

    async fn submit_message(&self, to: &str) -> String {
        let mut client = SmtpClient::connect(self.process.address(1)).await.unwrap();
        let message = "From: app@example.com\r\nSubject: x\r\n\r\nx\r\n";
        client.submit("app@example.com", &[to], message).await.unwrap()
    }

    /// Sends that were tried once, in the order of their ids.
    async fn submit_and_wait_tried(&self, to: &[&str]) -> Vec<String> {
        let mut ids = Vec::new();
        for to in to {
            ids.push(self.submit_message(to).await);
        }
        for id in &ids {
            self.wait_attempted(id, 1).await;
        }
        ids
    }

    /// Waits until a message has this number of attempts and none in progress.
    async fn wait_attempted(&self, id: &str, times: u64) {
        let tried = async {
            loop {
                // The ledger may not have a message that was just accepted.
                let found = self.process.run_command(&["--json", "trace", id]).await.json_lines();
                let trail = found.first().unwrap_or(&Value::Null);
                if trail["attempts"] == times && trail["recipients"][0]["state"] == "queued" {
                    return;
                }
            }
        };
        tokio::time::timeout(testkit::WAIT_TIMEOUT, tried).await.unwrap();
    }

    async fn recipient_state(&self, id: &str) -> String {
        let trail = self.process.run_command(&["--json", "trace", id]).await.json_lines().remove(0);
        trail["recipients"][0]["state"].as_str().unwrap().to_owned()
    }

    async fn list_queue(&self) -> Vec<Value> {
        self.process.run_command(&["--json", "queue", "list"]).await.json_lines()
    }
}

/// As much of an id as no other begins with.
fn unique_prefix(id: &str, all: &[String]) -> String {
    let starts = (6..=id.len()).map(|length| &id[..length]);
    let unique = |start: &&str| all.iter().filter(|other| other.starts_with(*start)).count() == 1;
    starts.into_iter().find(unique).unwrap().to_owned()
}

fn render_config(data_dir: &str, listener: u16, [a, b]: [u16; 2], breaker: &str) -> String {
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
name = "a"
provider = "plain"
host = "127.0.0.1"
port = {a}
tls = "none"
[upstream.breaker]
{breaker}
[upstream.retry]
first = "1h"
max = "1h"
[[upstream]]
name = "b"
provider = "plain"
host = "127.0.0.1"
port = {b}
tls = "none"
[upstream.breaker]
{BREAKER_DISABLED}
[upstream.retry]
first = "1h"
max = "1h"
[[route]]
name = "to-a"
upstreams = ["a"]
recipients = ["*@a.example", "*@c.example"]
[[route]]
name = "to-b"
upstreams = ["b"]
recipients = ["*@b.example"]
[[sink]]
name = "told"
kind = "file"
path = "events.jsonl"
"#
    )
}

/// The breaker never opens by itself.
const BREAKER_DISABLED: &str = "failures = 1000";
