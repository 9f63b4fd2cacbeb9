//! A store that another version of the program wrote.

use futures_util::TryStreamExt;
use mailtrail_mail::Clock;
use mailtrail_store::Store;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use testkit::relay_process::{RelayProcess, free_port};
use testkit::smtp_client::SmtpClient;
use testkit::smtp_sink::SmtpSink;

#[tokio::test]
async fn opens_store_of_first_version() {
    let sink = SmtpSink::start().await;
    let (mut process, id) = stopped_with_queued_mail(&sink).await;
    let segment = only_segment(&process);
    fs::write(&segment, to_first_version(&fs::read(&segment).unwrap())).unwrap();
    fs::remove_dir_all(process.data_dir().join("ledger")).unwrap();
    process.write_configuration(&process.configuration(sink.port(), ""));
    process.start().await;
    let mail = sink.wait_for_message(&id).await;
    assert!(mail.message.ends_with(b"Subject: hi\r\n\r\nhi\r\n"));
    process.drain().await;
    assert_eq!(sink.count(), 1);
}

/// Each earlier version of the record of a mail, as the program of its time wrote it: three mails, of which one arrived,
/// one bounced and one waits.
#[tokio::test]
async fn opens_stores_of_earlier_programs() {
    for version in ["1", "2", "3"] {
        let sink = SmtpSink::start().await;
        let process = RelayProcess::new(&sink);
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stores").join(version);
        copy_dir(&kept, &process.data_dir());
        let reports = process.run_command(&["--json", "events", "list"]).await.json_lines().len();
        assert!(reports >= 4, "{version}: {reports}");
        for (address, state) in [("delivered", "delivered"), ("bounce", "bounced"), ("defer-smtp", "queued")]
        {
            let trail = process
                .run_command(&["--json", "trace", &format!("{address}@example.net")])
                .await
                .json_lines();
            assert_eq!(trail.len(), 1, "{version}: {trail:?}");
            assert_eq!(trail[0]["recipients"][0]["state"], state, "{version}: {trail:?}");
            let message_id = trail[0]["message_id"].as_str().unwrap();
            assert!(message_id.ends_with("@odoo.example.com"), "{version}: {message_id}");
        }
        let verified = process.run_command(&["store", "verify"]).await;
        assert_eq!(verified.code, 0, "{version}: {}", verified.stderr);
        let (store, report) = Store::open(&process.data_dir(), Clock::System).unwrap();
        assert_eq!(report.corrupt_ranges.len(), 0, "{version}");
        let [waiting] = store.queued_ids(10).unwrap()[..] else { panic!("{version}: one mail waits") };
        let message = store.load_job(waiting).unwrap().unwrap().body.unwrap();
        let whole: Vec<u8> = message.chunks().map_ok(|piece| piece.to_vec()).try_concat().await.unwrap();
        assert!(whole.ends_with(b"\r\n\r\nThank you.\r\n"), "{version}");
    }
}

/// Before their orders had reasons.
#[tokio::test]
async fn reads_operator_actions_of_earlier_programs() {
    let process = RelayProcess::new(&SmtpSink::start().await);
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stores/4");
    copy_dir(&kept, &process.data_dir());
    let log = process.run_command(&["--json", "log", "-g", "\"source\":\"operator\""]).await.json_lines();
    let notified = |line: &serde_json::Value| {
        [&line["event"], &line["text"]].map(|word| word.as_str().unwrap().to_owned())
    };
    let expected = [
        ["replayed", "01M803G35RNXT59A62SR1P97J0 is read as delivered"],
        ["inbound-released", "uid 7"],
        ["listed", "gone@example.net manual: on the phone"],
        ["unlisted", "gone@example.net manual"],
    ];
    assert_eq!(log.iter().map(notified).collect::<Vec<_>>(), expected);
    let trail = process.run_command(&["--json", "trace", "ada@example.net"]).await.json_lines().remove(0);
    assert_eq!(trail["recipients"][0]["state"], "delivered", "{trail}");
    assert_eq!(
        process.run_command(&["--json", "inbound", "list"]).await.json_lines()[0]["state"],
        "delivered"
    );
    assert_eq!(process.run_command(&["suppress", "check", "gone@example.net"]).await.code, 1);
    assert_eq!(process.run_command(&["store", "verify"]).await.code, 0);
}

