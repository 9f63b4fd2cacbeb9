//! The web page: what it is served with, what it may ask, and, in a Chromium where there is one, what it shows of the real
//! program, by the keyboard alone.

use mailtrail_sandbox::ProviderProfile;
use regex::Regex;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use testkit::WAIT_TIMEOUT;
use testkit::browser::Browser;
use testkit::sandbox_harness::SandboxHarness;
use testkit::smtp_client;

const PAGE_HTML: &str = include_str!("../../../crates/relay/src/admin/web/page.html");
const PAGE_CSS: &str = include_str!("../../../crates/relay/src/admin/web/page.css");
const PAGE_JS: &str = include_str!("../../../crates/relay/src/admin/web/page.js");
const OPENAPI_JSON: &str = include_str!("../../../docs/openapi.json");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_is_public_with_strict_security_headers() {
    let relay_harness = WebPageHarness::new().await;
    let links = Regex::new(r#"(?:href|src)="(/[^"]*)""#).unwrap();
    let named: Vec<_> = links.captures_iter(PAGE_HTML).map(|link| link[1].to_owned()).collect();
    assert_eq!(named, ["/page.css", "/page.js"]);
    for (path, kind, text) in
        [("/", "html", PAGE_HTML), ("/page.css", "css", PAGE_CSS), ("/page.js", "javascript", PAGE_JS)]
    {
        // The page contains no data, so any Host may load it; its requests are checked.
        let answer = relay_harness
            .build_request(Method::GET, path)
            .header("host", "evil.example")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let fields = answer.headers().clone();
        assert_eq!(fields["content-type"], format!("text/{kind}; charset=utf-8"));
        for (name, expected) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cache-control", "no-cache"),
        ] {
            assert_eq!(fields[name], expected, "{path} {name}");
        }
        let policy = fields["content-security-policy"].to_str().unwrap();
        let policy: BTreeSet<_> = policy.split("; ").collect();
        let expected = [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ];
        assert_eq!(policy, expected.into(), "{path}");
        assert_eq!(answer.text().await.unwrap(), text);
        let answer = relay_harness.build_request(Method::POST, path).send().await.unwrap();
        assert_eq!(answer.status(), 405, "{path}");
    }
    let answer = relay_harness.build_request(Method::GET, "/api/v1/alarms").send().await.unwrap();
    assert_eq!(answer.status(), 401);
    // A 404 means that no token is set.
    relay_harness.reload_without_token().await;
    assert_eq!(relay_harness.build_request(Method::GET, "/").send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_search_returns_newest_messages() {
    let relay_harness = WebPageHarness::new().await;
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(relay_harness.submit_message(&["ada@example.net"], &number.to_string()).await);
    }
    for (limit, expected) in [("2", &ids[1..]), ("3", &ids[..])] {
        let request = relay_harness
            .build_request(Method::GET, "/api/v1/trace")
            .query(&[("what", ""), ("limit", limit)]);
        let found: Value = request.bearer_auth(API_TOKEN).send().await.unwrap().json().await.unwrap();
        let trails = found["trails"].as_array().unwrap().iter().rev();
        assert_eq!(trails.map(|trail| trail["id"].as_str().unwrap()).collect::<Vec<_>>(), expected);
        assert_eq!(found["more"], limit == "2");
    }
}

#[test]
fn page_loads_nothing_external_and_inserts_no_markup() {
    for text in [PAGE_HTML, PAGE_CSS, PAGE_JS] {
        assert_eq!(find_unsafe_code(text), [""; 0]);
    }
    for bad in [
        "<img src=\"http://evil.example/\">",
        "<script src='//evil.example/x.js'></script>",
        "@import \"x.css\"",
        "background: url(x.png)",
        "<p onclick=\"f()\">",
        "<script>f()</script>",
        "<p style=\"color: red\">",
        "place.innerHTML = text",
        "place.insertAdjacentHTML('beforeend', text)",
        "document.write(text)",
        "eval(text)",
        "new Function(text)",
        "<a href=\"javascript:f()\">",
        "new DOMParser()",
        "frame.srcdoc = text",
    ] {
        assert_eq!(find_unsafe_code(bad).len(), 1, "{bad}");
    }
}

fn find_unsafe_code(text: &str) -> Vec<&str> {
    let danger = r#"(?x) :// | ["'`(]// | @import | url\( | \son[a-z]+\s*= | <script>. | \sstyle\s*= | innerHTML | outerHTML
        | HTML\( | HTMLUnsafe\( | document\.write | eval\( | Function\( | javascript: | DOMParser | Fragment\( | srcdoc"#;
    Regex::new(danger).unwrap().find_iter(text).map(|found| found.as_str()).collect()
}

#[test]
fn page_uses_documented_read_only_queries() {
    assert_eq!(undocumented_queries(PAGE_JS), [""; 0]);
    let asked = script_queries(PAGE_JS).len();
    assert!(asked > 6, "only {asked} questions were found");
    for bad in [
        r#"ask("/api/v1/nothing")"#,
        r#"ask("/api/v1/erase")"#,
        r#"ask("/api/v1/trace", { what })"#,
        r#"ask("/api/v1/queue", { limit: MOST + 1, colour: "red" })"#,
        r#"fetch("/api/v1/alarms")"#,
        r#"fetch(x, { method: "POST" })"#,
    ] {
        assert_eq!(undocumented_queries(bad).len(), 1, "{bad}");
    }
}

/// Path and parameters of what a script asks.
fn script_queries(script: &str) -> Vec<(String, BTreeSet<String>)> {
    let asks = Regex::new(r#"ask\("(/api/v1/[^"]*)"(?:, \{([^}]*)\})?\)"#).unwrap();
    let question = |found: regex::Captures<'_>| {
        let parameters = found.get(2).map_or("", |parameters| parameters.as_str());
        let names = parameters.split(',').filter_map(|one| one.split(':').next());
        let names = names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        (found[1].to_owned(), names.collect())
    };
    asks.captures_iter(script).map(question).collect()
}

/// Returns the requests of a script that are no documented queries.
fn undocumented_queries(script: &str) -> Vec<String> {
    let document: Value = serde_json::from_str(OPENAPI_JSON).unwrap();
    let questions = script_queries(script);
    let mut faults = Vec::new();
    // A path in quotes that is no question's, and an order.
    if script.matches("\"/api/v1").count() != questions.len() || script.contains("method:") {
        faults.push("it asks in another way".to_owned());
    }
    for (path, named) in questions {
        let written = &document["paths"][&path]["get"];
        let parameters = written["parameters"].as_array().cloned().unwrap_or_default();
        let names = |wanted: &dyn Fn(&Value) -> bool| -> BTreeSet<String> {
            let wanted = parameters.iter().filter(|one| wanted(one));
            wanted.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
        };
        let fits =
            named.is_subset(&names(&|_| true)) && named.is_superset(&names(&|one| one["required"] == true));
        if !written.is_object() || !fits {
            faults.push(format!("{path} {named:?}"));
        }
    }
    faults
}

/// Kolkata is five and a half hours ahead of UTC.
fn assert_local_times(page: &mut Browser) {
    let shown = page.evaluate_or_panic(
        "[...document.querySelectorAll('time')].map((time) => [time.dateTime, time.innerText])",
    );
    let shown: Vec<(String, String)> = serde_json::from_value(shown).unwrap();
    assert!(!shown.is_empty());
    for (moment, text) in shown {
        let moment: jiff::Timestamp = moment.parse().unwrap();
        let there = jiff::tz::offset(5).to_datetime(moment + jiff::SignedDuration::from_mins(30));
        assert_eq!(text, there.strftime("%Y-%m-%d %H:%M:%S").to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browser_shows_relay_data() {
    let Some(mut page) = Browser::open(NARROW_WIDTH_PX) else {
        println!("skipped: no Chromium is here");
        return;
    };
    let mut relay_harness = WebPageHarness::new().await;
    let id = relay_harness
        .submit_message(&["ada@example.net", MALICIOUS_RECIPIENT, "bounce@example.net"], MALICIOUS_SUBJECT)
        .await;
    // Records the page's timers by their length, and the number of its requests.
    page.add_startup_script(
        "window.waits = new Map(); window.asked = 0; const [wait, forget, load] = [setTimeout, clearTimeout, fetch];
        window.setTimeout = (f, ms) => { const id = wait(() => { waits.delete(id); f(); }, ms); waits.set(id, ms); return id; };
        window.clearTimeout = (id) => { waits.delete(id); forget(id); };
        window.fetch = (...all) => { asked += 1; return load(...all); };",
    );
    page.call("Emulation.setTimezoneOverride", &json!({"timezoneId": "Asia/Kolkata"}));
    page.navigate(&relay_harness.page_url());
    page.wait_until("document.getElementById('door')?.hidden === false");
    assert_wrong_token_rejected(&mut page);
    page.type_line(API_TOKEN);
    page.wait_until("document.getElementById('newest').innerText.split('delivered').length === 3");
    page.wait_until("document.getElementById('newest').innerText.includes('bounced')");
    assert_overview(&mut page);
    assert_local_times(&mut page);
    assert_opens_trail(&mut page, &id);
    assert_search_finds(&mut page, &id);
    assert_polls_only_while_visible(&mut page);
    assert_shows_errors(&mut page, &mut relay_harness).await;
    assert_logout_clears_data(&mut page);

    let own = relay_harness.page_url();
    let asked = page.events("Network.requestWillBeSent");
    assert!(asked.len() > 10);
    for request in asked.iter().map(|event| &event["request"]) {
        let url = request["url"].as_str().unwrap();
        assert!(url.starts_with(&own) && !url.contains(API_TOKEN) && request["method"] == "GET", "{request}");
    }
    assert_eq!(page.events("Runtime.exceptionThrown"), Vec::<&Value>::new());
}

/// A wrong token is refused in words, kept nowhere, and the next one can be typed at once.
fn assert_wrong_token_rejected(page: &mut Browser) {
    page.tab_to("#token");
    for (typed, output) in [("0123456789abcdeg", "does not take this token"), ("schlüssel", "ASCII")] {
        page.type_line(typed);
        page.wait_until(&format!("document.getElementById('said').innerText.includes({})", json!(output)));
        page.wait_until("document.activeElement.id === 'token' && document.activeElement.value === ''");
        assert_eq!(
            page.evaluate_or_panic("sessionStorage.length + localStorage.length + document.cookie.length"),
            0
        );
        assert_eq!(page.evaluate_or_panic("document.querySelector('main').hidden"), true);
    }
}

/// Everything has its place there; nothing is run, and nothing is wider than the page.
fn assert_overview(page: &mut Browser) {
    page.wait_until("document.getElementById('counted').innerText.startsWith('Counted')");
    page.tab_to("#count");
    page.press("Enter");
    page.wait_until("document.getElementById('stats').innerText.includes('66.67 %')");
    for (place, words) in [
        ("newest", MALICIOUS_SUBJECT),
        ("newest", MALICIOUS_RECIPIENT),
        ("breakers", "closed"),
        ("sinks", "Nobody is told"),
        ("queue", "No mail waits."),
        ("shape", "No recipient waits."),
        ("stats", "33.33 %"),
    ] {
        let shown = page.evaluate_or_panic(&format!("document.getElementById({}).innerText", json!(place)));
        assert!(shown.as_str().unwrap().contains(words), "{place}: {shown}");
    }
    assert_no_injected_markup(page);
    let ground = "getComputedStyle(document.body).backgroundColor";
    let light = page.evaluate_or_panic(ground);
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    page.call("Emulation.setEmulatedMedia", &dark);
    assert_ne!(page.evaluate_or_panic(ground), light);
}

/// Text from outside stays text, also if the script had a fault.
fn assert_no_injected_markup(page: &mut Browser) {
    assert_eq!(page.evaluate_or_panic("window.broken === undefined && document.images.length"), 0);
    assert_eq!(page.evaluate_or_panic("document.scripts.length"), 1);
    assert_eq!(page.evaluate_or_panic("innerWidth"), NARROW_WIDTH_PX);
    assert_eq!(
        page.evaluate_or_panic("document.documentElement.scrollWidth > document.documentElement.clientWidth"),
        false
    );
    let markup =
        "(() => { try { document.body.innerHTML = '<b>'; } catch (error) { return error.name; } })()";
    assert_eq!(page.evaluate_or_panic(markup), "TypeError");
    let script = "(async () => { const script = document.createElement('script'); try { script.text = '0'; } \
                  catch (error) { return error.name; } })()";
    assert_eq!(page.evaluate_or_panic(script), "TypeError");
}

fn assert_opens_trail(page: &mut Browser, id: &str) {
    let link = format!("#newest a[href='#mail={id}']");
    page.tab_to(&link);
    page.press("Enter");
    page.wait_until("document.activeElement.id === 'subject'");
    page.wait_until(&format!(
        "document.getElementById('subject').innerText === {}",
        json!(MALICIOUS_SUBJECT)
    ));
    let words = [
        "accepted",
        "relayed",
        "delivered",
        "bounced",
        "webhook",
        MALICIOUS_RECIPIENT,
        "trail@example.com",
        id,
    ];
    for word in words {
        page.wait_until(&format!("document.getElementById('trail').innerText.includes({})", json!(word)));
    }
    let order = "[...document.querySelectorAll('#trail ol .state')].map((state) => state.innerText)";
    let order = page.evaluate_or_panic(order);
    let order: Vec<_> = order.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    let first = |word| order.iter().position(|one| *one == word).unwrap();
    assert!(first("accepted") < first("relayed") && first("relayed") < first("delivered"), "{order:?}");
    assert_no_injected_markup(page);
    page.tab_to("#mail p a");
    page.press("Enter");
    page.wait_until(&format!("document.activeElement.matches({})", json!(link)));
    assert_eq!(page.evaluate_or_panic("document.getElementById('mail').hidden"), true);
}

fn assert_search_finds(page: &mut Browser, id: &str) {
    let only = format!("#found a[href='#mail={id}']");
    for (what, output) in [
        (id, "One mail fits."),
        (&id[..10], "One mail fits."),
        ("<trail@example.com>", "One mail fits."),
        ("bounce@example.net", "One mail fits."),
        ("sale.order,42", "One mail fits."),
        ("<img src=x", "One mail fits."),
        ("nothing like that", "No mail fits."),
    ] {
        page.tab_to("#what");
        page.evaluate_or_panic("document.activeElement.select()");
        page.type_line(what);
        page.wait_until("document.getElementById('sought').innerText.endsWith('.')");
        assert_eq!(page.evaluate_or_panic("document.getElementById('sought').innerText"), output, "{what}");
        let links = page.evaluate_or_panic(&format!("document.querySelectorAll({}).length", json!(only)));
        assert_eq!(links, u8::from(output != "No mail fits."), "{what}");
        assert_no_injected_markup(page);
    }
}

/// The page polls every five seconds, and not at all while it is hidden, not even after a request in progress.
fn assert_polls_only_while_visible(page: &mut Browser) {
    let waits_for_one = "[...waits.values()].filter((ms) => ms === 5000).length === 1";
    page.evaluate_or_panic(
        "window.show = (seen) => {
            Object.defineProperty(document, 'hidden', { get: () => !seen, configurable: true });
            document.dispatchEvent(new Event('visibilitychange'));
        }",
    );
    // At once: by the next question it may look already.
    page.wait_until(&format!("{waits_for_one} && (asked = 0, show(false), waits.size + asked === 0)"));
    let look = "(() => { document.getElementById('asked').innerText = ''; show(true); show(false); return asked; })()";
    assert_eq!(page.evaluate_or_panic(look), 1);
    page.wait_until("document.getElementById('asked').innerText !== ''");
    assert_eq!(page.evaluate_or_panic("waits.size"), 0);
    page.evaluate_or_panic("show(true)");
    page.wait_until(waits_for_one);
}

async fn assert_shows_errors(page: &mut Browser, relay_harness: &mut WebPageHarness) {
    assert!(relay_harness.harness.process.terminate().await.success());
    page.wait_until("document.getElementById('said').innerText.includes('The relay does not answer.')");
    relay_harness.harness.process.start().await;
    page.wait_until("document.getElementById('said').innerText === ''");
    relay_harness.reload_without_token().await;
    page.wait_until("document.getElementById('said').innerText.includes('token_file')");
    assert_eq!(page.evaluate_or_panic("document.querySelector('main').hidden"), false, "it goes on asking");
}

fn assert_logout_clears_data(page: &mut Browser) {
    page.tab_to("#leave");
    page.press("Enter");
    page.wait_until(
        "document.querySelector('main').hidden && document.getElementById('door').hidden === false",
    );
    assert_eq!(page.evaluate_or_panic("sessionStorage.length"), 0);
    assert_eq!(page.evaluate_or_panic("document.documentElement.innerHTML.includes('example.net')"), false);
}

/// The real program with its web page.
struct WebPageHarness {
    harness: SandboxHarness,
    client: Client,
    configuration: String,
}

impl WebPageHarness {
    async fn new() -> Self {
        let mut harness = SandboxHarness::new(ProviderProfile::Mailgun).await;
        let open = harness
            .configuration
            .replace("tls = \"starttls\"\nauth = \"required\"", "tls = \"none\"\nauth = \"none\"");
        // Otherwise the bounce makes a mail more.
        let configuration = format!(
            "{open}[reports]\nfailures = \"nobody\"\n[admin]\naddress = \"{}\"\n",
            harness.process.address(2)
        );
        harness.process.write_configuration(&format!("{configuration}token = \"{API_TOKEN}\"\n"));
        harness.process.start().await;
        let tls = mailtrail_net::tls::build_client_config(None).unwrap();
        let client = Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
        Self { harness, client, configuration }
    }

    fn page_url(&self) -> String {
        format!("http://{}/", self.harness.process.address(2))
    }

    fn build_request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.harness.process.address(2)))
    }

    /// Submits a message; returns its tracking id when the API finds it: the ledger follows the 250 a little later.
    async fn submit_message(&self, to: &[&str], subject: &str) -> String {
        let mut client = smtp_client::SmtpClient::connect(self.harness.process.address(0)).await.unwrap();
        let message = format!(
            "From: app@mg.example.com\r\nSubject: {subject}\r\nMessage-ID: <trail@example.com>\r\n\
             X-Odoo-Objects: sale.order-42\r\n\r\nhi\r\n"
        );
        let id = client.submit("app@mg.example.com", to, &message).await.unwrap();
        self.wait_until(async || {
            let request =
                self.build_request(Method::GET, "/api/v1/trace").query(&[("what", &*id), ("limit", "1")]);
            let found: Value = request.bearer_auth(API_TOKEN).send().await.unwrap().json().await.unwrap();
            found["trails"].as_array().is_some_and(|trails| !trails.is_empty())
        })
        .await;
        id
    }

    /// Reloads without a token; returns when nothing can be asked any more.
    async fn reload_without_token(&self) {
        self.harness.process.write_configuration(&self.configuration);
        self.harness.process.send_sighup().await;
        // Connections that were kept are closed meanwhile, maybe under a question.
        let ask = || self.build_request(Method::GET, "/api/v1/alarms").bearer_auth(API_TOKEN).send();
        self.wait_until(async || ask().await.is_ok_and(|answer| answer.status() == 404)).await;
    }

    /// Asks until it is so.
    async fn wait_until(&self, is_so: impl AsyncFn() -> bool) {
        let waiting = async {
            while !is_so().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(WAIT_TIMEOUT, waiting).await.is_ok(), "{}", self.harness.process.log());
    }
}

const API_TOKEN: &str = "0123456789abcdef";
/// Width in pixels.
const NARROW_WIDTH_PX: u32 = 400;
const MALICIOUS_SUBJECT: &str =
    "<script>window.broken = 1</script><img src=x onerror=\"window.broken = 1\"><b>Your order</b>";
const MALICIOUS_RECIPIENT: &str = "\"<img/src=x/onerror=window.broken=1>\"@example.net";
