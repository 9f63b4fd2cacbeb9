//! Notifications to systemd, received on a socket in its place; and the unit files.

use mailtrail_mail::Clock;
use mailtrail_store::Store;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;
use testkit::relay_process::RelayProcess;
use testkit::smtp_sink::SmtpSink;
use tokio::net::UnixDatagram as Datagram;

/// Socket for the relay's notifications.
struct NotifySocket {
    socket: Datagram,
    _folder: tempfile::TempDir,
}

impl NotifySocket {
    /// Prepares a relay with this notification socket and a watchdog timeout in microseconds.
    fn attach(process: RelayProcess, watchdog: u64) -> (Self, RelayProcess) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let process = process
            .with_environment("NOTIFY_SOCKET", path.to_str().unwrap())
            .with_environment("WATCHDOG_USEC", &watchdog.to_string());
        (Self { socket: Datagram::from_std(socket).unwrap(), _folder: folder }, process)
    }

    /// Returns the next message.
    async fn next_message(&self) -> String {
        let mut bytes = [0; 4096];
        let received = tokio::time::timeout(testkit::WAIT_TIMEOUT, self.socket.recv(&mut bytes)).await;
        let length = received.expect("systemd hears something").unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// The next message that is more than a sign of life.
    async fn next_state_message(&self) -> String {
        loop {
            let received = self.next_message().await;
            if !received
                .lines()
                .all(|line| line == WATCHDOG_MESSAGE || line.starts_with("EXTEND_TIMEOUT_USEC="))
            {
                return received;
            }
        }
    }

    /// Waits for a pause of twenty watchdog intervals.
    async fn wait_for_silence(&self) {
        let silence = async {
            let mut bytes = [0; 4096];
            let pause = Duration::from_micros(SHORT_WATCHDOG_USEC / 3 * 20);
            while tokio::time::timeout(pause, self.socket.recv(&mut bytes)).await.is_ok() {}
        };
        tokio::time::timeout(testkit::WAIT_TIMEOUT, silence).await.expect("the signs of life end");
    }

    /// Waits for this number of consecutive pings without a request for more time.
    async fn wait_for_pings(&self, signs: usize) {
        let mut received = 0;
        while received < signs {
            received =
                if self.next_message().await.trim_end() == WATCHDOG_MESSAGE { received + 1 } else { 0 };
        }
    }
}

const WATCHDOG_MESSAGE: &str = "WATCHDOG=1";
/// Watchdog timeout in microseconds.
const SHORT_WATCHDOG_USEC: u64 = 60_000;
const LONG_WATCHDOG_USEC: u64 = 3_600_000_000;

fn has_line(message: &str, line: &str) -> bool {
    message.lines().any(|one| one == line)
}

