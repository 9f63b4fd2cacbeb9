//! Suppression list: equal for equal records in any order, and from a journal of years.

use super::retention::{DAY_SECONDS, WEEK_RETENTION, clock_at_start, open_at, run_maintenance};
use super::*;
use mailtrail_trail::suppression::{
    EvidenceItem, EvidenceSource, Reason, Scope, SuppressionChange, SuppressionChangeKind,
};

/// Something that the list is made of.
#[derive(Clone, Debug)]
enum SuppressionInput {
    Event(Box<ReceivedEvent>),
    Change(SuppressionChange),
}

#[tokio::test(flavor = "multi_thread")]
async fn record_order_and_repetition_do_not_change_the_list() {
    let mut random = fastrand::Rng::with_seed(5);
    let mut listed = 0;
    for round in 0..25 {
        let facts: Vec<_> = (0..random.u64(5..30)).map(|_| random_input(&mut random)).collect();
        let mut ends = Vec::new();
        for order in 0..3 {
            let directory = tempfile::tempdir().unwrap();
            let store = open_store(&directory);
            let mut commits: Vec<_> = facts.iter().chain(&facts[..facts.len() * order / 2]).collect();
            random.shuffle(&mut commits);
            for fact in &commits {
                store_input(&store, fact).await;
            }
            let end = (store.list_evidence(None, 1000).unwrap(), store.count_suppressed().unwrap());
            store.checkpoint().await;
            drop(store);
            open_read_only(directory.path());
            std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
            let (store, _) = reopen_store(directory.path());
            let rebuilt = (store.list_evidence(None, 1000).unwrap(), store.count_suppressed().unwrap());
            assert_eq!(rebuilt, end, "round {round}: a rebuild");
            ends.push(end);
        }
        assert_eq!(ends[1], ends[0], "round {round}");
        assert_eq!(ends[2], ends[0], "round {round}");
        let speaking = ends[0].0.iter().filter(|filed| filed.evidence.is_listed()).count();
        assert_eq!(speaking as u64, ends[0].1, "round {round}: the count");
        listed += speaking;
    }
    assert!(listed > 30, "{listed}");
}

fn random_input(random: &mut fastrand::Rng) -> SuppressionInput {
    let address = ["ada@example.net", "Bob@example.org"][random.usize(..2)];
    let upstream = ["mailgun", "brevo"][random.usize(..2)].to_owned();
    let when = random.u64(..40);
    let reasons = [Reason::HardBounce, Reason::Manual, Reason::SoftBounce];
    match random.u8(..8) {
        0 => SuppressionInput::Change(SuppressionChange {
            address: address.parse().unwrap(),
            list: random.bool().then_some(upstream),
            at: time_at(when),
            operator: "uid 0".into(),
            kind: SuppressionChangeKind::Remove {
                reason: random.bool().then_some(reasons[random.usize(..3)]),
                comment: String::new(),
            },
        }),
        1 | 2 => {
            let mark = EvidenceItem {
                at: time_at(when),
                scope: [Scope::All, Scope::Bulk][random.usize(..2)],
                source: EvidenceSource::Import,
                expires_at: random.bool().then(|| time_at(random.u64(..100))),
                diagnostic: random.u8(..3).to_string(),
            };
            SuppressionInput::Change(SuppressionChange {
                address: address.parse().unwrap(),
                list: random.bool().then_some(upstream),
                at: time_at(when),
                operator: "uid 0".into(),
                kind: SuppressionChangeKind::Add { reason: reasons[random.usize(..3)], items: vec![mark] },
            })
        }
        _ => {
            let kinds = [
                EventKind::Bounced,
                EventKind::Complained,
                EventKind::Unsubscribed,
                EventKind::Suppressed,
                EventKind::Delivered,
            ];
            let mut event = sample_event(when, address, kinds[random.usize(..kinds.len())]);
            event.diagnostic.enhanced_status = random.bool().then(|| "5.1.1".to_owned());
            SuppressionInput::Event(Box::new(ReceivedEvent { upstream, ..received_event(event) }))
        }
    }
}

