//! The binary as an administrator meets it: exit codes, JSON, and lookups with the daemon running and stopped.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn run_mailtrail(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailtrail"));
    command.current_dir(folder).args(arguments).env_remove("MAILTRAIL_CONFIG").stdin(Stdio::null());
    command.output().unwrap()
}

fn to_text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A daemon of our own that ends with the test.
struct RunningDaemon(Child);

impl Drop for RunningDaemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl RunningDaemon {
    /// Asks it to end, and waits.
    fn terminate(mut self) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert!(self.0.wait().unwrap().success());
    }
}

fn write_config(folder: &Path) {
    write_config_with(folder, "provider = \"mailgun\"\nwebhook_signing_key = \"x\"");
}

/// With these keys of the upstream.
fn write_config_with(folder: &Path, upstream: &str) {
    let config = r#"
[server]
hostname = "relay.example.com"
data_dir = "data"
[[listener]]
address = "127.0.0.1:0"
tls = "none"
auth = "none"
[[upstream]]
name = "mailgun"
UPSTREAM
username = "postmaster@mg.example.com"
password = "x"
[http]
address = "127.0.0.1:0"
"#;
    std::fs::write(folder.join("mailtrail.toml"), config.replace("UPSTREAM", upstream)).unwrap();
}

/// Starts the sandboxed daemon; gives the port of its mail listener.
fn start_daemon(folder: &Path) -> (RunningDaemon, u16) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mailtrail"))
        .current_dir(folder)
        .args(["--config", "mailtrail.toml", "serve", "--sandbox", "--pace", "0"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.find_map(|line| line.ok().filter(|line| line.contains("listening for mail"))).unwrap();
    let port = line.split("address=127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("ready"))).unwrap().unwrap();
    std::thread::spawn(move || lines.count());
    (RunningDaemon(child), port)
}

fn submit_message(port: u16, recipient: &str) -> String {
    let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut replies = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut last = |wanted: &str| loop {
        let line = replies.next().unwrap().unwrap();
        if line.as_bytes()[3] == b' ' {
            assert!(line.starts_with(wanted), "{line}");
            return line;
        }
    };
    let say = |line: &str| (&stream).write_all(line.as_bytes()).unwrap();
    last("220");
    say("EHLO app\r\n");
    last("250");
    say("MAIL FROM:<app@example.com>\r\n");
    last("250");
    say(&format!("RCPT TO:<{recipient}>\r\n"));
    last("250");
    say("DATA\r\n");
    last("354");
    say("Subject: Invoice 7\r\nX-Odoo-Objects: account.move-7\r\n\r\nhi\r\n.\r\n");
    last("250").rsplit(' ').next().unwrap().to_owned()
}

/// Asks again until the answer holds `wanted`.
fn run_until_output_contains(folder: &Path, arguments: &[&str], wanted: &str) -> String {
    let started = Instant::now();
    loop {
        let output = run_mailtrail(folder, arguments);
        let printed = to_text(&output.stdout).to_owned();
        if printed.contains(wanted) {
            return printed;
        }
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "{wanted:?} is not in {printed}{}",
            to_text(&output.stderr)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn demo_completes_every_trail() {
    let folder = tempfile::tempdir().unwrap();
    let output = run_mailtrail(folder.path(), &["--json", "demo"]);
    assert!(output.status.success(), "{}", to_text(&output.stderr));
    let trails: Vec<serde_json::Value> =
        to_text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(trails.len() >= 5);
    for trail in trails {
        let timeline = trail["timeline"].as_array().unwrap();
        let has = |source: &str| timeline.iter().any(|fact| fact["source"] == source);
        assert!(has("client") && has("smtp") && has("webhook"), "{trail}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the demo leaves nothing behind");
}

#[test]
fn trace_works_with_daemon_running_and_stopped() {
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path());
    let (daemon, port) = start_daemon(folder.path());
    let id = submit_message(port, "bounce@example.net");
    let config = ["--config", "mailtrail.toml"];
    let ask = |question: &[&str]| {
        run_until_output_contains(folder.path(), &[&config[..], question].concat(), "bounced")
    };
    for question in [id.as_str(), &id[..20], "BOUNCE@example.net", "account.move,7", "invoice 7"] {
        assert!(ask(&["trace", question]).contains(&id), "{question}");
    }
    let running = ask(&["--json", "trace", &id]);
    let log = ask(&["--json", "log", "--status", "bounced", "--since", "10 min ago"]);
    assert!(
        log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"] == id.as_str())
    );
    daemon.terminate();
    assert_eq!(ask(&["--json", "trace", &id]), running);
    assert_eq!(ask(&["--json", "log", "--status", "bounced", "--since", "10 min ago"]), log);
    let nothing = run_mailtrail(folder.path(), &[&config[..], &["trace", "nobody@example.net"]].concat());
    assert_eq!(nothing.status.code(), Some(1));
    assert!(run_mailtrail(folder.path(), &[&config[..], &["queue", "list"]].concat()).status.success());
}

#[test]
fn sandbox_replaces_brevo() {
    let folder = tempfile::tempdir().unwrap();
    write_config_with(folder.path(), "provider = \"brevo\"\nwebhook_token = \"x\"");
    let (daemon, port) = start_daemon(folder.path());
    let id = submit_message(port, "bounce@example.net");
    let printed = run_until_output_contains(
        folder.path(),
        &["--config", "mailtrail.toml", "--json", "trace", &id],
        "hard_bounce",
    );
    assert!(printed.contains("OK: queued as <"), "{printed}");
    daemon.terminate();
}

#[test]
fn log_follow_prints_new_lines() {
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path());
    let (_daemon, port) = start_daemon(folder.path());
    let mut follower = Command::new(env!("CARGO_BIN_EXE_mailtrail"))
        .current_dir(folder.path())
        .args(["--config", "mailtrail.toml", "--json", "log", "-f"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let follower = RunningDaemon(follower);
    let id = submit_message(port, "delivered@example.net");
    let mut events = lines.map_while(Result::ok).filter(|line| line.contains(&id));
    assert!(events.any(|line| line.contains("\"delivered\"")));
    drop(follower);
}

#[test]
fn errors_have_their_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let code = |arguments: &[&str]| run_mailtrail(folder.path(), arguments).status.code();
    assert_eq!(code(&["serve", "--nonsense"]), Some(64));
    assert_eq!(code(&["trace"]), Some(2));
    assert_eq!(code(&["--config", "missing.toml", "serve"]), Some(78));
    write_config(folder.path());
    assert_eq!(code(&["--config", "mailtrail.toml", "trace", "x"]), Some(3));
    assert_eq!(code(&["--config", "mailtrail.toml", "config", "check"]), Some(0));
    std::fs::write(folder.path().join("bad.toml"), "[server]\nhostnam = 1\n[[listener]]\ntls = \"maybe\"\n")
        .unwrap();
    assert_eq!(code(&["--config", "bad.toml", "config", "check"]), Some(1));
    let output = run_mailtrail(folder.path(), &["--config", "bad.toml", "serve"]);
    let printed = to_text(&output.stderr);
    assert_eq!(output.status.code(), Some(78));
    assert!(
        printed.contains("bad.toml:2: server.hostnam") && printed.contains("bad.toml:4: listener[0].tls"),
        "{printed}"
    );
    assert!(!folder.path().join("data").exists(), "nothing was started");
}

#[test]
fn user_hash_verifies_password() {
    use argon2::password_hash::{PasswordVerifier, phc::PasswordHash};
    let mut child = Command::new(env!("CARGO_BIN_EXE_mailtrail"))
        .args(["user", "hash"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"correct horse\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let hash = PasswordHash::new(to_text(&output.stdout).trim()).unwrap();
    assert!(argon2::Argon2::default().verify_password(b"correct horse", &hash).is_ok());
}

#[test]
fn stats_are_equal_with_daemon_running_and_stopped() {
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path());
    let (daemon, port) = start_daemon(folder.path());
    for recipient in ["ada", "click", "bot-open", "bounce", "complain", "suppressed"] {
        submit_message(port, &format!("{recipient}@example.net"));
    }
    let config = ["--config", "mailtrail.toml", "--json"];
    let ask = |question: &[&str], wanted: &str| {
        run_until_output_contains(folder.path(), &[&config[..], question].concat(), wanted)
    };
    for (recipient, last) in [
        ("ada", "delivered"),
        ("click", "clicked"),
        ("bot-open", "opened"),
        ("bounce", "bounced"),
        ("complain", "complained"),
        ("suppressed", "suppressed"),
    ] {
        ask(&["log", "--status", last, "--to", recipient], &format!("{recipient}@example.net"));
    }
    let figures = ask(&["stats"], "total");
    let lines: Vec<serde_json::Value> =
        figures.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [day, total] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((&day["by"], &total["by"]), (&"day".into(), &"total".into()));
    for (figure, count) in [
        ("recipients", 6),
        ("delivered", 4),
        ("bounced", 1),
        ("suppressed", 1),
        ("opened", 1),
        ("clicked", 1),
        ("complained", 1),
        ("by_machine", 1),
    ] {
        assert_eq!(total[figure], count, "{figure}");
        assert_eq!(day[figure], count, "{figure}");
    }
    assert_eq!((&total["delivery_rate"], &total["open_rate"]), (&0.8.into(), &0.25.into()));
    let upstreams = ask(&["stats", "--by", "upstream"], "\"group\":\"mailgun\"");
    let domains = ask(&["stats", "--by", "domain"], "\"group\":\"example.com\"");
    daemon.terminate();
    assert_eq!(ask(&["stats", "--by", "upstream"], ""), upstreams);
    assert_eq!(ask(&["stats", "--by", "domain"], ""), domains);
    let never = [&config[..], &["stats", "--until", "2 days ago"]].concat();
    let none = run_mailtrail(folder.path(), &never);
    assert_eq!(none.status.code(), Some(1), "{}", to_text(&none.stderr));
}

#[test]
fn lists_and_replays_sinks() {
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path());
    let path = folder.path().join("mailtrail.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text + "[[sink]]\nkind = \"file\"\npath = \"events.jsonl\"\n").unwrap();
    let (daemon, port) = start_daemon(folder.path());
    let config = ["--config", "mailtrail.toml", "--json", "sink"];
    let ask = |question: &[&str], wanted: &str| {
        run_until_output_contains(folder.path(), &[&config[..], question].concat(), wanted)
    };
    ask(&["list"], "\"is_up_to_date\":true");
    let id = submit_message(port, "ada@example.net");
    let notified = |times: usize| {
        let written = std::fs::read_to_string(folder.path().join("events.jsonl")).unwrap_or_default();
        let accepted =
            written.lines().filter(|line| line.contains(&id) && line.contains("\"source\":\"client\""));
        accepted.count() == times
    };
    let started = Instant::now();
    while !notified(1) {
        assert!(started.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(50));
    }
    let say = |words: &[&str]| run_mailtrail(folder.path(), &[&config[..], words].concat()).status.code();
    assert_eq!(say(&["replay", "file", "--since", "1 hour ago"]), Some(0));
    while !notified(2) {
        assert!(started.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(say(&["dead", "file"]), Some(1));
    assert_eq!(say(&["replay", "other", "--since", "1 hour ago"]), Some(2));
    daemon.terminate();
    assert_eq!(say(&["list"]), Some(3));
}