#[tokio::test]
async fn rebuilds_ledger_of_other_schema() {
    let sink = SmtpSink::start().await;
    let (mut process, id) = stopped_with_queued_mail(&sink).await;
    let ledger = sled::open(process.data_dir().join("ledger/1")).unwrap();
    assert!(ledger.insert(b"kschema", &1u32.to_be_bytes()).unwrap().is_some());
    drop(ledger);
    process.write_configuration(&process.configuration(sink.port(), ""));
    process.start().await;
    assert!(process.log().contains("the ledger is rebuilt from the journal"), "{}", process.log());
    sink.wait_for_message(&id).await;
    process.drain().await;
    assert_eq!(sink.count(), 1);
}

#[tokio::test]
async fn refuses_newer_store_and_leaves_it_unchanged() {
    let sink = SmtpSink::start().await;
    for (kind, version) in [(1, 200), (200, 1)] {
        for ledger_lost in [true, false] {
            let (process, _) = stopped_with_queued_mail(&sink).await;
            let segment = only_segment(&process);
            let first = fs::read(&segment).unwrap();
            let newer = RawFrame { kind, version, ..RawFrame::first_in(&first) }.replace_first(&first);
            fs::write(&segment, &newer).unwrap();
            if ledger_lost {
                fs::remove_dir_all(process.data_dir().join("ledger")).unwrap();
            } else {
                // The ledger is complete, so that a start would not read the journal.
                let ledger = sled::open(process.data_dir().join("ledger/1")).unwrap();
                assert!(ledger.insert(b"kschema", &u32::MAX.to_be_bytes()).unwrap().is_some());
            }
            let output = process.run().await;
            let printed = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(4), "{printed}");
            let reason = format!(
                "the journal was written by a newer version of mailtrail: journal record of kind {kind}, version {version}"
            );
            assert!(printed.contains(&reason) && printed.contains("install that version again"), "{printed}");
            assert_eq!(fs::read(&segment).unwrap(), newer);
            for question in [&["log"][..], &["store", "verify"]] {
                let printed = process.run_command(question).await;
                assert!(
                    printed.code == 4 && printed.stderr.contains(&reason),
                    "{question:?}: {}",
                    printed.stderr
                );
            }
        }
    }
}

/// The checksum is valid, so that no disk damaged the record. It may be a promise, and is not skipped.
#[tokio::test]
async fn undecodable_record_stops_start_and_is_named() {
    let sink = SmtpSink::start().await;
    let (mut process, _) = stopped_with_queued_mail(&sink).await;
    let segment = only_segment(&process);
    fs::write(&segment, with_undecodable_record(&fs::read(&segment).unwrap())).unwrap();
    let before = fs::read(&segment).unwrap();
    fs::remove_dir_all(process.data_dir().join("ledger")).unwrap();
    let serve = process.run().await;
    let verify = process.run_command(&["store", "verify"]).await;
    let codes = (serve.status.code(), verify.code);
    for printed in [String::from_utf8(serve.stderr).unwrap(), verify.stderr] {
        let place = format!("{}, byte {SEGMENT_HEADER_BYTES}: ", segment.display());
        assert!(printed.contains(&place), "{printed}");
        assert!(
            printed.contains("its checksum is good; put a copy that `mailtrail store backup` made"),
            "{printed}"
        );
        assert!(!printed.contains("newer version"), "{printed}");
    }
    assert_eq!(codes, (Some(4), 4));
    assert_eq!(fs::read(&segment).unwrap(), before);
    // The other remedy.
    fs::rename(&segment, process.directory().join("aside")).unwrap();
    process.write_configuration(&process.configuration(sink.port(), ""));
    process.start().await;
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    let id = client.submit("a@example.com", &["b@example.net"], "Subject: hi\r\n\r\nhi\r\n").await.unwrap();
    sink.wait_for_message(&id).await;
    assert_eq!(process.run_command(&["store", "verify"]).await.code, 0);
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, target) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).unwrap();
        if entry.is_dir() {
            copy_dir(&entry, &target);
        } else {
            fs::copy(&entry, &target).unwrap();
        }
    }
}

