//! Management API of the sandbox: Mailgun's responses, and faults on demand.

use super::wait::eventually;
use mailtrail_mail::Secret;
use mailtrail_mail::{Clock, ManualClock, Timestamp};
use mailtrail_net::tls;
use mailtrail_sandbox::{FaultInjection, ProviderProfile, Sandbox, SandboxSettings};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

#[tokio::test]
async fn pages_events_in_both_directions() {
    let harness = ManagementApiScene::new(FaultInjection::default()).await;
    harness.submit_message(&["a@example.net", "bounce@example.net", "open@example.net"], 7).await;
    let first = harness.get_json("/v3/mg.example.com/events?begin=0&ascending=yes&limit=3").await;
    assert_eq!(member_names(&first), member_names(&read_fixture("api_events_page1.json")));
    let mut walked = Vec::new();
    let mut page = first;
    let before_the_end = loop {
        let items = page["items"].as_array().unwrap().clone();
        if items.is_empty() {
            break page;
        }
        assert!(items.len() <= 3);
        walked.extend(items);
        page = harness.get_page(&page["paging"]["next"]).await;
    };
    let times: Vec<_> = walked.iter().map(|event| event["timestamp"].as_f64().unwrap()).collect();
    assert!(walked.len() == 7 && times.is_sorted(), "{times:?}");
    let back = harness.get_page(&before_the_end["paging"]["previous"]).await;
    assert_eq!(back["items"].as_array().unwrap()[..], walked[4..]);
    // The last page can be asked for again, and goes on with what happens later.
    harness.submit_message(&["b@example.net"], 9).await;
    let later = harness.get_page(&before_the_end["paging"]["next"]).await;
    assert_eq!(later["items"].as_array().unwrap().len(), 2);

    let newest = harness.get_json("/v3/mg.example.com/events?limit=1").await;
    assert_eq!(newest["items"][0], later["items"][1]);
    for (filter, count) in [
        ("event=failed", 1),
        ("event=delivered+OR+opened", 4),
        ("recipient=A@example.net", 2),
        ("message-id=1@example.com&event=accepted", 4),
        ("message-id=2@example.com", 0),
    ] {
        let found =
            harness.get_json(&format!("/v3/mg.example.com/events?begin=0&ascending=yes&{filter}")).await;
        assert_eq!(found["items"].as_array().unwrap().len(), count, "{filter}");
    }
    for bad in ["begin=0", "limit=301", "begin=x&ascending=yes", "begin=9&end=1&ascending=yes"] {
        let (status, _) =
            harness.request_json(Method::GET, &format!("/v3/mg.example.com/events?{bad}")).await;
        assert_eq!(status, 400, "{bad}");
    }
}

#[tokio::test]
async fn logs_api_returns_same_events_in_its_form() {
    let harness = ManagementApiScene::new(FaultInjection::default()).await;
    harness.submit_message(&["a@example.net"], 2).await;
    let mut request = read_fixture("api_logs_request.json");
    request["start"] = json!("Thu, 1 Jan 2026 00:00:00 -0000");
    request["end"] = json!("Fri, 1 Jan 2100 00:00:00 -0000");
    let logs =
        |request: Value| harness.build_request(Method::POST, "/v1/analytics/logs").json(&request).send();
    let page: Value = logs(request.clone()).await.unwrap().json().await.unwrap();
    let recorded = read_fixture("api_logs_page.json");
    assert_eq!(member_names(&page), member_names(&recorded));
    assert_eq!(
        (member_names(&page["items"][0]), page["items"].as_array().unwrap().len()),
        (member_names(&recorded["items"][0]), 1)
    );
    let event = &harness.get_json("/v3/mg.example.com/events?event=delivered&begin=0&ascending=yes").await["items"]
        [0];
    let item = &page["items"][0];
    assert_eq!((&item["id"], &item["event"]), (&event["id"], &json!("delivered")));
    let variables: Value = serde_json::from_str(item["user-variables"].as_str().unwrap()).unwrap();
    assert_eq!(variables, event["user-variables"]);
    assert_eq!(item["storage"]["url"], json!([event["storage"]["url"]]));
    request["pagination"]["token"] = page["pagination"]["next"].clone();
    let page: Value = logs(request.clone()).await.unwrap().json().await.unwrap();
    assert_eq!(page["items"], json!([]));
    request["pagination"]["token"] = json!(null);
    request["filter"]["AND"][0]["values"][0]["value"] = json!("other.example.com");
    let page: Value = logs(request.clone()).await.unwrap().json().await.unwrap();
    assert_eq!(page["pagination"]["total"], 0);
    request["pagination"]["limit"] = json!(101);
    assert_eq!(logs(request).await.unwrap().status(), 400);
}

