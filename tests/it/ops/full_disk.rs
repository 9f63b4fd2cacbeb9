//! A full disk, on a small file system of the test. New mail is rejected, accepted mail stays, and the relay recovers
//! by itself when there is space.

use mailtrail_mail::{Clock, Secret};
use mailtrail_trail::provider::generic;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testkit::mount_namespace::MountNamespace;
use testkit::relay_process;
use testkit::relay_process::RelayProcess;
use testkit::smtp_client::SmtpClient;
use testkit::smtp_sink::{SinkOptions, SmtpSink};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejects_mail_at_mail_from_when_disk_is_nearly_full() {
    let Some((disk, mut process, sink)) = start_on_small_disk().await else { return };
    process.start_in_namespace(disk.namespace.id()).await;
    process.wait_for_log("alarm=\"disk\"").await;
    let traffic = FullDiskTraffic::start(process.address(1));
    traffic.wait_until("mail is taken", |seen| seen.accepted_ids.len() >= 50).await;
    disk.fill(RESERVED_BYTES / 2);
    traffic.wait_until("it is refused", |seen| seen.count_rejections("452 4.3.1", "MAIL") >= 20).await;
    let before = traffic.with_results(|seen| seen.accepted_ids.len());
    disk.free_space();
    traffic.wait_until("it is taken again", |seen| seen.accepted_ids.len() >= before + 50).await;
    let promised = traffic.stop().await;
    wait_for_messages(&sink, &promised).await;
    assert!(process.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_loses_no_accepted_message() {
    let Some((disk, mut process, sink)) = start_on_small_disk().await else { return };
    process.start_in_namespace(disk.namespace.id()).await;
    let traffic = FullDiskTraffic::start(process.address(1));
    traffic.wait_until("mail is taken", |seen| seen.accepted_ids.len() >= 50).await;
    disk.fill(0);
    traffic.wait_until("it is refused", |seen| seen.count_rejections("452 4.3.1", "") >= 20).await;
    // Longer than a checkpoint of the ledger is away.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = traffic.with_results(|seen| seen.accepted_ids.len());
    disk.free_space();
    traffic.wait_until("it is taken again", |seen| seen.accepted_ids.len() >= before + 50).await;
    assert!(!process.has_ended() && !process.log().contains("kept aside"), "{}", process.log());
    let promised = traffic.stop().await;
    wait_for_messages(&sink, &promised).await;
    assert!(process.terminate().await.success());
}

/// The ledger lies on a disk of its own, and that is full: no mail is taken until there is room, and then all goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unwritable_ledger_stops_mail_until_space_is_free() {
    let sink = SmtpSink::start().await;
    let mut process = RelayProcess::new(&sink);
    let Some(disk) = SmallDisk::mount(&process.data_dir().join("ledger")) else { return };
    process.start_in_namespace(disk.namespace.id()).await;
    let traffic = FullDiskTraffic::start(process.address(1));
    traffic.wait_until("mail is taken", |seen| seen.accepted_ids.len() >= 50).await;
    for _ in 0..2 {
        disk.fill(0);
        process.wait_for_log("the ledger cannot be written, and no mail is accepted").await;
        let refused = traffic.with_results(|seen| seen.count_rejections("452 4.3.1", ""));
        traffic
            .wait_until("it is refused", |seen| seen.count_rejections("452 4.3.1", "") >= refused + 20)
            .await;
        let output = process.run_command(&["stats"]).await;
        assert!(
            output.stderr.contains("the ledger cannot be read now"),
            "{} {}",
            output.stdout,
            output.stderr
        );
        let promised = traffic.with_results(|seen| seen.accepted_ids.len());
        disk.free_space();
        traffic.wait_until("mail is taken again", |seen| seen.accepted_ids.len() >= promised + 50).await;
    }
    assert!(!process.has_ended() && !process.log().contains("kept aside"), "{}", process.log());
    let promised = traffic.stop().await;
    wait_for_messages(&sink, &promised).await;
    assert!(process.terminate().await.success());
}

/// Each start that meets a full disk with work to do leaves everything as it is, and answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_on_full_disk_and_recovers() {
    let Some((disk, mut process, sink)) = start_on_small_disk().await else { return };
    let http = SocketAddr::from(([127, 0, 0, 1], relay_process::free_port()));
    let text = process.configuration(sink.port(), "");
    let source = "[[source]]\nname = \"other\"\nkind = \"generic\"\nsecret = \"sixteen-or-longer\"\n";
    process.write_configuration(&format!("{text}\n[http]\naddress = \"{http}\"\n{source}"));
    process.start_in_namespace(disk.namespace.id()).await;
    let traffic = FullDiskTraffic::start(process.address(1));
    traffic.wait_until("mail is taken", |seen| seen.accepted_ids.len() >= 50).await;
    disk.fill(0);
    for _ in 0..3 {
        process.kill();
        process.start_in_namespace(disk.namespace.id()).await;
        let refused = traffic.with_results(|seen| seen.count_rejections("452 4.3.1", ""));
        traffic.wait_until("it is refused", |seen| seen.count_rejections("452 4.3.1", "") > refused).await;
        assert_eq!(post_signed_event(http).await, 503);
    }
    let promised = traffic.with_results(|seen| seen.accepted_ids.len());
    disk.free_space();
    traffic.wait_until("it is taken again", |seen| seen.accepted_ids.len() >= promised + 50).await;
    assert_eq!(post_signed_event(http).await, 200);
    assert!(!process.has_ended() && !process.log().contains("kept aside"), "{}", process.log());
    let promised = traffic.stop().await;
    wait_for_messages(&sink, &promised).await;
    assert!(process.terminate().await.success());
}

