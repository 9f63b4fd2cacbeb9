//! Shortage of descriptors, memory and ports, and changes of the clock: the relay stays up and recovers by itself.
//! Full disks are in `tests/it/ops/full_disk.rs`.

mod clock;
mod log;

use mailtrail_mail::Clock;
use mailtrail_store::Store;
use mailtrail_trail::RecipientState;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testkit::log_capture::LogCapture;
use testkit::mock_smtp::{MockSmtpServer, SmtpAction, SmtpScript, SmtpStep};
use testkit::queue_harness::{QueueHarness, recipient_states};
use testkit::relay_process::{RelayProcess, free_port};
use testkit::smtp_client::{SmtpClient, expect_code};
use testkit::smtp_sink::SmtpSink;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// Connections that ask nothing hold descriptors, on each listener that takes them without a login.
#[tokio::test]
async fn idle_connections_do_not_exhaust_descriptors() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::with_limits(&sink, "connections = 60");
    let [page, http] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let text = process.configuration(sink.port(), "connections = 60");
    process.write_configuration(&format!(
        "{text}\n[admin]\naddress = \"{page}\"\n[http]\naddress = \"{http}\"\nconnections = 30\n"
    ));
    process.start_with_descriptor_limit(FD_LIMIT).await;
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    submit_message(&mut client).await.unwrap();
    let socket = process.data_dir().join("admin.sock");
    let mut idle = Vec::new();
    for _ in 0..FD_LIMIT {
        idle.push(IdleConnection::Tcp(TcpStream::connect(page).await.unwrap()));
        idle.push(IdleConnection::Tcp(TcpStream::connect(http).await.unwrap()));
        // The kernel's queue of a unix socket is short, and a full one does not take more.
        idle.extend(try_connect_unix(&socket).await.map(IdleConnection::Unix));
    }
    // Longer than a checkpoint of the ledger is away.
    for _ in 0..40 {
        timeout(LONG_TIMEOUT, submit_message(&mut client)).await.expect("mail is taken").unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut other = timeout(LONG_TIMEOUT, SmtpClient::connect(process.address(1)))
        .await
        .expect("another is taken")
        .unwrap();
    let id = submit_message(&mut other).await.unwrap();
    timeout(LONG_TIMEOUT, sink.wait_for_message(&id)).await.expect("it is relayed");
    assert!(!process.has_ended(), "{}", process.log());
    drop((idle, client, other));
    let printed = process.run_command(&["queue", "list"]).await;
    assert!(printed.code <= 1, "{}", printed.stderr);
    assert!(process.terminate().await.success());
}

/// With all descriptors in use by sessions, a client gets a temporary rejection, and succeeds when some sessions have
/// ended.
#[tokio::test]
async fn client_without_descriptor_gets_temporary_rejection() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::with_limits(&sink, "connections = 5000\nconnections_per_ip = 5000");
    process.start_with_descriptor_limit(FD_LIMIT).await;
    let mut sessions = Vec::new();
    let refusal = loop {
        let (session, greeting) = greeted(process.address(1)).await;
        if !greeting.starts_with("220") {
            break greeting;
        }
        sessions.push(session);
        assert!((sessions.len() as u64) < FD_LIMIT, "each session has a descriptor");
    };
    assert_eq!(refusal, REFUSAL);
    assert_eq!(greeted(process.address(1)).await.1, REFUSAL, "the next one too");
    process.wait_for_log("alarm=\"descriptors\"").await;
    drop(sessions);
    let begun = std::time::Instant::now();
    while !greeted(process.address(1)).await.1.starts_with("220") {
        assert!(begun.elapsed() < LONG_TIMEOUT, "descriptors are free again");
    }
    let id = submit_message(&mut SmtpClient::connect(process.address(1)).await.unwrap()).await.unwrap();
    timeout(LONG_TIMEOUT, sink.wait_for_message(&id)).await.expect("it is relayed");
    assert!(process.terminate().await.success());
}

