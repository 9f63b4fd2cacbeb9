//! `store verify`, `store rebuild` and `store backup` as an administrator uses them, with mail on the way.

use mailtrail_store::Store;
use mailtrail_trail::RecipientState;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use testkit::relay_process::{RelayProcess, free_port};
use testkit::smtp_client::SmtpClient;
use testkit::smtp_sink::SmtpSink;
use tokio::task::JoinHandle;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup_under_traffic_has_all_accepted_messages() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    let finished = submit_and_wait_relayed(&process, 20).await;
    let traffic = MaintenanceTraffic::start(&process).await;
    let promised = traffic.accepted_ids();
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("monday");
    let output = process.run_command(&["--json", "store", "backup", copy.to_str().unwrap()]).await;
    assert_eq!(output.code, 0, "{}", output.stderr);
    let [line] = &output.json_lines()[..] else { unreachable!("{}", output.stdout) };
    assert_eq!((&line["step"], &line["directory"]), (&"backed-up".into(), &copy.to_str().unwrap().into()));
    assert!(traffic.stop().await.len() > promised.len(), "mail came meanwhile");
    assert!(process.log().contains("an operator has the store copied") && process.log().contains("uid "));
    assert_owner_only(place.path());
    assert_eq!(file_names(place.path()), ["monday"], "nothing unfinished is left");
    let (certificate, its_copy) = (process.data_dir().join("tls/relay.pem"), copy.join("tls/relay.pem"));
    assert_eq!(std::fs::read(certificate).unwrap(), std::fs::read(its_copy).unwrap());

    // Another relay goes on with the copy.
    let elsewhere = SmtpSink::start().await;
    let mut restored = RelayProcess::new(&elsewhere);
    std::fs::rename(&copy, restored.data_dir()).unwrap();
    assert_eq!(read_trails(&restored, &finished).await, read_trails(&process, &finished).await);
    let output = restored.run_command(&["store", "verify"]).await;
    assert_eq!(
        (output.code, output.stdout.contains("the store is intact")),
        (0, true),
        "{} {}",
        output.stdout,
        output.stderr
    );
    restored.start().await;
    assert_all_relayed(restored.drain().await, &promised);
    assert_eq!(read_trails(&restored, &finished).await, read_trails(&process, &finished).await);
}

/// Root may change the store, and leaves no file that the relay's user cannot read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_offline_changes_to_store_of_another_user() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root could");
        return;
    }
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    submit_and_wait_relayed(&process, 1).await;
    assert!(process.terminate().await.success());
    std::os::unix::fs::chown(process.data_dir(), Some(12_345), Some(12_346)).unwrap();
    for order in [&["erase", "ada@example.net"][..], &["store", "rebuild"]] {
        let output = process.run_command(order).await;
        assert_eq!(output.code, 1, "{order:?}: {}", output.stderr);
        assert!(
            output.stderr.contains("setpriv --reuid 12345 --regid 12346"),
            "{order:?}: {}",
            output.stderr
        );
    }
    let output = process.run_command(&["store", "verify"]).await;
    assert_eq!(output.code, 0, "{}", output.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup_refuses_nonempty_target() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    let ids = submit_and_wait_relayed(&process, 3).await;
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    std::fs::create_dir(path("empty")).unwrap();
    std::fs::create_dir_all(path("full/x")).unwrap();
    std::fs::write(path("file"), "x").unwrap();
    for running in [true, false] {
        let within = process.data_dir().join("journal/copy");
        let beside = path("nowhere/copy");
        for (target, words) in [
            (path("full"), "no empty directory"),
            (path("file"), "no empty directory"),
            (within, "within the store's own files"),
            (beside, "cannot be used"),
        ] {
            let output = process.run_command(&["store", "backup", target.to_str().unwrap()]).await;
            assert_eq!((output.code, &*output.stdout), (1, ""), "{target:?}");
            assert!(output.stderr.contains(words), "{target:?}: {}", output.stderr);
        }
        assert_eq!(file_names(place.path()), ["empty", "file", "full"]);
        let output = process.run_command(&["store", "backup", path("empty").to_str().unwrap()]).await;
        assert_eq!(output.code, 0, "{}", output.stderr);
        let restored = RelayProcess::new(&sink);
        std::fs::rename(path("empty"), restored.data_dir()).unwrap();
        assert_eq!(read_trails(&restored, &ids).await, read_trails(&process, &ids).await);
        std::fs::create_dir(path("empty")).unwrap();
        if running {
            assert!(process.terminate().await.success());
        }
    }
}

