//! `mailtrail doctor`: the real program with a real relay, the sandbox as the provider and a DNS server, without
//! faults and with one fault at a time.

use mailtrail_mail::Clock;
use mailtrail_mail::Secret;
use mailtrail_net::tls;
use mailtrail_sandbox::{FaultInjection, ProviderProfile, Sandbox};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use reqwest::Method;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use testkit::mock_dns::{DnsRecords, MockDnsServer};
use testkit::mock_http;
use testkit::relay_process::{RelayProcess, free_port};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn reports_ok_for_healthy_relay() {
    for face in [ProviderProfile::Mailgun, ProviderProfile::Brevo] {
        let mut harness = DoctorHarness::new(face).await;
        harness.process.start().await;
        let (code, findings) = harness.run_doctor_json(&[]).await;
        let others: Vec<_> = findings.iter().filter(|finding| finding["status"] != "ok").collect();
        assert!(code == 0 && others.is_empty(), "{code} {others:#?}");
        let checks: Vec<_> = findings.iter().map(|finding| finding["check"].as_str().unwrap()).collect();
        let expected = [
            "configuration",
            "secrets",
            "data_dir",
            "disk",
            "certificate",
            "daemon",
            "queue",
            "breaker",
            "clock",
            "login",
            "certificate",
            "webhooks",
            "round-trip",
            "domain",
            "spf",
            "dkim",
            "dmarc",
            "mx",
        ];
        assert_eq!(checks, expected);
        assert!(findings.iter().all(|finding| finding["remedy"] == "" && finding["what"] != ""));
        let (code, text) = harness.run_doctor_text(&["--nagios"]).await;
        assert_eq!(code, 0);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("MAILTRAIL OK - 18 checks, 0 failed, 0 warnings, 0 unknown"));
        assert!(lines.all(|line| line.starts_with("ok      ")), "{text}");
        // Nothing was sent and nothing was registered.
        assert_eq!(harness.sandbox.counters().messages, 0);
        assert!(harness.process.terminate().await.success());
    }
}

#[tokio::test]
async fn stopped_daemon_fails_and_store_is_read_directly() {
    let mut harness = DoctorHarness::new(ProviderProfile::Mailgun).await;
    let (code, findings) = harness.run_doctor_json(&[]).await;
    assert_eq!(code, 1);
    assert_eq!(findings_not_ok(&findings), ["data_dir fail", "daemon fail", "store unknown"]);
    harness.process.start().await;
    assert!(harness.process.terminate().await.success());
    let (code, findings) = harness.run_doctor_json(&[]).await;
    assert_eq!((code, findings_not_ok(&findings)), (1, vec!["daemon fail".to_owned()]));
    let daemon = find_check(&findings, "daemon");
    assert!(daemon["remedy"].as_str().unwrap().contains("mailtrail serve"), "{daemon}");
    assert_eq!(find_check(&findings, "store")["status"], "ok");
    let (code, text) = harness.run_doctor_text(&["--nagios"]).await;
    let summary = text.lines().next().unwrap();
    assert!(code == 2 && summary.starts_with("MAILTRAIL CRITICAL - 16 checks, 1 failed, "), "{summary}");
    assert!(text.contains("\nfail    daemon "), "{text}");
}

#[tokio::test]
async fn open_breaker_fails() {
    let mut harness = DoctorHarness::new(ProviderProfile::Mailgun).await;
    harness.process.start().await;
    let opened = harness.run_command(&["breaker", "open", "up", "--reason", "moving"]).await;
    assert_eq!(opened.0, 0);
    let (code, findings) = harness.run_doctor_json(&[]).await;
    assert_eq!((code, findings_not_ok(&findings)), (1, vec!["breaker fail".to_owned()]));
    let breaker = find_check(&findings, "breaker").to_string();
    assert!(breaker.contains("moving") && breaker.contains("mailtrail breaker close up"), "{breaker}");
    assert!(harness.process.terminate().await.success());
}

