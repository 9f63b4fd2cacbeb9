//! `--json`: one object per line with fields that scripts rely on. Fields are only added; a removed or renamed field
//! fails here.

use mailtrail_mail::Secret;
use mailtrail_sandbox::ProviderProfile;
use mailtrail_trail::provider::mailgun::sign_webhook;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};
use testkit::mock_http::{HttpAction, MockHttpServer};
use testkit::sandbox_harness::{DOMAIN, SandboxHarness, WEBHOOK_SECRET};
use testkit::smtp_client::SmtpClient;

/// Runs every command that lists something, on a store in which there is something to be listed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_prints_json_objects_with_documented_fields() {
    let endpoint = MockHttpServer::start(|_, _| HttpAction::Respond(422, "no".into())).await;
    let mut harness = populated_harness(&endpoint).await;
    let waiting = harness.process.run_command(&["queue", "list", "--ids"]).await.stdout.trim().to_owned();
    let event = harness.process.run_command(&["--json", "events", "list"]).await.json_lines().remove(0);
    let mail = harness.process.run_command(&["--json", "inbound", "dead"]).await.json_lines().remove(0);
    let [event, mail] = [event, mail].map(|one| one["id"].as_str().unwrap().to_owned());
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("copy").to_str().unwrap().to_owned();
    let mut table = Vec::new();
    for words in COMMAND_FIELDS.iter().map(|(words, _)| *words) {
        let words = words.replace("WAITING", &waiting).replace("EVENT", &event).replace("MAIL", &mail);
        let words = words.replace("COPY", &copy);
        let arguments: Vec<_> = std::iter::once("--json").chain(words.split(' ')).collect();
        let output = harness.process.run_command_with_input(&arguments, "a password\n").await;
        assert!(!output.stdout.is_empty(), "{words} has nothing to say: {}", output.stderr);
        let objects = output.stdout.lines().map(|line| {
            let object: Result<Map<String, Value>, _> = serde_json::from_str(line);
            object.unwrap_or_else(|error| unreachable!("{words}: {error}: {line}"))
        });
        // The fields that are always present.
        let fields = objects.map(|object| object.keys().cloned().collect::<BTreeSet<_>>());
        table.push(fields.reduce(|all, more| &all & &more).unwrap());
    }
    for ((words, expected), fields) in COMMAND_FIELDS.iter().zip(&table) {
        let missing: Vec<_> = expected.split(' ').filter(|field| !fields.contains(*field)).collect();
        assert!(missing.is_empty(), "{words} lacks {missing:?}: {fields:?}");
    }
    assert!(harness.process.terminate().await.success());
}

/// A relay with a bit of everything.
async fn populated_harness(endpoint: &MockHttpServer) -> SandboxHarness {
    let mut harness = SandboxHarness::new(ProviderProfile::Mailgun).await;
    let open = harness.process.address(2);
    harness.process.write_configuration(&format!(
        "{}\n[[listener]]\naddress = \"{open}\"\ntls = \"none\"\nauth = \"none\"\n\
         [[sink]]\nname = \"hook\"\nkind = \"http\"\nurl = \"http://{}/\"\nsecret = \"s\"\nallow_private = true\n\
         [[inbound.target]]\ndeliver = \"http\"\nurl = \"http://{}/in\"\nsecret = \"s\"\nallow_private = true\n",
        harness.configuration, endpoint.address, endpoint.address
    ));
    harness.process.start().await;
    let mut client = SmtpClient::connect(open).await.unwrap();
    let text = "Message-ID: <1.2-openerp-42-sale.order@example.com>\r\nX-Mailgun-Tag: spring\r\nSubject: Offer\r\n\r\nhi\r\n";
    for to in [
        "ada@example.net",
        "open@example.net",
        "bounce@example.net",
        "complain@example.net",
        "defer-smtp@example.net",
    ] {
        client.submit("shop@mg.example.com", &[to], text).await.unwrap();
    }
    for (subject, words) in [
        (
            "no send of ours",
            json!({
                "event": "delivered", "id": "o-1", "timestamp": now_seconds(), "recipient": "eve@example.net",
                "message": {"headers": {"message-id": "unknown@example.com"}},
            }),
        ),
        ("no event", json!([])),
    ] {
        let (at, token) = (now_seconds().to_string(), format!("token of {subject}"));
        let signature = json!({"timestamp": at, "token": token, "signature": sign_webhook(&Secret::new(WEBHOOK_SECRET), &at, &token)});
        let body = json!({"signature": signature, "event-data": words}).to_string();
        assert_eq!(post_body(&harness, "webhooks/up", "application/json", body).await, 200, "{subject}");
    }
    let (at, token) = (now_seconds().to_string(), "token of a mail");
    let signature = sign_webhook(&Secret::new(WEBHOOK_SECRET), &at, token);
    let mail = "From: ada@example.net\r\nMessage-ID: <2@example.net>\r\n\r\nhello\r\n";
    let reply = format!("reply@{DOMAIN}");
    let form = [
        ("recipient", &*reply),
        ("sender", "ada@example.net"),
        ("body-mime", mail),
        ("timestamp", &at),
        ("token", token),
        ("signature", &signature),
    ];
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    assert_eq!(post_body(&harness, "inbound/up/mime", "application/x-www-form-urlencoded", body).await, 200);
    for questions in [
        &["events", "orphans"][..],
        &["events", "dead"],
        &["inbound", "dead"],
        &["queue", "list"],
        &["suppress", "list", "--reason", "complaint"],
        &["suppress", "list", "--reason", "hard-bounce"],
        &["log", "--status", "opened"],
    ] {
        let there = async {
            while harness.process.run_command(&[&["--json"], questions].concat()).await.stdout.is_empty() {}
        };
        let there = tokio::time::timeout(testkit::WAIT_TIMEOUT, there).await;
        assert!(there.is_ok(), "{questions:?} has nothing to say: {}", harness.process.log());
    }
    harness
}