#[tokio::test]
async fn events_add_suppressions_that_block_mail() {
    let harness = ManagementApiScene::new(FaultInjection::default()).await;
    let everybody = ["bounce@example.net", "Complain@example.net", "unsubscribe@example.net"];
    harness.submit_message(&everybody, 8).await;
    for (list, address, unlike) in [
        ("bounces", "bounce@example.net", "Address not found in bounces table"),
        ("complaints", "complain@example.net", "No spam complaints found for this address"),
        ("unsubscribes", "unsubscribe@example.net", "Address not found in unsubscribers table"),
    ] {
        let path = format!("/v3/mg.example.com/{list}");
        let page = harness.get_json(&path).await;
        let recorded = read_fixture(&format!("api_{list}_page.json"));
        assert_eq!(member_names(&page["items"][0]), member_names(&recorded["items"][0]), "{list}");
        assert_eq!(member_names(&page["paging"]), member_names(&recorded["paging"]));
        assert_eq!(harness.get_json(&format!("{path}/{address}")).await, page["items"][0]);
        assert_eq!(
            harness.request_json(Method::GET, &format!("{path}/b@example.net")).await,
            (404, json!({ "message": unlike }))
        );
    }
    harness.submit_message(&everybody, 14).await;
    let failed = harness.get_json("/v3/mg.example.com/events?begin=0&ascending=yes&event=failed").await;
    let mut reasons: Vec<_> = failed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            format!("{} {} {}", event["severity"], event["reason"], event["delivery-status"]["code"])
        })
        .collect();
    reasons.sort();
    assert_eq!(
        reasons,
        [
            "\"permanent\" \"bounce\" 550",
            "\"permanent\" \"suppress-bounce\" 605",
            "\"permanent\" \"suppress-complaint\" 607",
            "\"permanent\" \"suppress-unsubscribe\" 606",
        ]
    );
    let path = "/v3/mg.example.com/bounces/bounce@example.net";
    let removed = harness.request_json(Method::DELETE, path).await;
    assert_eq!((removed.0, &removed.1["message"]), (200, &json!("Bounced address has been removed")));
    assert_eq!(harness.request_json(Method::DELETE, path).await.0, 404);
    // An allowed address is never put on the list again.
    let allow = harness
        .build_request(Method::POST, "/v3/mg.example.com/whitelists")
        .body("domain=example.net")
        .send();
    assert_eq!(allow.await.unwrap().status(), 200);
    harness.submit_message(&everybody[..1], 16).await;
    assert_eq!(harness.request_json(Method::GET, path).await.0, 404);
}

#[tokio::test]
async fn suppressions_are_sorted_and_added_in_batches() {
    let harness = ManagementApiScene::new(FaultInjection::default()).await;
    let path = "/v3/mg.example.com/bounces";
    let many: Vec<_> = (0..1001).map(|n| json!({ "address": format!("a{n:04}+x@example.net") })).collect();
    let add = |entries: Value| harness.build_request(Method::POST, path).json(&entries).send();
    assert_eq!(add(json!(many)).await.unwrap().status(), 400);
    let answer: Value = add(json!(many[..1000])).await.unwrap().json().await.unwrap();
    assert_eq!(answer["message"], "1000 addresses have been added to the bounces table");
    assert_eq!(
        add(json!([{ "address": "b@example.net" }, { "address": "nobody" }])).await.unwrap().status(),
        400
    );
    assert_eq!(
        harness.request_json(Method::GET, &format!("{path}/b@example.net")).await.0,
        404,
        "all or none"
    );
    assert_eq!(harness.get_json(&format!("{path}/a0007%2Bx@example.net")).await["code"], "550");
    let (mut page, mut walked) = (harness.get_json(&format!("{path}?limit=300")).await, Vec::new());
    while !page["items"].as_array().unwrap().is_empty() {
        walked.extend(page["items"].as_array().unwrap().clone());
        page = harness.get_page(&page["paging"]["next"]).await;
    }
    assert_eq!(page["paging"]["next"], page["paging"]["last"]);
    let addresses: Vec<_> = walked.iter().map(|entry| entry["address"].as_str().unwrap()).collect();
    assert!(addresses.len() == 1000 && addresses.is_sorted());
    assert_eq!(
        harness.get_json(&format!("{path}?term=a09&limit=1000")).await["items"].as_array().unwrap().len(),
        100
    );
    assert_eq!(harness.request_json(Method::GET, &format!("{path}?limit=1001")).await.0, 400);
}

