//! Reports of others than the upstreams' providers, against a whole relay.

use mailtrail_mail::{Lane, Secret, Timestamp};
use mailtrail_trail::provider::generic::sign_request;
use mailtrail_trail::suppression::EvidenceSource::Hint;
use mailtrail_trail::suppression::{
    EvidenceItem, ListScope, Reason, Scope, SuppressionChange, SuppressionChangeKind, SuppressionSettings,
    UnsubscribeScope,
};
use mailtrail_trail::{ContactHintKind, EventKind, MarkKind, TrailSource, suppression};
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::path::Path;
use testkit::log_capture::LogCapture;
use testkit::webhook_harness::{SENT_ID, START_SECONDS, WebhookHarness};
use tracing::Level;

#[tokio::test]
async fn accepts_signed_generic_events() {
    let harness = start_with_sources().await;
    harness.store_message(SENT_ID, &["ada@example.net", "bob@example.org"]).await;
    let bounced = json!({
        "event": "bounced", "time": "2026-09-14T12:00:05Z", "recipient": "bob@example.org", "tracking_id": SENT_ID,
        "code": 550, "enhanced": "5.1.1", "text": "No such user"
    });
    let delivered = json!({
        "event": "delivered", "id": "d-1", "time": START_SECONDS, "recipient": "Ada@example.net",
        "message_id": "<1789387199.4711.mt0001@mg.example.com>"
    });
    let both = json!([bounced, delivered]);
    for (id, body) in [("m1", &both), ("m1", &both), ("m2", &delivered)] {
        assert_eq!(post_signed(&harness, "other", OTHER_SECRET, id, START_SECONDS, body).await, 200, "{id}");
    }
    assert_eq!(
        harness.marks(),
        [[(MarkKind::Person(EventKind::Delivered), 1)], [(MarkKind::Person(EventKind::Bounced), 1)]]
    );
    let facts =
        harness.load_trail(SENT_ID).events.into_iter().filter(|fact| fact.source == TrailSource::Webhook);
    assert!(facts.map(|fact| fact.upstream).eq([Some("other".to_owned()), Some("other".into())]));
    // The one that names an upstream reports on that one's sends.
    assert_eq!(
        post_signed(
            &harness,
            "beside",
            STANDARD_SECRET,
            "m3",
            START_SECONDS,
            &json!({"event": "opened", "tracking_id": SENT_ID})
        )
        .await,
        200
    );
    let fact = harness
        .load_trail(SENT_ID)
        .events
        .into_iter()
        .find(|fact| fact.upstream.as_deref() == Some("up"))
        .unwrap();
    assert_eq!((fact.recipients, fact.diagnostic.name.as_str()), (vec![0, 1], "opened"));
}

#[tokio::test]
async fn rejects_events_with_wrong_signature_or_time() {
    let harness = start_with_sources().await;
    let event = json!({"event": "delivered"});
    for (source, secret, at, answer) in [
        ("other", OTHER_SECRET, START_SECONDS, 200),
        ("other", "the-next-secret-of-the-other", START_SECONDS, 200),
        ("other", STANDARD_SECRET, START_SECONDS, 401),
        ("beside", OTHER_SECRET, START_SECONDS, 401),
        ("other", OTHER_SECRET, START_SECONDS - 86_300, 200),
        ("other", OTHER_SECRET, START_SECONDS - 86_500, 401),
        ("other", OTHER_SECRET, START_SECONDS + 3600, 503),
        ("nobody", OTHER_SECRET, START_SECONDS, 404),
    ] {
        let id = format!("{source}{secret}{at}");
        assert_eq!(post_signed(&harness, source, secret, &id, at, &event).await, answer, "{source} {at}");
    }
    assert_eq!(harness.post_to("webhooks/other", b"{}".to_vec()).await, 401);
    let body = event.to_string();
    let made =
        sign_request(&Secret::new(OTHER_SECRET), "id", &START_SECONDS.to_string(), body.as_bytes()).unwrap();
    let fields = [
        ("webhook-id", "id"),
        ("webhook-timestamp", &*START_SECONDS.to_string()),
        ("webhook-signature", &*made),
    ];
    let changed = body.replace("delivered", "bounced").into_bytes();
    assert_eq!(harness.post_with("webhooks/other", &fields, changed).await, 401);
    assert_eq!(harness.post_with("webhooks/other", &fields, body.into_bytes()).await, 200);
    assert_eq!(
        post_signed(&harness, "other", OTHER_SECRET, "odd", START_SECONDS, &json!([1, {"event": 7}])).await,
        200
    );
}

