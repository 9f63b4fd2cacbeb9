//! A log whose reader is slow or gone.

use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Stdio};
use std::time::Duration;
use testkit::relay_process::{RelayProcess, free_port};
use testkit::smtp_client::SmtpClient;
use tokio::time::timeout;

/// Returns a relay whose policy rejects suppressed recipients: each such RCPT is a log line.
fn process_with_log(log: &str) -> RelayProcess {
    let process = RelayProcess::with_upstream_port(free_port(), "");
    let text = process.configuration(free_port(), "");
    process.write_configuration(&format!("{text}[suppression]\npolicy = \"reject\"\n[log]\n{log}\n"));
    process
}

/// A running `serve` that ends with the test.
struct ServeProcess(Child);

impl ServeProcess {
    /// Starts with standard error a pipe that is not read.
    async fn start(process: &RelayProcess) -> Self {
        let mut command = process.command(&["serve"]);
        let serving = Self(command.stderr(Stdio::piped()).spawn().unwrap());
        let address = process.address(1);
        testkit::eventually("the relay listens", || std::net::TcpStream::connect(address).ok()).await;
        serving
    }

    async fn terminate(&mut self) -> std::process::ExitStatus {
        let id = self.0.id().to_string();
        testkit::run_if_installed(std::process::Command::new("kill").args(["-TERM", &id])).await.unwrap();
        testkit::eventually_within(2 * testkit::WAIT_TIMEOUT, "SIGTERM ends it", || {
            self.0.try_wait().unwrap()
        })
        .await
    }
}

impl Drop for ServeProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has the relay log some thousand lines: far more than a pipe or a socket holds.
async fn log_thousands_of_lines(process: &RelayProcess) {
    let output = process.run_command(&["suppress", "add", "ada@example.net", "--reason", "complaint"]).await;
    assert_eq!(output.code, 0, "{}", output.stderr);
    for _ in 0..500 {
        // Connections that are refused are what a client without any right can cause.
        assert!(with_timeout(SmtpClient::connect(process.address(2))).await.is_err());
    }
    for _ in 0..LOGGED_LINES / COMMANDS_PER_SESSION {
        let mut client = with_timeout(SmtpClient::connect(process.address(1))).await.unwrap();
        with_timeout(client.command("MAIL FROM:<a@example.com>")).await.unwrap();
        with_timeout(client.send(&"RCPT TO:<ada@example.net>\r\n".repeat(COMMANDS_PER_SESSION)))
            .await
            .unwrap();
        for _ in 0..COMMANDS_PER_SESSION {
            assert_eq!(with_timeout(client.read_reply()).await.unwrap().0, 550);
        }
    }
}

/// The relay greets, answers the command line and takes mail.
async fn assert_relay_works(process: &RelayProcess) {
    let mut client = with_timeout(SmtpClient::connect(process.address(1))).await.unwrap();
    let mail = client.submit("a@example.com", &["b@example.net"], "Subject: x\r\n\r\nbody\r\n");
    let id = with_timeout(mail).await.unwrap();
    let output = with_timeout(process.run_command(&["queue", "list"])).await;
    assert!(output.code == 0 && output.stdout.contains(&id[..10]), "{} {}", output.stdout, output.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_stderr_does_not_block_relay() {
    let process = process_with_log("format = \"text\"");
    let mut serving = ServeProcess::start(&process).await;
    log_thousands_of_lines(&process).await;
    assert_relay_works(&process).await;
    assert!(serving.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_journald_socket_does_not_block_relay() {
    let process = process_with_log("format = \"journald\"\njournal = \"journal.socket\"");
    let _journald = UnixDatagram::bind(process.directory().join("journal.socket")).unwrap();
    let mut serving = ServeProcess::start(&process).await;
    log_thousands_of_lines(&process).await;
    assert_relay_works(&process).await;
    assert!(serving.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_states_number_of_lost_lines_when_reader_returns() {
    for format in ["text", "json"] {
        let process = process_with_log(&format!("format = \"{format}\""));
        let mut serving = ServeProcess::start(&process).await;
        log_thousands_of_lines(&process).await;
        let mut log = serving.0.stderr.take().unwrap();
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            log.read_to_string(&mut text).map(|_| text)
        });
        // Later lines have a reader.
        assert_relay_works(&process).await;
        assert!(serving.terminate().await.success());
        let text = reading.join().unwrap().unwrap();
        let lost: usize = text.lines().filter_map(parse_lost_lines).sum();
        let refused = text.lines().filter(|line| line.contains("a suppressed recipient was refused")).count();
        assert!(lost > 0, "{} lines", text.lines().count());
        assert!(
            refused < LOGGED_LINES && refused + lost >= LOGGED_LINES,
            "{refused} written, {lost} lost of {LOGGED_LINES}"
        );
        assert!(
            text.lines().any(|line| line.contains("stopping")),
            "the last lines are written before the end"
        );
        if format == "json" {
            assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_stderr_does_not_end_relay() {
    let process = process_with_log("format = \"text\"");
    let mut serving = ServeProcess::start(&process).await;
    drop(serving.0.stderr.take());
    log_thousands_of_lines(&process).await;
    assert_relay_works(&process).await;
    assert!(serving.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exits_with_error_although_stderr_is_full() {
    let process = process_with_log("format = \"text\"");
    let mut serving = ServeProcess::start(&process).await;
    log_thousands_of_lines(&process).await;
    // The second process cannot open the store, writes to the same pipe, and exits with its code.
    let pipe = serving.0.stderr.take().unwrap();
    let full = full_pipe();
    let mut command = process.command(&["serve"]);
    let mut second = command.stderr(full.1).spawn().unwrap();
    let ended = testkit::eventually("the second one ends", || second.try_wait().unwrap()).await;
    assert_eq!(ended.code(), Some(1));
    drop((pipe, full.0));
    assert!(serving.terminate().await.success());
}

/// Returns a full pipe whose reader does not read.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    use std::io::Write;
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

/// Returns the number of lost lines that a line states.
fn parse_lost_lines(line: &str) -> Option<usize> {
    let (_, count) = line.contains("log lines were lost").then(|| line.split_once("lines"))??;
    let digits = line
        .split_once("lines=")
        .or_else(|| line.split_once("\"lines\":"))
        .map_or(count, |(_, digits)| digits);
    digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// Fails where the relay does not answer at all.
async fn with_timeout<T>(answer: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), answer).await.expect("the relay does not answer")
}

/// Log lines: more than are kept for a reader.
const LOGGED_LINES: usize = 20 * COMMANDS_PER_SESSION;
/// Refused recipients of one session, which may have a thousand commands without a message.
const COMMANDS_PER_SESSION: usize = 900;
