//! Metrics: the code, the documentation, the alert rules, the dashboard and a running relay agree.

use mailtrail::metrics::{METRICS, MetricKind};
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use testkit::relay_process::free_port;
use testkit::smtp_client::SmtpClient;

const METRICS_DOC: &str = include_str!("../../../docs/metrics.md");
const ALERT_RULES: &str = include_str!("../../../systemd/mailtrail.rules.yml");
const DASHBOARD: &str = include_str!("../../../systemd/mailtrail-dashboard.json");

/// Name → kind and labels, as the program has them.
fn listed_metrics() -> BTreeMap<String, (String, Vec<String>)> {
    let labels = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect();
    let measures = METRICS.iter();
    measures.map(|one| (one.name.to_owned(), (one.kind.as_str().to_owned(), labels(one.labels)))).collect()
}

#[test]
fn recorded_metrics_equal_listed_metrics() {
    let call = Regex::new(r#"metrics::(counter|gauge|histogram)!\([ \n]*"(mailtrail_[a-z_]+)""#).unwrap();
    let mut counted = BTreeMap::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in source_files(&root.join("src")).into_iter().chain(source_files(&root.join("crates"))) {
        for found in call.captures_iter(&std::fs::read_to_string(file).unwrap()) {
            counted.insert(found[2].to_owned(), found[1].to_owned());
        }
    }
    let listed: BTreeMap<_, _> = listed_metrics().into_iter().map(|(name, (kind, _))| (name, kind)).collect();
    assert_eq!(counted, listed);
    let names: Vec<_> = METRICS.iter().map(|one| one.name).collect();
    assert!(names.is_sorted_by(|one, other| one < other), "by name, each once");
}

#[test]
fn every_metric_is_documented() {
    let mut written = BTreeMap::new();
    let code = Regex::new("`([^`]+)`").unwrap();
    let codes = |text: &str| code.captures_iter(text).map(|found| found[1].to_owned()).collect::<Vec<_>>();
    for section in METRICS_DOC.split("\n### ").skip(1) {
        let mut lines = section.lines().filter(|line| !line.is_empty());
        let name = codes(lines.next().unwrap()).remove(0);
        let (kind, labels) =
            lines.next().unwrap().split_once(';').unwrap_or((section.lines().nth(2).unwrap(), ""));
        assert!(lines.next().is_some(), "{name} says nothing");
        written.insert(name, (kind.to_owned(), codes(labels)));
    }
    assert_eq!(written, listed_metrics());
}

#[test]
fn rules_and_dashboard_use_existing_metrics() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let places: BTreeSet<_> = panels.iter().map(|panel| panel["gridPos"].to_string()).collect();
    assert_eq!(places.len(), panels.len(), "no panel lies on another");
    let mut there = BTreeSet::new();
    for measure in METRICS {
        match measure.kind {
            MetricKind::Histogram => drop(there.insert(format!("{}_bucket", measure.name))),
            MetricKind::Counter | MetricKind::Gauge => drop(there.insert(measure.name.to_owned())),
        }
    }
    let name = Regex::new(r"mailtrail_[a-z_]+").unwrap();
    for (file, text) in [("rules", ALERT_RULES), ("dashboard", DASHBOARD)] {
        let named: BTreeSet<_> = name.find_iter(text).map(|found| found.as_str().to_owned()).collect();
        assert!(named.len() > 8, "{file}: {named:?}");
        assert_eq!(named.difference(&there).next(), None, "{file} asks for something that is not there");
    }
}

#[test]
fn promtool_accepts_alert_rules() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/mailtrail.rules.yml");
    let checked = Command::new("promtool").arg("check").arg("rules").arg(rules).output();
    let Ok(checked) = checked else {
        return eprintln!("there is no promtool: the rules are not looked at");
    };
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// A relay with its sandbox, which ends with the test.
struct MetricsRelay {
    child: Child,
    _folder: tempfile::TempDir,
    smtp_address: SocketAddr,
    metrics_address: SocketAddr,
}