#[tokio::test]
async fn finds_each_fault_and_gives_remedy() {
    let mut harness = DoctorHarness::new(ProviderProfile::Mailgun).await;
    harness.process.start().await;
    let good = harness.configuration.clone();
    for (from, to, expected, words) in [
        (
            "password_file = \"password\"",
            "password_file = \"wrong\"",
            "login fail",
            "check username and password of this upstream, and its region",
        ),
        ("password_file = \"password\"", "password_file = \"open\"", "secrets warn", "chmod o= "),
        (
            "password_file = \"password\"",
            "password = \"pw-of-the-upstream\"",
            "configuration warn",
            "password_file",
        ),
        ("ca_file = \"sandbox/relay.pem\"\n", "", "login fail", "check host and ca_file"),
        ("tls = \"starttls\"", "tls = \"implicit\"", "login fail", "check host and port"),
        ("name = \"up\"", "name = \"down\"", "webhooks fail", "/webhooks/down"),
        ("[http]\naddress = ", "[admin]\n#", "webhooks warn", "give [http] an address"),
        ("webhook_signing_key_file = \"key\"\n", "", "webhooks warn", "give webhook_signing_key_file"),
        ("provider = \"mailgun\"", "provider = \"plain\"", "clock unknown; dkim unknown", "timedatectl"),
        (
            "api_key_file = \"key\"",
            "api_key_file = \"wrong\"",
            "webhooks unknown; domain unknown; dkim unknown",
            "give the account's key",
        ),
        ("username = \"up", "sender = \"up", "configuration fail", "for the allowed values"),
        (
            "[log]",
            "[tls]\ncertificate = \"old.pem\"\nprivate_key = \"old.key\"\n[log]",
            "certificate fail",
            "renew it",
        ),
        (
            "[log]",
            "tls = \"implicit\"\ncertificate = \"old.pem\"\nprivate_key = \"old.key\"\n[log]",
            "certificate fail",
            "renew it",
        ),
        ("[log]", "tls = \"implicit\"\n[log]", "configuration warn", "of a public authority"),
    ] {
        assert!(good.contains(from), "{from}");
        harness.process.write_configuration(&good.replace(from, to));
        let (code, findings) = harness.run_doctor_json(&[]).await;
        let expected: Vec<_> = expected.split("; ").collect();
        let context = format!("{to}: {findings:#?}");
        for expected in &expected {
            assert!(findings_not_ok(&findings).iter().any(|bad| bad == expected), "{expected}: {context}");
        }
        let fails = expected.iter().any(|expected| expected.ends_with(" fail"));
        assert_eq!(code, i32::from(fails), "{context}");
        let remedied = |finding: &&Value| finding["remedy"].as_str().unwrap().contains(words);
        assert!(findings.iter().any(|finding| remedied(&finding)), "{words}: {context}");
        for finding in &findings {
            assert_eq!(finding["status"] == "ok", finding["remedy"] == "", "{finding}");
        }
        let printed = format!("{findings:?}");
        assert!(!printed.contains("pw-of-the") && !printed.contains("key-1"), "{printed}");
    }
    assert!(harness.process.terminate().await.success());
}

#[tokio::test]
async fn names_unregistered_webhook_events() {
    let mut harness = DoctorHarness::new(ProviderProfile::Mailgun).await;
    harness.process.start().await;
    harness.register_webhook(&harness.webhook_url(), &["delivered", "permanent_fail", "opened"]).await;
    let (code, findings) = harness.run_doctor_json(&[]).await;
    assert_eq!((code, findings_not_ok(&findings)), (0, vec!["webhooks warn".to_owned()]));
    let what = find_check(&findings, "webhooks")["what"].as_str().unwrap().to_owned();
    assert_eq!(
        what,
        "no webhook of this relay is registered for temporary_fail, complained, unsubscribed, clicked"
    );
    assert_eq!(harness.run_doctor_text(&["--nagios"]).await.0, 1);
    assert!(harness.process.terminate().await.success());
}

