//! Webhooks over HTTP, against a whole relay.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use bytes::Bytes;
use mailtrail::clock::{Clock, Timestamp};
use mailtrail::config;
use mailtrail::daemon::Daemon;
use mailtrail::event::Kind;
use mailtrail::id::TrackingId;
use mailtrail::ledger::{Accepted, MarkKind, Recipient, Send, Source, State};
use mailtrail::mail::MessageId;
use mailtrail::provider::mailgun;
use mailtrail::secret::Secret;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

#[tokio::test]
async fn every_recorded_body_gets_its_answer_and_has_its_effect() {
    let expectations: Map<String, Value> = serde_json::from_slice(&fixture("expected.json")).unwrap();
    let mut joined = 0;
    for (file, expected) in &expectations {
        let signed = expected["signature_timestamp"].as_u64().unwrap_or(START);
        let late = if file.contains("8h_late") { 8 * 3600 } else { 30 };
        let scene = Scene::at(signed + late, KEY).await;
        scene.accept(SENT, &["ada@example.net", "bob@example.org"]).await;
        let answer = scene.post(fixture(file)).await;
        assert_eq!(u64::from(answer), expected["answer"], "{file}");
        let ours = answer == 200 && !file.contains("foreign");
        for recipient in scene.recipients(SENT) {
            let marked: Vec<_> = recipient.marks.iter().map(|(kind, mark)| (*kind, mark.count)).collect();
            if ours && expected["recipient"] == recipient.address.as_str() {
                assert_eq!(marked, [(mark(expected["kind"].as_str().unwrap()), 1)], "{file}");
                joined += 1;
            } else {
                assert_eq!(marked, [], "{file}");
            }
        }
    }
    assert!(joined > 20, "{joined}");
}

#[tokio::test]
async fn a_repetition_is_welcome_and_changes_nothing() {
    let scene = Scene::at(START + 3600, KEY).await;
    scene.accept(SENT, &["ada@example.net"]).await;
    for file in [
        "webhook_delivered.json",
        "webhook_delivered.json",
        "webhook_dup_same_token.json",
        "webhook_dup_same_event_new_token.json",
    ] {
        assert_eq!(scene.post(fixture(file)).await, 200, "{file}");
    }
    // The signature covers no body: its second use with another is somebody else's.
    assert_eq!(scene.post(fixture("good_signature_foreign_body.json")).await, 406);
    let opened = fixture("webhook_opened.json");
    let at_once = futures_util::future::join_all((0..8).map(|_| scene.post(opened.clone()))).await;
    assert_eq!(at_once, [200; 8]);
    let ada = &scene.recipients(SENT)[0];
    let counts = [Kind::Delivered, Kind::Opened].map(|kind| ada.marks.of(kind).unwrap().count);
    assert_eq!((counts, ada.marks.iter().count(), ada.state()), ([1, 1], 2, State::Delivered));
    let facts = scene.daemon.store().trail(SENT.parse().unwrap()).unwrap().unwrap().facts;
    assert_eq!(facts.iter().filter(|fact| fact.source == Source::Webhook).count(), 2);
}

#[tokio::test]
async fn a_late_retry_is_taken_and_a_stale_one_is_not() {
    for (age, answer) in [(8 * 3600, 200), (24 * 3600 - 60, 200), (24 * 3600 + 5, 406)] {
        let scene = Scene::at(START + age, KEY).await;
        assert_eq!(scene.post(signed(KEY, START, "token", delivered("1"))).await, answer, "{age}");
    }
    // Our own clock is wrong, maybe: worth a repetition.
    let scene = Scene::at(START, KEY).await;
    assert_eq!(scene.post(signed(KEY, START + 3600, "token", delivered("1"))).await, 503);
}

