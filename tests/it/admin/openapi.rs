//! `docs/openapi.json` against the real program over TCP: the router has exactly the documented routes, and every
//! request and response has exactly the documented fields.

use mailtrail_mail::{Clock, Secret, Timestamp};
use mailtrail_relay::admin;
use mailtrail_relay::admin::Endpoint;
use mailtrail_sandbox::ProviderProfile;
use mailtrail_store::{SinkAck, Store};
use mailtrail_trail::provider::{generic, mailgun};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use testkit::WAIT_TIMEOUT;
use testkit::sandbox_harness::{API_KEY, SandboxHarness, WEBHOOK_SECRET};
use testkit::smtp_client;
use testkit::smtp_sink::{SinkOptions, SmtpSink};

const OPENAPI_JSON: &str = include_str!("../../../docs/openapi.json");

fn parse_document() -> Value {
    serde_json::from_str(OPENAPI_JSON).unwrap()
}

/// Method and path of everything that is written down.
fn documented_operations() -> BTreeSet<(String, String)> {
    let document = parse_document();
    let paths = document["paths"].as_object().unwrap().iter();
    let operations = paths.flat_map(|(path, operations)| {
        operations.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone()))
    });
    operations.collect()
}

#[test]
fn routes_equal_documented_operations() {
    let routed = admin::endpoints();
    let there: BTreeSet<_> =
        routed.iter().map(|Endpoint { method, path }| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(there.len(), routed.len(), "each once");
    assert_eq!(there, documented_operations());
    let operations = operations_by_route();
    let names: BTreeSet<_> =
        operations.values().map(|operation| operation["operationId"].to_string()).collect();
    assert_eq!(names.len(), operations.len(), "each has a name of its own");
}

fn operations_by_route() -> BTreeMap<(String, String), Value> {
    let document = parse_document();
    let of = |(method, path): (String, String)| {
        let operation = document["paths"][&path][method.to_lowercase()].clone();
        ((method, path), operation)
    };
    documented_operations().into_iter().map(of).collect()
}

/// The document with every object closed: an undocumented field is a violation.
struct SchemaChecker(Value);

impl SchemaChecker {
    fn new() -> Self {
        let mut document = parse_document();
        close_schemas(&mut document["components"]["schemas"]);
        close_schemas(&mut document["paths"]);
        Self(document)
    }

    /// Returns the violations of the schema at a place of the document.
    fn schema_violations(&self, place: &str, value: &Value) -> Vec<String> {
        let mut schema = self.0.pointer(place).unwrap().clone();
        // The schema refers to the components.
        schema["components"] = self.0["components"].clone();
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        let fault = |error: jsonschema::ValidationError<'_>| format!("{}: {error}", error.instance_path());
        validator.iter_errors(value).map(fault).collect()
    }
}

fn close_schemas(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(close_schemas);
            // A property may be called so itself; that is no text.
            if fields.get("type").is_some_and(|kind| kind == "object") && fields.contains_key("properties") {
                fields.insert("additionalProperties".to_owned(), false.into());
            }
        }
        Value::Array(values) => values.iter_mut().for_each(close_schemas),
        _ => {}
    }
}

