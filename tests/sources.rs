//! Reports of others than the upstreams' providers, against a whole relay.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/inbox.rs"]
mod inbox;

use inbox::{Log, SENT, START, Scene};
use mailtrail_mail::{Lane, Secret, Timestamp};
use mailtrail_trail::provider::generic::sign;
use mailtrail_trail::suppression::Source::Hint;
use mailtrail_trail::suppression::{Change, Listing, Lists, Mark, Reason, Scope, Settings, Unsubscribes};
use mailtrail_trail::{HintKind, Kind, MarkKind, Source, suppression};
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::path::Path;

#[tokio::test]
async fn our_own_words_are_taken_when_they_are_signed() {
    let scene = with_sources().await;
    scene.accept(SENT, &["ada@example.net", "bob@example.org"]).await;
    let bounced = json!({
        "event": "bounced", "time": "2026-09-14T12:00:05Z", "recipient": "bob@example.org", "tracking_id": SENT,
        "code": 550, "enhanced": "5.1.1", "text": "No such user"
    });
    let delivered = json!({
        "event": "delivered", "id": "d-1", "time": START, "recipient": "Ada@example.net",
        "message_id": "<1789387199.4711.mt0001@mg.example.com>"
    });
    let both = json!([bounced, delivered]);
    for (id, body) in [("m1", &both), ("m1", &both), ("m2", &delivered)] {
        assert_eq!(post(&scene, "other", OTHER, id, START, body).await, 200, "{id}");
    }
    assert_eq!(scene.marks(), [[(MarkKind::By(Kind::Delivered), 1)], [(MarkKind::By(Kind::Bounced), 1)]]);
    let facts = scene.trail(SENT).facts.into_iter().filter(|fact| fact.source == Source::Webhook);
    assert!(facts.map(|fact| fact.upstream).eq([Some("other".to_owned()), Some("other".into())]));
    // The one that names an upstream reports on that one's sends.
    assert_eq!(
        post(&scene, "beside", BESIDE, "m3", START, &json!({"event": "opened", "tracking_id": SENT})).await,
        200
    );
    let fact =
        scene.trail(SENT).facts.into_iter().find(|fact| fact.upstream.as_deref() == Some("up")).unwrap();
    assert_eq!((fact.recipients, fact.words.name.as_str()), (vec![0, 1], "opened"));
}

#[tokio::test]
async fn what_is_not_signed_by_the_source_itself_is_refused() {
    let scene = with_sources().await;
    let event = json!({"event": "delivered"});
    for (source, secret, at, answer) in [
        ("other", OTHER, START, 200),
        ("other", "the-next-secret-of-the-other", START, 200),
        ("other", BESIDE, START, 401),
        ("beside", OTHER, START, 401),
        ("other", OTHER, START - 86_300, 200),
        ("other", OTHER, START - 86_500, 401),
        ("other", OTHER, START + 3600, 503),
        ("nobody", OTHER, START, 404),
    ] {
        let id = format!("{source}{secret}{at}");
        assert_eq!(post(&scene, source, secret, &id, at, &event).await, answer, "{source} {at}");
    }
    assert_eq!(scene.post_to("webhooks/other", b"{}".to_vec()).await, 401);
    let body = event.to_string();
    let made = sign(&Secret::new(OTHER), "id", &START.to_string(), body.as_bytes()).unwrap();
    let fields =
        [("webhook-id", "id"), ("webhook-timestamp", &*START.to_string()), ("webhook-signature", &*made)];
    let changed = body.replace("delivered", "bounced").into_bytes();
    assert_eq!(scene.post_with("webhooks/other", &fields, changed).await, 401);
    assert_eq!(scene.post_with("webhooks/other", &fields, body.into_bytes()).await, 200);
    assert_eq!(post(&scene, "other", OTHER, "odd", START, &json!([1, {"event": 7}])).await, 200);
}

