//! Messages that are too large to be held in memory: they arrive as they were sent, and the relay stays small.

use std::net::SocketAddr;
use std::process::Command;
use testkit::relay::{Relay, all_message_ids};
use testkit::relay_process::RelayProcess;
use testkit::smtp_client::SmtpClient;
use testkit::smtp_sink::SmtpSink;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_message_arrives_unchanged() {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    let mut client = SmtpClient::log_in(relay.guarded(), &relay.tls_connector()).await.unwrap();
    // Sizes around the borders of memory and pieces, then the largest.
    for (number, size) in [64 << 10, 1 << 20, (1 << 20) + 1, (1 << 20) + (256 << 10), LARGE_MESSAGE_BYTES]
        .into_iter()
        .enumerate()
    {
        let message = sample_message(number, size);
        let id = client.submit("a@example.com", &["b@example.net"], &dot_stuff(&message)).await.unwrap();
        let mail = sink.wait_for_count(number + 1).await.pop().unwrap();
        assert_eq!(mail.tracking_id(), id);
        assert!(mail.message.ends_with(message.as_bytes()), "{size} bytes");
        assert!(mail.message.len() < size + 1000, "only lines in front of {size} bytes");
    }
}

/// Nothing grows more on its way in.
#[tokio::test]
async fn normalizes_line_ends_of_large_message() {
    const LINE_COUNT: usize = 2_000_000;
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    let mut client = SmtpClient::connect(relay.open()).await.unwrap();
    let message = format!("A: b\r\n\r\n{}\r\n", "\n".repeat(LINE_COUNT));
    let id = client.submit("a@example.com", &["b@example.net"], &message).await.unwrap();
    let expected = format!("A: b\r\n\r\n{}\r\n", "\r\n".repeat(LINE_COUNT));
    assert!(sink.wait_for_message(&id).await.message.ends_with(expected.as_bytes()));
}

/// With the real program, because the kernel records the peak of its memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_large_messages_stay_within_memory_limit() {
    let (sink, process) = start_process().await;
    let clients = (0..10).map(|number| {
        tokio::spawn(submit_message(process.address(1), sample_message(number, LARGE_MESSAGE_BYTES)))
    });
    futures_util::future::join_all(clients).await.into_iter().for_each(|sent| sent.unwrap());
    assert_unchanged_and_memory_within(&sink, &process, 10, LARGE_MESSAGE_BYTES, 96 << 20).await;
}

/// A hundred that need more than the 64 MiB they share are in the middle of their messages; all are taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepts_messages_beyond_spool_memory() {
    const MESSAGE_BYTES: usize = 2 << 20;
    let (sink, process) = start_process().await;
    let idle = process.peak_memory();
    let mut clients = Vec::new();
    for number in 0..100 {
        let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
        for command in ["MAIL FROM:<a@example.com>", "RCPT TO:<b@example.net>", "DATA"] {
            client.command(command).await.unwrap();
        }
        let text = dot_stuff(&sample_message(number, MESSAGE_BYTES));
        client.send(&text[..MESSAGE_BYTES / 4 * 3]).await.unwrap();
        clients.push((client, text));
    }
    let filled = || (process.peak_memory() >= idle + (60 << 20)).then_some(());
    testkit::eventually("the common memory is in use", filled).await;
    for (client, text) in &mut clients {
        let answer = client.command(&format!("{}.", &text[MESSAGE_BYTES / 4 * 3..])).await.unwrap();
        assert_eq!(answer.0, 250, "{}", answer.1);
    }
    assert_unchanged_and_memory_within(&sink, &process, 100, MESSAGE_BYTES, 192 << 20).await;
}

async fn start_process() -> (SmtpSink, RelayProcess) {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    process.start().await;
    (sink, process)
}

async fn submit_message(relay: SocketAddr, message: String) {
    let mut client = SmtpClient::connect(relay).await.unwrap();
    client.submit("a@example.com", &["b@example.net"], &dot_stuff(&message)).await.unwrap();
}

/// All arrived as they were sent, and the relay never held more than `limit` bytes of memory.
async fn assert_unchanged_and_memory_within(
    sink: &SmtpSink,
    process: &RelayProcess,
    messages: usize,
    size: usize,
    limit: u64,
) {
    let mails = sink.wait_for_count(messages).await;
    for number in 0..messages {
        let expected = sample_message(number, size);
        assert!(mails.iter().any(|mail| mail.message.ends_with(expected.as_bytes())), "message {number}");
    }
    let peak = process.peak_memory();
    println!("{messages} messages of {size} bytes at once: peak of resident memory {} MiB", peak >> 20);
    assert!(peak < limit, "{} MiB", peak >> 20);
}