/// A relay that has stopped with one mail in its queue, and the mail's id.
async fn stopped_with_queued_mail(sink: &SmtpSink) -> (RelayProcess, String) {
    let mut process = RelayProcess::new(sink);
    process.write_configuration(&process.configuration(free_port(), ""));
    process.start().await;
    let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
    let id = client.submit("a@example.com", &["b@example.net"], "Subject: hi\r\n\r\nhi\r\n").await.unwrap();
    assert!(process.terminate().await.success());
    (process, id)
}

fn only_segment(process: &RelayProcess) -> PathBuf {
    let mut files =
        fs::read_dir(process.data_dir().join("journal")).unwrap().map(|file| file.unwrap().path());
    let only = files.next().unwrap();
    assert_eq!(files.next(), None);
    only
}

/// The fields of the first version's record of a mail, all but its recipients.
type AcceptedFirstVersion = (
    [u8; 16],
    String,
    Option<String>,
    Option<IpAddr>,
    Option<String>,
    bool,
    bool,
    Option<String>,
    String,
    Vec<String>,
    Vec<String>,
    u64,
);

/// The segment as the first version would have written it, with its first record only.
fn to_first_version(segment: &[u8]) -> Vec<u8> {
    let frame = RawFrame::first_in(segment);
    assert_eq!(frame.version, 5);
    let (_, rest) = postcard::take_from_bytes::<AcceptedFirstVersion>(frame.payload).unwrap();
    let mut head = frame.payload[..frame.payload.len() - rest.len()].to_vec();
    head.extend(postcard::to_stdvec(&["b@example.net"][..]).unwrap());
    RawFrame { version: 1, payload: &head, ..frame }.replace_first(segment)
}

fn with_undecodable_record(segment: &[u8]) -> Vec<u8> {
    RawFrame { payload: &[255; 64], ..RawFrame::first_in(segment) }.replace_first(segment)
}

/// A record of the journal, by the letter of its format.
struct RawFrame<'a> {
    kind: u8,
    version: u8,
    payload: &'a [u8],
    body: &'a [u8],
}

impl<'a> RawFrame<'a> {
    fn first_in(segment: &'a [u8]) -> Self {
        let frame = &segment[SEGMENT_HEADER_BYTES..];
        assert_eq!((&frame[..4], frame[4]), (&b"\xf5mt\x02"[..], 1), "a mail is the first record");
        let length = |at: usize| u32::from_le_bytes(frame[at..at + 4].try_into().unwrap()) as usize;
        let (head, body) = (length(8), length(12));
        let frame = &frame[..FRAME_HEADER_BYTES + head + body];
        Self {
            kind: frame[4],
            version: frame[5],
            payload: &frame[FRAME_HEADER_BYTES..][..head],
            body: &frame[FRAME_HEADER_BYTES + head..],
        }
    }

    fn replace_first(&self, segment: &[u8]) -> Vec<u8> {
        let mut written = segment[..SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES].to_vec();
        let salt = u32::from_le_bytes(segment[12..16].try_into().unwrap());
        let header = &mut written[SEGMENT_HEADER_BYTES..];
        let mask = salt ^ crc32fast::hash(&header[24..32]);
        header[4] = self.kind;
        header[5] = self.version;
        header[8..12].copy_from_slice(&(self.payload.len() as u32).to_le_bytes());
        header[16..20].copy_from_slice(&crc32fast::hash(self.body).to_le_bytes());
        let checksum = crc32fast::hash(&[&header[..20], self.payload].concat());
        header[16..20].copy_from_slice(&(crc32fast::hash(self.body) ^ mask).to_le_bytes());
        header[20..24].copy_from_slice(&(checksum ^ mask).to_le_bytes());
        written.extend_from_slice(self.payload);
        written.extend_from_slice(self.body);
        written
    }
}

const SEGMENT_HEADER_BYTES: usize = 60;
const FRAME_HEADER_BYTES: usize = 32;
