//! Synchronization of our suppression list with the provider's: the real program with the sandbox's lists and with a
//! scripted server.

use mailtrail::config;
use mailtrail::daemon::Daemon;
use mailtrail_mail::Secret;
use mailtrail_mail::{Clock, Timestamp};
use mailtrail_net::provider_api::{
    EventsApi, ProviderApi, ProviderApiSettings, ProviderKind, SuppressionEntry, SuppressionList,
};
use mailtrail_net::tls;
use mailtrail_relay::alarms::AlarmRegistry;
use mailtrail_relay::suppression_sync::{SuppressionSync, SyncPeer};
use mailtrail_sandbox::{FaultInjection, Sandbox};
use mailtrail_store::Store;
use mailtrail_trail::suppression;
use mailtrail_trail::suppression::{EvidenceSource, Reason};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use testkit::eventually;
use testkit::mock_http::{HttpAction, MockHttpServer};
use testkit::relay_process::RelayProcess;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn sync_makes_both_lists_equal() {
    let (there, harness) = start_pair().await;
    there.add_entries(SuppressionList::Bounces, &["gone@example.net"], DAYS_AGO).await;
    there.add_entries(SuppressionList::Complaints, &["spam@example.net"], DAYS_AGO).await;
    there.add_entries(SuppressionList::Unsubscribes, &["left@example.net"], DAYS_AGO).await;
    for (arguments, code) in [
        (&["bad@example.net", "--reason", "hard-bounce"][..], 0),
        (&["angry@example.net", "--reason", "complaint", "--upstream", "up"], 0),
        (&["off@example.net", "--reason", "unsubscribe", "--scope", "all"], 0),
        // A reason that the provider's lists lack is not exported.
        (&["news@example.net", "--reason", "unsubscribe"], 0),
        (&["note@example.net"], 0),
        (&["later@example.net", "--reason", "hard-bounce", "--until", "2999-01-01"], 0),
    ] {
        let printed = harness.process.run_command(&[&["suppress", "add"], arguments].concat()).await;
        assert_eq!(printed.code, code, "{}", printed.stderr);
    }
    let acts = [
        "added-there complaint angry@example.net",
        "added-there hard-bounce bad@example.net",
        "added-there unsubscribe off@example.net",
        "taken-in complaint spam@example.net",
        "taken-in hard-bounce gone@example.net",
        "taken-in unsubscribe left@example.net",
    ];
    let before = there.read_lists().await;
    assert_eq!(harness.run_sync(&["--dry-run"]).await, acts);
    assert_eq!(
        (there.read_lists().await, harness.list_entries("provider").await.len()),
        (before, 0),
        "nothing was done"
    );
    assert_eq!(harness.run_sync(&[]).await, acts);
    let listed = [
        (SuppressionList::Bounces, &["bad@example.net", "gone@example.net"]),
        (SuppressionList::Complaints, &["angry@example.net", "spam@example.net"]),
        (SuppressionList::Unsubscribes, &["left@example.net", "off@example.net"]),
    ];
    assert_eq!(there.read_lists().await, listed.map(|(list, some)| (list, string_set(some))).into());
    let taken = harness.list_entries("provider").await;
    let addresses: Vec<_> = taken.iter().map(|entry| entry["address"].as_str().unwrap()).collect();
    assert_eq!(addresses, ["gone@example.net", "left@example.net", "spam@example.net"]);
    for entry in &taken {
        assert_eq!((&entry["upstream"], &entry["state"]), (&json!("up"), &json!("suppressed")));
        assert_eq!((&entry["scope"], &entry["times"]), (&json!("all"), &json!([DAYS_AGO.to_string()])));
    }
    let checked = harness.process.run_command(&["suppress", "check", "Gone@example.net"]).await;
    assert!(checked.stdout.contains("\tprovider\t550 no such user"), "{}", checked.stdout);
    for upstream in [&[][..], &["--upstream", "up"]] {
        assert_eq!(harness.run_sync(upstream).await, [""; 0], "there is nothing left to do");
    }
    let printed = harness.process.run_command(&["suppress", "sync", "--reason", "as every week"]).await;
    let summary = "up: the provider lists 6; here 0 added and 0 removed, there 0 added and 0 removed\n";
    assert_eq!((printed.code, &*printed.stdout), (0, summary));
    // Each that did something, or was to.
    let log = harness
        .process
        .run_command(&["--json", "log", "--status", "suppress-sync", "--upstream", "up"])
        .await
        .json_lines();
    let notified: Vec<_> = log.iter().map(|line| line["text"].as_str()).collect();
    assert_eq!(notified, [None, None, None, Some("as every week")]);
    assert!(log.iter().all(|line| line["name"].as_str().unwrap().starts_with("uid ")), "{log:?}");
}