#[tokio::test]
async fn notifies_every_state_change() {
    let sink = SmtpSink::start().await;
    let (manager, mut process) = NotifySocket::attach(RelayProcess::new(&sink), LONG_WATCHDOG_USEC);
    process.start().await;
    let id = process.id();
    let opening = manager.next_message().await;
    assert!(
        has_line(&opening, "EXTEND_TIMEOUT_USEC=60000000") && has_line(&opening, WATCHDOG_MESSAGE),
        "{opening}"
    );
    let ready = manager.next_state_message().await;
    let status = format!("STATUS=mail on {}, {}", process.address(0), process.address(1));
    assert!(has_line(&ready, "READY=1") && ready.contains(&status), "{ready}");

    process.send_sighup().await;
    let reloading = manager.next_state_message().await;
    assert!(has_line(&reloading, "RELOADING=1") && reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
    assert!(has_line(&manager.next_state_message().await, "READY=1"));

    let good = std::fs::read_to_string(process.directory().join("mailtrail.toml")).unwrap();
    process.write_configuration("[server]\nhostnam = 1\n");
    process.send_sighup().await;
    assert!(has_line(&manager.next_state_message().await, "RELOADING=1"));
    assert!(has_line(&manager.next_state_message().await, "READY=1"), "one that is refused ends, too");
    process.write_configuration(&good);

    process.send_sigusr2().await;
    assert!(has_line(
        &manager.next_state_message().await,
        "STATUS=waiting for sessions to end before the successor starts"
    ));
    assert!(has_line(&manager.next_state_message().await, "RELOADING=1"));
    assert!(has_line(&manager.next_state_message().await, "READY=1"), "the successor tells it");
    assert_eq!(process.id(), id, "systemd need not be told of another process");

    assert!(process.terminate().await.success());
    assert!(has_line(&manager.next_state_message().await, "STOPPING=1"));
}

#[tokio::test]
async fn watchdog_pings_continue_while_store_answers() {
    let sink = SmtpSink::start().await;
    let (manager, mut process) = NotifySocket::attach(RelayProcess::new(&sink), SHORT_WATCHDOG_USEC);
    process.start().await;
    manager.wait_for_pings(10).await;
    process.send_sigusr2().await;
    process.wait_until_ready(2).await;
    manager.wait_for_pings(10).await;
    assert!(process.terminate().await.success());
    let (store, _) = Store::open_read_only(&process.data_dir(), Clock::System).unwrap();
    assert!(store.ping().await.is_err(), "it has no threads that could");
    drop(store);
    let (store, _) = Store::open(&process.data_dir(), Clock::System).unwrap();
    store.ping().await.unwrap();
}

/// Process that suspends all writes to a disk, until it is dropped.
struct HangingDisk {
    strace: Child,
    /// The process exits when its output is closed.
    _said: BufReader<ChildStderr>,
}

impl HangingDisk {
    /// From now on no sync of that process comes back; `None` where this machine does not let us do that.
    fn hang_syncs_of(process: u32) -> Option<Self> {
        let mut strace = Command::new("strace");
        strace.args([
            "-f",
            "-o",
            "/dev/null",
            "-e",
            "trace=fdatasync",
            "-e",
            "inject=fdatasync:delay_enter=3600s",
        ]);
        let mut strace = strace.arg("-p").arg(process.to_string()).stderr(Stdio::piped()).spawn().ok()?;
        let (mut printed, mut line) = (BufReader::new(strace.stderr.take()?), String::new());
        let read = printed.read_line(&mut line);
        let hang = Self { strace, _said: printed };
        (read.is_ok() && line.contains(" attached")).then_some(hang)
    }
}

impl Drop for HangingDisk {
    fn drop(&mut self) {
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

#[tokio::test]
async fn hanging_disk_stops_watchdog_pings() {
    let sink = SmtpSink::start().await;
    let (manager, mut process) = NotifySocket::attach(RelayProcess::new(&sink), SHORT_WATCHDOG_USEC);
    process.start().await;
    manager.wait_for_pings(5).await;
    let Some(hang) = HangingDisk::hang_syncs_of(process.id()) else {
        return eprintln!("strace cannot hold a process's syncs back here: nothing is seen");
    };
    manager.wait_for_silence().await;
    drop(hang);
    manager.wait_for_pings(5).await;
    assert!(process.terminate().await.success());
}

#[test]
fn units_are_valid_and_service_is_sandboxed() {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    for unit in ["mailtrail.service", "mailtrail.socket"] {
        let text = std::fs::read_to_string(source.join(unit)).unwrap();
        let text = text.replace("/usr/bin/mailtrail", env!("CARGO_BIN_EXE_mailtrail"));
        std::fs::write(folder.path().join(unit), text).unwrap();
    }
    let analyze = |words: &[&str]| {
        let units = ["mailtrail.service", "mailtrail.socket"].map(|unit| folder.path().join(unit));
        let units = if words[0] == "verify" { &units[..] } else { &units[..1] };
        Command::new("systemd-analyze").args(words).args(units).output()
    };
    if analyze(&["verify"]).is_err() {
        return eprintln!("there is no systemd-analyze: the units are not looked at");
    }
    // The threshold is in tenths, as in the README.
    for words in [&["verify"][..], &["security", "--offline=true", "--threshold=15"]] {
        let output = analyze(words).unwrap();
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {printed}{}", String::from_utf8_lossy(&output.stdout));
    }
}
