//! Restarts in the middle of traffic: no connect is refused, no message is lost, none comes twice.

use mailtrail_mail::Clock;
use mailtrail_store::Store;
use mailtrail_trail::{AttemptStatus, RecipientState, TrailEventKind};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use testkit::relay::all_message_ids;
use testkit::relay_process;
use testkit::relay_process::RelayProcess;
use testkit::smtp_client::{SmtpClient, expect_code};
use testkit::smtp_sink::{SinkOptions, SmtpSink};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_on_inherited_socket_is_invisible_to_clients() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    let lent = TcpListener::bind(process.address(1)).unwrap();
    process.start_with_sockets(&[&lent]).await;
    let traffic = RestartTraffic::start(process.address(1));
    for _ in 0..RESTART_COUNT {
        traffic.wait_for_progress().await;
        assert!(process.terminate().await.success());
        process.start_with_sockets(&[&lent]).await;
    }
    traffic.stop().await.assert_all_arrived(&sink, process).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_is_invisible_to_clients() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    let (id, traffic) = (process.id(), RestartTraffic::start(process.address(1)));
    for restart in 1..=RESTART_COUNT {
        traffic.wait_for_progress().await;
        process.send_sigusr2().await;
        process.wait_until_ready(1 + restart).await;
    }
    assert_eq!(process.id(), id);
    traffic.stop().await.assert_all_arrived(&sink, process).await;
}

/// Runs from a path of its own, where its program is no more.
async fn start_from_removed_program(sink: &SmtpSink) -> (RelayProcess, TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("mailtrail");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mailtrail"), &program).unwrap();
    let mut process = RelayProcess::new(sink).with_program(program.clone());
    process.start().await;
    std::fs::remove_file(&program).unwrap();
    (process, folder, program)
}

#[tokio::test]
async fn upgraded_program_takes_over() {
    let sink = SmtpSink::start().await;
    let (mut process, folder, program) = start_from_removed_program(&sink).await;
    process.send_sigusr2().await;
    process.wait_for_log("the new program does not start; not replaced").await;
    let real = env!("CARGO_BIN_EXE_mailtrail");
    write_script(
        &program,
        &format!("echo upgraded >> {}/upgraded; exec {real} \"$@\"", folder.path().display()),
    );
    process.send_sigusr2().await;
    process.wait_until_ready(2).await;
    let upgraded = std::fs::read_to_string(folder.path().join("upgraded")).unwrap();
    assert_eq!(upgraded.lines().count(), 2, "once to check, once to run");
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    sink.wait_for_message(&submit_message(&mut client).await.unwrap()).await;
    assert!(process.terminate().await.success());
}

#[tokio::test]
async fn failing_exec_of_successor_exits_with_error() {
    let sink = SmtpSink::start().await;
    let (mut process, _folder, program) = start_from_removed_program(&sink).await;
    // The program is removed once it has reported readiness.
    write_script(&program, "rm \"$0\"");
    process.send_sigusr2().await;
    assert_eq!(process.wait_for_exit().await.code(), Some(1));
    assert!(process.log().contains("cannot take over: No such file"), "{}", process.log());
}

#[tokio::test]
async fn refuses_upgrade_when_successor_rejects_config() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    process.write_configuration("[server]\nhostnam = 1\n");
    process.send_sigusr2().await;
    process.wait_for_log("server.hostnam").await;
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    sink.wait_for_message(&submit_message(&mut client).await.unwrap()).await;
    assert_eq!(process.ready_count(), 1);
    assert!(process.terminate().await.success());
}

#[tokio::test]
async fn closes_and_logs_unused_inherited_socket() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    let (wanted, unwanted) =
        (TcpListener::bind(process.address(0)).unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = unwanted.local_addr().unwrap();
    process.start_with_sockets(&[&unwanted, &wanted]).await;
    drop(unwanted);
    assert!(TcpStream::connect(address).await.is_err());
    assert!(process.log().contains(&format!("names it place=\"{address}\"")), "{}", process.log());
    SmtpClient::connect(process.address(0)).await.unwrap();
    SmtpClient::connect(process.address(1)).await.unwrap();
    assert!(process.terminate().await.success());
    // The inherited socket stays open: a new client waits for the next process.
    TcpStream::connect(process.address(0)).await.unwrap();
    assert!(TcpStream::connect(process.address(1)).await.is_err());
}