/// Messages come in at once that together are nine times as large as the memory that they share, and with the rest of the
/// relay larger than what the process may have: they go to the disk. A header, which must fit into memory, is refused for now.
#[tokio::test]
async fn messages_beyond_memory_do_not_end_relay() {
    let sink = SmtpSink::start().await;
    // The limit counts what the allocator sets aside and whole stacks: both are kept small.
    let mut process = RelayProcess::with_limits(&sink, "connections_per_ip = 1000")
        .with_environment("MIMALLOC_ARENA_EAGER_COMMIT", "0")
        .with_environment("RUST_MIN_STACK", &(1 << 20).to_string());
    process.start_with_memory_limit(MEMORY).await;
    let text = format!("Subject: hi\r\n\r\n{}", format!("{}\r\n", "x".repeat(998)).repeat(MESSAGE / 1000));
    let header = format!("Subject: hi{}\r\n\r\n.", format!("\r\n {}", "x".repeat(900)).repeat(200));
    let mut clients = Vec::new();
    for _ in 0..MESSAGES {
        let mut client = begin(process.address(1)).await;
        client.send(&text).await.unwrap();
        clients.push(client);
    }
    // Each holds its part when the relay has read it.
    let begun = std::time::Instant::now();
    let refusal = loop {
        let (code, reply) = begin(process.address(1)).await.command(&header).await.unwrap();
        if code != 250 {
            break reply;
        }
        assert!(begun.elapsed() < LONG_TIMEOUT, "the memory for messages is used up");
    };
    assert_eq!(refusal, "452 4.3.1 The message cannot be stored now, try again later");
    for client in &mut clients {
        let (code, reply) = client.command(".").await.unwrap();
        assert_eq!(code, 250, "{reply} {}", process.log());
    }
    let reply = begin(process.address(1)).await.command(&header).await.unwrap();
    let id = expect_code(250, reply).unwrap().rsplit(' ').next().unwrap().to_owned();
    timeout(LONG_TIMEOUT, sink.wait_for_message(&id)).await.expect("it is relayed");
    sink.wait_for_count(MESSAGES + 1).await;
    drop(clients);
    assert!(process.terminate().await.success(), "{}", process.log());
}

/// Returns a client in a transaction, after DATA.
async fn begin(address: SocketAddr) -> SmtpClient {
    let mut client = SmtpClient::connect(address).await.unwrap();
    for (command, code) in
        [("MAIL FROM:<a@example.com>", 250), ("RCPT TO:<b@example.net>", 250), ("DATA", 354)]
    {
        expect_code(code, client.command(command).await.unwrap()).unwrap();
    }
    client
}

/// A connection, and the line that it was greeted with.
async fn greeted(address: SocketAddr) -> (BufReader<TcpStream>, String) {
    let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
    let mut greeting = String::new();
    timeout(3 * LONG_TIMEOUT, stream.read_line(&mut greeting)).await.expect("an answer").unwrap();
    (stream, greeting.trim_end().to_owned())
}

/// Every listener of the configuration may find its port taken: the others work meanwhile, and it works as soon as the
/// port is free.
#[tokio::test]
async fn listens_on_occupied_port_once_it_is_free() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    let [page, http] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let text = process.configuration(sink.port(), "");
    process.write_configuration(&format!(
        "{text}\n[admin]\naddress = \"{page}\"\n[http]\naddress = \"{http}\"\n"
    ));
    // One of the SMTP ports stays free.
    let taken = [page, http, process.address(0)].map(|address| TcpListener::bind(address).unwrap());
    process.start().await;
    for address in [page, http, process.address(0)] {
        let printed = format!("alarm=\"listener\" subject=\"{address}\"");
        assert!(process.log().contains(&printed), "{}", process.log());
    }
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    let id = submit_message(&mut client).await.unwrap();
    timeout(LONG_TIMEOUT, sink.wait_for_message(&id)).await.expect("mail is relayed meanwhile");
    for listener in taken {
        let address = listener.local_addr().unwrap();
        drop(listener);
        process.wait_for_log(&format!("listening place=\"{address}\"")).await;
        assert!(TcpStream::connect(address).await.is_ok());
        process.wait_for_log(&format!("alarm cleared alarm=\"listener\" subject=\"{address}\"")).await;
    }
    let mut guarded = SmtpClient::connect(process.address(0)).await.unwrap();
    expect_code(221, guarded.command("QUIT").await.unwrap()).unwrap();
    // The session that was there goes on.
    submit_message(&mut client).await.unwrap();
    drop(client);
    assert!(process.terminate().await.success());
}

