//! The operator's view of provider events, with the real program: received, unmatched and undecodable events, and
//! their replay.

use bytes::Bytes;
use mailtrail_mail::{Clock, Secret};
use mailtrail_store::Store;
use mailtrail_trail::provider::mailgun;
use mailtrail_trail::{DeadLetter, Diagnostic, EventKind, EventSource, ProviderEvent, ReceivedEvent};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use testkit::relay_process::RelayProcess;
use testkit::smtp_client::SmtpClient;

#[tokio::test]
async fn lists_events_with_their_state() {
    let mut harness = ProviderEventHarness::new();
    harness.process.start().await;
    let id = harness.submit_message("one@example.com", &["ada@example.net", "bob@example.org"]).await;
    let delivered = json!({"event": "delivered", "id": "1", "recipient": "ada@example.net", "user-variables": {"mailtrail": id}});
    let opened = event_with_message_id("opened", "2", "bob@example.org", "one@example.com");
    let strangers = event_with_message_id("clicked", "3", "eve@example.org", "one@example.com");
    let foreign = event_with_message_id("delivered", "4", "eve@example.org", "two@elsewhere.test");
    let nameless = json!({"event": "unsubscribed", "id": "5", "recipient": "eve@example.org"});
    let others =
        json!({"event": "opened", "id": "6", "user-variables": {"mailtrail": "01K54Z8Q3V7N5X9B2C6D8F0GHJ"}});
    for (token, data) in [delivered, opened, strangers, foreign, nameless, others].iter().enumerate() {
        assert_eq!(harness.post_event(signed_event(token, data)).await, 200);
    }
    let poison = signed_event(99, &json!([]));
    assert_eq!(
        (harness.post_event(poison.clone()).await, harness.post_event(poison.clone()).await),
        (200, 200)
    );
    // The same signature, also if another second has begun.
    let mut forged: Value = serde_json::from_slice(&poison).unwrap();
    forged["event-data"] = json!(null);
    let forged = forged.to_string().into_bytes();
    assert_eq!(harness.post_event(forged).await, 406, "the token was used with another body");
    harness.wait_for_metric("mailtrail_webhook_requests_total{upstream=\"up\",outcome=\"dead\"} 1").await;

    for running in [true, false] {
        if !running {
            assert!(harness.process.terminate().await.success());
        }
        let all = harness.process.run_command(&["--json", "events", "list"]).await.json_lines();
        let shown = |view: &Value| {
            [&view["event"], &view["state"], &view["send"], &view["joined_by"]].map(Value::clone)
        };
        let expected = [
            json!(["delivered", "joined", id, "tracking-id"]),
            json!(["opened", "joined", id, "message-id"]),
            json!(["clicked", "orphan", null, null]),
            json!(["delivered", "orphan", null, null]),
            json!(["unsubscribed", "orphan", null, null]),
            json!(["opened", "orphan", null, null]),
            json!(["dead", "dead", null, null]),
        ];
        assert_eq!(
            all.iter().map(|view| json!(shown(view))).collect::<Vec<_>>(),
            expected,
            "running: {running}"
        );
        let filtered = async |arguments: &[&str]| {
            let printed = harness.process.run_command(&[&["--json", "events"], arguments].concat()).await;
            (
                printed.code,
                printed.json_lines().into_iter().map(|view| view["id"].clone()).collect::<Vec<_>>(),
            )
        };
        let some =
            |places: &[usize]| (0, places.iter().map(|place| all[*place]["id"].clone()).collect::<Vec<_>>());
        assert_eq!(filtered(&["list", "-n", "2"]).await, some(&[5, 6]));
        assert_eq!(filtered(&["list", &id]).await, some(&[0, 1]));
        assert_eq!(filtered(&["list", "--event", "opened"]).await, some(&[1, 5]));
        assert_eq!(filtered(&["list", "--to", "EVE@", "--since", "1h ago"]).await, some(&[2, 3, 4]));
        assert_eq!(filtered(&["orphans", "--event", "delivered"]).await, some(&[3]));
        assert_eq!(filtered(&["orphans", "-n", "3"]).await, some(&[3, 4, 5]));
        assert_eq!(filtered(&["orphans"]).await, some(&[2, 3, 4, 5]));
        assert_eq!(filtered(&["dead"]).await, some(&[6]));
        for nothing in [["dead", "--upstream", "other"], ["list", "--until", "1h ago"]] {
            assert_eq!(filtered(&nothing).await, (1, vec![]));
        }
        let reasons = [
            "no send with the Message-ID <one@example.com> is to eve@example.org",
            "no send has the Message-ID <two@elsewhere.test>: forgotten, or mail that did not go through here",
            "it names nothing that it could be joined by: no tracking id, no Message-ID",
            "no send has the tracking id 01K54Z8Q3V7N5X9B2C6D8F0GHJ: forgotten, or of another mailtrail",
            "it is signed and holds no event",
        ];
        assert_eq!(all[2..].iter().map(|view| view["reason"].as_str().unwrap()).collect::<Vec<_>>(), reasons);
        let text = harness.process.run_command(&["events", "orphans"]).await.stdout;
        let line = text.lines().find(|line| line.contains(reasons[1])).unwrap();
        let cells: Vec<_> = line.split('\t').collect();
        assert_eq!(
            cells[..5],
            [to_text(&all[3]["id"]), to_text(&all[3]["arrived"]), "up", "delivered", "eve@example.org"]
        );
        assert_eq!(cells[5], to_text(&all[3]["ages_out"]), "thirty days");
        let kept = harness.process.run_command(&["events", "show", to_text(&all[6]["id"])]).await;
        assert_eq!((kept.code, kept.stdout.as_bytes()), (0, &*poison));
        let kept = harness
            .process
            .run_command(&["--json", "events", "show", to_text(&all[0]["id"])])
            .await
            .json_lines()
            .remove(0);
        assert_eq!((&kept["state"], kept["raw"].is_string()), (&json!("joined"), true));
        let unknown = harness.process.run_command(&["events", "show", &id]).await;
        assert_eq!(unknown.code, 1, "{}", unknown.stderr);
    }
    let replay = harness.process.run_command(&["events", "replay", "ALL"]).await;
    assert_eq!(replay.code, 3, "{}", replay.stderr);
    for senseless in
        [&["list", "--event", "eaten"][..], &["show", "x"], &["replay"], &["replay", &id, "--dead"]]
    {
        assert_eq!(
            harness.process.run_command(&[&["events"], senseless].concat()).await.code,
            2,
            "{senseless:?}"
        );
    }
    let log = Command::new(env!("CARGO_BIN_EXE_mailtrail")).args(["events", "--help"]).output().unwrap();
    assert!(String::from_utf8_lossy(&log.stdout).contains("Example: mailtrail events"));
}