#[tokio::test]
async fn local_removal_is_exported_but_newer_events_count() {
    let (there, harness) = start_pair().await;
    let all = ["a@example.net", "b@example.net", "C+c@example.net"];
    there.add_entries(SuppressionList::Bounces, &all, DAYS_AGO).await;
    there.add_entries(SuppressionList::Unsubscribes, &["a@example.net"], DAYS_AGO).await;
    assert_eq!(harness.run_sync(&[]).await.len(), 4);
    for address in ["a@example.net", "c+c@example.net"] {
        assert_eq!(harness.process.run_command(&["suppress", "remove", address]).await.code, 0);
    }
    let acts = [
        "removed-there hard-bounce a@example.net",
        "removed-there hard-bounce c+c@example.net",
        "removed-there unsubscribe a@example.net",
    ];
    assert_eq!(harness.run_sync(&["--dry-run"]).await, acts);
    assert_eq!(harness.run_sync(&[]).await, acts);
    assert_eq!(there.read_lists().await, [(SuppressionList::Bounces, string_set(&["b@example.net"]))].into());
    assert_eq!(harness.run_sync(&[]).await, [""; 0]);
    assert_eq!(harness.process.run_command(&["suppress", "check", "a@example.net"]).await.code, 1);
    // A later bounce.
    let later = Clock::System.now().saturating_add(Duration::from_secs(60));
    there.add_entries(SuppressionList::Bounces, &["a@example.net"], later).await;
    assert_eq!(harness.run_sync(&[]).await, ["taken-in hard-bounce a@example.net"]);
    assert_eq!(harness.process.run_command(&["suppress", "check", "a@example.net"]).await.code, 0);
    assert_eq!(harness.run_sync(&[]).await, [""; 0]);
}

#[tokio::test]
async fn remote_removal_clears_only_provider_evidence() {
    let (there, mut harness) = start_pair().await;
    there.add_entries(SuppressionList::Bounces, &["a@example.net", "b@example.net"], DAYS_AGO).await;
    there.add_entries(SuppressionList::Complaints, &["c@example.net"], DAYS_AGO).await;
    assert_eq!(harness.run_sync(&[]).await.len(), 3);
    // An operator entry that confirms the provider's stays after the provider removes its own.
    let printed = harness
        .process
        .run_command(&["suppress", "add", "b@example.net", "--reason", "hard-bounce", "--upstream", "up"])
        .await;
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    for (list, address) in [
        (SuppressionList::Bounces, "a@example.net"),
        (SuppressionList::Bounces, "b@example.net"),
        (SuppressionList::Complaints, "c@example.net"),
    ] {
        assert!(there.api.remove_suppression(list, address).await.unwrap());
    }
    let acts = [
        "added-there hard-bounce b@example.net",
        "ended complaint c@example.net",
        "ended hard-bounce a@example.net",
    ];
    assert_eq!(harness.run_sync(&["--dry-run"]).await, acts);
    assert_eq!(harness.run_sync(&[]).await, acts);
    assert_eq!(harness.run_sync(&[]).await, [""; 0]);
    for restarted in [false, true] {
        if restarted {
            assert!(harness.process.terminate().await.success());
            std::fs::remove_dir_all(harness.process.data_dir().join("ledger")).unwrap();
            harness.process.start().await;
        }
        let codes = ["a@example.net", "b@example.net", "c@example.net"];
        for (address, code) in codes.into_iter().zip([1, 0, 1]) {
            assert_eq!(
                harness.process.run_command(&["suppress", "check", address]).await.code,
                code,
                "{address} {restarted}"
            );
        }
    }
    let ended = harness.list_entries("provider").await;
    assert!(ended.iter().all(|entry| entry["state"] == "ended"), "{ended:?}");
    assert_eq!(ended[0]["words"], "no longer on the provider's list");
    // The entry is added again.
    there.add_entries(SuppressionList::Complaints, &["c@example.net"], DAYS_AGO).await;
    assert_eq!(harness.run_sync(&[]).await, ["taken-in complaint c@example.net"]);
    assert_eq!(harness.process.run_command(&["suppress", "check", "c@example.net"]).await.code, 0);
    assert_eq!(harness.run_sync(&[]).await, [""; 0]);
}