#[tokio::test]
async fn loopback_probe_detects_url_of_other_server() {
    let mut harness = DoctorHarness::new(ProviderProfile::Mailgun).await;
    harness.process.start().await;
    assert_eq!(
        harness.request_webhooks_api(Method::DELETE, &format!("?url={}", harness.webhook_url())).await,
        200
    );
    let answers = |status: u16, body: &str| {
        let body = body.to_owned();
        mock_http::MockHttpServer::start(move |_, request| {
            assert!(request.header("x-mailtrail-probe").is_some_and(|question| question.len() > 64));
            mock_http::HttpAction::Respond(status, body.clone())
        })
    };
    let own = tls::load_self_signed(&harness.process.directory().join("web"), "localhost").unwrap();
    let secured = mock_http::MockHttpServer::start_tls(tls::build_acceptor(own).unwrap(), |_, _| {
        mock_http::HttpAction::Close
    })
    .await;
    for (url, expected, words) in [
        (format!("http://{}", answers(200, "ok").await.address), "fail", "the path as it is there"),
        (format!("http://{}", answers(404, "").await.address), "fail", "answers 404"),
        (format!("http://{}", answers(301, "").await.address), "fail", "register the target of the redirect"),
        (format!("http://{}", answers(403, "").await.address), "fail", "without a login"),
        (format!("http://{}", answers(502, "").await.address), "fail", "cannot reach its backend"),
        (format!("http://127.0.0.1:{}", free_port()), "warn", "from this machine"),
        (format!("https://localhost:{}", secured.address.port()), "fail", "public authority"),
        // Our server with another path, which has no handler.
        (harness.webhook_url().replace("/webhooks/up", "/mail"), "fail", "answers 404"),
    ] {
        let url = format!("{url}/webhooks/up");
        harness.register_webhook(&url, &MAILGUN_EVENTS).await;
        let (code, findings) = harness.run_doctor_json(&[]).await;
        let found = find_check(&findings, "round-trip");
        assert_eq!(found["status"], expected, "{url} {found}");
        assert!(found.to_string().contains(words), "{words}: {found}");
        assert_eq!(code, i32::from(expected == "fail"));
        assert_eq!(harness.request_webhooks_api(Method::DELETE, &format!("?url={url}")).await, 200);
    }
    // One of several is enough, and a forwarder passes it on.
    let front = format!("http://{}/webhooks/up", start_tcp_forwarder(harness.process.address(1)).await);
    for url in [front, format!("http://127.0.0.1:{}/webhooks/up", free_port())] {
        harness.register_webhook(&url, &MAILGUN_EVENTS).await;
    }
    let (code, findings) = harness.run_doctor_json(&[]).await;
    assert_eq!((code, &find_check(&findings, "round-trip")["status"]), (0, &json!("ok")));
    assert!(!harness.process.log().contains("a webhook was refused"), "{}", harness.process.log());
    assert!(harness.process.terminate().await.success());
}

