//! What ActiveCampaign tells about contacts: from the sandbox to a whole relay, or to a server that does as it is told.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/http.rs"]
mod http;
#[path = "support/inbox.rs"]
mod inbox;

use http::{Act, Server};
use inbox::{SENT, START, Scene};
use mailtrail_mail::Clock;
use mailtrail_mail::Secret;
use mailtrail_net::tls;
use mailtrail_sandbox;
use mailtrail_sandbox::{ContactEvent, Face, Sandbox, Settings, Told, Weather};
use mailtrail_trail::HintKind;
use serde_json::{Value, json};
use std::net::SocketAddr;

#[tokio::test]
async fn hints_arrive_and_change_no_send() {
    let source = "\n[[source]]\nname = \"campaigns\"\nkind = \"activecampaign\"\nsecret = \"the-secret-of-the-campaigns\"\n";
    let relay = Scene::at(START, "plain", source).await;
    relay.accept(SENT, &["ada@example.net"]).await;
    let (sandbox, _directory) = start(Face::Brevo).await;
    sandbox.set_contact_webhook(relay.url("webhooks/campaigns/the-secret-of-the-campaigns"));
    for event in ContactEvent::ALL {
        assert_eq!(sandbox.tell_contact(event, "ada@example.net").await, Told::Answered(200), "{event:?}");
    }
    let hints = relay.daemon.store().hints("ada@example.net", 100).unwrap();
    let mut kinds: Vec<_> = hints.iter().map(|hinted| hinted.hint.kind.word()).collect();
    kinds.sort_unstable();
    let mut expected = [
        HintKind::Opened,
        HintKind::Clicked,
        HintKind::Bounced,
        HintKind::Unsubscribed,
        HintKind::Replied,
        HintKind::Forwarded,
        HintKind::Unknown,
        HintKind::Unknown,
        HintKind::Unknown,
    ]
    .map(HintKind::word);
    expected.sort_unstable();
    assert_eq!(kinds, expected, "all but the campaign's, which names nobody");
    assert_eq!(relay.marks(), [[]]);
    // With another secret nobody is believed, and nobody is told to go away for good.
    sandbox.set_contact_webhook(relay.url("webhooks/campaigns/another-secret"));
    assert_eq!(sandbox.tell_contact(ContactEvent::Bounce, "bob@example.org").await, Told::Answered(404));
    assert_eq!(relay.daemon.store().hints("bob@example.org", 1).unwrap(), []);
}

#[tokio::test]
async fn nothing_comes_again_and_410_is_for_good() {
    let server = Server::start(|number, _| match number {
        1 => Act::Answer(503, String::new()),
        2 => Act::Close,
        3 => Act::Answer(200, String::new()),
        _ => Act::Answer(410, String::new()),
    });
    let server = server.await;
    let (sandbox, _directory) = start(Face::Mailgun).await;
    let tell = async || sandbox.tell_contact(ContactEvent::Unsubscribe, "ada@example.net").await;
    assert_eq!(tell().await, Told::Nowhere);
    sandbox.set_contact_webhook(format!("http://{}/secret", server.address));
    let told = [tell().await, tell().await, tell().await, tell().await, tell().await, tell().await];
    let expected = [
        Told::Answered(503),
        Told::Unanswered,
        Told::Answered(200),
        Told::Answered(410),
        Told::SwitchedOff,
        Told::SwitchedOff,
    ];
    assert_eq!(told, expected);
    let requests = server.requests();
    let kind = requests[2].header("content-type");
    assert_eq!((requests.len(), kind), (4, Some("application/x-www-form-urlencoded")));
    // Made anew it works again.
    sandbox.set_contact_webhook(format!("http://{}/secret", server.address));
    assert_eq!(tell().await, Told::Answered(410));
    sandbox.stop().await;
    assert_eq!(server.count(), 5);
}

#[tokio::test]
async fn contacts_are_told_of_over_http_too() {
    let server = Server::start(|_, _| Act::Answer(200, String::new())).await;
    for face in [Face::Mailgun, Face::Brevo] {
        let (sandbox, _directory) = start(face).await;
        let bounce = json!({ "event": "bounce", "email": "ada@example.net" });
        assert_eq!(post(&sandbox, face, &bounce).await.0, 400, "nowhere to post it to");
        sandbox.set_contact_webhook(format!("http://{}/secret", server.address));
        assert_eq!(post(&sandbox, face, &bounce).await, (200, json!({ "answered": 200 })));
        assert_eq!(post(&sandbox, face, &json!({ "event": "moved", "email": "a@b.c" })).await.0, 400);
        assert_eq!(post(&sandbox, face, &json!({ "event": "bounce" })).await.0, 400);
    }
    assert_eq!(server.count(), 2);
}

async fn post(sandbox: &Sandbox, face: Face, body: &Value) -> (u16, Value) {
    let tls = tls::client_config(None).unwrap();
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
    let request = client.post(format!("http://{}/sandbox/contacts", sandbox.api_address())).json(body);
    let request = match face {
        Face::Mailgun => request.basic_auth("api", Some("key")),
        Face::Brevo => request.header("api-key", "key"),
    };
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn start(face: Face) -> (Sandbox, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let sandbox = mailtrail_sandbox::start(Settings {
        face,
        smtp: SocketAddr::from(([127, 0, 0, 1], 0)),
        api: SocketAddr::from(([127, 0, 0, 1], 0)),
        api_key: Secret::new("key"),
        domain: "example.com".into(),
        username: "a00001@smtp-brevo.com".into(),
        password: Secret::new("pw"),
        signing_key: Secret::new("token"),
        webhook: None,
        pace: 0.0,
        weather: Weather::default(),
        clock: Clock::System,
        tls: tls::self_signed(directory.path(), "localhost").unwrap(),
    });
    (sandbox.await.unwrap(), directory)
}