#[tokio::test]
async fn syncs_thousands_of_entries_in_pages() {
    let (there, harness) = start_pair().await;
    let many = |side: &str| {
        (0..ENTRY_COUNT).map(|number| format!("{side}{number:04}@example.net")).collect::<Vec<_>>()
    };
    let (theirs, ours) = (many("there"), many("here"));
    for some in theirs.chunks(1000) {
        there
            .add_entries(
                SuppressionList::Bounces,
                &some.iter().map(String::as_str).collect::<Vec<_>>(),
                DAYS_AGO,
            )
            .await;
    }
    let sheet = format!(
        "address,reason\n{}",
        ours.iter().map(|one| format!("{one},hard-bounce\n")).collect::<String>()
    );
    assert_eq!(harness.process.run_command_with_input(&["suppress", "import", "-"], &sheet).await.code, 0);
    let printed = harness.process.run_command(&["suppress", "sync"]).await;
    let summary = format!(
        "up: the provider lists {ENTRY_COUNT}; here {ENTRY_COUNT} added and 0 removed, there {ENTRY_COUNT} added and 0 removed\n"
    );
    assert_eq!((printed.code, printed.stdout), (0, summary), "{}", printed.stderr);
    let both = theirs.iter().chain(&ours).cloned().collect::<BTreeSet<_>>();
    assert_eq!(there.read_lists().await[&SuppressionList::Bounces], both);
    assert_eq!(harness.list_entries("provider").await.len(), ENTRY_COUNT);
    assert_eq!(harness.run_sync(&[]).await, [""; 0]);
}

#[tokio::test]
async fn next_sync_completes_killed_one() {
    let there = RemoteLists::new().await;
    let many: Vec<_> = (0..ENTRY_COUNT).map(|number| format!("there{number:04}@example.net")).collect();
    for some in many.chunks(1000) {
        there
            .add_entries(
                SuppressionList::Bounces,
                &some.iter().map(String::as_str).collect::<Vec<_>>(),
                DAYS_AGO,
            )
            .await;
    }
    // The second page fails.
    let items: Vec<_> = many[..1000]
        .iter()
        .map(|one| json!({"address": one, "created_at": "Thu, 15 Jan 2026 18:00:00 UTC"}))
        .collect();
    let slow = MockHttpServer::start(move |number, request| {
        let next = format!("http://{}/v3/mg.example.com/bounces?page=next", request.header("host").unwrap());
        let page = json!({"items": items, "paging": {"next": next}}).to_string();
        if number == 1 { HttpAction::Respond(200, page) } else { HttpAction::Hang }
    })
    .await;
    let mut harness = SyncHarness::new("mailgun", &format!("http://{}", slow.address)).await;
    for address in ["here@example.net", "too@example.net"] {
        let printed =
            harness.process.run_command(&["suppress", "add", address, "--reason", "hard-bounce"]).await;
        assert_eq!(printed.code, 0, "{}", printed.stderr);
    }
    let asking = tokio::task::spawn_blocking({
        let mut command = harness.process.command(&["suppress", "sync"]);
        move || command.output().unwrap()
    });
    eventually("the second request", || (slow.count() >= 1).then_some(())).await;
    harness.wait_for_entries(1000).await;
    let printed = harness.process.run_command(&["suppress", "sync", "--upstream", "up"]).await;
    assert!(
        printed.code == 1 && printed.stderr.contains("a sync is under way already"),
        "{}",
        printed.stderr
    );
    harness.process.kill();
    assert_eq!(asking.await.unwrap().status.code(), Some(3), "whoever asked hears of it");
    let text = render_config("mailgun", &there.api_url());
    let placed = fill_placeholders(
        &text,
        harness.process.data_dir().to_str().unwrap(),
        harness.process.address(1).port(),
    );
    harness.process.write_configuration(&placed);
    harness.process.start().await;
    assert_eq!(harness.list_entries("provider").await.len(), 1000, "what was taken in is kept");
    assert_eq!(harness.run_sync(&[]).await.len(), ENTRY_COUNT - 1000 + 2);
    assert_eq!(there.read_lists().await[&SuppressionList::Bounces].len(), ENTRY_COUNT + 2);
    assert_eq!(harness.run_sync(&[]).await, [""; 0]);
}