#[tokio::test]
async fn unsigned_probe_is_neither_answered_nor_counted() {
    let mut harness = DoctorHarness::new(ProviderProfile::Mailgun).await;
    harness.process.start().await;
    let ask = async |question: Option<&str>| {
        let request =
            http_client().post(harness.webhook_url()).header("x-forwarded-for", "198.51.100.1").body("{}");
        let request = match question {
            Some(question) => request.header("x-mailtrail-probe", question),
            None => request,
        };
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    for _ in 0..50 {
        let question = format!("{}.{}", "0".repeat(32), "0".repeat(64));
        assert_eq!(ask(Some(&question)).await, (404, String::new()));
    }
    // A client with too many rejections gets 429 without a check.
    assert_eq!(ask(None).await.0, 406);
    assert!(harness.process.terminate().await.success());
}

#[tokio::test]
async fn reports_expired_upstream_certificate() {
    let directory = tempfile::tempdir().unwrap();
    write_expired_certificate(directory.path());
    let pair = tls::load_certified_key(&directory.path().join("old.pem"), &directory.path().join("old.key"))
        .unwrap();
    let harness = DoctorHarness::with_certificate(ProviderProfile::Mailgun, Some(pair)).await;
    let good = harness.configuration.replace("sandbox/relay.pem", "old.pem");
    harness.process.write_configuration(&good);
    let (code, findings) = harness.run_doctor_json(&[]).await;
    assert_eq!(code, 1);
    let of_upstream = |check: &str| {
        findings.iter().find(|finding| finding["check"] == check && finding["subject"] == "up").unwrap()
    };
    assert_eq!(of_upstream("login")["status"], "fail");
    let certificate = of_upstream("certificate");
    assert!(certificate["what"].as_str().unwrap().starts_with("it ended 2020-01-02"), "{certificate}");
}

#[tokio::test]
async fn checks_upstream_api_with_key() {
    let mut harness = DoctorHarness::new(ProviderProfile::Mailgun).await;
    harness.process.start().await;
    let over_api = harness.configuration.replace("tls = \"starttls\"", "transport = \"api\"");
    let over_api = over_api.lines().filter(|line| {
        !["host = ", "port = ", "username = ", "password_file = "].iter().any(|key| line.starts_with(key))
    });
    let over_api: Vec<_> = over_api.collect();
    harness.process.write_configuration(&over_api.join("\n"));
    let (code, findings) = harness.run_doctor_json(&[]).await;
    assert_eq!(code, 0, "{findings:#?}");
    assert_eq!(find_check(&findings, "login")["what"], "the API accepts the key");
    harness.process.write_configuration(
        &over_api.join("\n").replace("api_key_file = \"key\"", "api_key_file = \"wrong\""),
    );
    let (code, findings) = harness.run_doctor_json(&[]).await;
    let login = find_check(&findings, "login");
    assert!((code, &login["status"]) == (0, &json!("warn")), "{login}");
    assert!(login["remedy"].as_str().unwrap().contains("a domain sending key"), "{login}");
    assert!(harness.process.terminate().await.success());
}

#[tokio::test]
async fn evaluates_each_dns_record() {
    let mut harness = DoctorHarness::new(ProviderProfile::Mailgun).await;
    harness.process.start().await;
    let without = |kind: &str, name: &str| {
        let mut records = healthy_dns_records();
        records.retain(|(known, word, _)| known != name || *word != kind);
        records
    };
    let instead = |kind: &'static str, name: &str, values: &[&str]| {
        let mut records = without(kind, name);
        records.extend(values.iter().map(|value| (name.to_owned(), kind, (*value).to_owned())));
        records
    };
    for (records, expected, words) in [
        (without("TXT", TEST_DOMAIN), "spf fail", "include:mailgun.org"),
        (
            instead("TXT", TEST_DOMAIN, &["v=spf1 ip4:192.0.2.1 -all"]),
            "spf fail",
            "put include:mailgun.org into",
        ),
        (
            instead("TXT", TEST_DOMAIN, &["v=spf1 -all", "v=spf1 include:mailgun.org ~all"]),
            "spf fail",
            "make one",
        ),
        (
            instead("TXT", TEST_DOMAIN, &["v=spf1 include:loop.example.org ~all"]),
            "spf fail",
            "put include:mailgun.org",
        ),
        (instead("TXT", TEST_DOMAIN, &["v=spf1 include:far.example.org ~all"]), "", ""),
        (without("TXT", DKIM_NAME), "dkim fail", "set TXT pic._domainkey.mg.example.com to: k=rsa; p="),
        (instead("TXT", DKIM_NAME, &["k=rsa; p=other"]), "dkim fail", "set TXT pic._domainkey"),
        (without("TXT", "_dmarc.example.com"), "dmarc warn", "v=DMARC1"),
        (instead("TXT", "_dmarc.mg.example.com", &["v=DMARC1; p=reject"]), "", ""),
        (without("MX", TEST_DOMAIN), "mx warn", "MX records"),
    ] {
        harness.dns.set_records(records);
        let (code, findings) = harness.run_doctor_json(&[]).await;
        let found = findings_not_ok(&findings);
        assert_eq!(found.join("; "), expected, "{findings:#?}");
        assert_eq!(code, i32::from(expected.ends_with("fail")));
        let finding = findings.iter().find(|finding| finding["status"] != "ok");
        let remedy = finding.map(|finding| finding["remedy"].as_str().unwrap()).unwrap_or_default();
        assert!(remedy.contains(words), "{remedy}");
    }
    // No relay listens there any more.
    harness.dns.set_records(healthy_dns_records());
    let silent = free_port();
    let (code, findings) =
        harness.run_doctor_json(&["--resolver", &format!("127.0.0.1:{silent}"), "--timeout", "1"]).await;
    assert_eq!((code, findings_not_ok(&findings)), (0, vec!["dns unknown".to_owned()]), "{findings:#?}");
    // A domain of the sender's own, which the account does not have.
    let (code, findings) = harness.run_doctor_json(&["--domain", "example.org"]).await;
    let of_domain = findings.iter().filter(|finding| finding["subject"] == "example.org");
    let of_domain: Vec<_> = of_domain.cloned().collect();
    assert_eq!(
        findings_not_ok(&of_domain),
        ["domain warn", "spf fail", "dkim unknown", "dmarc warn", "mx warn"]
    );
    assert_eq!(code, 1);
    assert!(harness.process.terminate().await.success());
}