/// A version before this one could not read what this one can.
#[tokio::test]
async fn lists_contact_hints_with_events_and_by_address() {
    let mut harness = ProviderEventHarness::new();
    harness.process.start().await;
    assert_eq!(
        harness
            .post_event(signed_event(
                1,
                &event_with_message_id("opened", "1", "ada@example.net", "one@example.com")
            ))
            .await,
        200
    );
    let date = "date_time=2026-09-14T12%3A00%3A00Z&contact%5Bemail%5D=Ada%40example.net";
    for form in ["type=open", "type=unsubscribe&list=3&unsubscribe%5Breason%5D=Too+many"] {
        let body = format!("{form}&{date}").into_bytes();
        assert_eq!(harness.post_to("campaigns/the-secret-of-the-campaigns", body).await, 200);
    }
    for running in [true, false] {
        if !running {
            assert!(harness.process.terminate().await.success());
        }
        let hints = harness
            .process
            .run_command(&["--json", "events", "list", "--event", "hint", "--to", "ada@"])
            .await
            .json_lines();
        let shown = |view: &Value| {
            json!([view["upstream"], view["event"], view["state"], view["name"], view["text"], view["at"]])
        };
        let at = "2026-09-14T12:00:00.000Z";
        let expected = [
            json!(["campaigns", "hint", "hint", "open", null, at]),
            json!(["campaigns", "hint", "hint", "unsubscribe", "Too many", at]),
        ];
        assert_eq!(hints.iter().map(shown).collect::<Vec<_>>(), expected, "{running}");
        assert_eq!(harness.process.run_command(&["--json", "events", "list"]).await.json_lines().len(), 3);
        let id = to_text(&hints[1]["id"]);
        let raw = harness.process.run_command(&["events", "show", id]).await;
        assert!(raw.stdout.starts_with("type=unsubscribe&list=3"), "{} {}", raw.stdout, raw.stderr);
        if running {
            assert_eq!(harness.replay_events(&[id]).await, (0, to_strings(&["unchanged"])));
        }
        let checked = harness.process.run_command(&["suppress", "check", "ada@example.net"]).await;
        let lines: Vec<_> = checked.stdout.lines().map(|line| line.split('\t').collect::<Vec<_>>()).collect();
        assert_eq!((checked.code, lines.len()), (0, 3), "{} {}", checked.stdout, checked.stderr);
        let entry = ["ada@example.net", "all", "unsubscribe", "suppressed", "bulk", "", at, "1", "hint"];
        assert_eq!(lines[0][..9], entry);
        assert_eq!(lines[0][9], "unsubscribe at campaigns: Too many");
        assert_eq!(lines[1], ["campaigns", "unsubscribed", at, "3", "unsubscribe", "Too many"]);
        assert_eq!(lines[2][..2], ["campaigns", "opened"]);
    }
}

