//! Clients of the providers' management APIs, with the sandbox and with a scripted server.

use mailtrail_mail::Secret;
use mailtrail_mail::{Clock, Timestamp};
use mailtrail_net::provider_api::{
    ApiError, DesiredWebhook, EventsApi, ProviderApi, ProviderApiSettings, ProviderKind, SuppressionEntry,
    SuppressionList, TimeRange, WebhookChangeKind as Became,
};
use mailtrail_net::tls;
use mailtrail_sandbox::{FaultInjection, Sandbox};
use mailtrail_trail::provider::brevo::WebhookAuth;
use reqwest::Url;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use testkit::mock_http::{HttpAction, MockHttpServer};

#[tokio::test]
async fn reads_adds_and_removes_suppressions() {
    let (sandbox, _directory) = start_sandbox(FaultInjection::default()).await;
    let account = sandbox_api(&sandbox, EventsApi::Events, "key-1", "mg.example.com");
    let since = Some(Timestamp::from_secs(1_789_387_206));
    for list in SuppressionList::ALL {
        let entries: Vec<_> =
            (0..1000).map(|number| sample_entry(list, &format!("a{number}+b@example.net"), since)).collect();
        account.add_suppressions(list, &entries).await.unwrap();
        let last = sample_entry(list, "Z@example.net", None);
        account.add_suppressions(list, std::slice::from_ref(&last)).await.unwrap();
        let mut found = entries_of(list, read_all_lists(&account).await);
        let newest = found.pop().unwrap();
        assert!(newest.address == "z@example.net" && newest.since.is_some());
        found.sort_by_key(|entry| entry.address[1..].split('+').next().unwrap().parse::<u32>().unwrap());
        assert_eq!(found, entries, "{list:?}");
        assert!(account.remove_suppression(list, "a7+b@example.net").await.unwrap());
        assert!(!account.remove_suppression(list, "a7+b@example.net").await.unwrap());
        assert_eq!(entries_of(list, read_all_lists(&account).await).len(), 1000);
    }
    assert_eq!(read_all_lists(&account).await.len(), 3000);
}

/// All lists, page by page.
async fn read_all_lists(account: &ProviderApi) -> Vec<(SuppressionList, SuppressionEntry)> {
    let (mut found, mut place) = (Vec::new(), None);
    loop {
        let page = account.fetch_suppressions(place.as_ref()).await.unwrap();
        assert!(page.entries.len() <= 1000);
        found.extend(page.entries);
        place = page.next;
        if place.is_none() {
            return found;
        }
    }
}

fn entries_of(
    wanted: SuppressionList,
    entries: Vec<(SuppressionList, SuppressionEntry)>,
) -> Vec<SuppressionEntry> {
    entries.into_iter().filter(|(list, _)| *list == wanted).map(|(_, entry)| entry).collect()
}

fn sample_entry(list: SuppressionList, address: &str, since: Option<Timestamp>) -> SuppressionEntry {
    let mut entry = SuppressionEntry { address: address.into(), since, ..SuppressionEntry::default() };
    match list {
        SuppressionList::Bounces => {
            (entry.code, entry.reason) = (Some("550".into()), Some("5.1.1 User unknown".into()))
        }
        SuppressionList::Unsubscribes => entry.tags = vec!["newsletter".into()],
        SuppressionList::Complaints => {}
    }
    entry
}

#[tokio::test]
async fn api_errors_name_cause_and_remedy_without_key() {
    let (sandbox, _directory) =
        start_sandbox(FaultInjection { requests: 2, ..FaultInjection::default() }).await;
    for (key, domain, expected) in [
        (
            "hunter2",
            "mg.example.com",
            "refused the api_key (401: Invalid private key); give the account's key",
        ),
        (
            "key-1",
            "other.example.com",
            "does not know it (404: Domain not found: other.example.com); are domain and region right?",
        ),
        ("key-1", "mg.example.com", ""),
        ("key-1", "mg.example.com", "takes no more requests for now ({\"retry-seconds\":60})"),
    ] {
        let account = sandbox_api(&sandbox, EventsApi::Events, key, domain);
        match account.fetch_events(ALL_TIME, None).await {
            Ok(page) => {
                assert!(expected.is_empty() && page.events.is_empty() && page.next.is_none(), "{expected}")
            }
            Err(fault) => {
                let text = fault.to_string();
                assert!(
                    text.starts_with("upstream up: events: the provider's API ") && text.contains(expected),
                    "{text}"
                );
                assert!(!expected.is_empty() && !format!("{fault:?} {account:?}").contains("hunter2"));
                let wait = expected.contains("retry").then_some(Duration::from_secs(60));
                assert_eq!(fault.retry_after(), wait);
            }
        }
    }
    let gone = sandbox.api_address();
    sandbox.stop().await;
    let account = api_at(&format!("http://{gone}"), mailgun_kind(EventsApi::Logs, "mg.example.com"), "key-1");
    let fault = account.fetch_events(ALL_TIME, None).await.unwrap_err();
    assert!(
        matches!(fault, ApiError::Unreachable { .. }) && fault.to_string().contains("is api_base_url right"),
        "{fault}"
    );
}