#[tokio::test]
async fn skips_dns_when_no_mail_leaves_machine() {
    let mut harness = DoctorHarness::new(ProviderProfile::Mailgun).await;
    harness.process.start().await;
    harness.dns.set_records(Vec::new());
    let resolver = harness.dns.address.to_string();
    for (configuration, expected) in [
        (harness.configuration.clone(), vec!["ok"]),
        // A server here may send it on.
        (harness.configuration.replace("provider = \"mailgun\"", "provider = \"plain\""), vec![]),
    ] {
        harness.process.write_configuration(&configuration);
        let (code, text) = harness.run_command(&["--json", "doctor", "--resolver", &resolver]).await;
        let findings: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let dns = findings.iter().filter(|finding| finding["check"] == "dns");
        let dns: Vec<_> = dns.map(|finding| finding["status"].as_str().unwrap()).collect();
        let spf = findings.iter().any(|finding| finding["check"] == "spf");
        assert_eq!((code, dns, spf), (0, expected.clone(), expected.is_empty()), "{findings:#?}");
    }
    assert!(harness.process.terminate().await.success());
}

/// The configuration of the Debian package: the sandbox runs in place of Mailgun.
#[tokio::test]
async fn fresh_installation_with_sandbox_passes() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/deb/mailtrail.toml");
    let shipped = std::fs::read_to_string(shipped).unwrap();
    let mut process = RelayProcess::with_configuration(|data_dir, [guarded, open, http]| {
        let mut text = shipped;
        for (from, to) in [
            ("/var/lib/mailtrail/sandbox", data_dir.to_owned()),
            ("socket = \"/run/mailtrail/admin.sock\"\n", String::new()),
            ("127.0.0.1:2525", format!("127.0.0.1:{guarded}")),
            ("127.0.0.1:2526", format!("127.0.0.1:{open}")),
            ("127.0.0.1:8080", format!("127.0.0.1:{http}")),
            ("127.0.0.1:8025", format!("127.0.0.1:{}", free_port())),
        ] {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, &to);
        }
        text
    });
    process.start_with_arguments(&["--sandbox"]).await;
    let dns = MockDnsServer::start(Vec::new()).await;
    let (code, text) = run_with_config(
        &process.directory().join("mailtrail.toml"),
        &["--json", "doctor", "--resolver", &dns.address.to_string()],
    )
    .await;
    let findings: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failed: Vec<_> = findings.iter().filter(|finding| finding["status"] == "fail").collect();
    assert!(code == 0 && failed.is_empty(), "{code} {failed:#?}");
    let login = find_check(&findings, "login");
    assert_eq!(login["status"], "unknown");
    assert!(
        login["what"].as_str().unwrap().contains("sends to 127.0.0.1, not to smtp.mailgun.org"),
        "{login}"
    );
    assert!(login["remedy"].as_str().unwrap().contains("--sandbox"), "{login}");
    assert_eq!(find_check(&findings, "dns")["status"], "ok");
    assert!(process.terminate().await.success());
}

#[tokio::test]
async fn unreachable_odoo_fails() {
    let harness = DoctorHarness::new(ProviderProfile::Mailgun).await;
    let sink = format!(
        "[[sink]]\nname = \"odoo\"\nkind = \"odoo\"\nurl = \"http://127.0.0.1:{}\"\ndatabase = \"shop\"\n\
         username = \"mailtrail\"\napi_key_file = \"key\"\n",
        free_port()
    );
    harness.process.write_configuration(&format!("{}{sink}", harness.configuration));
    let (code, findings) = harness.run_doctor_json(&[]).await;
    let odoo = find_check(&findings, "odoo");
    assert!(code == 1 && odoo["status"] == "fail" && odoo["remedy"] != "", "{odoo}");
}

#[tokio::test]
async fn missing_config_fails() {
    let directory = tempfile::tempdir().unwrap();
    let gone = directory.path().join("gone.toml");
    let (code, text) = run_with_config(&gone, &["doctor"]).await;
    assert!(
        code == 1 && text.starts_with("fail    configuration") && text.contains("cannot be read"),
        "{text}"
    );
    let (code, text) = run_with_config(&gone, &["doctor", "--help"]).await;
    assert!(code == 0 && text.contains("mailtrail doctor --nagios"), "{text}");
}

