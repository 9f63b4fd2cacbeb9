//! Random damage of journal and ledger: flipped bits, truncated files, zeroed blocks. The relay starts, or exits with
//! code 4 and names the damage. Messages outside the damage arrive and have their trails; `store verify` names the
//! damage.
//!
//! MAILTRAIL_TEST_DAMAGES (6) sets the number of rounds, MAILTRAIL_TEST_SEED (0) the seed.

use fastrand::Rng;
use mailtrail_mail::{Clock, TrackingId};
use mailtrail_store::Store;
use mailtrail_trail::RecipientState;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use testkit::relay_process::{RelayProcess, free_port};
use testkit::smtp_client::SmtpClient;
use testkit::smtp_sink::SmtpSink;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corruption_loses_only_the_records_it_hit() {
    let before = PopulatedStore::new().await;
    let (first, damages) = (env_number("MAILTRAIL_TEST_SEED", 0), env_number("MAILTRAIL_TEST_DAMAGES", 6));
    let mut tally = DamageCounts::default();
    for seed in first..first + damages {
        before.check_with_damage(seed, &mut tally).await;
    }
    println!("{tally:?}");
    assert!(tally.hit_journal > 0 && tally.hit_ledger > 0 && tally.arrived > 0, "{tally:?}");
    // Many rounds without a lost message would mean that nothing was damaged.
    assert!(damages < 20 || tally.missing > 0 && tally.named_damages > 0, "{tally:?}");
}

/// Sums of all rounds.
#[derive(Debug, Default)]
struct DamageCounts {
    hit_journal: usize,
    hit_ledger: usize,
    named_damages: usize,
    refused_starts: usize,
    arrived: usize,
    missing: usize,
}

/// Store with relayed and queued messages in several segments.
struct PopulatedStore {
    /// Tracking id and subject of each message.
    mails: Vec<(String, String)>,
    queued: BTreeSet<String>,
    process: RelayProcess,
}

impl PopulatedStore {
    async fn new() -> Self {
        let sink = SmtpSink::start().await;
        let mut process = RelayProcess::new(&sink);
        let (mut mails, mut queued) = (Vec::new(), BTreeSet::new());
        for part in 0..4 {
            let waits = part % 2 == 1;
            let upstream = if waits { free_port() } else { sink.port() };
            process.write_configuration(&process.configuration(upstream, ""));
            process.start().await;
            let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
            for number in 0..8 {
                let subject = format!("marker-{part}-{number}-end");
                let text = format!("Subject: {subject}\r\n\r\n{}", "some words of a letter\r\n".repeat(60));
                let id = client.submit("a@example.com", &["b@example.net"], &text).await.unwrap();
                if waits {
                    queued.insert(id.clone());
                }
                mails.push((id, subject));
            }
            if !waits {
                // Messages that were queued before are relayed now.
                sink.wait_for_count(mails.len()).await;
                queued.clear();
            }
            // Only after its outcome is kept, too, nothing is sent again.
            let relayed = async {
                let finished = mails.len() - queued.len();
                let listed =
                    async || process.run_command(&["queue", "list", "--ids"]).await.stdout.lines().count();
                while mails.len() - listed().await < finished {}
            };
            tokio::time::timeout(testkit::WAIT_TIMEOUT, relayed).await.unwrap();
            drop(client);
            assert!(process.terminate().await.success());
        }
        Self { mails, queued, process }
    }

    /// A copy is damaged, looked at, and started.
    async fn check_with_damage(&self, seed: u64, tally: &mut DamageCounts) {
        let sink = SmtpSink::start().await;
        let mut process = RelayProcess::new(&sink);
        copy_dir(&self.process.data_dir(), &process.data_dir());
        let mut random = Rng::with_seed(seed);
        let damages: Vec<_> = (0..random.usize(1..=3))
            .filter_map(|_| AppliedDamage::apply_random(&process.data_dir(), &mut random))
            .collect();
        let what = format!("seed {seed}: {damages:?}");
        let hit_journal = damages.iter().any(|damage| damage.in_journal);
        let hit_ledger = damages.iter().any(|damage| !damage.in_journal);
        tally.hit_journal += usize::from(hit_journal);
        tally.hit_ledger += usize::from(hit_ledger);
        let spared = self.undamaged_mails(&damages);

        let output = process.run_command(&["--json", "store", "verify"]).await;
        assert!(!output.stderr.contains("panicked"), "{what}: {}", output.stderr);
        if hit_journal && !hit_ledger {
            assert_eq!(output.code, 4, "{what}: {} {}", output.stdout, output.stderr);
            let named: BTreeSet<_> =
                output.json_lines().iter().filter_map(|line| line["segment"].as_u64()).collect();
            for damage in &damages {
                assert!(named.contains(&damage.segment_number().unwrap()), "{what}: {}", output.stdout);
            }
            tally.named_damages += 1;
        } else {
            assert!(matches!(output.code, 0 | 4), "{what}: {} {}", output.stdout, output.stderr);
        }
        if !process.start_or_refuse(&what).await {
            tally.refused_starts += 1;
            return;
        }
        let expected: Vec<_> = spared.iter().filter(|(id, _)| self.queued.contains(**id)).collect();
        let arrived = || {
            let arrived: BTreeSet<_> =
                sink.messages().iter().map(|mail| mail.tracking_id().to_owned()).collect();
            expected.iter().all(|(id, _)| arrived.contains(**id)).then_some(())
        };
        testkit::eventually(&what, arrived).await;
        // New messages are stored and sent.
        let mut client = SmtpClient::connect(process.address(1)).await.unwrap();
        let new =
            client.submit("a@example.com", &["b@example.net"], "Subject: new\r\n\r\nbody\r\n").await.unwrap();
        sink.wait_for_message(&new).await;
        drop(client);
        assert!(process.terminate().await.success(), "{what}");
        let (store, report) = Store::open_read_only(&process.data_dir(), Clock::System).unwrap();
        assert_eq!(report.rebuild_reason, None, "{what}: an orderly end leaves a good ledger");
        for (id, subject) in &spared {
            let trail = store.load_trail(id.parse().unwrap()).unwrap();
            let trail = trail.unwrap_or_else(|| unreachable!("{what}: {id} has no trail"));
            let stands = (&*trail.message.subject, trail.recipients[0].state());
            assert_eq!(stands, (&**subject, RecipientState::Relayed), "{what}: {id}");
        }
        tally.arrived += spared.len();
        tally.missing += self.mails.len() - spared.len();
    }

