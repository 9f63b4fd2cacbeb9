//! The suppression list: the same from the same records in any order, and from the journal after years.

use super::upkeep::{DAY, WEEK, at_time, keep_up, starting};
use super::*;
use mailtrail_trail::suppression::{Change, Listing, Mark, Reason, Scope, Source};

/// Something that the list is made of.
#[derive(Clone, Debug)]
enum Fact {
    Report(Box<Notice>),
    Listing(Listing),
}

#[tokio::test(flavor = "multi_thread")]
async fn records_in_any_order_and_number_make_the_same_list() {
    let mut random = fastrand::Rng::with_seed(5);
    let mut listed = 0;
    for round in 0..25 {
        let facts: Vec<_> = (0..random.u64(5..30)).map(|_| fact(&mut random)).collect();
        let mut ends = Vec::new();
        for order in 0..3 {
            let directory = tempfile::tempdir().unwrap();
            let store = open(&directory);
            let mut commits: Vec<_> = facts.iter().chain(&facts[..facts.len() * order / 2]).collect();
            random.shuffle(&mut commits);
            for fact in &commits {
                keep(&store, fact).await;
            }
            let end = (store.dossiers(None, 1000).unwrap(), store.listed().unwrap());
            store.settle_down().await;
            drop(store);
            closed(directory.path());
            std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
            let (store, _) = reopen(directory.path());
            let rebuilt = (store.dossiers(None, 1000).unwrap(), store.listed().unwrap());
            assert_eq!(rebuilt, end, "round {round}: a rebuild");
            ends.push(end);
        }
        assert_eq!(ends[1], ends[0], "round {round}");
        assert_eq!(ends[2], ends[0], "round {round}");
        let speaking = ends[0].0.iter().filter(|filed| filed.dossier.is_listed()).count();
        assert_eq!(speaking as u64, ends[0].1, "round {round}: the count");
        listed += speaking;
    }
    assert!(listed > 30, "{listed}");
}

fn fact(random: &mut fastrand::Rng) -> Fact {
    let address = ["ada@example.net", "Bob@example.org"][random.usize(..2)];
    let upstream = ["mailgun", "brevo"][random.usize(..2)].to_owned();
    let when = random.u64(..40);
    let reasons = [Reason::HardBounce, Reason::Manual, Reason::SoftBounce];
    match random.u8(..8) {
        0 => Fact::Listing(Listing {
            address: address.parse().unwrap(),
            list: random.bool().then_some(upstream),
            at: at(when),
            operator: "uid 0".into(),
            change: Change::Remove {
                reason: random.bool().then_some(reasons[random.usize(..3)]),
                words: String::new(),
            },
        }),
        1 | 2 => {
            let mark = Mark {
                at: at(when),
                scope: [Scope::All, Scope::Bulk][random.usize(..2)],
                source: Source::Import,
                expires: random.bool().then(|| at(random.u64(..100))),
                words: random.u8(..3).to_string(),
            };
            Fact::Listing(Listing {
                address: address.parse().unwrap(),
                list: random.bool().then_some(upstream),
                at: at(when),
                operator: "uid 0".into(),
                change: Change::Add { reason: reasons[random.usize(..3)], marks: vec![mark] },
            })
        }
        _ => {
            let kinds =
                [Kind::Bounced, Kind::Complained, Kind::Unsubscribed, Kind::Suppressed, Kind::Delivered];
            let mut event = event(when, address, kinds[random.usize(..kinds.len())]);
            event.words.enhanced = random.bool().then(|| "5.1.1".to_owned());
            Fact::Report(Box::new(Notice { upstream, ..notice(event) }))
        }
    }
}

