//! `mailtrail setup mailgun` and `setup brevo`: the real program and the sandbox's API.

use mailtrail_sandbox::ProviderProfile;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::sandbox_harness::{SandboxHarness, WEBHOOK_SECRET};

#[tokio::test]
async fn registers_all_mailgun_events_and_keeps_other_webhooks() {
    let harness = SandboxHarness::new(ProviderProfile::Mailgun).await;
    // Others', two of them in a list that ours comes into.
    for registered in [
        "id=delivered&url=https://crm.example.com/hook",
        "id=opened&url=https://crm.example.com/hook&url=https://old.example.com/webhooks/up",
    ] {
        assert_eq!(harness.call_api(Method::POST, WEBHOOKS_V3_PATH, Some(registered.into())).await.0, 200);
    }
    let before = mailgun_webhooks(&harness).await;
    let setup = ["--json", "setup", "mailgun", "--url", "https://relay.example.com"];
    let output = harness.run_command(&[&setup[..], &["--dry-run"]].concat()).await;
    let expected = json!({
        "done": "created", "what": "webhook", "id": null, "name": OWN_URL, "changed": ALL_EVENTS, "dry_run": true,
    });
    assert_eq!((output.code, &output.json_lines()[0]), (0, &expected), "{}", output.stderr);
    assert_eq!(mailgun_webhooks(&harness).await, before, "a dry run changes nothing");

    let output = harness.run_command(&setup).await;
    assert_eq!((output.code, &output.json_lines()[0]["done"]), (0, &json!("created")), "{}", output.stderr);
    let remains: Vec<_> = output.json_lines()[1..].iter().map(|line| line["remains"].to_string()).collect();
    assert!(remains[0].contains("https://old.example.com/webhooks/up is also registered"), "{remains:?}");
    assert!(remains[1].contains("the web server of relay.example.com forwards /webhooks/up"), "{remains:?}");
    let mut expected = before.clone();
    for kind in ALL_EVENTS {
        let mut urls = expected[kind]["urls"].as_array().cloned().unwrap_or_default();
        urls.push(OWN_URL.into());
        expected[kind] = json!({ "urls": urls });
    }
    assert_eq!(mailgun_webhooks(&harness).await, expected);

    let output = harness.run_command(&setup).await;
    assert_eq!(
        (output.code, &output.json_lines()[0]["done"], &output.json_lines()[0]["changed"]),
        (0, &json!("kept"), &json!([]))
    );
    assert_eq!(mailgun_webhooks(&harness).await, expected);
    let output = harness.run_command(&["setup", "mailgun", "--url", OWN_URL]).await;
    assert!(
        output.code == 0 && output.stdout.starts_with(&format!("kept: webhook ({OWN_URL}: ")),
        "{}",
        output.stdout
    );

    let output = harness.run_command(&[&setup[1..], &["--remove", "--dry-run"]].concat()).await;
    assert!(output.stdout.starts_with("would be removed: webhook ("), "{}", output.stdout);
    assert_eq!(mailgun_webhooks(&harness).await, expected);
    for done in ["removed", "not there"] {
        let output = harness.run_command(&[&setup[..], &["--remove"]].concat()).await;
        assert_eq!((output.code, &output.json_lines()[0]["done"]), (0, &json!(done)), "{}", output.stderr);
        assert_eq!(mailgun_webhooks(&harness).await, before);
    }
}

#[tokio::test]
async fn adds_missing_events_to_registered_mailgun_url() {
    let harness = SandboxHarness::new(ProviderProfile::Mailgun).await;
    let known = format!("url={OWN_URL}&event_types=opened&event_types=delivered");
    assert_eq!(harness.call_api(Method::POST, WEBHOOKS_V4_PATH, Some(known.into())).await.0, 200);
    let output = harness.run_command(&["--json", "setup", "mailgun", "--url", OWN_URL]).await;
    let change = &output.json_lines()[0];
    let missing: Vec<_> =
        ALL_EVENTS.into_iter().filter(|kind| !["opened", "delivered"].contains(kind)).collect();
    assert_eq!((output.code, &change["done"], &change["changed"]), (0, &json!("updated"), &json!(missing)));
    let all = mailgun_webhooks(&harness).await;
    assert!(ALL_EVENTS.iter().all(|kind| all[kind]["urls"] == json!([OWN_URL])), "{all}");
}