impl Drop for MetricsRelay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl MetricsRelay {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [smtp_address, metrics_address] =
            [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let config = RELAY_CONFIG
            .replace("DOOR", &smtp_address.to_string())
            .replace("PAGE", &metrics_address.to_string());
        std::fs::write(folder.path().join("mailtrail.toml"), config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailtrail"));
        command.current_dir(folder.path()).stderr(Stdio::null());
        command.args(["--config", "mailtrail.toml", "serve", "--sandbox", "--pace", "0"]);
        Self { child: command.spawn().unwrap(), _folder: folder, smtp_address, metrics_address }
    }

    /// Reads the metrics as Prometheus does.
    fn scrape(&self) -> Option<String> {
        let mut stream = TcpStream::connect(self.metrics_address).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split_once("\r\n\r\n").map(|(_, text)| text.to_owned())
    }

    /// Returns the exposed metrics: name → kind and labels.
    fn exposed_metrics(&self) -> Option<BTreeMap<String, (String, Vec<String>)>> {
        let text = self.scrape()?;
        let (mut exposed, label) = (BTreeMap::new(), Regex::new(r#"[{,]([a-z_]+)=""#).unwrap());
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            let series = text.lines().find(|line| line.starts_with(name)).unwrap();
            let labels = label.captures_iter(series).map(|found| found[1].to_owned());
            exposed
                .insert(name.to_owned(), (kind.to_owned(), labels.filter(|label| label != "le").collect()));
        }
        Some(exposed)
    }
}

#[tokio::test]
async fn running_relay_exposes_promised_and_only_listed_metrics() {
    let relay = MetricsRelay::start();
    testkit::eventually("it answers", || relay.scrape()).await;
    let mut client = SmtpClient::connect(relay.smtp_address).await.unwrap();
    assert_eq!(client.command("NONSENSE").await.unwrap().0, 500);
    for recipient in ["ada@example.net", "bounce@example.net"] {
        assert_eq!(client.command("MAIL FROM:<app@example.com>").await.unwrap().0, 250);
        assert_eq!(client.command(&format!("RCPT TO:<{recipient}>")).await.unwrap().0, 250);
        assert_eq!(client.command("DATA").await.unwrap().0, 354);
        assert_eq!(client.command("Subject: hello\r\n\r\nhi\r\n.").await.unwrap().0, 250);
    }
    let promised: BTreeSet<_> = PROMISED_METRICS.iter().map(|name| format!("mailtrail_{name}")).collect();
    let all =
        || relay.exposed_metrics().filter(|exposed| promised.iter().all(|name| exposed.contains_key(name)));
    let exposed = testkit::eventually("all that is promised", all).await;
    let known = listed_metrics();
    for (name, (kind, labels)) in &exposed {
        let (listed_kind, listed_labels) = known.get(name).unwrap_or_else(|| panic!("{name} is not listed"));
        assert_eq!((kind, labels), (listed_kind, listed_labels), "{name}");
    }
    let text = relay.scrape().unwrap();
    assert!(text.contains("# HELP mailtrail_commit_seconds "), "{text}");
    assert!(text.contains("mailtrail_smtp_sessions 1\n"), "{text}");
    assert!(text.contains("mailtrail_smtp_accepted_total{client=\"unauthenticated\"} 2\n"), "{text}");
}

fn source_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { source_files(&path) } else { vec![path] }).collect()
}

/// Metrics that users' monitoring relies on.
const PROMISED_METRICS: [&str; 19] = [
    "smtp_sessions",
    "smtp_accepted_total",
    "smtp_rejected_total",
    "commit_seconds",
    "queue_messages",
    "queue_oldest_seconds",
    "relay_attempts_total",
    "relay_seconds",
    "relay_connections",
    "breaker_state",
    "webhook_requests_total",
    "events_total",
    "event_lag_seconds",
    "orphan_events",
    "dead_events",
    "sink_deliveries_total",
    "sink_backlog",
    "suppressions",
    "store_bytes",
];

const RELAY_CONFIG: &str = r#"
[server]
hostname = "relay.example.com"
data_dir = "data"
[[listener]]
address = "DOOR"
tls = "none"
auth = "none"
[[upstream]]
name = "mailgun"
provider = "mailgun"
username = "postmaster@mg.example.com"
password = "x"
webhook_signing_key = "x"
[[sink]]
name = "file"
kind = "file"
path = "events.jsonl"
[http]
address = "127.0.0.1:0"
[admin]
address = "PAGE"
"#;