#[tokio::test]
async fn waits_for_rate_limited_provider() {
    let server = MockHttpServer::start(|number, _| match number {
        1 | 3 => HttpAction::Respond(429, "+ Retry-After: 1\n{}".into()),
        _ => HttpAction::Respond(200, "{\"items\":[],\"paging\":{}}".into()),
    })
    .await;
    let harness = SyncHarness::new("mailgun", &format!("http://{}", server.address)).await;
    let printed = harness.process.run_command(&["suppress", "sync"]).await;
    assert_eq!((printed.code, printed.stdout.lines().count()), (0, 1), "{}", printed.stderr);
    let waits = "mailtrail: up: rate limit of the provider; continues in 1 s\n";
    assert_eq!(printed.stderr, waits.repeat(2));
    assert_eq!(server.count(), 5, "each list once, and two refusals");
}

#[tokio::test]
async fn names_entries_rejected_by_provider_and_adds_others() {
    let server = MockHttpServer::start(|_, request| {
        let bad = request.body.windows(4).any(|four| four == b"bad@");
        match (request.line.starts_with("POST"), bad) {
            (true, true) => {
                HttpAction::Respond(400, "{\"message\":\"Invalid format for parameter address\"}".into())
            }
            (true, false) => HttpAction::Respond(200, "{}".into()),
            _ => HttpAction::Respond(200, "{\"items\":[],\"paging\":{}}".into()),
        }
    })
    .await;
    let harness = SyncHarness::new("mailgun", &format!("http://{}", server.address)).await;
    let sheet =
        "address,reason\na@example.net,complaint\nbad@example.net,complaint\nc@example.net,complaint\n";
    assert_eq!(harness.process.run_command_with_input(&["suppress", "import", "-"], sheet).await.code, 0);
    let printed = harness.process.run_command(&["--json", "suppress", "sync"]).await;
    assert_eq!(printed.code, 1);
    let lines = printed.json_lines();
    let acts: Vec<_> = lines.iter().map(|line| (line["address"].as_str(), line["why"].as_str())).collect();
    let why =
        "upstream up: complaints: the provider's API answered 400: Invalid format for parameter address";
    let expected = [
        (Some("a@example.net"), None),
        (Some("bad@example.net"), Some(why)),
        (Some("c@example.net"), None),
        (None, None),
    ];
    assert_eq!(acts, expected, "{lines:?}");
}

#[tokio::test]
async fn reads_brevo_lists_but_never_adds() {
    let contacts = r#"{"contacts":[
        {"email":"ada@example.net","senderEmail":"","blockedAt":"2026-01-14T14:00:06.000+02:00","reason":{"code":"hardBounce","message":"Hard bounce"}},
        {"email":"bob@example.org","senderEmail":"sales@example.com","blockedAt":"2026-01-14T14:12:00.000+02:00","reason":{"code":"unsubscribedViaEmail","message":"Unsubscribed"}},
        {"email":"eve@example.org","senderEmail":"","blockedAt":"2026-01-14T14:12:00.000+02:00","reason":{"code":"contactFlaggedAsSpam","message":"Spam"}}]}"#;
    let server = MockHttpServer::start(move |_, request| {
        assert!(request.line.starts_with("GET /v3/smtp/blockedContacts?"), "{}", request.line);
        HttpAction::Respond(200, contacts.into())
    })
    .await;
    let harness = SyncHarness::new("brevo", &format!("http://{}", server.address)).await;
    assert_eq!(
        harness
            .process
            .run_command(&["suppress", "add", "x@example.net", "--reason", "hard-bounce"])
            .await
            .code,
        0
    );
    let acts = [
        "taken-in complaint eve@example.org",
        "taken-in hard-bounce ada@example.net",
        "taken-in unsubscribe bob@example.org",
    ];
    assert_eq!(harness.run_sync(&[]).await, acts);
    let scopes: Vec<_> =
        harness.list_entries("provider").await.iter().map(|entry| entry["scope"].clone()).collect();
    assert_eq!(scopes, ["all", "bulk", "all"], "who left one sender gets mail of others");
    assert_eq!(harness.run_sync(&[]).await, [""; 0]);
    assert_eq!(harness.process.run_command(&["suppress", "remove", "ada@example.net"]).await.code, 0);
    assert_eq!(harness.run_sync(&["--dry-run"]).await, ["removed-there hard-bounce ada@example.net"]);
}