#[tokio::test]
async fn both_keys_of_a_rotation_are_good() {
    let scene = Scene::at(START, "[\"old\", \"new\"]").await;
    for (key, answer) in [("old", 200), ("new", 200), ("other", 406), ("", 406)] {
        assert_eq!(scene.post(signed(key, START, key, delivered(key))).await, answer, "{key}");
    }
}

#[tokio::test]
async fn strangers_and_giants_are_told_so() {
    let scene = Scene::at(START, KEY).await;
    let good = signed(KEY, START, "token", delivered("1"));
    for path in ["webhooks/nobody", "webhooks/", "webhooks/up/x", "nothing", "webhooks/%ff"] {
        let status = scene.post_to(path, good.clone()).await;
        assert!(status == 404 || (path.contains("%ff") && status == 400), "{path}: {status}");
    }
    let padded = |length: usize| {
        let empty = signed(KEY, START, "token", json!({"event": "delivered", "padding": ""})).len();
        let padding = "x".repeat(length - empty);
        signed(KEY, START, "token", json!({"event": "delivered", "padding": padding}))
    };
    assert_eq!(scene.post(padded((1 << 20) + 1)).await, 413);
    assert_eq!(scene.post(vec![b'x'; 5 << 20]).await, 413);
    assert_eq!(scene.post(padded(1 << 20)).await, 200);
    let got = scene.client.get(format!("{}/webhooks/up", scene.url())).send().await.unwrap();
    assert_eq!(got.status(), 405);
    for path in ["healthz", "readyz"] {
        let got = scene.client.get(format!("{}/{path}", scene.url())).send().await.unwrap();
        assert_eq!(got.status(), 200);
    }
}

#[tokio::test]
async fn garbage_is_never_our_fault() {
    let scene = Scene::at(START, KEY).await;
    scene.accept(SENT, &["ada@example.net"]).await;
    let mut random = fastrand::Rng::with_seed(3);
    let genuine = fixture("webhook_delivered.json");
    for round in 0..300 {
        let body = match round % 3 {
            0 => (0..random.usize(..400)).map(|_| random.u8(..)).collect(),
            1 => genuine[..random.usize(..genuine.len())].to_vec(),
            _ => {
                let mut body = genuine.clone();
                (0..random.usize(1..6)).for_each(|_| body[random.usize(..genuine.len())] = random.u8(..));
                body
            }
        };
        let status = scene.post(body.clone()).await;
        assert!(status == 200 || status == 406, "{status}: {:?}", String::from_utf8_lossy(&body));
    }
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
    for body in [deep("[", "]"), deep("{\"a\":", "}"), "1e999".into(), "9".repeat(500_000), String::new()] {
        assert_eq!(scene.post(body.into_bytes()).await, 406);
    }
    // Signed garbage.
    let long = "x".repeat(100_000);
    let odd =
        ["null", "[]", "0", "-1", "1e308", "18446744073709551615", "\"\"", "\"\\u0000\"", "{\"a\":[[[[]]]]}"];
    let mut token = 0;
    for field in [
        "id",
        "timestamp",
        "event",
        "recipient",
        "message",
        "user-variables",
        "delivery-status",
        "flags",
        "url",
    ] {
        for value in odd.iter().map(|text| serde_json::from_str(text).unwrap()).chain([json!(long)]) {
            let mut data = delivered("odd");
            data[field] = value;
            token += 1;
            let status = scene.post(signed(KEY, START, &token.to_string(), data.clone())).await;
            assert_eq!(status, 200, "{field}: {:.80}", data[field].to_string());
        }
    }
    let nested = signed(KEY, START, "nested", json!({"event": "PLACE"}));
    let nested = String::from_utf8(nested).unwrap().replace("\"PLACE\"", &deep("[", "]"));
    assert_eq!(scene.post(nested.into_bytes()).await, 406);
    assert_eq!(scene.post(signed(KEY, START, "last", delivered("last"))).await, 200);
}