#[tokio::test]
async fn stores_recorded_hints_without_changing_messages() {
    let expectations: Map<String, Value> = serde_json::from_slice(&read_fixture("expected.json")).unwrap();
    let mut harness = start_with_sources().await;
    harness.store_message(SENT_ID, &["ada@example.net"]).await;
    let before = harness.load_trail(SENT_ID).events;
    for file in expectations.keys() {
        for _ in 0..2 {
            assert_eq!(harness.post_to(CAMPAIGNS_PATH, read_fixture(file)).await, 200, "{file}");
        }
        assert!(harness.journal_contains(&read_fixture(file)), "{file}");
    }
    for _ in 0..2 {
        let hints = harness.daemon.store().find_hints("ADA@example.net", 100).unwrap();
        let mut kinds: Vec<_> = hints.iter().map(|hinted| hinted.hint.kind.as_str()).collect();
        kinds.sort_unstable();
        let of_ada = expectations.values().filter(|expected| expected["contact_email"] == "ada@example.net");
        let mut expected: Vec<_> = of_ada.map(|expected| expected["kind"].as_str().unwrap()).collect();
        expected.sort_unstable();
        assert_eq!(kinds, expected);
        assert!(
            hints
                .iter()
                .all(|hinted| hinted.source == "campaigns" && hinted.hint.at.as_secs() == 1_789_387_200)
        );
        let find = |kind| hints.iter().find(|hinted| hinted.hint.kind == kind).unwrap().hint.clone();
        let gone = find(ContactHintKind::Unsubscribed);
        assert_eq!(
            (gone.lists, gone.diagnostic.text.as_deref()),
            (vec!["3".to_owned()], Some("Too many mails"))
        );
        let words = find(ContactHintKind::Bounced).diagnostic;
        let output = (words.name.as_str(), words.enhanced_status.as_deref(), words.text.as_deref());
        assert_eq!(output, ("bounce/hard", Some("5.1.1"), Some("User unknown")));
        assert_eq!(
            find(ContactHintKind::Clicked).diagnostic.url.as_deref(),
            Some("https://www.example.com/offer?x=1&y=2")
        );
        assert_eq!(harness.daemon.store().find_hints("ada@example.net", 2).unwrap(), hints[..2]);
        assert_eq!(harness.daemon.store().find_hints("bob@example.org", 2).unwrap(), []);
        // Attempts are possible in the meantime; an event is not.
        let facts = harness.load_trail(SENT_ID).events;
        assert!(facts.starts_with(&before) && facts.iter().all(|fact| fact.source != TrailSource::Webhook));
        assert_eq!(harness.marks(), [[]]);
        harness = harness.rebuild_ledger().await;
    }
    for file in expectations.keys() {
        assert_eq!(harness.post_to(CAMPAIGNS_PATH, read_fixture(file)).await, 200, "{file}");
    }
    assert_eq!(
        harness.daemon.store().find_hints("ada@example.net", 100).unwrap().len(),
        expectations.len() - 1
    );
}