/// Mail that waits, in three segments, the first two sealed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_names_damage_and_its_consequences() {
    let mut process = RelayProcess::with_upstream_port(free_port(), "");
    let mut ids = Vec::new();
    for name in ["first", "second", "third"] {
        process.start().await;
        ids.push(submit_message(&process, name).await);
        assert_eq!(run_verify(&process).await, (0, vec![]), "{name}");
        assert!(process.terminate().await.success());
    }
    assert_eq!(run_verify(&process).await, (0, vec![]));
    let path = |number: u32| process.data_dir().join(format!("journal/{number:010}.seg"));
    let whole: Vec<_> = (1..=2).map(|number| std::fs::read(path(number)).unwrap()).collect();
    let body = find_bytes(&whole[0], b"Subject: first");
    let flipped = |at: usize| {
        let mut bytes = whole[0].clone();
        bytes[at] ^= 1;
        bytes
    };
    let length = whole[0].len() as u64;
    // The remaining size of the segment; position, size and consequence of the damage.
    let cases = [
        ("a bit of a message", 1, Some(flipped(body)), 60..=body as u64, 1..=length, 0),
        ("the end", 1, Some(whole[0][..body].to_vec()), 60..=body as u64, 1..=length, 0),
        ("the header", 1, Some(flipped(3)), 0..=0, length..=length, 0),
        ("a segment", 2, None, 0..=0, 0..=0, 1),
    ];
    for (what, segment, left, at, bytes, lost) in cases {
        match left {
            Some(left) => write_file(&path(segment), &left),
            None => std::fs::remove_file(path(segment)).unwrap(),
        }
        for _ in 0..2 {
            let (code, found) = run_verify(&process).await;
            assert_eq!((code, found.len()), (4, 1), "{what}: {found:?}");
            let hole = &found[0];
            assert_eq!((&hole["step"], &hole["segment"]), (&"damaged".into(), &segment.into()), "{what}");
            assert!(at.contains(&hole["at"].as_u64().unwrap()), "{what}: {hole}");
            assert!(bytes.contains(&hole["bytes"].as_u64().unwrap()), "{what}: {hole}");
            assert_eq!((&hole["sends"], &hole["waiting"]), (&1.into(), &1.into()), "{what}: {hole}");
            assert_eq!(hole["ids"], Value::from(vec![ids[lost].clone()]), "{what}");
        }
        let output = process.run_command(&["store", "verify"]).await;
        assert!(
            output.stdout.contains(&format!("segment {segment}")) && output.stdout.contains(&ids[lost]),
            "{}",
            output.stdout
        );
        assert!(
            output.stdout.contains("cannot be sent") && output.stderr.contains("the store is damaged"),
            "{}",
            output.stderr
        );
        // A new ledger would have forgotten the send.
        let output = process.run_command(&["store", "rebuild"]).await;
        assert_eq!(output.code, 4, "{what}: {}", output.stdout);
        assert!(
            output.stderr.contains("--despite-damage") && output.stderr.contains("1 sends"),
            "{what}: {}",
            output.stderr
        );
        assert_eq!(read_trails(&process, &ids).await.len(), 3);
        (1..).zip(&whole).for_each(|(number, bytes)| write_file(&path(number), bytes));
        assert_eq!(run_verify(&process).await, (0, vec![]), "{what}");
    }
    write_file(&path(1), &flipped(body));
    let output = process.run_command(&["--json", "store", "rebuild", "--despite-damage"]).await;
    assert_eq!((output.code, &output.json_lines()[0]["step"]), (0, &"rebuilt".into()), "{}", output.stderr);
    assert_eq!(process.run_command(&["trace", &ids[0]]).await.code, 1);
    assert_eq!(read_trails(&process, &ids[1..]).await.len(), 2);
    // The daemon reports the same damage.
    process.start().await;
    let (code, found) = run_verify(&process).await;
    assert_eq!((code, found.len(), &found[0]["sends"]), (4, 1, &0.into()), "{found:?}");
    assert!(process.log().contains("the journal is damaged"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torn_tail_after_kill_is_no_damage() {
    for half_a_frame in [true, false] {
        let mut process = RelayProcess::with_upstream_port(free_port(), "");
        process.start().await;
        submit_message(&process, "first").await;
        process.kill();
        let path = process.data_dir().join("journal/0000000001.seg");
        let mut bytes = std::fs::read(&path).unwrap();
        if half_a_frame {
            bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1);
            bytes.extend_from_within(60..110);
            write_file(&path, &bytes);
        } else {
            // A segment whose creation was interrupted.
            write_file(&process.data_dir().join("journal/0000000002.seg"), &[0; 60]);
        }
        for _ in 0..2 {
            assert_eq!(run_verify(&process).await, (0, vec![]));
            process.start().await;
            assert_eq!(run_verify(&process).await, (0, vec![]));
            assert_eq!(process.run_command(&["store", "rebuild"]).await.code, 0);
            process.kill();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rebuild_under_traffic_keeps_all_trails() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    let finished = submit_and_wait_relayed(&process, 20).await;
    let before = read_trails(&process, &finished).await;
    let ledgers = file_names(&process.data_dir().join("ledger"));
    let traffic = MaintenanceTraffic::start(&process).await;
    for _ in 0..3 {
        let output = process.run_command(&["store", "rebuild"]).await;
        assert_eq!(
            (output.code, output.stdout.contains("the ledger is rebuilt")),
            (0, true),
            "{}",
            output.stderr
        );
        assert_eq!(read_trails(&process, &finished).await, before);
    }
    assert_eq!(run_verify(&process).await, (0, vec![]));
    let now = file_names(&process.data_dir().join("ledger"));
    assert!(now.len() == 1 && now != ledgers, "{ledgers:?} became {now:?}");
    assert!(process.log().contains("an operator has the ledger made anew"));
    let promised = traffic.stop().await;
    assert_all_relayed(process.drain().await, &promised);
    // While the daemon is down, the trails are the same.
    assert_eq!(read_trails(&process, &finished).await, before);
    assert_eq!(process.run_command(&["store", "rebuild"]).await.code, 0);
    assert_eq!(read_trails(&process, &finished).await, before);
    assert_eq!(run_verify(&process).await, (0, vec![]));
    let again = file_names(&process.data_dir().join("ledger"));
    assert!(again.len() == 1 && again != now, "{now:?} became {again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_unusable_ledger_once() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    submit_and_wait_relayed(&process, 3).await;
    assert!(process.terminate().await.success());
    let ledger = process.data_dir().join("ledger");
    for entry in std::fs::read_dir(ledger.join(&file_names(&ledger)[0])).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            write_file(&path, b"nothing of sled's");
        }
    }
    let (code, found) = run_verify(&process).await;
    assert_eq!((code, found.len(), &found[0]["step"]), (4, 1, &"contradiction".into()), "{found:?}");
    assert_eq!(run_verify(&process).await, (0, vec![]));
}

/// Clients that submit until they are stopped.
struct MaintenanceTraffic {
    shared: Arc<MaintenanceTrafficState>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct MaintenanceTrafficState {
    is_stopping: AtomicBool,
    /// Tracking ids that were answered with 250.
    accepted: Mutex<Vec<String>>,
}

impl MaintenanceTraffic {
    /// Starts the traffic and waits until it flows.
    async fn start(process: &RelayProcess) -> Self {
        let (shared, address) = (Arc::new(MaintenanceTrafficState::default()), process.address(1));
        let client = |_| {
            let shared = shared.clone();
            tokio::spawn(async move {
                let mut client = SmtpClient::connect(address).await.unwrap();
                while !shared.is_stopping.load(Ordering::Relaxed) {
                    let id = client
                        .submit("a@example.com", &["b@example.net"], &sample_message("x"))
                        .await
                        .unwrap();
                    shared.accepted.lock().unwrap().push(id);
                }
            })
        };
        let traffic = Self { clients: (0..4).map(client).collect(), shared };
        let under_way = || (traffic.accepted_ids().len() >= 40).then_some(());
        testkit::eventually("traffic", under_way).await;
        traffic
    }

    fn accepted_ids(&self) -> Vec<String> {
        self.shared.accepted.lock().unwrap().clone()
    }

    async fn stop(self) -> Vec<String> {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        self.shared.accepted.lock().unwrap().clone()
    }
}

/// Runs `store verify`; returns the exit code and the damage.
async fn run_verify(process: &RelayProcess) -> (i32, Vec<Value>) {
    let output = process.run_command(&["--json", "store", "verify"]).await;
    let mut lines = output.json_lines();
    let last = lines.pop().unwrap_or_else(|| unreachable!("{}", output.stderr));
    assert_eq!((&last["step"], &last["whole"]), (&"verified".into(), &lines.is_empty().into()));
    (output.code, lines)
}

/// Submits this number of messages and waits until they are relayed.
async fn submit_and_wait_relayed(process: &RelayProcess, messages: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..messages {
        ids.push(submit_message(process, "x").await);
    }
    let relayed = async {
        while read_trails(process, &ids)
            .await
            .values()
            .any(|trail| trail["recipients"][0]["state"] != "relayed")
        {}
    };
    tokio::time::timeout(testkit::WAIT_TIMEOUT, relayed).await.unwrap();
    ids
}

/// The store is closed on return.
fn assert_all_relayed(store: Store, ids: &[String]) {
    for id in ids {
        let trail = store.load_trail(id.parse().unwrap()).unwrap().unwrap();
        assert_eq!(trail.recipients[0].state(), RecipientState::Relayed, "{trail:?}");
    }
}

async fn submit_message(process: &RelayProcess, subject: &str) -> String {
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    client.submit("a@example.com", &["b@example.net"], &sample_message(subject)).await.unwrap()
}

fn sample_message(subject: &str) -> String {
    format!("From: a@example.com\r\nSubject: {subject}\r\n\r\nbody\r\n")
}

async fn read_trails(process: &RelayProcess, ids: &[String]) -> BTreeMap<String, Value> {
    let mut trails = BTreeMap::new();
    for id in ids {
        let output = process.run_command(&["--json", "trace", id]).await;
        assert_eq!(output.code, 0, "{id}: {}", output.stderr);
        trails.insert(id.clone(), output.json_lines().remove(0));
    }
    trails
}

fn find_bytes(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes.windows(wanted.len()).position(|window| window == wanted).unwrap()
}

fn write_file(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

fn file_names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn assert_owner_only(directory: &Path) {
    let mut left: Vec<PathBuf> = file_names(directory).iter().map(|name| directory.join(name)).collect();
    while let Some(path) = left.pop() {
        let metadata = std::fs::metadata(&path).unwrap();
        let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(metadata.permissions().mode() & 0o777, expected, "{}", path.display());
        if metadata.is_dir() {
            left.extend(file_names(&path).iter().map(|name| path.join(name)));
        }
    }
}