#[tokio::test]
async fn url_with_trailing_slash_is_not_registered_again() {
    let slash = format!("{OWN_URL}/");
    for (face, provider) in [(ProviderProfile::Mailgun, "mailgun"), (ProviderProfile::Brevo, "brevo")] {
        let harness = SandboxHarness::new(face).await;
        let known = match face {
            ProviderProfile::Mailgun => {
                let kinds: String = ALL_EVENTS.iter().map(|kind| format!("&event_types={kind}")).collect();
                harness
                    .call_api(Method::POST, WEBHOOKS_V4_PATH, Some(format!("url={slash}{kinds}").into()))
                    .await
            }
            ProviderProfile::Brevo => {
                let hook = json!({ "url": slash, "events": ["spam"], "batched": false });
                harness.call_api(Method::POST, "/v3/webhooks", Some(hook)).await
            }
        };
        assert!(known.0 < 300);
        for url in [OWN_URL, &slash] {
            let output = harness.run_command(&["--json", "setup", provider, "--url", url]).await;
            assert!(
                ["kept", "updated"].map(Value::from).contains(&output.json_lines()[0]["done"]),
                "{}",
                output.stdout
            );
            assert!(!output.stdout.contains("is also registered"), "{}", output.stdout);
        }
        match face {
            ProviderProfile::Mailgun => {
                let all = mailgun_webhooks(&harness).await;
                assert!(ALL_EVENTS.iter().all(|kind| all[kind]["urls"] == json!([slash])), "{all}");
            }
            ProviderProfile::Brevo => assert_eq!(brevo_webhooks(&harness).await.len(), 1),
        }
        let output = harness.run_command(&["--json", "setup", provider, "--url", OWN_URL, "--remove"]).await;
        assert_eq!(output.json_lines()[0]["done"], "removed", "{}", output.stderr);
    }
}

/// Two URLs of ours: an event type at one is not registered at the other.
#[tokio::test]
async fn two_urls_of_ours_get_each_event_kind_once() {
    let harness = SandboxHarness::new(ProviderProfile::Mailgun).await;
    for known in [format!("url={OWN_URL}/&event_types=opened"), format!("url={OWN_URL}&event_types=clicked")]
    {
        assert_eq!(harness.call_api(Method::POST, WEBHOOKS_V4_PATH, Some(known.into())).await.0, 200);
    }
    let output = harness.run_command(&["--json", "setup", "mailgun", "--url", OWN_URL]).await;
    assert_eq!((output.code, &output.json_lines()[0]["done"]), (0, &json!("updated")), "{}", output.stderr);
    let all = mailgun_webhooks(&harness).await;
    assert!(ALL_EVENTS.iter().all(|kind| all[kind]["urls"].as_array().unwrap().len() == 1), "{all}");
}

#[tokio::test]
async fn changes_nothing_when_mailgun_has_no_free_url() {
    let harness = SandboxHarness::new(ProviderProfile::Mailgun).await;
    let three = "id=clicked&url=https://a.example&url=https://b.example&url=https://u:secret@c.example/x";
    assert_eq!(harness.call_api(Method::POST, WEBHOOKS_V3_PATH, Some(three.into())).await.0, 200);
    let before = mailgun_webhooks(&harness).await;
    for more in [&["--dry-run"][..], &[]] {
        let output = harness.run_command(&[&["setup", "mailgun", "--url", OWN_URL], more].concat()).await;
        assert_eq!((output.code, &*output.stdout), (1, ""));
        assert!(output.stderr.contains("clicked is told to https://a.example/, "), "{}", output.stderr);
        assert!(output.stderr.contains("3 addresses at most; take one"), "{}", output.stderr);
        assert!(!output.stderr.contains("secret"), "{}", output.stderr);
    }
    assert_eq!(mailgun_webhooks(&harness).await, before);
}