/// Odoo counts a 421 between two messages as two permanent failures and an end after a reply as one. Most of its
/// queue runs end within the time limit of a stop.
#[tokio::test]
async fn stop_lets_active_sessions_finish_without_421() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    let mut idle = SmtpClient::connect(process.address(1)).await.unwrap();
    let mut within = SmtpClient::connect(process.address(1)).await.unwrap();
    expect_code(250, within.command("MAIL FROM:<a@example.com>").await.unwrap()).unwrap();
    let mut series = SmtpClient::connect(process.address(1)).await.unwrap();
    for _ in 0..2 {
        submit_message(&mut series).await.unwrap();
    }
    process.send_sigterm().await;
    process.wait_for_log("stopping").await;
    let mut late = TcpStream::connect(process.address(1)).await.unwrap();
    let mut output = String::new();
    late.read_to_string(&mut output).await.unwrap();
    assert!(output.starts_with("421 4.3.2"), "{output}");
    let left = idle.read_reply().await.unwrap_err();
    assert_eq!(left.kind(), std::io::ErrorKind::UnexpectedEof, "it ends without a word");
    // A session in its first message finishes it.
    finish_message(&mut within).await.unwrap();
    // Each as long after the one before as a mail may take to be made.
    for number in 0..SLOW_MESSAGES {
        tokio::time::sleep(Duration::from_secs(4)).await;
        let sent = submit_message(&mut series).await;
        assert!(sent.is_ok(), "mail {number}: {sent:?}");
    }
    expect_code(221, series.command("QUIT").await.unwrap()).unwrap();
    assert!(process.wait_for_exit().await.success());
    let (store, _) = Store::open_read_only(&process.data_dir(), Clock::System).unwrap();
    assert_eq!(all_message_ids(&store).len(), 3 + SLOW_MESSAGES);
}

#[tokio::test]
async fn upgrade_waits_for_open_sessions() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    let mut long = SmtpClient::connect(process.address(1)).await.unwrap();
    let mut ids = vec![submit_message(&mut long).await.unwrap()];
    process.send_sigusr2().await;
    // Longer than a session may last that is to end.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(4)).await;
        ids.push(submit_message(&mut long).await.expect("the session goes on"));
        let mut other = SmtpClient::connect(process.address(1)).await.expect("others begin meanwhile");
        ids.push(submit_message(&mut other).await.unwrap());
        expect_code(221, other.command("QUIT").await.unwrap()).unwrap();
    }
    sink.wait_for_message(&ids[1]).await;
    assert_eq!(process.ready_count(), 1, "it is one process still");
    expect_code(221, long.command("QUIT").await.unwrap()).unwrap();
    process.wait_until_ready(2).await;
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    ids.push(submit_message(&mut client).await.unwrap());
    drop(client);
    AcceptedMessages { ids, dismissed: 0 }.assert_all_arrived(&sink, process).await;
}

#[tokio::test]
async fn second_signal_upgrades_without_waiting() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    let mut idle = SmtpClient::connect(process.address(1)).await.unwrap();
    process.send_sigusr2().await;
    process.wait_for_log("the successor starts when").await;
    process.send_sigusr2().await;
    process.wait_until_ready(2).await;
    assert!(idle.read_reply().await.is_err(), "it ends without a word");
    assert!(process.terminate().await.success());
}

#[tokio::test]
async fn hanging_upstream_does_not_delay_stop() {
    let options = SinkOptions { reply_delay: Duration::from_secs(3600), ..SinkOptions::default() };
    let sink = SmtpSink::with_options(options).await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    let id = submit_message(&mut client).await.unwrap();
    sink.wait_for_message(&id).await;
    assert!(process.terminate().await.success());
    let (store, _) = Store::open_read_only(&process.data_dir(), Clock::System).unwrap();
    assert_eq!(store.interrupted_attempts().unwrap().len(), 1, "nobody knows whether it arrived");
}