/// Returns the address of a server that forwards all connections.
async fn start_tcp_forwarder(address: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(address).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
        }
    });
    front
}

/// Returns the checks that are not ok, by name.
fn findings_not_ok(findings: &[Value]) -> Vec<String> {
    let bad = findings.iter().filter(|finding| finding["status"] != "ok");
    bad.map(|finding| format!("{} {}", finding["check"], finding["status"]).replace('"', "")).collect()
}

fn find_check<'a>(findings: &'a [Value], check: &str) -> &'a Value {
    findings
        .iter()
        .find(|finding| finding["check"] == check)
        .unwrap_or_else(|| panic!("{check}: {findings:#?}"))
}

/// A relay that need not run, with the sandbox as its provider and a DNS of its own.
struct DoctorHarness {
    process: RelayProcess,
    sandbox: Sandbox,
    dns: MockDnsServer,
    configuration: String,
}

impl DoctorHarness {
    async fn new(face: ProviderProfile) -> Self {
        Self::with_certificate(face, None).await
    }

    async fn with_certificate(profile: ProviderProfile, pair: Option<tls::CertifiedKey>) -> Self {
        // The files are next to the configuration; its directory exists only now.
        let process = RelayProcess::with_configuration(|_, _| String::new());
        let directory = process.directory();
        let own = tls::load_self_signed(&directory.join("sandbox"), "localhost").unwrap();
        write_expired_certificate(directory);
        for (name, secret, mode) in [
            ("password", "pw-of-the-upstream", 0o600),
            ("open", "pw-of-the-upstream", 0o644),
            ("wrong", "wrong", 0o600),
            ("key", "key-1", 0o600),
        ] {
            let path = directory.join(name);
            std::fs::write(&path, secret).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        }
        let sandbox = mailtrail_sandbox::start(mailtrail_sandbox::SandboxSettings {
            profile,
            smtp_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_key: Secret::new("key-1"),
            domain: TEST_DOMAIN.into(),
            username: "up@mg.example.com".into(),
            password: Secret::new("pw-of-the-upstream"),
            signing_key: Secret::new("key-1"),
            webhook_url: None,
            time_scale: 0.0,
            faults: FaultInjection::default(),
            clock: Clock::System,
            tls: pair.unwrap_or(own),
        });
        let sandbox = sandbox.await.unwrap();
        let configuration = render_config(profile, &process, &sandbox);
        process.write_configuration(&configuration);
        let harness =
            Self { process, sandbox, dns: MockDnsServer::start(healthy_dns_records()).await, configuration };
        let url = harness.webhook_url();
        match profile {
            ProviderProfile::Mailgun => harness.register_webhook(&url, &MAILGUN_EVENTS).await,
            ProviderProfile::Brevo => {
                let body = json!({ "url": url, "type": "transactional", "events": BREVO_EVENTS });
                let request = http_client()
                    .post(harness.api_url("/v3/webhooks"))
                    .header("api-key", "key-1")
                    .json(&body);
                assert_eq!(request.send().await.unwrap().status(), 201);
            }
        }
        harness
    }