/// The time of an entry is read in every form; an unreadable time is unknown, and a removal here still removes the
/// entry there.
#[tokio::test]
async fn reads_entry_times_in_every_form() {
    let at = DAYS_AGO;
    let millis = at.as_secs() * 1000;
    let time = |text: String| json!(text);
    let written = at.to_string();
    let known = [
        json!(at.to_rfc5322().replace("+0000", "UTC")),
        json!(at.to_rfc5322().replace("+0000", "GMT")),
        time(written.replace(".000Z", "Z")),
        time(written.replace(".000Z", "+00:00")),
        time(written.replace(".000Z", "+0000")),
        time(written.replace(".000Z", "")),
        time(written.replace(".000Z", "").replace('T', " ")),
        json!(at.as_secs()),
        json!(at.as_secs().to_string()),
        json!(millis),
        json!(millis.to_string()),
        json!(at.as_secs() as f64),
    ];
    let unknown =
        [json!(null), json!("yesterday"), json!(""), json!({}), json!(-1), json!("0"), json!(1e300)];
    let mut items: Vec<Value> = Vec::new();
    for (place, time) in known.iter().chain(&unknown).enumerate() {
        items.push(json!({"address": format!("a{place}@example.net"), "code": "550", "created_at": time}));
    }
    items.push(json!({"address": "none@example.net", "code": "550"}));
    let count = items.len();
    let removed = std::sync::Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let gone = removed.clone();
    let server = MockHttpServer::start(move |_, request| {
        if let Some(path) = request.line.strip_prefix("DELETE /v3/mg.example.com/bounces/") {
            gone.lock().unwrap().insert(path.split(' ').next().unwrap().to_owned());
            return HttpAction::Respond(200, r#"{"message":"Bounced address has been removed"}"#.into());
        }
        let left = |item: &&Value| !gone.lock().unwrap().contains(item["address"].as_str().unwrap());
        let page: Vec<_> =
            if request.line.contains("/bounces") { items.iter().filter(left).collect() } else { Vec::new() };
        HttpAction::Respond(200, json!({"items": page, "paging": {}}).to_string())
    })
    .await;
    let harness =
        SyncHarness::with_config(&render_config("mailgun", &format!("http://{}", server.address))).await;
    assert_eq!(harness.run_sync(&[]).await.len(), count);
    let listed = harness.list_entries("provider").await;
    assert_eq!(listed.len(), count);
    for entry in &listed {
        let address = entry["address"].as_str().unwrap();
        let place = address.trim_start_matches('a').split('@').next().unwrap().parse::<usize>();
        let times =
            if place.is_ok_and(|place| place < known.len()) { json!([at.to_string()]) } else { json!([]) };
        assert_eq!(entry["times"], times, "{entry}");
        assert_eq!(entry["state"], "suppressed", "{entry}");
    }
    let checked = harness.process.run_command(&["suppress", "check", "none@example.net"]).await;
    assert!(
        checked.code == 0 && checked.stdout.contains("unknown") && !checked.stdout.contains("1970"),
        "{}",
        checked.stdout
    );
    assert_eq!(harness.run_sync(&[]).await, [""; 0], "nothing changes");
    // Removed here, removed there, whether or not its time is known.
    for place in [2, known.len(), known.len() + 2] {
        assert_eq!(
            harness.process.run_command(&["suppress", "remove", &format!("a{place}@example.net")]).await.code,
            0
        );
    }
    let done = harness.run_sync(&[]).await;
    assert_eq!(done.len(), 3, "{done:?}");
    assert!(done.iter().all(|act| act.starts_with("removed-there hard-bounce a")), "{done:?}");
    assert_eq!(removed.lock().unwrap().len(), 3);
    assert_eq!(harness.run_sync(&[]).await, [""; 0]);
}

/// An unreadable entry is named and removes no other, because it may be any address.
#[tokio::test]
async fn unreadable_entry_does_not_affect_others() {
    let page = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let printed = page.clone();
    let server = MockHttpServer::start(move |_, request| {
        let items =
            if request.line.contains("/bounces") { printed.lock().unwrap().clone() } else { String::new() };
        HttpAction::Respond(200, format!("{{\"items\":[{items}],\"paging\":{{}}}}"))
    })
    .await;
    let harness =
        SyncHarness::with_config(&render_config("mailgun", &format!("http://{}", server.address))).await;
    let entry = |address: &str, text: &str| {
        format!(
            r#"{{"address":"{address}","code":"550","error":"{text}","created_at":"{}"}}"#,
            DAYS_AGO.to_rfc5322()
        )
    };
    let set = |items: &[String]| *page.lock().unwrap() = items.join(",");
    set(&[entry("a@example.net", r"\ud83d"), entry("b@example.net", "x\u{1}")]);
    assert_eq!(harness.run_sync(&[]).await.len(), 2);
    for bad in [r#"{"address" "c@example.net"}"#, r#"{"address":7}"#, "7", r#"{"code":"550"}"#] {
        set(&[entry("a@example.net", "x"), bad.to_owned(), entry("new@example.net", "x")]);
        let out = harness.process.run_command(&["--json", "suppress", "sync", "--dry-run"]).await;
        assert_eq!(out.code, 0, "{}", out.stderr);
        let lines = out.json_lines();
        let acts: Vec<_> = lines.iter().filter(|line| line["act"].is_string()).collect();
        assert!(acts.iter().any(|act| act["address"] == "new@example.net"), "{lines:?}");
        assert!(!acts.iter().any(|act| act["act"] == "ended"), "{lines:?}");
        assert!(lines.iter().any(|line| line["unread"] == 1), "{lines:?}");
    }
}

/// The output states the effect of a removal at the provider, also if the entry stays there.
#[tokio::test]
async fn removal_states_what_happens_to_provider_entry() {
    let there = RemoteLists::new().await;
    let text = render_config("mailgun", &there.api_url());
    let automatic = text.replace("enabled = false", "enabled = true");
    let keyless: String =
        text.lines().filter(|line| !line.starts_with("api_")).map(|line| format!("{line}\n")).collect();
    for (text, expected) in [
        (automatic.clone(), "up: the next sync takes it off the provider's list"),
        (text, "up: it stays on the provider's list until `mailtrail suppress sync --upstream up`"),
        (
            automatic + "[suppression]\nsync = \"off\"\n",
            "up: it stays on the provider's list until `mailtrail suppress sync --upstream up`",
        ),
        (keyless, "up: without an api_key it stays on the provider's list"),
    ] {
        let harness = SyncHarness::with_config(&text).await;
        for (arguments, there) in
            [(&["a@example.net"][..], true), (&["b@example.net", "--upstream", "up"], true)]
        {
            assert_eq!(
                harness.process.run_command(&[&["suppress", "add"], arguments].concat()).await.code,
                0
            );
            let printed = harness.process.run_command(&[&["suppress", "remove"], arguments].concat()).await;
            assert_eq!(
                (printed.code, printed.stderr.contains(expected)),
                (0, there),
                "{expected}: {}",
                printed.stderr
            );
        }
    }
}

/// An unknown reason is no unsubscription.
#[tokio::test]
async fn reports_and_ignores_unknown_reason() {
    let contacts = r#"{"contacts":[
        {"email":"a@example.net","senderEmail":"","blockedAt":"2026-01-14T14:00:06.000+02:00","reason":{"code":"somethingNew","message":"?"}},
        {"email":"b@example.net","senderEmail":"","blockedAt":"2026-01-14T14:00:06.000+02:00","reason":{}},
        {"email":"c@example.net","senderEmail":"","blockedAt":"2026-01-14T14:00:06.000+02:00"},
        {"email":"d@example.net","senderEmail":"","blockedAt":"2026-01-14T14:00:06.000+02:00","reason":{"code":"adminBlocked"}},
        {"email":"e@example.net","senderEmail":"","blockedAt":"2026-01-14T14:00:06.000+02:00","reason":{"code":"unsubscribedViaApi"}}]}"#;
    let server = MockHttpServer::start(move |_, _| HttpAction::Respond(200, contacts.into())).await;
    let harness =
        SyncHarness::with_config(&render_config("brevo", &format!("http://{}", server.address))).await;
    let out = harness.process.run_command(&["--json", "suppress", "sync"]).await;
    let lines = out.json_lines();
    assert!(lines.iter().any(|line| line["unread"] == 3), "{lines:?}");
    let listed: Vec<_> = harness
        .list_entries("provider")
        .await
        .iter()
        .map(|one| one["address"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(listed, ["d@example.net", "e@example.net"]);
}

#[tokio::test]
async fn errors_name_cause_and_remedy() {
    let there = RemoteLists::new().await;
    let url = there.api_url();
    for (text, arguments, code, expected) in [
        (
            render_config("mailgun", &url).replace("key-1", "hunter2"),
            &[][..],
            1,
            "upstream up: bounces: the provider's API refused the api_key (401: Invalid private key); give the account's key \
             of this region",
        ),
        (
            render_config("mailgun", &url).replace("mg.example.com", "eu.example.com"),
            &[],
            1,
            "upstream up: bounces: the provider's API does not know it (404: Domain not found: eu.example.com); are \
             domain and region right?",
        ),
        (
            render_config("mailgun", &url),
            &["--upstream", "plain"],
            1,
            "upstream plain: its provider has no lists",
        ),
        (render_config("mailgun", &url), &["--upstream", "nobody"], 2, "there is no upstream \"nobody\""),
        (
            render_config("mailgun", &url).replace("api_key = \"key-1\"", ""),
            &[],
            2,
            "no upstream's provider can be asked for its lists: that needs the account's api_key",
        ),
    ] {
        let mut harness = SyncHarness::with_config(&text).await;
        let printed = harness.process.run_command(&[&["suppress", "sync"], arguments].concat()).await;
        assert_eq!(printed.code, code, "{}", printed.stderr);
        assert!(
            printed.stderr.contains(expected) && !printed.stderr.contains("hunter2"),
            "{}",
            printed.stderr
        );
        assert!(harness.process.terminate().await.success());
        let printed = harness.process.run_command(&["suppress", "sync"]).await;
        assert!(printed.code == 3 && printed.stderr.contains("no daemon runs"), "{}", printed.stderr);
    }
}

#[tokio::test]
async fn syncs_periodically() {
    let there = RemoteLists::new().await;
    there.add_entries(SuppressionList::Bounces, &["gone@example.net"], DAYS_AGO).await;
    let directory = tempfile::tempdir().unwrap();
    let text = render_config("mailgun", &there.api_url())
        .replace("DATA", directory.path().to_str().unwrap())
        .replace("DOOR", "0")
        .replace("enabled = false", "enabled = true");
    let mut config = config::parse(&text, Path::new("test.toml"), &BTreeMap::new()).unwrap();
    assert_eq!(config.suppression_sync_interval, Some(Duration::from_secs(86_400)));
    config.suppression_sync_interval = Some(Duration::from_millis(20));
    let daemon = Daemon::start(&config, Clock::System, None).await.unwrap();
    let live = || {
        let filed = daemon.store().evidence_for_address("gone@example.net").unwrap().pop()?;
        filed.evidence.active_for(Reason::HardBounce).cloned()
    };
    let taken = eventually("the entry", live).await;
    assert_eq!((taken.source, taken.expires_at), (EvidenceSource::Provider, None));
    assert!(there.api.remove_suppression(SuppressionList::Bounces, "gone@example.net").await.unwrap());
    eventually("its end", || live().filter(|live| live.expires_at.is_some())).await;
    daemon.stop().await;
}

#[tokio::test]
async fn periodic_sync_skips_disabled_peers() {
    let there = RemoteLists::new().await;
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path(), Clock::System).unwrap();
    for (every, by_itself) in [(None, true), (Some(Duration::from_millis(1)), false)] {
        let partners = vec![SyncPeer::new(sandbox_api(&there.sandbox), by_itself)];
        let syncer = SuppressionSync::new(
            store.clone(),
            Clock::System,
            suppression::SuppressionSettings::default(),
            partners,
        );
        // A periodic sync with a peer does not end.
        syncer.run(every, AlarmRegistry::new(Clock::System), CancellationToken::new()).await;
    }
    store.checkpoint().await;
}