#[tokio::test]
async fn hints_suppress_only_bulk_mail_as_configured() {
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
        let mut harness = WebhookHarness::start_at(START_SECONDS, "plain", &source).await;
        let soft =
            String::from_utf8(read_fixture("bounce.form")).unwrap().replace("=hard", "=soft").into_bytes();
        for form in [soft, read_fixture("open.form"), read_fixture("reply.form"), read_fixture("update.form")]
        {
            assert_eq!(harness.post_to(CAMPAIGNS_PATH, form).await, 200);
        }
        assert_eq!(harness.daemon.store().evidence_for_address("ada@example.net").unwrap(), [], "{rule}");
        let forms = ["bounce.form", "unsubscribe.form"];
        for form in forms.into_iter().chain(forms) {
            assert_eq!(harness.post_to(CAMPAIGNS_PATH, read_fixture(form)).await, 200);
        }
        // The journal alone yields the same result.
        for _ in 0..2 {
            let filed = harness.daemon.store().evidence_for_address("ADA@example.net").unwrap();
            let dossier = filed.first().map(|filed| filed.evidence.clone()).unwrap_or_default();
            assert!(filed.iter().all(|filed| filed.list.is_empty()), "it holds for every upstream");
            let live = dossier.active().map(|(reason, live)| {
                assert_eq!(
                    (live.source, live.times.len(), live.first_seen().as_secs()),
                    (Hint, 1, 1_789_387_200)
                );
                (reason, &*live.diagnostic)
            });
            let expected = [
                (Reason::HardBounce, "bounce/hard at campaigns: User unknown"),
                (Reason::Unsubscribe, "unsubscribe at campaigns: Too many mails"),
            ];
            let expected = expected.into_iter().zip([bounced, unsubscribed]).filter(|(_, wanted)| *wanted);
            assert!(live.eq(expected.map(|(expected, _)| expected)), "{rule}");
            for unsubscribe_scope in
                [UnsubscribeScope::AsProvider, UnsubscribeScope::Bulk, UnsubscribeScope::All]
            {
                let settings = SuppressionSettings { unsubscribe_scope, ..SuppressionSettings::default() };
                let judge = |lane| {
                    let look = |_: &str| Ok::<_, Infallible>(Some(dossier.clone()));
                    let Ok(verdict) = ListScope::default().evaluate(
                        &settings,
                        lane,
                        Timestamp::from_secs(START_SECONDS),
                        look,
                    );
                    verdict.is_some()
                };
                assert_eq!((judge(Lane::Transactional), judge(Lane::Bulk)), (false, unsubscribed || bounced));
            }
            harness = harness.rebuild_ledger().await;
        }
    }
}

#[tokio::test]
async fn hint_does_not_override_evidence_or_removal() {
    let harness = start_with_sources().await;
    let operator = |at, kind| SuppressionChange {
        address: "ada@example.net".parse().unwrap(),
        list: None,
        at: Timestamp::from_secs(at),
        operator: "uid 0".into(),
        kind,
    };
    let mark = EvidenceItem {
        at: Timestamp::from_secs(START_SECONDS - 86_400),
        scope: Scope::All,
        source: suppression::EvidenceSource::Operator,
        expires_at: None,
        diagnostic: "asked us".into(),
    };
    let added = SuppressionChangeKind::Add { reason: Reason::Unsubscribe, items: vec![mark] };
    harness.daemon.store().change_suppression(operator(START_SECONDS, added)).await.unwrap();
    let store = harness.daemon.store();
    let words = || {
        let filed = store.evidence_for_address("ada@example.net").unwrap().remove(0);
        filed.evidence.active_for(Reason::Unsubscribe).map(|live| live.diagnostic.clone())
    };
    assert_eq!(harness.post_to(CAMPAIGNS_PATH, read_fixture("unsubscribe.form")).await, 200);
    assert_eq!(words().as_deref(), Some("asked us"));
    store
        .change_suppression(operator(
            START_SECONDS,
            SuppressionChangeKind::Remove { reason: None, comment: String::new() },
        ))
        .await
        .unwrap();
    let other = [read_fixture("unsubscribe.form"), b"&x=y".to_vec()].concat();
    assert_eq!(harness.post_to(CAMPAIGNS_PATH, other).await, 200);
    assert_eq!((words(), store.find_hints("ada@example.net", 10).unwrap().len()), (None, 2));
}