#[tokio::test]
async fn errors_name_cause_and_remedy() {
    let harness = SandboxHarness::new(ProviderProfile::Mailgun).await;
    let good = &harness.configuration;
    let twice = {
        let (before, after) = good.split_once("[[upstream]]").unwrap();
        let (upstream, http) = after.split_once("[http]").unwrap();
        let other = upstream.replace("name = \"up\"", "name = \"down\"");
        format!("{before}[[upstream]]{upstream}[[upstream]]{other}[http]{http}")
    };
    std::fs::write(harness.process.directory().join("wrong"), "key-2").unwrap();
    for (configuration, more, code, words) in [
        (
            good.replace("_key_file = \"key\"", "_key_file = \"wrong\""),
            "",
            1,
            "a domain sending key may send",
        ),
        (good.replace("api_key_file = \"key\"\n", ""), "", 2, "set api_key_file"),
        (good.replace("domain = \"mg.example.com\"\n", ""), "", 2, "set domain and api_key_file"),
        (good.replace("mg.example.com\"\nhost", "other.example.com\"\nhost"), "", 1, "are domain and region"),
        (good.replace("provider = \"mailgun\"", "provider = \"brevo\""), "", 2, "provider = \\\"mailgun\\\""),
        (twice.clone(), "", 2, "name one: --upstream"),
        (twice.clone(), "--upstream=sideways", 2, "there is no [[upstream]] \"sideways\""),
        (twice, "--upstream=down", 0, ""),
        (good.clone(), "--url=http://relay.example.com", 2, "must begin with https://"),
        (good.clone(), "--url=relay.example.com", 2, "--url"),
    ] {
        harness.process.write_configuration(&configuration);
        let url = ["--url", OWN_URL];
        let usual = if more.starts_with("--url") { &[][..] } else { &url[..] };
        let more = if more.is_empty() { Vec::new() } else { vec![more] };
        let output = harness.run_command(&[&["setup", "mailgun", "--dry-run"], usual, &more].concat()).await;
        let words = words.replace("\\\"", "\"");
        assert!(
            output.code == code && output.stderr.contains(&words),
            "{words}: {} {}",
            output.code,
            output.stderr
        );
    }
}

#[tokio::test]
async fn registers_all_brevo_events_with_authentication() {
    let harness = SandboxHarness::new(ProviderProfile::Brevo).await;
    let others = [
        json!({ "url": "https://crm.example.com/webhooks/crm", "events": ["spam"], "batched": true }),
        json!({ "url": "https://old.example.com/webhooks/up", "events": ["opened"] }),
    ];
    for other in others {
        assert_eq!(harness.call_api(Method::POST, "/v3/webhooks", Some(other)).await.0, 201);
    }
    let before = brevo_webhooks(&harness).await;
    let setup = ["--json", "setup", "brevo", "--url", "https://relay.example.com"];
    let output = harness.run_command(&[&setup[..], &["--dry-run"]].concat()).await;
    assert_eq!((output.code, &output.json_lines()[0]["done"]), (0, &json!("created")), "{}", output.stderr);
    assert_eq!(brevo_webhooks(&harness).await, before, "a dry run changes nothing");
    let output = harness.run_command(&setup).await;
    assert_eq!((output.code, &output.json_lines()[0]["done"]), (0, &json!("created")), "{}", output.stderr);
    assert!(
        output.stdout.contains("https://old.example.com/webhooks/up is also registered"),
        "{}",
        output.stdout
    );
    let all = brevo_webhooks(&harness).await;
    let ours = &all[2];
    assert_eq!((&ours["url"], &ours["batched"]), (&json!(OWN_URL), &json!(false)));
    assert_eq!(ours["auth"], json!({ "type": "bearer", "token": WEBHOOK_SECRET }));
    assert_eq!(ours["events"].as_array().unwrap().len(), 12);
    let output = harness.run_command(&setup).await;
    assert_eq!(
        (output.code, &output.json_lines()[0]["done"], &output.json_lines()[0]["id"]),
        (0, &json!("kept"), &json!(3))
    );
    assert_eq!(brevo_webhooks(&harness).await, all);

    // The webhook was changed.
    let change =
        json!({ "events": ["spam", "sent"], "batched": true, "auth": { "type": "bearer", "token": "x" } });
    assert_eq!(harness.call_api(Method::PUT, "/v3/webhooks/3", Some(change)).await.0, 204);
    let output = harness.run_command(&setup).await;
    assert_eq!((output.code, &output.json_lines()[0]["done"]), (0, &json!("updated")), "{}", output.stderr);
    let changed = output.json_lines()[0]["changed"].as_array().unwrap().clone();
    assert_eq!(changed[11..], ["one event a request", "the bearer token"], "{changed:?}");
    let again = brevo_webhooks(&harness).await;
    assert_eq!((&again[2]["auth"], &again[2]["batched"]), (&ours["auth"], &json!(false)));
    // Its other event types stay.
    assert_eq!(again[2]["events"].as_array().unwrap().len(), 13);
    assert_eq!(again[..2], before);

    for done in ["removed", "not there"] {
        let output = harness.run_command(&[&setup[..], &["--remove"]].concat()).await;
        assert_eq!((output.code, &output.json_lines()[0]["done"]), (0, &json!(done)), "{}", output.stderr);
        assert_eq!(brevo_webhooks(&harness).await, before);
    }
}