/// The sandbox with its lists, read over the API.
struct RemoteLists {
    sandbox: Sandbox,
    api: ProviderApi,
    _directory: TempDir,
}

impl RemoteLists {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sandbox = mailtrail_sandbox::start(mailtrail_sandbox::SandboxSettings {
            smtp_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_key: Secret::new("key-1"),
            profile: mailtrail_sandbox::ProviderProfile::Mailgun,
            domain: "mg.example.com".into(),
            username: "postmaster@mg.example.com".into(),
            password: Secret::new("pw"),
            signing_key: Secret::new("signing"),
            webhook_url: None,
            time_scale: 0.0,
            faults: FaultInjection::default(),
            clock: Clock::System,
            tls: tls::load_self_signed(directory.path(), "localhost").unwrap(),
        });
        let sandbox = sandbox.await.unwrap();
        let api = sandbox_api(&sandbox);
        Self { sandbox, api, _directory: directory }
    }

    fn api_url(&self) -> String {
        format!("http://{}", self.sandbox.api_address())
    }

    async fn add_entries(&self, list: SuppressionList, addresses: &[&str], since: Timestamp) {
        let entry = |address: &&str| SuppressionEntry {
            address: (*address).to_owned(),
            since: Some(since),
            reason: (list == SuppressionList::Bounces).then(|| "no such user".to_owned()),
            ..SuppressionEntry::default()
        };
        self.api.add_suppressions(list, &addresses.iter().map(entry).collect::<Vec<_>>()).await.unwrap();
    }

    async fn read_lists(&self) -> BTreeMap<SuppressionList, BTreeSet<String>> {
        let (mut lists, mut place) = (BTreeMap::<_, BTreeSet<_>>::new(), None);
        loop {
            let page = self.api.fetch_suppressions(place.as_ref()).await.unwrap();
            for (list, entry) in page.entries {
                lists.entry(list).or_default().insert(entry.address);
            }
            place = page.next;
            if place.is_none() {
                return lists;
            }
        }
    }
}