async fn keep(store: &Store, fact: &Fact) {
    match fact.clone() {
        Fact::Report(notice) => store.report(*notice, Bytes::from("raw")).await.unwrap(),
        Fact::Listing(listing) => store.list(listing).await.unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_outlives_retention_and_what_is_void_does_not() {
    let (directory, time) = (tempfile::tempdir().unwrap(), starting());
    let store = at_time(directory.path(), time);
    let report = async |number, address, kind, name: &str| {
        let mut event = event(number, address, kind);
        event.words.name = name.to_owned();
        event.words.enhanced = (name == "bounce").then(|| "5.1.1".to_owned());
        store.report(notice(event), Bytes::from("raw")).await.unwrap();
    };
    report(1, "gone@example.net", Kind::Bounced, "bounce").await;
    report(2, "angry@example.net", Kind::Complained, "complained").await;
    report(3, "forgiven@example.net", Kind::Bounced, "bounce").await;
    report(4, "full@example.net", Kind::Bounced, "soft").await;
    let removal = Listing {
        address: "Forgiven@example.net".parse().unwrap(),
        list: None,
        at: at(5),
        operator: "uid 0".into(),
        change: Change::Remove { reason: None, words: "she wrote".into() },
    };
    store.list(removal).await.unwrap();
    let addresses = |store: &Store| -> Vec<_> {
        let live = |filed: &mailtrail_store::Filed| filed.dossier.live().next().is_some();
        store.dossiers(None, 100).unwrap().into_iter().filter(live).map(|filed| filed.address).collect()
    };
    assert_eq!(addresses(&store), ["angry@example.net", "full@example.net", "gone@example.net"]);
    for day in [9, 20, 100, 120] {
        time.set(at(day * DAY));
        keep_up(&store, at(day * DAY), &WEEK).await;
    }
    let left = ["angry@example.net", "gone@example.net"];
    assert_eq!(addresses(&store), left, "what may pass has passed");
    let rows = store.dossiers(None, 100).unwrap();
    assert_eq!((rows.len(), store.listed().unwrap()), (2, 2), "{rows:?}");
    drop(store);
    closed(directory.path());
    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    let store = at_time(directory.path(), time);
    keep_up(&store, at(120 * DAY), &WEEK).await;
    assert_eq!(store.dossiers(None, 100).unwrap(), rows, "the journal still says so");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_erased_in_all_its_spellings_and_recognised_by_each() {
    let spellings = [
        "ada@b\u{fc}cher.example",
        "ada@xn--bcher-kva.example",
        "Ada@bu\u{308}cher.example.",
        "\"ada\"@XN--BCHER-KVA.example",
    ];
    for erased in spellings {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory);
        for (number, spelling) in (1..).zip(spellings) {
            store
                .accept_and_apply(
                    accepted(number, &format!("{number}@example.com"), &[spelling]),
                    Bytes::new(),
                )
                .await
                .unwrap();
            store.settle(outcome(number, number, &[settled(&[0], Standing::Relayed)], None)).await.unwrap();
            let mut event = event(number, spelling, Kind::Bounced);
            event.words.enhanced = Some("5.1.1".into());
            store.report(notice(event), Bytes::from(format!("raw {spelling}"))).await.unwrap();
        }
        let known = |store: &Store| spellings.map(|spelling| store.by_recipient(spelling, 9).unwrap().len());
        assert_eq!(known(&store), [4; 4], "{erased}");
        let filed = store.dossiers(None, 9).unwrap();
        assert_eq!(filed.iter().map(|one| &*one.address).collect::<Vec<_>>(), ["ada@xn--bcher-kva.example"]);
        let here = store.clone();
        let work = move || {
            let (address, operator) = (erased.parse().unwrap(), "uid 0");
            let erasing =
                mailtrail_store::Erasing { address: &address, operator, reason: erased, at: at(50) };
            here.erase(&erasing, &mut |_| {}).unwrap().0
        };
        let mentioned = tokio::task::spawn_blocking(work).await.unwrap();
        assert_eq!(mentioned.sends.len(), 4, "{erased}");
        assert_eq!(known(&store), [0; 4], "{erased}");
        for spelling in spellings {
            let found = store.dossiers_of(spelling).unwrap();
            assert!(
                found.len() == 1 && found[0].is_erased() && found[0].dossier.is_listed(),
                "{spelling} {found:?}"
            );
        }
        store.settle_down().await;
        drop(store);
        closed(directory.path());
        for file in std::fs::read_dir(directory.path().join("journal")).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            for part in ["cher", "CHER", "ada@", "\"ada"] {
                assert!(memchr::memmem::find(&bytes, part.as_bytes()).is_none(), "{erased}: {part}");
            }
        }
    }
}