#[tokio::test]
async fn replay_applies_now_decodable_event_once() {
    let mut harness = ProviderEventHarness::new();
    let now = Clock::System.now();
    let bounced =
        signed_event(1, &event_with_message_id("failed", "1", "ada@example.net", "one@example.com"));
    let waiting =
        signed_event(2, &event_with_message_id("delivered", "2", "ada@example.net", "two@example.com"));
    let opened = signed_event(3, &event_with_message_id("opened", "3", "ada@example.net", "one@example.com"));
    let dead_letters = [bounced, waiting, b"{nothing".to_vec()];
    let event = ProviderEvent {
        kind: EventKind::Unknown,
        automated: true,
        diagnostic: Diagnostic::default(),
        ..mailgun::decode_raw(&opened, now).unwrap()
    };
    {
        let (store, _) = Store::open(&harness.process.data_dir(), Clock::System).unwrap();
        for (number, raw) in (0..).zip(&dead_letters) {
            let (upstream, reason) = ("up".to_owned(), "unheard of".to_owned());
            let dead_letter = DeadLetter {
                upstream,
                received_at: now,
                source: EventSource::Webhook,
                token: None,
                body_digest: [number; 16],
                reason,
            };
            store.put_dead_letter(dead_letter, Bytes::from(raw.clone())).await.unwrap();
        }
        let notice = ReceivedEvent {
            upstream: "up".into(),
            received_at: now,
            source: EventSource::Webhook,
            token: None,
            event,
        };
        store.put_event(notice.clone(), Bytes::from(opened)).await.unwrap();
        let event = ProviderEvent { message_id: None, ..notice.event.clone() };
        store
            .put_event(ReceivedEvent { upstream: "gone".into(), event, ..notice }, Bytes::from("{}"))
            .await
            .unwrap();
    }
    harness.process.start().await;
    harness.wait_for_metric("mailtrail_dead_events 3").await;
    harness.wait_for_metric("mailtrail_orphan_events 2").await;
    let id = harness.submit_message("one@example.com", &["ada@example.net"]).await;
    let dead = harness.process.run_command(&["--json", "events", "dead"]).await.json_lines();
    let ids: Vec<_> = dead.iter().map(|view| to_text(&view["id"]).to_owned()).collect();
    let raw = async |id: &str| harness.process.run_command(&["events", "show", id]).await.stdout.into_bytes();
    let mut by_letter = Vec::new();
    for dead_letter in &dead_letters {
        for id in &ids {
            if raw(id).await == *dead_letter {
                by_letter.push(id.clone());
            }
        }
    }
    let [joins, waits, poison] = &by_letter[..] else { unreachable!("there are three letters") };

    let before = harness.trail_without_attempts(&id).await;
    let dry =
        harness.process.run_command(&["--json", "events", "replay", joins, waits, poison, "--dry-run"]).await;
    assert_eq!(harness.trail_without_attempts(&id).await, before);
    let real = ["--json", "events", "replay", "-", "--reason", "they are JSON now"];
    let real = harness.process.run_command_with_input(&real, &by_letter.join("\n")).await;
    for printed in [dry, real] {
        assert_eq!(printed.code, 1, "one is still dead");
        let outcome = |id: &String| printed.json_lines().into_iter().find(|one| one["id"] == **id).unwrap();
        assert_eq!(
            (outcome(joins)["outcome"].clone(), outcome(joins)["send"].clone()),
            (json!("joined"), json!(id))
        );
        assert_eq!(outcome(waits)["outcome"], "orphan");
        assert_eq!(outcome(poison)["outcome"], "dead");
        assert!(to_text(&outcome(poison)["why"]).starts_with("the body is not JSON: "));
    }
    let trail = harness.trail_without_attempts(&id).await;
    let marks = |trail: &Value| trail["recipients"][0]["marks"].clone();
    assert_eq!(marks(&trail)["bounced"]["count"], 1, "{trail}");
    let left = harness.process.run_command(&["--json", "events", "dead"]).await.json_lines();
    assert_eq!(left.iter().map(|view| to_text(&view["id"])).collect::<Vec<_>>(), [poison]);

    // All events: known ones change nothing, and the unknown kind is decoded now.
    assert_eq!(marks(&trail)["unknown-by-machine"]["count"], 1, "{trail}");
    assert_eq!(
        harness.replay_events(&["ALL", "--orphans"]).await,
        (0, to_strings(&["unchanged", "unchanged"]))
    );
    let all = to_strings(&["changed", "dead", "unchanged", "unchanged", "unchanged"]);
    assert_eq!(harness.replay_events(&["ALL", "--since", "1h ago"]).await, (1, all));
    let after = harness.trail_without_attempts(&id).await;
    assert_eq!(marks(&after)["opened"]["count"], 1);
    assert_eq!(
        (marks(&after)["bounced"]["count"].clone(), marks(&after)["unknown-by-machine"].clone()),
        (json!(1), Value::Null)
    );
    for _ in 0..2 {
        assert_eq!(
            harness.replay_events(&["ALL"]).await,
            (1, to_strings(&["dead", "unchanged", "unchanged", "unchanged", "unchanged"]))
        );
        assert_eq!(harness.replay_events(&["ALL", "--dead"]).await, (1, to_strings(&["dead"])));
        assert_eq!(harness.trail_without_attempts(&id).await, after);
        assert!(harness.process.terminate().await.success());
        harness.process.start().await;
    }
    let unknown = harness.process.run_command(&["events", "replay", &id]).await;
    assert_eq!((unknown.code, unknown.stderr.trim()), (1, &*format!("mailtrail: no event has the id {id}")));
    let nothing = harness.process.run_command(&["events", "replay", "-"]).await;
    assert_eq!((nothing.code, nothing.stderr.trim()), (1, "mailtrail: no ids on standard input"));
    // Its mail comes now.
    let id = harness.submit_message("two@example.com", &["ada@example.net"]).await;
    assert_eq!(marks(&harness.trail_without_attempts(&id).await)["delivered"]["count"], 1);
    let log = harness.process.run_command(&["--json", "log", "--status", "replayed"]).await.json_lines();
    assert_eq!(log.len(), 3);
    assert!(to_text(&log[0]["name"]).starts_with("uid "), "{}", log[0]);
    let why = log.iter().map(|line| to_text(&line["text"]).split_once(": ").map(|(_, why)| why));
    assert_eq!(why.collect::<Vec<_>>(), [Some("they are JSON now"), Some("they are JSON now"), None]);
    harness.process.wait_for_log("an operator had reports read anew").await;
}