#[tokio::test]
async fn registers_webhooks_by_type_and_by_url() {
    let harness = ManagementApiScene::new(FaultInjection::default()).await;
    let (v3, v4) = ("/v3/domains/mg.example.com/webhooks", "/v4/domains/mg.example.com/webhooks");
    let send = |method: Method, path: String, body: &str| {
        let kind = "application/x-www-form-urlencoded";
        harness.build_request(method, &path).header("content-type", kind).body(body.to_owned()).send()
    };
    let url = "https://mt.example.com/hooks/mailgun";
    let created = send(Method::POST, v3.into(), &format!("id=delivered&url={url}")).await.unwrap();
    assert_eq!(created.json::<Value>().await.unwrap(), read_fixture("api_webhooks_v3_created.json"));
    let multipart =
        "--b\r\nContent-Disposition: form-data; name=\"url\"\r\n\r\nhttps://other.example.com/x\r\n--b--\r\n";
    let replaced = harness
        .build_request(Method::PUT, &format!("{v3}/delivered"))
        .header("content-type", "multipart/form-data; boundary=b")
        .body(multipart);
    assert_eq!(replaced.send().await.unwrap().status(), 200);
    let types: String = read_fixture("api_webhooks_v4_created.json")["webhooks"]
        .as_object()
        .unwrap()
        .keys()
        .map(|kind| format!("&event_types={kind}"))
        .collect();
    let created = send(Method::POST, v4.into(), &format!("url={url}{types}")).await.unwrap();
    let all: Value = created.json().await.unwrap();
    assert_eq!(
        member_names(&all["webhooks"]),
        member_names(&read_fixture("api_webhooks_v4_created.json")["webhooks"])
    );
    assert_eq!(all["webhooks"]["delivered"]["urls"], json!(["https://other.example.com/x", url]));
    assert_eq!(harness.get_json(v3).await, all);
    let bad = send(Method::POST, v4.into(), "url=ftp://mt.example.com&event_types=opened").await.unwrap();
    assert_eq!(
        (bad.status().as_u16(), bad.json::<Value>().await.unwrap()),
        (400, read_fixture("api_webhooks_v4_400.json"))
    );
    assert_eq!(harness.request_json(Method::DELETE, &format!("{v4}?url={url}")).await.0, 200);
    assert_eq!(harness.request_json(Method::DELETE, &format!("{v4}?url={url}")).await.0, 404);
    assert_eq!(
        harness.get_json(v3).await,
        json!({ "webhooks": { "delivered": { "urls": ["https://other.example.com/x"] } } })
    );
    assert_eq!(harness.request_json(Method::DELETE, &format!("{v3}/delivered")).await.0, 200);
    assert_eq!(harness.get_json(v3).await, json!({ "webhooks": {} }));
    // A fourth address of one type is refused, for all the types that it asks for.
    let three = "id=clicked&url=https://a.example&url=https://b.example&url=https://c.example";
    assert_eq!(send(Method::POST, v3.into(), three).await.unwrap().status(), 200);
    let before = harness.get_json(v3).await;
    let both = format!("url={url}&event_types=opened&event_types=clicked");
    let full = send(Method::POST, v4.into(), &both).await.unwrap();
    assert_eq!(full.status(), 400);
    assert!(full.json::<Value>().await.unwrap()["Reason"].as_str().unwrap().contains("clicked"));
    assert_eq!(harness.get_json(v3).await, before);
}

#[tokio::test]
async fn domain_api_matches_recordings() {
    let harness = ManagementApiScene::new(FaultInjection::default()).await;
    let state = harness.get_json("/v4/domains/mg.example.com").await;
    let recorded = read_fixture("api_domain_v4_active.json");
    assert_eq!(
        (member_names(&state), member_names(&state["domain"])),
        (member_names(&recorded), member_names(&recorded["domain"]))
    );
    assert_eq!(state["sending_dns_records"], recorded["sending_dns_records"]);
    assert_eq!(state["receiving_dns_records"], recorded["receiving_dns_records"]);
    let unknown = harness.request_json(Method::GET, "/v4/domains/other.example.com").await;
    assert_eq!(unknown, (404, read_fixture("api_domain_404.json")));
    let tracking = harness.get_json("/v3/domains/mg.example.com/tracking").await;
    assert_eq!(
        member_names(&tracking["tracking"]),
        member_names(&read_fixture("api_tracking.json")["tracking"])
    );
    assert_eq!(
        harness.get_json("/v3/domains/mg.example.com/sending_queues").await["regular"]["is_disabled"],
        false
    );
    let key = harness.get_json("/v5/accounts/http_signing_key").await;
    assert_eq!(member_names(&key), member_names(&read_fixture("api_signing_key.json")));
    for path in ["/v3/mg.example.com", "/v9/nowhere", "/"] {
        let answer = harness.build_request(Method::GET, path).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.text().await.unwrap().as_str()),
            (200, "Mailgun Magnificent API")
        );
    }
    let foreign_client =
        harness.client.get(harness.api_url("/v3/mg.example.com/events")).basic_auth("api", Some("x"));
    let answer = foreign_client.send().await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({ "message": "Invalid private key" }));
}