/// The configured limits are compared with the process's limit of open files.
#[tokio::test]
async fn warns_when_limits_exceed_descriptors() {
    let sink = SmtpSink::start().await;
    let process = RelayProcess::with_limits(&sink, "connections = 5000");
    let check = |files: u64| {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")]);
        command.arg(env!("CARGO_BIN_EXE_mailtrail")).arg("--config");
        command.arg(process.directory().join("mailtrail.toml")).args(["config", "check"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "it is a warning");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let printed = check(4000);
    assert!(printed.contains("limits") && printed.contains("the hard limit is 4000"), "{printed}");
    assert!(!check(8000).contains("hard limit"));
}

/// The clock is ahead for a moment, as one without a battery or one that was typed in, while no upstream listens.
#[tokio::test(start_paused = true)]
async fn expires_nothing_while_clock_is_briefly_ahead() {
    let log = LogCapture::default();
    let _logging = log.install();
    let (server, socket) = MockSmtpServer::refusing(SmtpScript::new());
    let harness = QueueHarness::with_manual_time(server.clone(), "").await;
    let ids = harness.enqueue_many(0..5).await;
    harness.let_time_pass(ONE_MINUTE).await;
    let now = || harness.time.clock().now();
    harness.time.set_wall_clock(now().saturating_add(THREE_DAYS));
    harness.let_time_pass(ONE_MINUTE / 5).await;
    assert_eq!(log.lines("clock was set forward by 259200 s").len(), 1, "{:#?}", log.lines("alarm="));
    harness.time.set_wall_clock(now().saturating_sub(THREE_DAYS));
    server.serve(socket.listen(1024).unwrap());
    let corrected = now();
    for id in ids {
        let trail = harness.wait_for_result(id).await;
        assert_eq!(
            recipient_states(&trail),
            [RecipientState::Relayed],
            "{:#?} {:#?}",
            trail.events,
            log.lines("")
        );
    }
    assert!(now().duration_since(corrected) < ONE_HOUR, "its breaker and its waits are as long as ever");
    harness.wait_until("the alarm's end", || log.lines("alarm cleared alarm=\"clock\"").len() == 1).await;
}

/// The clock is corrected, and mail that has hardly waited seems old.
#[tokio::test(start_paused = true)]
async fn expires_nothing_after_clock_jump_before_retry() {
    let (server, socket) = MockSmtpServer::refusing(SmtpScript::new());
    let harness = QueueHarness::with_manual_time(server.clone(), "").await;
    let ids = harness.enqueue_many(0..5).await;
    harness.time.set_wall_clock(harness.time.clock().now().saturating_add(THREE_DAYS));
    harness.let_time_pass(ONE_MINUTE).await;
    server.serve(socket.listen(1024).unwrap());
    for id in ids {
        assert_eq!(recipient_states(&harness.wait_for_result(id).await), [RecipientState::Relayed]);
    }
}

/// The machine starts with a clock that is years ahead, and its network, which corrects it, comes up late.
#[tokio::test(start_paused = true)]
async fn expires_nothing_after_start_with_clock_years_ahead() {
    let log = LogCapture::default();
    let _logging = log.install();
    let (server, socket) = MockSmtpServer::refusing(SmtpScript::new());
    let mut harness = QueueHarness::with_manual_time(server.clone(), "").await;
    let ids = harness.enqueue_many(0..5).await;
    harness.stop().await;
    wait_for_store_unlock(&harness.config.data_dir).await;
    let right = harness.time.clock().now();
    harness.time.set_wall_clock(right.saturating_add(THREE_DAYS * 365));
    harness.start().await;
    harness.let_time_pass(ONE_HOUR / 4 * 3).await;
    let alarms = log.lines("the newest mail in the store is 1095 days old");
    assert_eq!(alarms.len(), 1, "{:#?}", log.lines("alarm="));
    harness.time.set_wall_clock(right.saturating_add(ONE_HOUR));
    server.serve(socket.listen(1024).unwrap());
    for id in ids {
        assert_eq!(
            recipient_states(&harness.wait_for_result(id).await),
            [RecipientState::Relayed],
            "{:#?}",
            log.lines("")
        );
    }
}

/// Mail gets its waits while the clock is ahead: of a temporary failure, of an unknown end, and none at all.
#[tokio::test(start_paused = true)]
async fn clock_set_back_does_not_extend_delays() {
    for (at, act) in [
        (SmtpStep::Rcpt, SmtpAction::Reply("450 4.2.1 try later")),
        (SmtpStep::Mail, SmtpAction::Reply("451 4.3.0 try later")),
        (SmtpStep::Dot, SmtpAction::Close),
        (SmtpStep::Banner, SmtpAction::Close),
    ] {
        for starts_anew in [false, true] {
            let script = SmtpScript::new().on(at, [Some(act.clone())]);
            let mut harness = QueueHarness::with_manual_time(MockSmtpServer::start(script).await, "").await;
            let now = harness.time.clock().now();
            harness.time.set_wall_clock(now.saturating_add(THREE_DAYS));
            let first = harness.enqueue(1, &["a@example.net"]).await;
            harness.let_time_pass(ONE_MINUTE / 6).await;
            let second = harness.enqueue(2, &["a@example.net"]).await;
            if starts_anew {
                harness.stop().await;
                wait_for_store_unlock(&harness.config.data_dir).await;
            }
            harness.time.set_wall_clock(now.saturating_add(ONE_MINUTE));
            if starts_anew {
                harness.start().await;
            }
            for id in [first, second] {
                let trail = harness.wait_for_result(id).await;
                assert_eq!(
                    recipient_states(&trail),
                    [RecipientState::Relayed],
                    "{at:?}: {:#?}",
                    trail.events
                );
            }
            let took = harness.time.clock().now().duration_since(now);
            assert!(took < ONE_HOUR, "{at:?} {act:?}, started anew {starts_anew}: {took:?}");
            harness.stop().await;
        }
    }
}

/// Waits, in real time, until the threads of a store have let go of it.
async fn wait_for_store_unlock(data_dir: &Path) {
    while Store::open_read_only(data_dir, Clock::System).is_err() {
        let pause = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(5)));
        pause.await.unwrap();
    }
}