/// A first start on a disk without a free byte or inode: clients get a temporary rejection, and the relay starts to
/// work when there is space.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_start_on_full_disk_rejects_clients_and_recovers() {
    for fill in [|disk: &SmallDisk| disk.fill(0), SmallDisk::take_inodes] {
        let Some((disk, mut process, sink)) = start_on_small_disk().await else { return };
        fill(&disk);
        process.spawn_in_namespace(disk.namespace.id());
        for listener in [0, 1] {
            let address = process.address(listener);
            let mut greeting = String::new();
            connect(address).await.read_to_string(&mut greeting).await.unwrap();
            assert_eq!(greeting, "421 4.3.2 Mail cannot be taken now, try again later\r\n", "{address}");
        }
        assert_eq!(process.ready_count(), 0, "{}", process.log());
        disk.free_space();
        process.wait_until_ready(1).await;
        let traffic = FullDiskTraffic::start(process.address(1));
        traffic.wait_until("mail is taken", |seen| seen.accepted_ids.len() >= 50).await;
        let promised = traffic.stop().await;
        wait_for_messages(&sink, &promised).await;
        assert!(process.terminate().await.success());
    }
}

/// A connection, once something listens there.
async fn connect(address: SocketAddr) -> TcpStream {
    let listens = || std::net::TcpStream::connect(address).ok();
    let stream = testkit::eventually("the relay listens", listens).await;
    stream.set_nonblocking(true).unwrap();
    TcpStream::from_std(stream).unwrap()
}

/// The status that a signed report gets.
async fn post_signed_event(http: SocketAddr) -> u16 {
    let (id, now) = (format!("evt-{}", fastrand::u64(..)), Clock::System.now().as_secs().to_string());
    let body = r#"{"event": "delivered", "recipient": "b@example.net", "message_id": "unknown@example.com"}"#;
    let signature = generic::sign_request(&Secret::new(SOURCE_SECRET), &id, &now, body.as_bytes()).unwrap();
    let request = format!(
        "POST /webhooks/other HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n\
         webhook-id: {id}\r\nwebhook-timestamp: {now}\r\nwebhook-signature: {signature}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(http).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Starts a relay on a small disk; `None` if the machine permits no mount.
async fn start_on_small_disk() -> Option<(SmallDisk, RelayProcess, SmtpSink)> {
    let sink = SmtpSink::with_options(SinkOptions {
        reply_delay: Duration::from_millis(5),
        ..SinkOptions::default()
    })
    .await;
    let process = RelayProcess::new(&sink);
    Some((SmallDisk::mount(&process.data_dir())?, process, sink))
}

async fn wait_for_messages(sink: &SmtpSink, promised: &[String]) {
    let arrived = || {
        let mails = sink.messages();
        let there: std::collections::HashSet<_> = mails.iter().map(|mail| mail.tracking_id()).collect();
        promised.iter().all(|id| there.contains(id.as_str())).then_some(())
    };
    testkit::eventually_within(LONG_TIMEOUT, "every promised message arrives", arrived).await;
}

/// A file system in memory, in a mount namespace.
struct SmallDisk {
    namespace: MountNamespace,
    root: PathBuf,
}

impl SmallDisk {
    /// Nothing where this machine allows no mount.
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let script = "mount -t tmpfs -o size=$1,nr_inodes=$2 tmpfs \"$0\"";
        let [size, inodes] = [DISK_BYTES, INODES].map(|number| OsString::from(number.to_string()));
        let Some(namespace) = MountNamespace::new(script, &[at.as_os_str(), &size, &inodes]) else {
            eprintln!("no file system can be mounted here; full disks are not tried");
            return None;
        };
        let root = namespace.path(at);
        Some(Self { namespace, root })
    }

    /// Fills the disk except for `leave` bytes.
    fn fill(&self, leave: u64) {
        let mut filler = File::options().create(true).append(true).open(self.root.join("filler")).unwrap();
        loop {
            let disk = rustix::fs::statvfs(&self.root).unwrap();
            let left = (disk.f_bavail * disk.f_frsize).saturating_sub(leave).min(1 << 20);
            let written = filler.write(&vec![0; usize::try_from(left).unwrap()]);
            match written {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
                    return;
                }
            }
        }
    }

    /// Uses all inodes.
    fn take_inodes(&self) {
        let directory = self.root.join("filler");
        fs::create_dir(&directory).unwrap();
        let refused = (0..=INODES).find_map(|number| File::create(directory.join(number.to_string())).err());
        assert_eq!(refused.unwrap().kind(), io::ErrorKind::StorageFull);
    }

    fn free_space(&self) {
        let filler = self.root.join("filler");
        if filler.is_dir() { fs::remove_dir_all(filler) } else { fs::remove_file(filler) }.unwrap();
    }
}