#[tokio::test]
async fn every_recorded_hint_is_kept_for_its_contact_and_touches_no_mail() {
    let expectations: Map<String, Value> = serde_json::from_slice(&fixture("expected.json")).unwrap();
    let mut scene = with_sources().await;
    scene.accept(SENT, &["ada@example.net"]).await;
    let before = scene.trail(SENT).facts;
    for file in expectations.keys() {
        for _ in 0..2 {
            assert_eq!(scene.post_to(CAMPAIGNS, fixture(file)).await, 200, "{file}");
        }
        assert!(scene.keeps(&fixture(file)), "{file}");
    }
    for _ in 0..2 {
        let hints = scene.daemon.store().hints("ADA@example.net", 100).unwrap();
        let mut kinds: Vec<_> = hints.iter().map(|hinted| hinted.hint.kind.word()).collect();
        kinds.sort_unstable();
        let of_ada = expectations.values().filter(|expected| expected["contact_email"] == "ada@example.net");
        let mut expected: Vec<_> = of_ada.map(|expected| expected["kind"].as_str().unwrap()).collect();
        expected.sort_unstable();
        assert_eq!(kinds, expected);
        assert!(
            hints
                .iter()
                .all(|hinted| hinted.source == "campaigns" && hinted.hint.at.seconds() == 1_789_387_200)
        );
        let find = |kind| hints.iter().find(|hinted| hinted.hint.kind == kind).unwrap().hint.clone();
        let gone = find(HintKind::Unsubscribed);
        assert_eq!((gone.lists, gone.words.text.as_deref()), (vec!["3".to_owned()], Some("Too many mails")));
        let words = find(HintKind::Bounced).words;
        let said = (words.name.as_str(), words.enhanced.as_deref(), words.text.as_deref());
        assert_eq!(said, ("bounce/hard", Some("5.1.1"), Some("User unknown")));
        assert_eq!(
            find(HintKind::Clicked).words.url.as_deref(),
            Some("https://www.example.com/offer?x=1&y=2")
        );
        assert_eq!(scene.daemon.store().hints("ada@example.net", 2).unwrap(), hints[..2]);
        assert_eq!(scene.daemon.store().hints("bob@example.org", 2).unwrap(), []);
        // As long as nobody can take it there may be attempts; an event there is none.
        let facts = scene.trail(SENT).facts;
        assert!(facts.starts_with(&before) && facts.iter().all(|fact| fact.source != Source::Webhook));
        assert_eq!(scene.marks(), [[]]);
        scene = scene.rebuilt().await;
    }
    for file in expectations.keys() {
        assert_eq!(scene.post_to(CAMPAIGNS, fixture(file)).await, 200, "{file}");
    }
    assert_eq!(scene.daemon.store().hints("ada@example.net", 100).unwrap().len(), expectations.len() - 1);
}

#[tokio::test]
async fn hints_keep_bulk_mail_back_by_the_sources_rule_and_never_any_other() {
    for (rule, unsubscribed, bounced) in [
        ("", true, false),
        ("suppress = []", false, false),
        ("suppress = [\"bounce\"]", false, true),
        ("suppress = [\"unsubscribe\", \"bounce\"]", true, true),
    ] {
        let source = format!(
            "\n[[source]]\nname = \"campaigns\"\nkind = \"activecampaign\"\n\
             secret = \"the-secret-of-the-campaigns\"\n{rule}\n"
        );
        let mut scene = Scene::at(START, "plain", &source).await;
        let soft = String::from_utf8(fixture("bounce.form")).unwrap().replace("=hard", "=soft").into_bytes();
        for form in [soft, fixture("open.form"), fixture("reply.form"), fixture("update.form")] {
            assert_eq!(scene.post_to(CAMPAIGNS, form).await, 200);
        }
        assert_eq!(scene.daemon.store().dossiers_of("ada@example.net").unwrap(), [], "{rule}");
        let forms = ["bounce.form", "unsubscribe.form"];
        for form in forms.into_iter().chain(forms) {
            assert_eq!(scene.post_to(CAMPAIGNS, fixture(form)).await, 200);
        }
        // And the same follows from the journal alone.
        for _ in 0..2 {
            let filed = scene.daemon.store().dossiers_of("ADA@example.net").unwrap();
            let dossier = filed.first().map(|filed| filed.dossier.clone()).unwrap_or_default();
            assert!(filed.iter().all(|filed| filed.list.is_empty()), "it holds for every upstream");
            let live = dossier.live().map(|(reason, live)| {
                assert_eq!((live.source, live.times.len(), live.first().seconds()), (Hint, 1, 1_789_387_200));
                (reason, &*live.words)
            });
            let expected = [
                (Reason::HardBounce, "bounce/hard at campaigns: User unknown"),
                (Reason::Unsubscribe, "unsubscribe at campaigns: Too many mails"),
            ];
            let expected = expected.into_iter().zip([bounced, unsubscribed]).filter(|(_, wanted)| *wanted);
            assert!(live.eq(expected.map(|(expected, _)| expected)), "{rule}");
            for unsubscribe in [Unsubscribes::Refused, Unsubscribes::Bulk, Unsubscribes::All] {
                let settings = Settings { unsubscribe, ..Settings::default() };
                let judge = |lane| {
                    let look = |_: &str| Ok::<_, Infallible>(Some(dossier.clone()));
                    let Ok(verdict) =
                        Lists::default().judge(&settings, lane, Timestamp::from_seconds(START), look);
                    verdict.is_some()
                };
                assert_eq!((judge(Lane::Transactional), judge(Lane::Bulk)), (false, unsubscribed || bounced));
            }
            scene = scene.rebuilt().await;
        }
    }
}