/// The real program with an upstream that cannot be reached, and its doors.
struct ProviderEventHarness {
    process: RelayProcess,
    ports: [u16; 3],
    client: reqwest::Client,
}

impl ProviderEventHarness {
    fn new() -> Self {
        let mut ports = [0; 3];
        let process = RelayProcess::with_configuration(|data_dir, own| {
            ports = own;
            render_config(data_dir, own)
        });
        let tls = mailtrail_net::tls::build_client_config(None).unwrap();
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
        Self { process, ports, client }
    }

    /// A mail that can be found.
    async fn submit_message(&self, message_id: &str, to: &[&str]) -> String {
        let mut client = SmtpClient::connect(self.process.address(1)).await.unwrap();
        let message =
            format!("From: app@example.com\r\nSubject: x\r\nMessage-ID: <{message_id}>\r\n\r\nx\r\n");
        let id = client.submit("app@example.com", to, &message).await.unwrap();
        let found = async { while self.process.run_command(&["trace", &id]).await.code != 0 {} };
        tokio::time::timeout(testkit::WAIT_TIMEOUT, found).await.unwrap();
        id
    }

    async fn post_event(&self, body: Vec<u8>) -> u16 {
        self.post_to("up", body).await
    }

    async fn post_to(&self, path: &str, body: Vec<u8>) -> u16 {
        let url = format!("http://127.0.0.1:{}/webhooks/{path}", self.ports[0]);
        let status = self.client.post(url).body(body).send().await.unwrap().status().as_u16();
        // Events of one millisecond have no order.
        tokio::time::sleep(Duration::from_millis(2)).await;
        status
    }