#[tokio::test]
async fn reports_unexpected_responses() {
    let limit =
        "Domain mg.example.com is not allowed to send: request limit exceeded, try again after 120 seconds";
    for (status, body, expected) in [
        (
            200,
            read_fixture("mailgun/api_magnificent_wrong_path_200.txt"),
            "not of the provider's API (Mailgun Magnificent API)",
        ),
        (200, "{}".to_owned(), "not of the provider's API (it has no items)"),
        (429, format!("{{\"message\":{limit:?}}}"), "takes no more requests"),
        (429, "+ Retry-After: 120\n{}".to_owned(), "takes no more requests"),
        (420, "+ x-sib-ratelimit-reset: 120\n".to_owned(), "takes no more requests"),
        (401, "Forbidden".to_owned(), "401: Forbidden"),
        (403, "\"no\u{7}\"".to_owned(), "403: \"no \""),
        (500, "{\"message\":\"Internal Server Error\"}".to_owned(), "answered 500: Internal Server Error"),
        (302, "+ Location: http://127.0.0.1:1/\n".to_owned(), "answered 302"),
    ] {
        let output = body.clone();
        let server = MockHttpServer::start(move |_, _| HttpAction::Respond(status, output.clone())).await;
        let account = api_at(
            &format!("http://{}", server.address),
            mailgun_kind(EventsApi::Events, "mg.example.com"),
            "key-1",
        );
        let fault = account.fetch_events(ALL_TIME, None).await.unwrap_err();
        assert!(fault.to_string().contains(expected), "{fault}");
        let wait = [420, 429].contains(&status).then_some(Duration::from_secs(120));
        assert_eq!(fault.retry_after(), wait, "{body}");
        assert_eq!(server.count(), 1);
    }
}

#[tokio::test]
async fn sends_api_key_only_to_provider_host() {
    let server =
        MockHttpServer::start(|_, _| HttpAction::Respond(200, read_fixture("mailgun/api_events_page1.json")))
            .await;
    let account = api_at(
        &format!("http://{}", server.address),
        mailgun_kind(EventsApi::Events, "mg.example.com"),
        "key-1",
    );
    let page = account.fetch_events(ALL_TIME, None).await.unwrap();
    assert_eq!(
        (page.events.len(), page.complete_until),
        (4, Some(Timestamp::from_millis(1_789_387_213_123)))
    );
    let fault = account.fetch_events(ALL_TIME, page.next.as_ref()).await.unwrap_err();
    assert!(fault.to_string().contains("it leads to another host"), "{fault}");
    let request = &server.requests()[0];
    assert_eq!(
        request.line,
        "GET /v3/mg.example.com/events?begin=1&end=2000000000&ascending=yes&limit=300 HTTP/1.1"
    );
    assert_eq!((request.header("authorization"), server.count()), (Some("Basic YXBpOmtleS0x"), 1));
}