async fn post_body(harness: &SandboxHarness, path: &str, kind: &str, body: String) -> u16 {
    let tls = mailtrail_net::tls::build_client_config(None).unwrap();
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
    let request = client.post(format!("http://{}/{path}", harness.process.address(1)));
    request.header("content-type", kind).body(body).send().await.unwrap().status().as_u16()
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Commands, and the fields that each of their lines has.
const COMMAND_FIELDS: &[(&str, &str)] = &[
    (
        "trace ada@example.net",
        "accepted attempts client envid from id lane message_id next_action next_at peer recipients record record_url ret route size subject tags timeline user",
    ),
    (
        "trace sale.order,42",
        "accepted attempts client envid from id lane message_id next_action next_at peer recipients record record_url ret route size subject tags timeline user",
    ),
    (
        "log",
        "at by_machine client code enhanced event from host id joined_by message_id name next_attempt recipients record record_url source subject tags text upstream url",
    ),
    ("queue list", "accepted attempts from id lane next_at reason size state to"),
    (
        "queue show WAITING",
        "accepted attempts client envid from id lane message_id next_action next_at peer recipients record record_url ret route size subject tags timeline user",
    ),
    ("queue shape", "ages domain total upstream"),
    ("queue hold WAITING --dry-run", "done id why"),
    (
        "events list",
        "ages_out arrived at by_machine event id joined_by message_id name reason recipient send source state test_mode text tracking_id upstream",
    ),
    (
        "events orphans",
        "ages_out arrived at by_machine event id joined_by message_id name reason recipient send source state test_mode text tracking_id upstream",
    ),
    (
        "events dead",
        "ages_out arrived at by_machine event id joined_by message_id name reason recipient send source state test_mode text tracking_id upstream",
    ),
    (
        "events show EVENT",
        "ages_out arrived at by_machine event id joined_by message_id name raw raw_base64 reason recipient send source state test_mode text tracking_id upstream",
    ),
    (
        "inbound list",
        "arrived attempts from id message_id next_attempt since size state subject target text to upstream",
    ),
    (
        "inbound dead",
        "arrived attempts from id message_id next_attempt since size state subject target text to upstream",
    ),
    (
        "inbound show MAIL",
        "arrived attempts from id message_base64 message_id next_attempt since size state subject target text to upstream",
    ),
    ("breaker status", "connections host paused_until quota_used reason slowed_to state until upstream"),
    ("sink list", "at cursor delayed is_up_to_date refused sink"),
    (
        "stats",
        "bounce_rate bounced by by_machine cancelled click_rate clicked complained complaint_rate deferred delivered delivery_rate failed group open open_rate opened recipients relayed soft_bounce_rate suppressed unsubscribed",
    ),
    (
        "stats --by tag",
        "bounce_rate bounced by by_machine cancelled click_rate clicked complained complaint_rate deferred delivered delivery_rate failed group open open_rate opened recipients relayed soft_bounce_rate suppressed unsubscribed",
    ),
    ("suppress list", "address expires reason scope source state times until upstream words"),
    (
        "suppress check bounce@example.net",
        "address expires reason scope source state times until upstream words",
    ),
    ("suppress add --dry-run eve@example.net", "address outcome why"),
    ("suppress sync --dry-run", "step upstream"),
    ("export ada@example.net", "id kind message_id"),
    (
        "erase --dry-run ada@example.net",
        "bodies inbound pseudonym records reports sends step suppressed waiting",
    ),
    ("store verify", "bytes queued records segments sends step whole"),
    ("store rebuild", "records step"),
    ("store backup COPY", "bytes directory segments step until"),
    (
        "log --status store-backup",
        "at by_machine client code enhanced event from host id joined_by message_id name next_attempt recipients record record_url source subject tags text upstream url",
    ),
    ("config check", "file key line message severity variable"),
    (
        "config show",
        "admin alarms bulk duplicates http inbound limits listener log reports retention server sink suppression upstream user",
    ),
    ("doctor --resolver 127.0.0.1:9 --timeout 1", "check remedy status subject what"),
    ("user hash", "hash"),
];
