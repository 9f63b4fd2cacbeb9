//! `export` and `erase` of an address, with the real program: the exported data, and no byte of the address left
//! after an erasure.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mailtrail_mail::{Clock, Secret};
use mailtrail_trail::RecipientState;
use mailtrail_trail::provider::mailgun;
use regex::Regex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testkit::relay_process;
use testkit::relay_process::{RelayProcess, free_port};
use testkit::smtp_client::SmtpClient;
use testkit::smtp_sink::{SinkOptions, SmtpSink};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn erasure_leaves_no_byte_of_address_in_data_dir() {
    for running in [true, false] {
        let mut harness = ErasureHarness::new().await;
        let ids = harness.create_all_records().await;
        if !running {
            assert!(harness.process.terminate().await.success());
        }
        let exported = harness.run_command(&["--json", "export", "ada.lovelace@example.net"]).await;
        let mut kinds = BTreeMap::<String, usize>::new();
        exported
            .json_lines()
            .iter()
            .for_each(|line| *kinds.entry(to_text(&line["kind"]).to_owned()).or_default() += 1);
        let expected = [("event", 8), ("inbound", 1), ("log", 4), ("send", 7), ("suppression", 3)];
        assert_eq!(
            kinds,
            expected.map(|(kind, count)| (kind.to_owned(), count)).into(),
            "{}",
            exported.stderr
        );
        let raw = exported
            .json_lines()
            .into_iter()
            .filter(|line| line["kind"] == "event" && line["raw"].is_string());
        assert_eq!(raw.count(), 8);
        let readable = harness.run_command(&["export", "Ada.Lovelace@example.net"]).await;
        assert!(
            readable.stdout.contains("bytes is still kept")
                && readable.stdout.contains("suppression everywhere")
        );

        let before = harness.query_everything(&ids).await;
        let would = harness.run_command(&["--json", "erase", ADA_ADDRESS, "--dry-run"]).await;
        assert_eq!((would.code, &would.json_lines()[0]["pseudonym"]), (0, &Value::Null), "{}", would.stderr);
        assert_eq!(harness.query_everything(&ids).await, before);
        let found = find_mentions(&harness.process.data_dir());
        for (place, way) in [
            ("ledger", "ada.lovelace@"),
            ("ledger", "ada.lovelace%40"),
            ("journal", "ada.lovelace@"),
            ("journal", "ada.lovelace%40"),
            ("journal", "ada.lovelace=example"),
            // "da.lovelace@exampl"
            ("journal", "ZGEubG92ZWxhY2VAZXhhbXBs"),
        ] {
            let there = |one: &&String| one.contains(&format!("/{place}/")) && one.ends_with(way);
            assert!(found.iter().any(|one| there(&one)), "{way} in the {place}: {found:?}");
        }

        let output = harness
            .run_command(&["--json", "erase", ADA_ADDRESS, "--reason", "Ada.Lovelace@example.net asked"])
            .await;
        assert_eq!(output.code, 0, "{} {}", output.stdout, output.stderr);
        let [erased] = &output.json_lines()[..] else { unreachable!("{}", output.stdout) };
        let pseudonym = to_text(&erased["pseudonym"]).to_owned();
        for field in ["records", "bodies", "sends", "reports", "inbound"] {
            assert_eq!(erased[field], would.json_lines()[0][field], "{field}");
        }
        assert_eq!(find_mentions(&harness.process.data_dir()), [""; 0], "running: {running}");
        let known = harness.query_everything(&ids).await;
        let mut renamed = before;
        for way in [ADA_ADDRESS, "Ada.Lovelace@example.net", "ada.lovelace%40example.net"] {
            renamed = renamed.replace(way, &pseudonym);
        }
        let renamed = renamed.replace("ada.lovelace=example.net", &pseudonym.replace('@', "="));
        for (now, expected) in known.lines().zip(renamed.lines()) {
            assert_eq!(now, expected);
        }
        assert_eq!(known.lines().count(), renamed.lines().count());

        // The log has the erasure, and the list still recognizes the address.
        let log = harness.run_command(&["--json", "log", "--status", "erased"]).await.json_lines();
        assert_eq!(log.len(), 1);
        assert!(to_text(&log[0]["name"]).starts_with("uid "), "{log:?}");
        assert_eq!(to_text(&log[0]["text"]), format!("{pseudonym}: {pseudonym} asked"));
        let checked = harness.run_command(&["suppress", "check", ADA_ADDRESS]).await;
        assert!(checked.code == 0 && checked.stdout.contains("complaint"), "{}", checked.stdout);
        assert_eq!(harness.run_command(&["store", "verify"]).await.code, 0);
        for command in ["export", "erase"] {
            let again = harness.run_command(&[command, ADA_ADDRESS]).await;
            // The export has the entry that the list recognizes.
            assert_eq!(
                again.code,
                i32::from(command == "erase"),
                "{command}: {} {}",
                again.stdout,
                again.stderr
            );
        }
        assert_eq!(find_mentions(&harness.process.data_dir()), [""; 0]);

        // A restart, also with a rebuilt ledger, changes nothing.
        for ledger_lost in [false, true] {
            if running || ledger_lost {
                assert!(!running || harness.process.terminate().await.success());
                if ledger_lost {
                    std::fs::remove_dir_all(harness.process.data_dir().join("ledger")).unwrap();
                }
            }
            if running {
                harness.process.start().await;
            }
            assert_eq!(harness.query_everything(&ids).await, known);
        }
        if !running {
            harness.process.start().await;
        }
        let id = harness.submit_message("app@example.com", &[ADA_ADDRESS], "9", "").await;
        assert_eq!(harness.recipient_states(&id).await, ["suppressed"]);
        assert_eq!(harness.run_command(&["suppress", "remove", ADA_ADDRESS]).await.code, 0);
        let id = harness.submit_message("app@example.com", &[ADA_ADDRESS], "10", "").await;
        assert_eq!(harness.recipient_states(&id).await, ["relayed"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_to_erase_queued_mail() {
    let mut process = RelayProcess::with_upstream_port(free_port(), "");
    process.start().await;
    let mut ids = Vec::new();
    for (to, body) in
        [(ADA_ADDRESS, "x"), ("bob@example.org", "ada.lovelace@example.net wrote"), ("bob@example.org", "x")]
    {
        let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
        let message = format!("From: app@example.com\r\nSubject: x\r\n\r\n{body}\r\n");
        ids.push(client.submit("app@example.com", &[to], &message).await.unwrap());
    }
    for running in [true, false] {
        let output = process.run_command(&["erase", ADA_ADDRESS]).await;
        assert_eq!((output.code, &*output.stdout), (1, ""), "{}", output.stderr);
        let named: Vec<_> = ids.iter().map(|id| output.stderr.contains(&**id)).collect();
        assert_eq!(named, [true, true, false], "{}", output.stderr);
        assert!(output.stderr.contains("queue delete"), "{}", output.stderr);
        assert!(!process.data_dir().join("erasing").exists());
        assert_eq!(process.run_command(&["queue", "show", &ids[0]]).await.code, 0);
        if running {
            assert!(process.terminate().await.success());
        }
    }
    process.start().await;
    for id in &ids[..2] {
        // A message in delivery cannot be deleted.
        let deleted = async {
            while process.run_command(&["queue", "delete", id, "--reason", "asked for"]).await.code != 0 {}
        };
        tokio::time::timeout(testkit::WAIT_TIMEOUT, deleted).await.unwrap();
    }
    assert_eq!(process.run_command(&["erase", ADA_ADDRESS]).await.code, 0);
    assert_eq!(find_mentions(&process.data_dir()), [""; 0]);
    assert_eq!(process.run_command(&["queue", "show", &ids[2]]).await.code, 0);
    let nobody = process.run_command(&["erase", "postmaster"]).await;
    assert_eq!((nobody.code, nobody.stderr.contains("has no domain")), (1, true), "{}", nobody.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_erasure_resumes() {
    let mut harness = ErasureHarness::new().await;
    let ids = harness.create_all_records().await;
    assert!(harness.process.terminate().await.success());
    harness.process.start().await;
    let id = harness.submit_message(ADA_ADDRESS, &["bob@example.org"], "8", "x").await;
    assert_eq!(harness.recipient_states(&id).await, ["relayed"]);
    // The second segment cannot be rewritten.
    let obstacle = harness.process.data_dir().join("journal/0000000002.new");
    std::fs::create_dir(&obstacle).unwrap();
    let failed = harness.run_command(&["erase", ADA_ADDRESS]).await;
    assert_eq!(failed.code, 1, "{} {}", failed.stdout, failed.stderr);
    assert!(
        failed.stderr.contains("segment 2") && failed.stderr.contains("run the erasure again"),
        "{}",
        failed.stderr
    );
    let other = harness.run_command(&["erase", "bob@example.org"]).await;
    assert_eq!((other.code, other.stderr.contains("was cut off")), (1, true), "{}", other.stderr);
    std::fs::remove_dir(obstacle).unwrap();
    // Half erased it goes on, and nothing is lost, with the ledger or without it.
    for ledger_lost in [false, true] {
        assert!(harness.process.terminate().await.success());
        if ledger_lost {
            std::fs::remove_dir_all(harness.process.data_dir().join("ledger")).unwrap();
        }
        harness.process.start().await;
        assert!(harness.process.log().contains("an erasure of an address was cut off"));
        assert_eq!(harness.run_command(&["store", "verify"]).await.code, 0);
        assert_eq!(harness.recipient_states(&ids[0]).await, ["delivered"]);
    }
    assert!(!find_mentions(&harness.process.data_dir()).is_empty());
    let done = harness.run_command(&["--json", "erase", ADA_ADDRESS]).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(find_mentions(&harness.process.data_dir()), [""; 0]);
    let pseudonym = to_text(&done.json_lines()[0]["pseudonym"]).to_owned();
    let trail = harness.run_command(&["--json", "trace", &pseudonym]).await.json_lines();
    assert_eq!(trail.len(), 2, "{trail:?}");
    let log = harness.run_command(&["--json", "log", "--status", "erased"]).await.json_lines();
    let named: Vec<_> = log.iter().map(|line| to_text(&line["text"])).collect();
    assert_eq!(named, [&*pseudonym, &*pseudonym]);
    assert_eq!(harness.run_command(&["suppress", "check", ADA_ADDRESS]).await.code, 0);
    assert_eq!(harness.run_command(&["store", "verify"]).await.code, 0);
    assert_eq!(harness.run_command(&["erase", "bob@example.org"]).await.code, 0);
}

/// Mail from, to and about the address arrives throughout. The erasure removes earlier mail, later mail is stored as
/// usual, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn erases_address_while_its_mail_arrives() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    let traffic = EraseTraffic::start(&process);
    traffic.wait_for_count(50).await;
    let erased = async {
        loop {
            let before = traffic.accepted_counts();
            let output =
                process.run_command(&["--json", "erase", ADA_ADDRESS, "--reason", "asked for"]).await;
            if output.code == 0 {
                return (before, output.json_lines().remove(0));
            }
            // An operator would try again.
            let waits = output.code == 1 && output.stderr.contains("that wait mention it");
            assert!(waits, "{} {}", output.code, output.stderr);
        }
    };
    let (before, erased) = tokio::time::timeout(testkit::WAIT_TIMEOUT, erased).await.unwrap();
    let until = traffic.accepted_counts().len();
    traffic.wait_for_count(until + 50).await;
    let all = traffic.stop().await;
    // The next message after `until` was in progress.
    let after: BTreeMap<_, _> = all.iter().filter(|(_, number)| **number > until + 1).collect();
    assert!(before.len() >= 50 && after.len() >= 45, "{} {} {}", before.len(), until, all.len());
    assert!(erased["sends"].as_u64().unwrap() >= before.len() as u64, "{erased}");
    let pseudonym = to_text(&erased["pseudonym"]).to_owned();
    for id in all.keys() {
        sink.wait_for_message(id).await;
    }
    assert_eq!(process.run_command(&["store", "verify"]).await.code, 0);
    for ledger_lost in [false, true] {
        if ledger_lost {
            std::fs::remove_dir_all(process.data_dir().join("ledger")).unwrap();
            process.start().await;
        }
        for stopped in [false, true] {
            let store = if stopped { Some(process.drain().await) } else { None };
            let raw = read_all_files(&process.data_dir());
            let is_there = |number: usize| {
                let spelling = nth_spelling(number);
                raw.iter().any(|bytes| memchr::memmem::find(bytes, spelling.as_bytes()).is_some())
            };
            let left: Vec<_> = before.values().filter(|number| is_there(**number)).collect();
            assert!(left.is_empty(), "{ledger_lost} {stopped}: {left:?}");
            let gone: Vec<_> = after.values().filter(|number| !is_there(***number)).collect();
            assert!(gone.is_empty(), "{ledger_lost} {stopped}: {gone:?}");
            let Some(store) = store else { continue };
            for (id, number) in &all {
                let trail = store.load_trail(id.parse().unwrap()).unwrap().unwrap();
                let relayed = trail.recipients.iter().all(|one| one.state() == RecipientState::Relayed);
                assert!(relayed, "{trail:?}");
                let notified = format!("{trail:?}");
                if before.contains_key(id) {
                    assert!(
                        notified.contains(&pseudonym) && !notified.to_lowercase().contains(ADA_ADDRESS),
                        "{notified}"
                    );
                } else if after.contains_key(id) {
                    assert!(
                        notified.contains(&nth_spelling(*number)) && !notified.contains(&pseudonym),
                        "{notified}"
                    );
                }
            }
        }
    }
}

/// One client with mail about Ada, in several spellings of her address, and one with other mail.
struct EraseTraffic {
    /// Tracking ids of hers that were answered with 250, and the numbers of their messages.
    accepted_counts: Arc<Mutex<BTreeMap<String, usize>>>,
    stop_token: CancellationToken,
    clients: [JoinHandle<()>; 2],
}

impl EraseTraffic {
    fn start(process: &RelayProcess) -> Self {
        let (accepted_counts, stop_token) = (Arc::default(), CancellationToken::new());
        let hers = send_about_ada(process.address(1), Arc::clone(&accepted_counts), stop_token.clone());
        let others = send_about_others(process.address(1), stop_token.clone());
        Self { accepted_counts, stop_token, clients: [tokio::spawn(hers), tokio::spawn(others)] }
    }

    fn accepted_counts(&self) -> BTreeMap<String, usize> {
        self.accepted_counts.lock().unwrap().clone()
    }

    async fn wait_for_count(&self, count: usize) {
        let enough = || (self.accepted_counts().len() >= count).then_some(());
        testkit::eventually("mail is taken", enough).await;
    }

    async fn stop(self) -> BTreeMap<String, usize> {
        self.stop_token.cancel();
        for client in self.clients {
            client.await.unwrap();
        }
        self.accepted_counts.lock().unwrap().clone()
    }
}

async fn send_about_ada(
    address: SocketAddr,
    promised: Arc<Mutex<BTreeMap<String, usize>>>,
    over: CancellationToken,
) {
    let mut client = SmtpClient::connect(address).await.unwrap();
    for number in 1.. {
        let ada = nth_spelling(number);
        let (from, to): (&str, &[&str]) = match number % 3 {
            0 => ("app@example.com", &[&ada]),
            1 => (&ada, &["bob@example.org"]),
            _ => ("app@example.com", &["bob@example.org", &ada]),
        };
        let message = format!("From: {from}\r\nSubject: about {ada}\r\n\r\nDear {ada},\r\n");
        let id = client.submit(from, to, &message).await.unwrap();
        promised.lock().unwrap().insert(id, number);
        // Sometimes no mail is queued.
        let pause = tokio::time::sleep(Duration::from_millis(40));
        if over.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

async fn send_about_others(address: SocketAddr, over: CancellationToken) {
    let mut client = SmtpClient::connect(address).await.unwrap();
    while !over.is_cancelled() {
        let message = format!("From: app@example.com\r\n\r\n{}", "some words\r\n".repeat(100));
        client.submit("app@example.com", &["eve@example.org"], &message).await.unwrap();
    }
}

/// Ada's address in the n-th spelling, 1 to 2047: none has small letters only.
fn nth_spelling(number: usize) -> String {
    assert!((1..1 << 11).contains(&number));
    let mut dead_letters = 0;
    let spell = |dead_letter: char| {
        let capital = number >> dead_letters & 1 == 1;
        dead_letters += usize::from(dead_letter.is_ascii_lowercase());
        if capital { dead_letter.to_ascii_uppercase() } else { dead_letter }
    };
    "ada.lovelace".chars().map(spell).chain("@example.net".chars()).collect()
}

/// Returns the contents of all files.
fn read_all_files(directory: &Path) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(read_all_files(&path));
        } else {
            // A socket holds nothing.
            all.extend(std::fs::read(&path).ok());
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_hides_addresses_when_configured() {
    let hidden = Regex::new("~[0-9a-f]{12}(@example.net)?").unwrap();
    for (form, wanted) in [("text", "hidden"), ("json", "domain"), ("json", "full")] {
        let sink = SmtpSink::start().await;
        let process = RelayProcess::with_configuration(|data_dir, ports| {
            let log = format!("[log]\nlevel = \"trace\"\nformat = {form:?}\naddresses = {wanted:?}\n");
            render_config(data_dir, ports, sink.port()) + &log
        });
        let path = process.directory().join("log");
        let log = std::fs::File::create(&path).unwrap();
        let mut relay = process.command(&["serve"]).stderr(log).spawn().unwrap();
        let switch = ["breaker", "open", "up", "--reason", "Ada.Lovelace@example.net\nasked"];
        let notified = async { while process.run_command(&switch).await.code != 0 {} };
        tokio::time::timeout(testkit::WAIT_TIMEOUT, notified).await.unwrap();
        assert_eq!(process.run_command(&switch).await.code, 0);
        relay.kill().unwrap();
        relay.wait().unwrap();
        let log = std::fs::read_to_string(path).unwrap();
        let names: BTreeSet<_> = hidden.find_iter(&log).map(|found| found.as_str()).collect();
        assert_eq!(log.contains("Ada.Lovelace"), wanted == "full", "{wanted}: {log}");
        assert_eq!(log.contains("@example.net"), wanted != "hidden", "{wanted}: {log}");
        assert_eq!(names.len(), usize::from(wanted != "full"), "{wanted}: {log}");
        if form == "json" {
            log.lines().for_each(|line| drop(serde_json::from_str::<Value>(line).unwrap()));
        }
    }
}

/// The real program with its upstream.
struct ErasureHarness {
    process: RelayProcess,
    client: reqwest::Client,
    http: u16,
    sink: SmtpSink,
}

impl ErasureHarness {
    async fn new() -> Self {
        let words = "550 5.1.1 <refused@ada.example>: was ada.lovelace@example.net".to_owned();
        let rejections = HashMap::from([("refused@ada.example".to_owned(), words)]);
        let sink = SmtpSink::with_options(SinkOptions { rejections, ..SinkOptions::default() }).await;
        let mut http = 0;
        let mut process = RelayProcess::with_configuration(|data_dir, ports| {
            http = ports[0];
            render_config(data_dir, ports, sink.port())
        });
        process.start().await;
        let tls = mailtrail_net::tls::build_client_config(None).unwrap();
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
        Self { process, client, http, sink }
    }

    /// Everything in which an address may be kept; the sends.
    async fn create_all_records(&self) -> Vec<String> {
        let app = "app@example.com";
        let first = self.submit_message(app, &[ADA_ADDRESS], "1", "Dear ada.lovelace@example.net").await;
        let second =
            self.submit_message(app, &["Ada.Lovelace@example.net", "bob@example.org"], "2", "hi").await;
        let third = self
            .submit_message("Ada.Lovelace@example.net", &["bob@example.org"], "3", "From lovely Ada")
            .await;
        let encoded = BASE64_STANDARD.encode("This is about ada.lovelace@example.net and others.");
        let fourth = self.submit_message(app, &["eve@example.org"], "4", &encoded).await;
        let path = "bounces+ada.lovelace=example.net@example.com";
        let fifth = self.submit_message(path, &["bob@example.org"], "5", "x").await;
        let others = self.submit_message(app, &["canada.lovelace@example.org"], "6", "x").await;
        let refused = self.submit_message(app, &["refused@ada.example"], "7", "x").await;
        let ids = vec![first, second, third, fourth, fifth, others, refused];
        for (id, expected) in ids.iter().zip(["relayed"; 6].into_iter().chain(["bounced"])) {
            assert!(self.recipient_states(id).await.iter().all(|state| state == expected), "{id}");
        }
        let tracked = |event: &str, number: &str, more: Value| {
            let mut data = json!({
                "event": event, "id": number, "recipient": "Ada.Lovelace@example.net", "severity": "permanent",
                "timestamp": Clock::System.now().as_secs(), "user-variables": {"mailtrail": ids[0]}
            });
            data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            data
        };
        let url = "https://x.test/?e=ada.lovelace%40example.net";
        let events = [
            tracked("delivered", "1", json!({})),
            tracked("clicked", "2", json!({"url": url, "client-info": {"client-type": "browser"}})),
            tracked("complained", "3", json!({})),
            json!({"event": "delivered", "id": "4", "recipient": "ada.lovelace@example.net",
                "timestamp": Clock::System.now().as_secs(), "message": {"headers": {"message-id": "2@example.com"}}}),
            json!({"event": "delivered", "id": "5", "recipient": "ada.lovelace@example.net",
                "timestamp": Clock::System.now().as_secs(), "message": {"headers": {"message-id": "other@example.com"}}}),
            json!(["ada.lovelace@example.net"]),
            json!({"event": "delivered", "id": "6", "recipient": "bob@example.org",
                "timestamp": Clock::System.now().as_secs(), "message": {"headers": {"message-id": "5@example.com"}}}),
        ];
        for (token, data) in events.iter().enumerate() {
            assert_eq!(
                self.post_event("webhooks/up", signed_event(&format!("token {token}"), data)).await,
                200,
                "{data}"
            );
        }
        let date = "date_time=2026-09-14T12%3A00%3A00Z&contact%5Bemail%5D=Ada.Lovelace%40example.net";
        for form in ["type=open", "type=unsubscribe&list=3"] {
            let body = format!("{form}&{date}").into_bytes();
            assert_eq!(self.post_event("webhooks/campaigns/the-secret-of-the-campaigns", body).await, 200);
        }
        let mail = format!("From: {ADA_ADDRESS}\r\nMessage-ID: <in@example.net>\r\n\r\nhi\r\n");
        let now = Clock::System.now().as_secs().to_string();
        let signature = mailgun::sign_webhook(&Secret::new(SIGNING_KEY), &now, "token of a mail");
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([
                ("recipient", "reply@mg.example.com"),
                ("sender", ADA_ADDRESS),
                ("body-mime", &mail),
            ])
            .extend_pairs([("timestamp", &*now), ("token", "token of a mail"), ("signature", &*signature)])
            .finish();
        let request = self.client.post(format!("http://127.0.0.1:{}/inbound/up/mime", self.http));
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
        assert_eq!(request.send().await.unwrap().status(), 200);
        // With the report on the one that was refused, and the mail from outside.
        self.sink.wait_for_count(8).await;
        let there = async {
            while self
                .run_command(&["--json", "inbound", "list", "--state", "delivered"])
                .await
                .stdout
                .is_empty()
                || !self.run_command(&["--json", "queue", "list"]).await.stdout.is_empty()
            {}
        };
        tokio::time::timeout(testkit::WAIT_TIMEOUT, there).await.unwrap();
        assert_eq!(self.run_command(&["suppress", "add", "ADA.lovelace@example.net"]).await.code, 0);
        let why = "Ada.Lovelace@example.net asked what is known";
        assert_eq!(self.run_command(&["store", "rebuild", "--reason", why]).await.code, 0);
        ids
    }

    async fn submit_message(&self, from: &str, to: &[&str], number: &str, body: &str) -> String {
        let mut client = SmtpClient::connect(self.process.address(1)).await.unwrap();
        let message = format!(
            "From: {from}\r\nTo: {}\r\nSubject: {number} for {}\r\nMessage-ID: <{number}@example.com>\r\n\r\n{body}\r\n",
            to[0], to[0]
        );
        client.submit(from, to, &message).await.unwrap()
    }

    /// Waits until no recipient is pending and returns their states.
    async fn recipient_states(&self, id: &str) -> Vec<String> {
        let settled = async {
            loop {
                let output = self.run_command(&["--json", "trace", id]).await;
                if let Some(trail) =
                    output.json_lines().first().filter(|trail| trail["next_action"].is_null())
                {
                    let recipients = trail["recipients"].as_array().unwrap();
                    return recipients.iter().map(|one| to_text(&one["state"]).to_owned()).collect();
                }
            }
        };
        tokio::time::timeout(testkit::WAIT_TIMEOUT, settled).await.unwrap()
    }

    /// Returns all data about messages, events, inbound mail and statistics.
    async fn query_everything(&self, ids: &[String]) -> String {
        let mut known = String::new();
        for id in ids {
            known += &self.run_command(&["--json", "trace", id]).await.stdout;
        }
        for command in [
            &["stats"][..],
            &["events", "list"],
            &["events", "orphans"],
            &["events", "dead"],
            &["inbound", "list"],
            &["queue", "list"],
        ] {
            known += &self.run_command(&[&["--json"], command].concat()).await.stdout;
        }
        known
    }

    async fn run_command(&self, arguments: &[&str]) -> relay_process::CommandOutput {
        self.process.run_command(arguments).await
    }

    async fn post_event(&self, path: &str, body: Vec<u8>) -> u16 {
        let url = format!("http://127.0.0.1:{}/{path}", self.http);
        let status = self.client.post(url).body(body).send().await.unwrap().status().as_u16();
        // Entries of one millisecond have no order.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        status
    }
}

/// Every file with the address in it, and how it is written there.
fn find_mentions(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(find_mentions(&path));
        } else if let Ok(bytes) = std::fs::read(&path) {
            let folded = bytes.to_ascii_lowercase();
            let written = [
                "ada.lovelace@",
                "ada.lovelace%40",
                "ada.lovelace=40",
                "ada.lovelace=example",
                "a\0d\0a\0.\0l\0",
            ];
            let mut ways: Vec<_> = written
                .into_iter()
                .filter(|way| contains_address(&folded, b"canad", way.as_bytes()))
                .map(str::to_owned)
                .collect();
            for start in 0..3 {
                // The part of the base64 text that does not depend on the position of the address.
                let code = BASE64_STANDARD.encode(format!("{}ada.lovelace@example.net", "x".repeat(start)));
                let core = &code[4..28];
                ways.extend(contains_address(&bytes, b"", core.as_bytes()).then(|| core.to_owned()));
            }
            found.extend(ways.into_iter().map(|way| format!("{}: {way}", path.display())));
        }
    }
    found
}

/// Returns whether the bytes contain the address, but not as the end of another one.
fn contains_address(bytes: &[u8], other: &[u8], wanted: &[u8]) -> bool {
    memchr::memmem::find_iter(bytes, wanted).any(|at| other.is_empty() || !bytes[..at + 2].ends_with(other))
}

fn signed_event(token: &str, data: &Value) -> Vec<u8> {
    let timestamp = Clock::System.now().as_secs().to_string();
    let signature = mailgun::sign_webhook(&Secret::new(SIGNING_KEY), &timestamp, token);
    let signature = json!({"timestamp": timestamp, "token": token, "signature": signature});
    json!({"signature": signature, "event-data": data}).to_string().into_bytes()
}

fn to_text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn render_config(data_dir: &str, [http, listener, page]: [u16; 3], sink: u16) -> String {
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
name = "sink"
provider = "plain"
host = "127.0.0.1"
port = {sink}
tls = "none"
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
[[inbound.target]]
deliver = "smtp"
host = "127.0.0.1"
port = {sink}
tls = "none"
[http]
address = "127.0.0.1:{http}"
[admin]
address = "127.0.0.1:{page}"
"#
    )
}

const SIGNING_KEY: &str = "test-webhook-signing-key";
const ADA_ADDRESS: &str = "ada.lovelace@example.net";