/// Registrations of long ago have one address instead of a list.
#[tokio::test]
async fn reads_mailgun_webhooks_in_both_shapes() {
    let body = r#"{"webhooks":{"clicked":{"url":"https://a"},"opened":{"urls":["https://a","https://b"]}}}"#;
    let server = MockHttpServer::start(move |_, _| HttpAction::Respond(200, body.into())).await;
    let account = api_at(
        &format!("http://{}", server.address),
        mailgun_kind(EventsApi::Events, "mg.example.com"),
        "key-1",
    );
    let webhooks = account.fetch_webhooks().await.unwrap();
    let found: Vec<_> = webhooks.iter().map(|webhook| (&*webhook.event, &*webhook.url)).collect();
    assert_eq!(found, [("clicked", "https://a"), ("opened", "https://a"), ("opened", "https://b")]);
    assert_eq!(server.requests()[0].line, "GET /v3/domains/mg.example.com/webhooks HTTP/1.1");
    // The account has webhooks, but not this domain.
    assert!(matches!(account.fetch_domain("mg.example.com").await, Err(ApiError::UnexpectedResponse { .. })));
    let server =
        MockHttpServer::start(|_, _| HttpAction::Respond(404, r#"{"message":"Domain not found"}"#.into()))
            .await;
    let account = api_at(
        &format!("http://{}", server.address),
        mailgun_kind(EventsApi::Events, "mg.example.com"),
        "key-1",
    );
    assert_eq!(account.fetch_domain("other.example.com").await.unwrap(), None);
}

#[tokio::test]
async fn normalizes_brevo_statistics_to_webhook_shape() {
    let server = MockHttpServer::start(|_, _| {
        HttpAction::Respond(200, read_fixture("brevo/api_statistics_events.json"))
    })
    .await;
    let account = api_at(&format!("http://{}", server.address), ProviderKind::Brevo, "xkeysib-1");
    let span =
        TimeRange { start: Timestamp::from_secs(1_789_387_204), end: Timestamp::from_secs(1_789_390_000) };
    let page = account.fetch_events(span, None).await.unwrap();
    assert_eq!((page.next, page.complete_until), (None, None));
    let expected = serde_json::json!([{
        "event": "hard_bounce", "email": "bob@example.org",
        "message-id": "<1789387199.4711.mt0001@mg.example.com>", "ts_epoch": 1_789_387_206_000_u64,
        "subject": "Quotation S00042", "reason": "550 5.1.1 User unknown", "sender_email": "sales@example.com",
    }]);
    assert_eq!(serde_json::Value::from(page.events), expected, "what is outside the span is left out");
    let request = &server.requests()[0];
    let line = "GET /v3/smtp/statistics/events?startDate=2026-09-13&endDate=2026-09-14&limit=5000&offset=0&sort=desc HTTP/1.1";
    assert_eq!((request.line.as_str(), request.header("api-key")), (line, Some("xkeysib-1")));
}

#[tokio::test]
async fn pages_brevo_statistics_back_to_range_start() {
    let server = MockHttpServer::start(|number, _| {
        // A second earlier each.
        let last = 1_789_387_200 - (number as u64 - 1) * 5000;
        let event = |second: u64| {
            let at = Timestamp::from_secs(last - second);
            format!("{{\"email\":\"a@example.net\",\"date\":\"{at}\",\"messageId\":\"<1@a>\",\"event\":\"requests\"}}")
        };
        let events: Vec<_> = (0..5000).map(event).collect();
        HttpAction::Respond(200, format!("{{\"events\":[{}]}}", events.join(",")))
    })
    .await;
    let account = api_at(&format!("http://{}", server.address), ProviderKind::Brevo, "xkeysib-1");
    let end = Timestamp::from_secs(1_789_387_200);
    let span = TimeRange { start: end.saturating_sub(Duration::from_secs(7_000)), end };
    let first = account.fetch_events(span, None).await.unwrap();
    let second = account.fetch_events(span, first.next.as_ref()).await.unwrap();
    assert_eq!((first.events.len(), second.events.len(), second.next), (5000, 2001, None));
    assert!(server.requests()[1].line.contains("&offset=5000&"));
}

#[tokio::test]
async fn maps_brevo_blocked_contacts_to_suppression_lists() {
    let server = MockHttpServer::start(|_, request| match request.line.split(' ').next() {
        Some("DELETE") if request.line.contains("/a%2Bb@example.net ") => {
            HttpAction::Respond(204, String::new())
        }
        Some("DELETE") => HttpAction::Respond(
            404,
            "{\"code\":\"document_not_found\",\"message\":\"Contact not found\"}".into(),
        ),
        _ => HttpAction::Respond(200, read_fixture("brevo/api_blocked_contacts.json")),
    })
    .await;
    let account = api_at(&format!("http://{}", server.address), ProviderKind::Brevo, "xkeysib-1");
    let page = account.fetch_suppressions(None).await.unwrap();
    assert_eq!(page.next, None);
    let found: Vec<_> = page.entries.iter().map(|(list, entry)| (*list, &*entry.address)).collect();
    assert_eq!(
        found,
        [(SuppressionList::Bounces, "ada@example.net"), (SuppressionList::Unsubscribes, "bob@example.org")]
    );
    assert!(account.remove_suppression(SuppressionList::Bounces, "a+b@example.net").await.unwrap());
    assert!(!account.remove_suppression(SuppressionList::Bounces, "b@example.net").await.unwrap());
    assert!(matches!(
        account.add_suppressions(SuppressionList::Bounces, &[]).await,
        Err(ApiError::Unsupported { .. })
    ));
    let server =
        MockHttpServer::start(|_, _| HttpAction::Respond(401, read_fixture("brevo/api_error_401.json")))
            .await;
    let account = api_at(&format!("http://{}", server.address), ProviderKind::Brevo, "xkeysib-1");
    let fault = account.fetch_suppressions(None).await.unwrap_err();
    assert!(fault.to_string().contains("refused the api_key (401: Key not found)"), "{fault}");
}

#[tokio::test]
async fn registers_mailgun_webhooks_by_url_and_verifies_the_result() {
    let ours: Url = "https://relay.example.com/webhooks/up".parse().unwrap();
    let credentials = WebhookAuth::default();
    let wanted = DesiredWebhook { url: &ours, auth: &credentials };
    let known =
        r#"{"webhooks":{"opened":{"urls":["https://a","https://u:p@relay.example.com/webhooks/up?x=1"]}}}"#;
    for (registered, method, address, act) in [
        (r#"{"webhooks":{"opened":{"urls":["https://a"]}}}"#, "POST", ours.as_str(), Became::Created),
        (known, "PUT", "https://u:p@relay.example.com/webhooks/up?x=1", Became::Updated),
    ] {
        let server = MockHttpServer::start(move |number, _| match number {
            1 | 2 => HttpAction::Respond(200, registered.into()),
            // Mailgun's response for paths without a route.
            _ => HttpAction::Respond(200, "Mailgun Magnificent API".into()),
        })
        .await;
        let at_server = format!("http://{}", server.address);
        let account = api_at(&at_server, mailgun_kind(EventsApi::Events, "mg.example.com"), "key-1");
        let changes = account.plan_registration(wanted).await.unwrap();
        assert_eq!((changes.len(), changes[0].kind, &*changes[0].url), (1, act, ours.as_str()));
        account.apply_change(&changes[0]).await.unwrap();
        let request = &server.requests()[1];
        assert_eq!(request.line, format!("{method} /v4/domains/mg.example.com/webhooks HTTP/1.1"));
        let form: Vec<_> = form_urlencoded::parse(&request.body).into_owned().collect();
        let kinds: Vec<_> = form[1..].iter().map(|(key, kind)| (&**key, &**kind)).collect();
        assert_eq!(form[0], ("url".to_owned(), address.to_owned()));
        assert!(kinds.len() == 8 && kinds.contains(&("event_types", "opened")), "{kinds:?}");
        let fault = account.apply_change(&changes[0]).await.unwrap_err();
        assert!(matches!(fault, ApiError::UnexpectedResponse { .. }), "{fault}");
    }
}

async fn start_sandbox(faults: FaultInjection) -> (Sandbox, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let sandbox = mailtrail_sandbox::start(mailtrail_sandbox::SandboxSettings {
        profile: mailtrail_sandbox::ProviderProfile::Mailgun,
        smtp_address: SocketAddr::from(([127, 0, 0, 1], 0)),
        api_address: SocketAddr::from(([127, 0, 0, 1], 0)),
        api_key: Secret::new("key-1"),
        domain: "mg.example.com".into(),
        username: "postmaster@mg.example.com".into(),
        password: Secret::new("pw"),
        signing_key: Secret::new("signing"),
        webhook_url: None,
        time_scale: 0.0,
        faults,
        clock: Clock::System,
        tls: tls::load_self_signed(directory.path(), "localhost").unwrap(),
    });
    (sandbox.await.unwrap(), directory)
}

fn sandbox_api(sandbox: &Sandbox, api: EventsApi, key: &str, domain: &str) -> ProviderApi {
    api_at(&format!("http://{}", sandbox.api_address()), mailgun_kind(api, domain), key)
}

fn mailgun_kind(events_api: EventsApi, domain: &str) -> ProviderKind {
    ProviderKind::Mailgun { domain: domain.to_owned(), events_api }
}

fn api_at(base_url: &str, provider: ProviderKind, key: &str) -> ProviderApi {
    let base_url = base_url.parse().unwrap();
    let settings =
        ProviderApiSettings { upstream: "up".into(), provider, base_url, api_key: Secret::new(key) };
    ProviderApi::new(settings, &tls::build_connector(None).unwrap(), Clock::System).unwrap()
}

fn read_fixture(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(file)).unwrap()
}

const ALL_TIME: TimeRange =
    TimeRange { start: Timestamp::from_secs(1), end: Timestamp::from_secs(2_000_000_000) };