#[tokio::test]
async fn rate_limited_request_gets_429() {
    let harness = ManagementApiScene::new(FaultInjection { requests: 2, ..FaultInjection::default() }).await;
    let path = "/v3/mg.example.com/events";
    let statuses =
        [harness.request_json(Method::GET, path).await.0, harness.request_json(Method::GET, path).await.0];
    assert_eq!(statuses, [200, 200]);
    assert_eq!(
        harness.request_json(Method::GET, path).await,
        (429, read_fixture("api_rate_limited_mgmt.json"))
    );
    // The weather is set over the API, too, and has no limit.
    let set = harness
        .build_request(Method::PUT, "/sandbox/weather")
        .json(&json!({ "lose": 1.0 }))
        .send()
        .await
        .unwrap();
    assert_eq!(set.json::<Value>().await.unwrap()["requests"], 300);
    assert_eq!(harness.request_json(Method::GET, path).await.0, 200);
    let odd = harness
        .build_request(Method::PUT, "/sandbox/weather")
        .json(&json!({ "rain": true }))
        .send()
        .await
        .unwrap();
    assert_eq!(odd.status(), 400);
}

#[tokio::test]
async fn delays_every_second_event_when_configured() {
    let harness = ManagementApiScene::new(FaultInjection { late: 1200, ..FaultInjection::default() }).await;
    harness.submit_message(&["a@example.net"], 2).await;
    let path = "/v3/mg.example.com/events?begin=0&ascending=yes";
    let words = |page: &Value| -> Vec<String> {
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["event"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(words(&harness.get_json(path).await), ["accepted"]);
    harness.manual_clock.advance_to(START_TIME.saturating_add(std::time::Duration::from_secs(1199)));
    assert_eq!(words(&harness.get_json(path).await), ["accepted"]);
    harness.manual_clock.advance_to(START_TIME.saturating_add(std::time::Duration::from_secs(1200)));
    assert_eq!(words(&harness.get_json(path).await), ["accepted", "delivered"]);
}

/// A sandbox at a chosen time, and what it takes to ask it.
struct ManagementApiScene {
    sandbox: Sandbox,
    client: reqwest::Client,
    manual_clock: &'static ManualClock,
    _directory: tempfile::TempDir,
}

impl ManagementApiScene {
    async fn new(faults: FaultInjection) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let manual_clock: &'static ManualClock = Box::leak(Box::default());
        manual_clock.advance_to(START_TIME);
        let settings = SandboxSettings {
            profile: ProviderProfile::Mailgun,
            smtp_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_key: Secret::new("key"),
            domain: "mg.example.com".into(),
            username: "postmaster@mg.example.com".into(),
            password: Secret::new("pw"),
            signing_key: Secret::new("signing"),
            webhook_url: None,
            time_scale: 0.0,
            faults,
            clock: Clock::Manual(manual_clock),
            tls: tls::load_self_signed(directory.path(), "localhost").unwrap(),
        };
        let tls = tls::build_client_config(None).unwrap();
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
        Self {
            sandbox: mailtrail_sandbox::start(settings).await.unwrap(),
            client,
            manual_clock,
            _directory: directory,
        }
    }

    fn api_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.sandbox.api_address())
    }

    fn build_request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.api_url(path)).basic_auth("api", Some("key"))
    }

    async fn request_json(&self, method: Method, path: &str) -> (u16, Value) {
        let answer = self.build_request(method, path).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn get_json(&self, path: &str) -> Value {
        let (status, answer) = self.request_json(Method::GET, path).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn get_page(&self, url: &Value) -> Value {
        let request = self.client.get(url.as_str().unwrap()).basic_auth("api", Some("key"));
        request.send().await.unwrap().json().await.unwrap()
    }

    /// Submits a message and waits for this total number of events.
    async fn submit_message(&self, recipients: &[&str], events: u64) {
        let mut form: String = recipients
            .iter()
            .map(|to| format!("--b\r\nContent-Disposition: form-data; name=\"to\"\r\n\r\n{to}\r\n"))
            .collect();
        form += "--b\r\nContent-Disposition: form-data; name=\"message\"; filename=\"m\"\r\n\r\n\
            Message-Id: <1@example.com>\r\nFrom: s@example.com\r\nTo: a@example.net\r\nSubject: Order\r\n\
            X-Mailgun-Variables: {\"odoo_db\": \"prod\"}\r\n\r\nText\r\n--b--\r\n";
        let request = self.build_request(Method::POST, "/v3/mg.example.com/messages.mime");
        let request = request.header("content-type", "multipart/form-data; boundary=b").body(form);
        assert_eq!(request.send().await.unwrap().status(), 200);
        eventually("the events", || (self.sandbox.counters().events >= events).then_some(())).await;
    }
}

fn member_names(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

fn read_fixture(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/mailgun").join(file);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

const START_TIME: Timestamp = Timestamp::from_secs(1_789_387_200);