#[tokio::test]
async fn registers_each_configured_brevo_authentication() {
    let harness = SandboxHarness::new(ProviderProfile::Brevo).await;
    let setup = ["--json", "setup", "brevo", "--url", OWN_URL];
    let token = "webhook_token_file = \"proof\"\n";
    std::fs::write(harness.process.directory().join("new"), "proof-2").unwrap();
    let known = json!({ "url": OWN_URL, "events": ["spam"], "headers": [{ "key": "X-Shop", "value": "1" }] });
    assert_eq!(harness.call_api(Method::POST, "/v3/webhooks", Some(known)).await.0, 201);
    for (keys, field, expected) in [
        (
            "webhook_token_file = [\"proof\", \"new\"]\n",
            "auth",
            json!({ "type": "bearer", "token": "proof-2" }),
        ),
        (
            "webhook_token_file = \"proof\"\nwebhook_header = \"X-Token\"\n",
            "headers",
            json!([{ "key": "X-Shop", "value": "1" }, { "key": "X-Token", "value": WEBHOOK_SECRET }]),
        ),
        (
            "webhook_username = \"brevo\"\nwebhook_password_file = \"proof\"\n",
            "url",
            json!(format!("https://brevo:{WEBHOOK_SECRET}@relay.example.com/webhooks/up")),
        ),
    ] {
        harness.process.write_configuration(&harness.configuration.replace(token, keys));
        let output = harness.run_command(&setup).await;
        assert_eq!(
            (output.code, &output.json_lines()[0]["done"]),
            (0, &json!("updated")),
            "{keys}: {}",
            output.stderr
        );
        let all = brevo_webhooks(&harness).await;
        assert_eq!((all.len(), &all[0][field]), (1, &expected), "{keys}");
        let output = harness.run_command(&setup).await;
        assert_eq!(
            (output.code, &output.json_lines()[0]["done"]),
            (0, &json!("kept")),
            "{keys}: {}",
            output.stderr
        );
    }
    harness.process.write_configuration(&harness.configuration);
    for number in 0..39 {
        let other = json!({ "url": format!("https://{number}.example.com/"), "events": ["spam"] });
        assert_eq!(harness.call_api(Method::POST, "/v3/webhooks", Some(other)).await.0, 201);
    }
    let output = harness.run_command(&["setup", "brevo", "--url", "https://other.example.com"]).await;
    assert!(
        output.code == 1 && output.stderr.contains("has 40 webhooks already; correct"),
        "{}",
        output.stderr
    );
    harness.process.write_configuration(&harness.configuration.replace(token, ""));
    let output = harness.run_command(&setup).await;
    assert!(output.code == 1 && output.stderr.contains("openssl rand"), "{}", output.stderr);
}

/// Returns the webhooks at Mailgun.
async fn mailgun_webhooks(harness: &SandboxHarness) -> Value {
    harness.call_api(Method::GET, WEBHOOKS_V3_PATH, None).await.1["webhooks"].take()
}

/// Returns the webhooks at Brevo, without the time of their last change.
async fn brevo_webhooks(harness: &SandboxHarness) -> Vec<Value> {
    let mut answer = harness.call_api(Method::GET, "/v3/webhooks?type=transactional", None).await.1;
    let mut hooks = std::mem::take(answer["webhooks"].as_array_mut().unwrap());
    hooks.iter_mut().for_each(|hook| hook["modifiedAt"] = Value::Null);
    hooks
}

const OWN_URL: &str = "https://relay.example.com/webhooks/up";
const WEBHOOKS_V3_PATH: &str = "/v3/domains/mg.example.com/webhooks";
const WEBHOOKS_V4_PATH: &str = "/v4/domains/mg.example.com/webhooks";
const ALL_EVENTS: [&str; 8] = [
    "accepted",
    "delivered",
    "permanent_fail",
    "temporary_fail",
    "complained",
    "unsubscribed",
    "opened",
    "clicked",
];
