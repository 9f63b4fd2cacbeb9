//! A relay at work: SMTP, the mail that it passes on and makes, what webhooks are answered, what sinks, inbound targets and
//! alarm receivers get, its metrics, and the files that it leaves.

use crate::check::{check_all, directory};
use crate::relay::{
    Heard, Relay, ask, dialogue, eventually, free_ports, serve_http, serve_smtp, settled, submit,
};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use regex::Regex;
use serde_json::{Value, json};
use sha2::Sha256;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Everything in one run, since each start of a relay takes its time.
#[test]
fn relay_at_work_shows_the_same_outside() {
    let scene = Scene::new();
    let mut found = scene.mail();
    found.extend([
        scene.webhooks(),
        scene.inbound(),
        scene.sinks(),
        scene.alarms(),
        scene.api(),
        scene.commands(),
        scene.logins(),
    ]);
    found.extend([scene.metrics(), scene.files()]);
    check_all(&found);
}

/// A golden file, and what there is.
type Found = (&'static str, String);

/// Method and path, header fields, body.
type Request<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

struct Scene {
    relay: Relay,
    open: u16,
    guarded: u16,
    http: u16,
    admin: u16,
    mailgun: Heard,
    brevo: Heard,
    told: Heard,
}

impl Scene {
    fn new() -> Self {
        let [open, guarded, http, admin, nowhere] = free_ports();
        let ((up, mailgun), (other, brevo), (receiver, told)) = (serve_smtp(), serve_smtp(), serve_http());
        let mut configuration = CONFIGURATION.to_owned();
        for (name, port) in [
            ("OPEN", open),
            ("GUARDED", guarded),
            ("HTTP", http),
            ("ADMIN", admin),
            ("NOWHERE", nowhere),
            ("MAILGUN", up),
            ("BREVO", other),
            ("RECEIVER", receiver),
        ] {
            configuration = configuration.replace(&format!("<{name}>"), &port.to_string());
        }
        Self { relay: Relay::start(&configuration), open, guarded, http, admin, mailgun, brevo, told }
    }

    /// Dialogues, and the mail as each provider gets it; a report on a failure.
    fn mail(&self) -> Vec<Found> {
        let mut said = String::new();
        for (from, to, message) in [
            ("app@mg.example.com", "<ada@example.net>", ODOO),
            ("app@brevo.example.com", "<bob@example.net>", ODOO),
            ("app@mg.example.com", "<ada@example.net> NOTIFY=NEVER", "no header"),
            ("app@mg.example.com", "<gone@example.net> NOTIFY=FAILURE ORCPT=rfc822;x@example.net", FAILING),
        ] {
            said += &submit(self.open, from, to, message);
            said += "\n";
        }
        said +=
            &dialogue(self.guarded, &["EHLO client.example.com", "HELP", "NOOP", "RSET", "VRFY x", "QUIT"]);
        let mut found = vec![("smtp.txt", settled(&said))];
        for (name, heard, words) in [
            ("mail-mailgun.txt", &self.mailgun, "Subject: Quotation S00042"),
            ("mail-brevo.txt", &self.brevo, "Subject: Quotation S00042"),
            ("mail-without-header.txt", &self.mailgun, "no header"),
            ("dsn.txt", &self.mailgun, "Undelivered Mail Returned to Sender"),
        ] {
            found.push((name, settled(&heard.wait_for(&[words]))));
        }
        found
    }

    /// What each kind of source is answered.
    fn webhooks(&self) -> Found {
        let json = ("content-type", "application/json");
        let fixture = |name: &str| {
            let text = std::fs::read(directory().join("../fixtures").join(name)).unwrap();
            serde_json::from_slice::<Value>(&text).unwrap()
        };
        let mut event = fixture("mailgun/webhook_delivered.json");
        event["signature"] = mailgun_signature("token-1", KEY);
        let good = event.to_string();
        event["signature"] = mailgun_signature("token-2", "another key");
        let bad = event.to_string();
        event["signature"] = mailgun_signature("token-3", KEY);
        event["event-data"] = json!("nothing");
        let dead = event.to_string();
        let large = " ".repeat((1 << 20) + 1);
        let brevo = fixture("brevo/delivered.json").to_string();
        let own =
            json!({"event": "bounced", "recipient": "nobody@example.net", "message_id": "x@example.com"});
        let own = own.to_string();
        let (now, signed) = (now(), standard_signature("msg_1", &own));
        let contact =
            "type=unsubscribe&list=3&date_time=2026-09-14T12%3A00%3A00Z&contact%5Bemail%5D=ada%40example.net";
        let token = ("authorization", "Bearer token-of-brevo-0123456789");
        let requests: [Request<'_>; 30] = [
            ("GET /healthz", &[], ""),
            ("GET /readyz", &[], ""),
            ("GET /healthz/", &[], ""),
            ("GET /nothing", &[], ""),
            ("GET /webhooks/mailgun", &[], ""),
            ("POST /webhooks/nobody", &[json], &good),
            ("POST /webhooks/mailgun", &[json], &good),
            ("POST /webhooks/mailgun/", &[json], &good),
            ("POST /webhooks/mailgun", &[json], &bad),
            ("POST /webhooks/mailgun", &[json], &dead),
            ("POST /webhooks/mailgun", &[json], "{}"),
            ("POST /webhooks/mailgun", &[json], "not json"),
            ("POST /webhooks/mailgun", &[json], &large),
            ("POST /webhooks/mailgun", &[json, ("content-encoding", "gzip")], &good),
            ("POST /webhooks/mailgun/secret", &[json], &good),
            ("POST /webhooks/brevo", &[json, token], &brevo),
            ("POST /webhooks/brevo", &[json, token], &brevo),
            ("POST /webhooks/brevo", &[json], &brevo),
            ("POST /webhooks/brevo", &[json, ("authorization", "Bearer other")], &brevo),
            ("POST /webhooks/brevo", &[json, token], "not json"),
            (
                "POST /webhooks/other",
                &[json, ("webhook-id", "msg_1"), ("webhook-timestamp", &now), ("webhook-signature", &signed)],
                &own,
            ),
            (
                "POST /webhooks/other",
                &[json, ("webhook-id", "msg_2"), ("webhook-timestamp", &now), ("webhook-signature", &signed)],
                &own,
            ),
            ("POST /webhooks/other", &[json], &own),
            ("POST /webhooks/campaigns/secret-of-the-campaigns", &[], contact),
            ("POST /webhooks/campaigns/another-secret", &[], contact),
            ("POST /webhooks/campaigns", &[], contact),
            ("POST /inbound/nobody/mime", &[], ""),
            ("POST /inbound/other/mime", &[], ""),
            ("POST /inbound/brevo", &[json], "{}"),
            ("POST /inbound/brevo", &[json, token], "{}"),
        ];
        let mut said = String::new();
        for (request, head, body) in requests {
            let shown: Vec<_> = head.iter().map(|(name, _)| *name).collect();
            let start: String = body.chars().take(24).collect();
            let start = if start.trim().is_empty() {
                format!("{} blanks", body.len())
            } else {
                start.replace('\n', " ")
            };
            write!(said, "{request} {shown:?} {start}\n{}\n", ask(self.http, request, head, body.as_bytes()))
                .unwrap();
        }
        ("webhooks.txt", settled(&said))
    }

    /// A mail from outside, in each form, and how it is handed on.
    fn inbound(&self) -> Found {
        let mail =
            "From: ada@example.net\r\nMessage-ID: <in@example.net>\r\nSubject: Re: Quotation\r\n\r\nYes.\r\n";
        let form = |token: &str, key: &str, more: &[(&str, &str)]| {
            let signature = mailgun_signature(token, key);
            let mut form = form_urlencoded::Serializer::new(String::new());
            form.extend_pairs([("recipient", "reply@mg.example.com"), ("sender", "ada@example.net")]);
            for name in ["timestamp", "token", "signature"] {
                form.append_pair(name, signature[name].as_str().unwrap());
            }
            form.extend_pairs(more).finish()
        };
        let raw = form("inbound-1", KEY, &[("body-mime", mail)]);
        let headers = json!([
            ["From", "ada@example.net"],
            ["Message-Id", "<parsed@example.net>"],
            ["Subject", "Parsed"]
        ]);
        let parsed = [("message-headers", &*headers.to_string()), ("body-plain", "Yes.")];
        let parsed = form("inbound-2", KEY, &parsed);
        let unsigned = form("inbound-3", "another key", &[("body-mime", mail)]);
        let mut said = String::new();
        for (path, body) in [
            ("POST /inbound/mailgun/mime", &raw),
            ("POST /inbound/mailgun/mime", &raw),
            ("POST /inbound/mailgun", &parsed),
            ("POST /inbound/mailgun/mime", &unsigned),
            ("GET /inbound/mailgun", &raw),
        ] {
            let kind = ("content-type", "application/x-www-form-urlencoded");
            write!(said, "{path}\n{}\n", ask(self.http, path, &[kind], body.as_bytes())).unwrap();
        }
        for subject in ["Subject: Re: Quotation", "Subject: Parsed"] {
            let heard = self.told.wait_for(&["post /inbound", subject]);
            write!(said, "--- {subject}\n{heard}").unwrap();
        }
        ("inbound.txt", settled(&said))
    }

    /// What a sink is told of a mail and of an event.
    fn sinks(&self) -> Found {
        let mut said = String::new();
        for (kind, about) in [
            ("accepted", "ada@example.net"),
            ("relayed", "bob@example.net"),
            ("bounced", "gone@example.net"),
            ("listed", "gone@example.net"),
            ("delivered", "mailgun"),
            ("dead", "mailgun"),
            ("inbound", "Re: Quotation"),
            ("inbound-delivered", "target"),
        ] {
            let kind = format!("\"type\":\"mail.{kind}\"");
            write!(said, "--- {kind}\n{}", self.told.wait_for(&["post /sink", &kind, about])).unwrap();
        }
        ("sinks.txt", settled(&said))
    }

    /// An alarm: its form and its words, without texts for people.
    fn alarms(&self) -> Found {
        submit(self.open, "app@away.example.com", "<ada@example.net>", "Subject: x\r\n\r\nx");
        let heard = self.told.wait_for(&["\"alarm\":\"breaker\""]);
        ("alarms.txt", settled(&without_sentences(&heard)))
    }

    /// The gate of the API; what it answers is in `docs/openapi.json`.
    fn api(&self) -> Found {
        let token = ("authorization", "Bearer token-of-the-operator");
        let mut said = String::new();
        for (request, head) in [
            ("GET /", &[][..]),
            ("GET /metrics", &[]),
            ("GET /nothing", &[]),
            ("GET /api/v1/breakers", &[]),
            ("GET /api/v1/breakers", &[token]),
            ("GET /api/v1/nothing", &[token]),
            ("GET /api/v1/trace", &[token]),
            ("POST /api/v1/breakers", &[token]),
            ("POST /api/v1/breakers/mailgun", &[token]),
            ("GET /api/v1/breakers", &[token, ("origin", "http://evil.example.com")]),
        ] {
            let answer = ask(self.admin, request, head, b"");
            let head: String = answer
                .lines()
                .filter(|line| !line.starts_with("  |"))
                .map(|line| format!("{line}\n"))
                .collect();
            write!(said, "{request}\n{head}\n").unwrap();
        }
        ("api-gate.txt", settled(&said))
    }

    /// What commands print that a running relay answers.
    fn commands(&self) -> Found {
        let mut said = String::new();
        for words in [
            "breaker status",
            "breaker open brevo --reason test",
            "breaker close brevo",
            "queue list",
            "queue shape",
            "queue hold ALL --dry-run",
            "queue delete ALL --reason test",
            "suppress add eve@example.net --reason complaint --note asked",
            "suppress check eve@example.net",
            "erase eve@example.net --reason asked",
            "suppress list --reason complaint",
            "suppress remove eve@example.net",
            "events replay ALL --dead --dry-run",
            "inbound list",
            "sink dead hook",
            "store backup copy",
            "store verify",
            "config check",
        ] {
            said += &self.relay.place.transcript(&format!("--json {words}"));
        }
        let said = said.replace(self.relay.place.path().to_str().unwrap(), "DIRECTORY");
        let numbers = Regex::new(r#""(bytes|connections|records|segments|sends|size)":\d+"#).unwrap();
        let said = numbers.replace_all(&said, "\"$1\":N");
        let cursor = Regex::new(r#""until":"\d+\.\d+""#).unwrap();
        (
            "commands.txt",
            settled(&cursor.replace_all(&without_sentences(&said), "\"until\":\"SEGMENT.OFFSET\"")),
        )
    }

    /// The line that fail2ban reads.
    fn logins(&self) -> Found {
        let login = |password: &str| BASE64_STANDARD.encode(format!("\0odoo\0{password}"));
        let lines = ["1", "2", "3"].map(|password| format!("AUTH PLAIN {}", login(password)));
        let lines: Vec<_> = ["EHLO x"].into_iter().chain(lines.iter().map(String::as_str)).collect();
        let dialogue = dialogue(self.guarded, &lines);
        let line = eventually("the line of the log", || {
            self.relay.log().lines().find(|line| line.contains("locked out")).map(str::to_owned)
        });
        let line = Regex::new(r"^\S+ +").unwrap().replace(&line, "").into_owned();
        let target = Regex::new(r"mailtrail::[a-z_:]+").unwrap().replace(&line, "TARGET").into_owned();
        ("logins.txt", settled(&format!("{dialogue}\n{target}\n")))
    }

    /// The series that all of this leads to, without their values. Gauges are looked at from time to time and may be missing.
    fn metrics(&self) -> Found {
        let text = ask(self.admin, "GET /metrics", &[], b"");
        let lines =
            text.lines().filter_map(|line| line.strip_prefix("  | ")).filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series);
        let counters = series.filter(|series| series.split('{').next().unwrap().ends_with("_total"));
        let counters: BTreeSet<_> = counters.map(|series| format!("{series}\n")).collect();
        ("metrics-series.txt", counters.into_iter().collect::<String>())
    }

    /// The names of the files in the data directory.
    fn files(&self) -> Found {
        let mut names = BTreeSet::new();
        collect(&self.relay.place.data(), "", &mut names);
        ("files.txt", names.into_iter().collect::<String>())
    }
}

fn collect(directory: &Path, before: &str, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let name = format!("{before}{}", entry.file_name().to_str().unwrap());
        match entry.path().is_dir() {
            true => collect(&entry.path(), &format!("{name}/"), names),
            false => drop(names.insert(format!("{name}\n"))),
        }
    }
}

/// JSON without texts for people: what has three words or more.
fn without_sentences(text: &str) -> String {
    let sentence =
        Regex::new(r#""(message|reason|remedy|text|there|why)":"[^" ]+ [^" ]+ ([^"\\]|\\.)+""#).unwrap();
    sentence.replace_all(text, "\"$1\":\"SENTENCE\"").into_owned()
}

fn now() -> String {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().to_string()
}

fn mailgun_signature(token: &str, key: &str) -> Value {
    let now = now();
    let mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    let mac = mac.chain_update(format!("{now}{token}")).finalize().into_bytes();
    let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({"timestamp": now, "token": token, "signature": hex})
}

/// Of Standard Webhooks.
fn standard_signature(id: &str, body: &str) -> String {
    let key = BASE64_STANDARD.decode("c2VjcmV0IG9mIHRoZSBvdGhlciBzb3VyY2U=").unwrap();
    let mac = Hmac::<Sha256>::new_from_slice(&key).unwrap().chain_update(format!("{id}.{}.{body}", now()));
    format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
}

const KEY: &str = "key-of-mailgun-0123456789";

const ODOO: &str = "Message-ID: <1.2-openerp-42-sale.order@odoo.example.com>\r\nX-Odoo-Objects: project.project-7\r\n\
                    From: Sales <app@mg.example.com>\r\nTo: ada@example.net\r\nBcc: secret@example.net\r\n\
                    Date: Mon, 14 Sep 2026 12:00:00 +0000\r\nSubject: Quotation S00042\r\n\
                    X-Mailgun-Variables: {\"mine\": 1}\r\nX-Mailgun-Tag: offer\r\nX-Mailin-Tag: offer\r\n\r\nThank you.\r\n.. dots";
const FAILING: &str = "Message-ID: <failing@example.com>\r\nFrom: app@mg.example.com\r\n\
                       Date: Mon, 14 Sep 2026 12:00:00 +0000\r\nSubject: It fails\r\n\r\nx";

const CONFIGURATION: &str = r#"
[server]
hostname = "relay.example.com"
data_dir = "data"
[[listener]]
address = "127.0.0.1:<OPEN>"
tls = "none"
auth = "none"
[[listener]]
address = "127.0.0.1:<GUARDED>"
tls = "none"
auth = "required"
[[user]]
name = "odoo"
password = "right"
[limits]
login_failures = 2
[[upstream]]
name = "mailgun"
provider = "mailgun"
domain = "mg.example.com"
host = "127.0.0.1"
port = <MAILGUN>
tls = "none"
username = "a"
password = "b"
webhook_signing_key = "key-of-mailgun-0123456789"
[[upstream]]
name = "brevo"
provider = "brevo"
host = "127.0.0.1"
port = <BREVO>
tls = "none"
username = "a"
password = "b"
webhook_token = "token-of-brevo-0123456789"
[[upstream]]
name = "away"
provider = "plain"
host = "127.0.0.1"
port = <NOWHERE>
tls = "none"
[upstream.breaker]
failures = 1
[[route]]
name = "brevo"
upstreams = ["brevo"]
senders = ["*@brevo.example.com"]
[[route]]
name = "away"
upstreams = ["away"]
senders = ["*@away.example.com"]
[[source]]
name = "other"
kind = "generic"
secret = "whsec_c2VjcmV0IG9mIHRoZSBvdGhlciBzb3VyY2U="
[[source]]
name = "campaigns"
kind = "activecampaign"
secret = "secret-of-the-campaigns"
[[sink]]
name = "hook"
kind = "http"
url = "http://127.0.0.1:<RECEIVER>/sink"
secret = "secret of the sink"
allow_private = true
[[inbound.target]]
name = "target"
deliver = "http"
url = "http://127.0.0.1:<RECEIVER>/inbound"
secret = "secret of the target"
allow_private = true
[reports]
failures = "sender"
[alarms]
webhook_url = "http://127.0.0.1:<RECEIVER>/alarms"
webhook_secret = "secret of the alarms"
allow_private = true
after = "0s"
[http]
address = "127.0.0.1:<HTTP>"
[admin]
address = "127.0.0.1:<ADMIN>"
token = "token-of-the-operator"
socket = "admin.sock"
"#;