async fn store_input(store: &Store, fact: &SuppressionInput) {
    match fact.clone() {
        SuppressionInput::Event(notice) => store.put_event(*notice, Bytes::from("raw")).await.unwrap(),
        SuppressionInput::Change(listing) => store.change_suppression(listing).await.unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn permanent_evidence_outlives_retention_and_transient_expires() {
    let (directory, time) = (tempfile::tempdir().unwrap(), clock_at_start());
    let store = open_at(directory.path(), time);
    let report = async |number, address, kind, name: &str| {
        let mut event = sample_event(number, address, kind);
        event.diagnostic.name = name.to_owned();
        event.diagnostic.enhanced_status = (name == "bounce").then(|| "5.1.1".to_owned());
        store.put_event(received_event(event), Bytes::from("raw")).await.unwrap();
    };
    report(1, "gone@example.net", EventKind::Bounced, "bounce").await;
    report(2, "angry@example.net", EventKind::Complained, "complained").await;
    report(3, "forgiven@example.net", EventKind::Bounced, "bounce").await;
    report(4, "full@example.net", EventKind::Bounced, "soft").await;
    let removal = SuppressionChange {
        address: "Forgiven@example.net".parse().unwrap(),
        list: None,
        at: time_at(5),
        operator: "uid 0".into(),
        kind: SuppressionChangeKind::Remove { reason: None, comment: "she wrote".into() },
    };
    store.change_suppression(removal).await.unwrap();
    let addresses = |store: &Store| -> Vec<_> {
        let live = |filed: &mailtrail_store::AddressEvidence| filed.evidence.active().next().is_some();
        store.list_evidence(None, 100).unwrap().into_iter().filter(live).map(|filed| filed.address).collect()
    };
    assert_eq!(addresses(&store), ["angry@example.net", "full@example.net", "gone@example.net"]);
    for day in [9, 20, 100, 120] {
        time.advance_to(time_at(day * DAY_SECONDS));
        run_maintenance(&store, time_at(day * DAY_SECONDS), &WEEK_RETENTION).await;
    }
    let left = ["angry@example.net", "gone@example.net"];
    assert_eq!(addresses(&store), left, "what may pass has passed");
    let rows = store.list_evidence(None, 100).unwrap();
    assert_eq!((rows.len(), store.count_suppressed().unwrap()), (2, 2), "{rows:?}");
    drop(store);
    open_read_only(directory.path());
    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    let store = open_at(directory.path(), time);
    run_maintenance(&store, time_at(120 * DAY_SECONDS), &WEEK_RETENTION).await;
    assert_eq!(store.list_evidence(None, 100).unwrap(), rows, "the journal still says so");
}

#[tokio::test(flavor = "multi_thread")]
async fn erases_all_spellings_and_recognizes_each() {
    let spellings = [
        "ada@b\u{fc}cher.example",
        "ada@xn--bcher-kva.example",
        "Ada@bu\u{308}cher.example.",
        "\"ada\"@XN--BCHER-KVA.example",
    ];
    for erased in spellings {
        let directory = tempfile::tempdir().unwrap();
        let store = open_store(&directory);
        for (number, spelling) in (1..).zip(spellings) {
            store
                .put_message_applied(
                    sample_accepted(number, &format!("{number}@example.com"), &[spelling]),
                    Bytes::new(),
                )
                .await
                .unwrap();
            store
                .record_attempt_outcome(attempt_outcome(
                    number,
                    number,
                    &[recipient_result(&[0], AttemptStatus::Relayed)],
                    None,
                ))
                .await
                .unwrap();
            let mut event = sample_event(number, spelling, EventKind::Bounced);
            event.diagnostic.enhanced_status = Some("5.1.1".into());
            store.put_event(received_event(event), Bytes::from(format!("raw {spelling}"))).await.unwrap();
        }
        let known =
            |store: &Store| spellings.map(|spelling| store.find_by_recipient(spelling, 9).unwrap().len());
        assert_eq!(known(&store), [4; 4], "{erased}");
        let filed = store.list_evidence(None, 9).unwrap();
        assert_eq!(filed.iter().map(|one| &*one.address).collect::<Vec<_>>(), ["ada@xn--bcher-kva.example"]);
        let here = store.clone();
        let work = move || {
            let (address, operator) = (erased.parse().unwrap(), "uid 0");
            let erasing = mailtrail_store::ErasureRequest {
                address: &address,
                operator,
                reason: erased,
                at: time_at(50),
            };
            here.erase_address(&erasing, &mut |_| {}).unwrap().0
        };
        let mentioned = tokio::task::spawn_blocking(work).await.unwrap();
        assert_eq!(mentioned.messages.len(), 4, "{erased}");
        assert_eq!(known(&store), [0; 4], "{erased}");
        for spelling in spellings {
            let found = store.evidence_for_address(spelling).unwrap();
            assert!(
                found.len() == 1 && found[0].is_erased() && found[0].evidence.is_listed(),
                "{spelling} {found:?}"
            );
        }
        store.checkpoint().await;
        drop(store);
        open_read_only(directory.path());
        for file in std::fs::read_dir(directory.path().join("journal")).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            for part in ["cher", "CHER", "ada@", "\"ada"] {
                assert!(memchr::memmem::find(&bytes, part.as_bytes()).is_none(), "{erased}: {part}");
            }
        }
    }
}