    /// Returns the messages without a record in a damaged range of the journal. A record contains its message's id;
    /// it starts after the previous id and ends before the next.
    fn undamaged_mails(&self, damages: &[AppliedDamage]) -> BTreeMap<&str, &str> {
        let mut spared: BTreeMap<_, _> = self.mails.iter().map(|(id, subject)| (&**id, &**subject)).collect();
        for damage in damages.iter().filter(|damage| damage.in_journal) {
            let bytes = std::fs::read(self.process.data_dir().join(&damage.file)).unwrap();
            let mut named = Vec::new();
            for (id, subject) in &self.mails {
                let raw = id.parse::<TrackingId>().unwrap().to_bytes();
                let places = [&raw[..], subject.as_bytes()];
                let places = places.into_iter().flat_map(|name| memchr::memmem::find_iter(&bytes, name));
                named.extend(places.map(|place| (place, &**id)));
            }
            named.sort_unstable();
            for (number, (_, id)) in named.iter().enumerate() {
                let start = number.checked_sub(1).map_or(0, |before| named[before].0);
                let end = named.get(number + 1).map_or(bytes.len(), |(place, _)| *place);
                // Without its header a segment cannot be identified.
                if damage.bytes.start < end && start < damage.bytes.end
                    || damage.bytes.start < SEGMENT_HEADER_BYTES
                {
                    spared.remove(id);
                }
            }
        }
        spared
    }
}

/// Changed range of a file.
struct AppliedDamage {
    /// Below the data directory.
    file: PathBuf,
    in_journal: bool,
    description: &'static str,
    bytes: Range<usize>,
}

impl AppliedDamage {
    /// `None` where nothing changed.
    fn apply_random(data_dir: &Path, random: &mut Rng) -> Option<Self> {
        let in_journal = random.bool();
        let files = list_files(&data_dir.join(if in_journal { "journal" } else { "ledger" }));
        let path = &files[random.usize(..files.len())];
        let before = std::fs::read(path).unwrap();
        let used = before.iter().rposition(|byte| *byte != 0)? + 1;
        let (mut after, at) = (before.clone(), random.usize(..used));
        let description = match random.u8(..3) {
            0 => {
                after[at] ^= 1 << random.u8(..8);
                "a flipped bit"
            }
            1 => {
                after.truncate(at);
                "an end too soon"
            }
            _ => {
                let end = used.min(at + [1, 64, 512, 4096][random.usize(..4)]);
                after[at..end].fill(0);
                "zeros"
            }
        };
        std::fs::write(path, &after).unwrap();
        let differs = |at: &usize| after.get(*at) != before.get(*at);
        let (first, last) = ((0..used).find(differs)?, (0..used).rfind(differs)?);
        let file = path.strip_prefix(data_dir).unwrap().to_owned();
        Some(Self { file, in_journal, description, bytes: first..last + 1 })
    }

    fn segment_number(&self) -> Option<u64> {
        self.file.file_stem()?.to_str()?.parse().ok()
    }
}

impl fmt::Debug for AppliedDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} at {:?}", self.description, self.file.display(), self.bytes)
    }
}

fn list_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::list_files(&path));
        } else if std::fs::metadata(&path).unwrap().len() > 0 {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
        let target = to.join(path.file_name().unwrap());
        if kind.is_dir() {
            copy_dir(&path, &target);
        } else if kind.is_file() {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

fn env_number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// Bytes of a segment's header.
const SEGMENT_HEADER_BYTES: usize = 60;
