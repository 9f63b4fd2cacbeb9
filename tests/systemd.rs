//! What systemd is told, heard on a socket as systemd listens on one; and the unit itself.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use mailtrail_mail::Clock;
use mailtrail_store::Store;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;
use support::process::Process;
use support::sink::Sink;
use tokio::net::UnixDatagram as Datagram;

/// Where a relay tells what it does.
struct Manager {
    socket: Datagram,
    _folder: tempfile::TempDir,
}

impl Manager {
    /// A relay of this manager's, whose patience is `watchdog` microseconds; it does not run yet.
    fn of(process: Process, watchdog: u64) -> (Self, Process) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let process = process
            .with_environment("NOTIFY_SOCKET", path.to_str().unwrap())
            .with_environment("WATCHDOG_USEC", &watchdog.to_string());
        (Self { socket: Datagram::from_std(socket).unwrap(), _folder: folder }, process)
    }

    /// The next message.
    async fn hears(&self) -> String {
        let mut bytes = [0; 4096];
        let heard = tokio::time::timeout(support::PATIENCE, self.socket.recv(&mut bytes)).await;
        let length = heard.expect("systemd hears something").unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// The next message that is more than a sign of life.
    async fn hears_news(&self) -> String {
        loop {
            let heard = self.hears().await;
            if !heard.lines().all(|line| line == ALIVE || line.starts_with("EXTEND_TIMEOUT_USEC=")) {
                return heard;
            }
        }
    }

    /// Waits until nothing was heard for twenty times as long as usual.
    async fn hears_no_more(&self) {
        let silence = async {
            let mut bytes = [0; 4096];
            let pause = Duration::from_micros(SHORT / 3 * 20);
            while tokio::time::timeout(pause, self.socket.recv(&mut bytes)).await.is_ok() {}
        };
        tokio::time::timeout(support::PATIENCE, silence).await.expect("the signs of life end");
    }

    /// Waits for so many signs of life in a row that do not ask for time.
    async fn hears_signs(&self, signs: usize) {
        let mut heard = 0;
        while heard < signs {
            heard = if self.hears().await.trim_end() == ALIVE { heard + 1 } else { 0 };
        }
    }
}

const ALIVE: &str = "WATCHDOG=1";
/// Microseconds.
const SHORT: u64 = 60_000;
const LONG: u64 = 3_600_000_000;

fn has(message: &str, line: &str) -> bool {
    message.lines().any(|one| one == line)
}

#[tokio::test]
async fn every_change_is_told() {
    let sink = Sink::start().await;
    let (manager, mut process) = Manager::of(Process::new(&sink), LONG);
    process.start().await;
    let id = process.id();
    let opening = manager.hears().await;
    assert!(has(&opening, "EXTEND_TIMEOUT_USEC=60000000") && has(&opening, ALIVE), "{opening}");
    let ready = manager.hears_news().await;
    let status = format!("STATUS=mail on {}, {}", process.address(0), process.address(1));
    assert!(has(&ready, "READY=1") && ready.contains(&status), "{ready}");

    process.hang_up().await;
    let reloading = manager.hears_news().await;
    assert!(has(&reloading, "RELOADING=1") && reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
    assert!(has(&manager.hears_news().await, "READY=1"));

    let good = std::fs::read_to_string(process.directory().join("mailtrail.toml")).unwrap();
    process.configure("[server]\nhostnam = 1\n");
    process.hang_up().await;
    assert!(has(&manager.hears_news().await, "RELOADING=1"));
    assert!(has(&manager.hears_news().await, "READY=1"), "one that is refused ends, too");
    process.configure(&good);

    process.restart().await;
    assert!(has(
        &manager.hears_news().await,
        "STATUS=waiting for sessions to end before a successor takes over"
    ));
    assert!(has(&manager.hears_news().await, "RELOADING=1"));
    assert!(has(&manager.hears_news().await, "READY=1"), "the successor tells it");
    assert_eq!(process.id(), id, "systemd need not be told of another process");

    assert!(process.terminate().await.success());
    assert!(has(&manager.hears_news().await, "STOPPING=1"));
}

#[tokio::test]
async fn signs_of_life_go_on_as_long_as_the_store_answers() {
    let sink = Sink::start().await;
    let (manager, mut process) = Manager::of(Process::new(&sink), SHORT);
    process.start().await;
    manager.hears_signs(10).await;
    process.restart().await;
    process.started(2).await;
    manager.hears_signs(10).await;
    assert!(process.terminate().await.success());
    let (store, _) = Store::open_for_reading(&process.data(), Clock::System).unwrap();
    assert!(store.answers().await.is_err(), "it has no threads that could");
    drop(store);
    let (store, _) = Store::open(&process.data(), Clock::System).unwrap();
    store.answers().await.unwrap();
}

/// Whoever takes the disk away, until it is dropped.
struct Hang {
    strace: Child,
    /// It ends when nobody listens.
    _said: BufReader<ChildStderr>,
}

impl Hang {
    /// From now on no sync of that process comes back; `None` where this machine does not let us do that.
    fn of(process: u32) -> Option<Self> {
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
        let (mut said, mut line) = (BufReader::new(strace.stderr.take()?), String::new());
        let read = said.read_line(&mut line);
        let hang = Self { strace, _said: said };
        (read.is_ok() && line.contains(" attached")).then_some(hang)
    }
}

impl Drop for Hang {
    fn drop(&mut self) {
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

#[tokio::test]
async fn a_disk_that_hangs_ends_the_signs_of_life() {
    let sink = Sink::start().await;
    let (manager, mut process) = Manager::of(Process::new(&sink), SHORT);
    process.start().await;
    manager.hears_signs(5).await;
    let Some(hang) = Hang::of(process.id()) else {
        return eprintln!("strace cannot hold a process's syncs back here: nothing is seen");
    };
    manager.hears_no_more().await;
    drop(hang);
    manager.hears_signs(5).await;
    assert!(process.terminate().await.success());
}

#[test]
fn the_units_are_sound_and_the_service_is_confined() {
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
    // Tenths: the README says which.
    for words in [&["verify"][..], &["security", "--offline=true", "--threshold=15"]] {
        let output = analyze(words).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {said}{}", String::from_utf8_lossy(&output.stdout));
    }
}