#[test]
fn detects_missing_and_extra_fields() {
    let rules = SchemaChecker::new();
    let good = json!({"id": "x", "done": true, "why": null});
    assert_eq!(rules.schema_violations("/components/schemas/Act", &good), [""; 0]);
    for (bad, output) in [
        (json!({"id": "x", "done": true}), "why"),
        (json!({"id": "x", "done": "yes", "why": null}), "boolean"),
        (json!({"id": "x", "done": true, "why": null, "more": 1}), "more"),
    ] {
        let faults = rules.schema_violations("/components/schemas/Act", &bad);
        assert!(faults.len() == 1 && faults[0].contains(output), "{faults:?}");
    }
    let time = json!({"first": "yesterday", "last": "2026-09-14T12:00:00.000Z", "count": 1});
    assert_eq!(rules.schema_violations("/components/schemas/Mark", &time).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_response_matches_its_schema() {
    let mut relay_harness = ApiHarness::new().await;
    let send = relay_harness.create_all_records().await;
    relay_harness.get("/api/v1/trace", &[("what", "ada@example.net"), ("limit", "5")]).await;
    let waits = async {
        // The ledger has a mail a little later than its sender the 250.
        loop {
            let waiting = relay_harness.get("/api/v1/queue", &[("limit", "5")]).await;
            if waiting[0]["id"].is_string() {
                return waiting;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let waiting = tokio::time::timeout(WAIT_TIMEOUT, waits).await.expect("a mail waits");
    relay_harness.get("/api/v1/queue/shape", &[]).await;
    let held = json!({"verb": "hold", "ids": [waiting[0]["id"]], "reason": "why", "dry_run": false});
    let hold = async {
        // A message in delivery rejects actions.
        while relay_harness.post_order("/api/v1/queue", &held).await[0]["done"] != true {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(WAIT_TIMEOUT, hold).await.is_ok(), "it can be held");
    let delete = json!({"verb": "delete", "all": true, "reason": "a test", "upstream": null, "domain": null});
    relay_harness.post_order("/api/v1/queue", &delete).await;
    relay_harness.get("/api/v1/log", &[("lines", "100")]).await;
    let day = [("since", "0"), ("until", "9999999999999"), ("by", "day")];
    relay_harness.get("/api/v1/stats", &day).await;
    relay_harness.get("/api/v1/breakers", &[]).await;
    let open = json!({"open": true, "reason": "a test"});
    relay_harness.post_order_at("/api/v1/breakers/{upstream}", "/api/v1/breakers/up", &open).await;
    relay_harness
        .post_order_at("/api/v1/breakers/{upstream}", "/api/v1/breakers/up", &json!({"open": false}))
        .await;
    let entry =
        json!({"address": "eve@example.net", "words": "asked", "reason": "unsubscribe", "scope": "all"});
    let act =
        relay_harness.post_order("/api/v1/suppressions", &json!({"verb": "add", "entries": [entry]})).await;
    assert_eq!(act[0]["outcome"], "done");
    relay_harness.get("/api/v1/suppressions", &[]).await;
    let sync = json!({"upstream": "up", "reason": "a test", "dry_run": true});
    let steps = relay_harness.post_order("/api/v1/suppressions/sync", &sync).await;
    assert!(field_values(&steps, "step").is_superset(&["act", "done"].map(str::to_owned).into()), "{steps}");
    relay_harness.get("/api/v1/sinks", &[]).await;
    relay_harness.get_at("/api/v1/sinks/{sink}/refused", "/api/v1/sinks/near/refused", &[]).await;
    let replay = json!({"since": 0, "reason": "a test"});
    relay_harness.post_order_at("/api/v1/sinks/{sink}/replay", "/api/v1/sinks/near/replay", &replay).await;
    relay_harness.get("/api/v1/hints", &[("address", "ada@example.net")]).await;
    relay_harness.get("/api/v1/alarms", &[]).await;
    relay_harness.get("/api/v1/events", &[("lines", "100")]).await;
    let orphans = relay_harness.get("/api/v1/events/orphans", &[]).await;
    relay_harness.get("/api/v1/events/dead", &[]).await;
    let orphan = format!("/api/v1/events/{}", orphans[0]["id"].as_str().unwrap());
    relay_harness.get_at("/api/v1/events/{id}", &orphan, &[]).await;
    let again = json!({"all": true, "dead": true, "orphans": true, "reason": "a test"});
    let replayed = relay_harness.post_order("/api/v1/events/replay", &again).await;
    assert!(!replayed["replayed"].as_array().unwrap().is_empty(), "{replayed}");
    let mails = relay_harness.get("/api/v1/inbound", &[]).await;
    let mail = format!("/api/v1/inbound/{}", mails[0]["id"].as_str().unwrap());
    relay_harness.get_at("/api/v1/inbound/{id}", &mail, &[]).await;
    let release = json!({"ids": [mails[0]["id"]], "reason": "a test", "dry_run": true});
    relay_harness.post_order("/api/v1/inbound/replay", &release).await;
    relay_harness.get("/api/v1/probe", &[("path", "/webhooks/up")]).await;
    let test = json!({"to": "bob@example.net", "from": "app@mg.example.com", "reason": "a test"});
    relay_harness.post_order("/api/v1/test", &test).await;
    let known = relay_harness.get("/api/v1/export", &[("address", "ada@example.net")]).await;
    let kinds = ["send", "event", "inbound", "suppression"].map(str::to_owned);
    assert!(field_values(&known, "kind").is_superset(&kinds.into()), "{known}");
    let would = json!({"address": "ada@example.net", "reason": "she asked", "dry_run": true});
    let steps = relay_harness.post_order("/api/v1/erase", &would).await;
    assert_eq!(steps.as_array().unwrap().last().unwrap()["step"], "erased");
    let verified = relay_harness.get("/api/v1/store/verify", &[]).await;
    assert_eq!(verified.as_array().unwrap().last().unwrap()["whole"], true, "{verified}");
    let directory = relay_harness.harness.process.directory().join("copy");
    let copied = relay_harness
        .post_order("/api/v1/store/backup", &json!({"directory": directory, "reason": "a test"}))
        .await;
    assert_eq!(copied.as_array().unwrap().last().unwrap()["step"], "backed-up", "{copied}");
    let rebuild = json!({"despite_damage": false, "reason": "a test"});
    let rebuilt = relay_harness.post_order("/api/v1/store/rebuild", &rebuild).await;
    assert_eq!(rebuilt.as_array().unwrap().last().unwrap()["step"], "rebuilt", "{rebuilt}");
    assert_eq!(relay_harness.requested_routes, documented_operations(), "each was asked");

    // The log has caller and reason.
    let log = relay_harness
        .send_authorized(relay_harness.request(Method::GET, "/api/v1/log"))
        .await
        .json::<Value>()
        .await
        .unwrap();
    let lines = log["lines"].as_array().unwrap().iter();
    let by_operator = lines.filter(|line| line["name"] == "token from 127.0.0.1");
    let with_reason =
        by_operator.filter(|line| line["text"].as_str().unwrap_or_default().ends_with("a test"));
    let noted: BTreeSet<_> = with_reason.map(|line| line["event"].as_str().unwrap()).collect();
    let expected =
        ["breaker-opened", "cancelled", "send-test", "sink-replay", "store-backup", "store-rebuild"];
    assert!(noted.is_superset(&expected.into()), "{noted:?}: {log}");
    assert!(relay_harness.harness.process.log().contains("operator=\"token from 127.0.0.1\""));
    relay_harness.check_rejections(&send).await;
}

/// The real program with everything that can be asked about, asked over TCP.
struct ApiHarness {
    harness: SandboxHarness,
    sink: SmtpSink,
    client: Client,
    schema_checker: SchemaChecker,
    requested_routes: BTreeSet<(String, String)>,
}

impl ApiHarness {
    async fn new() -> Self {
        let mut harness = SandboxHarness::new(ProviderProfile::Mailgun).await;
        let sink = SmtpSink::with_options(SinkOptions::default()).await;
        let page = harness.process.address(2);
        let more = format!(
            "[admin]\naddress = \"{page}\"\ntoken = \"{API_TOKEN}\"\nhosts = [\"relay.lan\"]\n\
             [[source]]\nname = \"other\"\nkind = \"generic\"\nsecret = \"{OTHER_SECRET}\"\n\
             [[source]]\nname = \"campaigns\"\nkind = \"activecampaign\"\nsecret = \"the-secret-of-the-campaigns\"\n\
             [[sink]]\nname = \"near\"\nkind = \"file\"\npath = \"events.jsonl\"\n\
             [[upstream]]\nname = \"bad\"\nprovider = \"plain\"\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\n\
             username = \"nobody\"\npassword = \"wrong\"\n\
             [[route]]\nname = \"bad\"\nupstreams = [\"bad\"]\nsenders = [\"bad@mg.example.com\"]\n\
             [[inbound.target]]\ndeliver = \"smtp\"\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\n",
            harness.sandbox.smtp_address().port(),
            sink.port()
        );
        let open = harness
            .configuration
            .replace("tls = \"starttls\"\nauth = \"required\"", "tls = \"none\"\nauth = \"none\"");
        harness.process.write_configuration(&(open + &more));
        harness.process.start().await;
        let tls = mailtrail_net::tls::build_client_config(None).unwrap();
        let client = Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
        Self {
            harness,
            sink,
            client,
            schema_checker: SchemaChecker::new(),
            requested_routes: BTreeSet::new(),
        }
    }

    /// Something of everything; the id of a send that was delivered.
    async fn create_all_records(&mut self) -> String {
        let mut ids = Vec::new();
        for to in ["ada@example.net", "bounce@example.net"] {
            ids.push(self.submit_message("app@mg.example.com", to).await);
        }
        let now = Clock::System.now().as_secs().to_string();
        for (number, body) in [
            json!({"event": "bounced", "recipient": "nobody@example.net", "message_id": "unknown@example.com"}),
            json!(["nothing"]),
        ]
        .iter()
        .enumerate()
        {
            let (body, id) = (body.to_string(), format!("msg_{number}"));
            let signature = generic::sign_request(&Secret::new(OTHER_SECRET), &id, &now, body.as_bytes()).unwrap();
            let request = self.client.post(self.http_url("webhooks/other")).header("webhook-id", id);
            let request = request.header("webhook-timestamp", &now).header("webhook-signature", signature);
            assert_eq!(request.body(body).send().await.unwrap().status(), 200);
        }
        let hint =
            "type=unsubscribe&list=3&date_time=2026-09-14T12%3A00%3A00Z&contact%5Bemail%5D=ada%40example.net";
        let request =
            self.client.post(self.http_url("webhooks/campaigns/the-secret-of-the-campaigns")).body(hint);
        assert_eq!(request.send().await.unwrap().status(), 200);
        let mail = "From: ada@example.net\r\nMessage-ID: <in@example.net>\r\n\r\nhi\r\n";
        let signature = mailgun::sign_webhook(&Secret::new(WEBHOOK_SECRET), &now, "token of a mail");
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([
                ("recipient", "reply@mg.example.com"),
                ("sender", "ada@example.net"),
                ("body-mime", mail),
            ])
            .extend_pairs([("timestamp", &*now), ("token", "token of a mail"), ("signature", &*signature)])
            .finish();
        let request = self.client.post(self.http_url("inbound/up/mime"));
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
        assert_eq!(request.send().await.unwrap().status(), 200);
        self.sink.wait_for_count(1).await;
        self.poll_until("/api/v1/trace?what=ada@example.net&limit=1", |found| {
            found["trails"][0]["recipients"][0]["state"] == "delivered"
        })
        .await;
        self.poll_until("/api/v1/suppressions", |page| page["entries"].as_array().unwrap().len() >= 2).await;
        self.poll_until("/api/v1/inbound", |mails| mails[0]["state"] == "delivered").await;
        self.record_sink_dead_letter().await;
        self.submit_message("bad@mg.example.com", "bob@example.net").await;
        self.poll_until("/api/v1/alarms", |alarms| !alarms.as_array().unwrap().is_empty()).await;
        self.poll_until("/api/v1/queue?limit=5", |queue| !queue.as_array().unwrap().is_empty()).await;
        ids.remove(0)
    }

    async fn submit_message(&self, from: &str, to: &str) -> String {
        let mut client = smtp_client::SmtpClient::connect(self.harness.process.address(0)).await.unwrap();
        let message = format!("From: {from}\r\nSubject: hello\r\n\r\nhi\r\n");
        client.submit(from, &[to], &message).await.unwrap()
    }

    /// Notes, while the relay is away, that the sink refused something: files refuse nothing.
    async fn record_sink_dead_letter(&mut self) {
        assert!(self.harness.process.terminate().await.success());
        let (store, _) = Store::open(&self.harness.process.data_dir(), Clock::System).unwrap();
        let (parcels, position) =
            store.read_from(store.cursor_at_time(Timestamp::default()).unwrap(), 1000).unwrap();
        let first = parcels.iter().find(|batch| !batch.entries.is_empty()).unwrap();
        let dead_letters = vec![(first.cursor, 0, "no room".to_owned())];
        let handed = SinkAck {
            sink: "near".to_owned(),
            at: Clock::System.now(),
            position,
            dead_letters,
            delayed: Vec::new(),
            resumed: Vec::new(),
        };
        store.ack_sink(handed).await.unwrap();
        store.checkpoint().await;
        drop(store);
        self.harness.process.start().await;
    }

    fn http_url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.harness.process.address(1))
    }

    async fn poll_until(&self, path: &str, holds: impl Fn(&Value) -> bool) {
        let looks = async {
            loop {
                let answer = self
                    .send_authorized(self.request(Method::GET, path))
                    .await
                    .json::<Value>()
                    .await
                    .unwrap();
                if holds(&answer) {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(WAIT_TIMEOUT, looks).await.is_err() {
            let answer = self.send_authorized(self.request(Method::GET, path)).await.text().await.unwrap();
            unreachable!("{path}: {answer}\n{}", self.harness.process.log());
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.harness.process.address(2)))
    }

    async fn send_authorized(&self, request: RequestBuilder) -> Response {
        request.bearer_auth(API_TOKEN).send().await.unwrap()
    }

    async fn get(&mut self, path: &'static str, query: &[(&str, &str)]) -> Value {
        self.get_at(path, path, query).await
    }

    async fn get_at(&mut self, route: &'static str, path: &str, query: &[(&str, &str)]) -> Value {
        let operation = &self.schema_checker.0["paths"][route]["get"];
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        for (name, _) in query {
            assert!(
                parameters.iter().any(|one| one["name"] == *name && one["in"] == "query"),
                "{route} {name}"
            );
        }
        for parameter in parameters.iter().filter(|one| one["in"] == "query") {
            let given: Vec<_> = query.iter().filter(|(name, _)| parameter["name"] != *name).collect();
            // Only the required parameters are sent.
            let answer = self.send_authorized(self.request(Method::GET, path).query(&given)).await.status();
            assert_eq!(answer == 400, parameter["required"] == true, "{route} without {}", parameter["name"]);
        }
        let answer = self.send_authorized(self.request(Method::GET, path).query(query)).await;
        self.check_response(("GET", route), answer).await
    }

    async fn post_order(&mut self, path: &'static str, order: &Value) -> Value {
        self.post_order_at(path, path, order).await
    }

    async fn post_order_at(&mut self, route: &'static str, path: &str, order: &Value) -> Value {
        let schema =
            format!("/paths/{}/post/requestBody/content/application~1json/schema", escape_pointer(route));
        assert_eq!(self.schema_checker.schema_violations(&schema, order), [""; 0], "{route}: {order}");
        let answer = self.send_authorized(self.request(Method::POST, path).json(order)).await;
        self.check_response(("POST", route), answer).await
    }

    /// The answer, or all its lines, if it is as it is written.
    async fn check_response(&mut self, (method, route): (&str, &str), answer: Response) -> Value {
        let status = answer.status();
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        let text = answer.text().await.unwrap();
        assert_eq!(status, 200, "{method} {route}: {text}");
        let place = format!(
            "/paths/{}/{}/responses/200/content/{}/schema",
            escape_pointer(route),
            method.to_lowercase(),
            escape_pointer(&kind)
        );
        let value = if kind == "application/x-ndjson" {
            let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            for line in &lines {
                assert_eq!(
                    self.schema_checker.schema_violations(&place, line),
                    [""; 0],
                    "{method} {route}: {line}"
                );
            }
            Value::Array(lines)
        } else {
            let value = serde_json::from_str(&text).unwrap();
            assert_eq!(
                self.schema_checker.schema_violations(&place, &value),
                [""; 0],
                "{method} {route}: {text}"
            );
            value
        };
        // An empty value proves nothing.
        let some = |value: &Value| !value.as_array().is_some_and(Vec::is_empty);
        let part = ["lines", "trails", "entries"].into_iter().find_map(|name| value.get(name));
        assert!(some(&value) && part.is_none_or(some), "{method} {route}: {text}");
        self.requested_routes.insert((method.to_owned(), route.to_owned()));
        value
    }

    /// Checks rejected requests and their responses.
    async fn check_rejections(&self, send: &str) {
        let trace = || self.request(Method::GET, &format!("/api/v1/trace?what={send}&limit=1"));
        let token = |request: RequestBuilder| request.bearer_auth(API_TOKEN);
        let order = |path: &str, order: Value| token(self.request(Method::POST, path).json(&order));
        let own = format!("http://{}", self.harness.process.address(2));
        for (what, request, expected) in [
            ("without a token", trace(), 401),
            ("wrong token", trace().bearer_auth("0123456789abcdeg"), 401),
            ("wrong Host", token(trace()).header("host", "evil.example"), 421),
            ("wrong Host and no token", trace().header("host", "evil.example"), 421),
            ("named Host", token(trace()).header("host", "relay.lan:8025"), 200),
            ("foreign Origin", token(trace()).header("origin", "https://evil.example"), 403),
            ("own Origin", token(trace()).header("origin", own), 200),
            (
                "a preflight",
                self.request(Method::OPTIONS, "/api/v1/queue").header("origin", "https://evil.example"),
                403,
            ),
            ("a verb", order("/api/v1/queue", json!({"verb": "burn", "all": true})), 422),
            ("a field", order("/api/v1/queue", json!({"all": true})), 422),
            ("no reason", order("/api/v1/queue", json!({"verb": "bounce", "all": true})), 422),
            ("no upstream", order("/api/v1/breakers/nobody", json!({"open": false})), 404),
            ("no sink", order("/api/v1/sinks/nobody/replay", json!({"since": 0})), 404),
            ("not JSON", token(self.request(Method::POST, "/api/v1/queue").body("{}")), 415),
            (
                "broken JSON",
                token(self.request(Method::POST, "/api/v1/queue"))
                    .header("content-type", "application/json")
                    .body("{"),
                400,
            ),
            (
                "too large",
                token(self.request(Method::POST, "/api/v1/queue"))
                    .header("content-type", "application/json")
                    .body(vec![b' '; (16 << 20) + 1]),
                413,
            ),
            ("no address", token(self.request(Method::GET, "/api/v1/export?address=x")), 422),
            ("figures", self.request(Method::GET, "/metrics"), 200),
            ("health", self.request(Method::GET, "/healthz"), 200),
        ] {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), expected, "{what}");
            let cors = answer.headers().keys().filter(|name| name.as_str().starts_with("access-control"));
            assert_eq!(cors.count(), 0, "{what}");
            if expected == 401 {
                assert_eq!(answer.headers()["www-authenticate"], "Bearer");
            }
            let text = answer.text().await.unwrap();
            assert!(!text.contains(API_TOKEN) && !text.contains(API_KEY), "{what}: {text}");
        }
        let log = self.harness.process.log();
        assert!(!log.contains(API_TOKEN) && !log.contains("0123456789abcdeg"), "no token stands in the log");
        let refused: Vec<_> =
            log.lines().filter(|line| line.contains("a request to the API was refused")).collect();
        // One line a minute for each address and cause, with its remedy.
        assert_eq!(refused.len(), 3, "{log}");
        for remedy in ["`hosts` in [admin]", "this host's address", "the `token` of [admin]"] {
            let named = |line: &&&str| line.contains(remedy) && line.contains("127.0.0.1");
            assert_eq!(refused.iter().filter(named).count(), 1, "{remedy}: {log}");
        }
        let shown = self.harness.run_command(&["config", "show"]).await;
        assert!(shown.stdout.contains("token = \"******\""), "{}", shown.stdout);
    }
}

fn escape_pointer(part: &str) -> String {
    part.replace('/', "~1")
}

fn field_values(values: &Value, field: &str) -> BTreeSet<String> {
    values.as_array().unwrap().iter().map(|value| value[field].as_str().unwrap().to_owned()).collect()
}

const API_TOKEN: &str = "0123456789abcdef";
const OTHER_SECRET: &str = "the-secret-of-the-other-one";