#[tokio::test]
async fn slow_client_does_not_delay_stop() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    begin_data(&mut client).await.unwrap();
    client.send("Subject: slow\r\n").await.unwrap();
    let dripping = tokio::spawn(async move {
        while client.send("x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    assert!(process.terminate().await.success());
    dripping.await.unwrap();
}

#[tokio::test]
async fn open_http_request_does_not_delay_stop() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    let http: SocketAddr = ([127, 0, 0, 1], relay_process::free_port()).into();
    let text = process.configuration(sink.port(), "");
    let source = "[[source]]\nname = \"other\"\nkind = \"generic\"\nsecret = \"sixteen-or-longer\"\n";
    process.write_configuration(&format!("{text}\n[http]\naddress = \"{http}\"\n{source}"));
    process.start().await;
    let mut idle = TcpStream::connect(http).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_ne!(idle.read(&mut [0; 64]).await.unwrap(), 0);
    let mut held = TcpStream::connect(http).await.unwrap();
    let request = b"POST /webhooks/other HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nx";
    held.write_all(request).await.unwrap();
    assert!(process.terminate().await.success());
    assert!(held.read(&mut [0; 64]).await.map_or(true, |read| read == 0), "it was not answered");
}

/// Clients that send in short sessions until they are stopped.
struct RestartTraffic {
    shared: Arc<RestartTrafficState>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct RestartTrafficState {
    is_stopping: AtomicBool,
    session_count: AtomicUsize,
    /// Sessions that were sent away, between two messages.
    dismissed: AtomicUsize,
    /// Tracking ids that were answered with 250.
    accepted: Mutex<Vec<String>>,
}

impl RestartTraffic {
    fn start(address: SocketAddr) -> Self {
        let shared = Arc::<RestartTrafficState>::default();
        let clients = (0..CLIENT_COUNT).map(|_| tokio::spawn(shared.clone().run_client(address))).collect();
        Self { shared, clients }
    }

    /// Waits until every client has had a session more.
    async fn wait_for_progress(&self) {
        let sessions = || self.shared.session_count.load(Ordering::Relaxed);
        let enough = sessions() + CLIENT_COUNT;
        testkit::eventually("traffic flows", || (sessions() >= enough).then_some(())).await;
    }

    async fn stop(self) -> AcceptedMessages {
        self.wait_for_progress().await;
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        let dismissed = self.shared.dismissed.load(Ordering::Relaxed);
        let ids = std::mem::take(&mut *self.shared.accepted.lock().unwrap());
        AcceptedMessages { ids, dismissed }
    }
}

impl RestartTrafficState {
    async fn run_client(self: Arc<Self>, address: SocketAddr) {
        while !self.is_stopping.load(Ordering::Relaxed) {
            let stream = TcpStream::connect(address).await.expect("no connect is refused");
            if self.run_session(stream).await.is_none() {
                self.dismissed.fetch_add(1, Ordering::Relaxed);
            }
            self.session_count.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..200))).await;
        }
    }

    /// Some messages; `None` if the relay ended it, which it may do between two of them only.
    async fn run_session(&self, stream: TcpStream) -> Option<()> {
        let mut client = SmtpClient::from_stream(stream).await.ok()?;
        for _ in 0..4 {
            match client.command("MAIL FROM:<a@example.com>").await {
                Ok((421, _)) | Err(_) => return None,
                Ok((code, text)) => assert_eq!(code, 250, "{text}"),
            }
            let id = finish_message(&mut client).await.expect("a message that was begun can be ended");
            self.accepted.lock().unwrap().push(id);
        }
        // The session has no more mail, so that a failed QUIT does not matter.
        let _ = client.command("QUIT").await;
        Some(())
    }
}

/// Messages that clients got a 250 for.
struct AcceptedMessages {
    ids: Vec<String>,
    dismissed: usize,
}

impl AcceptedMessages {
    /// Checks that everything arrives, and that only messages with an unknown result arrive twice.
    async fn assert_all_arrived(self, sink: &SmtpSink, mut process: RelayProcess) {
        sink.wait_for_count(self.ids.len()).await;
        let store = process.drain().await;
        let mut copies: HashMap<String, usize> = HashMap::new();
        sink.messages()
            .iter()
            .for_each(|mail| *copies.entry(mail.tracking_id().to_owned()).or_default() += 1);
        let kept = all_message_ids(&store);
        println!("{} messages, {} sessions were sent away", kept.len(), self.dismissed);
        assert_eq!(kept.len(), self.ids.len(), "every message that was kept was promised");
        assert!(self.ids.iter().all(|id| copies.contains_key(id)), "every promised message arrived");
        for id in kept {
            let trail = store.load_trail(id).unwrap().unwrap();
            let unknown = |fact: &&mailtrail_trail::TrailEvent| {
                fact.kind == TrailEventKind::Attempted(AttemptStatus::Unknown)
            };
            let unknowns = trail.events.iter().filter(unknown).count();
            assert_eq!(trail.recipients[0].state(), RecipientState::Relayed, "{id}: {:?}", trail.events);
            let arrivals = copies[&id.to_string()];
            assert!(arrivals <= 1 + unknowns, "{id} arrived {arrivals} times: {:?}", trail.events);
        }
    }
}

async fn submit_message(client: &mut SmtpClient) -> std::io::Result<String> {
    expect_code(250, client.command("MAIL FROM:<a@example.com>").await?)?;
    finish_message(client).await
}

/// Sends the rest of a message after MAIL; returns its id.
async fn finish_message(client: &mut SmtpClient) -> std::io::Result<String> {
    expect_code(250, client.command("RCPT TO:<b@example.net>").await?)?;
    expect_code(354, client.command("DATA").await?)?;
    let text = expect_code(250, client.command("Subject: hi\r\n\r\nhi\r\n.").await?)?;
    Ok(text.rsplit(' ').next().unwrap().to_owned())
}

async fn begin_data(client: &mut SmtpClient) -> std::io::Result<()> {
    expect_code(250, client.command("MAIL FROM:<a@example.com>").await?)?;
    expect_code(250, client.command("RCPT TO:<b@example.net>").await?)?;
    expect_code(354, client.command("DATA").await?).map(drop)
}

fn write_script(path: &Path, text: &str) {
    let made: PathBuf = path.with_extension("new");
    std::fs::write(&made, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&made, path).unwrap();
}

const CLIENT_COUNT: usize = 50;
const RESTART_COUNT: usize = 5;
/// Mails of a series that goes on while the relay stops.
const SLOW_MESSAGES: usize = 3;