/// A connection that is held open.
#[expect(dead_code, reason = "held, not used")]
enum IdleConnection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

async fn try_connect_unix(path: &PathBuf) -> Option<UnixStream> {
    timeout(Duration::from_millis(5), UnixStream::connect(path)).await.ok()?.ok()
}

/// Sends a mail; its id.
async fn submit_message(client: &mut SmtpClient) -> std::io::Result<String> {
    expect_code(250, client.command("MAIL FROM:<a@example.com>").await?)?;
    expect_code(250, client.command("RCPT TO:<b@example.net>").await?)?;
    expect_code(354, client.command("DATA").await?)?;
    let text = expect_code(250, client.command("Subject: hi\r\n\r\nhi\r\n.").await?)?;
    Ok(text.rsplit(' ').next().unwrap().to_owned())
}

/// Descriptors that the relay may have, fewer than the idle connections.
const FD_LIMIT: u64 = 256;
/// Bytes of memory that the relay may have; without any mail it has 90 MiB, and a MiB for each thread.
const MEMORY: u64 = 640 << 20;
const MESSAGES: usize = 600;
/// Bytes of each, the most that is kept in memory.
const MESSAGE: usize = 1 << 20;
const REFUSAL: &str = "421 4.3.2 Mail cannot be taken now, try again later";
const LONG_TIMEOUT: Duration = Duration::from_secs(20);
const ONE_MINUTE: Duration = Duration::from_secs(60);
const ONE_HOUR: Duration = Duration::from_secs(3600);
const THREE_DAYS: Duration = Duration::from_secs(3 * 86_400);
