//! Brevo's statistics and its webhooks report the same events.

use mailtrail_trail::{EventKind, MarkKind, TrailSource};
use std::path::Path;
use testkit::mock_http::{HttpAction, MockHttpServer};
use testkit::webhook_harness::{SENT_ID, START_SECONDS, WebhookHarness, wait_until};

#[tokio::test]
async fn webhook_and_poll_of_same_event_count_once() {
    let server =
        MockHttpServer::start(|_, _| HttpAction::Respond(200, read_fixture("api_statistics_events.json")))
            .await;
    let keys = format!(
        "webhook_token = \"test-webhook-secret\"\napi_key = \"xkeysib-1\"\napi_base_url = \"http://{}\"\n",
        server.address
    );
    let harness = || async {
        let harness = WebhookHarness::start_at(START_SECONDS + 600, "brevo", &keys).await;
        harness.store_message(SENT_ID, &["ada@example.net", "bob@example.org"]).await;
        harness
    };
    let webhook_first = async {
        let harness = harness().await;
        post_delivered(&harness).await;
        wait_polled(&harness).await;
        mark_sources(&harness)
    };
    let poll_first = async {
        let harness = harness().await;
        wait_polled(&harness).await;
        post_delivered(&harness).await;
        mark_sources(&harness)
    };
    let (webhook_first, poll_first) = tokio::join!(webhook_first, poll_first);
    assert_eq!(
        webhook_first,
        [(EventKind::Delivered, TrailSource::Webhook), (EventKind::Bounced, TrailSource::Poll)]
    );
    assert_eq!(
        poll_first,
        [(EventKind::Delivered, TrailSource::Poll), (EventKind::Bounced, TrailSource::Poll)]
    );
}

async fn post_delivered(harness: &WebhookHarness) {
    let body = read_fixture("delivered.json").into_bytes();
    assert_eq!(harness.post_with("webhooks/up", BEARER_HEADER, body).await, 200);
}

async fn wait_polled(harness: &WebhookHarness) {
    wait_until("the poll", || harness.daemon.store().poll_cursor("up").unwrap().is_some()).await;
}

/// Returns kinds and sources of the events of both recipients.
fn mark_sources(harness: &WebhookHarness) -> Vec<(EventKind, TrailSource)> {
    let (delivered, bounced) = (MarkKind::Person(EventKind::Delivered), MarkKind::Person(EventKind::Bounced));
    assert_eq!(harness.marks(), [[(delivered, 1)], [(bounced, 1)]]);
    let reported = harness.load_trail(SENT_ID).events.into_iter().filter_map(|fact| match fact.kind {
        mailtrail_trail::TrailEventKind::EventReceived(kind) => Some((kind, fact.source)),
        _ => None,
    });
    reported.collect()
}

fn read_fixture(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/brevo").join(file);
    std::fs::read_to_string(path).unwrap()
}

const BEARER_HEADER: &[(&str, &str)] = &[("authorization", "Bearer test-webhook-secret")];