/// Clients that send until they are stopped and record the replies.
struct FullDiskTraffic {
    with_results: Arc<Mutex<TrafficResults>>,
    stop_token: CancellationToken,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct TrafficResults {
    accepted_ids: Vec<String>,
    /// Number of rejections by reply and command.
    rejections: BTreeMap<(String, &'static str), usize>,
}

impl TrafficResults {
    fn count_rejections(&self, reply: &str, command: &str) -> usize {
        let refusals = self.rejections.iter();
        refusals
            .filter(|((text, at), _)| text.starts_with(reply) && at.starts_with(command))
            .map(|(_, n)| n)
            .sum()
    }
}

impl FullDiskTraffic {
    fn start(address: SocketAddr) -> Self {
        let (with_results, stop_token) =
            (Arc::new(Mutex::new(TrafficResults::default())), CancellationToken::new());
        let client = |_| tokio::spawn(send_until_stopped(address, with_results.clone(), stop_token.clone()));
        let clients = (0..CLIENT_COUNT).map(client).collect();
        Self { with_results, stop_token, clients }
    }

    fn with_results<T>(&self, look: impl FnOnce(&TrafficResults) -> T) -> T {
        look(&self.with_results.lock().unwrap())
    }

    async fn wait_until(&self, what: &str, mut enough: impl FnMut(&TrafficResults) -> bool) {
        testkit::eventually_within(LONG_TIMEOUT, what, || self.with_results(&mut enough).then_some(())).await;
    }

    async fn stop(self) -> Vec<String> {
        self.stop_token.cancel();
        for client in self.clients {
            client.await.unwrap();
        }
        let seen = self.with_results.lock().unwrap();
        seen.accepted_ids.clone()
    }
}

async fn send_until_stopped(address: SocketAddr, seen: Arc<Mutex<TrafficResults>>, over: CancellationToken) {
    let mut client = None;
    while !over.is_cancelled() {
        if client.is_none() {
            // A listener that is killed may leave a connection that nothing answers and nothing resets.
            let connected = tokio::time::timeout(testkit::WAIT_TIMEOUT, SmtpClient::connect(address)).await;
            client = connected.ok().and_then(Result::ok);
        }
        let Some(open) = &mut client else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        match send_message(open).await {
            Ok(Ok(id)) => seen.lock().unwrap().accepted_ids.push(id),
            Ok(Err(refusal)) => {
                *seen.lock().unwrap().rejections.entry(refusal).or_default() += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(_) => client = None,
        }
    }
}

/// The tracking id, or the refusal and the command that met it.
async fn send_message(client: &mut SmtpClient) -> io::Result<Result<String, (String, &'static str)>> {
    for (command, line, good) in [
        ("MAIL", "MAIL FROM:<a@example.com>", 250),
        ("RCPT", "RCPT TO:<b@example.net>", 250),
        ("DATA", "DATA", 354),
    ] {
        let (code, text) = client.command(line).await?;
        if code != good {
            return Ok(Err((text, command)));
        }
    }
    let line = "x".repeat(70) + "\r\n";
    let (code, text) = client.command(&format!("Subject: hi\r\n\r\n{}.", line.repeat(100))).await?;
    Ok(if code == 250 {
        Ok(text.rsplit(' ').next().unwrap_or_default().to_owned())
    } else {
        Err((text, "dot"))
    })
}

const SOURCE_SECRET: &str = "sixteen-or-longer";
const CLIENT_COUNT: usize = 4;
/// Bytes of the disk.
const DISK_BYTES: u64 = 160 << 20;
/// Inodes of the disk.
const INODES: u64 = 2000;
/// Bytes that new mail leaves free.
const RESERVED_BYTES: u64 = 16 << 20;
const LONG_TIMEOUT: Duration = Duration::from_secs(60);