fn sandbox_api(sandbox: &Sandbox) -> ProviderApi {
    let settings = ProviderApiSettings {
        upstream: "up".into(),
        provider: ProviderKind::Mailgun { domain: "mg.example.com".into(), events_api: EventsApi::Events },
        base_url: format!("http://{}", sandbox.api_address()).parse().unwrap(),
        api_key: Secret::new("key-1"),
    };
    ProviderApi::new(settings, &tls::build_connector(None).unwrap(), Clock::System).unwrap()
}

fn string_set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn start_pair() -> (RemoteLists, SyncHarness) {
    let there = RemoteLists::new().await;
    let harness = SyncHarness::new("mailgun", &there.api_url()).await;
    (there, harness)
}

/// The real program with the sandbox.
struct SyncHarness {
    process: RelayProcess,
}

impl SyncHarness {
    async fn new(provider: &str, url: &str) -> Self {
        Self::with_config(&render_config(provider, url)).await
    }

    async fn with_config(text: &str) -> Self {
        let mut process =
            RelayProcess::with_configuration(|data, ports| fill_placeholders(text, data, ports[1]));
        process.start().await;
        Self { process }
    }

    /// Runs a sync and returns its changes: action, reason and address, sorted.
    async fn run_sync(&self, arguments: &[&str]) -> Vec<String> {
        let printed = self.process.run_command(&[&["--json", "suppress", "sync"], arguments].concat()).await;
        assert_eq!(printed.code, 0, "{}{}", printed.stdout, printed.stderr);
        let mut lines = printed.json_lines();
        assert_eq!(lines.pop().unwrap(), json!({"upstream": "up", "step": "done"}));
        let text = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
        let act = |line: &Value| ["act", "reason", "address"].map(|name| text(line, name)).join(" ");
        let mut acts: Vec<_> = lines.iter().map(act).collect();
        acts.sort();
        acts
    }