#[tokio::test]
async fn an_event_before_its_mail_joins_when_the_mail_comes() {
    let scene = Scene::at(START + 60, KEY).await;
    let data = |recipient: &str, event: &str| {
        json!({
            "event": event, "id": recipient, "timestamp": START, "recipient": recipient, "severity": "permanent",
            "message": {"headers": {"message-id": "early@example.com"}}
        })
    };
    for (recipient, event) in
        [("ada@example.net", "delivered"), ("bob@example.org", "failed"), ("eve@example.net", "delivered")]
    {
        assert_eq!(scene.post(signed(KEY, START, recipient, data(recipient, event))).await, 200);
    }
    let id = scene.submit("early@example.com", &["Ada@example.net", "bob@example.org"]).await;
    until("the mail", || scene.daemon.store().trail(id.parse().unwrap()).unwrap().is_some()).await;
    let marked = |kinds: &[Kind]| {
        let recipients = scene.recipients(&id);
        assert!(
            recipients.iter().zip(kinds).all(|(recipient, kind)| recipient.marks.of(*kind).is_some()),
            "{recipients:?}"
        );
    };
    marked(&[Kind::Delivered, Kind::Bounced]);
    // The one for somebody else waits on.
    let id = scene.submit("early@example.com", &["eve@example.net"]).await;
    until("the mail", || scene.daemon.store().trail(id.parse().unwrap()).unwrap().is_some()).await;
    assert!(scene.recipients(&id)[0].marks.of(Kind::Delivered).is_some());
}

/// A disk that is full, made with a limit on the size of files: the process that plays it is this test again.
#[tokio::test]
async fn what_cannot_be_kept_is_asked_for_again() {
    const ROLE: &str = "MAILTRAIL_TEST_FULL_DISK";
    if std::env::var_os(ROLE).is_none() {
        // Without the trap the limit's signal would end the process; 8192 units of 512 bytes are 4 MiB.
        let limited =
            "trap '' XFSZ; ulimit -f 8192; exec \"$0\" --exact what_cannot_be_kept_is_asked_for_again";
        let program = std::env::current_exe().unwrap();
        let played = Command::new("sh").arg("-c").arg(limited).arg(program).env(ROLE, "1").output().unwrap();
        assert!(played.status.success(), "{played:?}");
        assert!(String::from_utf8_lossy(&played.stdout).contains("1 passed"), "{played:?}");
        return;
    }
    let scene = Scene::at(START, KEY).await;
    scene.accept(SENT, &["ada@example.net"]).await;
    let mut answers = Vec::new();
    for number in 0..6 {
        let mut data = delivered(&number.to_string());
        data["padding"] = json!("x".repeat(900_000));
        let body = signed(KEY, START, &number.to_string(), data);
        answers.push(scene.post(body.clone()).await);
        if answers.last() == Some(&503) {
            let kept = scene.recipients(SENT)[0].marks.of(Kind::Delivered).unwrap();
            assert_eq!(kept.count, number);
            answers.push(scene.post(body).await);
        }
    }
    assert_eq!(answers, [200, 200, 200, 200, 503, 200, 200]);
    assert_eq!(scene.recipients(SENT)[0].marks.of(Kind::Delivered).unwrap().count, 6);
}

/// A relay at a chosen time whose upstream cannot be reached.
struct Scene {
    daemon: Daemon,
    client: reqwest::Client,
    _directory: TempDir,
}

impl Scene {
    /// `keys` is the signing key, or a list of them as TOML writes it.
    async fn at(seconds: u64, keys: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys = if keys.starts_with('[') { keys.to_owned() } else { format!("{keys:?}") };
        let text = format!(
            "[server]\nhostname = \"relay.example.com\"\ndata_dir = {:?}\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n\
             [[upstream]]\nname = \"up\"\nprovider = \"mailgun\"\nhost = \"127.0.0.1\"\nport = 1\ntls = \"none\"\n\
             username = \"u\"\npassword = \"p\"\nwebhook_signing_key = {keys}\n[http]\naddress = \"127.0.0.1:0\"\n",
            directory.path().display().to_string()
        );
        let config = config::parse(&text, Path::new("test.toml"), &BTreeMap::new()).unwrap();
        let clock = Clock::runtime(Timestamp::from_seconds(seconds));
        let daemon = Daemon::start(&config, clock, None).await.unwrap();
        let tls = mailtrail::tls::client_config(None).unwrap();
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
        Self { daemon, client, _directory: directory }
    }

