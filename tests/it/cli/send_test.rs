//! `mailtrail send-test`: the real program, a listener that requires TLS and authentication, and the sandbox as the
//! provider.

use mailtrail_sandbox::ProviderProfile;
use serde_json::{Value, json};
use testkit::sandbox_harness::SandboxHarness;

#[tokio::test]
async fn follows_delivered_message_to_provider_event() {
    for face in [ProviderProfile::Mailgun, ProviderProfile::Brevo] {
        let mut harness = SandboxHarness::new(face).await;
        harness.process.start().await;
        let output = harness.run_command(&["--json", "send-test", "ada@example.net"]).await;
        assert_eq!(output.code, 0, "{} {}", output.stdout, output.stderr);
        let lines = output.json_lines();
        let (first, last) = (&lines[0], &lines[lines.len() - 1]);
        assert_eq!(
            (&first["from"], &first["to"]),
            (&json!("mailtrail@mg.example.com"), &json!("ada@example.net"))
        );
        let id = first["id"].as_str().unwrap();
        let verdict = json!({
            "id": id, "state": "delivered", "delivered": true, "verdict": "delivered, and up reported it",
        });
        assert_eq!(*last, verdict);
        let facts: Vec<_> = lines[1..lines.len() - 1].iter().map(event_words).collect();
        for expected in ["accepted by client", "relayed by smtp", "delivered by webhook"] {
            assert_eq!(facts.iter().filter(|fact| *fact == expected).count(), 1, "{expected}: {facts:?}");
        }
        // The message is accepted like any other.
        let trail = harness.run_command(&["--json", "trace", id]).await.json_lines().remove(0);
        assert_eq!((&trail["client"], &trail["user"]), (&json!("mailtrail"), &json!("send-test")));
        assert_eq!(trail["message_id"], format!("{id}@relay.example.com"));
        assert_eq!(harness.sandbox.counters().messages, 1);

        let output =
            harness.run_command(&["send-test", "bob@example.net", "--from", "ada@mg.example.com"]).await;
        let lines: Vec<_> = output.stdout.lines().collect();
        assert!(
            output.code == 0 && lines[0].ends_with("from ada@mg.example.com to bob@example.net"),
            "{lines:?}"
        );
        assert!(lines.iter().any(|line| line.contains("delivered    webhook  up")), "{lines:?}");
        assert_eq!(lines.last(), Some(&"delivered, and up reported it"));
        assert!(harness.process.terminate().await.success());
    }
}

#[tokio::test]
async fn reports_cause_of_undelivered_message() {
    let mut harness = SandboxHarness::new(ProviderProfile::Mailgun).await;
    harness.process.start().await;
    let output = harness.run_command(&["suppress", "add", "eve@example.net"]).await;
    assert_eq!(output.code, 0, "{}", output.stderr);
    for (arguments, state, words) in [
        (&["bounce@example.net"][..], "bounced", "bounced: "),
        (&["eve@example.net"], "suppressed", "`mailtrail suppress list`"),
        // Long enough to be relayed on a busy machine.
        (
            &["silent@example.net", "--wait", "10s"],
            "relayed",
            "are its webhooks registered, and do they reach",
        ),
    ] {
        let (code, verdict) = run_for_verdict(&harness, arguments).await;
        assert_eq!((code, &verdict["state"], &verdict["delivered"]), (1, &json!(state), &json!(false)));
        assert!(verdict["verdict"].as_str().unwrap().contains(words), "{verdict}");
        assert_eq!(verdict["verdict"].as_str().unwrap().contains("`mailtrail doctor`"), state == "relayed");
    }
    // The message needs no DSN, because the command follows it and its sender may be no mailbox.
    assert_eq!(harness.run_command(&["trace", "mailtrail@mg.example.com"]).await.code, 1);
    assert_eq!(harness.run_command(&["breaker", "open", "up", "--reason", "moving"]).await.code, 0);
    let (code, verdict) = run_for_verdict(&harness, &["ada@example.net", "--wait", "1s"]).await;
    assert_eq!((code, &verdict["state"]), (1, &json!("queued")), "{verdict}");
    let text = verdict["verdict"].as_str().unwrap();
    assert!(text.contains("still queued after 1s") && text.contains("moving"), "{text}");
    assert!(harness.process.terminate().await.success());
}

#[tokio::test]
async fn does_not_wait_without_webhook_credentials() {
    let mut harness = SandboxHarness::new(ProviderProfile::Mailgun).await;
    harness
        .process
        .write_configuration(&harness.configuration.replace("webhook_signing_key_file = \"proof\"\n", ""));
    harness.process.start().await;
    let (code, verdict) = run_for_verdict(&harness, &["ada@example.net", "--wait", "1d"]).await;
    assert_eq!((code, &verdict["state"]), (1, &json!("relayed")));
    assert!(verdict["verdict"].as_str().unwrap().contains("set webhook_signing_key_file"), "{verdict}");
    assert!(harness.process.terminate().await.success());
}

#[tokio::test]
async fn unsendable_message_has_its_exit_code() {
    let mut harness = SandboxHarness::new(ProviderProfile::Mailgun).await;
    let output = harness.run_command(&["send-test", "ada@example.net"]).await;
    assert_eq!((output.code, &*output.stdout), (3, ""), "{}", output.stderr);
    harness.process.start().await;
    for (arguments, words) in [
        (&["nobody"][..], "nobody"),
        (&["ada@example.net", "--from", "me"], "me: "),
        (&["ada@example.net", "--wait", "soon"], "90s, 5m or 1h"),
        (&[], "<TO>"),
    ] {
        let output = harness.run_command(&[&["send-test"], arguments].concat()).await;
        assert!(
            output.code == 2 && output.stderr.contains(words),
            "{arguments:?}: {} {}",
            output.code,
            output.stderr
        );
    }
    assert!(harness.process.terminate().await.success());
    let output = harness.run_command(&["send-test", "ada@example.net"]).await;
    assert!(
        output.code == 3 && output.stderr.contains("mailtrail serve"),
        "{} {}",
        output.code,
        output.stderr
    );
    assert_eq!(harness.sandbox.counters().messages, 0);
}

/// Exit code and last line.
async fn run_for_verdict(harness: &SandboxHarness, arguments: &[&str]) -> (i32, Value) {
    let output = harness.run_command(&[&["--json", "send-test"], arguments].concat()).await;
    let last = output.json_lines().pop();
    (output.code, last.unwrap_or_else(|| json!({ "verdict": output.stderr })))
}

fn event_words(fact: &Value) -> String {
    format!("{} by {}", fact["event"], fact["source"]).replace('"', "")
}
