//! ActiveCampaign contact events: from the sandbox to a whole relay, or to a scripted server.

use mailtrail_mail::Clock;
use mailtrail_mail::Secret;
use mailtrail_net::tls;
use mailtrail_sandbox::{
    ContactEvent, FaultInjection, PostResult, ProviderProfile, Sandbox, SandboxSettings,
};
use mailtrail_trail::ContactHintKind;
use serde_json::{Value, json};
use std::net::SocketAddr;
use testkit::mock_http::{HttpAction, MockHttpServer};
use testkit::webhook_harness::{SENT_ID, START_SECONDS, WebhookHarness};

#[tokio::test]
async fn contact_hints_arrive_without_changing_messages() {
    let source = "\n[[source]]\nname = \"campaigns\"\nkind = \"activecampaign\"\nsecret = \"the-secret-of-the-campaigns\"\n";
    let relay = WebhookHarness::start_at(START_SECONDS, "plain", source).await;
    relay.store_message(SENT_ID, &["ada@example.net"]).await;
    let (sandbox, _directory) = start_sandbox(ProviderProfile::Brevo).await;
    sandbox.set_contact_webhook_url(relay.url("webhooks/campaigns/the-secret-of-the-campaigns"));
    for event in ContactEvent::ALL {
        assert_eq!(
            sandbox.send_contact_event(event, "ada@example.net").await,
            PostResult::Answered(200),
            "{event:?}"
        );
    }
    let hints = relay.daemon.store().find_hints("ada@example.net", 100).unwrap();
    let mut kinds: Vec<_> = hints.iter().map(|hinted| hinted.hint.kind.as_str()).collect();
    kinds.sort_unstable();
    let mut expected = [
        ContactHintKind::Opened,
        ContactHintKind::Clicked,
        ContactHintKind::Bounced,
        ContactHintKind::Unsubscribed,
        ContactHintKind::Replied,
        ContactHintKind::Forwarded,
        ContactHintKind::Unknown,
        ContactHintKind::Unknown,
        ContactHintKind::Unknown,
    ]
    .map(ContactHintKind::as_str);
    expected.sort_unstable();
    assert_eq!(kinds, expected, "all but the campaign's, which names nobody");
    assert_eq!(relay.marks(), [[]]);
    // A wrong secret is rejected, but never with a status that ends the webhook permanently.
    sandbox.set_contact_webhook_url(relay.url("webhooks/campaigns/another-secret"));
    assert_eq!(
        sandbox.send_contact_event(ContactEvent::Bounce, "bob@example.org").await,
        PostResult::Answered(404)
    );
    assert_eq!(relay.daemon.store().find_hints("bob@example.org", 1).unwrap(), []);
}

#[tokio::test]
async fn sends_each_hint_once_and_stops_after_410() {
    let server = MockHttpServer::start(|number, _| match number {
        1 => HttpAction::Respond(503, String::new()),
        2 => HttpAction::Close,
        3 => HttpAction::Respond(200, String::new()),
        _ => HttpAction::Respond(410, String::new()),
    });
    let server = server.await;
    let (sandbox, _directory) = start_sandbox(ProviderProfile::Mailgun).await;
    let tell = async || sandbox.send_contact_event(ContactEvent::Unsubscribe, "ada@example.net").await;
    assert_eq!(tell().await, PostResult::NoTarget);
    sandbox.set_contact_webhook_url(format!("http://{}/secret", server.address));
    let notified = [tell().await, tell().await, tell().await, tell().await, tell().await, tell().await];
    let expected = [
        PostResult::Answered(503),
        PostResult::NoResponse,
        PostResult::Answered(200),
        PostResult::Answered(410),
        PostResult::Disabled,
        PostResult::Disabled,
    ];
    assert_eq!(notified, expected);
    let requests = server.requests();
    let kind = requests[2].header("content-type");
    assert_eq!((requests.len(), kind), (4, Some("application/x-www-form-urlencoded")));
    // After it is re-created it works again.
    sandbox.set_contact_webhook_url(format!("http://{}/secret", server.address));
    assert_eq!(tell().await, PostResult::Answered(410));
    sandbox.stop().await;
    assert_eq!(server.count(), 5);
}

#[tokio::test]
async fn control_api_sends_contact_events() {
    let server = MockHttpServer::start(|_, _| HttpAction::Respond(200, String::new())).await;
    for face in [ProviderProfile::Mailgun, ProviderProfile::Brevo] {
        let (sandbox, _directory) = start_sandbox(face).await;
        let bounce = json!({ "event": "bounce", "email": "ada@example.net" });
        assert_eq!(post_contact_event(&sandbox, face, &bounce).await.0, 400, "nowhere to post it to");
        sandbox.set_contact_webhook_url(format!("http://{}/secret", server.address));
        assert_eq!(post_contact_event(&sandbox, face, &bounce).await, (200, json!({ "answered": 200 })));
        assert_eq!(
            post_contact_event(&sandbox, face, &json!({ "event": "moved", "email": "a@b.c" })).await.0,
            400
        );
        assert_eq!(post_contact_event(&sandbox, face, &json!({ "event": "bounce" })).await.0, 400);
    }
    assert_eq!(server.count(), 2);
}

async fn post_contact_event(sandbox: &Sandbox, face: ProviderProfile, body: &Value) -> (u16, Value) {
    let tls = tls::build_client_config(None).unwrap();
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
    let request = client.post(format!("http://{}/sandbox/contacts", sandbox.api_address())).json(body);
    let request = match face {
        ProviderProfile::Mailgun => request.basic_auth("api", Some("key")),
        ProviderProfile::Brevo => request.header("api-key", "key"),
    };
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn start_sandbox(profile: ProviderProfile) -> (Sandbox, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let sandbox = mailtrail_sandbox::start(SandboxSettings {
        profile,
        smtp_address: SocketAddr::from(([127, 0, 0, 1], 0)),
        api_address: SocketAddr::from(([127, 0, 0, 1], 0)),
        api_key: Secret::new("key"),
        domain: "example.com".into(),
        username: "a00001@smtp-brevo.com".into(),
        password: Secret::new("pw"),
        signing_key: Secret::new("token"),
        webhook_url: None,
        time_scale: 0.0,
        faults: FaultInjection::default(),
        clock: Clock::System,
        tls: tls::load_self_signed(directory.path(), "localhost").unwrap(),
    });
    (sandbox.await.unwrap(), directory)
}