    fn url(&self) -> String {
        format!("http://{}", self.daemon.http_address().unwrap())
    }

    async fn post(&self, body: Vec<u8>) -> u16 {
        self.post_to("webhooks/up", body).await
    }

    async fn post_to(&self, path: &str, body: Vec<u8>) -> u16 {
        let request = self.client.post(format!("{}/{path}", self.url())).body(body);
        request.send().await.unwrap().status().as_u16()
    }

    /// Puts a send into the store as if it had come before.
    async fn accept(&self, id: &str, recipients: &[&str]) {
        let id: TrackingId = id.parse().unwrap();
        let send = Send {
            sender: "bounces@mg.example.com".parse().ok(),
            message_id: MessageId::parse("1789387199.4711.mt0001@mg.example.com"),
            ..Send::new(id, "odoo")
        };
        let recipients = recipients.iter().map(|to| to.parse().unwrap()).collect();
        self.daemon.store().accept(Accepted { send, recipients }, Bytes::new()).await.unwrap();
        until("the send", || self.daemon.store().trail(id).unwrap().is_some()).await;
    }

    /// Submits a mail; its tracking id is in the answer.
    async fn submit(&self, message_id: &str, recipients: &[&str]) -> String {
        let stream = TcpStream::connect(self.daemon.smtp_addresses()[0]).await.unwrap();
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let mut commands = vec!["HELO client".to_owned(), "MAIL FROM:<sales@example.com>".into()];
        commands.extend(recipients.iter().map(|to| format!("RCPT TO:<{to}>")));
        commands
            .extend(["DATA".into(), format!("Message-ID: <{message_id}>\r\nSubject: x\r\n\r\nhello\r\n.")]);
        let mut last = lines.next_line().await.unwrap().unwrap();
        for command in commands {
            assert!(last.starts_with(['2', '3']), "{last}");
            write.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
            last = lines.next_line().await.unwrap().unwrap();
        }
        last.strip_prefix("250 2.0.0 Queued as ").unwrap_or(&last).to_owned()
    }

    fn recipients(&self, id: &str) -> Vec<Recipient> {
        self.daemon.store().trail(id.parse().unwrap()).unwrap().unwrap().recipients
    }
}

/// An event of the send [`SENT`].
fn delivered(id: &str) -> Value {
    json!({
        "event": "delivered", "id": id, "timestamp": START, "recipient": "ada@example.net",
        "user-variables": {"mailtrail": SENT}
    })
}

fn signed(key: &str, timestamp: u64, token: &str, data: Value) -> Vec<u8> {
    let timestamp = timestamp.to_string();
    let signature = mailgun::sign(&Secret::new(key), &timestamp, token);
    let signature = json!({"timestamp": timestamp, "token": token, "signature": signature});
    json!({"signature": signature, "event-data": data}).to_string().into_bytes()
}

fn mark(word: &str) -> MarkKind {
    let kind = match word {
        "opened_by_machine" => return MarkKind::ByMachine(Kind::Opened),
        "failed_permanent" => Kind::Bounced,
        "failed_temporary" => Kind::Deferred,
        word => Kind::ALL.into_iter().find(|kind| kind.word() == word).unwrap(),
    };
    MarkKind::By(kind)
}

fn fixture(file: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/mailgun").join(file)).unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

const KEY: &str = "test-webhook-signing-key";
const SENT: &str = "01K54Z8Q3V7N5X9B2C6D8F0GHJ";
const START: u64 = 1_789_387_203;