    async fn wait_for_metric(&self, line: &str) {
        let url = format!("http://127.0.0.1:{}/metrics", self.ports[2]);
        let printed = async {
            while !self.client.get(&url).send().await.unwrap().text().await.unwrap().contains(line) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(testkit::WAIT_TIMEOUT, printed).await.expect(line);
    }

    /// Returns the trail without attempts, which come at any time.
    async fn trail_without_attempts(&self, id: &str) -> Value {
        let mut trail = self.process.run_command(&["--json", "trace", id]).await.json_lines().remove(0);
        let timeline =
            trail["timeline"].as_array().unwrap().iter().filter(|fact| fact["source"] == "webhook");
        let (timeline, recipients) = (timeline.cloned().collect::<Vec<_>>(), trail["recipients"].take());
        let recipients = recipients.as_array().unwrap().iter().map(|one| {
            let mut marks = one["marks"].clone();
            marks.as_object_mut().unwrap().remove("deferred");
            json!({"marks": marks})
        });
        json!({"timeline": timeline, "recipients": recipients.collect::<Vec<_>>()})
    }

    /// The code, and what became of the reports.
    async fn replay_events(&self, which: &[&str]) -> (i32, Vec<String>) {
        let printed = self.process.run_command(&[&["--json", "events", "replay"], which].concat()).await;
        let mut outcomes: Vec<_> =
            printed.json_lines().iter().map(|one| to_text(&one["outcome"]).to_owned()).collect();
        outcomes.sort();
        (printed.code, outcomes)
    }
}

/// An event that names its mail by the Message-ID only.
fn event_with_message_id(event: &str, id: &str, recipient: &str, message_id: &str) -> Value {
    json!({
        "event": event, "severity": "permanent", "id": id, "recipient": recipient,
        "timestamp": Clock::System.now().as_secs(), "message": {"headers": {"message-id": message_id}}
    })
}

fn signed_event(token: usize, data: &Value) -> Vec<u8> {
    let (timestamp, token) = (Clock::System.now().as_secs().to_string(), format!("token {token}"));
    let signature = mailgun::sign_webhook(&Secret::new(SIGNING_KEY), &timestamp, &token);
    let signature = json!({"timestamp": timestamp, "token": token, "signature": signature});
    json!({"signature": signature, "event-data": data}).to_string().into_bytes()
}

fn to_text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn to_strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn render_config(data_dir: &str, [http, listener, page]: [u16; 3]) -> String {
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
provider = "mailgun"
host = "127.0.0.1"
port = 1
tls = "none"
username = "u"
password = "p"
webhook_signing_key = "{SIGNING_KEY}"
[[source]]
name = "campaigns"
kind = "activecampaign"
secret = "the-secret-of-the-campaigns"
[upstream.retry]
first = "1h"
max = "1h"
[http]
address = "127.0.0.1:{http}"
[admin]
address = "127.0.0.1:{page}"
"#
    )
}

const SIGNING_KEY: &str = "test-webhook-signing-key";
