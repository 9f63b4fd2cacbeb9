//! In-process relay with a chosen clock that receives webhooks. Its upstream is unreachable.

use crate::{expected_events, test_as_child};
use bytes::Bytes;
use mailtrail::config;
use mailtrail::config::Config;
use mailtrail::daemon::Daemon;
use mailtrail_mail::{Clock, MessageId, Timestamp, TrackingId};
use mailtrail_trail::{AcceptedMessage, MarkKind, Message, Recipient, Trail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

pub struct WebhookHarness {
    pub daemon: Daemon,
    pub client: reqwest::Client,
    config: Config,
    clock: Clock,
    directory: TempDir,
}

impl WebhookHarness {
    /// `more` starts with keys of the upstream `up` and may continue with sections.
    pub async fn start_at(seconds: u64, provider: &str, more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (upstream, sections) = more.split_at(more.find("\n[").map_or(more.len(), |at| at + 1));
        let http = if sections.contains("[http]") { "" } else { "[http]\n" };
        let text = format!(
            "[server]\nhostname = \"relay.example.com\"\ndata_dir = {:?}\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n\
             [[upstream]]\nname = \"up\"\nprovider = \"{provider}\"\nhost = \"127.0.0.1\"\nport = 1\ntls = \"none\"\n\
             username = \"u\"\npassword = \"p\"\n{upstream}{sections}{http}",
            directory.path().join("data").display().to_string()
        );
        let text = text.replace("[http]\n", "[http]\naddress = \"127.0.0.1:0\"\n");
        let config = config::parse(&text, Path::new("test.toml"), &BTreeMap::new()).unwrap();
        let clock = Clock::tokio_time(Timestamp::from_secs(seconds));
        let daemon = Daemon::start(&config, clock, None).await.unwrap();
        let tls = mailtrail_net::tls::build_client_config(None).unwrap();
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
        Self { daemon, client, config, clock, directory }
    }

    /// Restarts the relay without its ledger.
    pub async fn rebuild_ledger(self) -> Self {
        let Self { daemon, client, config, clock, directory } = self;
        daemon.stop().await;
        std::fs::remove_dir_all(directory.path().join("data/ledger")).unwrap();
        let daemon = Daemon::start(&config, clock, None).await.unwrap();
        Self { daemon, client, config, clock, directory }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.daemon.http_address().unwrap())
    }

    /// Posts to the path of the upstream.
    pub async fn post(&self, body: Vec<u8>) -> u16 {
        self.post_to("webhooks/up", body).await
    }

    pub async fn post_to(&self, path: &str, body: Vec<u8>) -> u16 {
        self.post_with(path, &[], body).await
    }

    pub async fn post_with(&self, path: &str, fields: &[(&str, &str)], body: Vec<u8>) -> u16 {
        let mut request = self.client.post(self.url(path)).body(body);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap().status().as_u16()
    }

    /// Stores a message with this tracking id.
    pub async fn store_message(&self, id: &str, recipients: &[&str]) {
        let id: TrackingId = id.parse().unwrap();
        let message = Message {
            sender: "bounces@mg.example.com".parse().ok(),
            message_id: MessageId::parse("1789387199.4711.mt0001@mg.example.com"),
            ..Message::new(id, "odoo")
        };
        let recipients = recipients.iter().map(|to| to.parse().unwrap()).collect();
        self.daemon.store().put_message(AcceptedMessage { message, recipients }, Bytes::new()).await.unwrap();
        wait_until("the send", || self.daemon.store().load_trail(id).unwrap().is_some()).await;
    }

    /// Submits a message; returns its tracking id.
    pub async fn submit(&self, message_id: &str, recipients: &[&str]) -> String {
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

    pub fn load_trail(&self, id: &str) -> Trail {
        self.daemon.store().load_trail(id.parse().unwrap()).unwrap().unwrap()
    }

    pub fn recipients(&self, id: &str) -> Vec<Recipient> {
        self.load_trail(id).recipients
    }

    /// Returns the marks of each recipient of [`SENT_ID`].
    pub fn marks(&self) -> Vec<Vec<(MarkKind, u32)>> {
        let marks =
            |recipient: Recipient| recipient.marks.iter().map(|(kind, mark)| (*kind, mark.count)).collect();
        self.recipients(SENT_ID).into_iter().map(marks).collect()
    }

    /// Returns whether the journal contains these bytes.
    pub fn journal_contains(&self, bytes: &[u8]) -> bool {
        let files = std::fs::read_dir(self.journal()).unwrap().map(|file| file.unwrap().path());
        files
            .filter(|file| file.is_file())
            .any(|file| memchr::memmem::find(&std::fs::read(file).unwrap(), bytes).is_some())
    }

    fn journal(&self) -> PathBuf {
        self.directory.path().join("data/journal")
    }
}

/// Returns the kind of mark for an event kind of `expected.json`.
pub fn mark_kind(word: &str) -> MarkKind {
    match expected_events::event_kind(word) {
        (kind, false) => MarkKind::Person(kind),
        (kind, true) => MarkKind::Automated(kind),
    }
}

/// Returns whether this is the child process with the full disk; otherwise runs the test in such a child. A limit on
/// the size of files stands in for a full disk.
pub fn is_full_disk_child(module: &str, test: &str) -> bool {
    const ROLE: &str = "MAILTRAIL_TEST_FULL_DISK";
    if std::env::var_os(ROLE).is_some() {
        return true;
    }
    // Without the trap, SIGXFSZ would end the process. The unit is 512 bytes; 8192 units are 4 MiB.
    let limited = "trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\"";
    let child = test_as_child(module, test);
    let mut shell = Command::new("sh");
    shell.args(["-c", limited]).arg(child.get_program()).args(child.get_args());
    let played = shell.env(ROLE, "1").output().unwrap();
    assert!(played.status.success(), "{played:?}");
    assert!(String::from_utf8_lossy(&played.stdout).contains("1 passed"), "{played:?}");
    false
}

pub async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Tracking id of the message that the recorded events are about.
pub const SENT_ID: &str = "01K54Z8Q3V7N5X9B2C6D8F0GHJ";
pub const START_SECONDS: u64 = 1_789_387_203;