#[tokio::test]
async fn repeated_automation_request_counts_once_a_day() {
    let harness = start_with_sources().await;
    let pairs: Vec<(String, String)> =
        serde_json::from_slice(&read_fixture("automation_webhook.json")).unwrap();
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    for _ in 0..2 {
        assert_eq!(harness.post_to(CAMPAIGNS_PATH, body.clone().into_bytes()).await, 200);
    }
    let hints = harness.daemon.store().find_hints("ada@example.net", 10).unwrap();
    let [hinted] = &hints[..] else { unreachable!("{hints:?}") };
    assert_eq!(
        (hinted.hint.kind, hinted.hint.diagnostic.name.as_str()),
        (ContactHintKind::Unknown, "automation")
    );
    assert_eq!(hinted.hint.at, hinted.received_at);
}

#[tokio::test]
async fn accepts_secret_path_and_never_logs_it() {
    let log = LogCapture::default();
    let _listening = log.install_at(Level::TRACE);
    let harness = start_with_sources().await;
    let form = read_fixture("open.form");
    let good =
        ["the-secret-of-the-campaigns", "the-next-secret-of-the-campaigns", "the%2Dsecret-of-the-campaigns"];
    for secret in good {
        assert_eq!(harness.post_to(&format!("webhooks/campaigns/{secret}"), form.clone()).await, 200);
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
            assert_eq!(harness.post_to(path, form.clone()).await, 404, "{path}");
        }
    }
    assert_eq!(harness.post_to(CAMPAIGNS_PATH, form).await, 200);
    assert_eq!(harness.post_to(CAMPAIGNS_PATH, b"junk".to_vec()).await, 200);
    assert_eq!(harness.post_to(CAMPAIGNS_PATH, vec![b'x'; (1 << 20) + 1]).await, 413);
    let ours = log.lines_with(&["campaigns"]);
    assert!(ours.iter().any(|line| line.contains("refused=20")), "{ours:?}");
    assert!(!ours.iter().any(|line| line.contains("secret-of-the") || line.contains("hunter2")), "{ours:?}");
}

async fn start_with_sources() -> WebhookHarness {
    let sources = format!(
        "\n[[source]]\nname = \"other\"\nkind = \"generic\"\nsecret = [{OTHER_SECRET:?}, \"the-next-secret-of-the-other\"]\n\
         [[source]]\nname = \"beside\"\nkind = \"generic\"\nsecret = {STANDARD_SECRET:?}\nupstream = \"up\"\n\
         [[source]]\nname = \"campaigns\"\nkind = \"activecampaign\"\n\
         secret = [\"the-secret-of-the-campaigns\", \"the-next-secret-of-the-campaigns\"]\n"
    );
    WebhookHarness::start_at(START_SECONDS, "plain", &sources).await
}

async fn post_signed(
    harness: &WebhookHarness,
    source: &str,
    secret: &str,
    id: &str,
    at: u64,
    body: &Value,
) -> u16 {
    let (at, body) = (at.to_string(), body.to_string().into_bytes());
    let made = sign_request(&Secret::new(secret), id, &at, &body).unwrap();
    let fields = [("webhook-id", id), ("webhook-timestamp", &*at), ("webhook-signature", &*made)];
    harness.post_with(&format!("webhooks/{source}"), &fields, body).await
}

fn read_fixture(file: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/activecampaign");
    std::fs::read(folder.join(file)).unwrap()
}

const CAMPAIGNS_PATH: &str = "webhooks/campaigns/the-secret-of-the-campaigns";
const OTHER_SECRET: &str = "the-secret-of-the-other-one";
const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