#[tokio::test]
async fn rejection_after_data_keeps_session_usable() {
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "message_size = \"2MiB\"").await;
    let mut client = SmtpClient::connect(relay.open()).await.unwrap();
    let endless_header = format!("X-Long: {}\r\n\r\n", "x\r\n\t".repeat(300_000));
    for (message, code) in [
        (sample_message(0, 3 << 20), "552 5.3.4 The message is larger"),
        (endless_header, "552 5.3.4 The header of the message is larger"),
    ] {
        let refusal = client.submit("a@example.com", &["b@example.net"], &message).await.unwrap_err();
        assert!(refusal.to_string().starts_with(code), "{refusal}");
    }
    let fine = client.submit("a@example.com", &["b@example.net"], "A: b\r\n\r\nfine\r\n").await.unwrap();
    assert_eq!(sink.wait_for_message(&fine).await.recipients, ["b@example.net"]);
    assert_eq!(sink.count(), 1);
}

/// A disk that is full in the middle of a large message, made with a limit on the size of files: the process that
/// plays it is this test again.
#[tokio::test]
async fn unwritable_large_message_is_temporary_failure() {
    const ROLE_VARIABLE: &str = "MAILTRAIL_TEST_FULL_DISK";
    const TEST_NAME: &str = "unwritable_large_message_is_temporary_failure";
    if std::env::var_os(ROLE_VARIABLE).is_none() {
        // Without the trap the limit's signal would end the process; 8192 units of 512 bytes are 4 MiB.
        let limited = "trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\"";
        let child = testkit::test_as_child(module_path!(), TEST_NAME);
        let mut shell = Command::new("sh");
        shell.args(["-c", limited]).arg(child.get_program()).args(child.get_args()).env(ROLE_VARIABLE, "");
        let played = testkit::run_if_installed(&mut shell).await.unwrap();
        assert!(String::from_utf8_lossy(&played.stdout).contains("1 passed"), "{played:?}");
        return;
    }
    let sink = SmtpSink::start().await;
    let relay = Relay::start(&sink, "").await;
    let mut client = SmtpClient::connect(relay.open()).await.unwrap();
    let large = dot_stuff(&sample_message(0, LARGE_MESSAGE_BYTES));
    let mut taken = Vec::new();
    for _ in 0..3 {
        let refusal = client.submit("a@example.com", &["b@example.net"], &large).await.unwrap_err();
        assert!(refusal.to_string().starts_with("452 4.3.1 "), "{refusal}");
        taken.push(client.submit("a@example.com", &["b@example.net"], "A: b\r\n\r\nfine\r\n").await.unwrap());
    }
    let mut arrived: Vec<_> =
        sink.wait_for_count(3).await.iter().map(|mail| mail.tracking_id().to_owned()).collect();
    arrived.sort();
    let kept = all_message_ids(relay.store()).into_iter().rev().map(|id| id.to_string());
    assert_eq!((arrived, kept.collect()), (taken.clone(), taken), "nothing is kept of what was refused");
    let second = relay.directory().join("journal/0000000002.seg");
    assert!(
        !second.exists(),
        "the journal never heard of what was refused: it gives up a segment that fails"
    );
}

/// The message as a client sends it.
fn dot_stuff(message: &str) -> String {
    message.replace("\r\n.", "\r\n..")
}

/// A message of that size, dots in front of many lines.
fn sample_message(number: usize, size: usize) -> String {
    let lines = format!("{}\r\n.{number}\r\n..\r\n", "x".repeat(990));
    let mut text =
        format!("Message-ID: <{number}@example.com>\r\nDate: Mon, 14 Sep 2026 11:59:00 +0000\r\n\r\n");
    while text.len() + lines.len() <= size {
        text.push_str(&lines);
    }
    let rest = (size - text.len()).saturating_sub(2);
    format!("{text}{}\r\n", "y".repeat(rest))
}

/// Bytes of a large message, as providers count them.
const LARGE_MESSAGE_BYTES: usize = 25_000_000;