#[tokio::test]
async fn a_hint_adds_nothing_to_what_others_said_and_nothing_to_what_was_removed() {
    let scene = with_sources().await;
    let operator = |at, change| Listing {
        address: "ada@example.net".parse().unwrap(),
        list: None,
        at: Timestamp::from_seconds(at),
        operator: "uid 0".into(),
        change,
    };
    let mark = Mark {
        at: Timestamp::from_seconds(START - 86_400),
        scope: Scope::All,
        source: suppression::Source::Operator,
        expires: None,
        words: "asked us".into(),
    };
    let added = Change::Add { reason: Reason::Unsubscribe, marks: vec![mark] };
    scene.daemon.store().list(operator(START, added)).await.unwrap();
    let store = scene.daemon.store();
    let words = || {
        let filed = store.dossiers_of("ada@example.net").unwrap().remove(0);
        filed.dossier.live_of(Reason::Unsubscribe).map(|live| live.words.clone())
    };
    assert_eq!(scene.post_to(CAMPAIGNS, fixture("unsubscribe.form")).await, 200);
    assert_eq!(words().as_deref(), Some("asked us"));
    store.list(operator(START, Change::Remove { reason: None, words: String::new() })).await.unwrap();
    let other = [fixture("unsubscribe.form"), b"&x=y".to_vec()].concat();
    assert_eq!(scene.post_to(CAMPAIGNS, other).await, 200);
    assert_eq!((words(), store.hints("ada@example.net", 10).unwrap().len()), (None, 2));
}

#[tokio::test]
async fn an_automations_request_is_one_a_day() {
    let scene = with_sources().await;
    let pairs: Vec<(String, String)> = serde_json::from_slice(&fixture("automation_webhook.json")).unwrap();
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    for _ in 0..2 {
        assert_eq!(scene.post_to(CAMPAIGNS, body.clone().into_bytes()).await, 200);
    }
    let hints = scene.daemon.store().hints("ada@example.net", 10).unwrap();
    let [hinted] = &hints[..] else { unreachable!("{hints:?}") };
    assert_eq!((hinted.hint.kind, hinted.hint.words.name.as_str()), (HintKind::Unknown, "automation"));
    assert_eq!(hinted.hint.at, hinted.received);
}

#[tokio::test]
async fn a_secret_path_is_believed_and_never_written_down() {
    let log = Log::default();
    let _listening = log.listen();
    let scene = with_sources().await;
    let form = fixture("open.form");
    let good =
        ["the-secret-of-the-campaigns", "the-next-secret-of-the-campaigns", "the%2Dsecret-of-the-campaigns"];
    for secret in good {
        assert_eq!(scene.post_to(&format!("webhooks/campaigns/{secret}"), form.clone()).await, 200);
    }
    for path in [
        "webhooks/campaigns",
        "webhooks/campaigns/",
        "webhooks/campaigns/the-secret-of-the-campaign",
        "webhooks/campaigns/hunter2",
        "webhooks/campaigns/the-secret-of-the-campaigns/x",
        "webhooks/other/the-secret-of-the-other-one",
    ] {
        for _ in 0..30 {
            assert_eq!(scene.post_to(path, form.clone()).await, 404, "{path}");
        }
    }
    assert_eq!(scene.post_to(CAMPAIGNS, form).await, 200);
    assert_eq!(scene.post_to(CAMPAIGNS, b"junk".to_vec()).await, 200);
    assert_eq!(scene.post_to(CAMPAIGNS, vec![b'x'; (1 << 20) + 1]).await, 413);
    let ours = log.lines(&["campaigns"]);
    assert!(ours.iter().any(|line| line.contains("refused=20")), "{ours:?}");
    assert!(!ours.iter().any(|line| line.contains("secret-of-the") || line.contains("hunter2")), "{ours:?}");
}

async fn with_sources() -> Scene {
    let sources = format!(
        "\n[[source]]\nname = \"other\"\nkind = \"generic\"\nsecret = [{OTHER:?}, \"the-next-secret-of-the-other\"]\n\
         [[source]]\nname = \"beside\"\nkind = \"generic\"\nsecret = {BESIDE:?}\nupstream = \"up\"\n\
         [[source]]\nname = \"campaigns\"\nkind = \"activecampaign\"\n\
         secret = [\"the-secret-of-the-campaigns\", \"the-next-secret-of-the-campaigns\"]\n"
    );
    Scene::at(START, "plain", &sources).await
}

async fn post(scene: &Scene, source: &str, secret: &str, id: &str, at: u64, body: &Value) -> u16 {
    let (at, body) = (at.to_string(), body.to_string().into_bytes());
    let made = sign(&Secret::new(secret), id, &at, &body).unwrap();
    let fields = [("webhook-id", id), ("webhook-timestamp", &*at), ("webhook-signature", &*made)];
    scene.post_with(&format!("webhooks/{source}"), &fields, body).await
}

fn fixture(file: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/activecampaign");
    std::fs::read(folder.join(file)).unwrap()
}

const CAMPAIGNS: &str = "webhooks/campaigns/the-secret-of-the-campaigns";
const OTHER: &str = "the-secret-of-the-other-one";
const BESIDE: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