    /// Entries of our list from a source.
    async fn list_entries(&self, source: &str) -> Vec<Value> {
        self.process
            .run_command(&["--json", "suppress", "list", "-n", "100000", "--source", source])
            .await
            .json_lines()
    }

    /// Waits until our list has this number of entries from the provider.
    async fn wait_for_entries(&self, count: usize) {
        for _ in 0..1000 {
            if self.list_entries("provider").await.len() == count {
                return;
            }
        }
        unreachable!("so many never came");
    }
}

fn fill_placeholders(text: &str, data: &str, listener: u16) -> String {
    text.replace("DATA", data).replace("DOOR", &listener.to_string())
}

fn render_config(provider: &str, url: &str) -> String {
    format!(
        r#"
[server]
hostname = "relay.example.com"
data_dir = "DATA"
[[listener]]
address = "127.0.0.1:DOOR"
tls = "none"
auth = "none"
[[upstream]]
name = "up"
provider = "{provider}"
domain = "mg.example.com"
host = "127.0.0.1"
port = 1
tls = "none"
username = "a"
password = "b"
api_key = "key-1"
api_base_url = "{url}"
[upstream.reconcile]
enabled = false
[[upstream]]
name = "plain"
provider = "plain"
host = "127.0.0.1"
port = 1
tls = "none"
"#
    )
}

const ENTRY_COUNT: usize = 2500;
const DAYS_AGO: Timestamp = Timestamp::from_secs(1_768_500_000);
