//! A wall clock that is set while the real program runs.

use super::{LONG_TIMEOUT, THREE_DAYS, submit_message};
use mailtrail_trail::RecipientState;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testkit::mock_smtp::{MockSmtpServer, SmtpScript};
use testkit::queue_harness::recipient_states;
use testkit::relay_process::RelayProcess;
use testkit::smtp_client::SmtpClient;

/// The clock is three days ahead for some seconds while no upstream listens: mail of two days would be given up.
#[tokio::test]
async fn expires_nothing_of_running_program_while_clock_is_briefly_ahead() {
    let (server, socket) = MockSmtpServer::refusing(SmtpScript::new());
    let process = RelayProcess::with_upstream_port(server.address.port(), "");
    let Some((clock, mut process)) = WallClock::under(process).await else { return };
    process.start().await;
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(submit_message(&mut client).await.unwrap());
    }
    clock.set_ahead(THREE_DAYS);
    process.wait_for_log("alarm=\"clock\" subject=\"machine\"").await;
    assert!(process.log().contains("clock was set forward by 259"), "{}", process.log());
    // Mail that comes now gets its times from the wrong clock.
    ids.push(submit_message(&mut client).await.unwrap());
    // Longer than from one look for expired mail to the next.
    tokio::time::sleep(AHEAD).await;
    clock.set_ahead(Duration::ZERO);
    process.wait_for_log("clock was set back by 259").await;
    server.serve(socket.listen(1024).unwrap());
    let taken = || {
        let taken = server.accepted();
        let is_taken = |id: &String| taken.iter().any(|mail| carries(&mail.message, id));
        ids.iter().all(is_taken).then_some(taken.len())
    };
    let taken = testkit::eventually_within(LONG_TIMEOUT, "all mail is sent", taken).await;
    assert_eq!(taken, ids.len(), "no bounce goes out and nothing twice: {:#?}", server.commands());
    drop(client);
    let store = process.drain().await;
    for id in &ids {
        let trail = store.load_trail(id.parse().unwrap()).unwrap().unwrap();
        assert_eq!(recipient_states(&trail), [RecipientState::Relayed], "{:#?}", trail.events);
    }
}

fn carries(message: &[u8], id: &str) -> bool {
    testkit::header_value(message, "X-Mailtrail-Id") == Some(id)
}

/// The wall clock of a process, which only this test sets.
struct WallClock(PathBuf);

impl WallClock {
    /// The clock of a process that is to be started; none where no C compiler makes it.
    async fn under(process: RelayProcess) -> Option<(Self, RelayProcess)> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/ops/resources/clock.c");
        let [library, offset] = ["clock.so", "clock"].map(|name| process.directory().join(name));
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &source]);
        let Some(compiled) = testkit::run_if_installed(&mut compiler).await else {
            println!("there is no C compiler (cc); a clock that is set is not tried");
            return None;
        };
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let clock = Self(offset.clone());
        clock.set_ahead(Duration::ZERO);
        let [library, offset] = [library, offset].map(|path| path.to_str().unwrap().to_owned());
        let process =
            process.with_environment("LD_PRELOAD", &library).with_environment("CLOCK_OFFSET", &offset);
        Some((clock, process))
    }

    /// Sets it ahead of the machine's.
    fn set_ahead(&self, by: Duration) {
        let file = std::fs::File::options().create(true).truncate(false).write(true).open(&self.0).unwrap();
        file.write_all_at(&by.as_secs().to_ne_bytes(), 0).unwrap();
    }
}

/// Time for which the clock is ahead.
const AHEAD: Duration = Duration::from_secs(12);