    /// Registers a webhook of Mailgun for these kinds of events only.
    async fn register_webhook(&self, url: &str, events: &[&str]) {
        let form: Vec<_> =
            std::iter::once(("url", url)).chain(events.iter().map(|e| ("event_types", *e))).collect();
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request =
            http_client().put(self.api_url(&format!("/v4/domains/{TEST_DOMAIN}/webhooks"))).body(form);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = request.basic_auth("api", Some("key-1")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }

    /// Returns the URL of the relay's webhook.
    fn webhook_url(&self) -> String {
        format!("http://{}/webhooks/up", self.process.address(1))
    }

    fn api_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.sandbox.api_address())
    }

    /// Asks Mailgun's API about webhooks.
    async fn request_webhooks_api(&self, method: Method, query: &str) -> u16 {
        let url = self.api_url(&format!("/v4/domains/{TEST_DOMAIN}/webhooks{query}"));
        let request = http_client().request(method, url).basic_auth("api", Some("key-1"));
        request.send().await.unwrap().status().as_u16()
    }

    /// Exit code and findings.
    async fn run_doctor_json(&self, arguments: &[&str]) -> (i32, Vec<Value>) {
        let arguments = [&["--json"], arguments].concat();
        let (code, text) = self.run_doctor_text(&arguments).await;
        (code, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    /// Exit code and words.
    async fn run_doctor_text(&self, arguments: &[&str]) -> (i32, String) {
        let resolver = self.dns.address.to_string();
        let named = arguments.contains(&"--resolver");
        let usual = ["--resolver", &resolver];
        let usual = if named { &[][..] } else { &usual[..] };
        // The provider is on this machine, so the DNS is asked about a domain that is named.
        self.run_command(&[&["doctor", "--domain", TEST_DOMAIN], arguments, usual].concat()).await
    }

    async fn run_command(&self, arguments: &[&str]) -> (i32, String) {
        run_with_config(&self.process.directory().join("mailtrail.toml"), arguments).await
    }
}

async fn run_with_config(config: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailtrail"));
    command
        .arg("--config")
        .arg(config)
        .args(arguments)
        .env_remove("CREDENTIALS_DIRECTORY")
        .stdin(Stdio::null());
    let output = testkit::run_if_installed(&mut command).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap_or_else(|| panic!("{:?}", output.status)), text)
}

fn http_client() -> reqwest::Client {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls::build_client_config(None).unwrap())
        .build()
        .unwrap()
}

fn render_config(face: ProviderProfile, process: &RelayProcess, sandbox: &Sandbox) -> String {
    let (provider, proof) = match face {
        ProviderProfile::Mailgun => ("mailgun", "webhook_signing_key_file"),
        ProviderProfile::Brevo => ("brevo", "webhook_token_file"),
    };
    let data = process.data_dir();
    format!(
        r#"
[server]
hostname = "relay.example.com"
data_dir = "{data}"
[[listener]]
address = "{entry}"
auth = "none"
[[upstream]]
name = "up"
provider = "{provider}"
domain = "{TEST_DOMAIN}"
host = "127.0.0.1"
port = {port}
tls = "starttls"
ca_file = "sandbox/relay.pem"
username = "up@mg.example.com"
password_file = "password"
{proof} = "key"
api_key_file = "key"
api_base_url = "http://{api}"
[http]
address = "{http}"
[log]
level = "info"
"#,
        data = data.display(),
        entry = process.address(0),
        port = sandbox.smtp_address().port(),
        api = sandbox.api_address(),
        http = process.address(1),
    )
}

/// DNS records of a healthy domain.
fn healthy_dns_records() -> DnsRecords {
    let record = |name: &str, kind, value: &str| (name.to_owned(), kind, value.to_owned());
    vec![
        record(TEST_DOMAIN, "TXT", "unrelated=1"),
        record(TEST_DOMAIN, "TXT", "v=spf1 include:mailgun.org include:spf.brevo.com ~all"),
        record(DKIM_NAME, "TXT", "k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC0example"),
        record("_dmarc.example.com", "TXT", "v=DMARC1; p=none"),
        record(TEST_DOMAIN, "MX", "mxa.mailgun.org"),
        record("far.example.org", "TXT", "v=spf1 include:_spf.mailgun.org -all"),
        record("loop.example.org", "TXT", "v=spf1 include:loop.example.org -all"),
    ]
}

/// A certificate that ended, and its key.
fn write_expired_certificate(directory: &Path) {
    let mut parameters = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    parameters.not_before = date_time_ymd(2019, 1, 2);
    parameters.not_after = date_time_ymd(2020, 1, 2);
    let key = KeyPair::generate().unwrap();
    std::fs::write(directory.join("old.pem"), parameters.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(directory.join("old.key"), key.serialize_pem()).unwrap();
}

const TEST_DOMAIN: &str = "mg.example.com";
const DKIM_NAME: &str = "pic._domainkey.mg.example.com";
const MAILGUN_EVENTS: [&str; 7] =
    ["delivered", "permanent_fail", "temporary_fail", "complained", "unsubscribed", "opened", "clicked"];
const BREVO_EVENTS: [&str; 10] = [
    "delivered",
    "hardBounce",
    "softBounce",
    "blocked",
    "invalid",
    "deferred",
    "spam",
    "unsubscribed",
    "opened",
    "click",
];
