//! What Brevo's statistics tell and what its webhooks bring are the same events.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/http.rs"]
mod http;
#[path = "support/inbox.rs"]
mod inbox;

use http::{Act, Server};
use inbox::{SENT, START, Scene, until};
use mailtrail_trail::{Kind, MarkKind, Source};
use std::path::Path;

#[tokio::test]
async fn a_webhook_and_a_poll_of_one_event_count_once_in_both_orders() {
    let server = Server::start(|_, _| Act::Answer(200, text("api_statistics_events.json"))).await;
    let keys = format!(
        "webhook_token = \"test-webhook-secret\"\napi_key = \"xkeysib-1\"\napi_base_url = \"http://{}\"\n",
        server.address
    );
    let scene = || async {
        let scene = Scene::at(START + 600, "brevo", &keys).await;
        scene.accept(SENT, &["ada@example.net", "bob@example.org"]).await;
        scene
    };
    let webhook_first = async {
        let scene = scene().await;
        post(&scene).await;
        polled(&scene).await;
        sources(&scene)
    };
    let poll_first = async {
        let scene = scene().await;
        polled(&scene).await;
        post(&scene).await;
        sources(&scene)
    };
    let (webhook_first, poll_first) = tokio::join!(webhook_first, poll_first);
    assert_eq!(webhook_first, [(Kind::Delivered, Source::Webhook), (Kind::Bounced, Source::Poll)]);
    assert_eq!(poll_first, [(Kind::Delivered, Source::Poll), (Kind::Bounced, Source::Poll)]);
}

async fn post(scene: &Scene) {
    let body = text("delivered.json").into_bytes();
    assert_eq!(scene.post_with("webhooks/up", BEARER, body).await, 200);
}

async fn polled(scene: &Scene) {
    until("the poll", || scene.daemon.store().polled_until("up").unwrap().is_some()).await;
}

/// What was reported of both recipients, and how it came.
fn sources(scene: &Scene) -> Vec<(Kind, Source)> {
    let (delivered, bounced) = (MarkKind::By(Kind::Delivered), MarkKind::By(Kind::Bounced));
    assert_eq!(scene.marks(), [[(delivered, 1)], [(bounced, 1)]]);
    let reported = scene.trail(SENT).facts.into_iter().filter_map(|fact| match fact.what {
        mailtrail_trail::What::Reported(kind) => Some((kind, fact.source)),
        _ => None,
    });
    reported.collect()
}

fn text(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/brevo").join(file);
    std::fs::read_to_string(path).unwrap()
}

const BEARER: &[(&str, &str)] = &[("authorization", "Bearer test-webhook-secret")];
